// u8 x s8 without a dot-product instruction, yet exact. vpmaddubsw would saturate for codes of 8 bits, so x is shifted
// to s8 and the sign of x moved to w: x * w = |x| * (sign(x) w). With |x| <= 128 and |w| <= 127 a pair is at most
// 32512. Where a weight is -128, x is cut into its lowest bit and the rest instead: x * w = 2 (x >> 1) w + (x & 1) w,
// and a pair is at most 2 * 127 * 128 = 32512, too.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif
#include "kernels/gemm_i8/avx2.h"

namespace lowbit::kernels {
namespace {

struct Sign256 : Avx2 {
  struct Operand {
    Int value, magnitude;
  };
  static constexpr int32_t kXOffset = 128;

  static LOWBIT_INLINE Operand operand(const uint8_t* x) {
    const Int value = _mm256_xor_si256(broadcast_quad(x), _mm256_set1_epi8(-128));
    return {value, _mm256_abs_epi8(value)};
  }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) {
    const Int pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.value));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

struct Halves256 : Avx2 {
  struct Operand {
    Int half, bit;
  };
  static constexpr int32_t kXOffset = 0;

  static LOWBIT_INLINE Operand operand(const uint8_t* x) {
    const Int value = broadcast_quad(x);
    return {_mm256_and_si256(_mm256_srli_epi16(value, 1), _mm256_set1_epi8(127)),
            _mm256_and_si256(value, _mm256_set1_epi8(1))};
  }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) {
    const Int halves = _mm256_madd_epi16(_mm256_maddubs_epi16(x.half, w), _mm256_set1_epi16(2));
    const Int bits = _mm256_madd_epi16(_mm256_maddubs_epi16(x.bit, w), _mm256_set1_epi16(1));
    return _mm256_add_epi32(acc, _mm256_add_epi32(halves, bits));
  }
};

}  // namespace

constinit const GemmI8Tiles gemm_i8_avx2_4x16 = tiles<Sign256, 4, 2>();
constinit const GemmI8Tiles gemm_i8_avx2_full_4x16 = tiles<Halves256, 4, 2>();

}  // namespace lowbit::kernels
