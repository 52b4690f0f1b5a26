// What operators with four-bit weights in groups share.
#pragma once

#include <cmath>

#include "graph/ops/integer.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::graph {

constexpr double kAnySum = HUGE_VAL;  // for IntegerEpilogue: sums are floats, no bound is needed

// A weight as its kernels take it, in its own memory.
kernels::GemmI4Source four_bit_source(const NodeInfo& node, const Weight& weight);
// The kernel for it.
const kernels::GemmI4Kernel& four_bit_kernel(const NodeInfo& node, const kernels::GemmI4Source& source);
// As a model holds it.
double bytes_of(const kernels::GemmI4Source& source);

}  // namespace lowbit::graph
