// 512-bit vectors with the words of vectors256.h. For ISA files only: everything has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

struct Avx512 {
  using Int = __m512i;
  using Float = __m512;
  static constexpr int kLanes = 16;

  static LOWBIT_INLINE Int load(const void* p) { return _mm512_loadu_si512(p); }
  static LOWBIT_INLINE Int broadcast(int32_t value) { return _mm512_set1_epi32(value); }
  static LOWBIT_INLINE Float broadcast(float value) { return _mm512_set1_ps(value); }
  static LOWBIT_INLINE Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static LOWBIT_INLINE Int multiply(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
  static LOWBIT_INLINE Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static LOWBIT_INLINE Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  // kernel.h's slope: that of negative values, where a sign bit of zero makes no difference.
  static LOWBIT_INLINE Float bend(Float value, Float slope, Float zero_point) {
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(value));
    return _mm512_fmadd_ps(value, _mm512_mask_blend_ps(negative, _mm512_set1_ps(1), slope), zero_point);
  }
  static LOWBIT_INLINE Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
  static LOWBIT_INLINE Float clamp(Float a, Float min, Float max) { return _mm512_min_ps(max, _mm512_max_ps(min, a)); }

  // Of `count` elements, at most a vector; lanes beyond read as zero and are not touched in memory.
  static LOWBIT_INLINE __mmask16 mask(int count) {
    return count >= kLanes ? __mmask16{0xffff} : count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << count) - 1);
  }
  static LOWBIT_INLINE Float load_floats(const float* p) { return _mm512_loadu_ps(p); }
  static LOWBIT_INLINE Float load_floats(const float* p, int count) { return _mm512_maskz_loadu_ps(mask(count), p); }
  static LOWBIT_INLINE Int load_codes(const uint8_t* p, int count) {
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask(count), p));
  }
  static LOWBIT_INLINE void store(int32_t* p, Int a) { _mm512_storeu_si512(p, a); }
  static LOWBIT_INLINE void store(float* p, Float a, int count) {
    if (count >= kLanes) {
      _mm512_storeu_ps(p, a);
    } else {
      _mm512_mask_storeu_ps(p, mask(count), a);
    }
  }

  // The packs saturate, and interleave 128-bit lanes; `order` undoes that.
  template <int kVectors>
  static LOWBIT_INLINE void store_codes(uint8_t* y, const Float (&value)[kVectors], int count) {
    Int rounded[4];
    LOWBIT_UNROLL
    for (int v = 0; v < 4; ++v)
      rounded[v] = v < kVectors ? _mm512_cvtps_epi32(value[v < kVectors ? v : 0]) : rounded[0];
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_packs_epi32(rounded[0], rounded[1]);
    const __m512i high = kVectors > 2 ? _mm512_packs_epi32(rounded[2], rounded[3]) : low;
    const __m512i packed = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
    if (count < kVectors * kLanes) {
      _mm512_mask_storeu_epi8(y, ~0ull >> (64 - count), packed);
    } else if constexpr (kVectors == 4) {
      _mm512_storeu_si512(y, packed);
    } else {
      if constexpr (kVectors >= 2) _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_castsi512_si256(packed));
      if constexpr (kVectors % 2 == 1)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y + (kVectors - 1) * 16),
                         _mm512_extracti32x4_epi32(packed, kVectors - 1));
    }
  }
};

}  // namespace
}  // namespace lowbit::kernels
