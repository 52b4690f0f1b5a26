// Sixteen codes, eight bytes, a step.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif
#include <immintrin.h>

#include "kernels/gather_i4/groups.h"

namespace lowbit::kernels {

void gather_i4_avx2(const GemmI4Source& table, int64_t row, float* y) {
  each_group(table, row, y, [](const uint8_t* codes, int64_t count, int zero_point, float scale, float* out) {
    const __m128i mask = _mm_set1_epi8(15);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i / 2));
      const __m128i low = _mm_and_si128(pairs, mask), high = _mm_and_si128(_mm_srli_epi16(pairs, 4), mask);
      const __m128i bytes = _mm_unpacklo_epi8(low, high);
      for (int half = 0; half < 2; ++half) {
        const __m256i whole = _mm256_cvtepu8_epi32(half == 0 ? bytes : _mm_srli_si128(bytes, 8));
        const __m256 centred = _mm256_cvtepi32_ps(_mm256_sub_epi32(whole, _mm256_set1_epi32(zero_point)));
        _mm256_storeu_ps(out + i + 8 * half, _mm256_mul_ps(centred, _mm256_set1_ps(scale)));
      }
    }
    one_by_one(codes, i, count, zero_point, scale, out);
  });
}

}  // namespace lowbit::kernels
