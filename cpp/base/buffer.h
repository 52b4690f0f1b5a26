// Owned, 64-byte aligned memory with readable slack behind it, because vector kernels may read a few bytes past an
// operand.
#pragma once

#include <cstddef>
#include <utility>

#include "base/large_pages.h"
#include "base/shared.h"

namespace lowbit {

class LOWBIT_SHARED Buffer {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kSlack = 64;  // readable (zeroed at allocation), never written

  Buffer() = default;
  explicit Buffer(size_t bytes);  // zeroed; throws std::bad_alloc, and Error(limit) from an account (account.h)
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        stretch_(std::exchange(other.stretch_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(stretch_, other.stretch_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  template <class T = std::byte>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  LargePages::Stretch* stretch_ = nullptr;  // that it is a piece of; null: it is memory of its own
};

}  // namespace lowbit
