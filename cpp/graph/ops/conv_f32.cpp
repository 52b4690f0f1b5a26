// The float convolutions, as matrix products over taps (one a group), or depthwise.
#include "graph/ops/conv.h"
#include "graph/ops/ops.h"
#include "kernels/dwconv_f32/dwconv_f32.h"
#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::graph {
namespace {

class Conv final : public ConvOp {
 public:
  enum Input : size_t { kX, kWeight, kBias, kResidual, kInputs };

  explicit Conv(const NodeInfo& node)
      : ConvOp(node, DType::f32, DType::f32, kWeight + 1, kInputs, Borders::copied),
        bounds_(bounds_of(node, "activation_min", "activation_max")),
        residual_(node.has(kResidual)) {
    const Constant& weight = node.constant(kWeight, DType::f32, -1);
    if (node.has(kBias)) {
      const Constant& bias = node.constant(kBias, DType::f32, 1);
      if (bias.type.shape[0] != filters_)
        node.fail("the bias must have " + std::to_string(filters_) + " values, has " + to_string(bias.type.shape));
      bias_ = copy_of<float>(bias);
    }
    for (const Phase& phase : phases_) is_depthwise() ? pack_depthwise(node, weight, phase) : pack(node, weight, phase);
  }

  bool reads(size_t input) const override { return input == kX || input == kResidual; }
  std::string kernel() const override { return is_depthwise() ? depthwise_[0].kernel->name : weights_[0].kernel->name; }
  size_t bytes() const override {
    size_t bytes = bias_.bytes();
    for (const kernels::DwconvF32Weights& weights : depthwise_) bytes += weights.packed.bytes();
    for (const kernels::GemmF32Weights& weights : weights_) bytes += weights.panels.bytes();
    return bytes;
  }

 protected:
  DType check(Types inputs, const Shape& output) const override {
    if (residual_) {
      require_type(inputs, kResidual, DType::f32);
      require_shape(inputs, kResidual, output);
    }
    return DType::f32;
  }

  int fill(const RunArgs&, int64_t) const override { return 0; }

  void convolve(const RunArgs& args, const Plane& plane) const override {
    if (is_depthwise()) {
      kernels::DwconvF32Args dwconv{};
      dwconv.weights = &depthwise_[plane.phase];
      dwconv.x = {static_cast<const float*>(plane.x), plane.stride_n, plane.stride_h, plane.stride_w};
      set(dwconv, args, plane, 0);
      return run_kernel(*dwconv.weights->kernel, dwconv, args.threads);
    }
    for (int64_t group = 0; group < groups_; ++group) {
      kernels::GemmF32Args gemm{};
      gemm.weights = &weights_[plane.phase * static_cast<size_t>(groups_) + static_cast<size_t>(group)];
      gemm.taps = plane.taps;
      gemm.x = image_rows<float>(plane, group * depth_);
      set(gemm, args, plane, group * (filters_ / groups_));
      run_kernel(*gemm.weights->kernel, gemm, args.threads);
    }
  }

 private:
  void pack(const NodeInfo& node, const Constant& weight, const Phase& phase) {
    const int64_t n = filters_ / groups_, tap_count = taps(phase), run = run_length(phase);
    const kernels::GemmF32Kernel& kernel = kernels::select_gemm_f32(node.isa, n, tap_count, run, typical_rows(node));
    for (int64_t group = 0; group < groups_; ++group) {
      const Buffer ordered = ordered_weight<float>(weight, phase, group * n, n);
      kernel.pack(kernel, ordered.as<float>(), n, tap_count, run, weights_.emplace_back());
    }
  }

  void pack_depthwise(const NodeInfo& node, const Constant& weight, const Phase& phase) {
    const kernels::DwconvShape shape{filters_,        phase.count(kHeight), phase.count(kWidth), x_step_[kHeight],
                                     x_step_[kWidth], tap_step_[kHeight],   tap_step_[kWidth]};
    const kernels::DwconvF32Kernel& kernel = kernels::select_dwconv_f32(node.isa);
    const Buffer ordered = ordered_weight<float>(weight, phase, 0, filters_);
    kernel.pack(kernel, ordered.as<float>(), shape, depthwise_.emplace_back());
  }

  template <class Args>
  void set(Args& kernel, const RunArgs& args, const Plane& plane, int64_t channel) const {
    kernel.grid = plane.grid;
    kernel.bias = bias_.bytes() == 0 ? nullptr : bias_.as<float>() + channel;
    if (residual_) kernel.residual = rows<const float>(args.inputs[kResidual], plane, channel);
    kernel.min = bounds_.min;
    kernel.max = bounds_.max;
    kernel.y = rows<float>(args.outputs[0], plane, channel);
  }

  Buffer bias_;
  Bounds bounds_;
  bool residual_;
  std::vector<kernels::GemmF32Weights> weights_;      // phase by phase, one a group
  std::vector<kernels::DwconvF32Weights> depthwise_;  // one a phase
};

}  // namespace

std::unique_ptr<Op> make_conv(const NodeInfo& node) { return std::make_unique<Conv>(node); }

}  // namespace lowbit::graph
