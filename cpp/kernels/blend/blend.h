// Weighted sums of pixels: what resizing and sampling do. Pixels are runs of adjacent channels.
//
//   y[p, c] = sum over i < rows, k < taps of (row_weights[i] * weights[p, k]) * row[i][offsets[p, k] + c]
//
// i outer, k inner, the first product as it is, each product and each sum rounded to float32; of no taps it is 0. With
// counts, a pixel has its own number of taps, no more than `taps`. Of codes the result is
// rne(clampf(sum, 0, 255)), NaN gives 0. The order is part of the contract: every ISA gives the same bits.
#pragma once

#include "kernels/kernel.h"

namespace lowbit::kernels {

struct BlendArgs {
  static constexpr int kMaxRows = 16;
  int64_t pixels = 0, channels = 0;
  int rows = 1, taps = 1;
  const void* row[kMaxRows] = {};
  float row_weights[kMaxRows] = {1.0f};
  const int64_t* offsets = nullptr;  // [pixels][taps], elements
  const float* weights = nullptr;    // [pixels][taps]
  const int32_t* counts = nullptr;   // [pixels], or null: `taps` each
  void* y = nullptr;
  int64_t y_stride = 0;  // from pixel to pixel, elements
};

struct BlendKernel : KernelRow {
  void (*f32)(const BlendArgs&);
  void (*u8)(const BlendArgs&);
};
KernelTable<BlendKernel> blend_kernels();

}  // namespace lowbit::kernels
