// How packed depthwise weights lie, for the packer and the kernels alike.
//
// Channels go in blocks. A block is `lines` vectors of 4 * block bytes for each kernel column j and row group g:
//   [block][line r][j][g][4 * block bytes]
// The dword of channel v (of the block) holds the weights of `group` image rows that stand together, at
//   dword index (v % 16 / 4) * block / 4 + v / 16 * 4 + v % 4
// which is the order in which byte interleaving within 128-bit lanes leaves the channels.
// Line 0 serves the upper of two output rows, line 1 the lower: the same weights stride_h image rows later, so that
// both use the same interleaved bytes. A last block of few channels repeats them: its vectors hold `parts` neighbouring
// output pixels side by side.
//
// Four rows leave one or two of a 5x5 kernel's image rows over, whose dwords would be mostly empty. So that walks
// (walk.h) fill them, these rows' weights lie behind all blocks once more, [block][line r][extra][4 * block bytes]: a
// dword holds, at stride 1, rows 4 and 5 of columns {0, 1}, {2, 3} and {none, 4}; at stride 2 row 4 of columns {0, 1,
// 2, 3} and {none, none, 4, none}.
//
// Pairs of rows have, for kernels that walk on 256 bits (walk_256.h), all weights behind the blocks once more, for
// blocks of eight channels: DwconvWalk.
#pragma once

#include "kernels/dwconv_i8/dwconv_i8.h"

namespace lowbit::kernels {
namespace {

struct DwconvLayout {
  int64_t block, group;
  int64_t groups;  // row groups that cover the kernel's rows
  int64_t lines;   // output rows at once
  int64_t blocks;
  int64_t block_bytes;
  int64_t extras = 0, extra_bytes = 0, extra_lines = 0;  // extra vectors of 4 * block bytes a line, their lines

  DwconvLayout(const DwconvShape& shape, int block_channels, int group_rows)
      : block(block_channels), group(group_rows) {
    groups = (shape.kernel_h + group - 1) / group;
    lines = shape.dilation_h == 1 && shape.kernel_h + shape.stride_h <= groups * group ? 2 : 1;
    blocks = (shape.channels + block - 1) / block;
    block_bytes = lines * shape.kernel_w * groups * 4 * block;
    if (group != 4 || shape.kernel_h != 5 || shape.kernel_w != 5 || shape.dilation_h != 1 || shape.dilation_w != 1)
      return;
    if (shape.stride_h != shape.stride_w || shape.stride_h > 2) return;
    extras = shape.stride_h == 1 ? 3 : 2;
    extra_lines = shape.stride_h == 1 ? 2 : 1;
    extra_bytes = extras * 4 * block;
  }

  int64_t bytes() const { return blocks * (block_bytes + extra_lines * extra_bytes); }

  template <class T>
  T* extra(T* packed, int64_t b) const {
    return packed + blocks * block_bytes + b * extra_lines * extra_bytes;
  }
};

// [block of 8][set][kernel column][g][8 channels][2]: 16-bit weights of rows 2g - set and 2g + 1 - set. A second set
// serves the lower of two output rows where the stride is odd.
struct DwconvWalk {
  bool exists;
  int64_t sets, groups;
  int64_t first, block_bytes, bytes;  // where they begin; of a block and of all

  explicit DwconvWalk(const DwconvShape& shape) {
    exists = shape.kernel_h == shape.kernel_w && (shape.kernel_h == 3 || shape.kernel_h == 5 || shape.kernel_h == 7) &&
             shape.dilation_h == 1 && shape.dilation_w == 1 && shape.stride_h == shape.stride_w && shape.stride_h <= 2;
    sets = shape.stride_h % 2 ? 2 : 1;
    groups = (shape.kernel_h + sets) / 2;
    first = DwconvLayout(shape, 32, 2).bytes();
    block_bytes = sets * shape.kernel_w * groups * 32;
    bytes = exists ? (shape.channels + 7) / 8 * block_bytes : 0;
  }
};

// Neighbouring output pixels in one vector, for a block of so many channels; a pixel then takes block / parts channels.
inline int64_t dwconv_parts(int64_t block, int64_t channels) {
  return channels <= 16 ? block / 16 : channels <= 32 ? block / 32 : 1;
}

}  // namespace
}  // namespace lowbit::kernels
