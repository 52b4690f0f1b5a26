// grid_sample: images and volumes read at computed places (ops/sampling.py is the specification).
#include <cmath>
#include <limits>
#include <type_traits>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/blend/blend.h"

namespace lowbit::graph {
namespace {

enum class Mode { nearest, linear, cubic };
enum class Padding { zeros, border, reflection };

constexpr int kMaxTaps = 16;
constexpr int64_t kBlock = 64;  // pixels whose taps are found before they are blended

// The elements of one axis that a position is made of, as offsets; -1: outside, which counts as 0.
struct AxisTaps {
  int64_t offset[4];
  float weight[4];
};

// std::floor, of what lies near an image; elsewhere what is outside of it, too.
float floor_of(float x) {
  if (!(std::abs(x) < 4294967296.0f)) return x;
  const auto whole = static_cast<float>(static_cast<int64_t>(x));
  return whole > x ? whole - 1.0f : whole;
}

class GridSample final : public Op {
 public:
  explicit GridSample(const NodeInfo& node)
      : align_(node.integer("align_corners", 0, 1, 0) == 1),
        kernel_(kernels::best_of(kernels::blend_kernels(), node.isa)) {
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
    run_shares(x.shape[0] * blocks, 8 * bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      int64_t offsets[kBlock * kMaxTaps];
      float weights[kBlock * kMaxTaps];
      int32_t counts[kBlock];
      kernels::BlendArgs blend;
      blend.channels = channels, blend.taps = kMaxTaps, blend.y_stride = channels;
      blend.offsets = offsets, blend.weights = weights, blend.counts = counts;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t n = block / blocks, first = block % blocks * kBlock, count = std::min(kBlock, pixels - first);
        const float* place = grid.as<const float>() + (n * pixels + first) * axes;
        find(x, place, count, offsets, weights, counts);
        blend.pixels = count;
        blend.row[0] = x.as<const float>() + n * x.strides[0];
        blend.y = y.as<float>() + (n * pixels + first) * channels;
        kernel_.f32(blend);
      }
    });
  }

 private:
  int taps() const { return mode_ == Mode::nearest ? 1 : mode_ == Mode::linear ? 2 : 4; }

  void find(const Tensor& x, const float* places, int64_t pixels, int64_t* offsets, float* weights,
            int32_t* counts) const {
    const bool volume = x.shape.rank() == 5;
    const auto find = [&](auto mode) {
      constexpr Mode kMode = decltype(mode)::value;
      volume ? this->find<kMode, 3>(x, places, pixels, offsets, weights, counts)
             : this->find<kMode, 2>(x, places, pixels, offsets, weights, counts);
    };
    if (mode_ == Mode::nearest) return find(std::integral_constant<Mode, Mode::nearest>{});
    if (mode_ == Mode::linear) return find(std::integral_constant<Mode, Mode::linear>{});
    this->find<Mode::cubic, 2>(x, places, pixels, offsets, weights, counts);
  }

  // The taps of some pixels of one image: offsets from its first element, weights and their number.
  template <Mode kMode, int kAxes>
  void find(const Tensor& x, const float* places, int64_t pixels, int64_t* offsets, float* weights,
            int32_t* counts) const {
    constexpr int kTaps = kMode == Mode::nearest ? 1 : kMode == Mode::linear ? 2 : 4;
    for (int64_t i = 0; i < pixels; ++i, places += kAxes, offsets += kMaxTaps, weights += kMaxTaps) {
      AxisTaps tables[kAxes];
      bool lost = false;  // the weights are NaN; torch leaves such taps out of volumes
      for (int axis = 0; axis < kAxes; ++axis) {
        find_axis<kMode, kAxes>(places[kAxes - 1 - axis], x.shape[axis + 2], x.strides[axis + 2], tables[axis]);
        lost = lost || (kMode != Mode::nearest && kAxes == 2 && std::isnan(tables[axis].weight[0]));
      }
      int32_t count = 0;
      const auto add = [&](int64_t offset, float weight) { offsets[count] = offset, weights[count++] = weight; };
      for (int h = 0; h < kTaps; ++h)
        for (int w = 0; w < kTaps; ++w) {
          const AxisTaps &first = tables[0], &second = tables[1], &last = tables[kAxes - 1];
          if (first.offset[h] < 0 || second.offset[w] < 0) continue;
          const int64_t offset = first.offset[h] + second.offset[w];
          const float weight = first.weight[h] * second.weight[w];
          if (kAxes == 2) {
            add(offset, weight);
          } else {
            for (int k = 0; k < kTaps; ++k)
              if (last.offset[k] >= 0) add(offset + last.offset[k], weight * last.weight[k]);
          }
        }
      if (lost) count = 0, add(0, std::numeric_limits<float>::quiet_NaN());
      counts[i] = count;
    }
  }

  template <Mode kMode, int kAxes>
  void find_axis(float coordinate, int64_t size, int64_t stride, AxisTaps& taps) const {
    const auto n = static_cast<float>(size);
    const auto inside = [&](float index) {
      return index >= 0.0f && index < n ? std::min(static_cast<int64_t>(index), size - 1) * stride : -1;
    };
    const float moved = coordinate + 1.0f;
    float position = 0;
    if (kAxes == 3)
      position = align_ ? moved * 0.5f * (n - 1.0f) : (moved * n - 1.0f) / 2.0f;
    else
      position = align_ ? moved * ((n - 1.0f) / 2.0f) : moved * (n / 2.0f) - 0.5f;
    if (kMode != Mode::cubic) position = folded(position, n);
    if (kMode == Mode::nearest) {
      taps.offset[0] = inside(std::nearbyint(position)), taps.weight[0] = 1.0f;
      return;
    }
    const float floor = floor_of(position), part = position - floor;
    if (kMode == Mode::linear) {
      taps.offset[0] = inside(floor), taps.offset[1] = inside(floor + 1.0f);
      taps.weight[0] = 1.0f - part, taps.weight[1] = part;
    } else {
      for (int k = 0; k < 4; ++k) taps.offset[k] = inside(std::nearbyint(folded(floor + static_cast<float>(k - 1), n)));
      cubic_weights(part, taps.weight);
    }
  }
  // A position brought into the image; NaN becomes 0.
  float folded(float position, float n) const {
    if (padding_ == Padding::zeros) return position;
    const float last = n - 1.0f;
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

const OpRows kGridSampleOps = {{"grid_sample", make<GridSample>}};

}  // namespace lowbit::graph
