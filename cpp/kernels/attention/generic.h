// The softmax of one row of scores, written once over Lanes.
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

// top is -inf, too, where every other score is NaN: then the general path must make the row NaN.
void softmax_row(const SoftmaxRow& row) {
  const float top = scale_and_mask(row);
  if (top == -__builtin_inff()) {
    bool empty = true;
    for (int64_t i = 0; i < row.n; ++i) empty &= row.x[i] == top;
    if (empty) {
      for (int64_t i = 0; i < row.n; ++i) row.x[i] = row.nan_if_empty ? __builtin_nanf("") : 0.0f;
      return;
    }
  }
  exp_and_divide(row.x, row.x, row.n, top);
}

}  // namespace
}  // namespace lowbit::kernels::attention
