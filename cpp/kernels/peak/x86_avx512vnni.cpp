// vpdpbusd on 512 bits.
#if !defined(__AVX512VNNI__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include <immintrin.h>

#include "kernels/peak/tile.h"

namespace lowbit::kernels {
namespace {

struct Vnni512 {
  using Int = __m512i;
  using Float = __m512;
  using Operand = Int;
  static constexpr int kBytes = 64, kDots = 16, kFmas = 16, kProducts = 64;

  static LOWBIT_INLINE Operand operand(int8_t code) { return _mm512_set1_epi8(code); }
  static LOWBIT_INLINE Int weights(int8_t code) { return _mm512_set1_epi8(code); }
  static LOWBIT_INLINE Float floats(float value) { return _mm512_set1_ps(value); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return _mm512_dpbusd_epi32(acc, x, w); }
  static LOWBIT_INLINE Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static LOWBIT_INLINE Int differ(Int a, Int b) { return _mm512_xor_si512(a, b); }
  template <class T>
  static LOWBIT_INLINE void hide(T& vector) {
    asm volatile("" : "+v"(vector));
  }
  static LOWBIT_INLINE Int load(const std::byte* p) { return _mm512_load_si512(p); }
};

}  // namespace

extern constinit const PeakKernel peak_avx512vnni = peak_row<Vnni512>(Isa::avx512vnni);

}  // namespace lowbit::kernels
