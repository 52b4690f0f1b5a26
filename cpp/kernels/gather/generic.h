// A row sixteen codes a step, written once over Lanes.
#pragma once

#include "base/half.h"
#include "kernels/gather/gather.h"
#include "simd/lanes.h"

namespace lowbit::kernels::gather {
namespace {

struct Put {
  static void many(float* y, const Lanes& codes, const Lanes& scale) { store(y, codes * scale); }
  static void one(float* y, float code, float scale) { *y = code * scale; }
};
struct Add {
  static void many(float* y, const Lanes& codes, const Lanes& scale) { store(y, fma(codes, scale, load(y))); }
  static void one(float* y, float code, float scale) { *y = __builtin_fmaf(code, scale, *y); }
};

// A group's codes begin with a byte.
template <class To>
inline void nibbles(const uint8_t* codes, int64_t count, int zero_point, float scale, float* y) {
  const Lanes multiplier = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) To::many(y + i, load_nibbles(codes + i / 2, zero_point), multiplier);
  for (; i < count; ++i) {
    const int code = i % 2 == 0 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
    To::one(y + i, static_cast<float>(code - zero_point), scale);
  }
}

template <class To>
inline void bytes(const int8_t* codes, int64_t count, float scale, float* y) {
  const Lanes multiplier = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) To::many(y + i, load_signed(codes + i), multiplier);
  for (; i < count; ++i) To::one(y + i, static_cast<float>(codes[i]), scale);
}

// scale_of: from a stored scale.
template <class To, class F>
inline void gather_row(const GatherTable& table, int64_t row, float* y, F scale_of) {
  const uint8_t* codes = table.codes + row * table.row_bytes();
  const int64_t groups = table.groups(), size = table.group_size;
  for (int64_t g = row * groups; g < (row + 1) * groups; ++g, y += size) {
    if (table.bits == 8) {
      bytes<To>(reinterpret_cast<const int8_t*>(codes), size, scale_of(static_cast<const float*>(table.scales)[g]), y);
      codes += size;
    } else {
      const int zero_point = table.zero_points == nullptr ? 8 : table.zero_points[g];
      const float scale = scale_of(float_from_half(static_cast<const uint16_t*>(table.scales)[g]));
      nibbles<To>(codes, size, zero_point, scale, y);
      codes += size / 2;
    }
  }
}

void run(const GatherTable& table, int64_t row, float* y) {
  gather_row<Put>(table, row, y, [](float scale) { return scale; });
}

void add(const GatherTable& table, int64_t row, float weight, float* y) {
  gather_row<Add>(table, row, y, [=](float scale) { return scale * weight; });
}

}  // namespace
}  // namespace lowbit::kernels::gather
