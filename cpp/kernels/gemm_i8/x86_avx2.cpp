// u8 x s8 without a dot-product instruction, yet exact. vpmaddubsw would saturate for codes of 8 bits, so x is shifted
// to s8 and its sign moved to w: x * w = |x| * -w for negative x, and -w = ~w + 1. So a dot product takes |x| and w
// with its bits flipped where x is negative (an xor), and all sums of a row lack the same sum of |x| over its negative
// x, which is found once for all channels. With |x| <= 128, and 127 where w is not flipped, a pair lies within
// -2 * 128 * 128 .. 2 * 128 * 127, which 16 bits just hold.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif
#include "kernels/flip.h"
#include "kernels/gemm_i8/avx2.h"

namespace lowbit::kernels {
namespace {

struct Flip256 : Avx2 {
  using Operand = Flipped;
  static constexpr int32_t kXOffset = 128;
  static constexpr bool kRowSums = true;

  static LOWBIT_INLINE Operand operand(const uint8_t* x) {
    return Flipped::of(_mm256_xor_si256(broadcast_quad(x), _mm256_set1_epi8(-128)));
  }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return x.dot(acc, w); }
};

// Four sums of max(128 - x, 0) in 64-bit lanes, of 32 bytes or the first `count` of them.
LOWBIT_INLINE __m256i below_middle(const uint8_t* x) {
  const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm256_sad_epu8(_mm256_subs_epu8(_mm256_set1_epi8(-128), codes), _mm256_setzero_si256());
}
LOWBIT_INLINE __m256i below_middle(const uint8_t* x, int64_t count) {
  alignas(32) uint8_t part[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(part), _mm256_set1_epi8(-128));  // counts as zero
  for (int64_t i = 0; i < count; ++i) part[i] = x[i];
  return below_middle(part);
}

}  // namespace

constinit const GemmI8Tiles gemm_i8_avx2_4x16 = tiles<Flip256, 4, 2>();

void gemm_i8_row_sums_avx2(const uint8_t* const* x, int64_t rows, const int64_t* taps, int64_t tap_count, int64_t bytes,
                           int32_t* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t tap = 0; tap < tap_count; ++tap) {
      const uint8_t* at = x[row] + taps[tap];
      int64_t i = 0;
      for (; i + 32 <= bytes; i += 32) sum = _mm256_add_epi64(sum, below_middle(at + i));
      if (i < bytes) sum = _mm256_add_epi64(sum, below_middle(at + i, bytes - i));
    }
    alignas(32) int64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
    sums[row] = static_cast<int32_t>(lanes[0] + lanes[1] + lanes[2] + lanes[3]);
  }
}

}  // namespace lowbit::kernels
