// The depthwise loop nest as a template over an ISA's vectors (`V`), and its inner tile.
//
// For one block of channels and one or two output rows, the image rows they read are interleaved once, byte by byte,
// into a strip of columns on the stack: then a dword of a column is one channel over `group` image rows, and one dot
// product instruction serves one kernel column, for both output rows with shifted weights. Each strip column is used by
// every kernel column that meets it; nothing is recomputed along x but the few columns where two strips join.
//
// V gives: kBlock, kGroup, kPixels (output pixels x rows a tile), Vector, Finish (the epilogue of a block), load, dot,
// keep (hold a value in a register) and interleave<parts, full>(pointers to kGroup rows, columns, out).
#pragma once

#include "kernels/dwconv_i8/layout.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kStripBytes = 12288;         // what the first cache holds beside weights and image rows
constexpr int64_t kImageInCache = 512 * 1024;  // images up to this walk a block of channels at a time

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// How a block's results leave. full: codes by what makes_codes tells, every channel of the block; parts: the same for
// some channels or several pixels a vector; any: whatever the epilogue asks.
enum class Mode { full, parts, any };

// Whether results become codes by multiply, add and clamp, perhaps with a slope and a table.
inline bool makes_codes(const Epilogue& epilogue) {
  return epilogue.output == DType::u8 && epilogue.bounded && !epilogue.row_scale && !epilogue.residual.data;
}

// One block of channels over one or two output rows: what the tiles need to know. Columns are counted in image pixels.
struct Strip {
  int64_t kernel_w, dilation_w, groups, step;  // step: columns from one tile pixel to the next
  const int8_t* weights;
  int64_t line_bytes;  // from the weights of the upper output row to the lower's
};

// Where a tile's results go: pixel p of row r at y + r * y_row + p * y_pixel (elements), likewise the residual.
struct Target {
  int64_t y, y_row, y_pixel;
  int64_t residual, residual_row, residual_pixel;
};

// kRows x kCount results. kKernelW, kGroups, kStep: known at compile time, or 0. One quarter q of the block after
// another, so that few accumulators are alive and each weight is loaded once for all pixels.
template <class V, Mode kMode, int kKernelW, int kGroups, int kStep, int kRows, int kCount>
LOWBIT_INLINE void tile(const Strip& strip, const uint8_t* columns, const typename V::Finish& finish, const Target& at,
                        int64_t parts) {
  using Vector = typename V::Vector;
  constexpr int64_t kVector = sizeof(Vector);
  const int64_t kernel_w = kKernelW ? kKernelW : strip.kernel_w;
  const int64_t groups = kGroups ? kGroups : strip.groups;
  const int64_t step = kStep ? kStep : strip.step;
  const int64_t dilation = kKernelW ? 1 : strip.dilation_w;
  const int64_t column_bytes = groups * 4 * kVector;
  Vector result[kRows][kCount][4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    Vector acc[kRows][kCount];
    const Vector start = V::load(finish.start + q * (kVector / 4));
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < kCount; ++p) acc[r][p] = start;
#pragma GCC unroll 5
    for (int64_t j = 0; j < kernel_w; ++j)
#pragma GCC unroll 3
      for (int64_t g = 0; g < groups; ++g)
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) {
          const Vector w =
              V::keep(V::load(strip.weights + r * strip.line_bytes + ((j * groups + g) * 4 + q) * kVector));
#pragma GCC unroll 4
          for (int p = 0; p < kCount; ++p)
            acc[r][p] = V::dot(acc[r][p],
                               V::load(columns + (p * step + j * dilation) * column_bytes + (g * 4 + q) * kVector), w);
        }
    if constexpr (kMode == Mode::any) {
      for (int r = 0; r < kRows; ++r)
        for (int p = 0; p < kCount; ++p) result[r][p][q] = acc[r][p];
    } else {
      finish.template convert<kRows * kCount>(&acc[0][0], q, &result[0][0][q], 4);
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kCount; ++p)
      finish.template leave<kMode>(result[r][p], at.y + r * at.y_row + p * at.y_pixel,
                                   at.residual + r * at.residual_row + p * at.residual_pixel, parts);
}

// `count` vectors of output pixels, the last of `last_parts` parts.
template <class V, Mode kMode, int kKernelW, int kGroups, int kStep, int kRows>
void strip_tiles(const Strip& strip, const uint8_t* columns, const typename V::Finish& finish, Target at, int64_t count,
                 int64_t last_parts) {
  constexpr int kCount = V::kPixels / kRows;
  const int64_t column_bytes = strip.groups * 4 * static_cast<int64_t>(sizeof(typename V::Vector));
  const auto advance = [&](int64_t pixels) {
    count -= pixels;
    columns += pixels * strip.step * column_bytes;
    at.y += pixels * at.y_pixel;
    at.residual += pixels * at.residual_pixel;
  };
  const int64_t partial = last_parts < finish.parts ? 1 : 0;
  for (; count - partial >= kCount; advance(kCount))
    tile<V, kMode, kKernelW, kGroups, kStep, kRows, kCount>(strip, columns, finish, at, finish.parts);
  if constexpr (kCount > 2) {
    for (; count - partial >= 2; advance(2))
      tile<V, kMode, kKernelW, kGroups, kStep, kRows, 2>(strip, columns, finish, at, finish.parts);
  }
  for (; count > 0; advance(1))
    tile<V, kMode, kKernelW, kGroups, kStep, kRows, 1>(strip, columns, finish, at,
                                                       count == 1 ? last_parts : finish.parts);
}

template <class V>
using StripTiles = void (*)(const Strip&, const uint8_t*, const typename V::Finish&, Target, int64_t, int64_t);

template <class V, Mode kMode, int kRows>
StripTiles<V> choose_tiles(const Strip& strip) {
  constexpr int kGroups3 = (3 + V::kGroup - 1) / V::kGroup, kGroups5 = (5 + V::kGroup - 1) / V::kGroup;
  const bool dense = strip.step == 1;
  if (kMode == Mode::any && strip.dilation_w == 1 && strip.kernel_w == 3 && strip.groups == kGroups3)
    return strip_tiles<V, kMode, 3, kGroups3, 0, kRows>;
  if (kMode == Mode::any || strip.dilation_w != 1) return strip_tiles<V, kMode, 0, 0, 0, kRows>;
  if (strip.kernel_w == 3 && strip.groups == kGroups3)
    return dense ? strip_tiles<V, kMode, 3, kGroups3, 1, kRows> : strip_tiles<V, kMode, 3, kGroups3, 0, kRows>;
  if (strip.kernel_w == 5 && strip.groups == kGroups5)
    return dense ? strip_tiles<V, kMode, 5, kGroups5, 1, kRows> : strip_tiles<V, kMode, 5, kGroups5, 0, kRows>;
  return strip_tiles<V, kMode, 0, 0, 0, kRows>;
}

template <class V, int kRows>
StripTiles<V> choose_tiles(const Strip& strip, Mode mode) {
  if (mode == Mode::full) return choose_tiles<V, Mode::full, kRows>(strip);
  if (mode == Mode::parts) return choose_tiles<V, Mode::parts, kRows>(strip);
  return choose_tiles<V, Mode::any, kRows>(strip);
}

// The image seen from one block of channels and one group of output rows.
struct Source {
  const uint8_t *x, *border;  // the sample's first pixel, and a row of zero points
  int64_t row, pixel;         // bytes to the next row, to the next pixel
  int64_t height, width;      // of the image
  int64_t top, left;          // of the first window, in the image or outside
  int64_t dilation, rows;     // from one row that is read to the next, and how many there are for this group
  int64_t part;               // pixels from one part of a vector to the next
  int64_t channels;

  // The row that tap i meets. One beyond the kernel meets zero weights: any other serves.
  inline const uint8_t* at(int64_t i) const {
    const int64_t h = top + least(i, rows - 1) * dilation;
    return h >= 0 && h < height ? x + h * row : border;
  }
};

// Neighbouring columns to interleave.
struct Columns {
  int64_t count, pixel, part;  // bytes to the next pixel, to the next part of a vector
  int64_t channels;
  int64_t out;  // bytes to the next column's place
};

// A column some of whose pixels lie outside of the image.
template <class V, int kParts>
__attribute__((noinline)) void interleave_edge(const Source& source, const uint8_t* const rows[], int64_t pixel,
                                               uint8_t* out) {
  constexpr int64_t kWidth = V::kBlock / kParts;
  alignas(64) uint8_t edge[V::kGroup][V::kBlock] = {};
  const uint8_t* edges[V::kGroup];
  for (int64_t k = 0; k < V::kGroup; ++k) {
    edges[k] = edge[k];
    for (int64_t part = 0; part < kParts; ++part) {
      const int64_t w = pixel + part * source.part;
      const uint8_t* from = w >= 0 && w < source.width ? rows[k] + w * source.pixel : source.border;
      __builtin_memcpy(edge[k] + part * kWidth, from, static_cast<size_t>(source.channels));
    }
  }
  V::template interleave<kParts, true>(edges, {1, 0, kWidth, source.channels, 0}, out);
}

// Interleaves columns first .. first + count - 1 of one row group; those of no use to any output pixel are left out.
template <class V, int kParts, bool kFull>
void interleave_group(const Strip& strip, const Source& source, int64_t group, int64_t first, int64_t count,
                      uint8_t* out) {
  constexpr int64_t kVector = sizeof(typename V::Vector);
  const int64_t reach = (strip.kernel_w - 1) * strip.dilation_w, column_bytes = strip.groups * 4 * kVector;
  const uint8_t *rows[V::kGroup], *at[V::kGroup];
#pragma GCC unroll 4
  for (int64_t k = 0; k < V::kGroup; ++k) rows[k] = source.at(group * V::kGroup + k);
  const int64_t inside = source.width - (kParts - 1) * source.part;  // pixels from which no part leaves the image
  for (int64_t column = 0; column < count;) {
    const int64_t phase = column % strip.step, pixel = source.left + first + column;
    if (phase > reach) {
      column += strip.step - phase;
    } else if (pixel < 0 || pixel >= inside) {
      interleave_edge<V, kParts>(source, rows, pixel, out + column++ * column_bytes);
    } else {
      // All to the image's end, or to the next gap.
      int64_t end = least(count, column + inside - pixel);
      if (reach + 1 < strip.step) end = least(end, column + reach + 1 - phase);
#pragma GCC unroll 4
      for (int64_t k = 0; k < V::kGroup; ++k) at[k] = rows[k] + pixel * source.pixel;
      V::template interleave<kParts, kFull>(
          at, {end - column, source.pixel, source.part * source.pixel, source.channels, column_bytes},
          out + column * column_bytes);
      column = end;
    }
  }
}

template <class V>
void interleave(const Strip& strip, const Source& source, int64_t parts, int64_t group, int64_t first, int64_t count,
                uint8_t* out) {
  const bool full = source.channels * parts == V::kBlock;
  const auto run = [&](auto group_of) { group_of(strip, source, group, first, count, out); };
  if (parts == 1) return run(full ? interleave_group<V, 1, true> : interleave_group<V, 1, false>);
  if constexpr (V::kBlock == 64)
    if (parts == 4) return run(full ? interleave_group<V, 4, true> : interleave_group<V, 4, false>);
  return run(full ? interleave_group<V, 2, true> : interleave_group<V, 2, false>);
}

// Kernels too wide for a strip: columns are interleaved where they are used.
template <class V, int kRows>
void direct_tile(const Strip& strip, const Source& source, int64_t pixel, const typename V::Finish& finish,
                 const Target& at, int64_t parts) {
  constexpr int64_t kVector = sizeof(typename V::Vector);
  alignas(64) uint8_t column[4 * kVector];
  typename V::Vector acc[kRows][4];
  for (int r = 0; r < kRows; ++r)
    for (int q = 0; q < 4; ++q) acc[r][q] = V::load(finish.start + q * (kVector / 4));
  for (int64_t j = 0; j < strip.kernel_w; ++j)
    for (int64_t g = 0; g < strip.groups; ++g) {
      interleave<V>(strip, source, finish.parts, g, pixel + j * strip.dilation_w, 1, column);
      const int8_t* w = strip.weights + (j * strip.groups + g) * 4 * kVector;
      for (int r = 0; r < kRows; ++r)
        for (int q = 0; q < 4; ++q)
          acc[r][q] = V::dot(acc[r][q], V::load(column + q * kVector), V::load(w + r * strip.line_bytes + q * kVector));
    }
  for (int r = 0; r < kRows; ++r)
    finish.template leave<Mode::any>(acc[r], at.y + r * at.y_row, at.residual + r * at.residual_row, parts);
}

// One or two output rows of one block.
template <class V, int kRows>
void run_rows(const Strip& strip, const Source& source, const typename V::Finish& finish, Target at, int64_t width) {
  constexpr int64_t kVector = sizeof(typename V::Vector);
  alignas(64) uint8_t columns[kStripBytes];
  const int64_t column_bytes = strip.groups * 4 * kVector;
  const int64_t reach = (strip.kernel_w - 1) * strip.dilation_w;  // columns beside the first that a pixel reads
  const int64_t vectors = (width + finish.parts - 1) / finish.parts;
  const int64_t slots = kStripBytes / column_bytes;
  const int64_t capacity = slots > reach ? (slots - reach - 1) / strip.step + 1 : 0;
  const auto parts_of = [&](int64_t vector) { return least(finish.parts, width - vector * finish.parts); };
  if (capacity == 0) {
    for (int64_t v = 0; v < vectors; ++v, at.y += at.y_pixel, at.residual += at.residual_pixel)
      direct_tile<V, kRows>(strip, source, v * strip.step, finish, at, parts_of(v));
    return;
  }
  const StripTiles<V> tiles = choose_tiles<V, kRows>(strip, finish.mode);
  const int64_t strips = (vectors + capacity - 1) / capacity;
  for (int64_t s = 0; s < strips; ++s) {
    const int64_t first = vectors * s / strips, count = vectors * (s + 1) / strips - first;
    for (int64_t g = 0; g < strip.groups; ++g)
      interleave<V>(strip, source, finish.parts, g, first * strip.step, (count - 1) * strip.step + reach + 1,
                    columns + g * 4 * kVector);
    tiles(strip, columns, finish, at, count, parts_of(first + count - 1));
    at.y += count * at.y_pixel;
    at.residual += count * at.residual_pixel;
  }
}

// Which block, sample and group of rows a unit of work is.
struct Unit {
  int64_t block, n, h;
};

template <class V>
void run_dwconv(const DwconvI8Args& args, int64_t task, int64_t tasks) {
  const DwconvShape& shape = args.weights->shape;
  const DwconvLayout layout(shape, V::kBlock, V::kGroup);
  const Grid& grid = args.grid;
  const int64_t row_groups = (grid.h + layout.lines - 1) / layout.lines;
  const int64_t units = grid.n * row_groups * layout.blocks;
  const bool block_outer = grid.h * shape.stride_h * args.x.stride_h <= kImageInCache;
  const auto unit_at = [&](int64_t u) {
    const int64_t n = u / (row_groups * layout.blocks), rest = u % (row_groups * layout.blocks);
    return block_outer ? Unit{rest / row_groups, n, rest % row_groups * layout.lines}
                       : Unit{rest % layout.blocks, n, rest / layout.blocks * layout.lines};
  };

  typename V::Finish finish;
  int64_t ready_block = -1, ready_n = -1;
  for (int64_t u = units * task / tasks; u < units * (task + 1) / tasks; ++u) {
    const Unit unit = unit_at(u);
    const int64_t c = unit.block * layout.block, channels = least(layout.block, shape.channels - c);
    if (unit.block != ready_block || unit.n != ready_n) {
      finish.prepare(args, unit.n, c, channels, dwconv_parts(layout.block, channels));
      ready_block = unit.block;
      ready_n = unit.n;
    }
    const int64_t lines = least(layout.lines, grid.h - unit.h);
    const Strip strip = {shape.kernel_w,
                         shape.dilation_w,
                         layout.groups,
                         finish.parts * shape.stride_w,
                         args.weights->packed.as<int8_t>() + unit.block * layout.block_bytes,
                         layout.block_bytes / layout.lines};
    const Source source = {args.x.data + args.x.offset(unit.n, 0, 0) + c,
                           args.border + unit.n * args.border_stride_n,
                           args.x.stride_h,
                           args.x.stride_w,
                           args.height,
                           args.width,
                           unit.h * shape.stride_h - args.top,
                           -args.left,
                           shape.dilation_h,
                           shape.kernel_h + (lines - 1) * shape.stride_h,
                           shape.stride_w,
                           channels};
    const auto& residual = args.epilogue.residual;
    const Target target = {args.y.offset(unit.n, unit.h, 0) + c,   args.y.stride_h,   finish.parts * args.y.stride_w,
                           residual.offset(unit.n, unit.h, 0) + c, residual.stride_h, finish.parts * residual.stride_w};
    if (lines == 2) {
      run_rows<V, 2>(strip, source, finish, target, grid.w);
    } else {
      run_rows<V, 1>(strip, source, finish, target, grid.w);
    }
  }
}

// The constants of a block in the channel order of interleaved vectors (layout.h), channels repeated `parts` times.
template <class T>
inline void spread_channels(const T* values, int64_t channels, int64_t block, int64_t parts, T* out) {
  alignas(64) T natural[64] = {};
  const int64_t width = block / parts;
  for (int64_t part = 0; part < parts; ++part)
    __builtin_memcpy(natural + part * width, values, static_cast<size_t>(channels) * sizeof(T));
  for (int64_t q = 0; q < 4; ++q)
    for (int64_t lane = 0; lane < block / 16; ++lane)
      __builtin_memcpy(out + q * (block / 4) + lane * 4, natural + lane * 16 + q * 4, 4 * sizeof(T));
}

// What a block's epilogue needs on every ISA; kBlock channels in the order of interleaved vectors.
template <int kBlock>
struct BlockConstants {
  alignas(64) float multiplier[kBlock];
  alignas(64) float bias[kBlock];
  alignas(64) float slope[kBlock];
  alignas(64) int32_t start[kBlock];  // -zero_point * sum of weights
  const Epilogue* epilogue;
  uint8_t* codes;  // one of the two is the output
  float* floats;
  int64_t pixel, residual_pixel;  // elements from part to part
  int64_t channels, parts;
  float row_scale;
  Mode mode;

  void prepare(const DwconvI8Args& args, int64_t n, int64_t c, int64_t count, int64_t parts_of_block) {
    epilogue = &args.epilogue;
    channels = count;
    parts = parts_of_block;
    spread_channels(epilogue->multiplier + c, count, kBlock, parts, multiplier);
    spread_channels(epilogue->bias + c, count, kBlock, parts, bias);
    if (epilogue->slope) spread_channels(epilogue->slope + c, count, kBlock, parts, slope);
    spread_channels(args.weights->column_sums.as<int32_t>() + c, count, kBlock, parts, start);
    const int32_t x_zero_point = args.x_zero_points ? args.x_zero_points[n] : args.x_zero_point;
    for (int32_t& value : start) value *= -x_zero_point;
    row_scale = epilogue->row_scale ? epilogue->row_scale[n] : 1.0f;
    codes = static_cast<uint8_t*>(args.y.data);
    floats = static_cast<float*>(args.y.data);
    pixel = args.y.stride_w;
    residual_pixel = epilogue->residual.stride_w;
    mode = !makes_codes(*epilogue) ? Mode::any : channels == kBlock ? Mode::full : Mode::parts;
  }
};

}  // namespace
}  // namespace lowbit::kernels
