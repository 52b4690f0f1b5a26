// u8 times a nibble by vpmaddubsw: a sum of four products is at most 4 * 255 * 15 = 15,300, so that nothing saturates
// and two pairs are added in 16 bits.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/gemm_i4/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Maddubs256 : Nibbles256<Maddubs256> {
  static LOWBIT_INLINE Int dot(Int acc, Int x_low, Int w_low, Int x_high, Int w_high) {
    const Int pairs = _mm256_add_epi16(_mm256_maddubs_epi16(x_low, w_low), _mm256_maddubs_epi16(x_high, w_high));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

extern constinit const GemmI4Kernel gemm_i4_avx2_4x16 = {
    {"avx2_4x16", Isa::avx2}, 4, 16, tiles<Maddubs256, 4, 2>(), sum_groups<Maddubs256>};

}  // namespace lowbit::kernels
