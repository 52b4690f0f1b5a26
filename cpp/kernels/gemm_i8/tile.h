// The micro-kernel, once for all ISAs: kRows rows x kVectors vectors of output channels, accumulators in registers, a
// four-k step a turn. A policy V gives the vector type and its few operations:
//
//   V::Int, V::Float        int32 and float lanes             V::kLanes   how many
//   V::Operand              four activations as dot() wants them, the same in every lane
//   V::kXOffset             what operand() subtracts from x: dot() computes sum (x - kXOffset) * w
//   V::dot(acc, x, w)       acc + the four products of a lane, exact in int32
//   V::store_codes<n>(...)  min, round to nearest even, add the zero point, max, narrow to u8, store
//
// Included by ISA files only: everything has internal linkage.
#pragma once

#include "kernels/gemm_i8/tiles.h"
#include "kernels/unroll.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kPrefetchBytes =
    1536;  // ahead in the weights, which a small number of rows streams from L3 or memory

__attribute__((noinline)) void look_up(const GemmI8Tile& t, int rows) {
  const uint8_t* table = t.epilogue->table;
  for (int r = 0; r < rows; ++r) {
    uint8_t* codes = static_cast<uint8_t*>(t.y[r]);
    for (int c = 0; c < t.columns; ++c) codes[c] = table[codes[c]];
  }
}

// The f32 epilogue over accumulators in memory: out of line and in a loop, for it is the rarer output, and unrolled it
// would double the code of every tile height.
template <class V>
__attribute__((noinline)) void store_floats(const GemmI8Tile& t, const int32_t* sums, int rows, int stride) {
  const Epilogue& e = *t.epilogue;
  for (int c = 0; c < t.columns; c += V::kLanes) {
    const int count = t.columns - c;
    const typename V::Float multiplier = V::load(t.multiplier + c, count), bias = V::load(t.bias + c, count);
    for (int r = 0; r < rows; ++r) {
      typename V::Float value = V::multiply(V::to_float(V::load(sums + r * stride + c)), multiplier);
      if (t.scaled) value = V::multiply(value, V::broadcast(t.row_scales[r]));
      value = V::add(value, bias);
      if (t.residual[0] != nullptr) {
        const auto residual = V::subtract(V::load_codes(t.residual[r] + c, count), V::broadcast(e.residual_zero_point));
        value = V::add(value, V::multiply(V::to_float(residual), V::broadcast(e.residual_multiplier)));
      }
      V::store(static_cast<float*>(t.y[r]) + c, V::clamp(value, V::broadcast(e.min), V::broadcast(e.max)), count);
    }
  }
}

template <class V, int kRows, int kVectors>
struct Tile {
  using Int = typename V::Int;
  using Float = typename V::Float;
  static constexpr int kColumns = kVectors * V::kLanes;

  static void run(const GemmI8Tile& t) {
    Int acc[kRows][kVectors];
    start(t, acc);
    multiply(t, acc);
    if (t.epilogue->output == DType::f32) {
      spill(t, acc);
    } else if (t.residual[0] != nullptr) {
      store_codes<true>(t, acc);
    } else {
      store_codes<false>(t, acc);
    }
  }

  // acc = (kXOffset - x_zero_point) * column_sum, so that the sums come out as sum (x - x_zero_point) * w.
  static LOWBIT_INLINE void start(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Int sums = V::load(t.column_sums + v * V::kLanes);
      const Int common = V::multiply(sums, V::broadcast(V::kXOffset - t.x_zero_point));
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) acc[r][v] = common;
      if (t.dynamic) {
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r) acc[r][v] = V::multiply(sums, V::broadcast(V::kXOffset - t.row_zero_points[r]));
      }
    }
  }

  static LOWBIT_INLINE void multiply(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    const int8_t* w = t.panel;
    for (int64_t tap = 0; tap < t.tap_count; ++tap) {
      const uint8_t* x[kRows];
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) x[r] = t.x[r] + t.taps[tap];
      for (int64_t k = 0; k < t.quads * 4; k += 4, w += kColumns * 4) {
        Int weights[kVectors];
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          weights[v] = V::load(w + v * V::kLanes * 4);
          if (v * V::kLanes * 4 % 64 == 0) __builtin_prefetch(w + v * V::kLanes * 4 + kPrefetchBytes);
        }
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const typename V::Operand operand = V::operand(x[r] + k);
          LOWBIT_UNROLL
          for (int v = 0; v < kVectors; ++v) acc[r][v] = V::dot(acc[r][v], operand, weights[v]);
        }
      }
    }
  }

  template <bool kResidual>
  static LOWBIT_INLINE void store_codes(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    const Epilogue& e = *t.epilogue;
    Float multiplier[kVectors], bias[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      multiplier[v] = V::load(t.multiplier + v * V::kLanes, t.columns - v * V::kLanes);
      bias[v] = V::load(t.bias + v * V::kLanes, t.columns - v * V::kLanes);
    }
    const typename V::Codes codes = V::codes(e.zero_point, e.lo, e.hi);
    const Float residual_multiplier = V::broadcast(e.residual_multiplier);
    const Int residual_zero_point = V::broadcast(e.residual_zero_point);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      Float value[kVectors];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        value[v] = V::add(V::multiply(V::to_float(acc[r][v]), multiplier[v]), bias[v]);
        if constexpr (kResidual) {
          const Int residual = V::load_codes(t.residual[r] + v * V::kLanes, t.columns - v * V::kLanes);
          value[v] = V::add(value[v],
                            V::multiply(V::to_float(V::subtract(residual, residual_zero_point)), residual_multiplier));
        }
      }
      V::template store_codes<kVectors>(static_cast<uint8_t*>(t.y[r]), value, codes, t.columns);
    }
    if (e.table != nullptr) look_up(t, kRows);
  }

  static LOWBIT_INLINE void spill(const GemmI8Tile& t, Int (&acc)[kRows][kVectors]) {
    alignas(64) int32_t sums[kRows * kColumns];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) V::store(sums + r * kColumns + v * V::kLanes, acc[r][v]);
    }
    store_floats<V>(t, sums, kRows, kColumns);
  }
};

// The tiles of 1 .. kRows rows.
template <class V, int kRows, int kVectors>
consteval GemmI8Tiles tiles() {
  GemmI8Tiles result{};
  if constexpr (kRows > 1) result = tiles<V, kRows - 1, kVectors>();
  result.of_rows[kRows - 1] = Tile<V, kRows, kVectors>::run;
  return result;
}

}  // namespace
}  // namespace lowbit::kernels
