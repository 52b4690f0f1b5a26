// The float convolutions.
#include "graph/ops/conv_kernels.h"
#include "graph/ops/ops.h"
#include "kernels/dwconv_f32/dwconv_f32.h"
#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::graph {
namespace {

struct FloatKernels {
  using X = float;
  using W = float;
  using Gemm = kernels::GemmF32Args;
  using GemmWeights = kernels::GemmF32Weights;
  using Dwconv = kernels::DwconvF32Args;
  using DwconvWeights = kernels::DwconvF32Weights;
  static constexpr auto& gemm = kernels::select_gemm_f32;
  static constexpr auto& dwconv = kernels::dwconv_f32_kernels;
};

class Conv final : public ConvKernels<FloatKernels, Conv> {
 public:
  enum Input : size_t { kX, kWeight, kBias, kResidual, kInputs };

  explicit Conv(const NodeInfo& node)
      : ConvKernels(node, DType::f32, weight(node).type.shape, Borders::in_depthwise_kernel),
        bounds_(bounds_of(node, "activation_min", "activation_max")),
        residual_(node.has(kResidual)) {
    if (node.has(kBias)) {
      const Constant& bias = node.constant(kBias, DType::f32, 1);
      if (bias.type.shape[0] != filters_)
        node.fail("the bias must have " + std::to_string(filters_) + " values, has " + to_string(bias.type.shape));
      bias_ = bias.buffer;
    }
    pack(node, weight(node).buffer->as<float>());
  }

  bool reads(size_t input) const override { return input == kX || input == kResidual; }

  template <class Args>
  void set(Args& kernel, const RunArgs& args, const Plane& plane, int64_t channel) const {
    kernel.grid = plane.grid;
    if constexpr (std::is_same_v<Args, kernels::DwconvF32Args>) {
      kernel.height = plane.height, kernel.width = plane.width;
      kernel.top = plane.top, kernel.left = plane.left;
      kernel.border = static_cast<const float*>(plane.border);
    }
    kernel.bias = bias_ == nullptr ? nullptr : bias_->as<float>() + channel;
    if (residual_) kernel.residual = rows<const float>(args.inputs[kResidual], plane, channel);
    kernel.min = bounds_.min;
    kernel.max = bounds_.max;
    kernel.y = rows<float>(args.outputs[0], plane, channel);
  }

  static void skip(kernels::DwconvF32Args& kernel, int64_t columns) {
    kernel.y.data += columns * kernel.y.stride_w;
    if (kernel.residual.data != nullptr) kernel.residual.data += columns * kernel.residual.stride_w;
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

 private:
  static const Constant& weight(const NodeInfo& node) {
    node.expect_inputs(kWeight + 1, kInputs);
    return node.constant(kWeight, DType::f32, 2 + axes(node));
  }

  std::shared_ptr<const Buffer> bias_;  // null: none
  Bounds bounds_;
  bool residual_;
};

}  // namespace

const OpRows kConvF32Ops = {
    {"conv2d", make<Conv>},
    {"conv3d", make<Conv>},
    {"conv_transpose2d", make<Conv>},
    {"conv_transpose3d", make<Conv>},
};

}  // namespace lowbit::graph
