// What the two 256-bit policies of tile.h share: everything but the products.
#pragma once

#include "kernels/gemm_s8/tile.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Codes256 : Avx2 {
  static constexpr int kBits = kBitsOfCode;
  static constexpr int kHeld = 2;
  static constexpr int64_t kStep = gemm_i4_step(kBits);
  static LOWBIT_INLINE Float half(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWBIT_INLINE Int bytes(const uint8_t* p) { return load_codes(p, kLanes); }

  // Of each byte the code at that place.
  template <int kPlace, int kVectors>
  static LOWBIT_INLINE void unpack(const uint8_t* w, Int (&codes)[kVectors]) {
    constexpr int kWidth = kBits == 8 ? 4 : kBits;  // codes of eight bits are taken as two halves
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Int packed = load(w + v * 32);
      codes[v] = _mm256_and_si256(kPlace == 0 ? packed : _mm256_srli_epi16(packed, kPlace * kWidth),
                                  _mm256_set1_epi8(highest_code(kWidth)));
    }
  }
  // Two places that follow each other, of one load: the compiler would load twice, and loads are scarce.
  template <int kPlace, int kVectors>
  static LOWBIT_INLINE void unpack(const uint8_t* w, Int (&low)[kVectors], Int (&high)[kVectors]) {
    const Int mask = _mm256_set1_epi8(highest_code(kBits));
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      Int packed = load(w + v * 32);
      asm("" : "+x"(packed));
      low[v] = _mm256_and_si256(kPlace == 0 ? packed : _mm256_srli_epi16(packed, kPlace * kBits), mask);
      high[v] = _mm256_and_si256(_mm256_srli_epi16(packed, (kPlace + 1) * kBits), mask);
    }
  }
  // Few rows stream the weights as fast as they come without.
  template <int kRows>
  static LOWBIT_INLINE void prefetch(const uint8_t* w) {
    if constexpr (kRows > 2) __builtin_prefetch(w + 1024);
  }
};

// The sum of 32 codes in eight parts.
LOWBIT_INLINE __m256i eighths(const uint8_t* x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), Avx2::load(x));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

inline void sums_of(const uint8_t* x, int64_t k, int64_t x_group, int32_t* sums) {
  int64_t first = 0;
  if (x_group == 32) {
    for (; first + 256 <= k; first += 256, sums += 8) {  // the parts of eight groups, transposed as they are added
      __m256i a[4];
      for (int i = 0; i < 4; ++i)
        a[i] = _mm256_hadd_epi32(eighths(x + first + 64 * i), eighths(x + first + 64 * i + 32));
      const __m256i low = _mm256_hadd_epi32(a[0], a[1]), high = _mm256_hadd_epi32(a[2], a[3]);
      const __m256i all =
          _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), all);
    }
  }
  for (; first < k; first += x_group, ++sums) {
    const int64_t end = first + x_group < k ? first + x_group : k;
    int64_t i = first;
    __m256i parts = _mm256_setzero_si256();
    for (; i + 32 <= end; i += 32) parts = _mm256_add_epi32(parts, eighths(x + i));
    alignas(32) int32_t eight[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(eight), parts);
    int32_t sum = 0;
    for (int32_t part : eight) sum += part;
    for (; i < end; ++i) sum += static_cast<int8_t>(x[i]);
    *sums = sum;
  }
}

}  // namespace
}  // namespace lowbit::kernels
