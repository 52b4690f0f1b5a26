// What the drivers of the matrix kernels share: how a call is cut into tiles, and how the rows of a grid are walked.
// Baseline code only; ISA files do not include it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/watch.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of rows that stay in L2, then panels of weights, then tiles of rows: a panel is read from L2 once a tile, from
// memory once a block. Units (one tile x one panel) are counted in that order, so that any range of them is a good
// task. Tile heights differ by at most one row, because a last tile of one row would cost almost as much as a full one.
struct Cut {
  static constexpr int64_t kBlockBytes = 384 * 1024;  // of x, beside one panel and the output in 1 MB of L2
  static constexpr int64_t kBlockRows = 512;          // whose addresses are listed
  static constexpr int64_t kTaskWork = 1 << 20;       // multiply-adds that are worth waking a thread for,
  static constexpr int64_t kTaskBytes = 1 << 16;      // and weights to read: what a call of few rows takes its time for

  int64_t panels, tiles, block;  // block: tiles in a block
  int64_t height, taller;        // rows of a tile; the first `taller` tiles have one more

  Cut(int64_t rows, int64_t n, int mr, int nr, int64_t row_bytes, int64_t block_bytes = kBlockBytes)
      : panels(ceil_div(n, nr)),
        tiles(ceil_div(rows, mr)),
        block(std::clamp<int64_t>(std::min(block_bytes / std::max<int64_t>(1, row_bytes), kBlockRows) / mr, 1,
                                  std::max<int64_t>(1, tiles))),
        height(rows / std::max<int64_t>(1, tiles)),
        taller(rows % std::max<int64_t>(1, tiles)) {}

  int64_t units() const { return tiles * panels; }
  int64_t first_row(int64_t tile) const { return tile * height + std::min(tile, taller); }
  // How many tiles before `end` are as high as this one, from it on.
  int64_t alike(int64_t tile, int64_t end) const { return (tile < taller ? std::min(taller, end) : end) - tile; }

  // Several tasks a thread, so that one that is interrupted does not hold up the others.
  int64_t tasks(int threads, int64_t work, size_t weight_bytes) const {
    if (threads <= 1) return 1;
    const int64_t worth = std::max(work / kTaskWork, static_cast<int64_t>(weight_bytes) / kTaskBytes);
    return std::clamp<int64_t>(worth, 1, std::clamp<int64_t>(units(), 1, int64_t{4} * threads));
  }

  // Calls run_panel(panel, first tile, tiles) for all of a task's units.
  template <class RunPanel>
  void each(int64_t task, int64_t tasks, RunPanel&& run_panel) const {
    const int64_t end = (task + 1) * units() / tasks, block_units = block * panels;
    for (int64_t unit = task * units() / tasks; unit < end && !should_stop();) {
      const int64_t first_tile = unit / block_units * block, in_block = unit % block_units;
      const int64_t block_tiles = std::min(block, tiles - first_tile);
      const int64_t from = in_block % block_tiles, count = std::min(block_tiles - from, end - unit);
      run_panel(in_block / block_tiles, first_tile + from, count);
      unit += count;
    }
  }
};

constexpr int64_t kTypicalRows = 196;  // of a call that has as yet no number of rows

// Estimated cycles of a call with tiles of mr rows x `vectors` vectors of channels, to choose among them, as measured
// on Zen 4. A step of k costs its products, or the loads that feed them, or the latency of a sum, and an eighth more
// for more than `free_rows` rows. Once a panel, its weights come from afar. A tile's end costs less than it seems where
// the next tile is small enough to begin beside it.
static inline double cost_of_tiles(int64_t rows, int64_t n, int mr, int nr, int vectors, int64_t steps, int free_rows) {
  constexpr double kLatency = 4, kBytesACycle = 6;
  const int64_t tiles = ceil_div(rows, mr);
  const auto height = static_cast<double>(ceil_div(rows, tiles)), count = static_cast<double>(steps);
  const double products = height * vectors, loads = height / 2 + vectors;
  const double step = std::max({products, loads, kLatency}) * (height > free_rows ? 1.125 : 1);
  const double end = std::max(20.0, 5 * height + 4.5 * products - 20);
  const double afar = count * std::max(0.0, nr * 4 / kBytesACycle - step);
  return static_cast<double>(ceil_div(n, nr)) * (static_cast<double>(tiles) * (count * step + end) + afar);
}

// The rows [0, grid.rows()) in order, with up to three operands moving along; the grid is folded to as few dimensions
// as the strides allow.
struct RowWalk {
  static constexpr int kOperands = 3;  // x, y, residual
  struct Strides {
    int64_t n = 0, h = 0, w = 0;  // bytes
  };

  Grid grid;
  Strides strides[kOperands];
  const char* data[kOperands] = {};
  bool sample_is_row = false;  // rows are samples: the sample advances with w, not with n

  template <class T>
  void bind(int operand, const Rows<T>& rows, int64_t element_bytes) {
    data[operand] = static_cast<const char*>(static_cast<const void*>(rows.data));
    strides[operand] = {rows.stride_n * element_bytes, rows.stride_h * element_bytes, rows.stride_w * element_bytes};
  }

  // Folds w into h, and n too unless the kernel must know samples apart.
  void fold(bool samples_differ) {
    if (grid.w == 1 || folds(grid.w, &Strides::h, &Strides::w)) {
      for (Strides& s : strides) s.w = grid.w == 1 ? s.h : s.w;
      grid = {grid.n, 1, grid.h * grid.w};
    }
    if (grid.h != 1) return;
    if (grid.w == 1 || (!samples_differ && folds(grid.w, &Strides::n, &Strides::w))) {
      sample_is_row = grid.w == 1;
      for (Strides& s : strides) s.w = grid.w == 1 ? s.n : s.w;
      grid = {1, 1, grid.n * grid.w};
    }
  }

  // Calls set(the operands' addresses, sample, i) for the rows first + i, i < count.
  template <class Set>
  void each(int64_t first, int count, Set&& set) const {
    each_stretch(first, count, [&](const char* const* from, int64_t sample, int begin, int rows) {
      const char* at[kOperands];
      std::copy_n(from, kOperands, at);
      for (int i = 0; i < rows; ++i) {
        set(at, sample_is_row ? sample + i : sample, begin + i);
        for (int o = 0; o < kOperands; ++o) at[o] += strides[o].w;
      }
    });
  }

  // Calls set(the first one's addresses and sample, i, rows) for the rows first + i on, stretch by stretch along w.
  template <class Set>
  void each_stretch(int64_t first, int count, Set&& set) const {
    int64_t w = first, h = 0, n = 0;
    if (first >= grid.w) w = first % grid.w, h = first / grid.w % grid.h, n = first / grid.w / grid.h;
    for (int i = 0; i < count;) {
      const char* at[kOperands];
      for (int o = 0; o < kOperands; ++o) at[o] = data[o] + (n * strides[o].n + h * strides[o].h + w * strides[o].w);
      const int rows = static_cast<int>(std::min<int64_t>(count - i, grid.w - w));
      set(at, sample_is_row ? w : n, i, rows);
      i += rows, w = 0;
      if (++h == grid.h) h = 0, ++n;
    }
  }

 private:
  bool folds(int64_t inner, int64_t Strides::* outer_stride, int64_t Strides::* inner_stride) const {
    for (const Strides& s : strides)
      if (s.*outer_stride != inner * s.*inner_stride) return false;
    return true;
  }
};

// The addresses of a block's rows, found once for all panels: the K loop of a small layer takes no longer than that.
template <class X, class Y, class Residual>
struct RowList {
  static constexpr int kRows = Cut::kBlockRows;
  const X* x[kRows];
  Y* y[kRows];
  const Residual* residual[kRows];
  int64_t first = 0, end = 0;

  // Rows [from, to), unless they are there; calls also(sample, i) for each. Whether they were not.
  template <class Also>
  bool hold(const RowWalk& walk, int64_t from, int64_t to, Also&& also) {
    if (from >= first && to <= end) return false;
    first = from, end = to;
    walk.each_stretch(from, static_cast<int>(to - from), [&](const char* const* at, int64_t sample, int i, int rows) {
      list(x + i, at[0], walk.strides[0].w, rows);
      list(y + i, const_cast<char*>(at[1]), walk.strides[1].w, rows);
      if (walk.data[2] != nullptr) list(residual + i, at[2], walk.strides[2].w, rows);
      for (int row = 0; row < rows; ++row) also(walk.sample_is_row ? sample + row : sample, i + row);
    });
    return true;
  }

 private:
  template <class Address, class Byte>
  static void list(Address* to, Byte* from, int64_t stride, int rows) {
    for (int row = 0; row < rows; ++row) to[row] = reinterpret_cast<Address>(from + row * stride);
  }
};

}  // namespace lowbit::kernels
