// quantized_embedding: rows of a table in codes as floats, one for each index. The table stays as the model holds it;
// or as a product reads it, where the same table is a layer's weight, as it is in most language models.
#include "graph/ops/indexing.h"
#include "graph/ops/quantized.h"
#include "graph/ops/table.h"
#include "kernels/gemm_s8/gemm_s8.h"

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
  bool shares(size_t input) const override { return input == kTable; }
  void share(const void* constant, const Packings& packings) override {
    panels_ = packings.find<kernels::GemmS8Weights>(constant);
    if (panels_ == nullptr || !holds_the_same(*panels_)) {
      panels_ = nullptr;
      return;
    }
    weight_ = nullptr;
  }
  std::string kernel() const override { return kernel_.name; }
  Work work(Types inputs, Types outputs) const override {
    const auto rows = static_cast<double>(inputs[kIndices].shape.elements());
    const auto elements = static_cast<double>(outputs[0].shape.elements());
    return {.operations = 2 * elements, .bytes = rows * row_bytes(table_) + 4 * elements};
  }
  void run(const RunArgs& args) const override {
    const Tensor &indices = args.inputs[kIndices], &y = args.outputs[0];
    check_indices(indices, 0, table_.n);
    if (panels_ != nullptr) return run_panels(args);
    run_shares(indices.shape.elements(), 5 * y.shape.elements(), args.threads, [&](int64_t begin, int64_t end) {
      int64_t rows[64];
      for (int64_t i = begin, count = 0; i < end; i += count) {
        count = std::min<int64_t>(end - i, std::ssize(rows));
        for (int64_t j = 0; j < count; ++j) rows[j] = inside(index_at(indices, i + j), table_.n);
        kernel_.run(table_, rows, count, y.as<float>() + i * table_.k);
      }
    });
  }

  size_t scratch_bytes(Types, Types, int threads) const override {
    return panels_ != nullptr ? static_cast<size_t>(threads) * row_scratch() : 0;
  }

 private:
  // Whether the numbers of a row come out as the table's own.
  bool holds_the_same(const kernels::GemmS8Weights& panels) const {
    const bool halves = !table_.wide && !(table_.offsets != nullptr && table_.wide_offsets);
    const kernels::GemmI4Kind kind = table_.offsets != nullptr       ? kernels::GemmI4Kind::half_offsets
                                     : table_.zero_points != nullptr ? kernels::GemmI4Kind::zero_points
                                                                     : kernels::GemmI4Kind::symmetric;
    return halves && panels.kind == kind && panels.k == table_.k && panels.group_size == table_.group_size;
  }

  // Codes, scales, offsets and zero points of a row, each in whole vectors.
  size_t row_scratch() const {
    return round_up(table_.row_bytes) + 2 * round_up(2 * table_.groups) + round_up(table_.groups);
  }
  static size_t round_up(int64_t bytes) { return static_cast<size_t>(bytes + 63) / 64 * 64; }

  void run_panels(const RunArgs& args) const {
    const Tensor &indices = args.inputs[kIndices], &y = args.outputs[0];
    const int64_t count = indices.shape.elements();
    const int64_t tasks = std::clamp<int64_t>(count / 16, 1, args.threads);
    const kernels::GemmS8Kernel& packed = *panels_->kernel;
    run_tasks(tasks, args.threads, [&](int64_t task) {
      std::byte* at = args.scratch + static_cast<size_t>(task) * row_scratch();
      const auto take = [&](int64_t bytes) { return std::exchange(at, at + round_up(bytes)); };
      auto* codes = reinterpret_cast<uint8_t*>(take(table_.row_bytes));
      auto* scales = reinterpret_cast<uint16_t*>(take(2 * table_.groups));
      auto* offsets = reinterpret_cast<uint16_t*>(take(2 * table_.groups));
      auto* zero_points = reinterpret_cast<uint8_t*>(take(table_.groups));
      kernels::GatherTable row = table_;
      row.codes = codes, row.scales = scales, row.n = 1;
      row.offsets = table_.offsets != nullptr ? offsets : nullptr;
      row.zero_points = table_.zero_points != nullptr ? zero_points : nullptr;
      const kernels::GemmI4Row parts{codes, scales, row.zero_points != nullptr ? zero_points : nullptr,
                                     row.offsets != nullptr ? offsets : nullptr};
      const Range share = share_of(count, task, tasks);
      for (int64_t i = share.begin; i < share.end; ++i) {
        std::fill_n(codes, table_.row_bytes, uint8_t{0});
        kernels::unpack_row(*panels_, packed.bits, packed.nr, false, inside(index_at(indices, i), table_.n), parts);
        constexpr int64_t kFirst = 0;
        kernel_.run(row, &kFirst, 1, y.as<float>() + i * table_.k);
      }
    });
  }

  const kernels::GatherKernel& kernel_;
  std::shared_ptr<const Weight> weight_;  // null: its rows are in the panels
  kernels::GatherTable table_;            // into it
  std::shared_ptr<const kernels::GemmS8Weights> panels_;
};

}  // namespace

std::unique_ptr<Op> make_embedding(const NodeInfo& node) { return std::make_unique<Embedding>(node); }

}  // namespace lowbit::graph
