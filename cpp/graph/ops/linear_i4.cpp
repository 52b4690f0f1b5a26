// quantized_linear with four-bit weights in groups: codes [..., K] times codes [N, K].
#include "graph/ops/four_bit.h"
#include "graph/ops/linear_kernels.h"
#include "graph/ops/quantized.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::graph {
namespace {

class LinearI4 final : public LinearKernels<kernels::GemmI4Weights, kernels::GemmI4Args> {
 public:
  explicit LinearI4(const NodeInfo& node) : LinearI4(node, four_bit_source(node, layer_weight(node, 2))) {}

 private:
  LinearI4(const NodeInfo& node, const kernels::GemmI4Source& source)
      : LinearKernels({node, source.n, kAnySum}, source.k, bytes_of(source)) {
    const kernels::GemmI4Kernel& kernel = four_bit_kernel(node, source);
    weights_ = node.shared<kernels::GemmI4Weights>(
        kWeight, {key_of(&kernel)}, [&](kernels::GemmI4Weights& packed) { kernel.pack(source, packed); });
  }
};

}  // namespace

std::unique_ptr<Op> make_linear_i4(const NodeInfo& node) { return std::make_unique<LinearI4>(node); }

}  // namespace lowbit::graph
