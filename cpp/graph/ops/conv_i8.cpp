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
    return is_winograd() ? winograd_->kernel->name : is_sparse() ? sparse_[0]->kernel->name : ConvKernels::kernel();
  }

 protected:
  void convolve(const RunArgs& args, const Plane& plane) const override {
    if (is_winograd()) return convolve<kernels::WinogradI8Args>(*winograd_, args, plane);
    if (is_sparse() && plane.phase != kNoTaps) return convolve<kernels::SpmmI8Args>(*sparse_[plane.phase], args, plane);
    ConvKernels::convolve(args, plane);
  }

  size_t task_scratch() const override {
    if (is_winograd()) return kernels::winograd_i8_scratch(*winograd_);
    size_t most = 0;
    for (const auto& weights : sparse_) most = std::max(most, kernels::spmm_i8_scratch(*weights));
    return most;
  }

 private:
  ConvI8(const NodeInfo& node, const Weight& weight)
      : IntegerConv(node, weight.shape, static_cast<double>(checked_sum(node, weight)), Borders::in_depthwise_kernel) {
    const auto* codes = weight.codes.as<int8_t>();
    const auto choice = node.shared<Choice>(graph::kWeight, key_of_choice(node), [&](Choice& made) {
      made.winograd = select_winograd(node, codes);
      made.sparse = select_sparse(node, codes, weight.shape.elements(), made.winograd);
    });
    if (!choice->sparse.empty())
      pack_sparse(node, codes, choice->sparse);
    else
      choice->winograd != nullptr ? pack_winograd(node, *choice->winograd, codes) : pack(node, codes);
  }

  // The fastest kernels for a layer's phases.
  struct Choice {
    const kernels::WinogradI8Kernel* winograd = nullptr;  // null: products are faster
    std::vector<const kernels::SpmmI8Kernel*> sparse;     // one a phase; none: dense kernels are faster
  };

  bool is_sparse() const { return !sparse_.empty(); }
  bool is_winograd() const { return winograd_ != nullptr; }

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

  // All that the choice depends on.
  std::vector<int64_t> key_of_choice(const NodeInfo& node) const {
    const kernels::Grid grid = typical_grid(node);
    std::vector<int64_t> key = {groups_, grid.n, grid.h, grid.w};
    for (const Sizes& steps : {x_step_, tap_step_}) key.insert(key.end(), steps.begin(), steps.end());
    for (const Phase& phase : phases_) key = key_of_taps(phase, std::move(key));
    return key;
  }

  // Kernels that leave out the blocks of zeros, if that is faster for all phases.
  std::vector<const kernels::SpmmI8Kernel*> select_sparse(const NodeInfo& node, const int8_t* codes, int64_t count,
                                                          const kernels::WinogradI8Kernel* winograd) const {
    if (groups_ > 1 || !kernels::may_be_sparse(codes, count)) return {};
    std::vector<const kernels::SpmmI8Kernel*> chosen;
    for (const Phase& phase : phases_) {
      const Buffer ordered = ordered_weight(codes, phase, 0, filters_);
      const double dense_cost = winograd == nullptr
                                    ? product_cost(node, phase)
                                    : kernels::winograd_i8_cost(*winograd, filters_, depth_, typical_grid(node));
      chosen.push_back(kernels::select_spmm_i8(node.isa, ordered.as<int8_t>(), filters_, taps(phase), run_length(phase),
                                               typical_rows(node), dense_cost));
      if (chosen.back() == nullptr) return {};
    }
    return chosen;
  }

  void pack_sparse(const NodeInfo& node, const int8_t* codes, std::span<const kernels::SpmmI8Kernel* const> chosen) {
    for (size_t i = 0; i < phases_.size(); ++i) {
      const int64_t tap_count = taps(phases_[i]), run = run_length(phases_[i]);
      sparse_.push_back(node.shared<kernels::SpmmI8Weights>(
          graph::kWeight, key_of_taps(phases_[i], {key_of(chosen[i]), tap_count}), [&](kernels::SpmmI8Weights& packed) {
            const Buffer ordered = ordered_weight(codes, phases_[i], 0, filters_);
            chosen[i]->pack(ordered.as<int8_t>(), filters_, tap_count, run, packed);
          }));
    }
    pack_gaps(node);
  }

  // For windows of 3x3 pixels, one pixel apart, if that is faster than products; or null.
  const kernels::WinogradI8Kernel* select_winograd(const NodeInfo& node, const int8_t* codes) const {
    constexpr Sizes kAdjacent{1, 1, 1};
    const Phase& phase = phases_[0];
    const bool fits = groups_ == 1 && phases_.size() == 1 && !has_gaps_ && x_step_ == kAdjacent &&
                      tap_step_ == kAdjacent && phase.count(kDepth) == 1 && phase.count(kHeight) == 3 &&
                      phase.count(kWidth) == 3;
    if (!fits) return nullptr;
    const Buffer ordered = ordered_weight(codes, phase, 0, filters_);
    return kernels::select_winograd_i8(node.isa, ordered.as<int8_t>(), filters_, depth_, typical_grid(node),
                                       product_cost(node, phase));
  }

  void pack_winograd(const NodeInfo& node, const kernels::WinogradI8Kernel& kernel, const int8_t* codes) {
    winograd_ = node.shared<kernels::WinogradI8Weights>(
        graph::kWeight, key_of_taps(phases_[0], {key_of(&kernel)}), [&](kernels::WinogradI8Weights& packed) {
          const Buffer ordered = ordered_weight(codes, phases_[0], 0, filters_);
          kernel.pack(ordered.as<int8_t>(), filters_, 3, 3 * depth_, packed);
        });
  }

  // Whether the matrix kernels, which read fours, end where each run does.
  bool reads_whole_quads() const {
    return !is_depthwise() &&
           std::all_of(phases_.begin(), phases_.end(), [&](const Phase& phase) { return run_length(phase) % 4 == 0; });
  }

  Booked<std::shared_ptr<const kernels::SpmmI8Weights>> sparse_;  // one a phase, or none
  std::shared_ptr<const kernels::WinogradI8Weights> winograd_;    // null: none
};

}  // namespace

std::unique_ptr<Op> make_conv_i8(const NodeInfo& node) { return std::make_unique<ConvI8>(node); }

}  // namespace lowbit::graph
