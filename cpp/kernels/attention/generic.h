// The weights of one row of scores, written once over Lanes.
#pragma once

#include "kernels/attention/attention.h"
#include "simd/softmax.h"

namespace lowbit::kernels::attention {
namespace {

// x = f(x, index, count) in place; the highest of the results.
template <class F>
inline float map_and_find_highest(float* x, int64_t n, F f) {
  Lanes highest = splat(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Lanes y = f(load(x + i), i, Full{});
    store(x + i, y);
    highest = greater(y, highest);
  }
  float top = highest_lane(highest);
  if (i == n) return top;
  store(x + i, f(load(x + i, n - i), i, n - i), n - i);
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

inline float scale_and_mask(const SoftmaxRow& row) {
  const Lanes scale = splat(row.scale), dropped = splat(-__builtin_inff()), zero = splat(0.0f);
  const auto* floats = static_cast<const float*>(row.mask);
  const auto* flags = static_cast<const uint8_t*>(row.mask);
  if (row.mask == nullptr || (!row.floats && row.column == 0 && *flags != 0))
    return map_and_find_highest(row.x, row.n, [&](const Lanes& x, int64_t, auto) { return x * scale; });
  if (row.floats && row.column == 0) {
    const Lanes add = splat(*floats);
    return map_and_find_highest(row.x, row.n, [&](const Lanes& x, int64_t, auto) { return x * scale + add; });
  }
  if (row.floats)
    return map_and_find_highest(
        row.x, row.n, [&](const Lanes& x, int64_t i, auto count) { return x * scale + load(floats + i, count); });
  if (row.column == 0) return map_and_find_highest(row.x, row.n, [&](const Lanes&, int64_t, auto) { return dropped; });
  return map_and_find_highest(row.x, row.n, [&](const Lanes& x, int64_t i, auto count) {
    return select(load_codes(flags + i, 0, count) > zero, x * scale, dropped);
  });
}

// Whether all scores are -inf: then the row is filled.
inline bool is_empty(const SoftmaxRow& row, float top, float fill) {
  bool empty = top == -__builtin_inff();  // it is, too, where every other score is NaN
  for (int64_t i = 0; empty && i < row.n; ++i) empty = row.x[i] == top;
  for (int64_t i = 0; empty && i < row.n; ++i) row.x[i] = fill;
  return empty;
}

void softmax_row(const SoftmaxRow& row) {
  const float top = scale_and_mask(row);
  if (is_empty(row, top, row.nan_if_empty ? __builtin_nanf("") : 0.0f)) return;
  exp_and_divide(row.x, row.x, row.n, top);
}

// The scores of a row are x * factor; top is the highest x.
struct Scores {
  float factor, top;
};

// Scaled now, or by the factor where the highest x is the highest score and nothing is added.
inline Scores masked_scores(const SoftmaxRow& row) {
  const Lanes scale = splat(row.scale), dropped = splat(-__builtin_inff()), zero = splat(0.0f);
  const auto* floats = static_cast<const float*>(row.mask);
  const auto* flags = static_cast<const uint8_t*>(row.mask);
  const auto mapped = [&](float factor, auto f) { return Scores{factor, map_and_find_highest(row.x, row.n, f)}; };
  if (row.mask != nullptr && row.floats) {
    if (row.column == 0)
      return mapped(1.0f, [&, add = splat(*floats)](const Lanes& x, int64_t, auto) { return fma(x, scale, add); });
    return mapped(1.0f, [&](const Lanes& x, int64_t i, auto count) { return fma(x, scale, load(floats + i, count)); });
  }
  if (!(row.scale > 0.0f)) map_and_find_highest(row.x, row.n, [&](const Lanes& x, int64_t, auto) { return x * scale; });
  const float factor = row.scale > 0.0f ? row.scale : 1.0f;
  if (row.mask == nullptr || __builtin_memchr(flags, 0, row.column == 0 ? 1 : static_cast<size_t>(row.n)) == nullptr)
    return {factor, highest_of(row.x, row.n)};
  if (row.column == 0) return mapped(factor, [&](const Lanes&, int64_t, auto) { return dropped; });
  return mapped(factor, [&](const Lanes& x, int64_t i, auto count) {
    return select(load_codes(flags + i, 0, count) > zero, x, dropped);
  });
}

float weigh_row(const SoftmaxRow& row) {
  const Scores scores = masked_scores(row);
  if (is_empty(row, scores.top, 0.0f)) return row.nan_if_empty ? __builtin_nanf("") : 1.0f;
  const Lanes factor = splat(scores.factor), shift = splat(-(scores.top * scores.factor));
  const auto weight = [&](const Lanes& x) { return exp_or_zero(fma(x, factor, shift)); };
  Lanes sums[2] = {splat(0.0f), splat(0.0f)};
  int64_t i = 0;
  for (; i + 2 * kLanes <= row.n; i += 2 * kLanes) {
    for (int j = 0; j < 2; ++j) {
      const Lanes e = weight(load(row.x + i + j * kLanes));
      store(row.x + i + j * kLanes, e);
      sums[j] = sums[j] + e;
    }
  }
  for_lanes(row.n - i, [&](int64_t k, auto count) {
    store(row.x + i + k, weight(load(row.x + i + k, count)), count);
    sums[0] = sums[0] + load(row.x + i + k, count);  // zero past the end
  });
  return 1.0f / sum_lanes(sums[0] + sums[1]);
}

void multiply_row(float* y, int64_t n, float factor) {
  const Lanes multiplier = splat(factor);
  for_lanes(n, [&](int64_t i, auto count) { store(y + i, load(y + i, count) * multiplier, count); });
}

}  // namespace
}  // namespace lowbit::kernels::attention
