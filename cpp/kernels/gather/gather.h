// Rows of a table of codes as floats, one after the other, or one added to others.
//
//   run:  y[i, k] = float(q[r, k] - z[r, g]) * scale[r, g]                    r = rows[i], g = k / group_size
//   add:  y[k] = fma(float(q[row, k] - z[row, g]), scale[row, g] * weight, y[k])
//
// Where groups have offsets, z is 0, run adds offset[r, g] to each number, and add goes on with
// y[k] = fma(offset[row, g], weight, y[k]).
//
// The table is as a model holds it. Every operation is rounded to float once, so that every ISA agrees. Limits:
// group_size divides k, and is a multiple of 8 / bits unless it is k. Nothing is read or written past a row.
#pragma once

#include "kernels/kernel.h"

namespace lowbit::kernels {

struct GatherTable {
  int bits;                    // of a code: 2, 4 or 8
  const uint8_t* codes;        // [n][row_bytes]: of 8 bits s8; fewer from a byte's lowest bits on
  const void* scales;          // [n][groups]: floats if wide, else half floats
  const uint8_t* zero_points;  // [n][groups]; null: 2^(bits - 1), or 0 with offsets; there are none of 8 bits
  int64_t n, k, group_size;
  bool wide;
  const void* offsets = nullptr;  // [n][groups], or null
  bool wide_offsets = false;
  int64_t groups = k / group_size, row_bytes = (k * bits + 7) / 8;
};

struct GatherKernel : KernelRow {
  void (*run)(const GatherTable& table, const int64_t* rows, int64_t count, float* y);
  void (*add)(const GatherTable& table, int64_t row, float weight, float* y);
};
KernelTable<GatherKernel> gather_kernels();

}  // namespace lowbit::kernels
