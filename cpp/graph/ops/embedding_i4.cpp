// embedding_i4: rows of a table of four-bit codes as floats, one for each index. The table stays as the model holds it.
#include "graph/ops/four_bit.h"
#include "graph/ops/indexing.h"
#include "graph/ops/ops.h"
#include "kernels/gather_i4/gather_i4.h"

namespace lowbit::graph {
namespace {

class EmbeddingI4 final : public Op {
 public:
  enum Input : size_t { kIndices, kCodes, kScales, kZeroPoints, kInputs };

  explicit EmbeddingI4(const NodeInfo& node) : kernel_(kernels::best_of(kernels::gather_i4_kernels(), node.isa)) {
    node.expect_inputs(kScales + 1, kInputs);
    node.expect_outputs(1);
    table_ = four_bit_weight(node, kCodes, kScales);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_indices(inputs, kIndices);
    Shape shape = inputs[kIndices].shape;
    require(shape.rank() < kMaxRank, "the output has more than 8 axes");
    shape.push_back(table_.k);
    return {{DType::f32, shape}};
  }
  std::string kernel() const override { return kernel_.name; }
  Work work(Types inputs, Types outputs) const override {
    const auto rows = static_cast<double>(inputs[kIndices].shape.elements());
    const auto elements = static_cast<double>(outputs[0].shape.elements());
    return {.operations = 2 * elements,
            .bytes = rows * bytes_of(table_) / static_cast<double>(table_.n) + 4 * elements};
  }
  void run(const RunArgs& args) const override {
    const Tensor &indices = args.inputs[kIndices], &y = args.outputs[0];
    check_indices(indices, 0, table_.n);
    kernels::GemmI4Source table = table_;
    table.codes = args.inputs[kCodes].as<const uint8_t>();
    table.scales = args.inputs[kScales].as<const uint16_t>();
    if (table_.zero_points != nullptr) table.zero_points = args.inputs[kZeroPoints].as<const uint8_t>();
    run_shares(indices.shape.elements(), 5 * y.shape.elements(), args.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) kernel_.run(table, index_at(indices, i), y.as<float>() + i * table.k);
    });
  }

 private:
  const kernels::GatherI4Kernel& kernel_;
  kernels::GemmI4Source table_{};  // its addresses are those of prepare
};

}  // namespace

const OpRows kEmbeddingI4Ops = {{"embedding_i4", make<EmbeddingI4>}};

}  // namespace lowbit::graph
