// Operators without inputs: values that depend on the symbols alone.
#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

template <class T>
void count_up(void* y, int64_t n, int64_t start, int64_t step) {
  for (int64_t i = 0; i < n; ++i)
    static_cast<T*>(y)[i] =
        static_cast<T>(static_cast<uint64_t>(start) + static_cast<uint64_t>(i) * static_cast<uint64_t>(step));
}

// y[i] = start + i * step
class Arange final : public Op {
 public:
  explicit Arange(const NodeInfo& node)
      : start_(node.dim("start")), length_(node.dim("length")), step_(node.integer("step", -kMaxSize, kMaxSize, 1)) {
    node.expect_inputs(0, 0);
    node.expect_outputs(1);
    const std::string& name = node.text("dtype");
    if (name != "i64" && name != "i32") node.fail("attribute 'dtype' must be i64 or i32");
    dtype_ = name == "i64" ? DType::i64 : DType::i32;
  }
  std::vector<TensorType> infer(Types, std::span<const int64_t> symbols) const override {
    evaluate(start_, symbols);
    return {{dtype_, {evaluate(length_, symbols)}}};
  }
  void run(const RunArgs& args) const override {
    const Tensor& y = args.outputs[0];
    const int64_t start = evaluate(start_, args.symbols);
    if (dtype_ == DType::i64) return count_up<int64_t>(y.data, y.shape[0], start, step_);
    count_up<int32_t>(y.data, y.shape[0], start, step_);
  }

 private:
  Dim start_, length_;
  int64_t step_;
  DType dtype_ = DType::i64;
};

class DimValue final : public Op {
 public:
  explicit DimValue(const NodeInfo& node) : value_(node.dim("value")) {
    node.expect_inputs(0, 0);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types, std::span<const int64_t> symbols) const override {
    evaluate(value_, symbols);
    return {{DType::i64, {}}};
  }
  void run(const RunArgs& args) const override { *args.outputs[0].as<int64_t>() = evaluate(value_, args.symbols); }

 private:
  Dim value_;
};

}  // namespace

const OpRows kSizesOps = {
    {"arange", make<Arange>},
    {"dim_value", make<DimValue>},
};

}  // namespace lowbit::graph
