// The choice among the kernels, the packer, and the driver they share (its order of work: kernels/matrix.h).
#include "kernels/gemm_i8/gemm_i8.h"

#include <algorithm>
#include <cstring>

#include "kernels/product_run.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kPackedBytes = 64 * 1024;  // of packed rows, on the stack of the thread that uses them

int64_t packed_row_bytes(const GemmI8Weights& weights) {
  return weights.taps * ceil_div(weights.run, 4) * weights.kernel->rows->operand_bytes;
}

// Whether rows are packed: a kernel that can does so, unless rows are too long for even one tile.
bool packs_rows(const GemmI8Weights& weights) {
  const GemmI8Kernel& kernel = *weights.kernel;
  return kernel.rows != nullptr && packed_row_bytes(weights) * kernel.mr <= kPackedBytes;
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
                   packed != nullptr ? args.weights->kernel->rows->tiles : args.weights->kernel->tiles),
        weights_(*args.weights),
        packed_(packed) {
    tile_.taps = packed != nullptr ? &kFirst : args.taps.data();
    tile_.tap_count = packed != nullptr ? 1 : weights_.taps;
    tile_.quads = ceil_div(weights_.run, 4) * (packed != nullptr ? weights_.taps : 1);
    tile_.x_zero_point = args.x_zero_point;
  }

  void begin_rows(int64_t count) {
    const GemmI8RowPacking* packing = weights_.kernel->rows;
    if (packing == nullptr) return;
    packing->pack(rows_.x, count, args_.taps.data(), weights_.taps, ceil_div(weights_.run, 4) * 4, row_sums_, packed_);
    for (int64_t row = 0; packed_ != nullptr && row < count; ++row)
      rows_.x[row] = packed_ + row * packed_row_bytes(weights_);
  }

  void begin_panel(int64_t) {
    tile_.panel = weights_.panels.as<int8_t>() + tile_.channel * tile_.tap_count * tile_.quads * 4;
    tile_.column_sums = weights_.column_sums.as<int32_t>() + tile_.channel;
  }

  void begin_tile(int64_t at) {
    tile_.row_zero_points = args_.x_zero_points != nullptr ? zero_points_ + at : nullptr;
    tile_.row_sums = row_sums_ + at;
  }

 private:
  static constexpr int64_t kFirst = 0;

  const GemmI8Weights& weights_;
  uint8_t* packed_;
  int32_t row_sums_[Cut::kBlockRows];
};

}  // namespace

// Into panels [ceil(n / nr)][taps][ceil(run / 4)][nr][4]: the four k of one output channel are the bytes of one 32-bit
// lane, as the dot-product instructions want them.
void GemmI8Kernel::pack(const int8_t* w, int64_t n, int64_t taps, int64_t run, GemmI8Weights& out) const {
  const int64_t quads = (run + 3) / 4, padded = (n + nr - 1) / nr * nr;
  out.kernel = this;
  out.n = n, out.taps = taps, out.run = run;
  out.panels = Buffer(static_cast<size_t>(padded * taps * quads * 4));
  out.column_sums = Buffer(static_cast<size_t>(padded) * sizeof(int32_t));
  for (int64_t channel = 0; channel < n; ++channel) {
    int8_t* lane = out.panels.as<int8_t>() + channel / nr * nr * taps * quads * 4 + channel % nr * 4;
    int32_t sum = 0;
    for (int64_t tap = 0; tap < taps; ++tap, w += run) {
      for (int64_t k = 0; k < run; k += 4, lane += nr * 4)
        std::memcpy(lane, w + k, static_cast<size_t>(run - k < 4 ? run - k : 4));
      for (int64_t k = 0; k < run; ++k) sum += w[k];
    }
    out.column_sums.as<int32_t>()[channel] = sum;
  }
}

int64_t GemmI8Kernel::tasks(const GemmI8Args& args, int threads) {
  const GemmI8Weights& weights = *args.weights;
  return cut(args).tasks(threads, args.grid.rows() * weights.n * weights.taps * weights.run);
}

void GemmI8Kernel::run(const GemmI8Args& args, int64_t task, int64_t tasks) {
  if (!packs_rows(*args.weights)) return Run(args, nullptr).task(task, tasks);
  alignas(Buffer::kAlignment) uint8_t packed[kPackedBytes + GemmI8RowPacking::kSlack];
  Run(args, packed).task(task, tasks);
}

double gemm_i8_cost(const GemmI8Kernel& kernel, int64_t n, int64_t taps, int64_t run, int64_t rows) {
  const int lanes = info_of(kernel.isa).lanes;
  constexpr int kFreeRows = 10;  // with more, their addresses spill
  return cost_of_tiles(rows > 0 ? rows : kTypicalRows, n, kernel.mr, kernel.nr, kernel.nr / lanes,
                       taps * ceil_div(run, 4), kFreeRows);
}

const GemmI8Kernel& select_gemm_i8(Isa cap, int64_t n, int64_t taps, int64_t run, int64_t rows) {
  const GemmI8Kernel* best = nullptr;
  double least = 0;
  for (const GemmI8Kernel* kernel : gemm_i8_kernels()) {
    if (!runs_on(kernel->isa, cap)) continue;
    if (best != nullptr && best->isa != kernel->isa) break;  // the table is ordered by ISA, best first
    const double cost = gemm_i8_cost(*kernel, n, taps, run, rows);
    if (best == nullptr || cost < least) best = kernel, least = cost;
  }
  return *best;
}

}  // namespace lowbit::kernels
