// What operators with weights in groups share: of two or four bits, or of eight as two times four.
#pragma once

#include <cmath>
#include <vector>

#include "graph/ops/integer.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::graph {

constexpr double kAnySum = HUGE_VAL;  // for IntegerEpilogue: sums are floats, no bound is needed

// A weight as its kernels take it, mostly in its own memory, else in what stands here.
//
// Float scales, and offsets: zero points become offsets -zero point * scale, and all are floats. Eight bits: a code is
// 16 * high + low with high in -8 .. 7, so each group becomes two, of high and of low codes, which read the same x:
// with the scales 16 * s and s, and zero points 8 and 0; or offsets -128 * s and the group's own.
//
// Where x is in groups, too, codes of eight bits stay as they are, and may have one scale a channel.
struct FewBitSource {
  FewBitSource(const NodeInfo& node, const Weight& weight);
  FewBitSource(const NodeInfo& node, const Weight& weight, int64_t x_group);
  FewBitSource(const FewBitSource&) = delete;
  const kernels::GemmI4Kernel& kernel(const NodeInfo& node) const;

  kernels::GemmI4Source source{};
  std::vector<int64_t> taps{0};  // of a linear layer
  double bytes;                  // as a model holds it

 private:
  void set_scales(const Weight& weight);
  void set_numbers(const Weight& weight);
  void split(const Weight& weight);

  std::vector<uint8_t> codes_, zero_points_;
  std::vector<uint16_t> halves_;
  std::vector<float> scales_, offsets_;
};

}  // namespace lowbit::graph
