// A row sixteen codes, eight bytes, a step, written once over Lanes.
#pragma once

#include "base/half.h"
#include "kernels/gather_i4/gather_i4.h"
#include "simd/lanes.h"

namespace lowbit::kernels::gather_i4 {
namespace {

// A group's codes begin with a byte.
inline void group_of(const uint8_t* codes, int64_t count, int zero_point, float scale, float* y) {
  const Lanes multiplier = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, load_nibbles(codes + i / 2, zero_point) * multiplier);
  for (; i < count; ++i) {
    const int code = i % 2 == 0 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
    y[i] = static_cast<float>(code - zero_point) * scale;
  }
}

void gather_row(const GemmI4Source& table, int64_t row, float* y) {
  const int64_t groups = table.k / table.group_size;
  const uint8_t* codes = table.codes + row * ((table.k + 1) / 2);
  for (int64_t g = row * groups; g < (row + 1) * groups; ++g) {
    const int zero_point = table.zero_points == nullptr ? 8 : table.zero_points[g];
    group_of(codes, table.group_size, zero_point, float_from_half(table.scales[g]), y);
    codes += table.group_size / 2;
    y += table.group_size;
  }
}

}  // namespace
}  // namespace lowbit::kernels::gather_i4
