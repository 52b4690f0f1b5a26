// 256 bits without a dot-product instruction: the four of gemm_i8's exact product.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif
#include "kernels/peak/avx2.h"

namespace lowbit::kernels {
namespace {

struct Flip256 : Avx2 {
  struct Operand {
    Int negative, magnitude;
  };
  static constexpr int kDots = 6;  // sums have a latency of 1; with more, units are shared out worse

  static LOWBIT_INLINE Operand operand(int8_t code) {
    const Int value = _mm256_set1_epi8(code);
    return {_mm256_cmpgt_epi8(_mm256_setzero_si256(), value), _mm256_abs_epi8(value)};
  }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) {
    const Int pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_xor_si256(w, x.negative));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

constinit const PeakKernel kPeakAvx2 = peak_row<Flip256>("avx2", Isa::avx2);

}  // namespace lowbit::kernels
