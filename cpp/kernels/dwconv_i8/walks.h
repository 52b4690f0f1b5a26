// Which shapes walk, and how their work is cut.
#pragma once

#include <immintrin.h>

#include "kernels/dwconv_i8/layout.h"
#include "kernels/dwconv_i8/walk_3x3.h"
#include "kernels/dwconv_i8/walk_5x5.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kBand = 256 * 1024;  // bytes of image rows that all blocks read before the next rows' turn

template <bool kBare, int kParts>
void walk_3x3(const Walk& walk, const Finish& finish, int64_t stride, int64_t h, int64_t end) {
  if (stride == 2) return walk_rows<kBare, kParts, 2>(walk, finish, h, end);
  const int64_t odd = kParts == 1 ? (end - h) % 2 : 0;
  walk_pairs<kBare, kParts>(walk, finish, h, end - odd);
  if (odd) walk_rows<kBare, 1, 1>(walk, finish, end - 1, end);
}

template <bool kBare, int kParts>
void walk_5x5(const Walk& walk, const Finish& finish, int64_t stride, int64_t h, int64_t end) {
  if (stride == 2) return walk_5x5_rows<kBare, kParts>(walk, finish, h, end);
  const int64_t odd = kParts == 1 ? (end - h) % 2 : 0;
  walk_5x5_pairs<kBare, kParts, 2>(walk, finish, h, end - odd);
  if (odd) walk_5x5_pairs<kBare, 1, 1>(walk, finish, end - 1, end);
}

template <bool kBare, int kParts>
void walk_rows_of(const Walk& walk, const Finish& finish, const DwconvShape& shape, int64_t h, int64_t end) {
  if (shape.kernel_h == 3) return walk_3x3<kBare, kParts>(walk, finish, shape.stride_h, h, end);
  walk_5x5<kBare, kParts>(walk, finish, shape.stride_h, h, end);
}

template <bool kBare>
void walk_block(const Walk& walk, const Finish& finish, const DwconvShape& shape, int64_t h, int64_t end) {
  if (finish.parts == 4) return walk_rows_of<kBare, 4>(walk, finish, shape, h, end);
  if (finish.parts == 2) return walk_rows_of<kBare, 2>(walk, finish, shape, h, end);
  walk_rows_of<kBare, 1>(walk, finish, shape, h, end);
}

inline bool walks(const DwconvI8Args& args) {
  const DwconvShape& shape = args.weights->shape;
  return makes_codes(args.epilogue) && shape.kernel_h == shape.kernel_w &&
         (shape.kernel_h == 3 || shape.kernel_h == 5) && shape.dilation_h == 1 && shape.dilation_w == 1 &&
         shape.stride_h == shape.stride_w && shape.stride_h <= 2;
}

// A unit of work is one group of output rows (one or two) in one block. Blocks take turns band by band.
void run_walks(const DwconvI8Args& args, int64_t task, int64_t tasks) {
  const DwconvShape& shape = args.weights->shape;
  const DwconvLayout layout(shape, 64, 4);
  const Grid& grid = args.grid;
  const int64_t lines = shape.stride_h == 1 ? 2 : 1, groups = (grid.h + lines - 1) / lines;
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
                       layout.block_bytes / layout.lines,
                       layout.extra(args.weights->packed.as<int8_t>(), block),
                       layout.extra_bytes,
                       args.y.offset(n, 0, 0) + c,
                       args.y.stride_h,
                       args.y.stride_w,
                       grid.h,
                       grid.w};
    // Vectors of several rows begin at multiples of their rows, whoever computes what precedes them.
    const auto row = [&](int64_t g) { return least(grid.h, (g + parts - 1) / parts * parts * lines); };
    const int64_t h = row(first + group), end = row(first + group + count);
    if (args.epilogue.changes_codes()) {
      walk_block<false>(walk, finish, shape, h, end);
    } else {
      walk_block<true>(walk, finish, shape, h, end);
    }
  }
}

}  // namespace
}  // namespace lowbit::kernels
