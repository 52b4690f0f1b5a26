// A row of a table of four-bit codes as floats.
//
//   y[k] = float(q[row, k] - z[row, g]) * scale[row, g]        g = k / group_size; exact, so that every ISA agrees
//
// The table is as a model holds it (gemm_i4.h). Limits: group_size divides k, and is even unless it is k. Nothing is
// read or written past a row.
#pragma once

#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::kernels {

struct GatherI4Kernel : KernelRow {
  void (*run)(const GemmI4Source& table, int64_t row, float* y);
};
KernelTable<GatherI4Kernel> gather_i4_kernels();

}  // namespace lowbit::kernels
