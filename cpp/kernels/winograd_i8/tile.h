// The four steps, once for all instruction sets. A policy V gives what vectors256.h and vectors512.h do, and
//
//   V::Words                   lanes of 16 bits, V::kWords of them
//   V::widen(p)                u8 or s8 codes as words
//   V::add_words(a, b) ...     also subtract_words, twice, fourfold, store_words
//   V::broadcast_pair(p)       two words, the same in every lane of 32 bits
//   V::dot_words(acc, x, w)    acc + the two products of a lane, modulo 2^32
//
// Included by ISA files only: everything has internal linkage.
#pragma once

#include "kernels/store.h"
#include "kernels/winograd_i8/winograd_i8.h"

namespace lowbit::kernels {
namespace {

constexpr int kVectors = 2;  // of a panel

// One factor of G' g, where 24 G = G' but for factors and signs that A' and B' have instead. One by one, for all six of
// three columns would not fit the registers.
template <class V, int kFactor>
LOWBIT_INLINE typename V::Words factor(const typename V::Words (&g)[3]) {
  if constexpr (kFactor == 0) return V::add_words(V::twice(g[0]), V::fourfold(g[0]));
  if constexpr (kFactor == 1) return V::fourfold(V::add_words(V::add_words(g[0], g[2]), g[1]));
  if constexpr (kFactor == 2) return V::fourfold(V::subtract_words(V::add_words(g[0], g[2]), g[1]));
  if constexpr (kFactor == 3) return V::add_words(V::add_words(g[0], V::fourfold(g[2])), V::twice(g[1]));
  if constexpr (kFactor == 4) return V::subtract_words(V::add_words(g[0], V::fourfold(g[2])), V::twice(g[1]));
  return V::add_words(V::fourfold(g[2]), V::twice(V::fourfold(g[2])));
}

// g: [column][row] of a window.
template <class V, int kRow>
LOWBIT_INLINE void store_row(const typename V::Words (&g)[3][3], int16_t* to, int64_t position) {
  const typename V::Words row[3] = {factor<V, kRow>(g[0]), factor<V, kRow>(g[1]), factor<V, kRow>(g[2])};
  to += 6 * kRow * position;
  V::store_words(to, factor<V, 0>(row));
  V::store_words(to + position, factor<V, 1>(row));
  V::store_words(to + 2 * position, factor<V, 2>(row));
  V::store_words(to + 3 * position, factor<V, 3>(row));
  V::store_words(to + 4 * position, factor<V, 4>(row));
  V::store_words(to + 5 * position, factor<V, 5>(row));
}

template <class V>
void transform_weights(const WinogradI8Filter& f) {
  constexpr int kPair = kVectors * V::kWords;
  const int8_t* w = f.panel;
  for (int64_t pair = 0; pair < f.pairs; ++pair, w += 9 * kPair)
    for (int v = 0; v < kVectors; ++v) {
      typename V::Words g[3][3];
      LOWBIT_UNROLL
      for (int tap = 0; tap < 9; ++tap) g[tap % 3][tap / 3] = V::widen(w + tap * kPair + v * V::kWords);
      int16_t* to = f.weights + pair * kPair + v * V::kWords;
      store_row<V, 0>(g, to, f.position);
      store_row<V, 1>(g, to, f.position);
      store_row<V, 2>(g, to, f.position);
      store_row<V, 3>(g, to, f.position);
      store_row<V, 4>(g, to, f.position);
      store_row<V, 5>(g, to, f.position);
    }
}

// B' d.
template <class V>
LOWBIT_INLINE void to_positions(const typename V::Words (&d)[6], typename V::Words (&v)[6]) {
  using Words = typename V::Words;
  const Words d42 = V::subtract_words(d[4], d[2]), d31 = V::twice(V::subtract_words(d[3], d[1]));
  v[0] = V::add_words(V::fourfold(V::subtract_words(d[0], d[2])), d42);
  v[1] = V::subtract_words(V::fourfold(V::add_words(d[1], d[2])), V::add_words(d[3], d[4]));
  v[2] = V::add_words(V::fourfold(V::subtract_words(d[2], d[1])), V::subtract_words(d[3], d[4]));
  v[3] = V::add_words(d42, d31);
  v[4] = V::subtract_words(d42, d31);
  v[5] = V::subtract_words(V::subtract_words(d[5], d[3]), V::twice(d31));
}

template <class V>
void transform_input(const WinogradI8Input& in) {
  using Words = typename V::Words;
  for (int64_t c = 0; c < in.channels; c += V::kWords) {
    Words half[6][6];
    for (int i = 0; i < 6; ++i) {
      Words d[6];
      LOWBIT_UNROLL
      for (int j = 0; j < 6; ++j) d[j] = V::widen(in.rows[i] + in.columns[j] + c);
      to_positions<V>(d, half[i]);
    }
    for (int j = 0; j < 6; ++j) {
      Words d[6], v[6];
      LOWBIT_UNROLL
      for (int i = 0; i < 6; ++i) d[i] = half[i][j];
      to_positions<V>(d, v);
      LOWBIT_UNROLL
      for (int i = 0; i < 6; ++i) V::store_words(in.planes + (6 * i + j) * in.plane + c, v[i]);
    }
  }
}

template <class V, int kRows>
void multiply(const WinogradI8Product& p) {
  constexpr int kColumns = kVectors * V::kLanes;
  typename V::Int acc[kRows][kVectors];
  LOWBIT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      acc[r][v] = p.adds ? V::load(p.sums + r * kColumns + v * V::kLanes) : V::broadcast(0);
  }
  const int16_t* x[kRows];
  LOWBIT_UNROLL
  for (int r = 0; r < kRows; ++r) x[r] = p.x + r * p.row;
  const int16_t* w = p.weights;
  for (int64_t pair = 0; pair < p.pairs; ++pair, w += 2 * kColumns) {
    typename V::Int weights[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) weights[v] = V::load(w + 2 * v * V::kLanes);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const typename V::Int codes = V::broadcast_pair(x[r] + 2 * pair);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::dot_words(acc[r][v], codes, weights[v]);
    }
  }
  LOWBIT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) V::store(p.sums + r * kColumns + v * V::kLanes, acc[r][v]);
  }
}

// A' m, where weights hold all factors but those that would not fit them.
template <class V>
LOWBIT_INLINE void to_pixels(const typename V::Int (&m)[6], typename V::Int (&y)[4]) {
  using Int = typename V::Int;
  const Int p = V::add(m[1], m[2]), q = V::subtract(m[1], m[2]);
  const Int r = V::add(m[3], m[4]), s = V::template shift_left<1>(V::subtract(m[3], m[4]));
  y[0] = V::add(V::add(m[0], p), r);
  y[1] = V::add(q, s);
  y[2] = V::add(p, V::template shift_left<2>(r));
  y[3] = V::add(V::add(q, V::template shift_left<2>(s)), V::template shift_left<1>(m[5]));
}

// acc of all pixels, [height * width][vectors].
template <class V>
LOWBIT_INLINE void transform_sums(const WinogradI8Output& t, int32_t* sums) {
  using Int = typename V::Int;
  for (int v = 0; v < kVectors; ++v) {
    const Int offset = V::multiply(V::load(t.column_sums + v * V::kLanes), V::broadcast(t.x_zero_point));
    Int half[4][6];
    for (int j = 0; j < 6; ++j) {
      Int m[6], y[4];
      LOWBIT_UNROLL
      for (int i = 0; i < 6; ++i) m[i] = V::load(t.sums + (6 * i + j) * t.plane + v * V::kLanes);
      to_pixels<V>(m, y);
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) half[i][j] = y[i];
    }
    for (int i = 0; i < t.height; ++i) {
      Int y[4];
      to_pixels<V>(half[i], y);
      LOWBIT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const Int ninth = V::multiply(y[j], V::broadcast(static_cast<int32_t>(0x38e38e39)));  // 1 / 9 modulo 2^32
        if (j < t.width)
          V::store(sums + ((i * t.width + j) * kVectors + v) * V::kLanes,
                   V::subtract(V::template shift_right<6>(ninth), offset));
      }
    }
  }
}

// The epilogue to codes that saturation bounds.
template <class V, bool kResidual>
LOWBIT_INLINE void store_bounded(const WinogradI8Output& t, const int32_t* sums, int rows) {
  const typename V::Float residual_multiplier = V::broadcast(t.epilogue->residual_multiplier);
  typename V::Float multiplier[kVectors], bias[kVectors];
  LOWBIT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    multiplier[v] = V::load_floats(t.multiplier + v * V::kLanes);
    bias[v] = V::load_floats(t.bias + v * V::kLanes);
  }
  for (int r = 0; r < rows; ++r, sums += kVectors * V::kLanes) {
    typename V::Float value[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      value[v] = V::fma(V::to_float(V::load(sums + v * V::kLanes)), multiplier[v], bias[v]);
      if constexpr (kResidual) {
        const auto residual = V::load_codes(t.residual[r] + t.channel + v * V::kLanes, t.columns - v * V::kLanes);
        value[v] = V::fma(V::to_float(residual), residual_multiplier, value[v]);
      }
    }
    V::template store_codes<kVectors>(row_of<uint8_t>(t, r), value, t.columns);
  }
}

template <class V>
void transform_output(const WinogradI8Output& t) {
  constexpr int kColumns = kVectors * V::kLanes, kPixels = Winograd::kOut * Winograd::kOut;
  alignas(64) int32_t sums[kPixels * kColumns];
  transform_sums<V>(t, sums);
  const Epilogue& e = *t.epilogue;
  const int rows = t.height * t.width;
  if (e.output == DType::f32 || !e.bounded || t.slope != nullptr) {
    alignas(64) float floats[kPixels * kColumns];
    for (int i = 0; i < rows * kColumns; i += V::kLanes)
      V::store(floats + i, V::to_float(V::load(sums + i)), V::kLanes);
    store_any<V, kVectors>(t, floats, rows);
  } else if (t.residual != nullptr) {
    store_bounded<V, true>(t, sums, rows);
  } else {
    store_bounded<V, false>(t, sums, rows);
  }
  if (e.changes_codes()) change_codes<kPixels, kColumns>(t, rows);
}

// Products of 1 .. kRows rows.
template <class V, int kRows>
consteval Tiles<WinogradI8Product> products() {
  Tiles<WinogradI8Product> result{};
  if constexpr (kRows > 1) result = products<V, kRows - 1>();
  result.of_rows[kRows - 1] = multiply<V, kRows>;
  return result;
}

}  // namespace
}  // namespace lowbit::kernels
