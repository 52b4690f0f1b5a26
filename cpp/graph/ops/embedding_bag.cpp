// Sums, means or maxima of rows of a table, one bag of indices each: of floats, and sums or means of codes.
#include "graph/ops/common.h"
#include "graph/ops/indexing.h"
#include "graph/ops/ops.h"
#include "graph/ops/quantized.h"
#include "graph/ops/table.h"

namespace lowbit::graph {
namespace {

enum class Mode { sum, mean, max };
enum Input : size_t { kOffsets = 2, kWeights, kInputs };  // after indices and table

// Bags of indices. Self, which derives from it, has
//   table(inputs)   the table's rows and their width, checked
//   rows(args)      the table's rows
//   add(args, index, weight, count, width, y)   puts row `index` into y, the `count`th of its bag
template <class Self>
class Bags : public Op {
 public:
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_indices(inputs, indices_);
    require_indices(inputs, kOffsets);
    require(inputs[indices_].shape.rank() == 1 && inputs[kOffsets].shape.rank() == 1,
            "indices and offsets must have one axis");
    if (weighted_) {
      require_type(inputs, kWeights, DType::f32);
      require_shape(inputs, kWeights, inputs[indices_].shape);
    }
    const int64_t bags = inputs[kOffsets].shape[0] - last_;
    require(bags >= 0, "there is no offset");
    return {{DType::f32, {bags, self().table(inputs).second}}};
  }
  void run(const RunArgs& args) const override {
    const Tensor &indices = args.inputs[indices_], &offsets = args.inputs[kOffsets], &y = args.outputs[0];
    check_indices(indices, 0, self().rows(args));
    check_offsets(offsets, indices.shape[0]);
    const int64_t bags = y.shape[0], width = y.shape[1], count = indices.shape[0];
    const auto offset = [&](int64_t bag) {
      return bag < offsets.shape[0] ? std::clamp<int64_t>(index_at(offsets, bag), 0, count) : count;
    };
    const int64_t bytes = 8 * (indices.shape[0] + bags) * width;
    run_shares(bags, bytes, args.threads, [&](int64_t begin, int64_t end) {
      for (int64_t bag = begin, from = offset(begin), to = 0; bag < end; ++bag, from = to) {
        to = offset(bag + 1);
        gather(args, from, to, width, y.as<float>() + bag * width);
      }
    });
  }

 protected:
  Bags(const NodeInfo& node, size_t indices)
      : indices_(indices),
        last_(node.integer("last", 0, 1, 0)),
        padding_(node.integer("padding", -1, kMaxSize, -1)),
        weighted_(node.has(size_t{kWeights})) {
    node.expect_inputs(kWeights, kInputs);
    node.expect_outputs(1);
    const std::string& mode = node.text("mode");
    if (mode != "sum" && mode != "mean" && mode != "max") node.fail("attribute 'mode' must be sum, mean or max");
    mode_ = mode == "sum" ? Mode::sum : mode == "mean" ? Mode::mean : Mode::max;
    if (weighted_ && mode_ != Mode::sum) node.fail("weights of samples go with the sum alone");
  }

  size_t indices_;
  int64_t last_, padding_;
  Mode mode_ = Mode::sum;
  bool weighted_;

 private:
  const Self& self() const { return static_cast<const Self&>(*this); }

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

  static constexpr int64_t kPiece = 256;  // rows

  void gather(const RunArgs& args, int64_t begin, int64_t end, int64_t width, float* y) const {
    const float* weights = weighted_ ? args.inputs[kWeights].as<const float>() : nullptr;
    const int64_t rows = self().rows(args);
    std::fill_n(y, width, 0.0f);
    int64_t count = 0;
    for (int64_t piece = begin; piece < end && (piece == begin || !should_stop()); piece += kPiece) {
      const int64_t stop = std::min(end, piece + kPiece);
      for (int64_t i = piece; i < stop; ++i) {
        const int64_t index = index_at(args.inputs[indices_], i);
        if (index != padding_)
          self().add(args, inside(index, rows), weights == nullptr ? 1.0f : weights[i], count++, width, y);
      }
    }
    if (mode_ != Mode::mean || count == 0) return;
    const auto divisor = static_cast<float>(count);
    for (int64_t j = 0; j < width; ++j) y[j] /= divisor;
  }
};

class EmbeddingBag final : public Bags<EmbeddingBag> {
 public:
  explicit EmbeddingBag(const NodeInfo& node) : Bags(node, 1) {}
  Work work(Types inputs, Types outputs) const override {
    const double width = static_cast<double>(inputs[0].shape[1]), rows = static_cast<double>(inputs[1].shape[0]);
    return {.operations = rows * width, .bytes = 4 * (rows * width + static_cast<double>(outputs[0].shape.elements()))};
  }

  std::pair<int64_t, int64_t> table(Types inputs) const {
    require_type(inputs, 0, DType::f32, 2);
    return {inputs[0].shape[0], inputs[0].shape[1]};
  }
  int64_t rows(const RunArgs& args) const { return args.inputs[0].shape[0]; }
  void add(const RunArgs& args, int64_t index, float weight, int64_t count, int64_t width, float* y) const {
    const float* row = args.inputs[0].as<const float>() + index * width;
    if (mode_ == Mode::max && count > 0) {
      for (int64_t j = 0; j < width; ++j) y[j] = y[j] != y[j] || y[j] > row[j] ? y[j] : row[j];
    } else if (weighted_) {
      for (int64_t j = 0; j < width; ++j) y[j] += row[j] * weight;
    } else {
      for (int64_t j = 0; j < width; ++j) y[j] += row[j];
    }
  }
};

class QuantizedEmbeddingBag final : public Bags<QuantizedEmbeddingBag> {
 public:
  explicit QuantizedEmbeddingBag(const NodeInfo& node)
      : Bags(node, 0),
        kernel_(kernels::best_of(kernels::gather_kernels(), node.isa)),
        weight_(node.weight(1, 2)),
        table_(table_of(*weight_)) {
    if (mode_ == Mode::max) node.fail("attribute 'mode' must be sum or mean");
  }
  bool reads(size_t input) const override { return input != 1; }
  std::string kernel() const override { return kernel_.name; }
  Work work(Types inputs, Types outputs) const override {
    const double rows = static_cast<double>(inputs[0].shape[0]);
    return {.operations = 2 * rows * static_cast<double>(table_.k),
            .bytes = rows * row_bytes(table_) + 4 * static_cast<double>(outputs[0].shape.elements())};
  }

  std::pair<int64_t, int64_t> table(Types) const { return {table_.n, table_.k}; }
  int64_t rows(const RunArgs&) const { return table_.n; }
  void add(const RunArgs&, int64_t index, float weight, int64_t, int64_t, float* y) const {
    kernel_.add(table_, index, weight, y);
  }

 private:
  const kernels::GatherKernel& kernel_;
  std::shared_ptr<const Weight> weight_;
  kernels::GatherTable table_;  // into it
};

}  // namespace

std::unique_ptr<Op> make_embedding_bag(const NodeInfo& node) { return std::make_unique<QuantizedEmbeddingBag>(node); }

const OpRows kEmbeddingBagOps = {{"embedding_bag", make<EmbeddingBag>}};

}  // namespace lowbit::graph
