// What the two 256-bit policies of tile.h share: everything but the products.
#pragma once

#include "kernels/gemm_i4/tile.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Codes256 : Avx2 {
  static constexpr int kBits = kBitsOfCode;
  static LOWBIT_INLINE Float half(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWBIT_INLINE Int bytes(const uint8_t* p) { return load_codes(p, kLanes); }

  static LOWBIT_INLINE int32_t sum(const uint8_t* x, int64_t count) { return sum_of<true>(x, count); }
  // Of the last four of each eight.
  static LOWBIT_INLINE int32_t high_sum(const uint8_t* x, int64_t count) { return sum_of<false>(x, count); }
  template <bool kAll>
  static LOWBIT_INLINE int32_t sum_of(const uint8_t* x, int64_t count) {
    const Int counted = _mm256_set1_epi64x(kAll ? -1 : ~0xffffffffll);
    Int sums = _mm256_setzero_si256();
    for (; count >= 32; x += 32, count -= 32)
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_and_si256(load(x), counted), _mm256_setzero_si256()));
    alignas(32) int64_t quarters[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(quarters), sums);
    int64_t total = quarters[0] + quarters[1] + quarters[2] + quarters[3];
    for (int64_t i = 0; i < count; ++i) total += kAll || i % 8 >= 4 ? x[i] : 0;
    return static_cast<int32_t>(total);
  }

  // The codes of a pair of fours in each byte.
  template <int kPair, int kVectors>
  static LOWBIT_INLINE void unpack(const uint8_t* w, Int (&low)[kVectors], Int (&high)[kVectors]) {
    const Int mask = _mm256_set1_epi8(highest_code(kBits));
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      Int packed = load(w + v * 32);
      asm("" : "+x"(packed));  // else it would be loaded twice, and loads are scarce
      low[v] = _mm256_and_si256(kPair == 0 ? packed : _mm256_srli_epi16(packed, 2 * kPair * kBits), mask);
      high[v] = _mm256_and_si256(_mm256_srli_epi16(packed, (2 * kPair + 1) * kBits), mask);
    }
  }
  // Few rows stream the weights as fast as they come without.
  template <int kRows>
  static LOWBIT_INLINE void prefetch(const uint8_t* w) {
    if constexpr (kRows > 2) __builtin_prefetch(w + 1024);
  }
};

}  // namespace
}  // namespace lowbit::kernels
