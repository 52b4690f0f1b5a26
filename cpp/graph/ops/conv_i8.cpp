// The convolutions on codes with eight-bit weights.
#include "graph/ops/conv_integer.h"
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

class ConvI8 final : public IntegerConv<ConvKernels<IntegerKernels, ConvI8>> {
 public:
  explicit ConvI8(const NodeInfo& node) : ConvI8(node, weight(node)) {}

  bool reads_slack(size_t input) const override { return input == graph::kX && !padded_ && !reads_whole_quads(); }
  size_t bytes() const override { return packed_bytes() + epilogue_bytes(); }

 private:
  ConvI8(const NodeInfo& node, const Constant& weight)
      : IntegerConv(node, weight.type.shape, static_cast<double>(checked_sum(node, weight)),
                    Borders::in_depthwise_kernel) {
    pack(node, weight);
  }

  static const Constant& weight(const NodeInfo& node) {
    node.expect_inputs(graph::kBias + 1, graph::kIntegerInputs);
    return node.constant(graph::kWeight, DType::s8, 2 + axes(node));
  }

  // Whether the matrix kernels, which read fours, end where each run does.
  bool reads_whole_quads() const {
    return !is_depthwise() &&
           std::all_of(phases_.begin(), phases_.end(), [&](const Phase& phase) { return run_length(phase) % 4 == 0; });
  }
};

}  // namespace

std::unique_ptr<Op> make_conv_i8(const NodeInfo& node) { return std::make_unique<ConvI8>(node); }

}  // namespace lowbit::graph
