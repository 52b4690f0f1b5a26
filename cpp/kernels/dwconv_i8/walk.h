// Depthwise 3x3, stride 1 or 2, in registers alone: one walk along a row, in which each column is loaded and
// interleaved once, meets its three kernel columns, ends one output pixel and feeds the next two.
//
// Nothing but results is stored, so the loads of later columns run ahead of the products, and products do not wait for
// stores (on Zen 4 a stored vector costs as much as a product and a half). Stride 1 makes two output rows of four image
// rows (layout.h); their weights leave registers for the sums of half a block, so that some pixels are walked twice,
// half a block each time. Stride 2 makes one row, with all weights in registers. A block of few channels puts output
// rows side by side in its vectors, not pixels: borders are then alike in all parts of a column.
#pragma once

#include <immintrin.h>

#include "kernels/dwconv_i8/avx512.h"
#include "kernels/dwconv_i8/layout.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kWait = 32;          // pixels whose first half waits, in the first cache, for the second
constexpr int64_t kBand = 256 * 1024;  // bytes of image rows that all blocks read before the next rows' turn

// One block of a sample.
struct Walk {
  const uint8_t *x, *border;  // the image, and a row of zero points
  int64_t row, pixel;         // bytes to the next row, to the next pixel
  int64_t height, width;      // of the image
  int64_t top, left;          // missing above and before it
  const int8_t* weights;
  int64_t line_bytes;  // to the weights of the lower output row
  int64_t y, y_row, y_pixel, outputs_h, outputs_w;

  inline const uint8_t* at(int64_t h) const { return h >= 0 && h < height ? x + h * row : border; }
};

// Row i of each part: those of the next part lie two rows further down.
template <int kParts>
inline __attribute__((always_inline)) __m512i load_rows(const uint8_t* const* rows, int64_t at) {
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
inline __attribute__((always_inline)) void interleave_half(const __m512i row[4], __m512i out[2]) {
  const __m512i top = kHalf ? _mm512_unpackhi_epi8(row[0], row[1]) : _mm512_unpacklo_epi8(row[0], row[1]);
  const __m512i bottom = kHalf ? _mm512_unpackhi_epi8(row[2], row[3]) : _mm512_unpacklo_epi8(row[2], row[3]);
  out[0] = _mm512_unpacklo_epi16(top, bottom);
  out[1] = _mm512_unpackhi_epi16(top, bottom);
}

inline __attribute__((always_inline)) __m512i dot(__m512i acc, __m512i codes, __m512i weights) {
  return _mm512_dpbusd_epi32(acc, codes, weights);
}

// Half a block of `lines` pairs of output rows from row h on, pixels first .. first + count - 1. A vector of codes
// holds both rows of a pair; the first half leaves it in `lower`, the second picks it up.
template <bool kBare, int kParts, int kHalf>
inline __attribute__((always_inline)) void walk_half(const Walk& walk, const Finish& finish, int64_t h, int64_t pairs,
                                                     int64_t first, int64_t count, __m512i* lower) {
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
        finish.template leave_rows<kParts>(_mm512_unpacklo_epi64(other, codes), y, 2 * y_row, (outputs + 1) / 2);
        if (kParts > 1 && outputs == 1) continue;
        finish.template leave_rows<kParts>(_mm512_unpackhi_epi64(other, codes), y + y_row, 2 * y_row, outputs / 2);
      }
    }
  }
}

// Pairs of output rows from row h to row `end`.
template <bool kBare, int kParts>
__attribute__((noinline)) void walk_pairs(const Walk& walk, const Finish& finish, int64_t h, int64_t end) {
  __m512i lower[kWait];
  const int64_t most = walk.outputs_w < kWait ? kWait / walk.outputs_w : 1;
  while (h < end) {
    const int64_t pairs = least(most, (end - h + 2 * kParts - 1) / (2 * kParts));
    for (int64_t first = 0; first < walk.outputs_w; first += kWait) {
      const int64_t count = least(kWait, walk.outputs_w - first);
      walk_half<kBare, kParts, 0>(walk, finish, h, pairs, first, count, lower);
      walk_half<kBare, kParts, 1>(walk, finish, h, pairs, first, count, lower);
    }
    h += pairs * 2 * kParts;
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
      finish.template leave_rows<kParts>(finish.template pack<kBare>(words(sum), words(sum + 2)), y, y_row,
                                         walk.outputs_h - h);
    }
  }
}

template <bool kBare, int kParts>
void walk_block(const Walk& walk, const Finish& finish, int64_t stride, int64_t h, int64_t end) {
  if (stride == 2) return walk_rows<kBare, kParts, 2>(walk, finish, h, end);
  const int64_t odd = kParts == 1 ? (end - h) % 2 : 0;
  walk_pairs<kBare, kParts>(walk, finish, h, end - odd);
  if (odd) walk_rows<kBare, 1, 1>(walk, finish, end - 1, end);
}

template <bool kBare>
void walk_block(const Walk& walk, const Finish& finish, int64_t stride, int64_t h, int64_t end) {
  if (finish.parts == 4) return walk_block<kBare, 4>(walk, finish, stride, h, end);
  if (finish.parts == 2) return walk_block<kBare, 2>(walk, finish, stride, h, end);
  walk_block<kBare, 1>(walk, finish, stride, h, end);
}

inline bool walks(const DwconvI8Args& args) {
  const DwconvShape& shape = args.weights->shape;
  return is_plain(args.epilogue) && shape.kernel_h == 3 && shape.kernel_w == 3 && shape.dilation_h == 1 &&
         shape.dilation_w == 1 && shape.stride_h == shape.stride_w && shape.stride_h <= 2;
}

// A unit of work is one group of output rows (one or two) in one block. Blocks take turns band by band.
void run_walks(const DwconvI8Args& args, int64_t task, int64_t tasks) {
  const DwconvShape& shape = args.weights->shape;
  const DwconvLayout layout(shape, 64, 4);
  const Grid& grid = args.grid;
  const int64_t lines = layout.lines, groups = (grid.h + lines - 1) / lines;
  const int64_t band = kBand / (lines * shape.stride_h * args.x.stride_h) + 1;  // groups
  const int64_t units = grid.n * groups * layout.blocks;
  Finish finish;
  for (int64_t u = units * task / tasks, last = units * (task + 1) / tasks, count; u < last; u += count) {
    const int64_t n = u / (groups * layout.blocks), rest = u % (groups * layout.blocks);
    const int64_t first = rest / (band * layout.blocks) * band, here = least(band, groups - first);
    const int64_t block = rest % (band * layout.blocks) / here, group = rest % (band * layout.blocks) % here;
    count = least(here - group, last - u);

    const int64_t c = block * 64, channels = least(64, shape.channels - c), parts = dwconv_parts(64, channels);
    finish.prepare(args, n, c, channels, parts);
    const Walk walk = {args.x.data + args.x.offset(n, 0, 0) + c,
                       args.border + n * args.border_stride_n,
                       args.x.stride_h,
                       args.x.stride_w,
                       args.height,
                       args.width,
                       args.top,
                       args.left,
                       args.weights->packed.as<int8_t>() + block * layout.block_bytes,
                       layout.block_bytes / lines,
                       args.y.offset(n, 0, 0) + c,
                       args.y.stride_h,
                       args.y.stride_w,
                       grid.h,
                       grid.w};
    // Vectors of several rows begin at multiples of their rows, whoever computes what precedes them.
    const auto row = [&](int64_t g) { return least(grid.h, (g + parts - 1) / parts * parts * lines); };
    const int64_t h = row(first + group), end = row(first + group + count);
    if (args.epilogue.changes_codes()) {
      walk_block<false>(walk, finish, shape.stride_h, h, end);
    } else {
      walk_block<true>(walk, finish, shape.stride_h, h, end);
    }
  }
}

}  // namespace
}  // namespace lowbit::kernels
