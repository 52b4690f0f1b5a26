// Tensors of indices: read as i64, and checked before they are used.
#pragma once

#include <string>

#include "graph/ops/common.h"

namespace lowbit::graph {

inline void require_indices(Op::Types inputs, size_t input) {
  const DType dtype = inputs[input].dtype;
  require(dtype == DType::i64 || dtype == DType::i32,
          "input " + std::to_string(input) + " must be i64 or i32, is " + std::string(name_of(dtype)));
}

inline int64_t index_at(const Tensor& indices, int64_t i) {
  return indices.dtype == DType::i64 ? indices.as<const int64_t>()[i] : indices.as<const int32_t>()[i];
}

[[noreturn]] inline void fail_index(int64_t index, int64_t size) {
  throw Error(ErrorKind::input,
              "index " + std::to_string(index) + " is out of range for an axis of size " + std::to_string(size));
}

// Throws unless all are in [low, size).
template <class T>
void check_range(const Tensor& indices, int64_t low, int64_t size) {
  const T* values = indices.as<const T>();
  const int64_t count = indices.shape.elements();
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) inside &= values[i] >= low && values[i] < size;
  if (inside) return;
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < low || values[i] >= size) fail_index(values[i], size);
}
inline void check_indices(const Tensor& indices, int64_t low, int64_t size) {
  indices.dtype == DType::i64 ? check_range<int64_t>(indices, low, size) : check_range<int32_t>(indices, low, size);
}

}  // namespace lowbit::graph
