// Matrix product of signs (-1, 0, 1) and signs (-1, 1), which is also the convolution. A pair of numbers agrees, or
// does not, or has a zero, so that bits are compared and counted (XNOR-Net, https://arxiv.org/abs/1603.05279).
//
//   x[r]         = words behind x's row(r) + tap, pairs of 32 bits: positive, and not zero; for each tap run of them
//   acc[r, c]    = sum over words of popcount(nonzero) - 2 * popcount(positive ^ (w[c] & nonzero))    exact in int32
//   y[r, c]      = epilogue(float(acc[r, c])), as in kernel.h
//
// A bit of w is set for 1. A border is zeros; where the numbers end within a word, so are its other bits. Limits:
// words * 32 < 2^30.
#pragma once

#include <span>

#include "base/buffer.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct GemmI1Kernel;

// Panels [ceil(n / nr)][taps][run][nr] of words, zero where padded.
struct GemmI1Weights {
  const GemmI1Kernel* kernel = nullptr;
  int64_t n = 0, taps = 0, run = 0;
  Buffer panels;
  size_t bytes() const { return panels.bytes(); }
};

struct GemmI1Args {
  const GemmI1Weights* weights = nullptr;
  Grid grid;
  Rows<const uint8_t> x;          // strides in bytes
  std::span<const int64_t> taps;  // byte offsets
  // Not used; as in GemmI8Args.
  int32_t x_zero_point = 0;
  const uint8_t* x_zero_points = nullptr;
  Epilogue epilogue;
  Rows<void> y;
};

constexpr int64_t kSigns = 32;     // numbers in a word
constexpr int64_t kSignBytes = 8;  // of a word of x
static inline constexpr int64_t sign_words(int64_t numbers) { return (numbers + kSigns - 1) / kSigns; }

// What a micro-kernel sees: up to mr rows times one panel.
struct GemmI1Tile : OutputTile {
  static constexpr int kMaxRows = 16;
  const uint8_t* const* x;
  const int32_t* nonzero;  // of the rows: how many numbers are not zero
  const uint8_t* panel;
  const int64_t* taps;
  int64_t tap_count, run;
};

struct GemmI1Kernel : KernelRow {
  int mr, nr;  // tile: rows x output channels
  Tiles<GemmI1Tile> tiles;
  // The words of `count` numbers: 1 and -1 as they are above or below zero, and `zero` for zeros. NaN is -1, or 0 where
  // zero is 0.
  void (*signs)(const float* x, int64_t count, int zero, uint8_t* words);
  // w: words [n][taps][run]; bits of no number are 0
  void pack(const uint32_t* w, int64_t n, int64_t taps, int64_t run, GemmI1Weights& out) const;
  static int64_t tasks(const GemmI1Args&, int threads);
  static void run(const GemmI1Args&, int64_t task, int64_t tasks);
};
KernelTable<GemmI1Kernel> gemm_i1_kernels();

}  // namespace lowbit::kernels
