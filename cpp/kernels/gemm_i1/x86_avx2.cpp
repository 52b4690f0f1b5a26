// 256-bit vectors: a carry-save adder of five operations, and counts of bits by vpshufb.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/gemm_i1/tile.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

struct Signs256 : Avx2 {
  static constexpr int kTogether = 2;
  static constexpr bool kHalves = false;  // registers do not suffice

  static LOWBIT_INLINE Int zero() { return _mm256_setzero_si256(); }
  static LOWBIT_INLINE Int subtract(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  static LOWBIT_INLINE Int twice(Int a) { return _mm256_add_epi32(a, a); }
  static LOWBIT_INLINE Int add_bytes(Int a, Int b) { return _mm256_add_epi8(a, b); }
  template <bool kZeros>
  static LOWBIT_INLINE Int unlike(Int w, const uint8_t* x) {
    if constexpr (!kZeros) return _mm256_xor_si256(w, broadcast_quad(x));
    return _mm256_xor_si256(_mm256_and_si256(w, broadcast_quad(x + 4)), broadcast_quad(x));
  }
  static LOWBIT_INLINE uint32_t above(Float a) { return bits(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ)); }
  static LOWBIT_INLINE uint32_t below(Float a) { return bits(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ)); }
  static LOWBIT_INLINE uint32_t is_zero(Float a) { return bits(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_EQ_OQ)); }
  static LOWBIT_INLINE uint32_t bits(Float a) { return static_cast<uint32_t>(_mm256_movemask_ps(a)); }
  static LOWBIT_INLINE Int full_add(Int a, Int b, Int c, Int& carry) {
    const Int either = _mm256_xor_si256(a, b);
    carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(either, c));
    return _mm256_xor_si256(either, c);
  }
  static LOWBIT_INLINE Int both(Int a, Int b) { return _mm256_and_si256(a, b); }
  static LOWBIT_INLINE Int either(Int a, Int b) { return _mm256_xor_si256(a, b); }
  static LOWBIT_INLINE Int counts(Int a) {
    const Int bits = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2,
                                      3, 2, 3, 3, 4);
    const Int low = _mm256_set1_epi8(15);
    return _mm256_add_epi8(_mm256_shuffle_epi8(bits, _mm256_and_si256(a, low)),
                           _mm256_shuffle_epi8(bits, _mm256_and_si256(_mm256_srli_epi16(a, 4), low)));
  }
  template <int kTimes>
  static LOWBIT_INLINE Int sum(Int acc, Int bytes) {
    const Int pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(kTimes));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

extern constinit const GemmI1Kernel gemm_i1_avx2_8x8 = {
    {"avx2_8x8", Isa::avx2}, 8, 8, tiles<Signs256, 8>(), signs<Signs256>};

}  // namespace lowbit::kernels
