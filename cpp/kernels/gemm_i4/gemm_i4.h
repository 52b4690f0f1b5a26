// Matrix product of u8 and codes of four or two bits with a scale for each group of weights, which is also the
// convolution.
//
//   x[r, k]      = the byte k % run behind x's row(r) + tap[k / run]                        (a matrix product: one tap)
//   acc[r, c, g] = sum_{k in group g} x[r, k] * (q[c, k] - z[c, g])                        exact in int32
//   t[r, c]      = -x_zero_point(r) * offset[c], then for ascending g: t = fma(float(acc[r, c, g]), scale[c, g], t)
//   offset[c]    = the sum over g of scale[c, g] * sum_{k in group g} (q[c, k] - z[c, g]), in float64, g ascending
//   y[r, c]      = epilogue(t[r, c]), as in kernel.h with t in place of float(acc)
//
// Where groups have offsets instead of zero points, z is 0, and each group adds two products, and its offset more:
//
//   t = fma(float(acc[r, c, g]), scale[c, g], t), then t = fma(float(sum of x[r, k] over g), group_offset[c, g], t)
//   offset[c] gets scale[c, g] * sum of q, then group_offset[c, g] * the number of k in g
//
// Codes q are 0 .. 2^bits - 1, zero points z the same (2^(bits - 1) for all where weights are symmetric), scales half
// floats; with offsets both are half floats, or both floats. A group is group_size adjacent k; the last one may be
// shorter, and a group may lie in several taps. The zero points are taken out with the sums of x over a group, which
// are found once for all channels. Limits: group_size a multiple of 8 unless it is k; at most kMaxGroups groups;
// 255 * (2^bits - 1) * group_size < 2^31. x is read up to a step past each run (those bytes meet codes of zero):
// buffers carry that slack.
#pragma once

#include <span>

#include "base/buffer.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct GemmI4Kernel;

// Weights as a model holds them.
struct GemmI4Source {
  int bits;                    // of a code: 4 or 2; 8 for gemm_s8.h
  const uint8_t* codes;        // [n][ceil(k * bits / 8)]: several a byte, from its lowest bits on; of eight bits s8
  const void* scales;          // half floats [n][groups], finite; null: there are none (gemm_s8.h)
  const uint8_t* zero_points;  // [n][groups]; null: 2^(bits - 1)
  int64_t n, k, group_size;
  int64_t run;                    // of k that are adjacent in x; the last one may be shorter
  const void* offsets = nullptr;  // [n][groups], finite; then there are no zero points
  bool wide = false;              // scales and offsets are floats
  int64_t groups() const { return (k + group_size - 1) / group_size; }
};

// Weights in the layout of one kernel: panels of nr channels, in which each group is one run of memory:
//   scales [nr]; zero points [nr] in whole 64 bytes, or offsets [nr], if there are any; codes [steps][nr][4]
// A step is as many k as four bytes hold codes: byte j has those of k = j, 4 + j, ... from its lowest bits on, of every
// second four 2^bits - 1 - q for a kernel that complements; zero where padded. Codes of eight bits are 128 higher. What
// a group has in one tap begins with a step of its own.
enum class GemmI4Kind : uint8_t { no_scales, symmetric, zero_points, half_offsets, float_offsets };

struct GemmI4Panels {
  int64_t n = 0, k = 0, run = 0, group_size = 0;
  GemmI4Kind kind = GemmI4Kind::symmetric;
  Buffer panels;
  int64_t groups() const { return (k + group_size - 1) / group_size; }
  size_t bytes() const { return panels.bytes(); }
};
void pack_panels(const GemmI4Source&, int nr, bool complements, GemmI4Panels& out);

// One channel of such panels, as a model holds it; null: what the panels have not.
struct GemmI4Row {
  uint8_t* codes;        // [ceil(k * bits / 8)], zeros before
  uint16_t* scales;      // [groups]
  uint8_t* zero_points;  // [groups]
  uint16_t* offsets;     // [groups]
};
void unpack_row(const GemmI4Panels&, int bits, int nr, bool complements, int64_t channel, const GemmI4Row& out);

struct GemmI4Weights : GemmI4Panels {
  const GemmI4Kernel* kernel = nullptr;
  bool affine() const { return kind != GemmI4Kind::symmetric; }
  Buffer offsets;  // float [n rounded up to nr]
  size_t bytes() const { return panels.bytes() + offsets.bytes(); }
};

struct GemmI4Args {
  static constexpr int64_t kMaxGroups = 2048;
  const GemmI4Weights* weights = nullptr;
  Grid grid;
  Rows<const uint8_t> x;                   // first element of each output row's receptive field
  std::span<const int64_t> taps;           // element offsets, [k / run]
  int32_t x_zero_point = 0;                // static
  const uint8_t* x_zero_points = nullptr;  // [grid.n]: dynamic, one a sample; overrides x_zero_point
  Epilogue epilogue;
  Rows<void> y;  // as in GemmI8Args
};

// Where the k of a row lie.
struct GemmI4Depth {
  int64_t k, run, group_size;
  const int64_t* taps;
};

// What a micro-kernel sees: up to mr rows times one panel; a single row times several, one behind the other.
struct GemmI4Tile : OutputTile {
  static constexpr int kMaxRows = 8;
  const uint8_t* const* x;
  const int32_t* const* group_sums;  // of each row, what the kernel's group_sums gave
  const int32_t* zero_points;        // of the rows' x
  const uint8_t* panel;
  const float* offsets;  // [nr]
  GemmI4Depth depth;
  GemmI4Kind kind;
  int64_t panels = 1, panel_bytes = 0;
  int64_t channels = 0;  // from this panel on

  // Moves on to the next panel, of nr channels.
  void next_panel(int nr) {
    next_channels(nr, channels);
    panel += panel_bytes;
    offsets += nr;
  }
};

struct GemmI4Kernel : KernelRow {
  int mr, nr;  // tile: rows x output channels
  int bits;    // of a code
  Tiles<GemmI4Tile> tiles;
  // Of a row, with which its accumulators begin, or what is added to them in the end: for each group, -2^(bits - 1)
  // times the sum of x; where weights are affine -1 times, for the channel's zero point or offset. A kernel that
  // complements adds 2^bits - 1 times the sum of those x that meet complements; where weights are affine, that is a
  // second number.
  void (*group_sums)(const uint8_t* x, const GemmI4Depth& depth, bool affine, int32_t* sums);
  bool complements = false;
  int sums(bool affine) const { return affine && complements ? 2 : 1; }  // of a group
  void pack(const GemmI4Source&, GemmI4Weights& out) const;
  static int64_t tasks(const GemmI4Args&, int threads);
  static void run(const GemmI4Args&, int64_t task, int64_t tasks);
};
KernelTable<GemmI4Kernel> gemm_i4_kernels();
KernelTable<GemmI4Kernel> gemm_i2_kernels();

// The k of a step.
static inline constexpr int64_t gemm_i4_step(int bits) { return 32 / bits; }
static inline constexpr int highest_code(int bits) { return (1 << bits) - 1; }
static inline constexpr int middle_code(int bits) { return 1 << (bits - 1); }

// Calls part(group, tap, first k, length) for what each group has in each tap, k ascending.
template <class Part>
static inline void each_part(const GemmI4Depth& depth, Part&& part) {
  int64_t group = 0, tap = 0, group_end = depth.group_size, tap_end = depth.run;
  for (int64_t k = 0; k < depth.k;) {
    const int64_t end = group_end < tap_end ? group_end : tap_end, stop = end < depth.k ? end : depth.k;
    part(group, tap, k, stop - k);
    k = stop;
    if (k == group_end) ++group, group_end += depth.group_size;
    if (k == tap_end) ++tap, tap_end += depth.run;
  }
}

// Bytes in front of a group's codes.
static inline int64_t gemm_i4_head(int64_t nr, GemmI4Kind kind) {
  constexpr int64_t kBytes[] = {0, 2, 2, 4, 8};  // of a channel
  return kBytes[static_cast<int>(kind)] * nr + (kind == GemmI4Kind::zero_points ? (nr + 63) / 64 * 64 : 0);
}

}  // namespace lowbit::kernels
