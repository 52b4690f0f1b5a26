// The micro-kernel, once for all ISAs: kRows rows x kVectors vectors of output channels, accumulators in registers for
// one group, floats in memory (a tile of them stays in L1). A policy V gives the vectors (simd/vectors256.h,
// vectors512.h) and
//
//   V::step(x, k, w, acc)   acc += the products of eight k, which start at x[r] + k and at w
//   V::half(p), V::bytes(p) a vector of half floats as floats, of bytes as int32
//   V::sum(x, count)        the sum of so many bytes
//
// Included by ISA files only: everything has internal linkage.
#pragma once

#include "kernels/gemm_i4/gemm_i4.h"
#include "kernels/store.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

template <class V, int kRows, int kVectors>
struct Tile {
  using Int = typename V::Int;
  using Float = typename V::Float;
  static constexpr int kColumns = kVectors * V::kLanes;

  static void run(const GemmI4Tile& t) {
    alignas(64) float sums[kRows * kColumns];
    t.depth.run == t.depth.k ? multiply<false>(t, sums) : multiply<true>(t, sums);
    store_any<V, kVectors>(t, sums, kRows);
    if (t.epilogue->output == DType::u8 && t.epilogue->table != nullptr)
      change_codes<GemmI4Tile::kMaxRows, kColumns>(t, kRows);
  }

  // A single tap is told apart, for the loop over taps costs more registers than there are.
  template <bool kTaps>
  static LOWBIT_INLINE void multiply(const GemmI4Tile& t, float* sums) {
    const GemmI4Depth& depth = t.depth;
    const uint8_t* x[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = t.x[r] + (kTaps ? 0 : depth.taps[0]);
    const uint8_t* w = t.panel;
    int64_t group = 0, tap_end = depth.run, shift = kTaps ? depth.taps[0] : 0;
    const int64_t* tap = depth.taps;
    for (int64_t k = 0; k < depth.k; ++group) {
      const int64_t end = k + depth.group_size < depth.k ? k + depth.group_size : depth.k;
      const uint8_t* scales = w;
      Int acc[kRows][kVectors];
      start(t, group, w, acc);
      w += gemm_i4_head(kColumns, t.affine);
      while (kTaps && tap_end < end) {
        for (; k < tap_end; k += 8, w += kColumns * 4) V::step(x, k + shift, w, acc);
        k = tap_end;
        shift = *++tap - k;
        tap_end += depth.run;
      }
      for (; k < end; k += 8, w += kColumns * 4) V::step(x, k + shift, w, acc);
      k = end;
      group == 0 ? add<true>(t, acc, scales, sums) : add<false>(t, acc, scales, sums);
    }
  }

  static LOWBIT_INLINE float* at(float* sums, int r, int v) { return sums + r * kColumns + v * V::kLanes; }

  // acc = -zero_point * the group's sum of x.
  static LOWBIT_INLINE void start(const GemmI4Tile& t, int64_t group, const uint8_t* head,
                                  Int (&acc)[kRows][kVectors]) {
    if (!t.affine) {
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Int sum = V::broadcast(-8 * t.group_sums[r][group]);
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) acc[r][v] = sum;
      }
      return;
    }
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Int zero_points = V::bytes(head + 2 * kColumns + v * V::kLanes);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) acc[r][v] = V::multiply(zero_points, V::broadcast(-t.group_sums[r][group]));
    }
  }

  // To what the zero point of x makes of all weights, or to the groups before.
  template <bool kFirst>
  static LOWBIT_INLINE void add(const GemmI4Tile& t, Int (&acc)[kRows][kVectors], const uint8_t* scales, float* sums) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Float scale = V::half(scales + v * V::kLanes * 2);
      Float offset;
      if constexpr (kFirst) offset = V::load_floats(t.offsets + v * V::kLanes);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        float* sum = at(sums, r, v);
        Float before;
        if constexpr (kFirst) before = V::multiply(V::broadcast(-static_cast<float>(t.zero_points[r])), offset);
        if constexpr (!kFirst) before = V::load_floats(sum);
        V::store(sum, V::fma(V::to_float(acc[r][v]), scale, before), V::kLanes);
      }
    }
  }
};

// The tiles of 1 .. kRows rows.
template <class V, int kRows, int kVectors>
consteval Tiles<GemmI4Tile> tiles() {
  Tiles<GemmI4Tile> result{};
  if constexpr (kRows > 1) result = tiles<V, kRows - 1, kVectors>();
  result.of_rows[kRows - 1] = Tile<V, kRows, kVectors>::run;
  return result;
}

// The sums of x over each group. V::sum(x, count): of bytes.
template <class V>
void sum_groups(const uint8_t* x, const GemmI4Depth& depth, int32_t* sums) {
  each_part(depth, [&](int64_t group, int64_t tap, int64_t k, int64_t length) {
    const uint8_t* part = x + depth.taps[tap] + k - tap * depth.run;
    sums[group] = (k == group * depth.group_size ? 0 : sums[group]) + V::sum(part, length);
  });
}

}  // namespace
}  // namespace lowbit::kernels
