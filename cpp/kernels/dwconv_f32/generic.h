// The float depthwise loop: a vector of channels, some output pixels at once.
//
// Each output keeps its own accumulator and the order of its sum; pixels in flight hide the latency of the
// multiply-adds. Of frequent shapes, a kernel row's weights stay in registers, and each column of the image is loaded
// once for all outputs that read it.
#pragma once

#include "kernels/dwconv_f32/line.h"
#include "kernels/dwconv_f32/walk_3x3.h"

namespace lowbit::kernels::dwconv_f32 {
namespace {

constexpr int kTilePixels = 8;
constexpr int64_t kBand = 8;              // output rows of a block of channels, then the next block
constexpr int64_t kWalkPixels = 32;       // of a row, where windows are walked
constexpr int64_t kAlong = 16;            // channels of a block are a multiple of these
constexpr int64_t kRowBytes = 16 * 1024;  // of a block's image rows, which stay in the first cache

template <bool kFull>
LOWBIT_INLINE Float load(const float* p, int count) {
  return kFull ? Vectors::load_floats(p) : Vectors::load_floats(p, count);
}

template <int kPixels, bool kFull>
LOWBIT_INLINE void leave(const Line& line, int64_t w, Float (&acc)[kPixels]) {
  const DwconvF32Args& args = line.args;
  const int count = kFull ? Vectors::kLanes : line.count;
  const Float lo = Vectors::broadcast(args.min), hi = Vectors::broadcast(args.max);
  if (args.bias) {
    const Float bias = load<kFull>(args.bias + line.c, count);
    LOWBIT_UNROLL
    for (int p = 0; p < kPixels; ++p) acc[p] = Vectors::add(acc[p], bias);
  }
  if (args.residual.data) {
    const float* residual = args.residual.data + args.residual.offset(line.n, line.h, w) + line.c;
    const int64_t next = args.residual.stride_w;
    LOWBIT_UNROLL
    for (int p = 0; p < kPixels; ++p) acc[p] = Vectors::add(acc[p], load<kFull>(residual + p * next, count));
  }
  float* y = args.y.data + args.y.offset(line.n, line.h, w) + line.c;
  const int64_t next = args.y.stride_w;
  LOWBIT_UNROLL
  for (int p = 0; p < kPixels; ++p, y += next) Vectors::store(y, Vectors::clamp(acc[p], lo, hi), count);
}

// Outputs w .. w + kPixels - 1. kKernel, kStride: the kernel's width without dilation and the stride, or 0: any. kEdge:
// columns may lie outside of the image.
template <int kPixels, int kKernel, int kStride, bool kEdge, bool kFull>
LOWBIT_INLINE void tile(const Line& line, int64_t w) {
  const DwconvF32Args& args = line.args;
  const DwconvShape& shape = args.weights->shape;
  const int64_t padded = (shape.channels + 15) / 16 * 16, next = args.x.stride_w, width = args.width;
  const float *weights = args.weights->packed.as<float>() + line.c, *border = args.border + line.c;
  const int64_t first = w * shape.stride_w - args.left;
  Float acc[kPixels];
  LOWBIT_UNROLL
  for (int p = 0; p < kPixels; ++p) acc[p] = Vectors::broadcast(0.0f);
  for (int64_t i = 0; i < shape.kernel_h; ++i) {
    const float* row = line.row(i);
    const auto column = [&](int64_t pixel) __attribute__((always_inline)) {
      const bool inside = !kEdge || static_cast<uint64_t>(pixel) < static_cast<uint64_t>(width);
      return load<kFull>(inside ? row + pixel * next : border, line.count);
    };
    if constexpr (kKernel > 0) {
      Float weight[kKernel];
      LOWBIT_UNROLL
      for (int j = 0; j < kKernel; ++j, weights += padded) weight[j] = Vectors::load_floats(weights);
      LOWBIT_UNROLL
      for (int at = 0; at < (kPixels - 1) * kStride + kKernel; ++at) {
        const Float x = column(first + at);
        LOWBIT_UNROLL
        for (int p = 0; p < kPixels; ++p)
          if (at >= p * kStride && at - p * kStride < kKernel)
            acc[p] = Vectors::fma(x, weight[at - p * kStride], acc[p]);
      }
    } else {
      for (int64_t j = 0; j < shape.kernel_w; ++j, weights += padded) {
        const Float weight = Vectors::load_floats(weights);
        LOWBIT_UNROLL
        for (int p = 0; p < kPixels; ++p)
          acc[p] = Vectors::fma(column(first + p * shape.stride_w + j * shape.dilation_w), weight, acc[p]);
      }
    }
  }
  leave<kPixels, kFull>(line, w, acc);
}

// kPixels outputs of the line's channels up to `end`.
template <int kPixels, int kKernel, int kStride>
__attribute__((noinline)) void tiles(Line line, int64_t w, int64_t end) {
  const DwconvShape& shape = line.args.weights->shape;
  const int64_t first = w * shape.stride_w - line.args.left;
  const int64_t last = first + (kPixels - 1) * shape.stride_w + (shape.kernel_w - 1) * shape.dilation_w;
  const bool edge = first < 0 || last >= line.args.width;
  for (; line.c + Vectors::kLanes <= end; line.c += Vectors::kLanes) {
    if (edge) {
      tile<kPixels, kKernel, kStride, true, true>(line, w);
    } else {
      tile<kPixels, kKernel, kStride, false, true>(line, w);
    }
  }
  if (line.c == end) return;
  line.count = static_cast<int>(end - line.c);
  tile<kPixels, kKernel, kStride, true, false>(line, w);
}

template <int kKernel, int kStride>
void run_line(const Line& line, int64_t end) {
  const int64_t width = line.args.grid.w;
  int64_t w = 0;
  for (; w + kTilePixels <= width; w += kTilePixels) tiles<kTilePixels, kKernel, kStride>(line, w, end);
  if (w + 4 <= width) {
    tiles<4, kKernel, kStride>(line, w, end);
    w += 4;
  }
  for (; w < width; ++w) tiles<1, 0, 0>(line, w, end);
}

using RunLine = void (*)(const Line&, int64_t);

inline RunLine choose(const DwconvShape& shape) {
  if (shape.dilation_w == 1 && shape.kernel_w == 3 && shape.stride_w == 1) return run_line<3, 1>;
  if (shape.dilation_w == 1 && shape.kernel_w == 3 && shape.stride_w == 2) return run_line<3, 2>;
  if (shape.dilation_w == 1 && shape.kernel_w == 5 && shape.stride_w == 1) return run_line<5, 1>;
  if (shape.dilation_w == 1 && shape.kernel_w == 5 && shape.stride_w == 2) return run_line<5, 2>;
  if (shape.dilation_w == 1 && shape.kernel_w == 7 && shape.stride_w == 1) return run_line<7, 1>;
  if (shape.dilation_w == 1 && shape.kernel_w == 7 && shape.stride_w == 2) return run_line<7, 2>;
  return run_line<0, 0>;
}

inline bool walks(const DwconvF32Args& args) {
  const DwconvShape& shape = args.weights->shape;
  return shape.kernel_h == 3 && shape.kernel_w == 3 && shape.dilation_h == 1 && shape.dilation_w == 1 &&
         shape.stride_h == shape.stride_w && shape.stride_h <= 2 && args.residual.data == nullptr;
}

// Outputs w .. end - 1 of the line's channels up to `last`.
template <int kStride>
void walk_line(Line line, int64_t last, int64_t w, int64_t end) {
  for (; line.c + Vectors::kLanes <= last; line.c += Vectors::kLanes) walk_3x3<kStride>(line, w, end);
  if (line.c == last) return;
  line.count = static_cast<int>(last - line.c);
  for (; w < end; ++w) tile<1, 3, kStride, true, false>(line, w);
}

// A stretch of columns goes down all rows of a band before the next one.
void run_walks(const DwconvF32Args& args, int64_t task, int64_t tasks) {
  const DwconvShape& shape = args.weights->shape;
  const Grid& grid = args.grid;
  const int64_t channel_bytes = 3 * kWalkPixels * shape.stride_w * static_cast<int64_t>(sizeof(float));
  const int64_t block = kRowBytes / channel_bytes / kAlong * kAlong + kAlong;
  const auto walk = shape.stride_w == 1 ? walk_line<1> : walk_line<2>;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const int64_t lines = grid.n * grid.h, end = lines * (task + 1) / tasks;
  for (int64_t first = lines * task / tasks, stop; first < end; first = stop) {
    stop = least(first + kBand, end);
    for (int64_t c = 0; c < shape.channels; c += block)
      for (int64_t w = 0; w < grid.w; w += kWalkPixels)
        for (int64_t line = first; line < stop; ++line)
          walk({args, line / grid.h, line % grid.h, c, 0}, least(c + block, shape.channels), w,
               least(w + kWalkPixels, grid.w));
  }
}

void run(const DwconvF32Args& args, int64_t task, int64_t tasks) {
  if (walks(args)) return run_walks(args, task, tasks);
  const DwconvShape& shape = args.weights->shape;
  const int64_t lines = args.grid.n * args.grid.h, end = lines * (task + 1) / tasks;
  const int64_t width = args.width > 0 ? args.width : 1;  // beside an image of no width there is its border
  const int64_t channel_bytes = shape.kernel_h * width * static_cast<int64_t>(sizeof(float));
  const int64_t block = kRowBytes / channel_bytes / kAlong * kAlong + kAlong;
  const RunLine run_one = choose(shape);
  for (int64_t first = lines * task / tasks, stop; first < end; first = stop) {
    stop = first + kBand < end ? first + kBand : end;
    for (int64_t c = 0; c < shape.channels; c += block) {
      const int64_t last = c + block < shape.channels ? c + block : shape.channels;
      for (int64_t line = first; line < stop; ++line)
        run_one(Line{args, line / args.grid.h, line % args.grid.h, c, 0}, last);
    }
  }
}

}  // namespace
}  // namespace lowbit::kernels::dwconv_f32
