// How a convolution runs on the kernels of one family: as matrix products over taps (one a group), or depthwise.
#pragma once

#include <vector>

#include "graph/ops/conv.h"
#include "kernels/dwconv_i8/dwconv_i8.h"

namespace lowbit::graph {

// Family: the types X and W of elements, Gemm and Dwconv of the kernels' arguments, GemmWeights and DwconvWeights, and
// gemm(isa, ...), which selects a kernel, and dwconv(), the table. Conv, which derives from this, sets what remains of
// a kernel's arguments: set(arguments, args, plane, first channel).
template <class Family, class Conv>
class ConvKernels : public ConvOp {
 public:
  std::string kernel() const override {
    return is_depthwise() ? depthwise_[0].kernel->name : matrices_[0].kernel->name;
  }

 protected:
  using ConvOp::ConvOp;
  using X = typename Family::X;
  using W = typename Family::W;

  void pack(const NodeInfo& node, const W* weight) {
    for (const Phase& phase : phases_)
      is_depthwise() ? pack_depthwise(node, weight, phase) : pack_matrices(node, weight, phase);
  }

  size_t packed_bytes() const {
    size_t bytes = 0;
    for (const auto& weights : depthwise_) bytes += weights.bytes();
    for (const auto& weights : matrices_) bytes += weights.bytes();
    return bytes;
  }

  void convolve(const RunArgs& args, const Plane& plane) const override {
    const auto& conv = static_cast<const Conv&>(*this);
    if (is_depthwise()) {
      typename Family::Dwconv dwconv{};
      dwconv.weights = &depthwise_[plane.phase];
      dwconv.x = {static_cast<const X*>(plane.x), plane.stride_n, plane.stride_h, plane.stride_w};
      conv.set(dwconv, args, plane, 0);
      return run_kernel(*dwconv.weights->kernel, dwconv, args.threads);
    }
    for (int64_t group = 0; group < groups_; ++group) {
      const auto& weights = matrices_[plane.phase * groups_ + group];
      typename Family::Gemm gemm{};
      gemm.weights = &weights;
      gemm.taps = plane.taps;
      gemm.x = image_rows<X>(plane, group * depth_);
      conv.set(gemm, args, plane, group * (filters_ / groups_));
      run_kernel(*weights.kernel, gemm, args.threads);
    }
  }

 private:
  void pack_matrices(const NodeInfo& node, const W* weight, const Phase& phase) {
    const int64_t n = filters_ / groups_, tap_count = taps(phase), run = run_length(phase);
    const auto& kernel = Family::gemm(node.isa, n, tap_count, run, typical_rows(node));
    for (int64_t group = 0; group < groups_; ++group) {
      const Buffer ordered = ordered_weight(weight, phase, group * n, n);
      kernel.pack(ordered.as<W>(), n, tap_count, run, matrices_.emplace_back());
    }
  }

  void pack_depthwise(const NodeInfo& node, const W* weight, const Phase& phase) {
    const kernels::DwconvShape shape{filters_,        phase.count(kHeight), phase.count(kWidth), x_step_[kHeight],
                                     x_step_[kWidth], tap_step_[kHeight],   tap_step_[kWidth]};
    const auto& kernel = kernels::best_of(Family::dwconv(), node.isa);
    const Buffer ordered = ordered_weight(weight, phase, 0, filters_);
    kernel.pack(ordered.as<W>(), shape, depthwise_.emplace_back());
  }

  std::vector<typename Family::GemmWeights> matrices_;     // phase by phase, one a group
  std::vector<typename Family::DwconvWeights> depthwise_;  // one a phase
};

}  // namespace lowbit::graph
