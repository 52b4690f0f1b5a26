// What the files of this folder give to the table in gather_i4.cpp, and how they walk along a row.
#pragma once

#include "base/half.h"
#include "kernels/gather_i4/gather_i4.h"

namespace lowbit::kernels {

void gather_i4_scalar(const GemmI4Source& table, int64_t row, float* y);
void gather_i4_avx2(const GemmI4Source& table, int64_t row, float* y);
void gather_i4_avx512vnni(const GemmI4Source& table, int64_t row, float* y);

namespace {

// Calls group(codes, count, zero point, scale, y) for each of a row's; the codes of a group begin with a byte.
template <class Group>
void each_group(const GemmI4Source& table, int64_t row, float* y, Group&& group) {
  const int64_t groups = table.k / table.group_size;
  const uint8_t* codes = table.codes + row * ((table.k + 1) / 2);
  for (int64_t g = row * groups; g < (row + 1) * groups; ++g) {
    const int zero_point = table.zero_points == nullptr ? 8 : table.zero_points[g];
    group(codes, table.group_size, zero_point, float_from_half(table.scales[g]), y);
    codes += table.group_size / 2;
    y += table.group_size;
  }
}

// The codes from number `from` on, one by one.
inline void one_by_one(const uint8_t* codes, int64_t from, int64_t count, int zero_point, float scale, float* y) {
  for (int64_t i = from; i < count; ++i) {
    const int code = i % 2 == 0 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
    y[i] = static_cast<float>(code - zero_point) * scale;
  }
}

}  // namespace
}  // namespace lowbit::kernels
