// Sixteen floats are a vector.
#if !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile with the flags of avx512vnni in cpp/isa.cmake"
#endif
#include "kernels/gather_i4/sixteens.h"

namespace lowbit::kernels {
namespace {

struct Whole {
  static LOWBIT_INLINE void store(float* y, __m128i codes, int zero_point, float scale) {
    const __m512i centred = _mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), _mm512_set1_epi32(zero_point));
    _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(centred), _mm512_set1_ps(scale)));
  }
};

}  // namespace

void gather_i4_avx512vnni(const GemmI4Source& table, int64_t row, float* y) { gather_sixteens<Whole>(table, row, y); }

}  // namespace lowbit::kernels
