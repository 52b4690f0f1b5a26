#include "base/buffer.h"

#include <cstdint>
#include <cstring>
#include <new>

#include "base/account.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lowbit {
namespace {

// Where a buffer has pages of this size in it, asks for them: weights that are streamed meet fewer page faults and miss
// fewer translations. No promise, and not the buffer's ends, which share their pages with others.
void ask_for_large_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kLarge = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kLarge - 1) / kLarge * kLarge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kLarge * kLarge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// About what a buffer takes of the heap.
size_t booked(size_t bytes) { return bytes + Buffer::kSlack + Buffer::kAlignment; }

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes > SIZE_MAX - kSlack) throw std::bad_alloc();
  MemoryAccount::take(booked(bytes));
  try {
    const LargePages::Piece piece = LargePages::take(bytes + kSlack);
    data_ = piece.data, stretch_ = piece.stretch;
    if (data_ != nullptr) return;
    data_ = ::operator new(bytes + kSlack, std::align_val_t{kAlignment});
  } catch (...) {
    MemoryAccount::give(booked(bytes));
    throw;
  }
  ask_for_large_pages(data_, bytes);
  std::memset(data_, 0, bytes + kSlack);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  MemoryAccount::give(booked(bytes_));
  stretch_ != nullptr ? LargePages::give(stretch_) : ::operator delete(data_, std::align_val_t{kAlignment});
}

}  // namespace lowbit
