// Matrix product of s8 codes in groups along a row, each with its scale, and weights' codes of eight, four or two bits.
//
//   acc[r, c, j] = sum_{k in group j of x} x[r, k] * (q[c, k] - z[c, g])                        exact in int32
//   t[r, c]      = 0, then for ascending j: t = fma(float(acc[r, c, j]) * x_scale[r, j], scale[c, g], t)
//   y[r, c]      = epilogue(t[r, c]), as in kernel.h with t in place of float(acc), in floats
//
// A group of x is x_group adjacent k, the last one may be shorter; g is the group of weights that it lies in: x_group
// divides group_size, unless that is k. Each operation is rounded once. Weights with one scale a channel, which is in
// the epilogue's multiplier, have none here: t = fma(float(acc), x_scale, t). Where groups have offsets, each group of
// x adds its share of them:
//
//   t = fma(float(sum of x[r, k] over j) * x_scale[r, j], offset[c, g], t)
//
// q, z, scale and offset are gemm_i4.h's; codes of eight bits are s8, and z is 0 then. Unlike there, weights are the
// unsigned operand and x is the signed one, so that nothing is left to take out for a zero point of x, and sums of
// 16 bits hold 32 products of four bits as they are. z is taken out with the sums of x over a group, found once for all
// channels. Limits: x_group a multiple of 8 unless it is k, and below 2^16; at most GemmI4Args::kMaxGroups groups of x.
// x is read up to a step past its rows (those bytes meet codes of zero): buffers carry that slack.
#pragma once

#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::kernels {

struct GemmS8Kernel;

struct GemmS8Weights : GemmI4Panels {
  const GemmS8Kernel* kernel = nullptr;
  int64_t x_group() const { return run; }  // codes of a group of x begin with a step of their own
};

struct GemmS8Args {
  const GemmS8Weights* weights = nullptr;
  Grid grid;
  Rows<const uint8_t> x;                                    // s8
  const float* x_scales = nullptr;                          // [grid.rows()][groups of x]
  static constexpr const uint8_t* x_zero_points = nullptr;  // x has none
  Epilogue epilogue;
  Rows<void> y;
};

// What a micro-kernel sees: up to mr rows times one panel; a single row times several, one behind the other.
struct GemmS8Tile : OutputTile {
  static constexpr int kMaxRows = 8;
  const uint8_t* const* x;
  const float* const* scales;    // of each row, [groups of x]
  const int32_t* const* starts;  // the same: what accumulators begin with; times z, where weights have zero points
  const float* const* shifts;    // the same, where weights have offsets: the sums of x, scaled
  const uint8_t* panel;
  int64_t k, x_group, group_size;
  GemmI4Kind kind;
  int64_t panels = 1, panel_bytes = 0;
  int64_t channels = 0;  // from this panel on

  // Moves on to the next panel, of nr channels.
  void next_panel(int nr) {
    next_channels(nr, channels);
    panel += panel_bytes;
  }
};

struct GemmS8Kernel : KernelRow {
  int mr, nr;  // tile: rows x output channels
  int bits;    // of a weight's code
  Tiles<GemmS8Tile> tiles;
  void (*sums)(const uint8_t* x, int64_t k, int64_t x_group, int32_t* sums);  // of a row's groups
  // The source's run is the group of x.
  void pack(const GemmI4Source&, GemmS8Weights& out) const;
  static int64_t tasks(const GemmS8Args&, int threads);
  static void run(const GemmS8Args&, int64_t task, int64_t tasks);
};
KernelTable<GemmS8Kernel> gemm_s8_kernels();

// The best row for codes of so many bits.
const GemmS8Kernel& select_gemm_s8(Isa cap, int bits);

}  // namespace lowbit::kernels
