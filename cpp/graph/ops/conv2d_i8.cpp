// conv2d_i8: the integer convolution, as a matrix product over taps (one a group), or depthwise.
#include "graph/ops/conv.h"
#include "graph/ops/integer.h"
#include "graph/ops/ops.h"
#include "kernels/dwconv_i8/dwconv_i8.h"
#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::graph {
namespace {

class Conv2dI8 final : public ConvOp {
 public:
  explicit Conv2dI8(const NodeInfo& node)
      : ConvOp(node, DType::u8, DType::s8, graph::kBias + 1, graph::kIntegerInputs), epilogue_(node, filters_) {
    const Constant& weight = node.constant(graph::kWeight, DType::s8, 4);
    check_weight(node, weight);
    is_depthwise() ? pack_depthwise(node, weight) : pack(node, weight);
  }

  bool reads(size_t input) const override {
    return input == graph::kX || input == kResidual || input == kScale || input == kZeroPoint;
  }
  bool reads_slack(size_t input) const override { return input == graph::kX && !padded_; }
  std::string kernel() const override { return is_depthwise() ? depthwise_.kernel->name : weights_[0].kernel->name; }
  size_t bytes() const override {
    size_t bytes = epilogue_.bytes() + depthwise_.packed.bytes() + depthwise_.column_sums.bytes();
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

  void convolve(const RunArgs& args, const Image& image) const override {
    if (is_depthwise()) {
      kernels::DwconvI8Args dwconv;
      dwconv.weights = &depthwise_;
      dwconv.x = {static_cast<const uint8_t*>(image.data), image.stride_n, image.stride_h, image.stride_w};
      set(dwconv, args, image, 0);
      return run_kernel(*depthwise_.kernel, dwconv, args.threads);
    }
    place_taps(image);
    for (int64_t group = 0; group < groups_; ++group) {
      kernels::GemmI8Args gemm;
      gemm.weights = &weights_[static_cast<size_t>(group)];
      gemm.taps = image.taps;
      gemm.x = {static_cast<const uint8_t*>(image.data) + group * depth_, image.stride_n,
                image.stride_h * window_.stride[0], image.stride_w * window_.stride[1]};
      set(gemm, args, image, group * (filters_ / groups_));
      run_kernel(*gemm.weights->kernel, gemm, args.threads);
    }
  }

 private:
  void pack(const NodeInfo& node, const Constant& weight) {
    const int64_t n = filters_ / groups_;
    const kernels::GemmI8Kernel& kernel =
        kernels::select_gemm_i8(node.isa, n, taps(), run_length(), typical_rows(node));
    for (int64_t group = 0; group < groups_; ++group) {
      const Buffer ordered = ordered_weight<int8_t>(weight, group);
      kernel.pack(kernel, ordered.as<int8_t>(), n, taps(), run_length(), weights_.emplace_back());
    }
  }

  void pack_depthwise(const NodeInfo& node, const Constant& weight) {
    const kernels::DwconvShape shape{filters_,          window_.kernel[0],   window_.kernel[1],  window_.stride[0],
                                     window_.stride[1], window_.dilation[0], window_.dilation[1]};
    const kernels::DwconvI8Kernel& kernel = kernels::select_dwconv_i8(node.isa, shape);
    kernel.pack(kernel, weight.buffer->as<int8_t>(), shape, depthwise_);
  }

  // What both kernels want alike.
  template <class Args>
  void set(Args& kernel, const RunArgs& args, const Image& image, int64_t channel) const {
    kernel.grid = grid(args, image);
    kernel.x_zero_point = epilogue_.x_zero_point();
    kernel.epilogue = epilogue_.at(channel);
    if (epilogue_.is_dynamic()) {
      kernel.x_zero_points = args.inputs[kZeroPoint].as<const uint8_t>() + image.first;
      kernel.epilogue.row_scale = args.inputs[kScale].as<const float>() + image.first;
    }
    if (args.inputs.size() > kResidual && args.inputs[kResidual].data != nullptr)
      kernel.epilogue.residual = rows<const uint8_t>(args.inputs[kResidual], image, channel);
    kernel.y = rows<void>(args.outputs[0], image, channel);
  }

  IntegerEpilogue epilogue_;
  std::vector<kernels::GemmI8Weights> weights_;  // one a group
  kernels::DwconvI8Weights depthwise_;
};

}  // namespace

std::unique_ptr<Op> make_conv2d_i8(const NodeInfo& node) { return std::make_unique<Conv2dI8>(node); }

}  // namespace lowbit::graph
