// Walks for kernels 3x3. Stride 1 makes two output rows of four image rows (layout.h); their weights leave registers
// for the sums of half a block. Stride 2 makes one row of a whole block.
#pragma once

#include <immintrin.h>

#include "kernels/dwconv_i8/walk.h"

namespace lowbit::kernels {
namespace {

// Half a block of `pairs` pairs of output rows from row h on, pixels first .. first + count - 1. A vector of codes
// holds both rows of a pair; the first half leaves it in `lower`, the second picks it up.
template <bool kBare, int kParts, int kHalf>
LOWBIT_INLINE void walk_half(const Walk& walk, const Finish& finish, int64_t h, int64_t pairs, int64_t first,
                             int64_t count, __m512i* lower) {
  constexpr int kRows = 2 * kParts + 2;
  const int64_t width = walk.width, pixel_bytes = walk.pixel, y_row = walk.y_row, y_pixel = walk.y_pixel;
  __m512i w[2][3][2], before[2][2], last[2][2], d[2];
#pragma GCC unroll 2
  for (int q = 0; q < 2; ++q) {
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r)
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j)
        w[r][j][q] = keep(_mm512_load_si512(walk.weights + r * walk.line_bytes + (j * 4 + 2 * kHalf + q) * 64));
  }
  const auto start = [&](int q) __attribute__((always_inline)) {
    return _mm512_load_si512(finish.start + 16 * (2 * kHalf + q));
  };
  for (; pairs > 0; --pairs, h += 2 * kParts) {
    const uint8_t* rows[kRows];
#pragma GCC unroll 10
    for (int i = 0; i < kRows; ++i) rows[i] = walk.at(h - walk.top + i);
    const auto column = [&](int64_t pixel) __attribute__((always_inline)) {
      d[0] = d[1] = _mm512_set1_epi8(static_cast<char>(*walk.border));
      if (static_cast<uint64_t>(pixel) >= static_cast<uint64_t>(width)) return;
      __m512i row[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) row[i] = keep(load_rows<kParts>(rows + i, pixel * pixel_bytes));
      interleave_half<kHalf>(row, d);
    };
    int64_t pixel = first - walk.left;
    column(pixel++);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) before[i / 2][i % 2] = dot(start(i % 2), d[i % 2], w[i / 2][0][i % 2]);
    column(pixel++);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int r = i / 2, q = i % 2;
      last[r][q] = dot(start(q), d[q], w[r][0][q]);
      before[r][q] = dot(before[r][q], d[q], w[r][1][q]);
    }
    const int64_t outputs = walk.outputs_h - h;
    int64_t y = walk.y + h * y_row + first * y_pixel;
    for (int64_t x = 0; x < count; ++x, y += y_pixel) {
      column(pixel++);
      __m512i sum[2][2];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int r = i / 2, q = i % 2;
        sum[r][q] = dot(before[r][q], d[q], w[r][2][q]);
        before[r][q] = dot(last[r][q], d[q], w[r][1][q]);
        last[r][q] = dot(start(q), d[q], w[r][0][q]);
        finish.template convert<1>(&sum[r][q], 2 * kHalf + q, &sum[r][q], 1);
      }
      const __m512i codes = finish.template pack<kBare>(words(sum[0]), words(sum[1]));
      if constexpr (kHalf == 0) {
        *lower++ = codes;
      } else {
        const __m512i other = *lower++;
        finish.template leave_rows<kBare, kParts>(_mm512_unpacklo_epi64(other, codes), y, 2 * y_row, (outputs + 1) / 2);
        if (kParts > 1 && outputs == 1) continue;
        finish.template leave_rows<kBare, kParts>(_mm512_unpackhi_epi64(other, codes), y + y_row, 2 * y_row,
                                                  outputs / 2);
      }
    }
  }
}

// Pairs of output rows from row h to row `end`.
template <bool kBare, int kParts>
__attribute__((noinline)) void walk_pairs(const Walk& walk, const Finish& finish, int64_t h, int64_t end) {
  __m512i lower[kWait];
  const int64_t most = walk.outputs_w < kWait ? kWait / walk.outputs_w : 1;
  for (int64_t first = 0, count; first < walk.outputs_w; first += count) {
    count = chunk_of(walk.outputs_w, first, kWait);
    for (int64_t row = h, pairs; row < end; row += pairs * 2 * kParts) {
      pairs = least(most, (end - row + 2 * kParts - 1) / (2 * kParts));
      walk_half<kBare, kParts, 0>(walk, finish, row, pairs, first, count, lower);
      walk_half<kBare, kParts, 1>(walk, finish, row, pairs, first, count, lower);
    }
  }
}

// Output rows from h to `end`, one in each part.
template <bool kBare, int kParts, int kStride>
__attribute__((noinline)) void walk_rows(const Walk& walk, const Finish& finish, int64_t h, int64_t end) {
  constexpr int kRows = 2 * kParts + 1;
  const int64_t width = walk.width, pixel_bytes = walk.pixel, y_row = walk.y_row, y_pixel = walk.y_pixel;
  __m512i w[3][4], before[4], last[4], d[4];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j)
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) w[j][q] = keep(_mm512_load_si512(walk.weights + (j * 4 + q) * 64));
  const auto start = [&](int q) __attribute__((always_inline)) { return _mm512_load_si512(finish.start + 16 * q); };
  for (; h < end; h += kParts) {
    const uint8_t* rows[kRows];
#pragma GCC unroll 10
    for (int i = 0; i < kRows; ++i) rows[i] = walk.at(h * kStride - walk.top + i);
    const auto column = [&](int64_t pixel) __attribute__((always_inline)) {
      d[0] = d[1] = d[2] = d[3] = _mm512_set1_epi8(static_cast<char>(*walk.border));
      if (static_cast<uint64_t>(pixel) >= static_cast<uint64_t>(width)) return;
      __m512i row[4];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) row[i] = keep(load_rows<kParts>(rows + i, pixel * pixel_bytes));
      row[3] = row[2];
      interleave_half<0>(row, d);
      interleave_half<1>(row, d + 2);
    };
    int64_t pixel = -walk.left;
    column(pixel++);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) before[q] = dot(start(q), d[q], w[0][q]);
    if constexpr (kStride == 1) {
      column(pixel++);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        last[q] = dot(start(q), d[q], w[0][q]);
        before[q] = dot(before[q], d[q], w[1][q]);
      }
    }
    int64_t y = walk.y + h * y_row;
    for (int64_t x = walk.outputs_w; x > 0; --x, y += y_pixel) {
      if constexpr (kStride == 2) {
        column(pixel++);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) before[q] = dot(before[q], d[q], w[1][q]);
      }
      column(pixel++);
      __m512i sum[4];
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        sum[q] = dot(before[q], d[q], w[2][q]);
        before[q] = kStride == 2 ? dot(start(q), d[q], w[0][q]) : dot(last[q], d[q], w[1][q]);
        if constexpr (kStride == 1) last[q] = dot(start(q), d[q], w[0][q]);
        finish.template convert<1>(&sum[q], q, &sum[q], 1);
      }
      finish.template leave_rows<kBare, kParts>(finish.template pack<kBare>(words(sum), words(sum + 2)), y, y_row,
                                                walk.outputs_h - h);
    }
  }
}

}  // namespace
}  // namespace lowbit::kernels
