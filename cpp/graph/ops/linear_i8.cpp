// quantized_linear with 8-bit weights: codes [..., K] times codes [N, K], dense or without the blocks of zeros.
#include "graph/ops/linear_kernels.h"
#include "graph/ops/quantized.h"
#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/spmm_i8/spmm_i8.h"

namespace lowbit::graph {
namespace {

template <class Weights, class Args>
class LinearI8 : public LinearKernels<Weights, Args> {
 public:
  template <class Kernel>
  LinearI8(const NodeInfo& node, const Weight& weight, const Kernel& kernel)
      : LinearKernels<Weights, Args>({node, weight.shape[0], static_cast<double>(checked_sum(node, weight))},
                                     weight.shape[1], static_cast<double>(weight.shape.elements())) {
    const Shape& shape = weight.shape;
    this->weights_ = node.shared<Weights>(kWeight, {key_of(&kernel)}, [&](Weights& packed) {
      kernel.pack(weight.codes.as<int8_t>(), shape[0], 1, shape[1], packed);
    });
  }
};

using DenseLinearI8 = LinearI8<kernels::GemmI8Weights, kernels::GemmI8Args>;

class SparseLinearI8 final : public LinearI8<kernels::SpmmI8Weights, kernels::SpmmI8Args> {
 public:
  using LinearI8::LinearI8;

 protected:
  size_t task_scratch() const override { return kernels::spmm_i8_scratch(*weights_); }
};

struct Choice {
  const kernels::GemmI8Kernel* dense = nullptr;
  const kernels::SpmmI8Kernel* sparse = nullptr;  // null: dense is faster
};

}  // namespace

std::unique_ptr<Op> make_linear_i8(const NodeInfo& node) {
  const Weight& weight = layer_weight(node, 2);
  const int64_t n = weight.shape[0], k = weight.shape[1], rows = typical_rows(node);
  const auto choice = node.shared<Choice>(kWeight, {rows}, [&](Choice& made) {
    made.dense = &kernels::select_gemm_i8(node.isa, n, 1, k, rows);
    made.sparse = kernels::select_spmm_i8(node.isa, weight.codes.as<int8_t>(), n, 1, k, rows,
                                          kernels::gemm_i8_cost(*made.dense, n, 1, k, rows));
  });
  if (choice->sparse != nullptr) return std::make_unique<SparseLinearI8>(node, weight, *choice->sparse);
  return std::make_unique<DenseLinearI8>(node, weight, *choice->dense);
}

}  // namespace lowbit::graph
