// linear_i4: codes [..., K] times four-bit codes [N, K].
#include "graph/ops/four_bit.h"
#include "graph/ops/linear_kernels.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::graph {
namespace {

class LinearI4 final : public LinearKernels<kernels::GemmI4Weights, kernels::GemmI4Args> {
 public:
  explicit LinearI4(const NodeInfo& node) : LinearI4(node, four_bit_layer(node)) {}

 private:
  LinearI4(const NodeInfo& node, const kernels::GemmI4Source& source)
      : LinearKernels({node, source.n, kAnySum}, source.k, bytes_of(source)) {
    const kernels::GemmI4Kernel& kernel = kernels::best_of(kernels::gemm_i4_kernels(), node.isa);
    kernel.pack(source, weights_);
  }
};

}  // namespace

const OpRows kLinearI4Ops = {{"linear_i4", make<LinearI4>}};

}  // namespace lowbit::graph
