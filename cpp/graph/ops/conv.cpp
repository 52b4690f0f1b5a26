#include "graph/ops/conv.h"

#include <cstring>
#include <numeric>

namespace lowbit::graph {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;  // of padded copy that is worth making at once
constexpr int64_t kMaxPhases = 4096, kMaxParts = 1 << 16;

size_t taps_bytes(int64_t taps) {
  return (taps * sizeof(int64_t) + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
}

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

}  // namespace

ConvOp::ConvOp(const NodeInfo& node, DType x, const Shape& weight, Borders borders)
    : axes_(axes(node)),
      transposed_(node.op.find("transpose") != std::string::npos),
      x_type_(x),
      copy_(kernels::best_of(kernels::eltwise_kernels(), node.isa)) {
  node.expect_outputs(1);
  filters_ = weight[0], depth_ = weight[1];
  if (weight.elements() == 0) node.fail("the weight is empty");
  const std::vector<int64_t> ones(axes_, 1), zeros(2 * axes_, 0);
  const std::vector<int64_t> stride = node.integers("stride", 1, kMaxExtent, ones),
                             dilation = node.integers("dilation", 1, kMaxExtent, ones),
                             padding = node.integers("padding", 0, kMaxExtent, zeros);
  const int missing = kAxes - axes_;
  for (int axis = 0; axis < axes_; ++axis) {
    kernel_[missing + axis] = weight[2 + axis];
    if (kernel_[missing + axis] > kMaxExtent) node.fail("the kernel is too large");
    stride_[missing + axis] = stride[axis], dilation_[missing + axis] = dilation[axis];
    padding_[2 * (missing + axis)] = padding[2 * axis], padding_[2 * (missing + axis) + 1] = padding[2 * axis + 1];
  }
  if (transposed_) {
    const std::vector<int64_t> extra = node.integers("output_padding", 0, kMaxExtent, std::vector<int64_t>(axes_, 0));
    for (int axis = 0; axis < axes_; ++axis) {
      output_padding_[missing + axis] = extra[axis];
      if (extra[axis] >= std::max(stride[axis], dilation[axis]))
        node.fail("output_padding must be below the stride or the dilation");
    }
  }
  groups_ = node.integer("groups", 1, kMaxSize, 1);
  if (filters_ % groups_ != 0)
    node.fail(std::to_string(filters_) + " output channels do not divide into " + std::to_string(groups_) + " groups");
  add_phases(node);
  padded_ = std::any_of(border_.begin(), border_.end(), [](int64_t side) { return side > 0; });
  bordered_ = borders == Borders::in_depthwise_kernel && is_depthwise();
  if (bordered_) padded_ = border_[2 * kDepth] + border_[2 * kDepth + 1] > 0;
  whole_rows_ = groups_ == 1 && tap_step_[kWidth] == 1;
}

void ConvOp::add_phases(const NodeInfo& node) {
  if (!transposed_) {
    border_ = padding_, tap_step_ = dilation_, x_step_ = stride_;
    Phase& whole = phases_.emplace_back();
    for (size_t axis = 0; axis < kAxes; ++axis) {
      whole.taps[axis].resize(kernel_[axis]);
      std::iota(whole.taps[axis].begin(), whole.taps[axis].end(), int64_t{0});
    }
    return;
  }
  int64_t count = 1;
  for (int64_t stride : stride_) {
    count *= stride;
    if (count > kMaxPhases) node.fail("the strides are too large");
  }
  y_step_ = stride_;
  phases_.emplace_back();
  for (int axis : {kDepth, kHeight, kWidth}) add_axis(axis);
  has_gaps_ = std::ssize(phases_) < count;
  if (!is_depthwise() && count * groups_ > kMaxParts) node.fail("the strides are too large for so many groups");
}

// Output p + q * stride of an axis meets, at tap i, input q + (p + padding - i * dilation) / stride, where that
// divides.
void ConvOp::add_axis(int a) {
  const int64_t stride = stride_[a], dilation = dilation_[a], begin = padding_[2 * a];
  tap_step_[a] = dilation / std::gcd(dilation, stride);
  const int64_t reach = dilation * (kernel_[a] - 1) + output_padding_[a] - begin - padding_[2 * a + 1];
  std::vector<Booked<int64_t>> taps(stride);
  std::vector<int64_t> first(stride);
  for (int64_t p = 0; p < stride; ++p) {
    int64_t low = 0, high = 0;
    for (int64_t i = kernel_[a] - 1; i >= 0; --i) {
      if ((p + begin - i * dilation) % stride != 0) continue;
      high = (p + begin - i * dilation) / stride;
      if (taps[p].empty()) low = high;
      taps[p].push_back(i);
    }
    if (taps[p].empty()) continue;
    first[p] = low;
    border_[2 * a] = std::max(border_[2 * a], -low);
    border_[2 * a + 1] = std::max(border_[2 * a + 1], high + floor_div(reach - p, stride));
  }
  Booked<Phase> all;
  for (const Phase& phase : phases_)
    for (int64_t p = 0; p < stride; ++p) {
      if (taps[p].empty()) continue;
      Phase& next = all.emplace_back(phase);
      next.taps[a] = taps[p];
      next.first_x[a] = border_[2 * a] + first[p];
      next.first_y[a] = p;
    }
  phases_ = std::move(all);
}

int64_t ConvOp::outputs(int a, int64_t size) const {
  const int64_t reach = dilation_[a] * (kernel_[a] - 1) + 1, padding = padding_[2 * a] + padding_[2 * a + 1];
  if (transposed_) return (size - 1) * stride_[a] + reach - padding + output_padding_[a];
  return size + padding < reach ? 0 : (size + padding - reach) / stride_[a] + 1;
}

ConvOp::Sizes ConvOp::spatial(const Shape& shape) const {
  Sizes sizes{1, 1, 1};
  for (int axis = kAxes - axes_; axis < kAxes; ++axis) sizes[axis] = shape[2 + axis - (kAxes - axes_)];
  return sizes;
}

std::vector<TensorType> ConvOp::infer(Types inputs, std::span<const int64_t>) const {
  require_type(inputs, kX, x_type_, 2 + axes_);
  const Shape& x = inputs[kX].shape;
  require(x[1] == depth_ * groups_,
          "the input has " + std::to_string(x[1]) + " channels, the weight takes " + std::to_string(depth_ * groups_));
  const Sizes sizes = spatial(x);
  TensorType image{x_type_, {1, x[1]}};
  Shape shape{x[0], filters_};
  for (int axis = kAxes - axes_; axis < kAxes; ++axis) {
    const int64_t size = sizes[axis], out = outputs(axis, size);
    require(out > 0 && (size > 0 || !transposed_), "the window or the padding does not fit the input " + to_string(x));
    shape.push_back(out);
    image.shape.push_back(padded(axis, size));
  }
  require(checked_elements(image) >= 0, "the padded input is too large");
  return {{check(inputs, shape), shape}};
}

// Not where neighbouring pixels make one run, nor where a border's row stands for one of the image: it is dense.
bool ConvOp::reads_parts(size_t input) const {
  if (input != kX || padded_) return true;
  if (bordered_) return border_[2 * kHeight] + border_[2 * kHeight + 1] == 0;
  return !whole_rows_ || kernel_[kWidth] == 1;
}

kernels::Grid ConvOp::typical_grid(const NodeInfo& node) const {
  if (node.types.empty() || node.types[kX].shape.rank() != 2 + axes_) return {0, 0, 0};
  const Shape& x = node.types[kX].shape;
  const Sizes sizes = spatial(x);
  const auto extent = [&](Axis a) {
    const int64_t out = std::max<int64_t>(outputs(a, std::min(sizes[a], kMaxTypicalRows)), 0);
    return std::min((out + y_step_[a] - 1) / y_step_[a], kMaxTypicalRows);
  };
  return {std::min(x[0], kMaxTypicalRows), extent(kHeight), extent(kWidth)};
}

Work ConvOp::work(Types inputs, Types outputs) const {
  Work work = Op::work(inputs, outputs);
  const double area = static_cast<double>(kernel_[kDepth] * kernel_[kHeight] * kernel_[kWidth]);
  const double pixels = static_cast<double>((transposed_ ? inputs[kX] : outputs[0]).shape.elements()) /
                        static_cast<double>(transposed_ ? depth_ * groups_ : filters_);
  const double weights = area * static_cast<double>(depth_) * static_cast<double>(filters_);
  work.operations = 2.0 * pixels * weights;
  work.bytes += weights * size_of(x_type_);
  return work;
}

int64_t ConvOp::padded_sample(const Shape& x) const {
  const Sizes sizes = spatial(x);
  int64_t elements = x[1];
  for (int axis : {kDepth, kHeight, kWidth}) elements *= padded(axis, sizes[axis]);
  return elements;
}

int64_t ConvOp::samples_at_once(const Shape& x) const {
  return std::clamp<int64_t>(kCacheBytes / (padded_sample(x) * size_of(x_type_)), 1, std::max<int64_t>(x[0], 1));
}

// Elements; at least a pixel's, for those beside an image of no width.
int64_t ConvOp::border_row(const Shape& x) const {
  return x[1] * std::max<int64_t>(padded(kWidth, spatial(x)[kWidth]), 1);
}

int64_t ConvOp::most_taps() const {
  int64_t most = 0;
  for (const Phase& phase : phases_) most = std::max(most, is_depthwise() ? 0 : taps(phase));
  return most;
}

size_t ConvOp::scratch_bytes(Types inputs, Types, int threads) const {
  const Shape& x = inputs[kX].shape;
  const int64_t elements =
      (padded_ ? samples_at_once(x) * padded_sample(x) : 0) + (bordered_ ? x[0] * border_row(x) : 0);
  return threads * task_scratch() + taps_bytes(most_taps()) + elements * size_of(x_type_);
}

void ConvOp::run(const RunArgs& args) const {
  const Tensor& x = args.inputs[kX];
  const Sizes sizes = spatial(x.shape);
  std::byte* const scratch = args.scratch + args.threads * task_scratch();
  const std::span<int64_t> taps(reinterpret_cast<int64_t*>(scratch), most_taps());
  std::byte* const copy = scratch + taps_bytes(most_taps());
  const int64_t samples = x.shape[0], step = padded_ ? samples_at_once(x.shape) : samples;
  if (has_gaps_) fill_gaps(args);
  std::byte* const border = copy + (padded_ ? step * padded_sample(x.shape) : 0) * size_of(x_type_);
  const int64_t row = border_row(x.shape), row_bytes = row * size_of(x_type_);
  for (int64_t sample = 0; bordered_ && sample < samples; ++sample)
    std::memset(border + sample * row_bytes, fill(args, sample), row_bytes);
  for (int64_t first = 0; first < samples && !should_stop(); first += step) {
    Plane plane{};
    plane.border = border + first * row_bytes;
    plane.border_stride = row;
    plane.first = first;
    plane.grid.n = std::min(step, samples - first);
    plane.x = x.data;
    plane.stride_n = x.strides[0], plane.stride_h = stride(x, kHeight), plane.stride_w = stride(x, kWidth);
    int64_t stride_d = stride(x, kDepth);
    if (padded_) {
      pad(args, first, plane.grid.n, copy);
      plane.x = copy;
      plane.stride_w = x.shape[1];
      plane.stride_h = plane.stride_w * padded(kWidth, sizes[kWidth]);
      stride_d = plane.stride_h * padded(kHeight, sizes[kHeight]);
      plane.stride_n = padded_sample(x.shape);
    }
    for (plane.phase = 0; plane.phase < phases_.size(); ++plane.phase) run_phase(args, plane, stride_d, taps);
  }
}

// All planes of a phase; `plane` is at the image's first element.
void ConvOp::run_phase(const RunArgs& args, Plane plane, int64_t stride_d, std::span<int64_t> taps) const {
  const Phase& phase = phases_[plane.phase];
  const Sizes out = spatial(args.outputs[0].shape);
  const auto count = [&](Axis axis) {
    const int64_t rest = out[axis] - phase.first_y[axis];
    return rest <= 0 ? 0 : (rest + y_step_[axis] - 1) / y_step_[axis];
  };
  plane.grid.h = count(kHeight), plane.grid.w = count(kWidth);
  if (plane.grid.h * plane.grid.w == 0) return;
  size_t tap = 0;
  for (int64_t d = 0; !taps.empty() && d < phase.count(kDepth); ++d)
    for (int64_t h = 0; h < phase.count(kHeight); ++h)
      for (int64_t w = 0; w < (whole_rows_ ? 1 : phase.count(kWidth)); ++w)
        taps[tap++] = d * tap_step_[kDepth] * stride_d + h * tap_step_[kHeight] * plane.stride_h +
                      w * tap_step_[kWidth] * plane.stride_w;
  plane.taps = taps.first(tap);
  plane.y = phase.first_y, plane.y_step = y_step_;
  const auto element = size_of(x_type_);
  const Sizes sizes = spatial(args.inputs[kX].shape);
  int64_t corner = phase.first_x[kDepth] * stride_d;
  if (bordered_ && !padded_) {
    plane.height = sizes[kHeight], plane.width = sizes[kWidth];
    plane.top = border_[2 * kHeight] - phase.first_x[kHeight], plane.left = border_[2 * kWidth] - phase.first_x[kWidth];
  } else {
    corner += phase.first_x[kHeight] * plane.stride_h + phase.first_x[kWidth] * plane.stride_w;
    plane.height = padded(kHeight, sizes[kHeight]) - phase.first_x[kHeight];
    plane.width = padded(kWidth, sizes[kWidth]) - phase.first_x[kWidth];
  }
  const auto* image = static_cast<const std::byte*>(plane.x) + corner * element;
  for (int64_t d = 0; d < count(kDepth) && !should_stop(); ++d, plane.y[kDepth] += y_step_[kDepth]) {
    plane.x = image + d * x_step_[kDepth] * stride_d * element;
    convolve(args, plane);
  }
}

// Writes every output as what it is where no tap meets it.
void ConvOp::fill_gaps(const RunArgs& args) const {
  alignas(Buffer::kAlignment) static constexpr std::array<std::byte, 2 * Buffer::kAlignment> kZeros{};
  static constexpr int64_t kTap = 0;
  const Sizes out = spatial(args.outputs[0].shape);
  Plane plane{};
  plane.phase = kNoTaps;
  plane.x = kZeros.data();
  plane.grid = {args.outputs[0].shape[0], out[kHeight], out[kWidth]};
  plane.y_step = {1, 1, 1};
  plane.taps = {&kTap, 1};
  for (; plane.y[kDepth] < out[kDepth]; ++plane.y[kDepth]) convolve(args, plane);
}

// Row by row: the border, and the pixels from whichever layout the input has.
void ConvOp::pad(const RunArgs& args, int64_t first, int64_t samples, std::byte* to) const {
  const Tensor& x = args.inputs[kX];
  const Sizes sizes = spatial(x.shape);
  const int64_t element = size_of(x.dtype), channels = x.shape[1], width = sizes[kWidth];
  const int64_t pixel = channels * element, height = padded(kHeight, sizes[kHeight]);
  const int64_t rows = padded(kDepth, sizes[kDepth]) * height, row_bytes = padded(kWidth, width) * pixel;
  const int64_t left = border_[2 * kWidth] * pixel, right = border_[2 * kWidth + 1] * pixel;
  const bool channels_last = x.strides[1] == 1 && stride(x, kWidth) == channels;
  const int64_t total = samples * rows, tasks = kernels::eltwise_tasks(2 * total * row_bytes, args.threads);
  run_tasks(tasks, args.threads, [&](int64_t task) {
    for (int64_t i = total * task / tasks; i < total * (task + 1) / tasks; ++i) {
      const int64_t sample = first + i / rows, d = i % rows / height - border_[2 * kDepth],
                    h = i % height - border_[2 * kHeight];
      const int border = fill(args, sample);
      std::byte* row = to + i * row_bytes;
      if (d < 0 || d >= sizes[kDepth] || h < 0 || h >= sizes[kHeight]) {
        std::memset(row, border, row_bytes);
        continue;
      }
      std::memset(row, border, left);
      std::memset(row + row_bytes - right, border, right);
      const int64_t at = sample * x.strides[0] + d * stride(x, kDepth) + h * stride(x, kHeight);
      const std::byte* from = x.as<const std::byte>() + at * element;
      if (channels_last) {
        std::memcpy(row + left, from, width * pixel);
      } else {
        kernels::copy(copy_, {{channels, width},
                              static_cast<int>(element),
                              {from, {x.strides[1], stride(x, kWidth)}},
                              {row + left, {1, channels}}});
      }
    }
  });
}

}  // namespace lowbit::graph
