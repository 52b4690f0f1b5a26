// A row sixteen codes a step, written once over Lanes.
#pragma once

#include "base/half.h"
#include "kernels/gather/gather.h"
#include "simd/lanes.h"

namespace lowbit::kernels::gather {
namespace {

constexpr int64_t kAhead = 8;  // rows that are fetched before they are read

struct Put {
  static void many(float* y, const Lanes& codes, const Lanes& scale) { store(y, codes * scale); }
  static void one(float* y, float code, float scale) { *y = code * scale; }
};
struct Add {
  static void many(float* y, const Lanes& codes, const Lanes& scale) { store(y, fma(codes, scale, load(y))); }
  static void one(float* y, float code, float scale) { *y = __builtin_fmaf(code, scale, *y); }
};

// A group's codes begin with a byte.
template <class To, int kBits>
inline void few_bits(const uint8_t* codes, int64_t count, int zero_point, float scale, float* y) {
  constexpr int kPlaces = 8 / kBits;
  const Lanes multiplier = splat(scale);
  const auto sixteen = [=](const uint8_t* p) {
    return kBits == 4 ? load_nibbles(p, zero_point) : load_quarters(p, zero_point);
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) To::many(y + i, sixteen(codes + i / kPlaces), multiplier);
  for (; i < count; ++i) {
    const int code = codes[i / kPlaces] >> i % kPlaces * kBits & ((1 << kBits) - 1);
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

// weight: what scales are multiplied by.
template <class To>
inline void gather_row(const GatherTable& table, int64_t row, float weight, float* y) {
  const uint8_t* codes = table.codes + row * table.row_bytes;
  if (table.bits == 8) {
    const float scale = static_cast<const float*>(table.scales)[row] * weight;
    return bytes<To>(reinterpret_cast<const int8_t*>(codes), table.k, scale, y);
  }
  const auto* scales = static_cast<const uint16_t*>(table.scales);
  const int64_t size = table.group_size;
  const auto group = table.bits == 4 ? few_bits<To, 4> : few_bits<To, 2>;
  for (int64_t g = row * table.groups; g < (row + 1) * table.groups; ++g, codes += size * table.bits / 8, y += size) {
    const int zero_point = table.zero_points == nullptr ? 1 << (table.bits - 1) : table.zero_points[g];
    group(codes, size, zero_point, float_from_half(scales[g]) * weight, y);
  }
}

void run(const GatherTable& table, const int64_t* rows, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) __builtin_prefetch(table.codes + rows[i + kAhead] * table.row_bytes);
    gather_row<Put>(table, rows[i], 1.0f, y + i * table.k);
  }
}

void add(const GatherTable& table, int64_t row, float weight, float* y) { gather_row<Add>(table, row, weight, y); }

}  // namespace
}  // namespace lowbit::kernels::gather
