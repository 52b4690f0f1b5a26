// The convolutions on codes with eight-bit weights.
#include "graph/ops/conv_integer.h"
#include "graph/ops/quantized.h"
#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/spmm_i8/spmm_i8.h"
#include "kernels/winograd_i8/winograd_i8.h"

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

  bool reads_slack(size_t input) const override {
    return input == graph::kX && !padded_ && (is_winograd() || !reads_whole_quads());
  }
  std::string kernel() const override {
    return is_winograd() ? winograd_.kernel->name : is_sparse() ? sparse_[0].kernel->name : ConvKernels::kernel();
  }
  size_t bytes() const override {
    size_t bytes = packed_bytes() + winograd_.bytes() + epilogue_bytes();
    for (const kernels::SpmmI8Weights& weights : sparse_) bytes += weights.bytes();
    return bytes;
  }

 protected:
  void convolve(const RunArgs& args, const Plane& plane) const override {
    if (is_winograd()) return convolve<kernels::WinogradI8Args>(winograd_, args, plane);
    if (is_sparse()) return convolve<kernels::SpmmI8Args>(sparse_[plane.phase], args, plane);
    ConvKernels::convolve(args, plane);
  }

  size_t task_scratch() const override {
    if (is_winograd()) return kernels::winograd_i8_scratch(winograd_);
    size_t most = 0;
    for (const kernels::SpmmI8Weights& weights : sparse_) most = std::max(most, kernels::spmm_i8_scratch(weights));
    return most;
  }

 private:
  ConvI8(const NodeInfo& node, const Weight& weight)
      : IntegerConv(node, weight.shape, static_cast<double>(checked_sum(node, weight)), Borders::in_depthwise_kernel) {
    const auto* codes = weight.codes.as<int8_t>();
    const kernels::WinogradI8Kernel* winograd = select_winograd(node, codes);
    if (pack_sparse(node, codes, weight.shape.elements(), winograd)) return;
    winograd != nullptr ? pack_winograd(*winograd, codes) : pack(node, codes);
  }

  bool is_sparse() const { return !sparse_.empty(); }
  bool is_winograd() const { return winograd_.kernel != nullptr; }

  template <class Args, class Weights>
  void convolve(const Weights& weights, const RunArgs& args, const Plane& plane) const {
    Args product{};
    product.weights = &weights;
    product.taps = plane.taps;
    product.x = image_rows<uint8_t>(plane, 0);
    product.scratch = args.scratch;
    set(product, args, plane, 0);
    run_kernel(*weights.kernel, product, args.threads);
  }

  // What the best matrix kernel takes of a phase, by estimate.
  double product_cost(const NodeInfo& node, const Phase& phase) const {
    const int64_t tap_count = taps(phase), run = run_length(phase), rows = typical_rows(node);
    const auto& dense = kernels::select_gemm_i8(node.isa, filters_, tap_count, run, rows);
    return kernels::gemm_i8_cost(dense, filters_, tap_count, run, rows);
  }

  // Without the blocks of zeros, if that is faster for all phases.
  bool pack_sparse(const NodeInfo& node, const int8_t* codes, int64_t count,
                   const kernels::WinogradI8Kernel* winograd) {
    if (groups_ > 1 || !kernels::may_be_sparse(codes, count)) return false;
    for (const Phase& phase : phases_) {
      const int64_t tap_count = taps(phase), run = run_length(phase);
      const Buffer ordered = ordered_weight(codes, phase, 0, filters_);
      const double dense_cost = winograd == nullptr
                                    ? product_cost(node, phase)
                                    : kernels::winograd_i8_cost(*winograd, filters_, depth_, typical_grid(node));
      const kernels::SpmmI8Kernel* kernel = kernels::select_spmm_i8(node.isa, ordered.as<int8_t>(), filters_, tap_count,
                                                                    run, typical_rows(node), dense_cost);
      if (kernel == nullptr) return sparse_.clear(), false;
      kernel->pack(ordered.as<int8_t>(), filters_, tap_count, run, sparse_.emplace_back());
    }
    return true;
  }

  // For windows of 3x3 pixels, one pixel apart, if that is faster than products; or null.
  const kernels::WinogradI8Kernel* select_winograd(const NodeInfo& node, const int8_t* codes) const {
    constexpr Sizes kAdjacent{1, 1, 1};
    const Phase& phase = phases_[0];
    const bool fits = groups_ == 1 && phases_.size() == 1 && x_step_ == kAdjacent && tap_step_ == kAdjacent &&
                      phase.count(kDepth) == 1 && phase.count(kHeight) == 3 && phase.count(kWidth) == 3;
    if (!fits) return nullptr;
    const Buffer ordered = ordered_weight(codes, phase, 0, filters_);
    return kernels::select_winograd_i8(node.isa, ordered.as<int8_t>(), filters_, depth_, typical_grid(node),
                                       product_cost(node, phase));
  }

  void pack_winograd(const kernels::WinogradI8Kernel& kernel, const int8_t* codes) {
    const Buffer ordered = ordered_weight(codes, phases_[0], 0, filters_);
    kernel.pack(ordered.as<int8_t>(), filters_, 3, 3 * depth_, winograd_);
  }

  // Whether the matrix kernels, which read fours, end where each run does.
  bool reads_whole_quads() const {
    return !is_depthwise() &&
           std::all_of(phases_.begin(), phases_.end(), [&](const Phase& phase) { return run_length(phase) % 4 == 0; });
  }

  std::vector<kernels::SpmmI8Weights> sparse_;  // one a phase, or none
  kernels::WinogradI8Weights winograd_;         // without a kernel: none
};

}  // namespace

std::unique_ptr<Op> make_conv_i8(const NodeInfo& node) { return std::make_unique<ConvI8>(node); }

}  // namespace lowbit::graph
