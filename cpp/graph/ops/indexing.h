// Tensors of indices: read as i64, and checked before they are used.
//
// They may lie in memory of the caller's that another thread changes meanwhile. So what was checked proves nothing
// about what is read next: each use reads an index once, and brings it into its range again.
#pragma once

#include <string>

#include "base/read_once.h"
#include "graph/ops/common.h"

namespace lowbit::graph {

inline void require_indices(Op::Types inputs, size_t input) {
  const DType dtype = inputs[input].dtype;
  require(dtype == DType::i64 || dtype == DType::i32,
          "input " + std::to_string(input) + " must be i64 or i32, is " + std::string(name_of(dtype)));
}

// The index, if it is in [0, size); else 0.
inline int64_t inside(int64_t index, int64_t size) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(size) ? index : 0;
}

inline int64_t index_at(const Tensor& indices, int64_t i) {
  return indices.dtype == DType::i64 ? read_once(indices.as<const int64_t>() + i)
                                     : read_once(indices.as<const int32_t>() + i);
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
  uint64_t outside = 0;  // the sign of a difference, wrapping or not: this is what vectors can do
  for (int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<uint64_t>(static_cast<int64_t>(values[i]));
    outside |= (value - static_cast<uint64_t>(low)) | (static_cast<uint64_t>(size - 1) - value);
  }
  if (static_cast<int64_t>(outside) >= 0) return;
  for (int64_t i = 0; i < count; ++i)
    if (const T value = read_once(values + i); value < low || value >= size) fail_index(value, size);
}
inline void check_indices(const Tensor& indices, int64_t low, int64_t size) {
  indices.dtype == DType::i64 ? check_range<int64_t>(indices, low, size) : check_range<int32_t>(indices, low, size);
}

}  // namespace lowbit::graph
