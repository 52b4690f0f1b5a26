// Element types, shapes and tensor views: the words every other header speaks in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

namespace lowbit {

enum class DType : uint8_t { f32, f16, bf16, i64, i32, boolean, u8, s8 };

constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    default:
      return 1;
  }
}

constexpr int kMaxRank = 8;

// A fixed-capacity list of sizes, so that planning and running never allocate for a shape.
class Shape {
 public:
  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<int64_t> dims) {
    for (int64_t dim : dims) push_back(dim);
  }
  constexpr int rank() const { return rank_; }
  constexpr int64_t& operator[](int axis) { return dims_[axis]; }
  constexpr int64_t operator[](int axis) const { return dims_[axis]; }
  constexpr void push_back(int64_t dim) { dims_[rank_++] = dim; }  // caller keeps rank <= kMaxRank
  constexpr const int64_t* begin() const { return dims_.data(); }
  constexpr const int64_t* end() const { return dims_.data() + rank_; }
  constexpr int64_t elements() const {
    int64_t product = 1;
    for (int64_t dim : *this) product *= dim;
    return product;
  }
  friend constexpr bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int axis = 0; axis < a.rank_; ++axis)
      if (a[axis] != b[axis]) return false;
    return true;
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

struct TensorType {
  DType dtype = DType::f32;
  Shape shape;
  friend constexpr bool operator==(const TensorType&, const TensorType&) = default;
};

constexpr int64_t bytes_of(const TensorType& type) { return type.shape.elements() * size_of(type.dtype); }

// A view. `shape` is logical (torch's order: NCHW); `strides`, in elements, say how it lies in memory:
// channels-last is only another set of strides.
struct Tensor : TensorType {
  Shape strides;
  void* data = nullptr;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace lowbit
