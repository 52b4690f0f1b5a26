// Sums, means or maxima of rows of a table, one bag of indices each.
#include "graph/ops/common.h"
#include "graph/ops/indexing.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

class EmbeddingBag final : public Op {
 public:
  explicit EmbeddingBag(const NodeInfo& node)
      : last_(node.integer("last", 0, 1, 0)), padding_(node.integer("padding", -1, kMaxSize, -1)) {
    node.expect_inputs(3, 4);
    node.expect_outputs(1);
    const std::string& mode = node.text("mode");
    if (mode != "sum" && mode != "mean" && mode != "max") node.fail("attribute 'mode' must be sum, mean or max");
    mode_ = mode == "sum" ? Mode::sum : mode == "mean" ? Mode::mean : Mode::max;
    weighted_ = node.has(size_t{3});
    if (weighted_ && mode_ != Mode::sum) node.fail("weights of samples go with the sum alone");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32, 2);
    require_indices(inputs, 1);
    require_indices(inputs, 2);
    require(inputs[1].shape.rank() == 1 && inputs[2].shape.rank() == 1, "indices and offsets must have one axis");
    if (weighted_) {
      require_type(inputs, 3, DType::f32);
      require_shape(inputs, 3, inputs[1].shape);
    }
    const int64_t bags = inputs[2].shape[0] - last_;
    require(bags >= 0, "there is no offset");
    return {{DType::f32, {bags, inputs[0].shape[1]}}};
  }
  Work work(Types inputs, Types outputs) const override {
    const double width = static_cast<double>(inputs[0].shape[1]), rows = static_cast<double>(inputs[1].shape[0]);
    return {.operations = rows * width, .bytes = 4 * (rows * width + static_cast<double>(outputs[0].shape.elements()))};
  }
  void run(const RunArgs& args) const override {
    const Tensor &table = args.inputs[0], &indices = args.inputs[1], &offsets = args.inputs[2], &y = args.outputs[0];
    check_indices(indices, 0, table.shape[0]);
    check_offsets(offsets, indices.shape[0]);
    const int64_t bags = y.shape[0], width = y.shape[1];
    const int64_t bytes = 8 * (indices.shape[0] + bags) * width;
    run_shares(bags, bytes, args.threads, [&](int64_t begin, int64_t end) {
      for (int64_t bag = begin; bag < end; ++bag) {
        const int64_t stop = bag + 1 < offsets.shape[0] ? index_at(offsets, bag + 1) : indices.shape[0];
        gather(args, index_at(offsets, bag), stop, width, y.as<float>() + bag * width);
      }
    });
  }

 private:
  enum class Mode { sum, mean, max };

  static void check_offsets(const Tensor& offsets, int64_t indices) {
    int64_t before = 0;
    bool sound = offsets.shape[0] == 0 || index_at(offsets, 0) == 0;
    for (int64_t i = 0; i < offsets.shape[0]; ++i) {
      const int64_t offset = index_at(offsets, i);
      sound &= offset >= before && offset <= indices;
      before = offset;
    }
    if (!sound) throw Error(ErrorKind::input, "the offsets must rise from 0 to at most " + std::to_string(indices));
  }

  void gather(const RunArgs& args, int64_t begin, int64_t end, int64_t width, float* y) const {
    const auto* table = args.inputs[0].as<const float>();
    const float* weights = weighted_ ? args.inputs[3].as<const float>() : nullptr;
    std::fill_n(y, width, 0.0f);
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = index_at(args.inputs[1], i);
      if (index == padding_) continue;
      const float* row = table + index * width;
      if (mode_ == Mode::max && count > 0) {
        for (int64_t j = 0; j < width; ++j) y[j] = y[j] != y[j] || y[j] > row[j] ? y[j] : row[j];
      } else if (weights != nullptr) {
        for (int64_t j = 0; j < width; ++j) y[j] += row[j] * weights[i];
      } else {
        for (int64_t j = 0; j < width; ++j) y[j] += row[j];
      }
      ++count;
    }
    if (mode_ != Mode::mean || count == 0) return;
    const auto divisor = static_cast<float>(count);
    for (int64_t j = 0; j < width; ++j) y[j] /= divisor;
  }

  int64_t last_, padding_;
  Mode mode_ = Mode::sum;
  bool weighted_ = false;
};

}  // namespace

const OpRows kEmbeddingBagOps = {{"embedding_bag", make<EmbeddingBag>}};

}  // namespace lowbit::graph
