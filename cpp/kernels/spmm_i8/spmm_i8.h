// u8 x s8 product with weights of many zeros, of which only the blocks that hold something else are stored: the
// equation, the limits and the bits of gemm_i8.h.
//
// Rows of x lie in the lanes of a vector. A strip of rows is transposed into planes, one for each four adjacent k (a
// quad), so that a block of weights (1 or 4 output channels x 4 k) is a broadcast of four bytes for each channel, times
// vectors that are loaded once for all its channels:
//
//   plane[q][row] = x[row(r) + 4 q .. + 3]        acc[c][rows] += plane[q][rows] . w[c][4 q .. + 3]
//
// Results return through planes of four channels. Of a convolution whose rows are adjacent pixels, a plane holds the
// image's pixels once, and a tap is an offset in it. A few rows go without planes, one by one.
// x is read up to 3 bytes past each run, as in gemm_i8.h.
#pragma once

#include <span>

#include "base/buffer.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct SpmmI8Kernel;

// Where a group's blocks are, in the order they are stored: its pairs, the blocks that stay alone, its rests.
struct SpmmI8Span {
  int32_t first, pair_end, first_rest;
};

// The blocks that are not zero, by groups of as many channels as a block has.
//
// Kernels that pair sum two blocks' products in 16 bits: four of a channel, which fit for all x where the positive and
// the negative weights among the four sum to at most 128 each, 255 * 128 < 2^15. Blocks are matched so that this holds
// for most channels; what is too much goes into a rest: a quad for each channel of the group, each of another place.
struct SpmmI8Weights {
  static constexpr int64_t kMaxQuads = 1 << 16;
  const SpmmI8Kernel* kernel = nullptr;
  int64_t n = 0, taps = 0, run = 0;
  Buffer groups;       // SpmmI8Span [ceil(n / 4) * 4 / block_rows + 1]
  Buffer quads;        // uint16_t [blocks]: tap * ceil(run / 4) + k / 4
  Buffer values;       // int8_t [blocks][block_rows][4]
  Buffer column_sums;  // int32_t [ceil(n / 4) * 4]
  Buffer rest_quads;   // uint16_t [rests][block_rows]
  Buffer rest_values;  // int8_t [rests][block_rows][4]
  int64_t blocks() const { return static_cast<int64_t>(quads.bytes() / sizeof(uint16_t)); }
  size_t bytes() const {
    return groups.bytes() + quads.bytes() + values.bytes() + column_sums.bytes() + rest_quads.bytes() +
           rest_values.bytes();
  }
};

struct SpmmI8Args {
  const SpmmI8Weights* weights = nullptr;
  Grid grid;
  Rows<const uint8_t> x;
  std::span<const int64_t> taps;
  int32_t x_zero_point = 0;
  const uint8_t* x_zero_points = nullptr;  // [grid.n]
  Epilogue epilogue;
  Rows<void> y;
  std::byte* scratch = nullptr;  // of each task spmm_i8_scratch(), one behind the other
};

// SpmmI8Weights as pointers, `groups` from some channel's on.
struct SpmmI8Blocks {
  const SpmmI8Span* groups;
  const uint16_t* quads;
  const int8_t* values;
  const uint16_t* rest_quads;
  const int8_t* rest_values;
};

// What a micro-kernel sees: four channels times some vectors of rows, and more such tiles behind them. Planes are rows
// of dwords.
struct SpmmI8Tile {
  static constexpr int kMaxVectors = 6;
  int tiles;
  const uint8_t* planes;                   // at the first row
  const int32_t* offsets;                  // of each quad's plane, bytes
  SpmmI8Blocks blocks;                     // of the four channels
  const int32_t* column_sums;              // [4]
  const float *multiplier, *bias, *slope;  // [4]; slope null: none
  const int32_t* row_zero_points;          // null: x_zero_point for all
  const float* row_scales;                 // null: none
  const uint8_t* residual;                 // a plane of codes; null: none
  uint8_t* y;                              // a plane of codes, or four of floats
  int64_t y_plane;                         // bytes from one plane of y to the next
  int32_t x_zero_point;
  const Epilogue* epilogue;
};

// The same for one row and all of a panel's channels, without planes: its sums.
struct SpmmI8Row {
  const uint8_t* x;
  int32_t x_zero_point;
  SpmmI8Blocks blocks;  // of the panel's channels
  const int32_t* column_sums;
};

struct SpmmI8Tiles {
  void (*of_vectors[SpmmI8Tile::kMaxVectors])(const SpmmI8Tile&);  // [vectors - 1], to the kernel's
  // `bytes` of `lanes` rows, from each row's byte `first` on, into planes of dwords; and back into rows, but not those
  // that are null.
  void (*to_planes)(const uint8_t* const* rows, int64_t first, int64_t bytes, uint8_t* planes, int64_t plane_bytes);
  void (*from_planes)(const uint8_t* planes, int64_t plane_bytes, uint8_t* const* rows, int64_t first, int64_t bytes);
  void (*row)(const SpmmI8Row&, const OutputTile&);  // writes one row of an OutputTile
};

struct SpmmI8Kernel : KernelRow {
  int block_rows;       // channels of a block
  int vectors;          // of a tile; as many rows in each as the instruction set has lanes
  double product_cost;  // a vector times a channel of a block, where the dense kernel takes 1
  bool pairs;           // see SpmmI8Weights; single channels' blocks are only split
  SpmmI8Tiles tiles;
  constexpr int64_t lanes() const { return info_of(isa).lanes; }
  void pack(const int8_t* w, int64_t n, int64_t taps, int64_t run,
            SpmmI8Weights& out) const;                   // w row-major [n][taps][run]
  static int64_t tasks(const SpmmI8Args&, int threads);  // at most `threads`
  static void run(const SpmmI8Args&, int64_t task, int64_t tasks);
};
KernelTable<SpmmI8Kernel> spmm_i8_kernels();

// The best row for weights [n][taps][run] and a typical grid.rows() (0: unknown), or null where the dense kernels,
// whose best costs gemm_i8_cost(), are faster.
const SpmmI8Kernel* select_spmm_i8(Isa cap, const int8_t* w, int64_t n, int64_t taps, int64_t run, int64_t rows,
                                   double dense_cost);
// Whether so many weights are zero that a look at their blocks may be worth it.
bool may_be_sparse(const int8_t* w, int64_t size);
// Bytes of scratch for each task of any call.
size_t spmm_i8_scratch(const SpmmI8Weights& weights);

}  // namespace lowbit::kernels
