// The two halves of softmax over a row of adjacent floats, over Lanes. The order of the sum: kernels/eltwise/eltwise.h.
#pragma once

#include "simd/functions.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

// -inf of nothing. A NaN among x makes every comparison with it false: exp_and_divide carries it on.
inline float highest_of(const float* x, int64_t n) {
  Lanes highest = splat(-__builtin_inff());
  int64_t done = 0;
  for (; done + kLanes <= n; done += kLanes) highest = greater(load(x + done), highest);
  float top = highest_lane(highest);
  for (; done < n; ++done) top = x[done] > top ? x[done] : top;
  return top;
}

// y = exp(x - top) / sum(exp(x - top)): all NaN if any x is, because exp(NaN - top) is NaN and so is the sum.
LOWBIT_INLINE void exp_and_divide(const float* x, float* y, int64_t n, float top) {
  const Lanes shift = splat(top);
  Lanes sums = splat(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Lanes e = exp(load(x + i) - shift);
    store(y + i, e);
    sums = sums + e;
  }
  if (i < n) {
    store(y + i, exp(load(x + i, n - i) - shift), n - i);
    sums = sums + load(y + i, n - i);  // zero past the end
  }
  const Lanes total = splat(sum_lanes(sums));
  for_lanes(n, [&](int64_t i, auto count) { store(y + i, load(y + i, count) / total, count); });
}

}  // namespace
}  // namespace lowbit::kernels
