#include "graph/ops/conv.h"

#include <cstring>

namespace lowbit::graph {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;  // of padded copy that is worth making at once

void read_pair(const NodeInfo& node, std::string_view key, int64_t (&pair)[2]) {
  const std::vector<int64_t> values = node.integers(key, 1, kMaxExtent, {1, 1});
  pair[0] = values[0], pair[1] = values[1];
}

size_t taps_bytes(int64_t taps) {
  return (static_cast<size_t>(taps) * sizeof(int64_t) + Buffer::kAlignment - 1) / Buffer::kAlignment *
         Buffer::kAlignment;
}

}  // namespace

ConvOp::ConvOp(const NodeInfo& node, DType x, DType w, size_t least_inputs, size_t most_inputs)
    : x_type_(x), copy_(kernels::select_eltwise(node.isa)) {
  node.expect_inputs(least_inputs, most_inputs);
  node.expect_outputs(1);
  const Shape& weight = node.constant(kWeight, w, 4).type.shape;
  filters_ = weight[0], depth_ = weight[1];
  if (weight.elements() == 0) node.fail("the weight is empty");
  if (std::max(weight[2], weight[3]) > kMaxExtent) node.fail("the kernel is too large");
  window_.kernel[0] = weight[2], window_.kernel[1] = weight[3];
  read_pair(node, "stride", window_.stride);
  read_pair(node, "dilation", window_.dilation);
  const std::vector<int64_t> padding = node.integers("padding", 0, kMaxExtent, {0, 0, 0, 0});
  std::copy(padding.begin(), padding.end(), window_.padding);
  groups_ = node.integer("groups", 1, kMaxSize, 1);
  if (filters_ % groups_ != 0)
    node.fail(std::to_string(filters_) + " output channels do not divide into " + std::to_string(groups_) + " groups");
  padded_ = std::any_of(padding.begin(), padding.end(), [](int64_t side) { return side > 0; });
  whole_rows_ = groups_ == 1 && window_.dilation[1] == 1;
}

std::vector<TensorType> ConvOp::infer(Types inputs, std::span<const int64_t>) const {
  require_type(inputs, kX, x_type_, 4);
  const Shape& x = inputs[kX].shape;
  require(x[1] == depth_ * groups_,
          "the input has " + std::to_string(x[1]) + " channels, the weight takes " + std::to_string(depth_ * groups_));
  Shape shape{x[0], filters_, 0, 0};
  for (int axis : {0, 1}) {
    const int64_t room = window_.padded(axis, x[2 + axis]) - window_.reach(axis);
    require(room >= 0,
            "a window of " + std::to_string(window_.reach(axis)) + " does not fit into the input " + to_string(x));
    shape[2 + axis] = room / window_.stride[axis] + 1;
  }
  const TensorType one{x_type_, {1, x[1], window_.padded(0, x[2]), window_.padded(1, x[3])}};
  require(checked_elements(one) >= 0, "the padded input is too large");
  return {{check(inputs, shape), shape}};
}

int64_t ConvOp::typical_rows(const NodeInfo& node) const {
  if (node.types.empty() || node.types[kX].shape.rank() != 4) return 0;
  const Shape& x = node.types[kX].shape;
  int64_t rows = std::min(x[0], kMaxTypicalRows);
  for (int axis : {0, 1}) {
    const int64_t room = window_.padded(axis, x[2 + axis]) - window_.reach(axis);
    rows =
        std::min(rows * (room < 0 ? 0 : std::min(room / window_.stride[axis] + 1, kMaxTypicalRows)), kMaxTypicalRows);
  }
  return rows;
}

Work ConvOp::work(Types inputs, Types outputs) const {
  Work work = Op::work(inputs.subspan(0, 1), outputs);
  const double depth = static_cast<double>(depth_ * window_.kernel[0] * window_.kernel[1]);
  work.operations *= 2.0 * depth;
  work.bytes += depth * static_cast<double>(filters_) * static_cast<double>(size_of(x_type_));
  return work;
}

int64_t ConvOp::samples_at_once(const Shape& x) const {
  return std::clamp<int64_t>(kCacheBytes / (padded_sample(x) * static_cast<int64_t>(size_of(x_type_))), 1,
                             std::max<int64_t>(x[0], 1));
}

size_t ConvOp::scratch_bytes(Types inputs, Types, int) const {
  const size_t taps_size = is_depthwise() ? 0 : taps_bytes(taps());
  if (!padded_) return taps_size;
  const Shape& x = inputs[kX].shape;
  return taps_size + static_cast<size_t>(samples_at_once(x) * padded_sample(x)) * size_of(x_type_);
}

void ConvOp::run(const RunArgs& args) const {
  const Tensor& x = args.inputs[kX];
  const size_t taps_count = is_depthwise() ? 0 : static_cast<size_t>(taps());
  const std::span<int64_t> taps{reinterpret_cast<int64_t*>(args.scratch), taps_count};
  const int64_t samples = x.shape[0];
  if (!padded_) return convolve(args, {x.data, x.strides[0], x.strides[2], x.strides[3], 0, samples, taps});
  std::byte* padded = args.scratch + (taps_count == 0 ? 0 : taps_bytes(static_cast<int64_t>(taps_count)));
  const int64_t channels = x.shape[1], width = window_.padded(1, x.shape[3]) * channels;
  const int64_t step = samples_at_once(x.shape);
  for (int64_t first = 0; first < samples; first += step) {
    const int64_t count = std::min(step, samples - first);
    pad(args, first, count, padded);
    convolve(args, {padded, padded_sample(x.shape), width, channels, first, count, taps});
  }
}

// Row by row: the border, and the pixels from whichever layout the input has.
void ConvOp::pad(const RunArgs& args, int64_t first, int64_t samples, std::byte* to) const {
  const Tensor& x = args.inputs[kX];
  const int64_t element = static_cast<int64_t>(size_of(x.dtype)), channels = x.shape[1], height = x.shape[2],
                width = x.shape[3];
  const int64_t pixel = channels * element, top = window_.padding[0];
  const int64_t rows = window_.padded(0, height), row_bytes = window_.padded(1, width) * pixel;
  const int64_t left = window_.padding[2] * pixel, right = window_.padding[3] * pixel;
  const bool channels_last = x.strides[1] == 1 && x.strides[3] == channels;
  const int64_t total = samples * rows, tasks = kernels::eltwise_tasks(2 * total * row_bytes, args.threads);
  run_tasks(tasks, args.threads, [&](int64_t task) {
    for (int64_t i = total * task / tasks; i < total * (task + 1) / tasks; ++i) {
      const int64_t sample = first + i / rows, h = i % rows - top;
      const int border = fill(args, sample);
      std::byte* row = to + i * row_bytes;
      if (h < 0 || h >= height) {
        std::memset(row, border, static_cast<size_t>(row_bytes));
        continue;
      }
      std::memset(row, border, static_cast<size_t>(left));
      std::memset(row + row_bytes - right, border, static_cast<size_t>(right));
      const std::byte* from = x.as<const std::byte>() + (sample * x.strides[0] + h * x.strides[2]) * element;
      if (channels_last) {
        std::memcpy(row + left, from, static_cast<size_t>(width * pixel));
      } else {
        kernels::copy(copy_, {{channels, width},
                              static_cast<int>(element),
                              {from, {x.strides[1], x.strides[3]}},
                              {row + left, {1, channels}}});
      }
    }
  });
}

void ConvOp::place_taps(const Image& image) const {
  size_t tap = 0;
  for (int64_t i = 0; i < window_.kernel[0]; ++i) {
    const int64_t row = i * window_.dilation[0] * image.stride_h;
    if (whole_rows_) {
      image.taps[tap++] = row;
    } else {
      for (int64_t j = 0; j < window_.kernel[1]; ++j)
        image.taps[tap++] = row + j * window_.dilation[1] * image.stride_w;
    }
  }
}

}  // namespace lowbit::graph
