// Depthwise convolution 3x3, 5x5 and 7x7 in registers alone, on 256 bits: a walk along one or two output rows, eight
// channels wide, in which each image column is loaded and widened once, meets all kernel columns, ends one output pixel
// and feeds those that follow.
//
// A vector of codes holds the rows 2g and 2g + 1 as 16-bit numbers in the dwords of eight channels, for vpmaddwd. So
// channels need be no more than a multiple of 8, and nothing but results is stored. With an odd stride the lower output
// row has weights of its own (one image row later), with an even one the upper's, for later vectors (layout.h).
#pragma once

#include <immintrin.h>

#include "kernels/dwconv_i8/tile.h"
#include "simd/copy_few.h"
#include "simd/lanes.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kWalkBytes = 24 * 1024;  // of image rows, which all blocks of a chunk find in the first cache
constexpr int64_t kWalkPixels = 64;        // of a chunk at most
constexpr int64_t kWalkBlocks = 16;        // that take turns on a chunk of columns

// Holds a value in a register: the compiler would rather load it again at each use.
template <class T>
LOWBIT_INLINE T keep(T value) {
  asm("" : "+x"(value));
  return value;
}

// One or two output rows, seen from a block of eight channels.
struct Walk {
  const uint8_t* rows[10];  // image rows that they read, or the border
  int64_t pixel, width;     // of the image: bytes to the next pixel, pixels
  int64_t left;             // image pixel of the first column
  __m256i outside;          // a column of zero points
  const int16_t* weights;
  const float *multiplier, *bias, *slope;
  __m256i start;
  uint8_t* y[2];
  int64_t y_pixel, channels;
};

// Sums as rounded results, still without bounds.
template <bool kSlope>
LOWBIT_INLINE __m256i rounded(const Walk& walk, const Epilogue& epilogue, __m256i sum) {
  const __m256 m = _mm256_loadu_ps(walk.multiplier), b = _mm256_loadu_ps(walk.bias);
  __m256 t = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), m, b);
  if (kSlope && epilogue.slope) {
    const __m256 factor = _mm256_blendv_ps(_mm256_set1_ps(1), _mm256_loadu_ps(walk.slope), t);
    t = _mm256_fmadd_ps(t, factor, _mm256_set1_ps(epilogue.zero_point));
  }
  return _mm256_cvtps_epi32(t);
}

LOWBIT_INLINE __m256i changed(const Epilogue& epilogue, __m256i codes) {
  const __m256i hi = _mm256_set1_epi8(static_cast<char>(epilogue.hi)),
                lo = _mm256_set1_epi8(static_cast<char>(epilogue.lo));
  const __m256i v = _mm256_max_epu8(_mm256_min_epu8(codes, hi), lo);
  return epilogue.table ? lookup(epilogue.table->steps, v) : v;
}

// Eight codes of each row of one output pixel.
template <int kLines, bool kFull>
LOWBIT_INLINE void store_pixel(const Walk& walk, int64_t at, __m128i codes) {
  if (kFull || walk.channels >= 8) {
    if constexpr (kLines == 2) _mm_storeh_pi(reinterpret_cast<__m64*>(walk.y[1] + at), _mm_castsi128_ps(codes));
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(walk.y[0] + at), codes);
  }
  alignas(16) uint8_t bytes[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes), codes);
  for (int r = kLines; r-- > 0;) copy_few<8>(walk.y[r] + at, bytes + 8 * r, walk.channels);
}

template <int kKernel, int kStride, int kLines>
struct Walker {
  static constexpr int kRows = kKernel + (kLines - 1) * kStride, kVectors = (kRows + 1) / 2;
  static constexpr int kSets = kStride % 2 ? 2 : 1, kGroups = (kKernel + kSets) / 2;  // as DwconvWalk in layout.h
  static constexpr int kAhead = (kKernel - 1) / kStride;  // later output pixels that a column feeds

  const Walk& walk;
  __m256i column[kVectors];
  __m256i sums[kLines][kAhead + 1];

  // Eight dwords of two rows' codes.
  static LOWBIT_INLINE __m256i widen(const uint8_t* upper, const uint8_t* lower) {
    long long a, b;
    __builtin_memcpy(&a, upper, 8);
    __builtin_memcpy(&b, lower, 8);
    const __m256i order = _mm256_setr_epi8(0, -1, 8, -1, 1, -1, 9, -1, 2, -1, 10, -1, 3, -1, 11, -1, 4, -1, 12, -1, 5,
                                           -1, 13, -1, 6, -1, 14, -1, 7, -1, 15, -1);
    return _mm256_shuffle_epi8(_mm256_blend_epi32(_mm256_set1_epi64x(a), _mm256_set1_epi64x(b), 0xcc), order);
  }

  // kEdge: the column may lie outside of the image.
  template <bool kEdge>
  LOWBIT_INLINE void load(int64_t pixel) {
    if (kEdge && static_cast<uint64_t>(pixel) >= static_cast<uint64_t>(walk.width)) {
      LOWBIT_UNROLL
      for (int g = 0; g < kVectors; ++g) column[g] = walk.outside;
      return;
    }
    const int64_t at = pixel * walk.pixel;
    LOWBIT_UNROLL
    for (int g = 0; g < kVectors; ++g) {
      if (2 * g + 1 < kRows) {
        column[g] = keep(widen(walk.rows[2 * g] + at, walk.rows[2 * g + 1] + at));
      } else {
        const auto* last = reinterpret_cast<const __m128i*>(walk.rows[2 * g] + at);
        column[g] = keep(_mm256_cvtepu8_epi32(_mm_loadl_epi64(last)));
      }
    }
  }

  // The column is kernel column j of the output pixel that is `ahead` of the next to end.
  LOWBIT_INLINE void add(int ahead, int j) {
    LOWBIT_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      LOWBIT_UNROLL
      for (int set = 0; set < kSets; ++set) {
        if (2 * g > set + kKernel - 1) continue;
        const int16_t* weights = walk.weights + ((set * kKernel + j) * kGroups + g) * 16;
        __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights));
        if (kSets < kLines) w = keep(w);
        LOWBIT_UNROLL
        for (int r = 0; r < kLines; ++r)
          if (r * kStride % 2 == set)
            sums[r][ahead] = _mm256_add_epi32(sums[r][ahead], _mm256_madd_epi16(column[g + r * kStride / 2], w));
      }
    }
  }

  LOWBIT_INLINE void begin(int64_t pixel) {
    LOWBIT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      LOWBIT_UNROLL
      for (int r = 0; r < kLines; ++r) sums[r][i] = walk.start;
    }
    LOWBIT_UNROLL
    for (int c = 0; c < kKernel - kStride; ++c) {
      load<true>(pixel + c);
      LOWBIT_UNROLL
      for (int i = 0; i * kStride <= c; ++i) add(i, c - i * kStride);
    }
  }

  // Ends an output pixel whose last kStride columns begin at `pixel`.
  template <bool kEdge>
  LOWBIT_INLINE void step(int64_t pixel, __m256i (&ended)[kLines]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kLines; ++r) sums[r][kAhead] = walk.start;
    LOWBIT_UNROLL
    for (int c = kKernel - kStride; c < kKernel; ++c) {
      load<kEdge>(pixel + c - (kKernel - kStride));
      LOWBIT_UNROLL
      for (int i = 0; i <= kAhead; ++i)
        if (i * kStride <= c) add(i, c - i * kStride);
    }
    LOWBIT_UNROLL
    for (int r = 0; r < kLines; ++r) {
      ended[r] = sums[r][0];
      LOWBIT_UNROLL
      for (int i = 0; i < kAhead; ++i) sums[r][i] = sums[r][i + 1];
    }
  }
};

// Output pixels first .. first + count - 1. kPlain: all channels exist, and codes take no more than saturation. Where
// they do, sums wait for it, so that the walk has its registers and tables full vectors.
template <int kKernel, int kStride, int kLines, bool kPlain>
__attribute__((noinline)) void walk_rows(const Walk& given, const Epilogue& epilogue, int64_t first, int64_t count) {
  const Walk walk = given;  // of its own, so that stores of codes cannot be thought to change it
  __m256i waiting[kPlain ? 1 : kWalkPixels][kLines];
  Walker<kKernel, kStride, kLines> walker = {walk, {}, {}};
  int64_t pixel = walk.left + first * kStride, at = first * walk.y_pixel, x = 0;
  walker.begin(pixel);
  pixel += kKernel - kStride;
  const auto leave = [&](const __m256i(&sums)[kLines]) __attribute__((always_inline)) {
    if constexpr (kPlain) {
      const __m256i upper = rounded<false>(walk, epilogue, sums[0]);
      const __m256i lower = kLines == 2 ? rounded<false>(walk, epilogue, sums[kLines - 1]) : upper;
      const __m256i words = _mm256_packs_epi32(upper, lower), codes = _mm256_packus_epi16(words, words);
      const __m128i half = _mm256_extracti128_si256(codes, 1);
      store_pixel<kLines, true>(walk, at, _mm_unpacklo_epi32(_mm256_castsi256_si128(codes), half));
      at += walk.y_pixel;
    } else {
      for (int r = 0; r < kLines; ++r) waiting[x][r] = sums[r];
    }
  };
  __m256i ended[kLines];
  for (; x < count && pixel < 0; ++x, pixel += kStride) walker.template step<true>(pixel, ended), leave(ended);
  const int64_t inside = least(count, x + (walk.width - pixel) / kStride);
  for (; x < inside; ++x, pixel += kStride) walker.template step<false>(pixel, ended), leave(ended);
  for (; x < count; ++x, pixel += kStride) walker.template step<true>(pixel, ended), leave(ended);
  if constexpr (!kPlain) {
    const auto words = [&](const __m256i(&sums)[kLines]) {
      return _mm256_packs_epi32(rounded<true>(walk, epilogue, sums[0]),
                                rounded<true>(walk, epilogue, sums[kLines - 1]));
    };
    for (x = 0; x < count; x += 2, at += 2 * walk.y_pixel) {
      const __m256i codes =
          changed(epilogue, _mm256_packus_epi16(words(waiting[x]), words(waiting[x + 1 < count ? x + 1 : x])));
      const __m128i lower = _mm256_castsi256_si128(codes), upper = _mm256_extracti128_si256(codes, 1);
      store_pixel<kLines, false>(walk, at, _mm_unpacklo_epi32(lower, upper));
      if (x + 1 < count) store_pixel<kLines, false>(walk, at + walk.y_pixel, _mm_unpackhi_epi32(lower, upper));
    }
  }
}

using WalkRows = void (*)(const Walk&, const Epilogue&, int64_t, int64_t);

template <int kKernel, int kStride>
WalkRows choose_walk(int64_t lines, bool plain) {
  if (lines == 2) return plain ? walk_rows<kKernel, kStride, 2, true> : walk_rows<kKernel, kStride, 2, false>;
  return plain ? walk_rows<kKernel, kStride, 1, true> : walk_rows<kKernel, kStride, 1, false>;
}

inline WalkRows choose_walk(const DwconvShape& shape, int64_t lines, bool plain) {
  const bool dense = shape.stride_h == 1;
  if (shape.kernel_h == 3) return dense ? choose_walk<3, 1>(lines, plain) : choose_walk<3, 2>(lines, plain);
  if (shape.kernel_h == 5) return dense ? choose_walk<5, 1>(lines, plain) : choose_walk<5, 2>(lines, plain);
  return dense ? choose_walk<7, 1>(lines, plain) : choose_walk<7, 2>(lines, plain);
}

inline bool walks(const DwconvI8Args& args) {
  return makes_codes(args.epilogue) && DwconvWalk(args.weights->shape).exists;
}

// Some blocks of one or two output rows, a chunk of columns after the other.
void walk_blocks(const DwconvI8Args& args, int64_t n, int64_t h, int64_t block, int64_t end) {
  const DwconvShape& shape = args.weights->shape;
  const DwconvWalk layout(shape);
  const int64_t lines = least(2, args.grid.h - h), reads = shape.kernel_h + (lines - 1) * shape.stride_h;
  const uint8_t* border = args.border + n * args.border_stride_n;
  Walk walk;
  walk.pixel = args.x.stride_w;
  walk.width = args.width;
  walk.left = -args.left;
  walk.outside = _mm256_set1_epi16(*border);
  walk.y_pixel = args.y.stride_w;
  const __m256i x_zero_point = _mm256_set1_epi32(args.x_zero_points ? args.x_zero_points[n] : args.x_zero_point);
  const bool saturates = !args.epilogue.changes_codes() && !args.epilogue.slope;
  const WalkRows full = choose_walk(shape, lines, saturates), part = choose_walk(shape, lines, false);
  const int64_t most = least(kWalkPixels, kWalkBytes / (reads * shape.stride_w * (end - block) * 8) + 1);
  const int64_t chunks = (args.grid.w + most - 1) / most;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t first = args.grid.w * chunk / chunks, count = args.grid.w * (chunk + 1) / chunks - first;
    for (int64_t b = block; b < end; ++b) {
      const int64_t c = b * 8;
      for (int64_t i = 0; i < reads; ++i) {
        const int64_t row = h * shape.stride_h - args.top + i;
        walk.rows[i] = row >= 0 && row < args.height ? args.x.data + args.x.offset(n, row, 0) + c : border;
      }
      walk.weights =
          reinterpret_cast<const int16_t*>(args.weights->packed.as<int8_t>() + layout.first + b * layout.block_bytes);
      walk.multiplier = args.epilogue.multiplier + c;
      walk.bias = args.epilogue.bias + c;
      walk.slope = args.epilogue.slope ? args.epilogue.slope + c : nullptr;
      const auto* sums = reinterpret_cast<const __m256i*>(args.weights->column_sums.as<int32_t>() + c);
      const __m256i product = _mm256_mullo_epi32(_mm256_loadu_si256(sums), x_zero_point);
      walk.start = _mm256_sub_epi32(_mm256_setzero_si256(), product);
      for (int64_t r = 0; r < lines; ++r)
        walk.y[r] = static_cast<uint8_t*>(args.y.data) + args.y.offset(n, h + r, 0) + c;
      walk.channels = shape.channels - c;
      (walk.channels >= 8 ? full : part)(walk, args.epilogue, first, count);
    }
  }
}

// A unit of work is one or two output rows in some blocks. Where the image stays in the second cache, all of its rows
// are walked before the next blocks, whose weights then stay in the first.
void run_walks(const DwconvI8Args& args, int64_t task, int64_t tasks) {
  const DwconvShape& shape = args.weights->shape;
  const Grid& grid = args.grid;
  const int64_t blocks = (shape.channels + 7) / 8, turns = (blocks + kWalkBlocks - 1) / kWalkBlocks;
  const int64_t groups = (grid.h + 1) / 2, units = grid.n * groups * turns;
  const bool rows_first = grid.h * shape.stride_h * args.x.stride_h <= kImageInCache;
  for (int64_t u = units * task / tasks; u < units * (task + 1) / tasks; ++u) {
    const int64_t n = u / (groups * turns), rest = u % (groups * turns);
    const int64_t turn = rows_first ? rest / groups : rest % turns, group = rows_first ? rest % groups : rest / turns;
    walk_blocks(args, n, 2 * group, blocks * turn / turns, blocks * (turn + 1) / turns);
  }
}

}  // namespace
}  // namespace lowbit::kernels
