// Walks for kernels 5x5, in which the rows that a dword of four rows leaves over fill dwords of several columns
// (layout.h): a pixel takes 8 products at stride 1 and 7 at stride 2, not 10. Stride 1 makes a quarter of two output
// rows' block, stride 2 half of one row's.
#pragma once

#include <immintrin.h>

#include "kernels/dwconv_i8/walk.h"

namespace lowbit::kernels {
namespace {

template <int kUpper>
LOWBIT_INLINE __m512i bytes_of(__m512i a, __m512i b) {
  return kUpper ? _mm512_unpackhi_epi8(a, b) : _mm512_unpacklo_epi8(a, b);
}
template <int kUpper>
LOWBIT_INLINE __m512i words_of(__m512i a, __m512i b) {
  return kUpper ? _mm512_unpackhi_epi16(a, b) : _mm512_unpacklo_epi16(a, b);
}

// What quarters of a block leave for later ones.
struct Waiting {
  __m512i words[kWait], codes[kWait];
};

// One quarter of `pairs` times kLines output rows from row h on, pixels first .. first + count - 1.
template <bool kBare, int kParts, int kLines, int kQuarter>
LOWBIT_INLINE void walk_quarter(const Walk& walk, const Finish& finish, int64_t h, int64_t pairs, int64_t first,
                                int64_t count, Waiting& waiting) {
  constexpr int kRows = 2 * kParts + 4;
  constexpr int kHigh = kQuarter / 2, kOdd = kQuarter % 2;
  const int64_t width = walk.width, pixel_bytes = walk.pixel, y_row = walk.y_row, y_pixel = walk.y_pixel;
  __m512i w[kLines][8];
#pragma GCC unroll 2
  for (int r = 0; r < kLines; ++r)
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k)
      w[r][k] = keep(_mm512_load_si512(k < 5 ? walk.weights + r * walk.line_bytes + (k * 8 + kQuarter) * 64
                                             : walk.extra + r * walk.extra_bytes + ((k - 5) * 4 + kQuarter) * 64));
  int64_t at = 0;
  for (; pairs > 0; --pairs, h += 2 * kParts) {
    const uint8_t* rows[kRows];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) rows[i] = walk.at(h - walk.top + i);
    __m512i four, two, before = _mm512_setzero_si512();
    const auto column = [&](int64_t pixel) __attribute__((always_inline)) {
      four = two = _mm512_set1_epi8(static_cast<char>(*walk.border));
      if (static_cast<uint64_t>(pixel) >= static_cast<uint64_t>(width)) return;
      __m512i row[6];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) row[i] = keep(load_rows<kParts>(rows + i, pixel * pixel_bytes));
      four = words_of<kOdd>(bytes_of<kHigh>(row[0], row[1]), bytes_of<kHigh>(row[2], row[3]));
      two = bytes_of<kHigh>(row[4], row[5]);
    };
    __m512i sum[kLines], acc[kLines][4];
    // The next column: kernel columns kFrom to kTo of the output pixels that meet it.
    const auto step = [&]<int kFrom, int kTo>(int64_t pixel) __attribute__((always_inline)) {
      column(pixel);
      const __m512i both = words_of<kOdd>(before, two);
      before = two;
#pragma GCC unroll 2
      for (int r = 0; r < kLines; ++r) {
        if constexpr (kTo == 4) sum[r] = dot(dot(acc[r][0], four, w[r][4]), both, w[r][7]);
        if constexpr (kFrom <= 3 && kTo >= 3) acc[r][0] = dot(dot(acc[r][1], four, w[r][3]), both, w[r][6]);
        if constexpr (kFrom <= 2 && kTo >= 2) acc[r][1] = dot(acc[r][2], four, w[r][2]);
        if constexpr (kFrom <= 1 && kTo >= 1) acc[r][2] = dot(dot(acc[r][3], four, w[r][1]), both, w[r][5]);
        if constexpr (kFrom == 0) acc[r][3] = dot(_mm512_load_si512(finish.start + 16 * kQuarter), four, w[r][0]);
      }
    };
    const int64_t outputs = walk.outputs_h - h;
    int64_t y = walk.y + h * y_row + first * y_pixel;
    const auto leave = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int r = 0; r < kLines; ++r) finish.template convert<1>(&sum[r], kQuarter, &sum[r], 1);
      const __m512i now = _mm512_packs_epi32(sum[0], sum[kLines - 1]);
      if constexpr (kOdd == 0) {
        waiting.words[at++] = now;
      } else {
        const __m512i codes = finish.template pack<kBare>(waiting.words[at], now);
        if constexpr (kHigh == 0) {
          waiting.codes[at++] = codes;
        } else {
          const __m512 low = _mm512_castsi512_ps(waiting.codes[at++]), high = _mm512_castsi512_ps(codes);
          const __m512i upper = _mm512_castps_si512(_mm512_shuffle_ps(low, high, 0x88));
          const __m512i lower = _mm512_castps_si512(_mm512_shuffle_ps(low, high, 0xdd));
          finish.template leave_rows<kBare, kParts>(upper, y, 2 * y_row, (outputs + 1) / 2);
          if (kLines == 2 && (kParts == 1 || outputs > 1))
            finish.template leave_rows<kBare, kParts>(lower, y + y_row, 2 * y_row, outputs / 2);
          y += y_pixel;
        }
      }
    };
    int64_t pixel = first - walk.left;
    step.template operator()<0, 0>(pixel);
    step.template operator()<0, 1>(pixel + 1);
    step.template operator()<0, 2>(pixel + 2);
    step.template operator()<0, 3>(pixel + 3);
    pixel += 4;
    for (const int64_t end = pixel + count; pixel < end; ++pixel) {
      step.template operator()<0, 4>(pixel);
      leave();
    }
  }
}

// Groups of output rows (kLines in each part) from row h to row `end`.
template <bool kBare, int kParts, int kLines>
__attribute__((noinline)) void walk_5x5_pairs(const Walk& walk, const Finish& finish, int64_t h, int64_t end) {
  Waiting waiting;
  const int64_t most = walk.outputs_w < kWait ? kWait / walk.outputs_w : 1;
  for (int64_t first = 0, count; first < walk.outputs_w; first += count) {
    count = chunk_of(walk.outputs_w, first, kWait);
    for (int64_t row = h, pairs; row < end; row += pairs * 2 * kParts) {
      pairs = least(most, (end - row + 2 * kParts - 1) / (2 * kParts));
      walk_quarter<kBare, kParts, kLines, 0>(walk, finish, row, pairs, first, count, waiting);
      walk_quarter<kBare, kParts, kLines, 1>(walk, finish, row, pairs, first, count, waiting);
      walk_quarter<kBare, kParts, kLines, 2>(walk, finish, row, pairs, first, count, waiting);
      walk_quarter<kBare, kParts, kLines, 3>(walk, finish, row, pairs, first, count, waiting);
    }
  }
}

// Half a block of `groups` times kParts output rows from row h on, stride 2.
template <bool kBare, int kParts, int kHalf>
LOWBIT_INLINE void walk_5x5_half(const Walk& walk, const Finish& finish, int64_t h, int64_t groups, int64_t first,
                                 int64_t count, __m512i* waiting) {
  constexpr int kRows = 2 * kParts + 3;
  const int64_t width = walk.width, pixel_bytes = walk.pixel, y_row = walk.y_row, y_pixel = walk.y_pixel;
  __m512i w[7][2];
#pragma GCC unroll 7
  for (int k = 0; k < 7; ++k)
#pragma GCC unroll 2
    for (int q = 0; q < 2; ++q)
      w[k][q] = keep(_mm512_load_si512(k < 5 ? walk.weights + (k * 8 + 2 * kHalf + q) * 64
                                             : walk.extra + ((k - 5) * 4 + 2 * kHalf + q) * 64));
  const auto start = [&](int q) __attribute__((always_inline)) {
    return _mm512_load_si512(finish.start + 16 * (2 * kHalf + q));
  };
  for (; groups > 0; --groups, h += kParts) {
    const uint8_t* rows[kRows];
#pragma GCC unroll 11
    for (int i = 0; i < kRows; ++i) rows[i] = walk.at(2 * h - walk.top + i);
    // Rows 0 to 3 of a column interleaved, and row 4.
    const auto column = [&](int64_t pixel, __m512i four[2], __m512i& fifth) __attribute__((always_inline)) {
      four[0] = four[1] = fifth = _mm512_set1_epi8(static_cast<char>(*walk.border));
      if (static_cast<uint64_t>(pixel) >= static_cast<uint64_t>(width)) return;
      __m512i row[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) row[i] = keep(load_rows<kParts>(rows + i, pixel * pixel_bytes));
      fifth = keep(load_rows<kParts>(rows + 4, pixel * pixel_bytes));
      interleave_half<kHalf>(row, four);
    };
    __m512i even[2], odd[2], fifth[2], four[2], acc[2][2], sum[2];
    __m512i before = _mm512_setzero_si512();
    // The next two columns.
    const auto step = [&](int64_t pixel) __attribute__((always_inline)) {
      column(pixel, even, fifth[0]);
      column(pixel + 1, odd, fifth[1]);
      const __m512i now = bytes_of<kHalf>(fifth[0], fifth[1]);
      four[0] = _mm512_unpacklo_epi16(before, now);
      four[1] = _mm512_unpackhi_epi16(before, now);
      before = now;
    };
    int64_t pixel = 2 * first - walk.left;
    step(pixel);
#pragma GCC unroll 2
    for (int q = 0; q < 2; ++q) acc[0][q] = dot(dot(start(q), even[q], w[0][q]), odd[q], w[1][q]);
    step(pixel + 2);
#pragma GCC unroll 2
    for (int q = 0; q < 2; ++q) {
      acc[0][q] = dot(dot(dot(acc[0][q], even[q], w[2][q]), odd[q], w[3][q]), four[q], w[5][q]);
      acc[1][q] = dot(dot(start(q), even[q], w[0][q]), odd[q], w[1][q]);
    }
    int64_t y = walk.y + h * y_row + first * y_pixel;
    pixel += 4;
    for (int64_t x = count; x > 0; --x, pixel += 2) {
      step(pixel);
#pragma GCC unroll 2
      for (int q = 0; q < 2; ++q) {
        sum[q] = dot(dot(acc[0][q], even[q], w[4][q]), four[q], w[6][q]);
        acc[0][q] = dot(dot(dot(acc[1][q], even[q], w[2][q]), odd[q], w[3][q]), four[q], w[5][q]);
        acc[1][q] = dot(dot(start(q), even[q], w[0][q]), odd[q], w[1][q]);
        finish.template convert<1>(&sum[q], 2 * kHalf + q, &sum[q], 1);
      }
      if constexpr (kHalf == 0) {
        *waiting++ = words(sum);
      } else {
        const __m512i codes = finish.template pack<kBare>(*waiting++, words(sum));
        finish.template leave_rows<kBare, kParts>(codes, y, y_row, walk.outputs_h - h);
        y += y_pixel;
      }
    }
  }
}

// Output rows from h to `end`, one in each part, stride 2. Short chunks: twice the columns wait in the first cache.
template <bool kBare, int kParts>
__attribute__((noinline)) void walk_5x5_rows(const Walk& walk, const Finish& finish, int64_t h, int64_t end) {
  __m512i waiting[kWait];
  const int64_t most = walk.outputs_w < kWait ? kWait / walk.outputs_w : 1;
  for (int64_t first = 0, count; first < walk.outputs_w; first += count) {
    count = chunk_of(walk.outputs_w, first, kWait / 2);
    for (int64_t row = h, groups; row < end; row += groups * kParts) {
      groups = least(most, (end - row + kParts - 1) / kParts);
      walk_5x5_half<kBare, kParts, 0>(walk, finish, row, groups, first, count, waiting);
      walk_5x5_half<kBare, kParts, 1>(walk, finish, row, groups, first, count, waiting);
    }
  }
}

}  // namespace
}  // namespace lowbit::kernels
