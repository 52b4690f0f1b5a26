// Sixteen floats are two vectors.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif
#include "kernels/gather_i4/sixteens.h"

namespace lowbit::kernels {
namespace {

struct Halves {
  static LOWBIT_INLINE void store(float* y, __m128i codes, int zero_point, float scale) {
    store_eight(y, codes, zero_point, scale);
    store_eight(y + 8, _mm_srli_si128(codes, 8), zero_point, scale);
  }

 private:
  static LOWBIT_INLINE void store_eight(float* y, __m128i codes, int zero_point, float scale) {
    const __m256i centred = _mm256_sub_epi32(_mm256_cvtepu8_epi32(codes), _mm256_set1_epi32(zero_point));
    _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(centred), _mm256_set1_ps(scale)));
  }
};

}  // namespace

void gather_i4_avx2(const GemmI4Source& table, int64_t row, float* y) { gather_sixteens<Halves>(table, row, y); }

}  // namespace lowbit::kernels
