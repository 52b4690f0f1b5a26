// Memory of which only what was written takes any: a reservation, in which pages of zeros come to be as they are
// touched. So what grows needs no copies, only a bound.
#pragma once

#include <cstddef>
#include <utility>

#include "base/shared.h"

namespace lowbit {

class LOWBIT_SHARED Pages {
 public:
  Pages() = default;
  explicit Pages(size_t bytes);  // throws std::bad_alloc
  Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void clear();  // zeros again, and takes nothing

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace lowbit
