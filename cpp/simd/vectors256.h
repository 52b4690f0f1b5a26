// 256-bit vectors for tiles that keep as many accumulators as there are registers, so that their shape depends on the
// vector (lanes.h hides it). For ISA files only: everything has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/copy_few.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

struct Avx2 {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kLanes = 8;

  static LOWBIT_INLINE Int load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static LOWBIT_INLINE Int broadcast(int32_t value) { return _mm256_set1_epi32(value); }
  static LOWBIT_INLINE Float broadcast(float value) { return _mm256_set1_ps(value); }
  static LOWBIT_INLINE Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static LOWBIT_INLINE Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static LOWBIT_INLINE Int multiply(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
  static LOWBIT_INLINE Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static LOWBIT_INLINE Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  // kernel.h's slope: that of negative values, where a sign bit of zero makes no difference.
  static LOWBIT_INLINE Float bend(Float value, Float slope, Float zero_point) {
    return _mm256_fmadd_ps(value, _mm256_blendv_ps(_mm256_set1_ps(1), slope, value), zero_point);
  }
  static LOWBIT_INLINE Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
  static LOWBIT_INLINE Float clamp(Float a, Float min, Float max) { return _mm256_min_ps(max, _mm256_max_ps(min, a)); }
  static LOWBIT_INLINE Int broadcast_quad(const uint8_t* x) {
    int32_t quad;
    __builtin_memcpy(&quad, x, 4);
    return _mm256_set1_epi32(quad);
  }

  // Of `count` elements, at most a vector; lanes beyond read as zero and are not touched in memory.
  static LOWBIT_INLINE Int mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static LOWBIT_INLINE Float load_floats(const float* p) { return _mm256_loadu_ps(p); }
  static LOWBIT_INLINE Float load_floats(const float* p, int count) {
    return count >= kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask(count));
  }
  static LOWBIT_INLINE Int load_codes(const uint8_t* p, int count) {
    uint64_t bytes = 0;
    if (count >= kLanes) {
      __builtin_memcpy(&bytes, p, 8);
    } else {
      for (int i = 0; i < count; ++i) bytes |= uint64_t{p[i]} << (8 * i);
    }
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes)));
  }
  static LOWBIT_INLINE void store(int32_t* p, Int a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static LOWBIT_INLINE void store(float* p, Float a, int count) {
    if (count >= kLanes) {
      _mm256_storeu_ps(p, a);
    } else {
      _mm256_maskstore_ps(p, mask(count), a);
    }
  }

  // One or two vectors of channels.
  template <int kVectors>
  static LOWBIT_INLINE void store_codes(uint8_t* y, const Float (&value)[kVectors], int count) {
    static_assert(kVectors == 1 || kVectors == 2);
    const __m128i codes = packed(_mm256_cvtps_epi32(value[0]), _mm256_cvtps_epi32(value[kVectors - 1]));
    if (count >= kVectors * kLanes) {
      if constexpr (kVectors == 1) {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(y), codes);
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y), codes);
      }
    } else {
      alignas(16) uint8_t part[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(part), codes);
      copy_few<kVectors * kLanes>(y, part, count);
    }
  }

  // The same of some rows of channels from `channel` on.
  template <int kRows, int kVectors>
  static LOWBIT_INLINE void store_rows(void* const* y, int64_t channel, const Float (&value)[kRows][kVectors]) {
    constexpr int kTogether = 4 / kVectors;  // rows in a vector of bytes
    const auto row = [&](int r) { return static_cast<uint8_t*>(y[r]) + channel; };
    LOWBIT_UNROLL
    for (int r = 0; r < kRows / kTogether * kTogether; r += kTogether) {
      Int sums[4];
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) sums[i] = _mm256_cvtps_epi32(value[r + i / kVectors][i % kVectors]);
      const Int codes = _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
      const Int ordered = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
      const __m128i low = _mm256_castsi256_si128(ordered), high = _mm256_extracti128_si256(ordered, 1);
      if constexpr (kVectors == 2) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(row(r)), low);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(row(r + 1)), high);
      } else {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(row(r)), low);
        _mm_storeh_pd(reinterpret_cast<double*>(row(r + 1)), _mm_castsi128_pd(low));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(row(r + 2)), high);
        _mm_storeh_pd(reinterpret_cast<double*>(row(r + 3)), _mm_castsi128_pd(high));
      }
    }
    LOWBIT_UNROLL
    for (int r = kRows / kTogether * kTogether; r < kRows; ++r)
      store_codes<kVectors>(row(r), value[r], kVectors * kLanes);
  }

 private:
  // 16 sums as bytes.
  static LOWBIT_INLINE __m128i packed(Int low, Int high) {
    const Int pairs = _mm256_packs_epi32(low, high);
    const Int order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);  // the packs interleave 128-bit lanes
    return _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(_mm256_packus_epi16(pairs, pairs), order));
  }
};

// The exact u8 x s8 product without a dot-product instruction: |x| times w with its bits flipped where x is negative
// (gemm_i8/x86_avx2.cpp tells what that leaves out, and why nothing saturates).
struct Flipped {
  __m256i negative, magnitude;

  // Of s8 codes.
  static LOWBIT_INLINE Flipped of(__m256i x) {
    return {_mm256_cmpgt_epi8(_mm256_setzero_si256(), x), _mm256_abs_epi8(x)};
  }
  LOWBIT_INLINE __m256i dot(__m256i acc, __m256i w) const {
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_xor_si256(w, negative));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace
}  // namespace lowbit::kernels
