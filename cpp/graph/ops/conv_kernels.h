// How a convolution runs on the kernels of one family: as matrix products over taps (one a group), or depthwise.
#pragma once

#include <vector>

#include "graph/ops/conv.h"
#include "kernels/dwconv_i8/dwconv_i8.h"

namespace lowbit::graph {

// Family: the types X and W of elements, Gemm and Dwconv of the kernels' arguments, GemmWeights and DwconvWeights, and
// gemm(isa, ...), which selects a kernel, and dwconv(), the table. Conv, which derives from this, sets what remains of
// a kernel's arguments: set(arguments, args, plane, first channel); skip(arguments, columns) moves its operands on.
template <class Family, class Conv>
class ConvKernels : public ConvOp {
 public:
  std::string kernel() const override {
    return is_depthwise() ? packed_[0]->depthwise.kernel->name : packed_[0]->matrices[0].kernel->name;
  }

 protected:
  using ConvOp::ConvOp;
  using X = typename Family::X;
  using W = typename Family::W;

  void pack(const NodeInfo& node, const W* weight) {
    for (const Phase& phase : phases_)
      packed_.push_back(is_depthwise() ? pack_depthwise(node, weight, phase) : pack_matrices(node, weight, phase));
    pack_gaps(node);
  }

  // What writes outputs that no tap meets: a product with one number of zero.
  void pack_gaps(const NodeInfo& node) {
    if (!has_gaps_) return;
    const auto& kernel = Family::gemm(node.isa, filters_, 1, 1, 0);
    gaps_ = node.shared<Gaps>(kWeight, {key_of(&kernel)}, [&](Gaps& gaps) {
      const Buffer zeros(filters_ * sizeof(W));
      kernel.pack(zeros.as<W>(), filters_, 1, 1, gaps.matrix);
    });
  }

  void convolve(const RunArgs& args, const Plane& plane) const override {
    const auto& conv = static_cast<const Conv&>(*this);
    if (plane.phase == kNoTaps) return multiply(gaps_->matrix, args, plane, 0, 0);
    const Packed& packed = *packed_[plane.phase];
    if (is_depthwise()) {
      typename Family::Dwconv dwconv{};
      dwconv.weights = &packed.depthwise;
      dwconv.x = {static_cast<const X*>(plane.x), plane.stride_n, plane.stride_h, plane.stride_w};
      conv.set(dwconv, args, plane, 0);
      return run_depthwise(dwconv, args.threads);
    }
    for (int64_t group = 0; group < groups_; ++group)
      multiply(packed.matrices[group], args, plane, group * depth_, group * (filters_ / groups_));
  }

 private:
  using GemmWeights = typename Family::GemmWeights;

  // Of a phase.
  struct Packed {
    std::vector<GemmWeights, BookedAllocator<GemmWeights>> matrices;  // one a group, or
    typename Family::DwconvWeights depthwise;
  };
  struct Gaps {
    GemmWeights matrix;
  };

  // The columns of long rows in pieces, between which a call can be ended.
  static void run_depthwise(const typename Family::Dwconv& whole, int threads) {
    constexpr int64_t kMostWork = int64_t{1} << 28;  // of a piece of a row
    const kernels::DwconvShape& shape = whole.weights->shape;
    const int64_t each = std::max<int64_t>(kMostWork / (shape.kernel_h * shape.kernel_w * shape.channels), 1);
    if (whole.grid.w <= each) return run_kernel(*whole.weights->kernel, whole, threads);
    for (int64_t first = 0; first < whole.grid.w; first += each) {  // each looks before it runs
      typename Family::Dwconv piece = whole;
      piece.grid.w = std::min(each, whole.grid.w - first);
      piece.left -= first * shape.stride_w;
      Conv::skip(piece, first);
      run_kernel(*piece.weights->kernel, piece, threads);
    }
  }

  void multiply(const GemmWeights& weights, const RunArgs& args, const Plane& plane, int64_t channel_x,
                int64_t channel_y) const {
    typename Family::Gemm gemm{};
    gemm.weights = &weights;
    gemm.taps = plane.taps;
    gemm.x = image_rows<X>(plane, channel_x);
    static_cast<const Conv&>(*this).set(gemm, args, plane, channel_y);
    run_kernel(*weights.kernel, gemm, args.threads);
  }

  std::shared_ptr<const Packed> pack_matrices(const NodeInfo& node, const W* weight, const Phase& phase) const {
    const int64_t n = filters_ / groups_, tap_count = taps(phase), run = run_length(phase);
    const auto& kernel = Family::gemm(node.isa, n, tap_count, run, typical_rows(node));
    const auto key = key_of_taps(phase, {key_of(&kernel), groups_, tap_count});
    return node.shared<Packed>(kWeight, key, [&](Packed& packed) {
      packed.matrices.resize(groups_);
      for (int64_t group = 0; group < groups_; ++group) {
        const Buffer ordered = ordered_weight(weight, phase, group * n, n);
        kernel.pack(ordered.as<W>(), n, tap_count, run, packed.matrices[group]);
      }
    });
  }

  std::shared_ptr<const Packed> pack_depthwise(const NodeInfo& node, const W* weight, const Phase& phase) const {
    const kernels::DwconvShape shape{filters_,        phase.count(kHeight), phase.count(kWidth), x_step_[kHeight],
                                     x_step_[kWidth], tap_step_[kHeight],   tap_step_[kWidth]};
    const auto& kernel = kernels::best_of(Family::dwconv(), node.isa);
    const auto key =
        key_of_taps(phase, {key_of(&kernel), shape.stride_h, shape.stride_w, shape.dilation_h, shape.dilation_w});
    return node.shared<Packed>(kWeight, key, [&](Packed& packed) {
      const Buffer ordered = ordered_weight(weight, phase, 0, filters_);
      kernel.pack(ordered.as<W>(), shape, packed.depthwise);
    });
  }

  Booked<std::shared_ptr<const Packed>> packed_;  // of each phase
  std::shared_ptr<const Gaps> gaps_;              // null: none
};

}  // namespace lowbit::graph
