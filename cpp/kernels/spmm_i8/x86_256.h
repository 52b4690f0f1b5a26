// What 256-bit vectors do with planes. For ISA files only: everything has internal linkage.
#pragma once

#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

struct Planes256 : Avx2 {
  template <int kByte>
  static LOWBIT_INLINE Int byte(Int codes) {
    return _mm256_and_si256(_mm256_srli_epi32(codes, 8 * kByte), _mm256_set1_epi32(255));
  }
  static LOWBIT_INLINE Int clamp_codes(Int codes, int lo, int hi) {
    return _mm256_min_epu8(_mm256_set1_epi8(static_cast<char>(hi)),
                           _mm256_max_epu8(_mm256_set1_epi8(static_cast<char>(lo)), codes));
  }
  // Four channels of rows, a vector each, to dwords of four channels, saturated.
  static LOWBIT_INLINE Int interleaved_codes(const Float (&value)[4]) {
    const Int low = _mm256_packs_epi32(_mm256_cvtps_epi32(value[0]), _mm256_cvtps_epi32(value[1]));
    const Int high = _mm256_packs_epi32(_mm256_cvtps_epi32(value[2]), _mm256_cvtps_epi32(value[3]));
    const Int order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order);
  }
  static LOWBIT_INLINE Int load_bytes(const void* p, int count) {
    if (count >= 32) return load(p);
    alignas(32) uint8_t part[32] = {};
    __builtin_memcpy(part, p, static_cast<size_t>(count));
    return load(part);
  }
  static LOWBIT_INLINE void store_bytes(uint8_t* p, Int a, int count) {
    if (count >= 32) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
    } else {
      alignas(32) uint8_t part[32];
      _mm256_store_si256(reinterpret_cast<__m256i*>(part), a);
      __builtin_memcpy(p, part, static_cast<size_t>(count));
    }
  }
  static LOWBIT_INLINE void transpose(Int (&m)[8]) {
    Int t[8];
    LOWBIT_UNROLL
    for (int i = 0; i < 8; i += 4) {
      LOWBIT_UNROLL
      for (int j = 0; j < 2; ++j) {
        const Int low = j == 0 ? _mm256_unpacklo_epi32(m[i], m[i + 1]) : _mm256_unpackhi_epi32(m[i], m[i + 1]);
        const Int high = j == 0 ? _mm256_unpacklo_epi32(m[i + 2], m[i + 3]) : _mm256_unpackhi_epi32(m[i + 2], m[i + 3]);
        t[i + 2 * j] = _mm256_unpacklo_epi64(low, high);
        t[i + 2 * j + 1] = _mm256_unpackhi_epi64(low, high);
      }
    }
    LOWBIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      m[i] = _mm256_permute2x128_si256(t[i], t[i + 4], 0x20);
      m[i + 4] = _mm256_permute2x128_si256(t[i], t[i + 4], 0x31);
    }
  }
  // The quads of x that `count` blocks meet, each as many times as a block has channels.
  template <int kBlockRows>
  static LOWBIT_INLINE Int quads(const uint8_t* x, const uint16_t* quad, int count) {
    alignas(32) int32_t found[8] = {};
    for (int i = 0; i < 8 / kBlockRows && i < count; ++i) __builtin_memcpy(found + i, x + 4 * quad[i], 4);
    if constexpr (kBlockRows == 1) return load(found);
    return _mm256_setr_epi32(found[0], found[0], found[0], found[0], found[1], found[1], found[1], found[1]);
  }
  static LOWBIT_INLINE void add_quarters(Int a, int32_t* sums) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums),
                     _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
  }
  static LOWBIT_INLINE int32_t add_lanes(Int a) {
    int32_t four[4];
    add_quarters(a, four);
    return four[0] + four[1] + four[2] + four[3];
  }
};

}  // namespace
}  // namespace lowbit::kernels
