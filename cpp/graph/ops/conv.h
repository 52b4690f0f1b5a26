// What both convolutions share: geometry, the padded copy of the input, and its rhythm. The kernels see an NHWC image
// without borders. Where there is padding, the image is a copy in scratch, made a few samples at a time so that it
// stays in the cache; the copy also takes an NCHW input as it is.
#pragma once

#include "graph/ops/common.h"

namespace lowbit::graph {

// Attributes of a sliding window; the extents of a convolution's kernel come from its weight.
struct Window {
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1};
  int64_t padding[4] = {0, 0, 0, 0};  // top, bottom, left, right

  int64_t reach(int axis) const { return dilation[axis] * (kernel[axis] - 1) + 1; }
  int64_t padded(int axis, int64_t size) const { return size + padding[2 * axis] + padding[2 * axis + 1]; }
};

class ConvOp : public Op {
 public:
  enum Input : size_t { kX, kWeight };

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override;
  Layout input_layout(size_t input) const override {
    return input == kX && padded_ ? Layout::any : Layout::channels_last;
  }
  Layout output_layout(size_t) const override { return Layout::channels_last; }
  size_t scratch_bytes(Types inputs, Types outputs, int threads) const override;
  Work work(Types inputs, Types outputs) const override;
  void run(const RunArgs& args) const override;

 protected:
  // `samples` samples of the input from number `first` on; element (0, 0) of sample `first` is at data.
  struct Image {
    const void* data;
    int64_t stride_n, stride_h, stride_w;  // elements
    int64_t first, samples;
    std::span<int64_t> taps;  // room for the kernel's offsets
  };

  ConvOp(const NodeInfo& node, DType x, DType w, size_t least_inputs, size_t most_inputs);

  // The type of the output, after checking the other inputs against its shape.
  virtual DType check(Types inputs, const Shape& output) const = 0;
  // What the border holds, for one sample.
  virtual int fill(const RunArgs& args, int64_t sample) const = 0;
  virtual void convolve(const RunArgs& args, const Image& image) const = 0;

  // Fills the offsets of a matrix kernel's taps for this image.
  void place_taps(const Image& image) const;
  kernels::Grid grid(const RunArgs& args, const Image& image) const {
    return {image.samples, args.outputs[0].shape[2], args.outputs[0].shape[3]};
  }
  // The operand's rows for this image's samples, from `channel` on.
  template <class T>
  kernels::Rows<T> rows(const Tensor& tensor, const Image& image, int64_t channel) const {
    const int64_t offset = image.first * tensor.strides[0] + channel;
    const int64_t bytes = offset * static_cast<int64_t>(size_of(tensor.dtype));
    kernels::Rows<T> rows{};
    using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
    rows.data = reinterpret_cast<T*>(static_cast<Byte*>(tensor.data) + bytes);
    rows.stride_n = tensor.strides[0], rows.stride_h = tensor.strides[2], rows.stride_w = tensor.strides[3];
    return rows;
  }

  // The weight's [channels][taps][run] order that matrix kernels pack, of one group.
  template <class T>
  Buffer ordered_weight(const Constant& weight, int64_t group) const {
    const int64_t n = filters_ / groups_, area = window_.kernel[0] * window_.kernel[1];
    Buffer ordered(static_cast<size_t>(n * depth_ * area) * sizeof(T));
    const T* w = weight.buffer->as<T>() + group * n * depth_ * area;
    T* out = ordered.as<T>();
    for (int64_t c = 0; c < n; ++c)
      for (int64_t d = 0; d < depth_; ++d)
        for (int64_t k = 0; k < area; ++k) out[(c * area + k) * depth_ + d] = w[(c * depth_ + d) * area + k];
    return ordered;
  }

  bool is_depthwise() const { return groups_ > 1 && depth_ == 1 && filters_ == groups_; }
  int64_t taps() const { return whole_rows_ ? window_.kernel[0] : window_.kernel[0] * window_.kernel[1]; }
  // Output pixels of a typical call, for the choice of a matrix kernel; 0: unknown.
  int64_t typical_rows(const NodeInfo& node) const;
  int64_t run_length() const { return whole_rows_ ? window_.kernel[1] * depth_ : depth_; }

  Window window_;
  int64_t filters_, depth_, groups_;  // output channels, input channels of a group, groups
  bool padded_;
  bool whole_rows_;  // a kernel row is one run: adjacent pixels are adjacent in memory
  DType x_type_;

 private:
  int64_t padded_sample(const Shape& x) const { return x[1] * window_.padded(0, x[2]) * window_.padded(1, x[3]); }
  int64_t samples_at_once(const Shape& x) const;
  void pad(const RunArgs& args, int64_t first, int64_t samples, std::byte* to) const;

  const kernels::EltwiseKernel& copy_;
};

}  // namespace lowbit::graph
