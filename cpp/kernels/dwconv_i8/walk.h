// Depthwise convolution in registers alone: walks along a row, in which each column is loaded and interleaved once,
// meets all kernel columns, ends one output pixel and feeds those that follow (AVX-512).
//
// Nothing but results is stored, so the loads of later columns run ahead of the products, and products do not wait for
// stores (on Zen 4 a stored vector costs as much as a product and a half). The registers hold all weights that one walk
// needs, which is why it serves but a part of a block, and some pixels are walked several times. A block of few
// channels puts output rows side by side in its vectors, not pixels: borders are then alike in all parts of a column.
#pragma once

#include <immintrin.h>

#include "kernels/dwconv_i8/avx512.h"
#include "kernels/dwconv_i8/layout.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kWait = 32;  // pixels whose first channels wait, in the first cache, for the others

// One block of a sample.
struct Walk {
  const uint8_t *x, *border;  // the image, and a row of zero points
  int64_t row, pixel;         // bytes to the next row, to the next pixel
  int64_t height, width;      // of the image
  int64_t top, left;          // missing above and before it
  const int8_t* weights;
  int64_t line_bytes;   // to the weights of the lower output row
  const int8_t* extra;  // 5x5: weights of the last image rows (layout.h)
  int64_t extra_bytes;
  int64_t y, y_row, y_pixel, outputs_h, outputs_w;

  inline const uint8_t* at(int64_t h) const { return h >= 0 && h < height ? x + h * row : border; }
};

// Pixels of the next chunk: chunks of about the same size, `most` or less.
inline int64_t chunk_of(int64_t width, int64_t first, int64_t most) {
  const int64_t chunks = (width - first + most - 1) / most;
  return (width - first + chunks - 1) / chunks;
}

// Row i of each part: those of the next part lie two rows further down.
template <int kParts>
LOWBIT_INLINE __m512i load_rows(const uint8_t* const* rows, int64_t at) {
  const auto half = [&](int i) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + at)); };
  const auto quarter = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at)); };
  if constexpr (kParts == 1) return _mm512_loadu_si512(rows[0] + at);
  if constexpr (kParts == 2) return _mm512_inserti64x4(_mm512_castsi256_si512(half(0)), half(2), 1);
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(0)), quarter(2), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(4)), quarter(6), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// Quarters 2 * half and 2 * half + 1 of four interleaved rows.
template <int kHalf>
LOWBIT_INLINE void interleave_half(const __m512i row[4], __m512i out[2]) {
  const __m512i top = kHalf ? _mm512_unpackhi_epi8(row[0], row[1]) : _mm512_unpacklo_epi8(row[0], row[1]);
  const __m512i bottom = kHalf ? _mm512_unpackhi_epi8(row[2], row[3]) : _mm512_unpacklo_epi8(row[2], row[3]);
  out[0] = _mm512_unpacklo_epi16(top, bottom);
  out[1] = _mm512_unpackhi_epi16(top, bottom);
}

LOWBIT_INLINE __m512i dot(__m512i acc, __m512i codes, __m512i weights) {
  return _mm512_dpbusd_epi32(acc, codes, weights);
}

}  // namespace
}  // namespace lowbit::kernels
