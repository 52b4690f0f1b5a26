// The choice among the kernels, the packer, and the driver they share: strips of rows, for each its planes, for those
// its panels of channels.
#include "kernels/spmm_i8/spmm_i8.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/matrix.h"
#include "kernels/spmm_i8/pairs.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kPlaneBytes = 256 * 1024;  // of a strip's planes, in L2 beside weights and results
constexpr int64_t kMaxRows = 512;            // of a strip
constexpr int64_t kPanel = 64;               // channels whose results are turned into rows at once

int64_t quads_of(const SpmmI8Weights& weights) { return ceil_div(weights.run, 4); }
int64_t aligned(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

bool is_row(const SpmmI8Args& args) { return args.grid.rows() == 1 && args.weights->taps == 1; }

SpmmI8Blocks blocks_from(const SpmmI8Weights& weights, int64_t channel) {
  const int64_t group = channel / weights.kernel->block_rows;
  return {weights.groups.as<SpmmI8Span>() + group, weights.quads.as<uint16_t>(), weights.values.as<int8_t>(),
          weights.rest_quads.as<uint16_t>(), weights.rest_values.as<int8_t>()};
}

// How a call's rows are cut into strips. Where rows are adjacent pixels of an image that several taps meet (pixel > 0),
// positions are those of the image's lines, so that those at a line's end have no result, and planes hold pixels.
// Otherwise positions are rows, and planes hold what each tap of them meets.
struct Strips {
  int64_t pixel = 0;  // bytes
  int64_t samples = 1, positions = 0, width = 0, pitch = 0, reach = 0;
  int64_t vectors = 1, count = 1;  // of a strip; strips of a sample
  int64_t plane_bytes = 0;

  Strips(const SpmmI8Args& args, int64_t tasks) {
    const SpmmI8Weights& weights = *args.weights;
    const int64_t lanes = weights.kernel->lanes();
    positions = width = pitch = args.grid.rows();
    if (!as_image(args)) pixel = 0;
    const int64_t all = ceil_div(positions, lanes);
    const int64_t wanted = std::max<int64_t>(ceil_div(all * samples, tasks), weights.kernel->vectors);
    vectors = std::clamp<int64_t>(std::min(wanted, most_vectors(weights)), 1, std::max<int64_t>(all, 1));
    count = ceil_div(all, vectors);
    vectors = count == 0 ? 1 : ceil_div(all, count);
    plane_bytes = vectors * lanes * 4;
    if (pixel > 0) plane_bytes = aligned((vectors * lanes + reach + lanes) * 4) | 64;  // odd, for the cache's sets
  }

  int64_t rows(const SpmmI8Weights& weights) const { return vectors * weights.kernel->lanes(); }

 private:
  bool as_image(const SpmmI8Args& args) {
    const SpmmI8Weights& weights = *args.weights;
    const Grid& grid = args.grid;
    pixel = args.x.stride_w;
    if (grid.w < 2 || pixel <= 0 || pixel % 4 != 0 || weights.run % pixel != 0 || args.x.stride_h % pixel != 0)
      return false;
    for (int64_t tap : args.taps) {
      if (tap % pixel != 0) return false;
      reach = std::max(reach, tap / pixel);
    }
    reach += weights.run / pixel - 1;
    const int64_t line = grid.h > 1 ? args.x.stride_h / pixel : grid.w;
    const int64_t area = weights.taps * weights.run / pixel, lanes = weights.kernel->lanes();
    if (line < grid.w || most_vectors(weights) < weights.kernel->vectors) return false;
    // Whether the image is read less often than its pixels are met.
    const int64_t strip = std::min(most_vectors(weights) * lanes, grid.h * line);
    if (area < 2 || (strip + reach) * line >= area * strip * grid.w) return false;
    samples = grid.n, width = grid.w, pitch = line;
    positions = grid.n > 0 && grid.h > 0 ? (grid.h - 1) * pitch + width : 0;
    return true;
  }

  // That fit the planes' share of the cache.
  int64_t most_vectors(const SpmmI8Weights& weights) const {
    const int64_t lanes = weights.kernel->lanes();
    const int64_t rows =
        pixel > 0 ? kPlaneBytes / pixel - reach - 3 * 16 : kPlaneBytes / (weights.taps * quads_of(weights) * 4);
    return std::clamp<int64_t>(rows, 0, kMaxRows) / lanes;
  }
};

// One task's share of a call.
class Run {
 public:
  Run(const SpmmI8Args& args, int64_t tasks, std::byte* scratch)
      : args_(args), weights_(*args.weights), tiles_(weights_.kernel->tiles), strips_(args, tasks) {
    element_ = args.epilogue.output == DType::u8 ? 1 : 4;
    walk_.grid = args.grid;
    walk_.bind(0, args.x, 1);
    walk_.bind(1, args.y, element_);
    walk_.bind(2, args.epilogue.residual, 1);
    walk_.fold(args.x_zero_points != nullptr || args.epilogue.row_scale != nullptr);
    auto* next = reinterpret_cast<uint8_t*>(scratch);
    const auto take = [&](int64_t bytes) { return std::exchange(next, next + aligned(bytes)); };
    offsets_ = reinterpret_cast<int32_t*>(take(weights_.taps * quads_of(weights_) * 4));
    y_ = take(kPanel * 4 * kMaxRows);
    residual_ = take(kPanel * kMaxRows);
    planes_ = next;
    tile_.offsets = offsets_;
    tile_.x_zero_point = args.x_zero_point;
    tile_.epilogue = &args.epilogue;
    tile_.y_plane = strips_.rows(weights_) * 4;
  }

  void task(int64_t task, int64_t tasks) {
    find_offsets();
    // Where strips are fewer than tasks, each is shared by several, which take some panels each.
    const int64_t strips = strips_.samples * strips_.count, panels = ceil_div(weights_.n, kPanel);
    const int64_t parts = std::min(panels, strips >= tasks ? 1 : ceil_div(tasks, std::max<int64_t>(strips, 1)));
    const int64_t units = strips * parts;
    for (int64_t unit = task * units / tasks, held = -1; unit < (task + 1) * units / tasks && !should_stop(); ++unit) {
      const int64_t strip = unit / parts, part = unit % parts;
      if (strip != held) hold(strip / strips_.count, strip % strips_.count);
      held = strip;
      for (int64_t panel = part * panels / parts; panel < (part + 1) * panels / parts && !should_stop(); ++panel)
        run_panel(panel);
    }
  }

 private:
  int64_t lanes() const { return weights_.kernel->lanes(); }

  void find_offsets() {
    const int64_t quads = quads_of(weights_), in_pixel = std::max<int64_t>(strips_.pixel / 4, 1);
    for (int64_t tap = 0, i = 0; tap < weights_.taps; ++tap)
      for (int64_t quad = 0; quad < quads; ++quad, ++i)
        offsets_[i] = static_cast<int32_t>(
            strips_.pixel == 0 ? i * strips_.plane_bytes
                               : quad % in_pixel * strips_.plane_bytes +
                                     (args_.taps[static_cast<size_t>(tap)] / strips_.pixel + quad / in_pixel) * 4);
  }

  // A strip's planes, and where its results go.
  void hold(int64_t sample, int64_t strip) {
    first_ = strip * strips_.vectors * lanes();
    rows_ = std::min(strips_.rows(weights_), strips_.positions - first_);
    strips_.pixel > 0 ? hold_pixels(sample) : hold_rows();
    for (int64_t i = rows_; i < ceil_div(rows_, lanes()) * lanes(); ++i) {
      y_rows_[i] = nullptr;
      residual_rows_[i] = residual_rows_[rows_ - 1];
      zero_points_[i] = zero_points_[rows_ - 1], scales_[i] = scales_[rows_ - 1];
    }
  }

  void hold_rows() {
    walk_.each(first_, static_cast<int>(rows_), [&](const char* const* at, int64_t sample, int64_t i) {
      x_rows_[i] = reinterpret_cast<const uint8_t*>(at[0]);
      put(i, at, sample);
    });
    const int64_t quads = quads_of(weights_);
    for (int64_t row = 0; row < rows_; row += lanes()) {
      for (int64_t i = rows_; i < row + lanes(); ++i) x_rows_[i] = x_rows_[rows_ - 1];
      for (int64_t tap = 0; tap < weights_.taps; ++tap)
        tiles_.to_planes(x_rows_ + row, args_.taps[static_cast<size_t>(tap)], weights_.run,
                         planes_ + tap * quads * strips_.plane_bytes + 4 * row, strips_.plane_bytes);
    }
  }

  void hold_pixels(int64_t sample) {
    const uint8_t* const image = args_.x.data + sample * args_.x.stride_n;
    const int64_t last = strips_.positions - 1 + strips_.reach;  // beyond it, pixels serve no result
    for (int64_t i = 0; i < rows_ + strips_.reach; i += lanes()) {
      const uint8_t* at[16];
      for (int64_t j = 0; j < lanes(); ++j) at[j] = image + std::min(first_ + i + j, last) * strips_.pixel;
      tiles_.to_planes(at, 0, strips_.pixel, planes_ + 4 * i, strips_.plane_bytes);
    }
    const auto* const y = static_cast<const char*>(args_.y.data);
    const auto* const residual = reinterpret_cast<const char*>(args_.epilogue.residual.data);
    int64_t h = first_ / strips_.pitch, w = first_ % strips_.pitch;
    for (int64_t i = 0; i < rows_; ++i) {
      const bool has_result = w < strips_.width;
      const int64_t column = has_result ? w : 0;
      const char* at[3] = {
          nullptr, has_result ? y + args_.y.offset(sample, h, column) * element_ : nullptr,
          residual != nullptr ? residual + args_.epilogue.residual.offset(sample, h, column) : nullptr};
      put(i, at, sample);
      if (++w == strips_.pitch) w = 0, ++h;
    }
  }

  void put(int64_t i, const char* const* at, int64_t sample) {
    y_rows_[i] = reinterpret_cast<uint8_t*>(const_cast<char*>(at[1]));
    residual_rows_[i] = reinterpret_cast<const uint8_t*>(at[2]);
    if (args_.x_zero_points != nullptr) zero_points_[i] = args_.x_zero_points[sample];
    if (args_.epilogue.row_scale != nullptr) scales_[i] = args_.epilogue.row_scale[sample];
  }

  void run_panel(int64_t panel) {
    const int64_t channel = panel * kPanel, columns = std::min(kPanel, weights_.n - channel);
    const bool has_residual = args_.epilogue.residual.data != nullptr;
    if (has_residual) take_residual(channel, columns);
    const int64_t vectors = ceil_div(rows_, lanes());
    const int most = weights_.kernel->vectors;
    for (int64_t c = 0; c < columns; c += 4) {
      tile_.blocks = blocks_from(weights_, channel + c);
      tile_.column_sums = weights_.column_sums.as<int32_t>() + channel + c;
      tile_.multiplier = args_.epilogue.multiplier + channel + c;
      tile_.bias = args_.epilogue.bias + channel + c;
      tile_.slope = args_.epilogue.slope != nullptr ? args_.epilogue.slope + channel + c : nullptr;
      uint8_t* const y = y_ + (element_ == 1 ? c / 4 : c) * tile_.y_plane;
      // Tiles of almost the same height, the taller ones first.
      const int64_t tiles = ceil_div(vectors, most), height = vectors / tiles, taller = vectors % tiles;
      run_tiles(0, taller, height + 1, c, y);
      run_tiles(taller * (height + 1) * lanes(), tiles - taller, height, c, y);
    }
    give_results(channel, columns);
  }

  // From a row on, so many tiles of so many vectors.
  void run_tiles(int64_t row, int64_t tiles, int64_t vectors, int64_t c, uint8_t* y) {
    if (tiles == 0) return;
    tile_.tiles = static_cast<int>(tiles);
    tile_.planes = planes_ + 4 * row;
    tile_.row_zero_points = args_.x_zero_points != nullptr ? zero_points_ + row : nullptr;
    tile_.row_scales = args_.epilogue.row_scale != nullptr ? scales_ + row : nullptr;
    tile_.residual = args_.epilogue.residual.data != nullptr ? residual_ + c / 4 * tile_.y_plane + 4 * row : nullptr;
    tile_.y = y + 4 * row;
    tiles_.of_vectors[vectors - 1](tile_);
  }

  void take_residual(int64_t channel, int64_t columns) {
    for (int64_t row = 0; row < rows_; row += lanes())
      tiles_.to_planes(residual_rows_ + row, channel, columns, residual_ + 4 * row, tile_.y_plane);
  }

  void give_results(int64_t channel, int64_t columns) {
    for (int64_t row = 0; row < rows_; row += lanes())
      tiles_.from_planes(y_ + 4 * row, tile_.y_plane, y_rows_ + row, channel * element_, columns * element_);
  }

  const SpmmI8Args& args_;
  const SpmmI8Weights& weights_;
  const SpmmI8Tiles& tiles_;
  const Strips strips_;
  RowWalk walk_;
  SpmmI8Tile tile_{};
  int64_t element_, first_ = 0, rows_ = 0;  // bytes of a result; the strip's positions
  int32_t* offsets_;
  uint8_t *y_, *residual_, *planes_;
  const uint8_t* x_rows_[kMaxRows];
  uint8_t* y_rows_[kMaxRows];
  const uint8_t* residual_rows_[kMaxRows];
  int32_t zero_points_[kMaxRows];
  float scales_[kMaxRows];
};

// A task's panels of a single row.
void run_row(const SpmmI8Args& args, int64_t task, int64_t tasks) {
  const SpmmI8Weights& weights = *args.weights;
  const Epilogue& e = args.epilogue;
  void* y = args.y.data;
  const int64_t panels = ceil_div(weights.n, kPanel);
  for (int64_t panel = task * panels / tasks; panel < (task + 1) * panels / tasks && !should_stop(); ++panel) {
    const int64_t channel = panel * kPanel, columns = std::min(kPanel, weights.n - channel);
    const OutputTile tile{&y,
                          e.residual.data != nullptr ? &e.residual.data : nullptr,
                          e.row_scale,
                          channel,
                          static_cast<int>(columns),
                          e.multiplier + channel,
                          e.bias + channel,
                          e.slope != nullptr ? e.slope + channel : nullptr,
                          &e};
    weights.kernel->tiles.row(
        {args.x.data + args.taps[0], args.x_zero_points != nullptr ? args.x_zero_points[0] : args.x_zero_point,
         blocks_from(weights, channel), weights.column_sums.as<int32_t>() + channel},
        tile);
  }
}

// In the unit of cost_of_tiles (matrix.h), as measured on Zen 4: products, what turns their sums into results, and the
// transpositions. Few vectors of rows wait for each other's sums. A single row costs what its blocks take to read and
// to find the x of.
double cost(const SpmmI8Kernel& kernel, double blocks, int64_t n, int64_t depth, int64_t rows) {
  constexpr double kOfResults = 6, kOfTransposition = 5;
  const bool is_tall = kernel.block_rows == 4;
  if (rows == 1) return blocks * (is_tall ? 5.5 : 5);
  const auto vectors = static_cast<double>(ceil_div(rows, kernel.lanes())), channels = static_cast<double>(n);
  const double lines = static_cast<double>(ceil_div(depth, 4) + ceil_div(n, 4));
  const double in_tile = std::min<double>(vectors, kernel.vectors);
  const double of_block = std::max(kernel.block_rows * kernel.product_cost * in_tile, is_tall ? 5.7 : 4.3) / in_tile;
  return vectors * (blocks * of_block + channels * kOfResults + lines * kOfTransposition);
}

// Calls found(group of channels, quad, the block [rows][4]) for each block that is not zero; after(group) after each
// group.
template <class Found, class After>
void each_block(const int8_t* w, int64_t n, int64_t taps, int64_t run, int rows, Found&& found, After&& after) {
  const int64_t quads = (run + 3) / 4, padded = (n + 3) / 4 * 4;
  for (int64_t group = 0; group * rows < padded; ++group) {
    const int64_t count = std::clamp<int64_t>(n - group * rows, 0, rows);
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t quad = 0; quad < quads; ++quad) {
        int8_t block[16] = {};
        uint32_t any = 0;
        const int64_t left = run - 4 * quad;
        for (int64_t c = 0; c < count; ++c) {
          const int8_t* from = w + ((group * rows + c) * taps + tap) * run + 4 * quad;
          uint32_t four = 0;
          left < 4 ? std::memcpy(&four, from, static_cast<size_t>(left)) : std::memcpy(&four, from, 4);
          std::memcpy(block + 4 * c, &four, 4);
          any |= four;
        }
        if (any != 0) found(tap * quads + quad, block);
      }
    after(group);
  }
}

// Blocks to multiply by, about: those that 16 bits do not hold count twice.
int64_t count_blocks(const SpmmI8Kernel& kernel, const int8_t* w, int64_t n, int64_t taps, int64_t run) {
  int64_t count = 0;
  each_block(
      w, n, taps, run, kernel.block_rows,
      [&](int64_t, const int8_t* block) { count += kernel.pairs && is_split(block, kernel.block_rows) ? 2 : 1; },
      [](int64_t) {});
  return count;
}

// Weights of the groups so far.
struct Packed {
  std::vector<SpmmI8Span> groups{{}};
  std::vector<uint16_t> quads, rest_quads;
  std::vector<int8_t> values, rest_values;

  void add(const SpmmI8Group& group) {
    const size_t block_bytes = static_cast<size_t>(group.rows) * 4, rests = group.most_rests();
    for (const auto& block : group.blocks) {
      quads.push_back(block.quad);
      values.insert(values.end(), block.values.begin(), block.values.begin() + static_cast<ptrdiff_t>(block_bytes));
    }
    for (size_t i = 0; i < rests; ++i)
      for (int c = 0; c < group.rows; ++c) {
        const auto rest = i < group.rests[c].size() ? group.rests[c][i] : SpmmI8Group::Rest{};
        rest_quads.push_back(rest.quad);
        rest_values.insert(rest_values.end(), rest.values.begin(), rest.values.end());
      }
    groups.back().pair_end = groups.back().first + static_cast<int32_t>(group.paired);
    groups.push_back({static_cast<int32_t>(quads.size()), 0, groups.back().first_rest + static_cast<int32_t>(rests)});
  }
};

template <class T>
Buffer copy_of(const std::vector<T>& list) {
  Buffer copy(list.size() * sizeof(T));
  if (!list.empty()) std::memcpy(copy.as<T>(), list.data(), list.size() * sizeof(T));
  return copy;
}

}  // namespace

void SpmmI8Kernel::pack(const int8_t* w, int64_t n, int64_t taps, int64_t run, SpmmI8Weights& out) const {
  const int64_t padded = (n + 3) / 4 * 4;
  out.kernel = this;
  out.n = n, out.taps = taps, out.run = run;
  Packed packed;
  SpmmI8Group group{block_rows, {}, 0, {}};
  each_block(
      w, n, taps, run, block_rows,
      [&](int64_t quad, const int8_t* values) {
        SpmmI8Group::Block block{static_cast<uint16_t>(quad), {}};
        std::copy(values, values + 4 * block_rows, block.values.begin());
        group.blocks.push_back(block);
      },
      [&](int64_t) {
        if (pairs) group.match();
        packed.add(group);
        group.clear();
      });
  out.groups = copy_of(packed.groups);
  out.quads = copy_of(packed.quads), out.values = copy_of(packed.values);
  out.rest_quads = copy_of(packed.rest_quads), out.rest_values = copy_of(packed.rest_values);
  out.column_sums = Buffer(static_cast<size_t>(padded) * sizeof(int32_t));
  for (int64_t c = 0; c < padded; ++c) {
    int32_t sum = 0;
    for (int64_t k = 0; c < n && k < taps * run; ++k) sum += w[c * taps * run + k];
    out.column_sums.as<int32_t>()[c] = sum;
  }
}

int64_t SpmmI8Kernel::tasks(const SpmmI8Args& args, int threads) {
  if (threads <= 1) return 1;
  const SpmmI8Weights& weights = *args.weights;
  const int64_t work = args.grid.rows() * static_cast<int64_t>(weights.values.bytes());
  return std::clamp<int64_t>(work / Cut::kTaskWork, 1, threads);
}

void SpmmI8Kernel::run(const SpmmI8Args& args, int64_t task, int64_t tasks) {
  if (args.grid.rows() == 0) return;
  if (is_row(args)) return run_row(args, task, tasks);
  Run(args, tasks, args.scratch + static_cast<size_t>(task) * spmm_i8_scratch(*args.weights)).task(task, tasks);
}

bool may_be_sparse(const int8_t* w, int64_t size) {
  constexpr int64_t kOneOf = 16;
  return std::count(w, w + size, 0) >= size / kOneOf;
}

size_t spmm_i8_scratch(const SpmmI8Weights& weights) {
  const int64_t quads = weights.taps * quads_of(weights);
  const int64_t least = quads * weights.kernel->lanes() * 4;  // planes of a single vector of rows
  return static_cast<size_t>(aligned(quads * 4) + kPanel * 4 * kMaxRows + kPanel * kMaxRows +
                             std::max(kPlaneBytes, aligned(least)));
}

const SpmmI8Kernel* select_spmm_i8(Isa cap, const int8_t* w, int64_t n, int64_t taps, int64_t run, int64_t rows,
                                   double dense_cost) {
  constexpr double kWorth = 0.9;  // of the dense cost: the estimates are not that good
  const int64_t quads = taps * ceil_div(run, 4), size = n * taps * run;
  if (quads > SpmmI8Weights::kMaxQuads || !may_be_sparse(w, size)) return nullptr;
  const Isa isa = best_of(spmm_i8_kernels(), cap).isa;
  const SpmmI8Kernel* best = nullptr;
  double least = kWorth * dense_cost;
  for (const SpmmI8Kernel* kernel : spmm_i8_kernels()) {
    if (kernel->isa != isa) continue;
    const auto blocks = static_cast<double>(count_blocks(*kernel, w, n, taps, run));
    const double estimate = cost(*kernel, blocks, n, taps * run, rows > 0 ? rows : kTypicalRows);
    if (estimate < least) best = kernel, least = estimate;
  }
  return best;
}

}  // namespace lowbit::kernels
