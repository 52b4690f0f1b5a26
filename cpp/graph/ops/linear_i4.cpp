// quantized_linear with weights in groups: codes [..., K] times codes [N, K] of four bits, or of eight as twice four.
#include "graph/ops/few_bits.h"
#include "graph/ops/linear_kernels.h"
#include "graph/ops/quantized.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::graph {
namespace {

class LinearI4 final : public LinearKernels<kernels::GemmI4Weights, kernels::GemmI4Args> {
 public:
  explicit LinearI4(const NodeInfo& node) : LinearI4(node, FewBitSource(node, layer_weight(node, 2))) {}

 private:
  LinearI4(const NodeInfo& node, const FewBitSource& weight)
      : LinearKernels({node, weight.source.n, kAnySum}, layer_weight(node, 2).depth(), weight.bytes) {
    const kernels::GemmI4Kernel& kernel = weight.kernel(node);
    weights_ = node.shared<kernels::GemmI4Weights>(
        kWeight, {key_of(&kernel)}, [&](kernels::GemmI4Weights& packed) { kernel.pack(weight.source, packed); });
    taps_ = weight.taps;
  }
};

}  // namespace

std::unique_ptr<Op> make_linear_i4(const NodeInfo& node) { return std::make_unique<LinearI4>(node); }

}  // namespace lowbit::graph
