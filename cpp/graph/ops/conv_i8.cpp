// The integer convolutions.
#include "graph/ops/conv_kernels.h"
#include "graph/ops/integer.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_i8/gemm_i8.h"

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
  static constexpr auto& dwconv = kernels::select_dwconv_i8;
};

class ConvI8 final : public ConvKernels<IntegerKernels, ConvI8> {
 public:
  explicit ConvI8(const NodeInfo& node)
      : ConvKernels(node, DType::u8, DType::s8, graph::kBias + 1, graph::kIntegerInputs, Borders::in_depthwise_kernel),
        epilogue_(node, filters_,
                  static_cast<double>(checked_sum(node, node.constant(graph::kWeight, DType::s8, -1)))) {
    pack(node, node.constant(graph::kWeight, DType::s8, -1));
  }

  bool reads(size_t input) const override {
    return input == graph::kX || input == kResidual || input == kScale || input == kZeroPoint;
  }
  bool reads_slack(size_t input) const override { return input == graph::kX && !padded_ && !reads_whole_quads(); }
  size_t bytes() const override { return packed_bytes() + epilogue_.bytes(); }

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
    if constexpr (std::is_same_v<Args, kernels::DwconvI8Args>) {
      kernel.height = plane.height, kernel.width = plane.width;
      kernel.top = plane.top, kernel.left = plane.left;
      kernel.border = plane.border, kernel.border_stride_n = plane.border_stride;
    }
    kernel.y = rows<void>(args.outputs[0], plane, channel);
  }

 protected:
  DType check(Types inputs, const Shape& output) const override {
    epilogue_.check(inputs, output, output[0]);
    return epilogue_.output();
  }

  int fill(const RunArgs& args, int64_t sample) const override {
    return epilogue_.is_dynamic() ? args.inputs[kZeroPoint].as<const uint8_t>()[sample] : epilogue_.x_zero_point();
  }

 private:
  // Whether the matrix kernels, which read fours, end where each run does.
  bool reads_whole_quads() const {
    return !is_depthwise() &&
           std::all_of(phases_.begin(), phases_.end(), [&](const Phase& phase) { return run_length(phase) % 4 == 0; });
  }

  IntegerEpilogue epilogue_;
};

}  // namespace

std::unique_ptr<Op> make_conv_i8(const NodeInfo& node) { return std::make_unique<ConvI8>(node); }

}  // namespace lowbit::graph
