// A row of a table of four-bit codes as floats.
//
//   y[k] = float(q[row, k] - z[row, g]) * scale[row, g]        g = k / group_size; exact, so that every ISA agrees
//
// The table is as a model holds it (gemm_i4.h). Limits: group_size divides k, and is even unless it is k. Nothing is
// read or written past a row.
#pragma once

#include <span>

#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::kernels {

struct GatherI4Kernel {
  const char* name;
  Isa isa;
  void (*run)(const GemmI4Source& table, int64_t row, float* y);
};

std::span<const GatherI4Kernel> gather_i4_kernels();  // the table, best first
const GatherI4Kernel& select_gather_i4(Isa cap);

}  // namespace lowbit::kernels
