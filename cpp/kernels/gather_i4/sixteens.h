// A row sixteen codes, eight bytes, a step. V::store(y, codes, zero point, scale): what sixteen bytes stand for. For
// ISA files only: everything has internal linkage.
#pragma once

#include <immintrin.h>

#include "kernels/gather_i4/groups.h"
#include "kernels/unroll.h"

namespace lowbit::kernels {
namespace {

template <class V>
void gather_sixteens(const GemmI4Source& table, int64_t row, float* y) {
  each_group(table, row, y, [](const uint8_t* codes, int64_t count, int zero_point, float scale, float* out) {
    const __m128i mask = _mm_set1_epi8(15);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i / 2));
      const __m128i low = _mm_and_si128(pairs, mask), high = _mm_and_si128(_mm_srli_epi16(pairs, 4), mask);
      V::store(out + i, _mm_unpacklo_epi8(low, high), zero_point, scale);
    }
    one_by_one(codes, i, count, zero_point, scale, out);
  });
}

}  // namespace
}  // namespace lowbit::kernels
