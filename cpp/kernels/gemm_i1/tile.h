// The micro-kernel, once for all ISAs: rows times a vector of output channels, one word of 32 k in a lane.
//
// Bits that differ are counted by carry-save adders (Harley and Seal; Muła, Kurz, Lemire,
// https://arxiv.org/abs/1611.07612): eight words become one of weight eight and carries, which stay in registers, so
// that bits are counted only once in eight words. A policy V gives the vectors (simd/vectors256.h, vectors512.h) and
//
//   V::kTogether, V::kHalves  rows that are worked on at once, and whether half a block is worth while
//   V::unlike<kZeros>(w, x)   positive ^ (w & nonzero), of the words at x, in all lanes; without kZeros, positive ^ w
//   V::full_add(a, b, c, carry)    a + b + c, bit by bit: the lower bits; carry gets the upper ones
//   V::both(a, b), V::either(a, b)  bits that are set in both, or in one of them
//   V::counts(a)              of each byte the number of its bits
//   V::add_bytes(a, b)
//   V::above(a), V::below(a)  a bit for each float of a vector that is above, or below, zero; V::is_zero(a)
//   V::sum<kTimes>(acc, a)    acc of 32 bits += kTimes * the bytes of a
//
// Included by ISA files only: everything has internal linkage.
#pragma once

#include "kernels/gemm_i1/gemm_i1.h"
#include "kernels/store.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

// kZeros: whether a number may be zero.
template <class V, int kRows, bool kZeros>
struct Counter {
  using Int = typename V::Int;
  static constexpr int kBlock = 8;    // words
  static constexpr int kBlocks = 31;  // whose counts bytes hold

  Int ones[kRows], twos[kRows], fours[kRows], eights[kRows], sums[kRows];

  LOWBIT_INLINE Counter() {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) ones[r] = twos[r] = fours[r] = eights[r] = sums[r] = V::zero();
  }

  static LOWBIT_INLINE Int unlike(Int w, const uint8_t* x, int64_t word) {
    return V::template unlike<kZeros>(w, x + word * kSignBytes);
  }

  // Two words, from `word` on: the carry into twos.
  LOWBIT_INLINE void two(const uint8_t* const (&x)[kRows], const uint8_t* w, int word, Int (&carry)[kRows]) {
    const Int w0 = V::load(w + word * V::kLanes * 4), w1 = V::load(w + (word + 1) * V::kLanes * 4);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r)
      ones[r] = V::full_add(ones[r], unlike(w0, x[r], word), unlike(w1, x[r], word + 1), carry[r]);
  }

  LOWBIT_INLINE void four(const uint8_t* const (&x)[kRows], const uint8_t* w, int word, Int (&carry)[kRows]) {
    Int a[kRows], b[kRows];
    two(x, w, word, a);
    two(x, w, word + 2, b);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) twos[r] = V::full_add(twos[r], a[r], b[r], carry[r]);
  }

  LOWBIT_INLINE void block(const uint8_t* const (&x)[kRows], const uint8_t* w) {
    Int a[kRows], b[kRows], carry;
    four(x, w, 0, a);
    four(x, w, 4, b);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      fours[r] = V::full_add(fours[r], a[r], b[r], carry);
      eights[r] = V::add_bytes(eights[r], V::counts(carry));
    }
  }

  LOWBIT_INLINE void half_block(const uint8_t* const (&x)[kRows], const uint8_t* w) {
    Int carry[kRows];
    four(x, w, 0, carry);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      eights[r] = V::add_bytes(eights[r], V::counts(V::both(fours[r], carry[r])));
      fours[r] = V::either(fours[r], carry[r]);
    }
  }

  LOWBIT_INLINE void single(const uint8_t* const (&x)[kRows], const uint8_t* w, int64_t count) {
    Int bytes[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) bytes[r] = V::zero();
    for (int64_t i = 0; i < count; ++i) {
      const Int word = V::load(w + i * V::kLanes * 4);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) bytes[r] = V::add_bytes(bytes[r], V::counts(unlike(word, x[r], i)));
    }
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) sums[r] = V::template sum<1>(sums[r], bytes[r]);
  }

  LOWBIT_INLINE void flush() {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) sums[r] = V::template sum<8>(sums[r], eights[r]), eights[r] = V::zero();
  }

  LOWBIT_INLINE Int total(int r) const {
    Int few = V::counts(fours[r]);
    few = V::add_bytes(V::add_bytes(few, few), V::counts(twos[r]));
    few = V::add_bytes(V::add_bytes(few, few), V::counts(ones[r]));
    return V::template sum<1>(V::template sum<8>(sums[r], eights[r]), few);
  }
};

template <class V, int kRows, bool kZeros>
LOWBIT_INLINE void count(const GemmI1Tile& t, int first, float* sums) {
  using Int = typename V::Int;
  using Count = Counter<V, kRows, kZeros>;
  Count counter;
  const uint8_t* w = t.panel;
  int64_t room = Count::kBlocks;
  for (int64_t tap = 0; tap < t.tap_count; ++tap) {
    const uint8_t* x[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = t.x[first + r] + t.taps[tap];
    int64_t blocks = t.run / Count::kBlock;
    while (blocks > 0) {
      int64_t now = blocks < room ? blocks : room;
      blocks -= now, room -= now;
      for (; now > 0; --now, w += Count::kBlock * V::kLanes * 4) {
        counter.block(x, w);
        LOWBIT_UNROLL
        for (int r = 0; r < kRows; ++r) x[r] += Count::kBlock * kSignBytes;
      }
      if (room == 0) counter.flush(), room = Count::kBlocks;
    }
    int64_t words = t.run % Count::kBlock;
    if (V::kHalves && words >= Count::kBlock / 2) {
      counter.half_block(x, w);
      words -= Count::kBlock / 2, w += Count::kBlock / 2 * V::kLanes * 4;
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) x[r] += Count::kBlock / 2 * kSignBytes;
      if (--room == 0) counter.flush(), room = Count::kBlocks;
    }
    if (words > 0) counter.single(x, w, words), w += words * V::kLanes * 4;
  }
  LOWBIT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const Int total = counter.total(r);
    const Int sum = V::subtract(V::broadcast(t.nonzero[first + r]), V::twice(total));
    V::store(sums + r * V::kLanes, V::to_float(sum), V::kLanes);
  }
}

template <class V, int kRows>
LOWBIT_INLINE void count_rows(const GemmI1Tile& t, int first, float* sums) {
  const int64_t numbers = t.tap_count * t.run * kSigns;
  bool zeros = false;
  LOWBIT_UNROLL
  for (int r = 0; r < kRows; ++r) zeros |= t.nonzero[first + r] != numbers;
  zeros ? count<V, kRows, true>(t, first, sums) : count<V, kRows, false>(t, first, sums);
}

template <class V, int kRows>
void tile(const GemmI1Tile& t) {
  alignas(64) float sums[kRows * V::kLanes];
  int row = 0;
  for (; row + V::kTogether <= kRows; row += V::kTogether) count_rows<V, V::kTogether>(t, row, sums + row * V::kLanes);
  if constexpr (kRows % V::kTogether != 0) count_rows<V, kRows % V::kTogether>(t, row, sums + row * V::kLanes);
  store_any<V, 1>(t, sums, kRows);
  if (t.epilogue->output == DType::u8 && t.epilogue->table != nullptr)
    change_codes<GemmI1Tile::kMaxRows, V::kLanes>(t, kRows);
}

// The words of numbers.
template <class V, int kZero>
void signs_of(const float* x, int64_t count, uint8_t* words) {
  for (; count > 0; x += kSigns, count -= kSigns, words += kSignBytes) {
    uint32_t above = 0, below = 0, zero = 0;
    for (int i = 0; i < kSigns && i < count; i += V::kLanes) {
      const auto left = static_cast<int>(count < kSigns ? count - i : V::kLanes);
      const typename V::Float numbers = V::load_floats(x + i, left);
      above |= V::above(numbers) << i;
      if constexpr (kZero == 0) below |= V::below(numbers) << i;
      if constexpr (kZero == 1) zero |= V::is_zero(numbers) << i;
    }
    const uint32_t all = count < kSigns ? (1u << count) - 1 : ~0u;
    const uint32_t pair[] = {(above | zero) & all, kZero == 0 ? above | below : all};
    __builtin_memcpy(words, pair, kSignBytes);
  }
}

template <class V>
void signs(const float* x, int64_t count, int zero, uint8_t* words) {
  if (zero == 0) return signs_of<V, 0>(x, count, words);
  zero > 0 ? signs_of<V, 1>(x, count, words) : signs_of<V, -1>(x, count, words);
}

// The tiles of 1 .. kRows rows.
template <class V, int kRows>
consteval Tiles<GemmI1Tile> tiles() {
  Tiles<GemmI1Tile> result{};
  if constexpr (kRows > 1) result = tiles<V, kRows - 1>();
  result.of_rows[kRows - 1] = tile<V, kRows>;
  return result;
}

}  // namespace
}  // namespace lowbit::kernels
