// Fused multiply-add on 512 bits.
#if !defined(__AVX512VNNI__) || !defined(__AVX512F__)
#error "compile with the flags of avx512vnni in cpp/isa.cmake"
#endif
#include <immintrin.h>

#include "kernels/gemm_f32/tile.h"

namespace lowbit::kernels {
namespace {

struct Fma512 {
  using Float = __m512;
  static constexpr int kLanes = 16;

  static LOWBIT_INLINE Float load(const float* p) { return _mm512_loadu_ps(p); }
  static LOWBIT_INLINE Float broadcast(float value) { return _mm512_set1_ps(value); }
  static LOWBIT_INLINE Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static LOWBIT_INLINE Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static LOWBIT_INLINE Float clamp(Float a, Float min, Float max) { return _mm512_min_ps(max, _mm512_max_ps(min, a)); }

  // Of `count` elements, at most a vector; lanes beyond read as zero and are not touched in memory.
  static LOWBIT_INLINE __mmask16 mask(int count) {
    return count >= kLanes ? __mmask16{0xffff} : count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << count) - 1);
  }
  static LOWBIT_INLINE Float load(const float* p, int count) { return _mm512_maskz_loadu_ps(mask(count), p); }
  static LOWBIT_INLINE void store(float* p, Float a, int count) {
    if (count >= kLanes) {
      _mm512_storeu_ps(p, a);
    } else {
      _mm512_mask_storeu_ps(p, mask(count), a);
    }
  }
};

}  // namespace

constinit const GemmF32Tiles gemm_f32_avx512vnni_12x32 = tiles<Fma512, 12, 2>();
constinit const GemmF32Tiles gemm_f32_avx512vnni_6x64 = tiles<Fma512, 6, 4>();
constinit const GemmF32Tiles gemm_f32_avx512vnni_8x48 = tiles<Fma512, 8, 3>();
constinit const GemmF32Tiles gemm_f32_avx512vnni_14x16 = tiles<Fma512, 14, 1>();

}  // namespace lowbit::kernels
