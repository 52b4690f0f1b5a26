// 256 bits without a dot-product instruction: the four of gemm_i8's exact product.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif
#include "kernels/peak/avx2.h"

namespace lowbit::kernels {
namespace {

struct Sign256 : Avx2 {
  struct Operand {
    Int value, magnitude;
  };

  static LOWBIT_INLINE Operand operand(int8_t code) {
    const Int value = _mm256_set1_epi8(code);
    return {value, _mm256_abs_epi8(value)};
  }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) {
    const Int pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.value));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

constinit const PeakKernel kPeakAvx2 = peak_row<Sign256>("avx2", Isa::avx2);

}  // namespace lowbit::kernels
