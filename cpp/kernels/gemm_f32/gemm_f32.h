// float32 matrix product, which is also the dense (and grouped) convolution: the twin of gemm_i8 for layers that stay
// in float.
//
//   acc[r, c] = fma(x[row(r) + tap[t] + k], w[c, t, k], acc)   t, then k ascending, one accumulator, from 0
//   y[r, c]   = clampf(acc + bias[c] + residual[r, c], min, max)          left to right; bias null: 0; + residual only
//                                                                         if given; NaN stays NaN
//
// The order is part of the contract: every ISA gives the same bits.
#pragma once

#include <span>

#include "base/buffer.h"
#include "kernels/eltwise/eltwise.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct GemmF32Kernel;

// Panels [ceil(N / nr)][taps][run][nr], zero where padded: borrowed, or (GemmF32Weights) owned.
struct GemmF32Panels {
  const GemmF32Kernel* kernel = nullptr;
  int64_t n = 0, taps = 0, run = 0;
  const float* data = nullptr;
};
struct GemmF32Weights : GemmF32Panels {
  Buffer panels;
  size_t bytes() const { return panels.bytes(); }
};

struct GemmF32Args {
  const GemmF32Panels* weights = nullptr;
  Grid grid;
  Rows<const float> x;
  std::span<const int64_t> taps;  // element offsets
  const float* bias = nullptr;    // [n] or null
  Rows<const float> residual;     // data null: none
  float min, max;                 // -inf / +inf: no activation
  Rows<float> y;
};

// What a micro-kernel sees: up to mr rows times one panel. Rows come as pointers into lists that serve all panels; the
// bias is already moved to the panel's first channel.
struct GemmF32Tile {
  static constexpr int kMaxRows = 16;
  const float* const* x;
  float* const* y;               // at channel 0
  const float* const* residual;  // at channel 0; null: none
  int64_t channel;               // the panel's first
  const float* panel;            // [taps][run][nr]
  const int64_t* taps;
  int64_t tap_count, run;
  int columns;        // channels to store, <= nr
  const float* bias;  // [columns] or null
  float min, max;
};

struct GemmF32Kernel : KernelRow {
  int mr, nr;  // tile: rows x output channels
  Tiles<GemmF32Tile> tiles;
  // w row-major [n][taps][run]
  void pack(const float* w, int64_t n, int64_t taps, int64_t run, GemmF32Weights& out) const;
  static int64_t tasks(const GemmF32Args&, int threads);
  static void run(const GemmF32Args&, int64_t task, int64_t tasks);
};
KernelTable<GemmF32Kernel> gemm_f32_kernels();

const GemmF32Kernel& select_gemm_f32(Isa cap, int64_t n, int64_t taps, int64_t run, int64_t rows);

// A right-hand side that is computed, b[k, n] at data + k * stride_k + n * stride_n, and its packing at run time.
struct GemmF32Matrix {
  const float* data = nullptr;
  int64_t k = 0, n = 0;
  int64_t stride_k = 0, stride_n = 0;
};
inline int64_t panels_of(const GemmF32Kernel& kernel, int64_t n) { return (n + kernel.nr - 1) / kernel.nr; }
// Packs panels [first, first + count) to out, k * nr floats each.
void pack_panels(const GemmF32Kernel&, const EltwiseKernel& copier, const GemmF32Matrix& b, int64_t first,
                 int64_t count, float* out);

}  // namespace lowbit::kernels
