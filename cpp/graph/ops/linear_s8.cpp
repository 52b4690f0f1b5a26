// quantized_linear of x in groups along its rows, each with a scale: codes s8 [..., K] times codes [N, K] of any
// format.
#include "graph/ops/few_bits.h"
#include "graph/ops/quantized.h"
#include "kernels/gemm_s8/gemm_s8.h"

namespace lowbit::graph {
namespace {

class LinearS8 final : public Op {
 public:
  explicit LinearS8(const NodeInfo& node)
      : LinearS8(node, FewBitSource(node, layer_weight(node, 2), node.integer(kGroupSize, 8, kMaxGroupSize))) {}

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, kX, DType::s8);
    Shape shape = inputs[kX].shape;
    const int last = shape.rank() - 1;
    require(last >= 0 && shape[last] == weights_->k,
            "the input's last axis must have " + std::to_string(weights_->k) + " values");
    const int64_t rows = shape.elements() / weights_->k;
    shape[last] = weights_->n;
    epilogue_.check(inputs, shape, rows);
    require_type(inputs, kScale, DType::f32);
    require_shape(inputs, kScale, {rows, (weights_->k + weights_->run - 1) / weights_->run});
    return {{DType::f32, shape}};
  }
  bool reads(size_t input) const override { return input == kX || input == kResidual || input == kScale; }
  bool reads_slack(size_t input) const override { return input == kX; }
  std::string kernel() const override { return weights_->kernel->name; }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 2.0 * static_cast<double>(weights_->k);
    work.bytes += weight_bytes_;
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[kX], &y = args.outputs[0];
    const int64_t k = weights_->k, n = weights_->n;
    kernels::GemmS8Args product;
    product.weights = weights_.get();
    product.grid = {1, 1, x.shape.elements() / k};
    product.x = {x.as<const uint8_t>(), k, k, k};
    product.x_scales = args.inputs[kScale].as<const float>();
    product.epilogue = epilogue_.at(0);
    if (args.inputs.size() > kResidual && args.inputs[kResidual].data != nullptr)
      product.epilogue.residual = {args.inputs[kResidual].as<const uint8_t>(), n, n, n};
    product.y = {y.data, n, n, n};
    run_kernel(*weights_->kernel, product, args.threads);
  }

 private:
  LinearS8(const NodeInfo& node, const FewBitSource& weight)
      : epilogue_(node, weight.source.n, kAnySum, true), weight_bytes_(weight.bytes) {
    const kernels::GemmS8Kernel& kernel = kernels::select_gemm_s8(node.isa, weight.source.bits);
    weights_ = node.shared<kernels::GemmS8Weights>(
        kWeight, {key_of(&kernel), weight.source.run},
        [&](kernels::GemmS8Weights& packed) { kernel.pack(weight.source, packed); });
  }

  IntegerEpilogue epilogue_;
  std::shared_ptr<const kernels::GemmS8Weights> weights_;
  double weight_bytes_;  // as the model holds them
};

}  // namespace

std::unique_ptr<Op> make_linear_s8(const NodeInfo& node) { return std::make_unique<LinearS8>(node); }

}  // namespace lowbit::graph
