#include "base/pages.h"

#include <sys/mman.h>

#include <new>

namespace lowbit {
namespace {

void* reserve(size_t bytes, void* at, int flags) {
  void* data = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return data;
}

}  // namespace

Pages::Pages(size_t bytes) : data_(bytes > 0 ? reserve(bytes, nullptr, 0) : nullptr), bytes_(bytes) {}

Pages::~Pages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void Pages::clear() {
  if (data_ != nullptr) reserve(bytes_, data_, MAP_FIXED);
}

}  // namespace lowbit
