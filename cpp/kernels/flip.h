// The exact u8 x s8 product of AVX2, for gemm_i8 and for the peak that it is measured against: |x| times w with its
// bits flipped where x is negative (gemm_i8/x86_avx2.cpp tells what that leaves out, and why nothing saturates). For
// ISA files only: everything has internal linkage.
#pragma once

#include <immintrin.h>

#include "kernels/unroll.h"

namespace lowbit::kernels {
namespace {

struct Flipped {
  __m256i negative, magnitude;

  // Of s8 codes.
  static LOWBIT_INLINE Flipped of(__m256i x) {
    return {_mm256_cmpgt_epi8(_mm256_setzero_si256(), x), _mm256_abs_epi8(x)};
  }
  LOWBIT_INLINE __m256i dot(__m256i acc, __m256i w) const {
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_xor_si256(w, negative));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace
}  // namespace lowbit::kernels
