// linear: float rows [..., K] times [N, K].
#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::graph {
namespace {

constexpr int64_t kTap = 0;
enum Input : size_t { kX, kWeight, kBias, kResidual, kInputs };

class Linear final : public Op {
 public:
  explicit Linear(const NodeInfo& node)
      : bounds_(bounds_of(node, "activation_min", "activation_max")), residual_(node.has(kResidual)) {
    node.expect_inputs(kWeight + 1, kInputs);
    node.expect_outputs(1);
    const Constant& weight = node.constant(kWeight, DType::f32, 2);
    const int64_t n = weight.type.shape[0], k = weight.type.shape[1];
    if (n == 0 || k == 0) node.fail("the weight is empty");
    if (node.has(kBias)) {
      const Constant& bias = node.constant(kBias, DType::f32, 1);
      if (bias.type.shape[0] != n)
        node.fail("the bias must have " + std::to_string(n) + " values, has " + to_string(bias.type.shape));
      bias_ = bias.buffer;
    }
    const kernels::GemmF32Kernel& kernel = kernels::select_gemm_f32(node.isa, n, 1, k, typical_rows(node));
    weights_ = node.shared<kernels::GemmF32Weights>(kWeight, {key_of(&kernel)}, [&](kernels::GemmF32Weights& packed) {
      kernel.pack(weight.buffer->as<float>(), n, 1, k, packed);
    });
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, kX, DType::f32);
    Shape shape = inputs[kX].shape;
    const int last = shape.rank() - 1;
    require(last >= 0 && shape[last] == weights_->run,
            "the input's last axis must have " + std::to_string(weights_->run) + " values");
    shape[last] = weights_->n;
    if (residual_) {
      require_type(inputs, kResidual, DType::f32);
      require_shape(inputs, kResidual, shape);
    }
    return {{DType::f32, shape}};
  }
  bool reads(size_t input) const override { return input == kX || input == kResidual; }
  std::string kernel() const override { return weights_->kernel->name; }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 2.0 * static_cast<double>(weights_->run);
    work.bytes += 4.0 * static_cast<double>(weights_->n * weights_->run);
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[kX], &y = args.outputs[0];
    const int64_t k = weights_->run, n = weights_->n;
    kernels::GemmF32Args gemm;
    gemm.weights = weights_.get();
    gemm.grid = {1, 1, x.shape.elements() / k};
    gemm.x = {x.as<const float>(), k, k, k};
    gemm.taps = {&kTap, 1};
    if (bias_ != nullptr) gemm.bias = bias_->as<float>();
    if (residual_) gemm.residual = {args.inputs[kResidual].as<const float>(), n, n, n};
    gemm.min = bounds_.min;
    gemm.max = bounds_.max;
    gemm.y = {y.as<float>(), n, n, n};
    run_kernel(*weights_->kernel, gemm, args.threads);
  }

 private:
  std::shared_ptr<const kernels::GemmF32Weights> weights_;
  std::shared_ptr<const Buffer> bias_;
  Bounds bounds_;
  bool residual_;
};

}  // namespace

const OpRows kLinearOps = {{"linear", make<Linear>}};

}  // namespace lowbit::graph
