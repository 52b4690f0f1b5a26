// Depthwise u8 x s8 convolution over an NHWC image: any kernel size, stride, dilation and padding, one filter a
// channel.
//
//   acc[n, oh, ow, c] = sum_{i < kernel_h} sum_{j < kernel_w} (x[n, h(oh, i), w(ow, j), c] - x_zero_point) * w[c, i, j]
//   h(oh, i) = oh * stride_h + i * dilation_h - top, w alike; pixels outside of the image are x_zero_point
//   y = epilogue(acc)                                                                                       (kernel.h)
//
// Sums are exact in int32. x.stride_* are those of the input image itself (one pixel), not of the output grid. Reads
// stay inside the image and the border row, the channels of the last pixel rounded up to 64 included: buffers carry
// that slack.
#pragma once

#include "base/buffer.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct DwconvI8Kernel;

struct DwconvShape {
  int64_t channels = 0;
  int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
};

// Weights in the layout of one kernel (layout.h), and what the zero-point correction needs.
struct DwconvI8Weights {
  const DwconvI8Kernel* kernel = nullptr;
  DwconvShape shape;
  Buffer packed;
  Buffer column_sums;  // int32_t [channels rounded up to 64]
  size_t bytes() const { return packed.bytes() + column_sums.bytes(); }
};

struct DwconvI8Args {
  const DwconvI8Weights* weights = nullptr;
  Grid grid;  // of the output
  Rows<const uint8_t> x;
  int64_t height = 0, width = 0, top = 0, left = 0;  // of the image, and what is missing above and before it
  const uint8_t* border = nullptr;                   // a row of zero points
  int64_t border_stride_n = 0;                       // from sample to sample, where their zero points differ
  int32_t x_zero_point = 0;
  const uint8_t* x_zero_points = nullptr;  // [grid.n]: dynamic
  Epilogue epilogue;
  Rows<void> y;
};

struct DwconvI8Kernel : KernelRow {
  int block, group;  // channels a step; image rows whose bytes stand together for one dot product (0: plain layout)
  void (*run)(const DwconvI8Args&, int64_t task, int64_t tasks);
  void pack(const int8_t* w, const DwconvShape&, DwconvI8Weights& out) const;  // w [channels][kernel_h][kernel_w]
  static int64_t tasks(const DwconvI8Args&, int threads);
};
KernelTable<DwconvI8Kernel> dwconv_i8_kernels();

}  // namespace lowbit::kernels
