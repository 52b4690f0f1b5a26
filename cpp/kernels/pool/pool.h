// Max and average pooling over NHWC images without padded copies: a window is clipped to the image, padding is skipped.
//
//   window(o) on one axis = [max(first, 0), min(first + kernel, size))    first = o * stride - padding_begin (dilation
//   1)
//             adaptive    = [floor(o * size / outputs), ceil((o + 1) * size / outputs))   global pooling is outputs = 1
//
//   max_pool:      y = max of the window's elements (dilation allowed); float: NaN if any is NaN; an empty window gives
//                  0 or -inf
//   avg_pool_f32:  acc = x + acc over the window, rows then columns ascending, one accumulator from 0;
//                  y = acc / float(count); of more than 16 elements, and where the pool is adaptive, pairs are added in
//                  float32 and the pairs in float64, and y is rounded once more
//   avg_pool_u8:   acc = sum(x) - elements * x_zero_point       exact in int32; elements = those inside the image
//                  t = float(acc) * multiplier / float(count)   two roundings
//                  output f32: y = t; output u8: y = rne(clampf(t, lo - zero_point, hi - zero_point)) + zero_point,
//                  NaN gives zero_point
//   max_index:     y as max_pool, and which element of the image [h * size_w + w] it is: the first of equal ones, the
//                  last NaN, the window's first if all are -inf; -1 for an empty window
//   count = elements, or with count_include_pad those of the window clipped to the padded image (at least 1)
//
// The order is part of the contract: every ISA gives the same bits. Channels are adjacent; a mean over one axis of
// [outer][axis][inner] is the adaptive pool with grid {outer, 1, 1}, h = {axis -> 1}, w = {1 -> 1}, channels = inner.
// Limits: fewer than 2^23 elements a window. Nothing is read or written past an operand's channels.
#pragma once

#include "kernels/kernel.h"

namespace lowbit::kernels {

// One spatial axis of a pooling.
struct PoolAxis {
  int64_t size = 1;     // of the image, without padding
  int64_t outputs = 1;  // of the grid
  int64_t kernel = 1, stride = 1, padding_begin = 0, padding_end = 0, dilation = 1;
  bool adaptive = false;  // kernel, stride, padding and dilation are ignored
};

struct PoolArgs {
  Grid grid;  // of the output; grid.h == h.outputs, grid.w == w.outputs
  int64_t channels = 0;
  PoolAxis h, w;
  Rows<const void> x;  // of the input image; strides in elements
  Rows<void> y;
  Rows<int64_t> index;             // max_index only
  bool count_include_pad = false;  // average only, from here on
  int32_t x_zero_point = 0;        // avg_pool_u8 only, from here on
  float multiplier = 1.0f;
  int32_t zero_point = 0, lo = 0, hi = 255;
  DType output = DType::u8;  // u8 or f32
};

using PoolRun = void(const PoolArgs&, int64_t task, int64_t tasks);
struct PoolKernel : KernelRow {
  PoolRun *max_u8, *max_f32;
  PoolRun* avg_u8;  // to u8 or f32
  PoolRun* avg_f32;
  PoolRun* max_index;  // of f32
  // Into how many independent tasks a call splits well.
  static int64_t tasks(const PoolArgs&, int threads);
};
KernelTable<PoolKernel> pool_kernels();

double pool_work(const PoolArgs& args);  // elements that windows hold, about

}  // namespace lowbit::kernels
