// What all kernel families share: their tables, and the geometry and epilogue in which their contracts are written.
#pragma once

#include <cstdint>
#include <span>

#include "base/cpu.h"
#include "base/types.h"
#include "kernels/code_table.h"

namespace lowbit::kernels {

// What each row of a family's table begins with. The tables of all families stand in x86.cpp, and for architectures
// without kernels of their own in portable.cpp: best first, scalar kernels last. A row is an object of the file of its
// instruction set.
struct KernelRow {
  const char* name;
  Isa isa;
};
template <class Kernel>
using KernelTable = std::span<const Kernel* const>;

template <class Kernel>
const Kernel& best_of(KernelTable<Kernel> table, Isa cap) {
  for (const Kernel* kernel : table)
    if (runs_on(kernel->isa, cap)) return *kernel;
  return *table.back();
}

// The rows a kernel computes, as a grid of output pixels: a matrix product is the grid {1, 1, M} (or {M, 1, 1} when
// each row has its own scale), an image batch is {N, H, W}.
struct Grid {
  int64_t n = 1, h = 1, w = 1;
  int64_t rows() const { return n * h * w; }
};

// Where the rows of a grid lie: row (n, h, w) starts at data + n * stride_n + h * stride_h + w * stride_w (elements).
template <class T>
struct Rows {
  T* data = nullptr;  // void: u8 or f32, as the epilogue's output says
  int64_t stride_n = 0, stride_h = 0, stride_w = 0;
  int64_t offset(int64_t n, int64_t h, int64_t w) const { return n * stride_n + h * stride_h + w * stride_w; }
};

// The one integer epilogue. For output channel c of a row in sample n, with acc = sum (x - x_zero_point) * w exact in
// int32:
//   t = fma(float(acc), multiplier[c], bias[c])
//   t = fma(float(acc) * multiplier[c], row_scale[n], bias[c])    (instead, if row_scale)
//   t = fma(float(r), residual_multiplier, t)                     (only if residual.data; its zero point is in bias)
//   t = fma(t, t < 0 ? slope[c] : 1, zero_point)                  (only if slope)
// output u8:  y = rne(clampf(t, lo, hi)), then y = table[y] (only if table); the zero point is in bias, without slope
// output f32: y = clampf(t, min, max)                                        NaN stays NaN
// Each operation is rounded once. t is never NaN on the way to u8: prepare checks that multiplier, bias, slope and
// residual_multiplier are finite and too small to overflow, and row_scale goes with f32 output only.
struct Epilogue {
  static constexpr int64_t kSlack = 64;  // floats that can be read behind the channels' multipliers, biases and slopes
  const float* multiplier = nullptr;     // [channels]
  const float* bias = nullptr;           // [channels]
  const float* row_scale = nullptr;      // [grid.n], or null: static quantization
  Rows<const uint8_t> residual;          // same grid and channels as the output; data null: none
  float residual_multiplier = 0.0f;
  const float* slope = nullptr;  // [channels], or null: 1
  float zero_point = 0.0f;       // of the output, with slope
  int32_t lo = 0, hi = 255;      // of the u8 output; 0 <= lo <= hi <= 255
  const CodeTable* table = nullptr;
  float min = -3.4e38f, max = 3.4e38f;  // of the f32 output; set them to -inf and +inf when there is no activation
  DType output = DType::u8;             // u8 or f32
  bool bounded = false;                 // |t| < 2^30 for all inputs: clamping may wait until codes are bytes
  // Whether u8 output takes more than saturation.
  bool changes_codes() const { return output == DType::u8 && (table != nullptr || lo > 0 || hi < 255); }
};

// A micro-kernel of a matrix family: one function for each height.
template <class Tile>
struct Tiles {
  void (*of_rows[Tile::kMaxRows])(const Tile&);  // [rows - 1], to the table row's mr
};

// Where the results of a matrix kernel's tile go: some rows, and a panel of channels.
struct OutputTile {
  void* const* y;                  // rows, at channel 0
  const uint8_t* const* residual;  // the same; null: none
  const float* row_scales;         // of the rows; null: none
  int64_t channel;                 // the panel's first
  int columns;                     // channels to store
  const float* multiplier;         // [columns], readable to the end of the panel
  const float* bias;               // the same
  const float* slope;              // the same; null: none
  const Epilogue* epilogue;        // all but its per-channel and per-row pointers

  // Moves on to the next panel, of nr channels; `channels`: those from this panel on.
  void next_channels(int nr, int64_t& channels) {
    channel += nr;
    channels -= nr;
    columns = static_cast<int>(channels < nr ? channels : nr);
    multiplier += nr;
    bias += nr;
    if (slope != nullptr) slope += nr;
  }
  // Moves on by so many rows.
  void skip(int rows) {
    y += rows;
    if (residual != nullptr) residual += rows;
    if (row_scales != nullptr) row_scales += rows;
  }
};

// A row's results, from the panel's first channel on.
template <class T>
static inline T* row_of(const OutputTile& tile, int row) {
  return static_cast<T*>(tile.y[row]) + tile.channel;
}

}  // namespace lowbit::kernels
