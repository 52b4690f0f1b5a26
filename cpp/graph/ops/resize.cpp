// resize: nearest, linear and cubic interpolation of images and volumes, by tables of indices and weights an axis.
#include <cmath>
#include <cstring>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/blend/blend.h"

namespace lowbit::graph {
namespace {

enum class Mode { nearest, nearest_exact, linear, cubic };

constexpr int kMaxTaps = 4;

size_t aligned(size_t bytes) { return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment; }

// Which inputs an output of one axis is made of: `taps` for each.
struct AxisTable {
  int taps = 1;
  int64_t* index = nullptr;
  float* weight = nullptr;
};

class Resize final : public Op {
 public:
  explicit Resize(const NodeInfo& node)
      : mode_(mode_of(node)),
        align_(node.integer("align_corners", 0, 1, 0) == 1),
        snap_(node.integer("snap", 0, kMaxSize, 0)),
        size_(node.dims("size")),
        kernel_(kernels::best_of(kernels::blend_kernels(), node.isa)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    if (size_.size() != 2 && size_.size() != 3) node.fail("attribute 'size' must have 2 or 3 items");
    if (mode_ == Mode::cubic && size_.size() != 2) node.fail("mode cubic is for images");
    if (node.has("scales")) {
      for (double scale : node.numbers("scales", size_.size())) {
        if (!(scale >= 1e-6 && scale <= 1e6)) node.fail("attribute 'scales' must lie in [1e-06, 1e+06]");
        scales_.push_back(scale);
      }
    }
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    TensorType type = inputs[0];
    const int rank = static_cast<int>(size_.size()) + 2;
    require_type(inputs, 0, type.dtype == DType::u8 ? DType::u8 : DType::f32, rank);
    for (int axis = 2; axis < rank; ++axis) {
      const int64_t size = evaluate(size_[axis - 2], symbols);
      require(type.shape[axis] > 0 && size > 0 && size <= kMaxSize,
              "cannot resize " + std::to_string(type.shape[axis]) + " elements to " + std::to_string(size));
      type.shape[axis] = size;
    }
    return {type};
  }
  Layout input_layout(size_t) const override { return Layout::channels_last; }
  Layout output_layout(size_t) const override { return Layout::channels_last; }
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  std::string kernel() const override { return kernel_.name; }
  size_t scratch_bytes(Types, Types outputs, int) const override {
    size_t bytes = 0;
    for (int axis = 2; axis < outputs[0].shape.rank(); ++axis) bytes += table_bytes(outputs[0].shape[axis]);
    return bytes;
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= is_nearest() ? 0 : 2 * std::pow(mode_ == Mode::cubic ? 4 : 2, size_.size());
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const int rank = y.shape.rank();
    AxisTable tables[3];
    std::byte* at = args.scratch;
    int64_t total = 0;
    for (int axis = 2; axis < rank; ++axis) total += y.shape[axis];
    const bool snaps = mode_ == Mode::nearest && total <= snap_;
    for (int axis = 2; axis < rank; ++axis) {
      AxisTable& table = tables[axis - 2 + 5 - rank];
      table.index = reinterpret_cast<int64_t*>(at);
      table.weight = reinterpret_cast<float*>(at + aligned(y.shape[axis] * kMaxTaps * 8));
      at += table_bytes(y.shape[axis]);
      fill(table, axis - 2, x.shape[axis], y.shape[axis], snaps);
    }
    // The last axis's indices become offsets.
    const AxisTable& last = tables[2];
    for (int64_t i = 0; i < y.shape[rank - 1] * last.taps; ++i) last.index[i] *= x.strides[rank - 1];
    const int64_t rows = y.shape.elements() / (y.shape[1] * y.shape[rank - 1]);
    const int64_t tasks = kernels::eltwise_tasks(bytes_of(y) * (is_nearest() ? 1 : 4), args.threads);
    run_tasks(tasks, args.threads, [&](int64_t task) {
      for (int64_t row = rows * task / tasks; row < rows * (task + 1) / tasks; ++row)
        make_row(args, tables, row, row > rows * task / tasks);
    });
  }

 private:
  static Mode mode_of(const NodeInfo& node) {
    const std::string& name = node.text("mode");
    if (name == "nearest") return Mode::nearest;
    if (name == "nearest_exact") return Mode::nearest_exact;
    if (name == "linear") return Mode::linear;
    if (name != "cubic") node.fail("attribute 'mode' must be nearest, nearest_exact, linear or cubic");
    return Mode::cubic;
  }
  static size_t table_bytes(int64_t outputs) { return aligned(outputs * kMaxTaps * 12 + 64); }
  bool is_nearest() const { return mode_ == Mode::nearest || mode_ == Mode::nearest_exact; }

  // torch's arithmetic, in float32 (ops/resize.py is the specification).
  void fill(AxisTable& table, int axis, int64_t size, int64_t outputs, bool snaps) const {
    const auto n = static_cast<float>(size), m = static_cast<float>(outputs);
    const bool snapped = snaps && (outputs == size || outputs == 2 * size);
    const bool scaled = !scales_.empty() && !align_ && !snapped;
    const bool whole = size == outputs && (mode_ == Mode::linear || !scaled || scales_[axis] == 1.0);
    table.taps = whole || is_nearest() ? 1 : mode_ == Mode::linear ? 2 : 4;
    const float scale = align_   ? (outputs > 1 ? (n - 1.0f) / (m - 1.0f) : 0.0f)
                        : scaled ? static_cast<float>(1.0 / scales_[axis])
                                 : n / m;
    for (int64_t i = 0; i < outputs; ++i) {
      int64_t* index = table.index + i * table.taps;
      float* weight = table.weight + i * table.taps;
      if (whole) {
        index[0] = i, weight[0] = 1.0f;
        continue;
      }
      const float o = static_cast<float>(i);
      float real = mode_ == Mode::nearest || align_ ? scale * o : scale * (o + 0.5f) - 0.5f;
      if (mode_ != Mode::cubic) real = std::max(real, 0.0f);
      const float floor = std::floor(mode_ == Mode::nearest_exact ? real + 0.5f : real);
      const int64_t first = std::min(static_cast<int64_t>(std::min(floor, 2147483648.0f)), size - 1);
      const float part = std::clamp(real - static_cast<float>(first), 0.0f, 1.0f);
      if (is_nearest()) {
        index[0] = first, weight[0] = 1.0f;
      } else if (mode_ == Mode::linear) {
        index[0] = first, index[1] = std::min(first + 1, size - 1);
        weight[0] = 1.0f - part, weight[1] = part;
      } else {
        for (int64_t k = 0; k < 4; ++k) index[k] = std::clamp<int64_t>(first - 1 + k, 0, size - 1);
        cubic_weights(part, weight);
      }
    }
  }

  // One row of output pixels; `again`: the row before it was made by this task.
  void make_row(const RunArgs& args, const AxisTable* tables, int64_t row, bool again) const {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const int rank = y.shape.rank();
    const int64_t height = y.shape[rank - 2], depth = rank == 5 ? y.shape[2] : 1, width = y.shape[rank - 1];
    const int64_t h = row % height, d = row / height % depth, n = row / height / depth, channels = y.shape[1];
    const AxisTable &deep = tables[0], &high = tables[1], &wide = tables[2];
    const auto element = size_of(x.dtype);
    const int64_t stride_d = rank == 5 ? x.strides[2] : 0, stride_h = x.strides[rank - 2];
    kernels::BlendArgs blend;
    blend.pixels = width, blend.channels = channels, blend.taps = wide.taps;
    blend.offsets = wide.index, blend.weights = wide.weight;
    const int deep_taps = rank == 5 ? deep.taps : 1;
    blend.rows = deep_taps * high.taps;
    for (int i = 0; i < deep_taps; ++i)
      for (int j = 0; j < high.taps; ++j) {
        const int64_t at_d = rank == 5 ? deep.index[d * deep.taps + i] : 0, at_h = high.index[h * high.taps + j];
        const float weight = rank == 5 ? deep.weight[d * deep.taps + i] : 1.0f;
        blend.row[i * high.taps + j] =
            x.as<const std::byte>() + (n * x.strides[0] + at_d * stride_d + at_h * stride_h) * element;
        blend.row_weights[i * high.taps + j] = weight * high.weight[h * high.taps + j];
      }
    const int64_t y_d = rank == 5 ? y.strides[2] : 0, y_h = y.strides[rank - 2], pixel = y.strides[rank - 1];
    std::byte* to = y.as<std::byte>() + (n * y.strides[0] + d * y_d + h * y_h) * element;
    blend.y = to, blend.y_stride = pixel;
    if (!is_nearest()) return x.dtype == DType::u8 ? kernel_.u8(blend) : kernel_.f32(blend);
    const bool repeats = again && h > 0 && high.index[h] == high.index[h - 1] && pixel == channels;
    if (repeats) {
      std::memcpy(to, to - y_h * element, width * channels * element);
    } else {
      const auto* from = static_cast<const std::byte*>(blend.row[0]);
      for (int64_t w = 0; w < width; ++w)
        std::memcpy(to + w * pixel * element, from + wide.index[w] * element, channels * element);
    }
  }

  Mode mode_;
  bool align_;
  int64_t snap_;  // nearest: the largest sum of output sizes at which a size that stays or doubles has factor 1 or 2
  std::vector<Dim> size_;
  std::vector<double> scales_;
  const kernels::BlendKernel& kernel_;
};

}  // namespace

const OpRows kResizeOps = {{"resize", make<Resize>}};

}  // namespace lowbit::graph
