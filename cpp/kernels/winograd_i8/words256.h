// What the transformations ask for beside vectors256.h.
#pragma once

#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

struct Words256 : Avx2 {
  using Words = __m256i;
  static constexpr int kWords = 16;

  static LOWBIT_INLINE Words widen(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWBIT_INLINE Words widen(const int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWBIT_INLINE void store_words(int16_t* p, Words a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static LOWBIT_INLINE Words add_words(Words a, Words b) { return _mm256_add_epi16(a, b); }
  static LOWBIT_INLINE Words subtract_words(Words a, Words b) { return _mm256_sub_epi16(a, b); }
  static LOWBIT_INLINE Words twice(Words a) { return _mm256_slli_epi16(a, 1); }
  static LOWBIT_INLINE Words fourfold(Words a) { return _mm256_slli_epi16(a, 2); }

  static LOWBIT_INLINE Int broadcast_pair(const int16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return _mm256_set1_epi32(pair);
  }
  static LOWBIT_INLINE Int subtract(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  template <int kBits>
  static LOWBIT_INLINE Int shift_left(Int a) {
    return _mm256_slli_epi32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE Int shift_right(Int a) {
    return _mm256_srai_epi32(a, kBits);
  }
};

}  // namespace
}  // namespace lowbit::kernels
