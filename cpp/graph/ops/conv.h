// What all convolutions share: geometry, the padded copy of the input, and when it is made. The kernels see an NHWC
// image without borders. Where there is padding, the image is a copy in scratch, made a few samples at a time so that
// it stays in the cache; the copy also takes an NCHW input as it is.
//
// Axes are always depth, height, width: a 2-d convolution has depth 1, a 3-d one runs output plane by output plane with
// taps over several input planes. A transposed convolution is one ordinary convolution for each position of an output
// modulo the stride (a phase): it takes every stride-th tap, in reverse, and stores every stride-th output. Outputs
// that no tap meets, where strides are larger than the kernel, belong to no phase: all outputs are written as sums of
// nothing first, then those of the phases.
#pragma once

#include "base/account.h"
#include "graph/ops/common.h"

namespace lowbit::graph {

class ConvOp : public Op {
 public:
  enum Input : size_t { kX, kWeight };

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override;
  Layout input_layout(size_t input) const override {
    return input == kX && padded_ ? Layout::any : Layout::channels_last;
  }
  Layout output_layout(size_t) const override { return Layout::channels_last; }
  bool reads_parts(size_t input) const override;
  bool writes_parts(size_t) const override { return true; }
  size_t scratch_bytes(Types inputs, Types outputs, int threads) const override;
  Work work(Types inputs, Types outputs) const override;
  void run(const RunArgs& args) const override;

 protected:
  enum Axis { kDepth, kHeight, kWidth, kAxes };
  using Sizes = std::array<int64_t, kAxes>;

  template <class T>
  using Booked = std::vector<T, BookedAllocator<T>>;

  struct Phase {
    Sizes first_x{};                          // of the padded image: what the first output's first tap meets
    Sizes first_y{};                          // the first output
    std::array<Booked<int64_t>, kAxes> taps;  // each tap's index in the weight
    int64_t count(int axis) const { return static_cast<int64_t>(taps[axis].size()); }
    int64_t area() const { return count(kDepth) * count(kHeight) * count(kWidth); }
  };

  // A plane of outputs of one phase, of `grid.n` samples from number `first` on.
  struct Plane {
    size_t phase;                          // kNoTaps: of all outputs, as if no tap met them; x is a number of zero
    const void* x;                         // what the first tap of the first output meets
    int64_t stride_n, stride_h, stride_w;  // of the image, elements
    kernels::Grid grid;
    int64_t first;
    Sizes y, y_step;  // the first output; from one to the next
    std::span<const int64_t> taps;
    int64_t height, width, top, left;  // of the image from `x` on, and what is missing above and before it
    const void* border;                // depthwise: for each sample a row of fill()
    int64_t border_stride;             // from sample to sample
  };

  // Whether the depthwise kernel does without a padded copy of planes.
  enum class Borders { copied, in_depthwise_kernel };
  // weight: [output channels, input channels of a group, ...kernel]
  ConvOp(const NodeInfo& node, DType x, const Shape& weight, Borders borders);
  // 2 or 3, as the operator's name says.
  static int axes(const NodeInfo& node) { return node.op.find("3d") != std::string::npos ? 3 : 2; }

  // The type of the output, after checking the other inputs against its shape.
  virtual DType check(Types inputs, const Shape& output) const = 0;
  // What the border holds, for one sample.
  virtual int fill(const RunArgs& args, int64_t sample) const = 0;
  virtual void convolve(const RunArgs& args, const Plane& plane) const = 0;
  // Bytes of scratch that each of a kernel's tasks takes; these are at most as many as threads, then. They are the
  // first of the node's scratch.
  virtual size_t task_scratch() const { return 0; }

  // The image's rows as a matrix kernel walks them, from `channel` on.
  template <class T>
  kernels::Rows<const T> image_rows(const Plane& plane, int64_t channel) const {
    return {static_cast<const T*>(plane.x) + channel, plane.stride_n, plane.stride_h * x_step_[kHeight],
            plane.stride_w * x_step_[kWidth]};
  }
  // The rows of an operand that is shaped like the output, from `channel` on.
  template <class T>
  kernels::Rows<T> rows(const Tensor& tensor, const Plane& plane, int64_t channel) const {
    int64_t offset = plane.first * tensor.strides[0] + channel;
    for (int axis : {kDepth, kHeight, kWidth}) offset += plane.y[axis] * stride(tensor, axis);
    const int64_t bytes = offset * size_of(tensor.dtype);
    kernels::Rows<T> rows{};
    using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
    rows.data = reinterpret_cast<T*>(static_cast<Byte*>(tensor.data) + bytes);
    rows.stride_n = tensor.strides[0];
    rows.stride_h = stride(tensor, kHeight) * plane.y_step[kHeight];
    rows.stride_w = stride(tensor, kWidth) * plane.y_step[kWidth];
    return rows;
  }

  // A phase's weight for `count` filters, in the [filters][taps][channels] order that kernels pack.
  template <class T>
  Buffer ordered_weight(const T* weight, const Phase& phase, int64_t first, int64_t count) const {
    const int64_t area = kernel_[kDepth] * kernel_[kHeight] * kernel_[kWidth];
    Buffer ordered(count * depth_ * phase.area() * sizeof(T));
    const int64_t depth = depth_;  // written bytes may be any member's
    std::vector<int64_t> places;
    for (int64_t i : phase.taps[kDepth])
      for (int64_t j : phase.taps[kHeight])
        for (int64_t k : phase.taps[kWidth]) places.push_back((i * kernel_[kHeight] + j) * kernel_[kWidth] + k);
    T* out = ordered.as<T>();
    for (int64_t c = 0; c < count; ++c) {
      const T* filter = weight + (first + c) * depth * area;
      for (const int64_t place : places) {
        if (area == 1) {
          std::copy_n(filter, depth, out);
        } else {
          for (int64_t d = 0; d < depth; ++d) out[d] = filter[d * area + place];
        }
        out += depth;
      }
    }
    return ordered;
  }

  bool is_depthwise() const { return groups_ > 1 && depth_ == 1 && filters_ == groups_ && kernel_[kDepth] == 1; }
  int64_t taps(const Phase& phase) const { return phase.area() / (whole_rows_ ? phase.count(kWidth) : 1); }
  int64_t run_length(const Phase& phase) const { return (whole_rows_ ? phase.count(kWidth) : 1) * depth_; }
  // What tells a phase's weights from another's, in the order of ordered_weight().
  static std::vector<int64_t> key_of_taps(const Phase& phase, std::vector<int64_t> key) {
    for (const Booked<int64_t>& taps : phase.taps) {
      key.push_back(std::ssize(taps));
      key.insert(key.end(), taps.begin(), taps.end());
    }
    return key;
  }
  // A typical plane of outputs, for the choice of a kernel; empty: unknown.
  kernels::Grid typical_grid(const NodeInfo& node) const;
  int64_t typical_rows(const NodeInfo& node) const { return std::min(typical_grid(node).rows(), kMaxTypicalRows); }

  static constexpr size_t kNoTaps = SIZE_MAX;
  Booked<Phase> phases_;
  bool has_gaps_ = false;             // some outputs meet no tap
  int64_t filters_, depth_, groups_;  // output channels, input channels of a group, groups
  Sizes kernel_{1, 1, 1};
  Sizes tap_step_{1, 1, 1}, x_step_{1, 1, 1}, y_step_{1, 1, 1};  // pixels from tap to tap, output to output
  bool padded_ = false;                                          // the kernels see a padded copy
  bool bordered_ = false;                                        // the kernel takes what is missing from a border row
  bool whole_rows_;  // a kernel row is one run: adjacent pixels are adjacent in memory

 private:
  void add_phases(const NodeInfo& node);
  void add_axis(int axis);
  int64_t outputs(int axis, int64_t size) const;
  int64_t padded(int axis, int64_t size) const { return size + border_[2 * axis] + border_[2 * axis + 1]; }
  Sizes spatial(const Shape& shape) const;
  int64_t stride(const Tensor& tensor, int axis) const {
    const int at = tensor.shape.rank() - kAxes + axis;
    return at < 2 ? 0 : tensor.strides[at];
  }
  int64_t border_row(const Shape& x) const;
  int64_t padded_sample(const Shape& x) const;
  int64_t samples_at_once(const Shape& x) const;
  int64_t most_taps() const;
  void pad(const RunArgs& args, int64_t first, int64_t samples, std::byte* to) const;
  void run_phase(const RunArgs& args, Plane plane, int64_t stride_d, std::span<int64_t> taps) const;
  void fill_gaps(const RunArgs& args) const;

  int axes_;
  bool transposed_;
  DType x_type_;
  Sizes stride_{1, 1, 1}, dilation_{1, 1, 1}, output_padding_{0, 0, 0};
  std::array<int64_t, 2 * kAxes> padding_{}, border_{};  // of the node; of the image
  const kernels::EltwiseKernel& copy_;
};

}  // namespace lowbit::graph
