// linear_i8: codes [..., K] times codes [N, K].
#include "graph/ops/linear_kernels.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::graph {
namespace {

class LinearI8 final : public LinearKernels<kernels::GemmI8Weights, kernels::GemmI8Args> {
 public:
  explicit LinearI8(const NodeInfo& node)
      : LinearKernels({node, weight(node).type.shape[0], static_cast<double>(checked_sum(node, weight(node)))},
                      weight(node).type.shape[1], static_cast<double>(weight(node).type.shape.elements())) {
    const Shape& shape = weight(node).type.shape;
    const kernels::GemmI8Kernel& kernel = kernels::select_gemm_i8(node.isa, shape[0], 1, shape[1], typical_rows(node));
    kernel.pack(kernel, weight(node).buffer->as<int8_t>(), shape[0], 1, shape[1], weights_);
  }

 private:
  static const Constant& weight(const NodeInfo& node) {
    node.expect_inputs(kBias + 1, kIntegerInputs);
    node.expect_outputs(1);
    return node.constant(kWeight, DType::s8, 2);
  }
};

}  // namespace

std::unique_ptr<Op> make_linear_i8(const NodeInfo& node) { return std::make_unique<LinearI8>(node); }

}  // namespace lowbit::graph
