// 256 bits without a dot-product instruction: the four of gemm_i8's exact product.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/peak/x86_256.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

struct Flip256 : Loops256 {
  using Operand = Flipped;
  static constexpr int kDots = 6;  // sums have a latency of 1; with more, units are shared out worse

  static LOWBIT_INLINE Operand operand(int8_t code) { return Flipped::of(_mm256_set1_epi8(code)); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return x.dot(acc, w); }
};

}  // namespace

extern constinit const PeakKernel peak_avx2 = peak_row<Flip256>(Isa::avx2);

}  // namespace lowbit::kernels
