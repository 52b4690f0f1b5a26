// What the two 256-bit policies of tile.h share: everything but the dot product.
#pragma once

#include <immintrin.h>

#include "kernels/peak/tile.h"

namespace lowbit::kernels {
namespace {

struct Loops256 {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kBytes = 32, kFmas = 10, kProducts = 32;

  static LOWBIT_INLINE Int weights(int8_t code) { return _mm256_set1_epi8(code); }
  static LOWBIT_INLINE Float floats(float value) { return _mm256_set1_ps(value); }
  static LOWBIT_INLINE Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static LOWBIT_INLINE Int differ(Int a, Int b) { return _mm256_xor_si256(a, b); }
  template <class T>
  static LOWBIT_INLINE void hide(T& vector) {
    asm volatile("" : "+x"(vector));
  }
  static LOWBIT_INLINE Int load(const std::byte* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
};

}  // namespace
}  // namespace lowbit::kernels
