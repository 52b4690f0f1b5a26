// The integer convolutions, as matrix products over taps (one a group), or depthwise.
#include "graph/ops/conv.h"
#include "graph/ops/integer.h"
#include "graph/ops/ops.h"
#include "kernels/dwconv_i8/dwconv_i8.h"
#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::graph {
namespace {

class ConvI8 final : public ConvOp {
 public:
  explicit ConvI8(const NodeInfo& node)
      : ConvOp(node, DType::u8, DType::s8, graph::kBias + 1, graph::kIntegerInputs, Borders::in_depthwise_kernel),
        epilogue_(node, node.constant(graph::kWeight, DType::s8, -1)) {
    const Constant& weight = node.constant(graph::kWeight, DType::s8, -1);
    for (const Phase& phase : phases_) is_depthwise() ? pack_depthwise(node, weight, phase) : pack(node, weight, phase);
  }

  bool reads(size_t input) const override {
    return input == graph::kX || input == kResidual || input == kScale || input == kZeroPoint;
  }
  bool reads_slack(size_t input) const override { return input == graph::kX && !padded_; }
  std::string kernel() const override { return is_depthwise() ? depthwise_[0].kernel->name : weights_[0].kernel->name; }
  size_t bytes() const override {
    size_t bytes = epilogue_.bytes();
    for (const kernels::DwconvI8Weights& weights : depthwise_)
      bytes += weights.packed.bytes() + weights.column_sums.bytes();
    for (const kernels::GemmI8Weights& weights : weights_)
      bytes += weights.panels.bytes() + weights.column_sums.bytes();
    return bytes;
  }

 protected:
  DType check(Types inputs, const Shape& output) const override {
    epilogue_.check(inputs, output, output[0]);
    return epilogue_.output();
  }

  int fill(const RunArgs& args, int64_t sample) const override {
    return epilogue_.is_dynamic() ? args.inputs[kZeroPoint].as<const uint8_t>()[sample] : epilogue_.x_zero_point();
  }

  void convolve(const RunArgs& args, const Plane& plane) const override {
    if (is_depthwise()) {
      kernels::DwconvI8Args dwconv;
      dwconv.weights = &depthwise_[plane.phase];
      dwconv.x = {static_cast<const uint8_t*>(plane.x), plane.stride_n, plane.stride_h, plane.stride_w};
      dwconv.height = plane.height, dwconv.width = plane.width;
      dwconv.top = plane.top, dwconv.left = plane.left;
      dwconv.border = plane.border;
      dwconv.border_stride_n = plane.border_stride;
      set(dwconv, args, plane, 0);
      return run_kernel(*dwconv.weights->kernel, dwconv, args.threads);
    }
    for (int64_t group = 0; group < groups_; ++group) {
      kernels::GemmI8Args gemm;
      gemm.weights = &weights_[plane.phase * static_cast<size_t>(groups_) + static_cast<size_t>(group)];
      gemm.taps = plane.taps;
      gemm.x = image_rows<uint8_t>(plane, group * depth_);
      set(gemm, args, plane, group * (filters_ / groups_));
      run_kernel(*gemm.weights->kernel, gemm, args.threads);
    }
  }

 private:
  void pack(const NodeInfo& node, const Constant& weight, const Phase& phase) {
    const int64_t n = filters_ / groups_, tap_count = taps(phase), run = run_length(phase);
    const kernels::GemmI8Kernel& kernel = kernels::select_gemm_i8(node.isa, n, tap_count, run, typical_rows(node));
    for (int64_t group = 0; group < groups_; ++group) {
      const Buffer ordered = ordered_weight<int8_t>(weight, phase, group * n, n);
      kernel.pack(kernel, ordered.as<int8_t>(), n, tap_count, run, weights_.emplace_back());
    }
  }

  void pack_depthwise(const NodeInfo& node, const Constant& weight, const Phase& phase) {
    const kernels::DwconvShape shape{filters_,        phase.count(kHeight), phase.count(kWidth), x_step_[kHeight],
                                     x_step_[kWidth], tap_step_[kHeight],   tap_step_[kWidth]};
    const kernels::DwconvI8Kernel& kernel = kernels::select_dwconv_i8(node.isa, shape);
    const Buffer ordered = ordered_weight<int8_t>(weight, phase, 0, filters_);
    kernel.pack(kernel, ordered.as<int8_t>(), shape, depthwise_.emplace_back());
  }

  // What both kernels want alike.
  template <class Args>
  void set(Args& kernel, const RunArgs& args, const Plane& plane, int64_t channel) const {
    kernel.grid = plane.grid;
    kernel.x_zero_point = epilogue_.x_zero_point();
    kernel.epilogue = epilogue_.at(channel);
    if (epilogue_.is_dynamic()) {
      kernel.x_zero_points = args.inputs[kZeroPoint].as<const uint8_t>() + plane.first;
      kernel.epilogue.row_scale = args.inputs[kScale].as<const float>() + plane.first;
    }
    if (args.inputs.size() > kResidual && args.inputs[kResidual].data != nullptr)
      kernel.epilogue.residual = rows<const uint8_t>(args.inputs[kResidual], plane, channel);
    kernel.y = rows<void>(args.outputs[0], plane, channel);
  }

  IntegerEpilogue epilogue_;
  std::vector<kernels::GemmI8Weights> weights_;      // phase by phase, one a group
  std::vector<kernels::DwconvI8Weights> depthwise_;  // one a phase
};

}  // namespace

std::unique_ptr<Op> make_conv_i8(const NodeInfo& node) { return std::make_unique<ConvI8>(node); }

}  // namespace lowbit::graph
