#include "base/account.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"

namespace lowbit {
namespace {

thread_local MemoryAccount* current = nullptr;

}  // namespace

MemoryAccount::MemoryAccount(size_t held, size_t limit) : held_(held), limit_(limit), before_(current) {
  current = this;
}

MemoryAccount::~MemoryAccount() { current = before_; }

void MemoryAccount::take(size_t bytes) {
  if (current == nullptr) return;
  if (bytes > current->limit_ || current->held_ > current->limit_ - bytes)
    throw Error(ErrorKind::limit, "its weights, as this CPU reads them, take " + in_mebibytes(bytes) + " beside the " +
                                      in_mebibytes(current->held_) + " that the session holds already; it may hold " +
                                      in_mebibytes(current->limit_) +
                                      ". If you trust the model, allow more: limits=lowbit.Limits(memory=...)");
  current->held_ += bytes;
  if (current->is_tight_ || current->held_ < current->limit_ - current->limit_ / 4) return;
  current->is_tight_ = true;
  return_free_memory();  // of what was there before
}

void MemoryAccount::give(size_t bytes) noexcept {
  if (current != nullptr) current->held_ -= std::min(bytes, current->held_);
}

}  // namespace lowbit
