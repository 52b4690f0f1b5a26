// u8 x s8 without a dot-product instruction, yet exact: 16 bits hold all that is summed in them (SpmmI8Weights).
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/spmm_i8/tile.h"
#include "kernels/spmm_i8/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Maddubs256 : Planes256 {
  static constexpr bool kPairs = true;
  static LOWBIT_INLINE Int dot(Int acc, Int x, Int w) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
  }
  static LOWBIT_INLINE Int dot_pair(Int acc, Int x0, Int w0, Int x1, Int w1) {
    const Int sums = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w0), _mm256_maddubs_epi16(x1, w1));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
  }
};

}  // namespace

// 8 accumulators, two vectors of x, one of weights and their products.
extern constinit const SpmmI8Kernel spmm_i8_avx2_4x4 = {{"avx2_sparse4x4", Isa::avx2}, 4, 2, 0.82, true,
                                                        tiles<Maddubs256, 4, 1, 2>()};
extern constinit const SpmmI8Kernel spmm_i8_avx2_1x4 = {{"avx2_sparse1x4", Isa::avx2}, 1, 2, 1.3, true,
                                                        tiles<Maddubs256, 1, 1, 2>()};

}  // namespace lowbit::kernels
