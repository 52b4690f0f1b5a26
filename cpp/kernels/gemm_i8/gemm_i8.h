// u8 x s8 matrix product, which is also the dense (and grouped) convolution.
//
//   acc[r, c] = sum_{t < taps} sum_{k < run} (x[row(r) + tap[t] + k] - x_zero_point) * w[c, t, k]        exact in int32
//   y[r, c]   = epilogue(acc[r, c])                                                                      (kernel.h)
//
// A matrix product is one tap of run K. A convolution over a zero-point-padded NHWC image has one tap for each kernel
// row, of run kernel_w * channels (adjacent pixels are adjacent in memory), or one for each kernel position where
// dilation or groups break that adjacency. No im2col is ever built.
// Limits: 255 * max_c sum |w[c]| < 2^31 (checked by the caller).
// x is read up to 3 bytes past each run (those bytes meet zero weights): buffers carry that slack.
#pragma once

#include <span>

#include "base/buffer.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct GemmI8Kernel;
struct GemmI8Windows;  // pairs.h

// Weights in the layout of one kernel: panels [ceil(N / nr)][taps][ceil(run / 4)][nr][4], zero where padded. For
// kernels that take quads of k in pairs, panels are [ceil(N / nr)][pairs][2][nr][4], and pairs.h tells of the rest.
// Where rows of x are copied anyway, and that makes fewer quads, the taps are joined to one run without gaps: three
// channels of 3x3 pixels are 27 codes then, not 36.
struct GemmI8Weights {
  const GemmI8Kernel* kernel = nullptr;
  int64_t n = 0, taps = 0, run = 0;
  bool joined = false;   // panels have one tap of run taps * run
  Buffer panels;         // int8_t
  Buffer column_sums;    // int32_t [n rounded up to nr]: sum of all w[c], for the zero-point correction
  Buffer places;         // int32_t, for pairs: where each quad lies in a row of x, in bytes
  Buffer pairs;          // int32_t [ceil(N / nr)], for flipped weights: of the first quads in a panel, others are alone
  Buffer windows;        // GemmI8Windows, for pairs: what they do not hold, panel after panel
  Buffer first_windows;  // int64_t [ceil(N / nr) + 1]
  int64_t panel_taps() const { return joined ? 1 : taps; }
  int64_t panel_run() const { return joined ? taps * run : run; }
  int64_t quads() const { return panel_taps() * ((panel_run() + 3) / 4); }
  size_t bytes() const {
    return panels.bytes() + column_sums.bytes() + places.bytes() + pairs.bytes() + windows.bytes() +
           first_windows.bytes();
  }
};

struct GemmI8Args {
  const GemmI8Weights* weights = nullptr;
  Grid grid;
  Rows<const uint8_t> x;          // first element of each output row's receptive field (strides include conv stride)
  std::span<const int64_t> taps;  // element offsets, [weights->taps]
  int32_t x_zero_point = 0;       // static
  const uint8_t* x_zero_points = nullptr;  // [grid.n]: dynamic, one a sample; overrides x_zero_point
  Epilogue epilogue;
  Rows<void> y;  // u8 or f32 by epilogue.output; strides in elements of that type; channels adjacent
};

// What a micro-kernel sees: `tiles` times up to mr rows, one after the other, times one panel. Rows come as pointers
// into lists that serve all panels; the epilogue's pointers are already moved to the panel's first channel.
struct GemmI8Tile : OutputTile {
  static constexpr int kMaxRows = 16;
  int64_t tiles;
  const uint8_t* const* x;
  const int32_t* row_zero_points;  // null: x_zero_point for all
  const int32_t* row_sums;         // what the kernel's row_sums gave
  const int8_t* panel;             // [taps][quads][nr][4], or [pairs][2][nr][4]
  const int32_t* places;           // [pairs][2], then those of quads that are alone
  const GemmI8Windows* windows;    // [window_count]
  const int32_t* column_sums;      // [nr]
  const int64_t* taps;
  int64_t tap_count, quads;  // quads = ceil(run / 4)
  int64_t window_count;
  int64_t pairs;  // of flipped weights
  int32_t x_zero_point;

  void skip(int rows) {
    OutputTile::skip(rows);
    x += rows;
    row_sums += rows;
    if (row_zero_points != nullptr) row_zero_points += rows;
  }
};

// What is found of a block of rows once, for all panels.
struct GemmI8RowPacking {
  // sums: what the tiles add to all sums of a row. packed: each row's operands, tap after tap, as `tiles` take
  // them for x with a single tap; null: they are not wanted. `bytes` are read at each tap: a multiple of 4, or the taps
  // are joined, at most kMostJoined bytes of them. Up to kSlack bytes are written behind the operands.
  static constexpr int64_t kSlack = 64, kMostJoined = 8192;
  void (*pack)(const uint8_t* const* x, int64_t rows, const int64_t* taps, int64_t tap_count, int64_t bytes,
               int32_t* sums, uint8_t* packed);
  int operand_bytes;  // for each four bytes of x
  Tiles<GemmI8Tile> tiles;
};

struct GemmI8Kernel : KernelRow {
  int mr, nr;  // tile: rows x output channels
  Tiles<GemmI8Tile> tiles;
  const GemmI8RowPacking* rows = nullptr;  // null: the tiles need nothing of that kind
  // Not null: the tiles take quads in pairs, and this kernel takes the weights that have too many rests for it.
  const GemmI8Kernel* otherwise = nullptr;
  // Not null: that kernel is faster for many rows. Its quads are matched (flipped.h) if its rows are packed.
  const GemmI8Kernel* many = nullptr;
  bool matches = false;
  bool together = false;  // tiles of one height are run in one call: where they leave enough registers for that
  // w row-major [n][taps][run]; out says which row runs
  void pack(const int8_t* w, int64_t n, int64_t taps, int64_t run, GemmI8Weights& out) const;
  // The same, but never for another row if this one can run the shape.
  void pack_here(const int8_t* w, int64_t n, int64_t taps, int64_t run, GemmI8Weights& out) const;
  static int64_t tasks(const GemmI8Args&, int threads);  // into how many independent tasks this call splits well
  static void run(const GemmI8Args&, int64_t task, int64_t tasks);  // does its share; tasks touch disjoint outputs
};
KernelTable<GemmI8Kernel> gemm_i8_kernels();

// The best row for this cap and shape (rows: a typical grid.rows(), 0 if unknown).
const GemmI8Kernel& select_gemm_i8(Isa cap, int64_t n, int64_t taps, int64_t run, int64_t rows);
// What a call of that row is estimated to cost, in the unit of cost_of_tiles (matrix.h).
double gemm_i8_cost(const GemmI8Kernel& kernel, int64_t n, int64_t taps, int64_t run, int64_t rows);

}  // namespace lowbit::kernels
