// u8 x s8 convolution with windows of 3x3 and steps of one pixel, by Winograd's minimal filtering: a tile of 4x4
// outputs takes 36 products of each channel where the direct sum takes 144, and the result is the same integer.
//
//   acc[r, c] and y[r, c] as in gemm_i8.h, for weights [n][3 taps][3 * channels]
// x is read up to 31 bytes past a pixel (those bytes meet no weights).
//
// F(4x4, 3x3) of Lavin and Gray (arXiv:1509.09308) with the points 0, 1, -1, 2, -2, infinity:
//   Y = A' [(G g G') . (B' d B)] A        G has fractions; 24 G = A's factors times whole numbers
// so a tile's sums come out as 576 acc, modulo 2^32. 576 = 2^6 * 9, and 9 has an inverse modulo 2^32: what remains is
// 2^6 acc, and a shift gives acc, exact where |acc| < 2^25. Transformed weights are at most 128 * 12 * 12 = 18432,
// codes 255 * (16 * 4 + 4) = 17340: both fit 16 bits.
#pragma once

#include <span>

#include "base/buffer.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct WinogradI8Kernel;

struct WinogradI8Weights {
  const WinogradI8Kernel* kernel = nullptr;
  int64_t n = 0, channels = 0;
  Buffer panels;       // int8_t [ceil(n / nr)][ceil(channels / 2)][9][nr][2], zero where padded
  Buffer column_sums;  // int32_t [n rounded up to nr]
  size_t bytes() const { return panels.bytes() + column_sums.bytes(); }
};

struct WinogradI8Args {
  const WinogradI8Weights* weights = nullptr;
  Grid grid;
  Rows<const uint8_t> x;          // stride_w == channels
  std::span<const int64_t> taps;  // of the rows of a window, stride_h apart
  int32_t x_zero_point = 0;
  const uint8_t* x_zero_points = nullptr;  // [grid.n]
  Epilogue epilogue;
  Rows<void> y;
  std::byte* scratch = nullptr;  // of each task winograd_i8_scratch(), one behind the other
};

struct Winograd {
  static constexpr int kOut = 4, kIn = 6, kPositions = kIn * kIn;  // pixels of a tile, one way
};

// Some pairs of channels of a panel's weights to all positions, [36][pairs][nr][2].
struct WinogradI8Filter {
  const int8_t* panel;
  int64_t pairs;
  int16_t* weights;
  int64_t position;  // elements from one to the next
};

// A tile's codes into the planes of its 36 positions.
struct WinogradI8Input {
  const uint8_t* rows[Winograd::kIn];
  int64_t columns[Winograd::kIn];  // from a row to its pixels
  int64_t channels;
  int16_t* planes;  // at the tile's row; written to a multiple of the vector
  int64_t plane;    // elements from one to the next
};

// Some rows of a plane times a position's weights.
struct WinogradI8Product {
  static constexpr int kMaxRows = 12;
  const int16_t* x;
  int64_t row, pairs;      // elements from one row to the next; pairs of channels
  const int16_t* weights;  // [pairs][nr][2]
  int32_t* sums;           // [rows][nr]
  bool adds;               // to what sums hold
};

// A tile's sums of all positions to outputs: rows are its pixels, `width` in a line.
struct WinogradI8Output : OutputTile {
  const int32_t* sums;  // at the tile's row
  int64_t plane;        // elements from one position to the next
  const int32_t* column_sums;
  int32_t x_zero_point;
  int height, width;
};

struct WinogradI8Kernel : KernelRow {
  int mr, nr;           // rows and output channels of a product
  double product_cost;  // cycles of a row times a vector of channels times a pair
  Tiles<WinogradI8Product> products;
  void (*filter)(const WinogradI8Filter&);
  void (*input)(const WinogradI8Input&);
  void (*output)(const WinogradI8Output&);
  // w row-major [n][3][3 * channels]
  void pack(const int8_t* w, int64_t n, int64_t taps, int64_t run, WinogradI8Weights& out) const;
  static int64_t tasks(const WinogradI8Args&, int threads);  // at most `threads`
  static void run(const WinogradI8Args&, int64_t task, int64_t tasks);
};
KernelTable<WinogradI8Kernel> winograd_i8_kernels();

// The row for weights [n][3][3 * channels] and a typical grid, or null where other kernels, whose best costs
// `other_cost` in the unit of cost_of_tiles (matrix.h), are faster, or sums might be too large.
const WinogradI8Kernel* select_winograd_i8(Isa cap, const int8_t* w, int64_t n, int64_t channels, const Grid& grid,
                                           double other_cost);
// What a call of that row is estimated to cost, in that unit; a grid without rows is not known yet.
double winograd_i8_cost(const WinogradI8Kernel& kernel, int64_t n, int64_t channels, const Grid& grid);
// Bytes of scratch for each task of any call.
size_t winograd_i8_scratch(const WinogradI8Weights& weights);

}  // namespace lowbit::kernels
