// The micro-kernel, once for all ISAs: kRows rows x kVectors vectors of output channels, one accumulator an output, k
// ascending, so that the vector length changes no bit. V gives the vectors (simd/vectors256.h, vectors512.h).
//
// Included by ISA files only: everything has internal linkage.
#pragma once

#include "kernels/gemm_f32/gemm_f32.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kPrefetch =
    384;  // floats ahead in the weights, which a small number of rows streams from L3 or memory

template <class V, int kRows, int kVectors>
struct Tile {
  using Float = typename V::Float;
  static constexpr int kColumns = kVectors * V::kLanes;

  static void run(const GemmF32Tile& t) {
    Float acc[kRows][kVectors];
    multiply(t, acc);
    if (t.residual != nullptr) {
      store<true>(t, acc);
    } else {
      store<false>(t, acc);
    }
  }

  static LOWBIT_INLINE void multiply(const GemmF32Tile& t, Float (&acc)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::broadcast(0.0f);
    }
    const float* w = t.panel;
    for (int64_t tap = 0; tap < t.tap_count; ++tap) {
      const float* x[kRows];
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) x[r] = t.x[r] + t.taps[tap];
      for (int64_t k = 0; k < t.run; ++k, w += kColumns) {
        Float weights[kVectors];
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          weights[v] = V::load_floats(w + v * V::kLanes);
          if (v * V::kLanes * 4 % 64 == 0) __builtin_prefetch(w + v * V::kLanes + kPrefetch);
        }
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const Float value = V::broadcast(x[r][k]);
          LOWBIT_UNROLL
          for (int v = 0; v < kVectors; ++v) acc[r][v] = V::fma(value, weights[v], acc[r][v]);
        }
      }
    }
  }

  template <bool kResidual>
  static LOWBIT_INLINE void store(const GemmF32Tile& t, Float (&acc)[kRows][kVectors]) {
    const Float min = V::broadcast(t.min), max = V::broadcast(t.max);
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int first = v * V::kLanes, count = t.columns - first;
      const Float bias = t.bias != nullptr ? V::load_floats(t.bias + first, count) : V::broadcast(0.0f);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        Float value = V::add(acc[r][v], bias);
        if constexpr (kResidual) value = V::add(value, V::load_floats(t.residual[r] + t.channel + first, count));
        V::store(t.y[r] + t.channel + first, V::clamp(value, min, max), count);
      }
    }
  }
};

// The tiles of 1 .. kRows rows.
template <class V, int kRows, int kVectors>
consteval Tiles<GemmF32Tile> tiles() {
  Tiles<GemmF32Tile> result{};
  if constexpr (kRows > 1) result = tiles<V, kRows - 1, kVectors>();
  result.of_rows[kRows - 1] = Tile<V, kRows, kVectors>::run;
  return result;
}

}  // namespace
}  // namespace lowbit::kernels
