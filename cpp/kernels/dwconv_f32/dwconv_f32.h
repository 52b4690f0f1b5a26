// float32 depthwise convolution over an NHWC image: the twin of dwconv_i8 for layers that stay in float.
//
//   acc[n, oh, ow, c] = fma(x[n, h(oh, i), w(ow, j), c], w[c, i, j], acc)      i, then j ascending, one accumulator,
//                                                                              from 0
//   h(oh, i) = oh * stride_h + i * dilation_h - top, w alike; pixels outside of the image are 0
//   y[n, oh, ow, c]   = clampf(acc + bias[c] + residual[n, oh, ow, c], min, max)   (+ bias, + residual only if given),
//   NaN stays NaN
//
// The order is part of the contract: every ISA gives the same bits. x.stride_* are those of the input image itself (one
// pixel), not of the output grid. Channels are adjacent. Nothing is read or written past the image's, the border's or
// an operand's channels.
#pragma once

#include "base/buffer.h"
#include "kernels/dwconv_i8/dwconv_i8.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct DwconvF32Kernel;

// [kernel_h * kernel_w][channels rounded up to 16], zero where padded: one layout for every row of the table.
struct DwconvF32Weights {
  const DwconvF32Kernel* kernel = nullptr;
  DwconvShape shape;
  Buffer packed;
  size_t bytes() const { return packed.bytes(); }
};

struct DwconvF32Args {
  const DwconvF32Weights* weights = nullptr;
  Grid grid;  // of the output
  Rows<const float> x;
  int64_t height = 0, width = 0, top = 0, left = 0;  // of the image, and what is missing above and before it
  const float* border = nullptr;                     // a row of zeros
  const float* bias = nullptr;                       // [channels] or null
  Rows<const float> residual;                        // data null: none
  float min, max;                                    // -inf / +inf: no activation
  Rows<float> y;
};

struct DwconvF32Kernel : KernelRow {
  void (*run)(const DwconvF32Args&, int64_t task, int64_t tasks);
  void pack(const float* w, const DwconvShape&, DwconvF32Weights& out) const;  // w [channels][kernel_h][kernel_w]
  static int64_t tasks(const DwconvF32Args&, int threads);
};
KernelTable<DwconvF32Kernel> dwconv_f32_kernels();

}  // namespace lowbit::kernels
