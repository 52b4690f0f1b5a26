// conv2d: the float convolution, as a matrix product over taps (one a group), or depthwise.
#include "graph/ops/conv.h"
#include "graph/ops/ops.h"
#include "kernels/dwconv_f32/dwconv_f32.h"
#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::graph {
namespace {

class Conv2d final : public ConvOp {
 public:
  enum Input : size_t { kX, kWeight, kBias, kResidual, kInputs };

  explicit Conv2d(const NodeInfo& node)
      : ConvOp(node, DType::f32, DType::f32, kWeight + 1, kInputs),
        bounds_(bounds_of(node, "activation_min", "activation_max")),
        residual_(node.has(kResidual)) {
    const Constant& weight = node.constant(kWeight, DType::f32, 4);
    if (node.has(kBias)) {
      const Constant& bias = node.constant(kBias, DType::f32, 1);
      if (bias.type.shape[0] != filters_)
        node.fail("the bias must have " + std::to_string(filters_) + " values, has " + to_string(bias.type.shape));
      bias_ = copy_of<float>(bias);
    }
    is_depthwise() ? pack_depthwise(node, weight) : pack(node, weight);
  }

  bool reads(size_t input) const override { return input == kX || input == kResidual; }
  std::string kernel() const override { return is_depthwise() ? depthwise_.kernel->name : weights_[0].kernel->name; }
  size_t bytes() const override {
    size_t bytes = bias_.bytes() + depthwise_.packed.bytes();
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

  void convolve(const RunArgs& args, const Image& image) const override {
    if (is_depthwise()) {
      kernels::DwconvF32Args dwconv{};
      dwconv.weights = &depthwise_;
      dwconv.x = {static_cast<const float*>(image.data), image.stride_n, image.stride_h, image.stride_w};
      set(dwconv, args, image, 0);
      return run_kernel(*depthwise_.kernel, dwconv, args.threads);
    }
    place_taps(image);
    for (int64_t group = 0; group < groups_; ++group) {
      kernels::GemmF32Args gemm{};
      gemm.weights = &weights_[static_cast<size_t>(group)];
      gemm.taps = image.taps;
      gemm.x = {static_cast<const float*>(image.data) + group * depth_, image.stride_n,
                image.stride_h * window_.stride[0], image.stride_w * window_.stride[1]};
      set(gemm, args, image, group * (filters_ / groups_));
      run_kernel(*gemm.weights->kernel, gemm, args.threads);
    }
  }

 private:
  void pack(const NodeInfo& node, const Constant& weight) {
    const int64_t n = filters_ / groups_;
    const kernels::GemmF32Kernel& kernel =
        kernels::select_gemm_f32(node.isa, n, taps(), run_length(), typical_rows(node));
    for (int64_t group = 0; group < groups_; ++group) {
      const Buffer ordered = ordered_weight<float>(weight, group);
      kernel.pack(kernel, ordered.as<float>(), n, taps(), run_length(), weights_.emplace_back());
    }
  }

  void pack_depthwise(const NodeInfo& node, const Constant& weight) {
    const kernels::DwconvShape shape{filters_,          window_.kernel[0],   window_.kernel[1],  window_.stride[0],
                                     window_.stride[1], window_.dilation[0], window_.dilation[1]};
    const kernels::DwconvF32Kernel& kernel = kernels::select_dwconv_f32(node.isa);
    kernel.pack(kernel, weight.buffer->as<float>(), shape, depthwise_);
  }

  template <class Args>
  void set(Args& kernel, const RunArgs& args, const Image& image, int64_t channel) const {
    kernel.grid = grid(args, image);
    kernel.bias = bias_.bytes() == 0 ? nullptr : bias_.as<float>() + channel;
    if (residual_) kernel.residual = rows<const float>(args.inputs[kResidual], image, channel);
    kernel.min = bounds_.min;
    kernel.max = bounds_.max;
    kernel.y = rows<float>(args.outputs[0], image, channel);
  }

  Buffer bias_;
  Bounds bounds_;
  bool residual_;
  std::vector<kernels::GemmF32Weights> weights_;  // one a group
  kernels::DwconvF32Weights depthwise_;
};

}  // namespace

std::unique_ptr<Op> make_conv2d(const NodeInfo& node) { return std::make_unique<Conv2d>(node); }

}  // namespace lowbit::graph
