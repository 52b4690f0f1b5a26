// u8 x s8 without a dot-product instruction, yet exact: planes hold x shifted to s8, and x * w = |x| * (w with the sign
// of x). With |x| <= 128 and |w| <= 127 a pair is at most 32512, which 16 bits hold.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/spmm_i8/tile.h"
#include "kernels/spmm_i8/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Signed256 : Planes256 {
  struct Operand {
    Int x, magnitude;
  };
  static constexpr int32_t kXOffset = 128;

  static LOWBIT_INLINE Int shifted(Int codes) { return _mm256_xor_si256(codes, _mm256_set1_epi8(-128)); }
  static LOWBIT_INLINE Operand operand(Int x) { return {x, _mm256_abs_epi8(x)}; }
  static LOWBIT_INLINE Operand operand(const uint8_t* plane) { return operand(load(plane)); }
  static LOWBIT_INLINE Operand shifted_operand(Int codes) { return operand(shifted(codes)); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) {
    const Int pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.x));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

// 8 accumulators, two vectors of x and their magnitudes. The sign of x goes to w for each product, where the dense
// kernel packs it once a row.
extern constinit const SpmmI8Kernel spmm_i8_avx2_4x4 = {
    {"avx2_sparse4x4", Isa::avx2}, 4, 2, 1.5, tiles<Signed256, 4, 1, 2>()};
extern constinit const SpmmI8Kernel spmm_i8_avx2_1x4 = {
    {"avx2_sparse1x4", Isa::avx2}, 1, 2, 2.1, tiles<Signed256, 1, 1, 2>()};

}  // namespace lowbit::kernels
