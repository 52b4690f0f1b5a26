// One row, written once over Lanes.
#pragma once

#include "kernels/norm/norm.h"
#include "simd/lanes.h"

namespace lowbit::kernels::norm {
namespace {

constexpr int64_t kBlock = 4096;  // elements whose sums stay in the first level of lanes

// The sum in the order of norm.h; f(x, sum) adds what x contributes.
template <class F>
inline float sum_of(const float* x, int64_t n, F f) {
  Lanes total = splat(0.0f);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    Lanes part[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes)
      for (int j = 0; j < 4; ++j) part[j] = f(load(x + i + j * kLanes), part[j]);
    for (int j = 0; i < end; i += kLanes, ++j) {
      if (i + kLanes <= end) {
        part[j] = f(load(x + i), part[j]);
        continue;
      }
      alignas(64) float lanes[kLanes], before[kLanes];  // lanes past the end keep their sums
      store(before, part[j]);
      store(lanes, f(load(x + i, end - i), part[j]));
      for (int64_t lane = end - i; lane < kLanes; ++lane) lanes[lane] = before[lane];
      part[j] = load(lanes);
    }
    total = total + ((part[0] + part[1]) + (part[2] + part[3]));
  }
  return sum_lanes(total);
}

template <class F>
inline void map_row(const float* x, float* y, int64_t n, F f) {
  for_lanes(n, [&](int64_t i, auto count) { store(y + i, f(load(x + i, count), i, count), count); });
}

// A mean in two floats, because one would be off by as much as half its last place.
struct Mean {
  float high = 0.0f, low = 0.0f;
};

inline float middle_of(float a, float b, float c) {
  const float low = a < b ? a : b, high = a < b ? b : a, rest = high < c ? high : c;
  return low < rest ? rest : low;
}

inline Mean mean_of(const float* x, int64_t n, float inverse) {
  const float near = middle_of(x[0], x[n / 2], x[n - 1]);
  const Lanes one = splat(1.0f), shift = splat(-near);  // v - near as a fused product: sums keep the adders busy
  const float apart =
      sum_of(x, n, [&](const Lanes& v, const Lanes& sum) { return sum + fma(v, one, shift); }) * inverse;
  const float high = near + apart, part = high - near;  // what rounding takes from a sum (Knuth's TwoSum)
  return {high, (near - (high - part)) + (apart - part)};
}

// The mean of (x - mean)^2: that of (x - high)^2 is larger by low^2.
inline float variance_of(const float* x, int64_t n, float inverse, const Mean& mean) {
  const Lanes high = splat(mean.high);
  const float sum = sum_of(x, n, [&](const Lanes& v, const Lanes& total) {
    const Lanes d = v - high;
    return fma(d, d, total);
  });
  return sum * inverse - mean.low * mean.low;
}

// The affine step of a row in which each element has its own weight and bias.
inline void affine(const float* x, float* y, int64_t n, const Mean& mean, float root, const float* weight,
                   const float* bias) {
  const Lanes high = splat(mean.high), low = splat(mean.low), scale = splat(root);
  const auto normal = [&](const Lanes& v) { return ((v - high) - low) * scale; };
  if (weight && bias)
    return map_row(x, y, n, [&](const Lanes& v, int64_t i, auto count) {
      return fma(normal(v), load(weight + i, count), load(bias + i, count));
    });
  if (weight)
    return map_row(x, y, n, [&](const Lanes& v, int64_t i, auto count) { return normal(v) * load(weight + i, count); });
  if (bias)
    return map_row(x, y, n, [&](const Lanes& v, int64_t i, auto count) { return normal(v) + load(bias + i, count); });
  map_row(x, y, n, [&](const Lanes& v, int64_t, auto) { return normal(v); });
}

// That of a channel's pixels.
inline void affine_channel(const float* x, float* y, int64_t n, const Mean& mean, float factor, float offset) {
  const Lanes high = splat(mean.high), low = splat(mean.low), multiplier = splat(factor), addend = splat(offset);
  map_row(x, y, n, [&](const Lanes& v, int64_t, auto) { return fma((v - high) - low, multiplier, addend); });
}

void normalize_row(const NormArgs& args, const float* x, float* y, const float* weight, const float* bias) {
  const float inverse = 1.0f / static_cast<float>(args.row);
  const Mean mean = args.centered && args.row > 0 ? mean_of(x, args.row, inverse) : Mean{};
  const float scale = 1.0f / __builtin_sqrtf(variance_of(x, args.row, inverse, mean) + args.eps);
  if (args.inner == 1) return affine(x, y, args.row, mean, scale, weight, bias);
  for (int64_t i = 0, c = 0; i < args.row; i += args.inner, ++c)
    affine_channel(x + i, y + i, args.inner, mean, weight ? scale * weight[c] : scale, bias ? bias[c] : 0.0f);
}

}  // namespace
}  // namespace lowbit::kernels::norm
