// The float depthwise loop over sixteen channels and up to eight output pixels at once.
//
// Vectors run over channels, so each output keeps its own accumulator and the order of its sum; pixels in flight hide
// the latency of the multiply-adds. Weights are loaded once for all pixels of a tile.
#pragma once

#include "kernels/dwconv_f32/dwconv_f32.h"
#include "simd/lanes.h"

namespace lowbit::kernels::dwconv_f32 {
namespace {

constexpr int64_t kTilePixels = 8;

// Count: int64_t for fewer than sixteen channels, or Full.
template <int kPixels, class Count>
inline void tile(const DwconvF32Args& args, int64_t n, int64_t h, int64_t w, int64_t c, Count count) {
  const DwconvShape& shape = args.weights->shape;
  const int64_t padded = (shape.channels + kLanes - 1) / kLanes * kLanes;
  const float* weights = args.weights->packed.as<float>() + c;
  const float* x = args.x.data + args.x.offset(n, h * shape.stride_h, w * shape.stride_w) + c;
  const int64_t step = shape.stride_w * args.x.stride_w;
  Lanes acc[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) acc[p] = splat(0.0f);
  for (int64_t i = 0; i < shape.kernel_h; ++i) {
    const float* pixel = x + i * shape.dilation_h * args.x.stride_h;
    for (int64_t j = 0; j < shape.kernel_w; ++j, pixel += shape.dilation_w * args.x.stride_w, weights += padded) {
      const Lanes weight = load(weights);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) acc[p] = fma(load(pixel + p * step, count), weight, acc[p]);
    }
  }
  const Lanes lo = splat(args.min), hi = splat(args.max);
  const Lanes bias = args.bias ? load(args.bias + c, count) : splat(0.0f);
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) {
    Lanes y = args.bias ? acc[p] + bias : acc[p];
    if (args.residual.data) y = y + load(args.residual.data + args.residual.offset(n, h, w + p) + c, count);
    store(args.y.data + args.y.offset(n, h, w + p) + c, clamp(y, lo, hi), count);
  }
}

template <class Count>
inline void row(const DwconvF32Args& args, int64_t n, int64_t h, int64_t c, Count count) {
  int64_t w = 0;
  for (; w + kTilePixels <= args.grid.w; w += kTilePixels) tile<kTilePixels>(args, n, h, w, c, count);
  if (w + 4 <= args.grid.w) {
    tile<4>(args, n, h, w, c, count);
    w += 4;
  }
  for (; w < args.grid.w; ++w) tile<1>(args, n, h, w, c, count);
}

void run(const DwconvF32Args& args, int64_t task, int64_t tasks) {
  const int64_t lines = args.grid.n * args.grid.h;
  for (int64_t line = lines * task / tasks; line < lines * (task + 1) / tasks; ++line) {
    const int64_t n = line / args.grid.h, h = line % args.grid.h;
    for_lanes(args.weights->shape.channels, [&](int64_t c, auto count) { row(args, n, h, c, count); });
  }
}

}  // namespace
}  // namespace lowbit::kernels::dwconv_f32
