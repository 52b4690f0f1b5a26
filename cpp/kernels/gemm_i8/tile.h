// The micro-kernel, once for all ISAs: kRows rows x kVectors vectors of output channels, accumulators in registers, a
// four-k step a turn. A policy V gives the vector type and its few operations:
//
//   V::Int, V::Float        int32 and float lanes             V::kLanes   how many
//   V::Operand              four activations as dot() wants them, the same in every lane
//   V::kOperandBytes        of memory from one operand() to the next
//   V::kXOffset             what operand() subtracts from x: dot() computes sum (x - kXOffset) * w
//   V::kRowSums             to which the row's row_sums must be added
//   V::kTogether            the row's `together`
//   V::kStoresFloats        whether registers suffice to end with floats there and then
//   V::dot(acc, x, w)       acc + the four products of a lane, exact in int32
//   V::fma(a, b, c)         a * b + c, rounded once
//   V::add_products(t, acc) instead of dot(), operand() and kOperandBytes, the whole product
//   V::store_codes<n>(...)  round to nearest even, narrow to u8 by saturation, store; for |value| < 2^30
//   V::store_rows(...)      the same of all rows, whole vectors; for kTogether
//
// Included by ISA files only: everything has internal linkage.
#pragma once

#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/store.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

// How far ahead in the weights to prefetch, in bytes: few rows stream them from L3 or memory as fast as it goes.
constexpr int64_t prefetch_bytes(int rows, int lanes) { return 4 * rows <= lanes ? 12288 : 1536; }

// Converted here, for the compiler would hoist what all ends of a tile have in common, and lack registers in its loop.
template <class V, int kVectors>
__attribute__((noinline)) void store_sums(const GemmI8Tile& t, const int32_t* sums, int rows) {
  alignas(64) float floats[GemmI8Tile::kMaxRows * kVectors * V::kLanes];
  for (int i = 0; i < rows * kVectors * V::kLanes; i += V::kLanes)
    V::store(floats + i, V::to_float(V::load(sums + i)), V::kLanes);
  store_any<V, kVectors>(t, floats, rows);
}

template <class V, int kRows, int kVectors>
struct Tile {
  using Int = typename V::Int;
  using Float = typename V::Float;
  static constexpr int kColumns = kVectors * V::kLanes;

  static void run(const GemmI8Tile& first) {
    if constexpr (!V::kTogether) return run_one(first);
    if constexpr (V::kTogether) {
      if (is_plain(first)) return run_all(first);
    }
    GemmI8Tile t = first;
    for (int64_t left = t.tiles; left > 0; --left, t.skip(kRows)) run_one(t);
  }

  // What most tiles end with.
  enum class End { codes, residual_codes, floats, scaled_floats };

  static bool is_plain(const GemmI8Tile& t) {
    const Epilogue& e = *t.epilogue;
    if (t.slope != nullptr) return false;
    if (e.output == DType::f32) return t.residual == nullptr;
    return e.bounded && !e.changes_codes() && t.columns == kColumns;
  }

  static LOWBIT_INLINE void run_all(const GemmI8Tile& t) {
    if (t.epilogue->output == DType::f32)
      return t.row_scales != nullptr ? run_plain<End::scaled_floats>(t) : run_plain<End::floats>(t);
    t.residual != nullptr ? run_plain<End::residual_codes>(t) : run_plain<End::codes>(t);
  }

  // Of short sums, what is around them takes as long as they do: as little as possible is done tile by tile.
  template <End kEnd>
  static __attribute__((noinline)) void run_plain(const GemmI8Tile& first) {
    GemmI8Tile t = first;
    alignas(64) int32_t common[kColumns];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      V::store(common + v * V::kLanes,
               V::multiply(V::load(t.column_sums + v * V::kLanes), V::broadcast(V::kXOffset - t.x_zero_point)));
    for (int64_t left = t.tiles; left > 0; --left, t.skip(kRows)) {
      Int acc[kRows][kVectors];
      if (t.row_zero_points != nullptr) {
        start(t, acc);
      } else {
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const Int begin = V::load(common + v * V::kLanes);
          LOWBIT_UNROLL
          for (int r = 0; r < kRows; ++r) acc[r][v] = V::kRowSums ? V::add(begin, V::broadcast(t.row_sums[r])) : begin;
        }
      }
      add_products(t, acc);
      if constexpr (kEnd == End::floats || kEnd == End::scaled_floats) {
        store_floats<kEnd == End::scaled_floats>(t, acc);
      } else {
        store_all_codes<kEnd == End::residual_codes>(t, acc);
      }
    }
  }

  template <bool kResidual>
  static LOWBIT_INLINE void store_all_codes(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    Float value[kRows][kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Float multiplier = V::load_floats(t.multiplier + v * V::kLanes);
      const Float bias = V::load_floats(t.bias + v * V::kLanes);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        value[r][v] = V::fma(V::to_float(acc[r][v]), multiplier, bias);
        if constexpr (kResidual) {
          const Int residual = V::load_codes(t.residual[r] + t.channel + v * V::kLanes, V::kLanes);
          value[r][v] = V::fma(V::to_float(residual), V::broadcast(t.epilogue->residual_multiplier), value[r][v]);
        }
      }
    }
    V::store_rows(t.y, t.channel, value);
  }

  static LOWBIT_INLINE void add_products(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    if constexpr (requires { V::add_products(t, acc); }) {
      V::add_products(t, acc);
    } else {
      multiply(t, acc);
    }
  }

  static LOWBIT_INLINE void run_one(const GemmI8Tile& t) {
    Int acc[kRows][kVectors];
    start(t, acc);
    add_products(t, acc);
    const bool floats = t.epilogue->output == DType::f32;
    if constexpr (V::kStoresFloats) {
      if (floats && t.row_scales != nullptr && t.columns == kColumns && t.slope == nullptr && t.residual == nullptr) {
        asm volatile("" ::
                         : "memory");  // or what only this end needs is loaded before the products, and lacks registers
        return store_floats<true, kColumns>(t, acc);
      }
    }
    if (floats || !t.epilogue->bounded || t.slope != nullptr) {
      spill(t, acc);
    } else if (t.residual != nullptr) {
      store_codes<true>(t, acc);
    } else {
      store_codes<false>(t, acc);
    }
    if (t.epilogue->changes_codes()) change_codes<GemmI8Tile::kMaxRows, kColumns>(t, kRows);
  }

  // acc = (kXOffset - x_zero_point) * column_sum [+ row_sum], so that the sums come out as sum (x - x_zero_point) * w.
  static LOWBIT_INLINE void start(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Int sums = V::load(t.column_sums + v * V::kLanes);
      const Int common = V::multiply(sums, V::broadcast(V::kXOffset - t.x_zero_point));
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) acc[r][v] = common;
      if (t.row_zero_points != nullptr) {
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r) acc[r][v] = V::multiply(sums, V::broadcast(V::kXOffset - t.row_zero_points[r]));
      }
      if constexpr (V::kRowSums) {
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r) acc[r][v] = V::add(acc[r][v], V::broadcast(t.row_sums[r]));
      }
    }
  }

  // A single tap is told apart, for the loop over taps costs more registers than there are.
  static LOWBIT_INLINE void multiply(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    if (t.tap_count == 1) return multiply_run(t, t.taps[0], t.panel, acc);
    const int8_t* w = t.panel;
    for (int64_t tap = 0; tap < t.tap_count; ++tap, w += t.quads * kColumns * 4) multiply_run(t, t.taps[tap], w, acc);
  }

  static LOWBIT_INLINE void multiply_run(const GemmI8Tile& t, int64_t tap, const int8_t* w,
                                         Int (&acc)[kRows][kVectors]) {
    const uint8_t* x[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = t.x[r] + tap;
    for (int64_t at = 0; at < t.quads * V::kOperandBytes; at += V::kOperandBytes, w += kColumns * 4) {
      Int weights[kVectors];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        weights[v] = V::load(w + v * V::kLanes * 4);
        if (v * V::kLanes * 4 % 64 == 0) __builtin_prefetch(w + v * V::kLanes * 4 + prefetch_bytes(kRows, V::kLanes));
      }
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const typename V::Operand operand = V::operand(x[r] + at);
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) acc[r][v] = V::dot(acc[r][v], operand, weights[v]);
      }
    }
  }

  template <bool kResidual>
  static LOWBIT_INLINE void store_codes(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    const Epilogue& e = *t.epilogue;
    Float multiplier[kVectors], bias[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      multiplier[v] = V::load_floats(t.multiplier + v * V::kLanes);
      bias[v] = V::load_floats(t.bias + v * V::kLanes);
    }
    const Float residual_multiplier = V::broadcast(e.residual_multiplier);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      Float value[kVectors];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        value[v] = V::fma(V::to_float(acc[r][v]), multiplier[v], bias[v]);
        if constexpr (kResidual) {
          const Int residual = V::load_codes(t.residual[r] + t.channel + v * V::kLanes, t.columns - v * V::kLanes);
          value[v] = V::fma(V::to_float(residual), residual_multiplier, value[v]);
        }
      }
      V::template store_codes<kVectors>(row_of<uint8_t>(t, r), value, t.columns);
    }
  }

  // kKnown: channels to store, if it is known; else t.columns.
  template <bool kScales, int kKnown = 0>
  static LOWBIT_INLINE void store_floats(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    const Float low = V::broadcast(t.epilogue->min), high = V::broadcast(t.epilogue->max);
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int count = (kKnown > 0 ? kKnown : t.columns) - v * V::kLanes;
      if (count <= 0) break;
      const Float multiplier = V::load_floats(t.multiplier + v * V::kLanes);
      const Float bias = V::load_floats(t.bias + v * V::kLanes);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        Float value = V::to_float(acc[r][v]);
        if constexpr (kScales) {
          value = V::fma(V::multiply(value, multiplier), V::broadcast(t.row_scales[r]), bias);
        } else {
          value = V::fma(value, multiplier, bias);
        }
        V::store(row_of<float>(t, r) + v * V::kLanes, V::clamp(value, low, high), count);
      }
    }
  }

  static LOWBIT_INLINE void spill(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    alignas(64) int32_t sums[kRows * kColumns];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) V::store(sums + r * kColumns + v * V::kLanes, acc[r][v]);
    }
    store_sums<V, kVectors>(t, sums, kRows);
  }
};

// The tiles of 1 .. kRows rows.
template <class V, int kRows, int kVectors>
consteval Tiles<GemmI8Tile> tiles() {
  Tiles<GemmI8Tile> result{};
  if constexpr (kRows > 1) result = tiles<V, kRows - 1, kVectors>();
  result.of_rows[kRows - 1] = Tile<V, kRows, kVectors>::run;
  return result;
}

}  // namespace
}  // namespace lowbit::kernels
