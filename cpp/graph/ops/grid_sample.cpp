// grid_sample: images and volumes read at computed places (ops/sampling.py is the specification).
#include <cmath>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/blend/blend.h"

namespace lowbit::graph {
namespace {

enum class Mode { nearest, linear, cubic };
enum class Padding { zeros, border, reflection };

constexpr int kMaxTaps = 16;
constexpr int64_t kBlock = 64;  // pixels whose taps are found before they are blended

// The elements of one axis that a position is made of; -1: outside, which counts as 0.
struct AxisTaps {
  int count = 1;
  int64_t index[4] = {};
  float weight[4] = {1.0f};
};

class GridSample final : public Op {
 public:
  explicit GridSample(const NodeInfo& node)
      : align_(node.integer("align_corners", 0, 1, 0) == 1), kernel_(kernels::select_blend(node.isa)) {
    node.expect_inputs(2, 2);
    node.expect_outputs(1);
    const std::string &mode = node.text("mode"), &padding = node.text("padding");
    if (mode != "nearest" && mode != "linear" && mode != "cubic")
      node.fail("attribute 'mode' must be nearest, linear or cubic");
    mode_ = mode == "nearest" ? Mode::nearest : mode == "linear" ? Mode::linear : Mode::cubic;
    if (padding != "zeros" && padding != "border" && padding != "reflection")
      node.fail("attribute 'padding' must be zeros, border or reflection");
    padding_ = padding == "zeros" ? Padding::zeros : padding == "border" ? Padding::border : Padding::reflection;
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const Shape &x = inputs[0].shape, &grid = inputs[1].shape;
    const int rank = x.rank();
    require(rank == 4 || rank == 5, "input 0 must have rank 4 or 5, has shape " + to_string(x));
    require(mode_ != Mode::cubic || rank == 4, "mode cubic is for images");
    require_type(inputs, 0, DType::f32, rank);
    require_type(inputs, 1, DType::f32, rank);
    require(grid[0] == x[0] && grid[rank - 1] == rank - 2,
            "a grid " + to_string(grid) + " does not fit an image " + to_string(x));
    Shape shape = x;
    for (int axis = 2; axis < rank; ++axis) {
      require(x[axis] > 0, "the input is empty");
      shape[axis] = grid[axis - 1];
    }
    return {{DType::f32, shape}};
  }
  Layout input_layout(size_t input) const override { return input == 0 ? Layout::channels_last : Layout::contiguous; }
  Layout output_layout(size_t) const override { return Layout::channels_last; }
  bool reads_parts(size_t input) const override { return input == 0; }
  std::string kernel() const override { return kernel_.name; }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 2 * std::pow(taps(), inputs[0].shape.rank() - 2);
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &grid = args.inputs[1], &y = args.outputs[0];
    const int axes = x.shape.rank() - 2;
    const int64_t channels = x.shape[1], all = grid.shape.elements() / axes, pixels = all / x.shape[0];
    const int64_t blocks = (pixels + kBlock - 1) / kBlock;
    run_shares(x.shape[0] * blocks, 8 * lowbit::graph::bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      int64_t offsets[kBlock * kMaxTaps];
      float weights[kBlock * kMaxTaps];
      int32_t counts[kBlock];
      kernels::BlendArgs blend;
      blend.channels = channels, blend.taps = kMaxTaps, blend.y_stride = channels;
      blend.offsets = offsets, blend.weights = weights, blend.counts = counts;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t n = block / blocks, first = block % blocks * kBlock, count = std::min(kBlock, pixels - first);
        const float* place = grid.as<const float>() + (n * pixels + first) * axes;
        for (int64_t i = 0; i < count; ++i)
          counts[i] = find(x, place + i * axes, offsets + i * kMaxTaps, weights + i * kMaxTaps);
        blend.pixels = count;
        blend.row[0] = x.as<const float>() + n * x.strides[0];
        blend.y = y.as<float>() + (n * pixels + first) * channels;
        kernel_.f32(blend);
      }
    });
  }

 private:
  int taps() const { return mode_ == Mode::nearest ? 1 : mode_ == Mode::linear ? 2 : 4; }

  // The taps of one pixel: offsets from its image's first element, and weights; how many.
  int32_t find(const Tensor& x, const float* place, int64_t* offsets, float* weights) const {
    const int axes = x.shape.rank() - 2;
    AxisTaps tables[3];  // depth (one element, of images), height, width
    int64_t strides[3] = {};
    for (int axis = 0; axis < axes; ++axis) {
      const int at = axis + 3 - axes;
      strides[at] = x.strides[axis + 2];
      tables[at] = axis_taps(place[axes - 1 - axis], x.shape[axis + 2], axes == 3);
      for (int k = 0; k < tables[at].count; ++k)
        if (axes == 2 && std::isnan(tables[at].weight[k])) return offsets[0] = 0, weights[0] = tables[at].weight[k], 1;
    }
    int32_t count = 0;
    for (int d = 0; d < tables[0].count; ++d)
      for (int h = 0; h < tables[1].count; ++h)
        for (int w = 0; w < tables[2].count; ++w) {
          const int64_t deep = tables[0].index[d], high = tables[1].index[h], wide = tables[2].index[w];
          if (deep < 0 || high < 0 || wide < 0) continue;
          offsets[count] = deep * strides[0] + high * strides[1] + wide * strides[2];
          weights[count++] = tables[0].weight[d] * tables[1].weight[h] * tables[2].weight[w];
        }
    return count;
  }

  AxisTaps axis_taps(float coordinate, int64_t size, bool volume) const {
    const auto n = static_cast<float>(size);
    const float moved = coordinate + 1.0f;
    float position = 0;
    if (volume)
      position = align_ ? moved * 0.5f * (n - 1.0f) : (moved * n - 1.0f) / 2.0f;
    else
      position = align_ ? moved * ((n - 1.0f) / 2.0f) : moved * (n / 2.0f) - 0.5f;
    if (mode_ != Mode::cubic) position = folded(position, size);
    const float floor = std::floor(position), part = position - floor, rest = 1.0f - part;
    AxisTaps taps;
    taps.count = this->taps();
    if (mode_ == Mode::nearest) {
      taps.index[0] = inside(std::nearbyint(position), size);
    } else if (mode_ == Mode::linear) {
      taps.index[0] = inside(floor, size), taps.index[1] = inside(floor + 1.0f, size);
      taps.weight[0] = rest, taps.weight[1] = part;
    } else {
      for (int k = 0; k < 4; ++k)
        taps.index[k] = inside(std::nearbyint(folded(floor + static_cast<float>(k - 1), size)), size);
      cubic_weights(part, taps.weight);
    }
    return taps;
  }
  static int64_t inside(float index, int64_t size) {
    return index >= 0.0f && index < static_cast<float>(size) ? std::min(static_cast<int64_t>(index), size - 1) : -1;
  }
  // A position brought into the image; NaN becomes 0.
  float folded(float position, int64_t size) const {
    if (padding_ == Padding::zeros) return position;
    const float n = static_cast<float>(size), last = static_cast<float>(size - 1);
    if (padding_ == Padding::reflection) {
      const float span = 2.0f * (align_ ? last : n), low = align_ ? 0.0f : -0.5f;
      const float away = std::abs(position - low), rest = away - std::trunc(away / span) * span;
      position = std::min(rest, span - rest) + low;
    }
    return position > 0.0f ? std::min(position, last) : 0.0f;
  }

  bool align_;
  Mode mode_;
  Padding padding_;
  const kernels::BlendKernel& kernel_;
};

}  // namespace

std::unique_ptr<Op> make_grid_sample(const NodeInfo& node) { return std::make_unique<GridSample>(node); }

}  // namespace lowbit::graph
