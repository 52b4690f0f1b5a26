// How a matrix kernel's driver walks the rows of a grid: folded to as few dimensions as the strides allow, then filled into
// the row pointers of one tile after another. Baseline code only; ISA files do not include it.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace lowbit::kernels {

// The rows [0, grid.rows()) in order, with up to three operands moving along.
struct RowWalk {
  static constexpr int kOperands = 3;  // x, y, residual
  struct Strides {
    int64_t n = 0, h = 0, w = 0;  // bytes
  };

  Grid grid;
  Strides strides[kOperands];
  const char* data[kOperands] = {};
  bool sample_is_row = false;  // rows are samples: the sample advances with w, not with n

  template <class T>
  void bind(int operand, const Rows<T>& rows, int64_t element_bytes) {
    data[operand] = static_cast<const char*>(static_cast<const void*>(rows.data));
    strides[operand] = {rows.stride_n * element_bytes, rows.stride_h * element_bytes, rows.stride_w * element_bytes};
  }

  // Folds w into h, and n too unless the kernel must know samples apart.
  void fold(bool samples_differ) {
    if (grid.w == 1 || folds(grid.w, &Strides::h, &Strides::w)) {
      for (Strides& s : strides) s.w = grid.w == 1 ? s.h : s.w;
      grid = {grid.n, 1, grid.h * grid.w};
    }
    if (grid.h != 1) return;
    if (grid.w == 1 || (!samples_differ && folds(grid.w, &Strides::n, &Strides::w))) {
      sample_is_row = grid.w == 1;
      for (Strides& s : strides) s.w = grid.w == 1 ? s.n : s.w;
      grid = {1, 1, grid.n * grid.w};
    }
  }

  // Calls set(operand-pointer array, sample, i) for the rows first + i, i < count.
  template <class Set>
  void each(int64_t first, int count, Set&& set) const {
    int64_t w = first, h = 0, n = 0;
    if (first >= grid.w) w = first % grid.w, h = first / grid.w % grid.h, n = first / grid.w / grid.h;
    for (int i = 0; i < count;) {
      const char* at[kOperands];
      for (int o = 0; o < kOperands; ++o) at[o] = data[o] + (n * strides[o].n + h * strides[o].h + w * strides[o].w);
      for (; i < count && w < grid.w; ++i, ++w) {
        set(at, sample_is_row ? w : n, i);
        for (int o = 0; o < kOperands; ++o) at[o] += strides[o].w;
      }
      w = 0;
      if (++h == grid.h) h = 0, ++n;
    }
  }

 private:
  bool folds(int64_t inner, int64_t Strides::*outer_stride, int64_t Strides::*inner_stride) const {
    for (const Strides& s : strides)
      if (s.*outer_stride != inner * s.*inner_stride) return false;
    return true;
  }
};

}  // namespace lowbit::kernels
