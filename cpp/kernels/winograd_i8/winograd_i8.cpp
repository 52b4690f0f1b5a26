// Packing, the choice, and the order of work: blocks of tiles whose planes stay in L2, then panels of weights.
#include "kernels/winograd_i8/winograd_i8.h"

#include <algorithm>

#include "kernels/matrix.h"

namespace lowbit::kernels {
namespace {

constexpr int kIn = Winograd::kIn, kOut = Winograd::kOut, kPositions = Winograd::kPositions, kPixels = kOut * kOut;
constexpr int64_t kPlaneBytes = 320 * 1024;  // of a block, beside the weights of a position in 512 KB of L2
constexpr int64_t kPad = 64;                 // bytes between planes, so that they do not meet in the same lines of L1
constexpr int64_t kMaxTiles = 64;            // of a block
constexpr int64_t kPairs = 64;               // of channels whose transformed weights are at hand, in L2

int64_t aligned(int64_t bytes) { return ceil_div(bytes, Buffer::kAlignment) * Buffer::kAlignment; }

int64_t words_of(const WinogradI8Weights& weights) {  // of a tile's row in a plane
  const int64_t vector = 2 * info_of(weights.kernel->isa).lanes;
  return ceil_div(weights.channels, vector) * vector;
}

int64_t tile_bytes(const WinogradI8Weights& weights) { return kPositions * words_of(weights) * 2; }

int64_t most_tiles(const WinogradI8Weights& weights) {
  return std::clamp<int64_t>(kPlaneBytes / tile_bytes(weights), weights.kernel->mr, kMaxTiles);
}

int64_t planes_bytes(const WinogradI8Weights& weights) {
  return aligned(most_tiles(weights) * tile_bytes(weights) + kPositions * kPad);
}

// Of transformed weights: elements from position to position, and bytes of all.
int64_t position_of(const WinogradI8Kernel& kernel) { return kPairs * kernel.nr * 2 + kPad / 2; }
int64_t filter_bytes(const WinogradI8Kernel& kernel) { return kPositions * position_of(kernel) * 2; }

struct Tiling {
  int64_t lines, columns, tiles, blocks, panels;

  Tiling(const Grid& grid, const WinogradI8Weights& weights)
      : lines(ceil_div(grid.h, kOut)),
        columns(ceil_div(grid.w, kOut)),
        tiles(grid.n * lines * columns),
        blocks(ceil_div(tiles, most_tiles(weights))),
        panels(ceil_div(weights.n, weights.kernel->nr)) {}
};

class Run {
 public:
  Run(const WinogradI8Args& args, std::byte* scratch)
      : args_(args),
        weights_(*args.weights),
        kernel_(*weights_.kernel),
        tiling_(args.grid, weights_),
        words_(words_of(weights_)),
        planes_(reinterpret_cast<int16_t*>(scratch)),
        filter_(reinterpret_cast<int16_t*>(scratch + planes_bytes(weights_))),
        sums_(reinterpret_cast<int32_t*>(scratch + planes_bytes(weights_) + filter_bytes(kernel_))) {
    output_.epilogue = &args.epilogue;
  }

  void task(int64_t task, int64_t tasks) {
    const int64_t units = tiling_.blocks * tiling_.panels, end = (task + 1) * units / tasks;
    for (int64_t unit = task * units / tasks; unit < end && !should_stop();) {
      const int64_t block = unit / tiling_.panels, panel = unit % tiling_.panels;
      const int64_t to = std::min(tiling_.panels, panel + end - unit);
      run_block(block, panel, to);
      unit += to - panel;
    }
  }

 private:
  struct Place {
    int64_t n, h, w;
  };
  struct TileOfOutputs {
    int64_t sample;
    int height, width;
    void* y[kPixels];
    const uint8_t* residual[kPixels];
  };

  Place place_of(int64_t tile) const {
    const int64_t line = tile / tiling_.columns;
    return {line / tiling_.lines, line % tiling_.lines * kOut, tile % tiling_.columns * kOut};
  }

  void run_block(int64_t block, int64_t panel, int64_t to) {
    first_ = block * tiling_.tiles / tiling_.blocks;
    count_ = (block + 1) * tiling_.tiles / tiling_.blocks - first_;
    for (int64_t i = 0; i < count_; ++i) {
      const Place at = place_of(first_ + i);
      take_tile(i, at);
      list_pixels(tiles_[i], at);
    }
    for (; panel < to; ++panel) run_panel(panel);
  }

  int64_t plane() const { return count_ * words_ + kPad / 2; }
  int64_t plane_of_sums() const { return count_ * kernel_.nr + kPad / 4; }

  // What lies beyond the image only counts for outputs that are not there: any pixel will do.
  void take_tile(int64_t i, const Place& at) {
    const uint8_t* image = args_.x.data + args_.taps[0] + at.n * args_.x.stride_n;
    WinogradI8Input input{};
    for (int p = 0; p < kIn; ++p) {
      input.rows[p] = image + std::min(at.h + p, args_.grid.h + 1) * args_.x.stride_h;
      input.columns[p] = std::min(at.w + p, args_.grid.w + 1) * args_.x.stride_w;
    }
    input.channels = weights_.channels;
    input.planes = planes_ + i * words_;
    input.plane = plane();
    kernel_.input(input);
  }

  void run_panel(int64_t panel) {
    const int64_t pairs = ceil_div(weights_.channels, 2), nr = kernel_.nr;
    const int8_t* codes = weights_.panels.as<int8_t>() + panel * pairs * 9 * nr * 2;
    for (int64_t pair = 0; pair < pairs; pair += kPairs) {
      const int64_t count = std::min(kPairs, pairs - pair);
      const int8_t* const there = codes + pair * 9 * nr * 2;
      kernel_.filter({there, count, filter_, position_of(kernel_)});
      multiply(pair, count, there + count * 9 * nr * 2);
    }
    const int64_t channel = panel * nr;
    output_.channel = channel;
    output_.columns = static_cast<int>(std::min(nr, weights_.n - channel));
    output_.multiplier = args_.epilogue.multiplier + channel;
    output_.bias = args_.epilogue.bias + channel;
    output_.slope = args_.epilogue.slope != nullptr ? args_.epilogue.slope + channel : nullptr;
    output_.column_sums = weights_.column_sums.as<int32_t>() + channel;
    output_.plane = plane_of_sums();
    for (int64_t i = 0; i < count_; ++i) give_tile(i);
  }

  // The pairs of channels from `pair` on, of all tiles and positions. next: weights to prefetch meanwhile.
  void multiply(int64_t pair, int64_t count, const int8_t* next) {
    const int64_t share = count * 9 * kernel_.nr * 2 / kPositions;
    const int64_t strips = ceil_div(count_, kernel_.mr), height = count_ / strips, taller = count_ % strips;
    for (int64_t position = 0; position < kPositions; ++position) {
      for (int64_t i = 0; i < share; i += 64) __builtin_prefetch(next + position * share + i, 0, 2);
      for (int64_t strip = 0, first = 0, rows; strip < strips; ++strip, first += rows) {
        rows = height + (strip < taller ? 1 : 0);
        kernel_.products.of_rows[rows - 1]({.x = planes_ + position * plane() + first * words_ + 2 * pair,
                                            .row = words_,
                                            .pairs = count,
                                            .weights = filter_ + position * position_of(kernel_),
                                            .sums = sums_ + position * plane_of_sums() + first * kernel_.nr,
                                            .adds = pair > 0});
      }
    }
  }

  // Where a tile's outputs go, for all panels.
  void list_pixels(TileOfOutputs& tile, const Place& at) const {
    const Epilogue& e = args_.epilogue;
    const int64_t element = e.output == DType::u8 ? 1 : 4;
    auto* const y = static_cast<std::byte*>(args_.y.data);
    tile.sample = at.n;
    tile.height = static_cast<int>(std::min<int64_t>(kOut, args_.grid.h - at.h));
    tile.width = static_cast<int>(std::min<int64_t>(kOut, args_.grid.w - at.w));
    int row = 0;
    for (int64_t h = at.h; h < at.h + tile.height; ++h)
      for (int64_t w = at.w; w < at.w + tile.width; ++w, ++row) {
        tile.y[row] = y + args_.y.offset(at.n, h, w) * element;
        if (e.residual.data != nullptr) tile.residual[row] = e.residual.data + e.residual.offset(at.n, h, w);
      }
  }

  void give_tile(int64_t i) {
    const TileOfOutputs& tile = tiles_[i];
    const Epilogue& e = args_.epilogue;
    output_.sums = sums_ + i * kernel_.nr;
    output_.height = tile.height, output_.width = tile.width;
    output_.y = tile.y;
    output_.residual = e.residual.data != nullptr ? tile.residual : nullptr;
    output_.x_zero_point = args_.x_zero_points != nullptr ? args_.x_zero_points[tile.sample] : args_.x_zero_point;
    float scales[kPixels];
    output_.row_scales = nullptr;
    if (e.row_scale != nullptr) {
      std::fill_n(scales, kPixels, e.row_scale[tile.sample]);
      output_.row_scales = scales;
    }
    kernel_.output(output_);
  }

  const WinogradI8Args& args_;
  const WinogradI8Weights& weights_;
  const WinogradI8Kernel& kernel_;
  const Tiling tiling_;
  const int64_t words_;
  int16_t* const planes_;
  int16_t* const filter_;
  int32_t* const sums_;
  int64_t first_ = 0, count_ = 0;
  WinogradI8Output output_{};
  TileOfOutputs tiles_[kMaxTiles];
};

}  // namespace

void WinogradI8Kernel::pack(const int8_t* w, int64_t n, int64_t, int64_t run, WinogradI8Weights& out) const {
  const int64_t channels = run / 3, pairs = ceil_div(channels, 2), padded = ceil_div(n, nr) * nr;
  out.kernel = this;
  out.n = n, out.channels = channels;
  out.panels = Buffer(static_cast<size_t>(padded * pairs * 9 * 2));
  out.column_sums = Buffer(static_cast<size_t>(padded) * sizeof(int32_t));
  for (int64_t c = 0; c < n; ++c) {
    int8_t* lane = out.panels.as<int8_t>() + (c / nr * pairs * 9 * nr + c % nr) * 2;
    int32_t sum = 0;
    for (int64_t tap = 0; tap < 9; ++tap)
      for (int64_t k = 0; k < channels; ++k) {
        const int8_t code = *w++;
        lane[(k / 2 * 9 + tap) * nr * 2 + k % 2] = code;
        sum += code;
      }
    out.column_sums.as<int32_t>()[c] = sum;
  }
}

int64_t WinogradI8Kernel::tasks(const WinogradI8Args& args, int threads) {
  const WinogradI8Weights& weights = *args.weights;
  const Tiling tiling(args.grid, weights);
  const int64_t work = args.grid.rows() * weights.n * weights.channels * 9;
  return std::clamp<int64_t>(work / Cut::kTaskWork, 1, std::clamp<int64_t>(tiling.blocks * tiling.panels, 1, threads));
}

void WinogradI8Kernel::run(const WinogradI8Args& args, int64_t task, int64_t tasks) {
  Run(args, args.scratch + static_cast<size_t>(task) * winograd_i8_scratch(*args.weights)).task(task, tasks);
}

// Cycles, as measured on Zen 4: products, and what the transformations take of weights, once a block, and of each tile.
double winograd_i8_cost(const WinogradI8Kernel& kernel, int64_t n, int64_t channels, const Grid& grid) {
  const Grid typical = grid.rows() > 0 ? grid : Grid{1, 14, 14};
  WinogradI8Weights weights;
  weights.kernel = &kernel, weights.n = n, weights.channels = channels;
  const Tiling tiling(typical, weights);
  const double of_weight = 4.5, of_input = 8, of_output = 22, narrower = 8.0 / info_of(kernel.isa).lanes;
  const auto tiles = static_cast<double>(tiling.tiles), blocks = static_cast<double>(tiling.blocks);
  const auto inputs = static_cast<double>(channels), words = static_cast<double>(words_of(weights)),
             outputs = static_cast<double>(tiling.panels * kernel.nr);
  const double products = kPositions * tiles * inputs * outputs / 16 * kernel.product_cost;
  return narrower *
         (products + inputs * outputs * blocks * of_weight + tiles * (words * of_input + outputs * of_output));
}

const WinogradI8Kernel* select_winograd_i8(Isa cap, const int8_t* w, int64_t n, int64_t channels, const Grid& grid,
                                           double other_cost) {
  constexpr double kWorth = 0.9;  // of the other cost: the estimates are not that good
  constexpr int32_t kLargest = ((1 << 25) - 1) / 255;
  for (int64_t c = 0; c < n; ++c, w += 9 * channels) {
    int64_t positive = 0, negative = 0;
    for (int64_t k = 0; k < 9 * channels; ++k) w[k] > 0 ? positive += w[k] : negative -= w[k];
    if (std::max(positive, negative) > kLargest) return nullptr;
  }
  for (const WinogradI8Kernel* kernel : winograd_i8_kernels())
    if (runs_on(kernel->isa, cap))
      return winograd_i8_cost(*kernel, n, channels, grid) < kWorth * other_cost ? kernel : nullptr;
  return nullptr;
}

size_t winograd_i8_scratch(const WinogradI8Weights& weights) {
  const int64_t sums = (most_tiles(weights) * weights.kernel->nr * 4 + kPad) * kPositions;
  return static_cast<size_t>(planes_bytes(weights) + filter_bytes(*weights.kernel) + aligned(sums));
}

}  // namespace lowbit::kernels
