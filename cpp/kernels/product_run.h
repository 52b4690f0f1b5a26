// One call of an integer matrix kernel: what its tiles are told, row after row and panel after panel, in the order of
// matrix.h. Derived adds what is its family's:
//
//   begin_rows(count)   `count` new rows are listed in rows_
//   begin_panel(panel)  sets what tiles know of a panel's weights
//   begin_tile(at)      sets what a tile knows of its rows, from rows_.x[at] on
//
// or begin_panel(panel, panels), if its tiles take a single row times many panels in one call: what lies between two
// calls would hold up the weights, which such a row reads as fast as memory gives them.
//
// Args: weights, grid, x, x_zero_point(s), epilogue, y. Tile: an OutputTile with x; where it has a number of `tiles`,
// as many of one height are run together, which matters where they are small. Baseline code only.
#pragma once

#include "kernels/matrix.h"

namespace lowbit::kernels {

template <class Derived, class Args, class Tile>
class ProductRun {
 public:
  void task(int64_t task, int64_t tasks) {
    if constexpr (requires(Derived& derived) { derived.begin_panel(0, 1); }) {
      const int64_t first = task * cut_.panels / tasks, end = (task + 1) * cut_.panels / tasks;
      if (args_.grid.rows() == 1 && first < end) return run_panels(first, end - first, 0, 1);
    }
    cut_.each(task, tasks,
              [this](int64_t panel, int64_t first_tile, int64_t count) { run_panels(panel, 1, first_tile, count); });
  }

 protected:
  static constexpr bool together() { return false; }

  ProductRun(const Args& args, const Cut& cut, const Tiles<Tile>& tiles) : args_(args), cut_(cut), tiles_(tiles) {
    walk_.grid = args.grid;
    walk_.bind(0, args.x, 1);
    walk_.bind(1, args.y, args.epilogue.output == DType::u8 ? 1 : 4);
    walk_.bind(2, args.epilogue.residual, 1);
    walk_.fold(args.x_zero_points != nullptr || args.epilogue.row_scale != nullptr);
    tile_.epilogue = &args.epilogue;
  }

  const Args& args_;
  const Cut cut_;
  const Tiles<Tile>& tiles_;
  Tile tile_;
  RowList<uint8_t, void, uint8_t> rows_;
  int32_t zero_points_[Cut::kBlockRows];  // of the rows' x, where args has them

 private:
  void run_panels(int64_t panel, int64_t panels, int64_t first_tile, int64_t count) {
    hold_rows(cut_.first_row(first_tile), cut_.first_row(first_tile + count));
    auto& derived = static_cast<Derived&>(*this);
    const int64_t nr = args_.weights->kernel->nr, channel = panel * nr;
    tile_.channel = channel;
    tile_.columns = static_cast<int>(std::min(nr, args_.weights->n - channel));
    tile_.multiplier = args_.epilogue.multiplier + channel;
    tile_.bias = args_.epilogue.bias + channel;
    tile_.slope = args_.epilogue.slope != nullptr ? args_.epilogue.slope + channel : nullptr;
    if constexpr (requires { derived.begin_panel(panel, panels); }) {
      derived.begin_panel(panel, panels);
    } else {
      derived.begin_panel(panel);
    }
    for (int64_t tile = first_tile, tiles; tile < first_tile + count; tile += tiles) {
      const int64_t row = cut_.first_row(tile), rows = cut_.first_row(tile + 1) - row, at = row - rows_.first;
      tiles = derived.together() ? cut_.alike(tile, first_tile + count) : 1;
      if constexpr (requires { tile_.tiles; }) tile_.tiles = tiles;
      tile_.x = rows_.x + at;
      tile_.y = rows_.y + at;
      tile_.residual = args_.epilogue.residual.data != nullptr ? rows_.residual + at : nullptr;
      tile_.row_scales = args_.epilogue.row_scale != nullptr ? scales_ + at : nullptr;
      derived.begin_tile(at);
      tiles_.of_rows[rows - 1](tile_);
    }
  }

  void hold_rows(int64_t first, int64_t end) {
    const bool listed = rows_.hold(walk_, first, end, [this](int64_t sample, int i) {
      if (args_.x_zero_points != nullptr) zero_points_[i] = args_.x_zero_points[sample];
      if (args_.epilogue.row_scale != nullptr) scales_[i] = args_.epilogue.row_scale[sample];
    });
    if (listed) static_cast<Derived&>(*this).begin_rows(end - first);
  }

  RowWalk walk_;
  float scales_[Cut::kBlockRows];
};

}  // namespace lowbit::kernels
