// linear_i8: codes [..., K] times codes [N, K], one row of the product for each row of the input.
#include "graph/ops/integer.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::graph {
namespace {

constexpr int64_t kTap = 0;

class LinearI8 final : public Op {
 public:
  explicit LinearI8(const NodeInfo& node) : epilogue_(node, weight(node)) {
    const Shape& shape = weight(node).type.shape;
    const kernels::GemmI8Kernel& kernel = kernels::select_gemm_i8(node.isa, shape[0], 1, shape[1], typical_rows(node));
    kernel.pack(kernel, weight(node).buffer->as<int8_t>(), shape[0], 1, shape[1], weights_);
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, kX, DType::u8);
    Shape shape = inputs[kX].shape;
    const int last = shape.rank() - 1;
    require(last >= 0 && shape[last] == weights_.run,
            "the input's last axis must have " + std::to_string(weights_.run) + " values");
    const int64_t rows = shape.elements() / weights_.run;
    shape[last] = weights_.n;
    epilogue_.check(inputs, shape, rows);
    return {{epilogue_.output(), shape}};
  }
  bool reads(size_t input) const override {
    return input == kX || input == kResidual || input == kScale || input == kZeroPoint;
  }
  bool reads_slack(size_t input) const override { return input == kX; }
  std::string kernel() const override { return weights_.kernel->name; }
  size_t bytes() const override { return weights_.bytes() + epilogue_.bytes(); }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 2.0 * static_cast<double>(weights_.run);
    work.bytes += static_cast<double>(weights_.n * weights_.run);
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[kX], &y = args.outputs[0];
    const int64_t rows = x.shape.elements() / weights_.run, n = weights_.n;
    kernels::GemmI8Args gemm;
    gemm.weights = &weights_;
    gemm.taps = {&kTap, 1};
    gemm.grid = epilogue_.is_dynamic() ? kernels::Grid{rows, 1, 1} : kernels::Grid{1, 1, rows};
    gemm.x = {x.as<const uint8_t>(), weights_.run, weights_.run, weights_.run};
    gemm.x_zero_point = epilogue_.x_zero_point();
    gemm.epilogue = epilogue_.at(0);
    if (epilogue_.is_dynamic()) {
      gemm.x_zero_points = args.inputs[kZeroPoint].as<const uint8_t>();
      gemm.epilogue.row_scale = args.inputs[kScale].as<const float>();
    }
    if (args.inputs.size() > kResidual && args.inputs[kResidual].data != nullptr)
      gemm.epilogue.residual = {args.inputs[kResidual].as<const uint8_t>(), n, n, n};
    gemm.y = {y.data, n, n, n};
    run_kernel(*weights_.kernel, gemm, args.threads);
  }

 private:
  static const Constant& weight(const NodeInfo& node) {
    node.expect_inputs(kBias + 1, kIntegerInputs);
    node.expect_outputs(1);
    return node.constant(kWeight, DType::s8, 2);
  }

  kernels::GemmI8Weights weights_;
  IntegerEpilogue epilogue_;
};

}  // namespace

std::unique_ptr<Op> make_linear_i8(const NodeInfo& node) { return std::make_unique<LinearI8>(node); }

}  // namespace lowbit::graph
