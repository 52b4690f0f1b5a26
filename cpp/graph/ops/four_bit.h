// What operators with four-bit weights share: codes, two a byte, with a half-float scale, and perhaps a zero point, for
// each group of adjacent ones. What a weight has beside its codes are the inputs after all others: scales, zero points.
#pragma once

#include <cmath>

#include "graph/ops/integer.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::graph {

constexpr double kAnySum = HUGE_VAL;  // for IntegerEpilogue: sums are floats, no bound is needed

// The weight, checked: codes are input `codes`, scales input `scales`; attributes depth and group_size.
kernels::GemmI4Source four_bit_weight(const NodeInfo& node, size_t codes, size_t scales);
// That of a layer on codes, whose inputs are counted, too.
kernels::GemmI4Source four_bit_layer(const NodeInfo& node);
// As a model holds it.
double bytes_of(const kernels::GemmI4Source& source);

}  // namespace lowbit::graph
