// What the float depthwise loops know of an output row.
#pragma once

#include "kernels/dwconv_f32/dwconv_f32.h"
#include "simd/unroll.h"
#include "simd/vectors.h"

namespace lowbit::kernels::dwconv_f32 {
namespace {

using Float = Vectors::Float;

// A vector of channels of an output row.
struct Line {
  const DwconvF32Args& args;
  int64_t n, h, c;
  int count;  // channels that exist, where they are fewer than a vector

  // The image row that kernel row i meets, at pixel 0.
  LOWBIT_INLINE const float* row(int64_t i) const {
    const int64_t at = h * args.weights->shape.stride_h - args.top + i * args.weights->shape.dilation_h;
    return (at >= 0 && at < args.height ? args.x.data + args.x.offset(n, at, 0) : args.border) + c;
  }
};

}  // namespace
}  // namespace lowbit::kernels::dwconv_f32
