// A row sixteen codes a step, written once over Lanes.
#pragma once

#include "base/half.h"
#include "kernels/gather/gather.h"
#include "simd/lanes.h"

namespace lowbit::kernels::gather {
namespace {

constexpr int64_t kAhead = 8;  // rows that are fetched before they are read

// What is done with a row's numbers, code * scale, and with its offsets.
struct Put {
  static void many(float* y, const Lanes& codes, const Lanes& scale) { store(y, codes * scale); }
  static void one(float* y, float code, float scale) { *y = code * scale; }
  static void offset(float* y, float offset, float) { *y += offset; }
};
struct Add {
  static void many(float* y, const Lanes& codes, const Lanes& scale) { store(y, fma(codes, scale, load(y))); }
  static void one(float* y, float code, float scale) { *y = __builtin_fmaf(code, scale, *y); }
  static void offset(float* y, float offset, float weight) { *y = __builtin_fmaf(offset, weight, *y); }
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

inline float number(const void* numbers, bool wide, int64_t place) {
  return wide ? static_cast<const float*>(numbers)[place]
              : float_from_half(static_cast<const uint16_t*>(numbers)[place]);
}

// weight: what scales and offsets are multiplied by.
template <class To>
inline void gather_row(const GatherTable& table, int64_t row, float weight, float* y) {
  const uint8_t* codes = table.codes + row * table.row_bytes;
  const int64_t size = table.group_size, bytes_of_group = size * table.bits / 8;
  const int centre = table.offsets == nullptr ? 1 << (table.bits - 1) : 0;
  const auto group = table.bits == 4 ? few_bits<To, 4> : few_bits<To, 2>;
  for (int64_t g = row * table.groups; g < (row + 1) * table.groups; ++g, codes += bytes_of_group, y += size) {
    const float scale = number(table.scales, table.wide, g) * weight;
    if (table.bits == 8) {
      bytes<To>(reinterpret_cast<const int8_t*>(codes), size, scale, y);
    } else {
      group(codes, size, table.zero_points == nullptr ? centre : table.zero_points[g], scale, y);
    }
    if (table.offsets == nullptr) continue;
    const float offset = number(table.offsets, table.wide_offsets, g);
    for (int64_t i = 0; i < size; ++i) To::offset(y + i, offset, weight);
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
