// The convolutions on codes with eight-bit weights.
#include "graph/ops/conv_integer.h"
#include "graph/ops/quantized.h"
#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/spmm_i8/spmm_i8.h"

namespace lowbit::graph {
namespace {

struct IntegerKernels {
  using X = uint8_t;
  using W = int8_t;
  using Gemm = kernels::GemmI8Args;
  using GemmWeights = kernels::GemmI8Weights;
  using Dwconv = kernels::DwconvI8Args;
  using DwconvWeights = kernels::DwconvI8Weights;
  static constexpr auto& gemm = kernels::select_gemm_i8;
  static constexpr auto& dwconv = kernels::dwconv_i8_kernels;
};

class ConvI8 final : public IntegerConv<ConvKernels<IntegerKernels, ConvI8>> {
 public:
  explicit ConvI8(const NodeInfo& node) : ConvI8(node, layer_weight(node, 2 + axes(node))) {}

  bool reads_slack(size_t input) const override { return input == graph::kX && !padded_ && !reads_whole_quads(); }
  std::string kernel() const override { return sparse_.empty() ? ConvKernels::kernel() : sparse_[0].kernel->name; }
  size_t bytes() const override {
    size_t bytes = packed_bytes() + epilogue_bytes();
    for (const kernels::SpmmI8Weights& weights : sparse_) bytes += weights.bytes();
    return bytes;
  }

 protected:
  void convolve(const RunArgs& args, const Plane& plane) const override {
    if (sparse_.empty()) return ConvKernels::convolve(args, plane);
    kernels::SpmmI8Args product{};
    product.weights = &sparse_[plane.phase];
    product.taps = plane.taps;
    product.x = image_rows<uint8_t>(plane, 0);
    product.scratch = args.scratch;
    set(product, args, plane, 0);
    run_kernel(*product.weights->kernel, product, args.threads);
  }

  size_t task_scratch() const override {
    size_t most = 0;
    for (const kernels::SpmmI8Weights& weights : sparse_) most = std::max(most, kernels::spmm_i8_scratch(weights));
    return most;
  }

 private:
  ConvI8(const NodeInfo& node, const Weight& weight)
      : IntegerConv(node, weight.shape, static_cast<double>(checked_sum(node, weight)), Borders::in_depthwise_kernel) {
    const auto* codes = weight.codes.as<int8_t>();
    if (!pack_sparse(node, codes, weight.shape.elements())) pack(node, codes);
  }

  // Without the blocks of zeros, if that is faster for all phases.
  bool pack_sparse(const NodeInfo& node, const int8_t* codes, int64_t count) {
    if (groups_ > 1 || !kernels::may_be_sparse(codes, count)) return false;
    for (const Phase& phase : phases_) {
      const int64_t tap_count = taps(phase), run = run_length(phase), rows = typical_rows(node);
      const Buffer ordered = ordered_weight(codes, phase, 0, filters_);
      const auto& dense = kernels::select_gemm_i8(node.isa, filters_, tap_count, run, rows);
      const kernels::SpmmI8Kernel* kernel =
          kernels::select_spmm_i8(node.isa, ordered.as<int8_t>(), filters_, tap_count, run, rows,
                                  kernels::gemm_i8_cost(dense, filters_, tap_count, run, rows));
      if (kernel == nullptr) return sparse_.clear(), false;
      kernel->pack(ordered.as<int8_t>(), filters_, tap_count, run, sparse_.emplace_back());
    }
    return true;
  }

  // Whether the matrix kernels, which read fours, end where each run does.
  bool reads_whole_quads() const {
    return !is_depthwise() &&
           std::all_of(phases_.begin(), phases_.end(), [&](const Phase& phase) { return run_length(phase) % 4 == 0; });
  }

  std::vector<kernels::SpmmI8Weights> sparse_;  // one a phase, or none
};

}  // namespace

std::unique_ptr<Op> make_conv_i8(const NodeInfo& node) { return std::make_unique<ConvI8>(node); }

}  // namespace lowbit::graph
