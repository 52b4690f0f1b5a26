// quantized_embedding: rows of a table in codes as floats, one for each index. The table stays as the model holds it.
#include "graph/ops/indexing.h"
#include "graph/ops/quantized.h"
#include "graph/ops/table.h"

namespace lowbit::graph {
namespace {

class Embedding final : public Op {
 public:
  enum Input : size_t { kIndices, kTable, kInputs };

  explicit Embedding(const NodeInfo& node)
      : kernel_(kernels::best_of(kernels::gather_kernels(), node.isa)),
        weight_(node.weight(kTable, 2)),
        table_(table_of(*weight_)) {
    node.expect_inputs(kInputs, kInputs);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_indices(inputs, kIndices);
    Shape shape = inputs[kIndices].shape;
    require(shape.rank() < kMaxRank, "the output has more than 8 axes");
    shape.push_back(table_.k);
    return {{DType::f32, shape}};
  }
  bool reads(size_t input) const override { return input == kIndices; }
  std::string kernel() const override { return kernel_.name; }
  Work work(Types inputs, Types outputs) const override {
    const auto rows = static_cast<double>(inputs[kIndices].shape.elements());
    const auto elements = static_cast<double>(outputs[0].shape.elements());
    return {.operations = 2 * elements, .bytes = rows * row_bytes(table_) + 4 * elements};
  }
  void run(const RunArgs& args) const override {
    const Tensor &indices = args.inputs[kIndices], &y = args.outputs[0];
    check_indices(indices, 0, table_.n);
    run_shares(indices.shape.elements(), 5 * y.shape.elements(), args.threads, [&](int64_t begin, int64_t end) {
      int64_t rows[64];
      for (int64_t i = begin, count = 0; i < end; i += count) {
        count = std::min<int64_t>(end - i, std::ssize(rows));
        for (int64_t j = 0; j < count; ++j) rows[j] = inside(index_at(indices, i + j), table_.n);
        kernel_.run(table_, rows, count, y.as<float>() + i * table_.k);
      }
    });
  }

 private:
  const kernels::GatherKernel& kernel_;
  std::shared_ptr<const Weight> weight_;
  kernels::GatherTable table_;  // into it
};

}  // namespace

std::unique_ptr<Op> make_embedding(const NodeInfo& node) { return std::make_unique<Embedding>(node); }

}  // namespace lowbit::graph
