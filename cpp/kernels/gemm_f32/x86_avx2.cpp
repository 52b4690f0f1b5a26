// Fused multiply-add on 256 bits.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif
#include <immintrin.h>

#include "kernels/gemm_f32/tile.h"

namespace lowbit::kernels {
namespace {

struct Fma256 {
  using Float = __m256;
  static constexpr int kLanes = 8;

  static LOWBIT_INLINE Float load(const float* p) { return _mm256_loadu_ps(p); }
  static LOWBIT_INLINE Float broadcast(float value) { return _mm256_set1_ps(value); }
  static LOWBIT_INLINE Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static LOWBIT_INLINE Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static LOWBIT_INLINE Float clamp(Float a, Float min, Float max) { return _mm256_min_ps(max, _mm256_max_ps(min, a)); }

  // Of `count` elements, at most a vector; lanes beyond read as zero and are not touched in memory.
  static LOWBIT_INLINE __m256i mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static LOWBIT_INLINE Float load(const float* p, int count) {
    return count >= kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask(count));
  }
  static LOWBIT_INLINE void store(float* p, Float a, int count) {
    if (count >= kLanes) {
      _mm256_storeu_ps(p, a);
    } else {
      _mm256_maskstore_ps(p, mask(count), a);
    }
  }
};

}  // namespace

constinit const GemmF32Tiles gemm_f32_avx2_6x16 = tiles<Fma256, 6, 2>();

}  // namespace lowbit::kernels
