// resample: one axis of images by antialiased interpolation, a window for each output (ops/resize.py is the
// specification).
#include <cmath>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/blend/blend.h"

namespace lowbit::graph {
namespace {

size_t aligned(size_t bytes) { return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment; }

class Resample final : public Op {
 public:
  explicit Resample(const NodeInfo& node)
      : axis_(static_cast<int>(node.integer("axis", 2, 3))),
        size_(node.dim("size")),
        cubic_(node.text("mode") == "cubic"),
        align_(node.integer("align_corners", 0, 1, 0) == 1),
        scale_(node.has("scale") ? node.number("scale") : 0.0),
        kernel_(kernels::best_of(kernels::blend_kernels(), node.isa)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    if (!cubic_ && node.text("mode") != "linear") node.fail("attribute 'mode' must be linear or cubic");
    if (node.has("scale") && !(scale_ >= 1e-6 && scale_ <= 1e6))
      node.fail("attribute 'scale' must lie in [1e-06, 1e+06]");
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    TensorType type = inputs[0];
    require_type(inputs, 0, type.dtype == DType::u8 ? DType::u8 : DType::f32, 4);
    const int64_t size = type.shape[axis_], outputs = evaluate(size_, symbols);
    require(size > 0 && outputs > 0 && outputs <= kMaxSize,
            "cannot resize " + std::to_string(size) + " elements to " + std::to_string(outputs));
    require(outputs * window(size, outputs).taps <= kMaxSize, "the windows have too many elements");
    type.shape[axis_] = outputs;
    return {type};
  }
  Layout input_layout(size_t) const override { return Layout::channels_last; }
  Layout output_layout(size_t) const override { return Layout::channels_last; }
  std::string kernel() const override { return kernel_.name; }
  size_t scratch_bytes(Types inputs, Types outputs, int) const override {
    const int64_t taps = window(inputs[0].shape[axis_], outputs[0].shape[axis_]).taps;
    return tables_at(nullptr, outputs[0].shape[axis_], taps).bytes;
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    const Window window = this->window(inputs[0].shape[axis_], outputs[0].shape[axis_]);
    work.operations *= 4.0 * static_cast<double>(window.reach);
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const int64_t size = x.shape[axis_], outputs = y.shape[axis_], channels = x.shape[1];
    const Window window = this->window(size, outputs);
    const bool wide = axis_ == 3;  // each pixel has its window; else each row has one, and is a single wide pixel
    const int64_t row = x.shape[3] * channels, step = wide ? channels : row;
    const Tables tables = tables_at(args.scratch, outputs, window.taps);
    for (int64_t i = 0; i < outputs; ++i) fill(tables, window, i, size, step);
    const auto element = size_of(x.dtype);
    const int64_t rows = y.shape[0] * y.shape[2], y_row = y.shape[3] * channels;
    run_shares(rows, bytes_of(x) * 4, args.threads, [&](int64_t begin, int64_t end) {
      kernels::BlendArgs blend;
      blend.pixels = wide ? outputs : 1, blend.channels = wide ? channels : y_row;
      blend.taps = static_cast<int>(window.taps), blend.y_stride = blend.channels;
      for (int64_t at = begin; at < end; ++at) {
        const int64_t first = wide ? 0 : at % outputs, from = wide ? at * row : at / outputs * x.shape[2] * row;
        blend.offsets = tables.offsets + first * window.taps, blend.weights = tables.weights + first * window.taps;
        blend.counts = tables.counts + first;
        blend.row[0] = x.as<const std::byte>() + from * element;
        blend.y = y.as<std::byte>() + at * y_row * element;
        x.dtype == DType::u8 ? kernel_.u8(blend) : kernel_.f32(blend);
      }
    });
  }

 private:
  // Where windows lie: `step` apart, `reach` to both sides of their centres, of no more than `taps` elements.
  struct Window {
    float step, reach, narrow;
    int64_t taps;
  };
  struct Tables {
    int64_t* offsets;
    float* weights;
    int32_t* counts;
    size_t bytes;
  };

  Window window(int64_t size, int64_t outputs) const {
    const auto n = static_cast<float>(size), m = static_cast<float>(outputs);
    Window window;
    window.step = align_                           ? (outputs > 1 ? (n - 1.0f) / (m - 1.0f) : 0.0f)
                  : scale_ != 0 && size != outputs ? static_cast<float>(1.0 / scale_)
                                                   : n / m;
    const float widened = std::max(window.step, 1.0f);
    window.reach = (cubic_ ? 2.0f : 1.0f) * widened;
    window.narrow = 1.0f / widened;
    window.taps = std::min(size, 2 * static_cast<int64_t>(std::ceil(window.reach)) + 1);
    return window;
  }
  static Tables tables_at(std::byte* memory, int64_t outputs, int64_t taps) {
    const size_t weights = aligned(outputs * taps * sizeof(int64_t)),
                 counts = weights + aligned(outputs * taps * sizeof(float));
    const size_t bytes = counts + aligned(outputs * sizeof(int32_t));
    if (memory == nullptr) return {nullptr, nullptr, nullptr, bytes};
    return {reinterpret_cast<int64_t*>(memory), reinterpret_cast<float*>(memory + weights),
            reinterpret_cast<int32_t*>(memory + counts), bytes};
  }

  // One output's window; torch's arithmetic, in float32.
  void fill(const Tables& tables, const Window& window, int64_t output, int64_t size, int64_t step) const {
    const auto n = static_cast<float>(size);
    const float centre = window.step * (static_cast<float>(output) + 0.5f);
    const auto first = static_cast<int64_t>(std::min(std::max(centre - window.reach + 0.5f, 0.0f), n));
    const auto last = static_cast<int64_t>(std::min(centre + window.reach + 0.5f, n));
    const int64_t count = std::clamp<int64_t>(std::min(last, size) - first, 0, window.taps);
    int64_t* offsets = tables.offsets + output * window.taps;
    float* weights = tables.weights + output * window.taps;
    float total = 0.0f;
    for (int64_t k = 0; k < count; ++k) {
      const float away = static_cast<float>(k) + (static_cast<float>(first) - centre) + 0.5f;
      offsets[k] = (first + k) * step;
      weights[k] = weight(std::abs(away * window.narrow));
      total += weights[k];
    }
    for (int64_t k = 0; k < count; ++k) weights[k] /= total == 0.0f ? 1.0f : total;
    tables.counts[output] = static_cast<int32_t>(count);
  }
  float weight(float x) const {
    if (!cubic_) return std::max(1.0f - x, 0.0f);
    if (x < 1.0f) return (1.5f * x - 2.5f) * x * x + 1.0f;  // Keys' cubic with A = -0.5
    return x < 2.0f ? ((-0.5f * x + 2.5f) * x - 4.0f) * x + 2.0f : 0.0f;
  }

  int axis_;
  Dim size_;
  bool cubic_, align_;
  double scale_;  // 0: of the sizes
  const kernels::BlendKernel& kernel_;
};

}  // namespace

const OpRows kResampleOps = {{"resample", make<Resample>}};

}  // namespace lowbit::graph
