// One row, written once over Lanes; each ISA file includes it.
#pragma once

#include "kernels/eltwise/lanes.h"
#include "kernels/norm/inner.h"

namespace lowbit::kernels {
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

// The affine step of `n` adjacent elements, each with its own weight or one for all.
template <bool kOwn>
inline void affine(const float* x, float* y, int64_t n, const Lanes& mean, const Lanes& scale, const float* weight,
                   const float* bias) {
  const auto at = [](const float* p, int64_t i, auto count) {
    if constexpr (kOwn) return load(p + i, count);
    return splat(*p);
  };
  if (weight && bias)
    return map_row(x, y, n, [&](const Lanes& v, int64_t i, auto count) {
      return fma((v - mean) * scale, at(weight, i, count), at(bias, i, count));
    });
  if (weight)
    return map_row(x, y, n,
                   [&](const Lanes& v, int64_t i, auto count) { return (v - mean) * scale * at(weight, i, count); });
  if (bias)
    return map_row(x, y, n,
                   [&](const Lanes& v, int64_t i, auto count) { return (v - mean) * scale + at(bias, i, count); });
  map_row(x, y, n, [&](const Lanes& v, int64_t, auto) { return (v - mean) * scale; });
}

void normalize_row(const NormArgs& args, const float* x, float* y, const float* weight, const float* bias) {
  const float count = static_cast<float>(args.row);
  float center = 0.0f;
  if (args.centered) center = sum_of(x, args.row, [](const Lanes& v, const Lanes& sum) { return sum + v; }) / count;
  const Lanes mean = splat(center);
  const float square = sum_of(x, args.row, [&](const Lanes& v, const Lanes& sum) {
    const Lanes d = v - mean;
    return fma(d, d, sum);
  });
  const Lanes scale = splat(1.0f) / sqrt(splat(square / count + args.eps));
  if (args.inner == 1) return affine<true>(x, y, args.row, mean, scale, weight, bias);
  for (int64_t i = 0, c = 0; i < args.row; i += args.inner, ++c)
    affine<false>(x + i, y + i, args.inner, mean, scale, weight ? weight + c : nullptr, bias ? bias + c : nullptr);
}

}  // namespace
}  // namespace lowbit::kernels
