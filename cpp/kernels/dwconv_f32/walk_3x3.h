// Depthwise 3x3: a vector's weights stay in registers along an output row, whose every output takes nine multiply-adds
// from memory. Sharing what is loaded, among pixels or rows, spares loads that cost nothing, and was slower.
#pragma once

#include "kernels/dwconv_f32/line.h"

namespace lowbit::kernels::dwconv_f32 {
namespace {

template <int kStride>
struct Walk3x3 {
  const float* x[3];  // the first column of each image row
  const float* border;
  float* y;
  int64_t x_next, y_next;  // elements to the next pixel
  Float weight[9];
  Float bias, lo, hi;

  // One output. kEdge: of its three columns, those from `from` to `to` lie in the image.
  template <bool kEdge>
  LOWBIT_INLINE void step(int64_t from, int64_t to) {
    Float acc = Vectors::broadcast(0.0f);
    LOWBIT_UNROLL
    for (int i = 0; i < 3; ++i) {
      LOWBIT_UNROLL
      for (int j = 0; j < 3; ++j) {
        const float* at = kEdge && (j < from || j >= to) ? border : x[i] + j * x_next;
        acc = Vectors::fma(Vectors::load_floats(at), weight[3 * i + j], acc);
      }
      x[i] += kStride * x_next;
    }
    Vectors::store(y, Vectors::clamp(Vectors::add(acc, bias), lo, hi), Vectors::kLanes);
    y += y_next;
  }
};

// Outputs w .. end - 1 of a whole vector of channels.
template <int kStride>
__attribute__((noinline)) void walk_3x3(const Line& line, int64_t w, int64_t end) {
  const DwconvF32Args& args = line.args;
  const int64_t padded = (args.weights->shape.channels + 15) / 16 * 16;
  int64_t pixel = w * kStride - args.left;
  Walk3x3<kStride> walk;
  walk.x_next = args.x.stride_w, walk.y_next = args.y.stride_w;
  for (int i = 0; i < 3; ++i) walk.x[i] = line.row(i) + pixel * walk.x_next;
  walk.border = args.border + line.c;
  walk.y = args.y.data + args.y.offset(line.n, line.h, w) + line.c;
  const float* weights = args.weights->packed.as<float>() + line.c;
  for (int t = 0; t < 9; ++t) walk.weight[t] = Vectors::load_floats(weights + t * padded);
  walk.bias = args.bias ? Vectors::load_floats(args.bias + line.c) : Vectors::broadcast(-0.0f);  // changes no sum
  walk.lo = Vectors::broadcast(args.min), walk.hi = Vectors::broadcast(args.max);
  const int64_t inside = args.width - 3;  // the last pixel whose window does not leave the image
  for (; w < end && pixel < 0; ++w, pixel += kStride) walk.template step<true>(-pixel, args.width - pixel);
  for (; w < end && pixel <= inside; ++w, pixel += kStride) walk.template step<false>(0, 3);
  for (; w < end; ++w, pixel += kStride) walk.template step<true>(-pixel, args.width - pixel);
}

}  // namespace
}  // namespace lowbit::kernels::dwconv_f32
