// 512-bit vectors: a carry-save adder of two vpternlogd, and sums of bytes by vpdpbusd.
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/gemm_i1/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {
namespace {

struct Signs512 : Avx512 {
  static constexpr int kTogether = 3;
  static constexpr bool kHalves = true;

  static LOWBIT_INLINE Int zero() { return _mm512_setzero_si512(); }
  static LOWBIT_INLINE Int subtract(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static LOWBIT_INLINE Int twice(Int a) { return _mm512_add_epi32(a, a); }
  static LOWBIT_INLINE Int add_bytes(Int a, Int b) { return _mm512_add_epi8(a, b); }
  static LOWBIT_INLINE Int quad(const uint8_t* x) {
    int32_t word;
    __builtin_memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
  }
  template <bool kZeros>
  static LOWBIT_INLINE Int unlike(Int w, const uint8_t* x) {
    if constexpr (!kZeros) return _mm512_xor_si512(w, quad(x));
    return _mm512_ternarylogic_epi32(w, quad(x + 4), quad(x), 0x6a);  // (a & b) ^ c
  }
  static LOWBIT_INLINE uint32_t above(Float a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ); }
  static LOWBIT_INLINE uint32_t below(Float a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ); }
  static LOWBIT_INLINE uint32_t is_zero(Float a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_EQ_OQ); }
  static LOWBIT_INLINE Int full_add(Int a, Int b, Int c, Int& carry) {
    carry = _mm512_ternarylogic_epi32(a, b, c, 0xe8);  // two or three of them
    return _mm512_ternarylogic_epi32(a, b, c, 0x96);   // one or three
  }
  static LOWBIT_INLINE Int both(Int a, Int b) { return _mm512_and_si512(a, b); }
  static LOWBIT_INLINE Int either(Int a, Int b) { return _mm512_xor_si512(a, b); }
  static LOWBIT_INLINE Int counts(Int a) {
    const Int bits = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const Int low = _mm512_set1_epi8(15);
    return _mm512_add_epi8(_mm512_shuffle_epi8(bits, _mm512_and_si512(a, low)),
                           _mm512_shuffle_epi8(bits, _mm512_and_si512(_mm512_srli_epi16(a, 4), low)));
  }
  template <int kTimes>
  static LOWBIT_INLINE Int sum(Int acc, Int bytes) {
    return _mm512_dpbusd_epi32(acc, bytes, _mm512_set1_epi8(kTimes));
  }
};

}  // namespace

extern constinit const GemmI1Kernel gemm_i1_avx512vnni_12x16 = {
    {"avx512vnni_12x16", Isa::avx512vnni}, 12, 16, tiles<Signs512, 12>(), signs<Signs512>};

}  // namespace lowbit::kernels
