// What the two 256-bit policies of tile.h share: everything but the dot product. Derived gives
// dot(acc, x, w, x', w') = acc + the eight products of a lane.
#pragma once

#include "kernels/gemm_i4/tile.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

template <class Derived>
struct Nibbles256 : Avx2 {
  static LOWBIT_INLINE Float half(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWBIT_INLINE Int bytes(const uint8_t* p) { return load_codes(p, kLanes); }

  static LOWBIT_INLINE int32_t sum(const uint8_t* x, int64_t count) {
    Int sums = _mm256_setzero_si256();
    for (; count >= 32; x += 32, count -= 32)
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(load(x), _mm256_setzero_si256()));
    alignas(32) int64_t quarters[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(quarters), sums);
    int64_t total = quarters[0] + quarters[1] + quarters[2] + quarters[3];
    for (; count > 0; --count) total += *x++;
    return static_cast<int32_t>(total);
  }

  template <int kRows, int kVectors>
  static LOWBIT_INLINE void step(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                 Int (&acc)[kRows][kVectors]) {
    const Int mask = _mm256_set1_epi8(15);
    Int low[kVectors], high[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Int pairs = load(w + v * 32);
      if (v % 2 == 0 && kRows > 2) __builtin_prefetch(w + v * 32 + 1024);
      low[v] = _mm256_and_si256(pairs, mask);
      high[v] = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), mask);
    }
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Int x_low = broadcast_quad(x[r] + k), x_high = broadcast_quad(x[r] + k + 4);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Derived::dot(acc[r][v], x_low, low[v], x_high, high[v]);
    }
  }
};

}  // namespace
}  // namespace lowbit::kernels
