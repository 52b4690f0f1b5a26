// vpdpbusd on 512 bits: u8 x s8, four products a lane, exact (it does not saturate).
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/spmm_i8/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {
namespace {

struct Vnni512 : Avx512 {
  static constexpr bool kPairs = false;
  // In assembly, for GCC 12 copies and spills the sums of _mm512_dpbusd_epi32 in loops of many.
  static LOWBIT_INLINE Int dot(Int acc, Int x, Int w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
  }

  template <int kByte>
  static LOWBIT_INLINE Int byte(Int codes) {
    return _mm512_and_si512(_mm512_srli_epi32(codes, 8 * kByte), _mm512_set1_epi32(255));
  }
  static LOWBIT_INLINE Int clamp_codes(Int codes, int lo, int hi) {
    return _mm512_min_epu8(_mm512_set1_epi8(static_cast<char>(hi)),
                           _mm512_max_epu8(_mm512_set1_epi8(static_cast<char>(lo)), codes));
  }
  // Four channels of rows, a vector each, to dwords of four channels, saturated.
  static LOWBIT_INLINE Int interleaved_codes(const Float (&value)[4]) {
    const Int low = _mm512_packs_epi32(_mm512_cvtps_epi32(value[0]), _mm512_cvtps_epi32(value[1]));
    const Int high = _mm512_packs_epi32(_mm512_cvtps_epi32(value[2]), _mm512_cvtps_epi32(value[3]));
    const Int order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order);
  }
  static LOWBIT_INLINE __mmask64 bytes(int count) { return count >= 64 ? ~0ull : ~0ull >> (64 - count); }
  static LOWBIT_INLINE Int load_bytes(const void* p, int count) { return _mm512_maskz_loadu_epi8(bytes(count), p); }
  static LOWBIT_INLINE void store_bytes(uint8_t* p, Int a, int count) { _mm512_mask_storeu_epi8(p, bytes(count), a); }

  static LOWBIT_INLINE void transpose(Int (&m)[16]) {
    Int t[16];
    LOWBIT_UNROLL
    for (int i = 0; i < 16; i += 4) {  // within 128 bits
      LOWBIT_UNROLL
      for (int j = 0; j < 2; ++j) {
        const Int low = j == 0 ? _mm512_unpacklo_epi32(m[i], m[i + 1]) : _mm512_unpackhi_epi32(m[i], m[i + 1]);
        const Int high = j == 0 ? _mm512_unpacklo_epi32(m[i + 2], m[i + 3]) : _mm512_unpackhi_epi32(m[i + 2], m[i + 3]);
        t[i + 2 * j] = _mm512_unpacklo_epi64(low, high);
        t[i + 2 * j + 1] = _mm512_unpackhi_epi64(low, high);
      }
    }
    LOWBIT_UNROLL
    for (int i = 0; i < 4; ++i) {  // t[4 r + i]: column i of the four 4 x 4 of rows 4 r ..; now the 128-bit lanes
      const Int even_low = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88),
                odd_low = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd);
      const Int even_high = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88),
                odd_high = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
      m[i] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
      m[4 + i] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
      m[8 + i] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
      m[12 + i] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
  }

  // The quads of x that `count` blocks meet, each as many times as a block has channels.
  template <int kBlockRows>
  static LOWBIT_INLINE Int quads(const uint8_t* x, const uint16_t* quad, int count) {
    if constexpr (kBlockRows == 1) {
      const __m512i at = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask(count), quad));
      return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask(count), at, x, 4);
    }
    __m512i found = _mm512_set1_epi32(quad_at(x + 4 * quad[0]));
    if (count > 1) found = _mm512_mask_set1_epi32(found, 0x00f0, quad_at(x + 4 * quad[1]));
    if (count > 2) found = _mm512_mask_set1_epi32(found, 0x0f00, quad_at(x + 4 * quad[2]));
    if (count > 3) found = _mm512_mask_set1_epi32(found, 0xf000, quad_at(x + 4 * quad[3]));
    return found;
  }
  static LOWBIT_INLINE void add_quarters(Int a, int32_t* sums) {
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums),
                     _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
  }
  static LOWBIT_INLINE int32_t add_lanes(Int a) { return _mm512_reduce_add_epi32(a); }
};

}  // namespace

// 24 accumulators, 6 vectors of x, one of weights. A vector of x is loaded once for four channels, from L2 if need be,
// so that the products are the limit. Channels in lanes, the other way, would waste most of a 4x4 block.
extern constinit const SpmmI8Kernel spmm_i8_avx512vnni_4x4 = {
    {"avx512vnni_sparse4x4", Isa::avx512vnni}, 4, 6, 1.1, false, tiles<Vnni512, 4, 1, 2, 3, 4, 5, 6>()};
// A load for each product: the limit is L2.
extern constinit const SpmmI8Kernel spmm_i8_avx512vnni_1x4 = {
    {"avx512vnni_sparse1x4", Isa::avx512vnni}, 1, 6, 2.7, false, tiles<Vnni512, 1, 1, 2, 3, 4, 5, 6>()};

}  // namespace lowbit::kernels
