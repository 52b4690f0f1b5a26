// The micro-kernel, once for all ISAs: kRows rows x kVectors vectors of output channels, accumulators in registers for
// one group, floats in memory (a tile of them stays in L1). A policy V gives the vectors (simd/vectors256.h,
// vectors512.h) and
//
//   V::kBits                       of a code
//   V::steps<kBegin>(x, k, count, w, acc)  acc += the products of `count` steps of k, which start at x[r] + k and at
//                                  w; kBegin, asked only of a V that complements: acc = them
//   V::half(p), V::bytes(p)        a vector of half floats as floats, of bytes as int32
//   V::sum(x, count)               the sum of so many bytes
//   V::kComplements                what the row says; if so, V::high_sum(x, count), too: of those that meet
//                                  complements; and where V::kChain > 0, V::chain(x, k, w, acc): acc = the products of
//                                  so many k, V::add_chain(x, k, w, acc): acc += them
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
  static constexpr int64_t kStep = gemm_i4_step(V::kBits);

  static void run(const GemmI4Tile& first) {
    first.kind < GemmI4Kind::half_offsets ? run_kind<false>(first) : run_apart(first);
  }

  // What has offsets, in a function of its own, which leaves the code of the others as it is without.
  [[gnu::noinline]] static void run_apart(const GemmI4Tile& first) { run_kind<true>(first); }

  template <bool kOffsets>
  static LOWBIT_INLINE void run_kind(const GemmI4Tile& first) {
    if constexpr (kRows > 1) {
      run_panel<kOffsets>(first);
    } else {
      GemmI4Tile t = first;
      [[maybe_unused]] const bool plain = has_chain() && is_plain(t);
      for (int64_t left = first.panels; left > 0; --left, t.next_panel(kColumns)) {
        if constexpr (has_chain() && !kOffsets) {
          plain ? run_plain(t) : run_panel<false>(t);
        } else {
          run_panel<kOffsets>(t);
        }
      }
    }
  }

  static constexpr bool has_chain() {
    if constexpr (V::kComplements) return V::kChain > 0;
    return false;
  }

  template <bool kOffsets>
  static LOWBIT_INLINE void run_panel(const GemmI4Tile& t) {
    alignas(64) float sums[kRows * kColumns];
    const bool straddle = t.depth.run != t.depth.k && t.depth.run % t.depth.group_size != 0;
    straddle ? multiply<true, kOffsets>(t, sums) : multiply<false, kOffsets>(t, sums);
    store_any<V, kVectors>(t, sums, kRows);
    if (t.epilogue->output == DType::u8 && t.epilogue->table != nullptr)
      change_codes<GemmI4Tile::kMaxRows, kColumns>(t, kRows);
  }

  static LOWBIT_INLINE bool is_plain(const GemmI4Tile& t) {
    const GemmI4Depth& depth = t.depth;
    return t.kind == GemmI4Kind::symmetric && t.epilogue->output == DType::f32 && depth.run == depth.k &&
           depth.k % depth.group_size == 0 && depth.group_size % 32 == 0;
  }

  // A single row reads its weights as fast as memory gives them, and all that stands between two loads delays the
  // second: so its common case goes in the fewest steps.
  static LOWBIT_INLINE void run_plain(const GemmI4Tile& t) {
    static_assert(kRows == 1);
    const uint8_t* const x[] = {t.x[0] + t.depth.taps[0]};
    const int32_t* group_sum = t.group_sums[0];
    const int64_t depth = t.depth.k, group_size = t.depth.group_size;
    const uint8_t* w = t.panel;
    Totals totals{nullptr, {}};
    begin(t, totals);
    for (int64_t k = 0; k < depth; ++group_sum) {
      const uint8_t* head = w;
      w += gemm_i4_head(kColumns, GemmI4Kind::symmetric);
      Int acc[kRows][kVectors];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[0][v] = V::broadcast(*group_sum);
      for (const int64_t end = k + group_size; k < end; k += V::kChain, w += V::kChain / kStep * kColumns * 4)
        V::add_chain(x, k, w, acc);
      add<false>(t, 0, acc, head, totals);
    }
    const Float low = V::broadcast(t.epilogue->min), high = V::broadcast(t.epilogue->max);
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * V::kLanes, count = t.columns - at;
      if (count <= 0) return;
      V::store(row_of<float>(t, 0) + at, V::clamp(result<V>(t, 0, at, totals.row[v]), low, high), count);
    }
  }

  // What the groups so far make, in memory; of a single row in registers, for each group waits for the one before.
  struct Totals {
    float* memory;
    Float row[kVectors];

    LOWBIT_INLINE Float get(int r, int v) const {
      return kRows == 1 ? row[v] : V::load_floats(memory + r * kColumns + v * V::kLanes);
    }
    LOWBIT_INLINE void set(int r, int v, Float total) {
      kRows == 1 ? void(row[v] = total) : V::store(memory + r * kColumns + v * V::kLanes, total, V::kLanes);
    }
  };

  // Groups that never straddle taps are told apart, for the loop over their parts costs more registers than there are.
  template <bool kStraddle, bool kOffsets>
  static LOWBIT_INLINE void multiply(const GemmI4Tile& t, float* sums) {
    const GemmI4Depth& depth = t.depth;
    const int64_t* tap = depth.taps;
    const uint8_t* x[kRows];
    move(t, *tap, x);
    Totals totals{sums, {}};
    begin(t, totals);
    const uint8_t* w = t.panel;
    int64_t tap_end = depth.run;
    for (int64_t k = 0, group = 0; k < depth.k; ++group) {
      if (k == tap_end) {
        move(t, *++tap - k, x);
        tap_end += depth.run;
      }
      const int64_t end = k + depth.group_size < depth.k ? k + depth.group_size : depth.k;
      const uint8_t* head = w;
      w += head_bytes<kOffsets>(t);
      if constexpr (V::kComplements && !kStraddle) {  // the first products begin the accumulators
        Int acc[kRows][kVectors];
        if (V::kChain > 0 && end - k == V::kChain) {
          V::chain(x, k, w, acc);
          w += V::kChain / kStep * kColumns * 4;
          finish<kOffsets>(t, group, head, acc, totals);
        } else {
          w = steps<true>(x, k, end - k, w, acc);
          finish<kOffsets>(t, group, head, acc, totals);
        }
      } else {
        Int acc[kRows][kVectors];
        start<false, kOffsets>(t, group, head, acc);
        for (; kStraddle && tap_end < end; tap_end += depth.run) {
          w = steps<false>(x, k, tap_end - k, w, acc);
          k = tap_end;
          move(t, *++tap - k, x);
        }
        w = steps<false>(x, k, end - k, w, acc);
        add<kOffsets>(t, group, acc, head, totals);
      }
      k = end;
    }
    for (int v = 0; kRows == 1 && v < kVectors; ++v) V::store(sums + v * V::kLanes, totals.row[v], V::kLanes);
  }

  static LOWBIT_INLINE void move(const GemmI4Tile& t, int64_t shift, const uint8_t* (&x)[kRows]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = t.x[r] + shift;
  }

  template <bool kOffsets>
  static LOWBIT_INLINE void finish(const GemmI4Tile& t, int64_t group, const uint8_t* head, Int (&acc)[kRows][kVectors],
                                   Totals& totals) {
    start<true, kOffsets>(t, group, head, acc);
    add<kOffsets>(t, group, acc, head, totals);
  }

  // The weights behind them.
  template <bool kBegin>
  static LOWBIT_INLINE const uint8_t* steps(const uint8_t* const (&x)[kRows], int64_t k, int64_t length,
                                            const uint8_t* w, Int (&acc)[kRows][kVectors]) {
    const int64_t count = (length + kStep - 1) / kStep;
    V::template steps<kBegin>(x, k, count, w, acc);
    return w + count * kColumns * 4;
  }

  // acc = what the group's sums say; or that besides.
  template <bool kBesides, bool kOffsets>
  static LOWBIT_INLINE void start(const GemmI4Tile& t, int64_t group, const uint8_t* head,
                                  Int (&acc)[kRows][kVectors]) {
    if constexpr (kOffsets) {
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Int sum = V::broadcast(V::kComplements ? t.group_sums[r][2 * group + 1] : 0);
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) put<kBesides>(acc[r][v], sum);
      }
      return;
    }
    if (t.kind == GemmI4Kind::symmetric) {
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Int sum = V::broadcast(t.group_sums[r][group]);
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) put<kBesides>(acc[r][v], sum);
      }
      return;
    }
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Int zero_points = V::bytes(head + 2 * kColumns + v * V::kLanes);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int32_t* sums = t.group_sums[r] + group * (V::kComplements ? 2 : 1);
        put<kBesides>(acc[r][v], V::multiply(zero_points, V::broadcast(sums[0])));
        if constexpr (V::kComplements) put<true>(acc[r][v], V::broadcast(sums[1]));
      }
    }
  }

  template <bool kBesides>
  static LOWBIT_INLINE void put(Int& acc, Int sum) {
    if constexpr (kBesides) {
      acc = V::add(acc, sum);
    } else {
      acc = sum;
    }
  }

  // With what the zero point of x makes of all weights.
  static LOWBIT_INLINE void begin(const GemmI4Tile& t, Totals& totals) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Float offset = V::load_floats(t.offsets + v * V::kLanes);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r)
        totals.set(r, v, V::multiply(V::broadcast(-static_cast<float>(t.zero_points[r])), offset));
    }
  }

  template <bool kOffsets>
  static LOWBIT_INLINE void add(const GemmI4Tile& t, int64_t group, const Int (&acc)[kRows][kVectors],
                                const uint8_t* head, Totals& totals) {
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Float scale = numbers<kOffsets>(t, head, v);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) totals.set(r, v, V::fma(V::to_float(acc[r][v]), scale, totals.get(r, v)));
      if constexpr (kOffsets) {
        const Float offset = numbers<true>(t, head + head_bytes<true>(t) / 2, v);
        constexpr int kSums = V::kComplements ? 2 : 1;
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const Float sum = V::broadcast(static_cast<float>(-t.group_sums[r][kSums * group]));
          totals.set(r, v, V::fma(sum, offset, totals.get(r, v)));
        }
      }
    }
  }

  // gemm_i4_head without its table.
  template <bool kOffsets>
  static LOWBIT_INLINE int64_t head_bytes(const GemmI4Tile& t) {
    if constexpr (kOffsets) return (t.kind == GemmI4Kind::float_offsets ? 8 : 4) * kColumns;
    return 2 * kColumns + (t.kind != GemmI4Kind::symmetric ? (kColumns + 63) / 64 * 64 : 0);
  }

  // A vector of scales, or of offsets.
  template <bool kOffsets>
  static LOWBIT_INLINE Float numbers(const GemmI4Tile& t, const uint8_t* from, int v) {
    if (kOffsets && t.kind == GemmI4Kind::float_offsets)
      return V::load_floats(reinterpret_cast<const float*>(from) + v * V::kLanes);
    return V::half(from + v * V::kLanes * 2);
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

template <class V>
void sum_groups(const uint8_t* x, const GemmI4Depth& depth, bool affine, int32_t* sums) {
  const int count = affine && V::kComplements ? 2 : 1;
  each_part(depth, [&](int64_t group, int64_t tap, int64_t k, int64_t length) {
    const uint8_t* part = x + depth.taps[tap] + k - tap * depth.run;
    int32_t* to = sums + group * count;
    for (int i = 0; i < count && k == group * depth.group_size; ++i) to[i] = 0;
    to[0] -= (affine ? 1 : middle_code(V::kBits)) * V::sum(part, length);
    if constexpr (V::kComplements) to[count - 1] += highest_code(V::kBits) * V::high_sum(part, length);
  });
}

}  // namespace
}  // namespace lowbit::kernels
