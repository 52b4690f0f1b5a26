// What the integer linear layers share: [..., K] codes times N rows of weights, one row of the product for each row of
// the input.
#pragma once

#include "graph/ops/integer.h"

namespace lowbit::graph {

// Weights: packed for a kernel, with n, kernel and bytes(). Args: of that kernel.
template <class Weights, class Args>
class LinearKernels : public Op {
 public:
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, kX, DType::u8);
    Shape shape = inputs[kX].shape;
    const int last = shape.rank() - 1;
    require(last >= 0 && shape[last] == depth_,
            "the input's last axis must have " + std::to_string(depth_) + " values");
    const int64_t rows = shape.elements() / depth_;
    shape[last] = weights_->n;
    epilogue_.check(inputs, shape, rows);
    return {{epilogue_.output(), shape}};
  }
  bool reads(size_t input) const override {
    return input == kX || input == kResidual || input == kScale || input == kZeroPoint;
  }
  bool reads_slack(size_t input) const override { return input == kX; }
  std::string kernel() const override { return weights_->kernel->name; }
  size_t scratch_bytes(Types, Types, int threads) const override { return threads * task_scratch(); }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 2.0 * static_cast<double>(depth_);
    work.bytes += weight_bytes_;
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[kX], &y = args.outputs[0];
    const int64_t rows = x.shape.elements() / depth_, n = weights_->n;
    Args product;
    product.weights = weights_.get();
    product.taps = taps_;
    product.grid = epilogue_.is_dynamic() ? kernels::Grid{rows, 1, 1} : kernels::Grid{1, 1, rows};
    product.x = {x.as<const uint8_t>(), depth_, depth_, depth_};
    product.x_zero_point = epilogue_.x_zero_point();
    product.epilogue = epilogue_.at(0);
    if (epilogue_.is_dynamic()) {
      product.x_zero_points = args.inputs[kZeroPoint].as<const uint8_t>();
      product.epilogue.row_scale = args.inputs[kScale].as<const float>();
    }
    if (args.inputs.size() > kResidual && args.inputs[kResidual].data != nullptr)
      product.epilogue.residual = {args.inputs[kResidual].as<const uint8_t>(), n, n, n};
    product.y = {y.data, n, n, n};
    if constexpr (requires { product.scratch; }) product.scratch = args.scratch;
    run_kernel(*weights_->kernel, product, args.threads);
  }

 protected:
  LinearKernels(IntegerEpilogue epilogue, int64_t depth, double weight_bytes)
      : epilogue_(std::move(epilogue)), depth_(depth), weight_bytes_(weight_bytes) {}

  // Bytes of scratch that each of its tasks takes; these are at most as many as threads, then.
  virtual size_t task_scratch() const { return 0; }

  std::shared_ptr<const Weights> weights_;
  std::vector<int64_t> taps_{0};  // where the weights' runs of inputs begin

 private:
  IntegerEpilogue epilogue_;
  int64_t depth_;
  double weight_bytes_;  // as the model holds them
};

}  // namespace lowbit::graph
