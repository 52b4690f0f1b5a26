// Normalization of rows: layer norm, RMS norm, and group norm, whose row is one group of one sample.
//
//   high + low = s + sum(x - s) * (1 / row)    the mean: a rounded sum, and what rounding took (RMS norm: 0)
//   m2 = sum((x - high)^2) * (1 / row) - low^2
//   scale = 1 / sqrt(m2 + eps)
//   y[i] = (((x[i] - high) - low) * scale) * weight[c] + bias[c]    the last two as one fma; absent: 1 and 0
//   y[i] = ((x[i] - high) - low) * (scale * weight[c]) + bias[c]    instead, if inner > 1, also as one fma
//
// s, the middle one of x[0], x[row / 2] and x[row - 1], is no farther from the mean than the row is wide, so an offset
// that all elements share costs no precision, and a row of equal elements gives 0.
//
// c = (r % cycle) * (row / inner) + i / inner for row r: layer norm has cycle 1 and inner 1, group norm as many rows a
// sample as groups, and `inner` pixels a channel.
//
// A sum has 4 x 16 lanes, lane (j, l) adding x[64 b + 16 j + l] for ascending b; each 4096 elements the lanes are
// joined, (0 + 1) + (2 + 3), and added to 16 totals, which sum_lanes joins at the end. So long rows keep their
// precision, and every ISA gives the same bits.
#pragma once

#include "kernels/kernel.h"

namespace lowbit::kernels {

struct NormArgs {
  int64_t rows = 0, row = 0;  // adjacent rows of adjacent floats
  int64_t inner = 1;          // elements that share a weight; divides row
  int64_t cycle = 1;          // rows after which the weights repeat
  const float* x = nullptr;
  float* y = nullptr;             // may be x
  const float* weight = nullptr;  // [cycle * row / inner], or null
  const float* bias = nullptr;    // as weight
  float eps = 0.0f;
  bool centered = true;
};

struct NormKernel : KernelRow {
  void (*row)(const NormArgs&, const float* x, float* y, const float* weight, const float* bias);
};
KernelTable<NormKernel> norm_kernels();

void normalize(const NormKernel&, const NormArgs&, int64_t task = 0, int64_t tasks = 1);

}  // namespace lowbit::kernels
