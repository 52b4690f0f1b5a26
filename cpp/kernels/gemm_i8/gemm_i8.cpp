// The choice among the kernels, the packers, and the driver they share (its order of work: kernels/matrix.h).
#include "kernels/gemm_i8/gemm_i8.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemm_i8/flipped.h"
#include "kernels/gemm_i8/pairs.h"
#include "kernels/product_run.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kPackedBytes = 64 * 1024;  // of packed rows, on the stack of the thread that uses them
constexpr int64_t kPackingWork = 1 << 23;    // multiply-adds of more tasks than threads, for each packs rows for itself

bool takes_pairs(const GemmI8Kernel& kernel) { return kernel.otherwise != nullptr; }

// Bytes of a row as the kernel's tiles read it where rows are packed: its operands, or the taps of pairs joined.
int64_t packed_row_bytes(const GemmI8Kernel& kernel, int64_t taps, int64_t run) {
  return ceil_div(taps * run, 4) * (kernel.rows != nullptr ? kernel.rows->operand_bytes : 4);
}
int64_t packed_row_bytes(const GemmI8Weights& weights) {
  return packed_row_bytes(*weights.kernel, weights.taps, weights.run);
}

// Whether so many rows as a tile has are short enough to be packed.
bool can_pack_rows(const GemmI8Kernel& kernel, int64_t taps, int64_t run) {
  return packed_row_bytes(kernel, taps, run) * kernel.mr <= kPackedBytes;
}

// Whether rows are packed: a kernel that can does so.
bool packs_rows(const GemmI8Kernel& kernel, int64_t taps, int64_t run) {
  return takes_pairs(kernel) ? taps > 1 : kernel.rows != nullptr && can_pack_rows(kernel, taps, run);
}
bool packs_rows(const GemmI8Weights& weights) { return packs_rows(*weights.kernel, weights.taps, weights.run); }

// Whether the taps of packed rows are joined: quads have no gaps then.
bool joins(const GemmI8Kernel& kernel, int64_t taps, int64_t run) {
  return taps > 1 && run % 4 != 0 && packs_rows(kernel, taps, run);
}

// Whether the kernel can run weights of this shape.
bool can_run(const GemmI8Kernel& kernel, int64_t taps, int64_t run) {
  return !takes_pairs(kernel) || (can_be_paired(taps, run) && (taps == 1 || can_pack_rows(kernel, taps, run)));
}

Cut cut(const GemmI8Args& args) {
  const GemmI8Weights& weights = *args.weights;
  const bool packs = packs_rows(weights);
  return {args.grid.rows(),
          weights.n,
          weights.kernel->mr,
          weights.kernel->nr,
          packs ? packed_row_bytes(weights) : weights.taps * weights.run,
          packs ? kPackedBytes : Cut::kBlockBytes};
}

class Run : public ProductRun<Run, GemmI8Args, GemmI8Tile> {
 public:
  // packed: kPackedBytes where rows are packed, else null.
  Run(const GemmI8Args& args, uint8_t* packed)
      : ProductRun(args, cut(args),
                   packed != nullptr && args.weights->kernel->rows != nullptr ? args.weights->kernel->rows->tiles
                                                                              : args.weights->kernel->tiles),
        weights_(*args.weights),
        packed_(packed) {
    tile_.taps = packed != nullptr ? &kFirst : args.taps.data();
    tile_.tap_count = packed != nullptr ? 1 : weights_.taps;
    tile_.quads = packed != nullptr ? weights_.quads() : ceil_div(weights_.run, 4);
    tile_.x_zero_point = args.x_zero_points != nullptr && args.grid.n == 1 ? args.x_zero_points[0] : args.x_zero_point;
  }

  void begin_rows(int64_t count) {
    const GemmI8RowPacking* packing = weights_.kernel->rows;
    if (packing != nullptr)
      packing->pack(rows_.x, count, args_.taps.data(), weights_.taps, tap_bytes(), row_sums_, packed_);
    if (packed_ == nullptr) return;
    const int64_t bytes = packed_row_bytes(weights_);
    uint8_t* to = packed_;
    for (int64_t row = 0; row < count; ++row, to += bytes) {
      if (packing == nullptr) join_taps(rows_.x[row], to);
      rows_.x[row] = to;
    }
  }

  void begin_panel(int64_t panel) {
    if (takes_pairs(*weights_.kernel)) {
      const int64_t quads = (tile_.quads + 1) / 2 * 2;
      const auto* first = weights_.first_windows.as<int64_t>() + panel;
      tile_.panel = weights_.panels.as<int8_t>() + tile_.channel * quads * 4;
      tile_.places = weights_.places.as<int32_t>() + panel * quads;
      tile_.windows = weights_.windows.as<GemmI8Windows>() + first[0];
      tile_.window_count = first[1] - first[0];
    } else {
      tile_.panel = weights_.panels.as<int8_t>() + tile_.channel * tile_.tap_count * tile_.quads * 4;
      if (weights_.pairs.bytes() > 0) {
        tile_.places = weights_.places.as<int32_t>() + panel * tile_.quads;
        tile_.pairs = weights_.pairs.as<int32_t>()[panel];
      }
    }
    tile_.column_sums = weights_.column_sums.as<int32_t>() + tile_.channel;
  }

  bool together() const { return weights_.kernel->together; }

  void begin_tile(int64_t at) {
    tile_.row_zero_points = args_.x_zero_points != nullptr && args_.grid.n > 1 ? zero_points_ + at : nullptr;
    tile_.row_sums = row_sums_ + at;
  }

 private:
  static constexpr int64_t kFirst = 0;

  int64_t tap_bytes() const { return weights_.joined ? weights_.run : ceil_div(weights_.run, 4) * 4; }

  void join_taps(const uint8_t* x, uint8_t* to) const {
    const int64_t bytes = tap_bytes();
    for (int64_t tap : args_.taps) std::memcpy(to, x + tap, static_cast<size_t>(bytes)), to += bytes;
  }

  const GemmI8Weights& weights_;
  uint8_t* packed_;
  int32_t row_sums_[Cut::kBlockRows];
};

// Into panels [ceil(n / nr)][taps][ceil(run / 4)][nr][4]: the four k of one output channel are the bytes of one 32-bit
// lane, as the dot-product instructions want them.
void pack_panels(const int8_t* w, GemmI8Weights& out) {
  const int64_t nr = out.kernel->nr, quads = out.quads(), run = out.panel_run();
  out.panels = Buffer(static_cast<size_t>(ceil_div(out.n, nr) * nr * quads * 4));
  for (int64_t channel = 0; channel < out.n; ++channel) {
    int8_t* lane = out.panels.as<int8_t>() + channel / nr * nr * quads * 4 + channel % nr * 4;
    for (int64_t tap = 0; tap < out.panel_taps(); ++tap, w += run)
      for (int64_t k = 0; k < run; k += 4, lane += nr * 4)
        std::memcpy(lane, w + k, static_cast<size_t>(std::min<int64_t>(run - k, 4)));
  }
}

constexpr int64_t kFewRows = 6;  // whose weights take longer to read than to multiply

// Windows a quad of weights, in pairs.
double windows_of(const GemmI8Weights& weights) {
  return static_cast<double>(2 * weights.windows.bytes() / sizeof(GemmI8Windows)) /
         static_cast<double>(weights.places.bytes() / sizeof(int32_t));
}

// gemm_i8_cost(), for so many windows a quad if quads are taken in pairs; as measured on Zen 4.
double cost(const GemmI8Kernel& kernel, int64_t n, int64_t taps, int64_t run, int64_t rows, double windows) {
  constexpr int kFreeRows = 10;        // with more, their addresses spill
  constexpr double kPackedQuad = 0.5;  // of a row
  constexpr double kTogether = 0.09;   // what is spared where most quads are in pairs, which few seldom are
  constexpr int64_t kMatched = 32;
  constexpr int64_t kWay = 4096;  // of L1, bytes: where long rows lie that far apart, they push each other out
  const int64_t quads = joins(kernel, taps, run) ? ceil_div(taps * run, 4) : taps * ceil_div(run, 4);
  const int64_t count = rows > 0 ? rows : kTypicalRows;
  const double tiles =
      cost_of_tiles(count, n, kernel.mr, kernel.nr, kernel.nr / info_of(kernel.isa).lanes, quads, kFreeRows);
  const bool collide = taps == 1 && run >= kWay && run % (kWay / 2) == 0;
  if (takes_pairs(kernel)) return tiles * (count < kFewRows || collide ? 2 : 0.71 + windows);
  if (!packs_rows(kernel, taps, run)) return tiles;
  const double together = kernel.matches && quads >= kMatched ? kTogether : 0;
  return tiles * (1 - together) + kPackedQuad * static_cast<double>(quads * count);
}

// Windows a quad of weights that are normally distributed.
double normal_windows(int64_t k) { return 4 / std::sqrt(static_cast<double>(k)); }

}  // namespace

void GemmI8Kernel::pack(const int8_t* w, int64_t n, int64_t taps, int64_t run, GemmI8Weights& out) const {
  pack_here(w, n, taps, run, out);
  if (!takes_pairs(*out.kernel)) return;
  if (cost(*this, n, taps, run, 0, windows_of(out)) > gemm_i8_cost(*otherwise, n, taps, run, 0))
    otherwise->pack(w, n, taps, run, out = {});
}

void GemmI8Kernel::pack_here(const int8_t* w, int64_t n, int64_t taps, int64_t run, GemmI8Weights& out) const {
  if (!can_run(*this, taps, run)) return otherwise->pack(w, n, taps, run, out);
  out.kernel = this;
  out.n = n, out.taps = taps, out.run = run;
  out.joined = joins(*this, taps, run);
  out.column_sums = Buffer(static_cast<size_t>(ceil_div(n, nr) * nr) * sizeof(int32_t));
  auto* sums = out.column_sums.as<int32_t>();
  for (int64_t channel = 0; channel < n; ++channel)
    for (int64_t k = 0; k < taps * run; ++k) sums[channel] += w[channel * taps * run + k];
  if (takes_pairs(*this)) return pack_pairs(w, out);
  matches&& packs_rows(*this, taps, run) ? pack_flipped(w, rows->operand_bytes, out) : pack_panels(w, out);
}

int64_t GemmI8Kernel::tasks(const GemmI8Args& args, int threads) {
  const GemmI8Weights& weights = *args.weights;
  const int64_t work = args.grid.rows() * weights.n * weights.taps * weights.run;
  const int64_t tasks = cut(args).tasks(threads, work, weights.panels.bytes());
  return packs_rows(weights) ? std::min(tasks, std::max<int64_t>(threads, work / kPackingWork)) : tasks;
}

void GemmI8Kernel::run(const GemmI8Args& args, int64_t task, int64_t tasks) {
  if (!packs_rows(*args.weights)) return Run(args, nullptr).task(task, tasks);
  alignas(Buffer::kAlignment) uint8_t packed[kPackedBytes + GemmI8RowPacking::kSlack];
  Run(args, packed).task(task, tasks);
}

double gemm_i8_cost(const GemmI8Kernel& kernel, int64_t n, int64_t taps, int64_t run, int64_t rows) {
  constexpr double kMargin = 0.07;  // weights may need more windows than normal ones
  return cost(kernel, n, taps, run, rows, normal_windows(taps * run) + kMargin);
}

const GemmI8Kernel& select_gemm_i8(Isa cap, int64_t n, int64_t taps, int64_t run, int64_t rows) {
  const GemmI8Kernel* best = nullptr;
  double least = 0;
  for (const GemmI8Kernel* kernel : gemm_i8_kernels()) {
    if (!runs_on(kernel->isa, cap)) continue;
    if (best != nullptr && best->isa != kernel->isa) break;  // the table is ordered by ISA, best first
    if (kernel->matches || !can_run(*kernel, taps, run)) continue;
    const double estimate = cost(*kernel, n, taps, run, rows, normal_windows(taps * run));
    if (best == nullptr || estimate < least) best = kernel, least = estimate;
  }
  return best->many != nullptr && (rows == 0 || rows >= kFewRows) ? *best->many : *best;
}

}  // namespace lowbit::kernels
