// The table of kernels, the choice among them, and the driver they share (its order of work: kernels/matrix.h).
#include "kernels/gemm_i8/gemm_i8.h"

#include <algorithm>

#include "kernels/gemm_i8/tiles.h"
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

int64_t tasks(const GemmI8Args& args, int threads) {
  const GemmI8Weights& weights = *args.weights;
  return cut(args).tasks(threads, args.grid.rows() * weights.n * weights.taps * weights.run);
}

class Run : public ProductRun<Run, GemmI8Args, GemmI8Tile, GemmI8Tiles> {
 public:
  // packed: kPackedBytes where rows are packed, else null.
  Run(const GemmI8Args& args, uint8_t* packed)
      : ProductRun(args, cut(args),
                   packed != nullptr ? *args.weights->kernel->rows->packed_tiles : *args.weights->kernel->tiles),
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

void run(const GemmI8Args& args, int64_t task, int64_t tasks) { Run(args, nullptr).task(task, tasks); }

void run_packed(const GemmI8Args& args, int64_t task, int64_t tasks) {
  if (!packs_rows(*args.weights)) return run(args, task, tasks);
  alignas(Buffer::kAlignment) uint8_t packed[kPackedBytes + GemmI8RowPacking::kSlack];
  Run(args, packed).task(task, tasks);
}

constexpr GemmI8Kernel row(const char* name, Isa isa, int mr, int nr, const GemmI8Tiles& tiles,
                           decltype(GemmI8Kernel::run) runs = run, const GemmI8RowPacking* rows = nullptr) {
  return {name, isa, mr, nr, &tiles, rows, pack_gemm_i8, tasks, runs};
}

constexpr GemmI8Kernel kTable[] = {
#ifdef LOWBIT_HAVE_X86
    // 24 accumulators of 32 registers, as many as leave room for weights and a row. 12x32 reads least per product: for
    // few rows and many weights. No faster on Zen 4: to prefetch the outputs or the next panel, or one list of offsets
    // for all taps.
    row("avx512vnni_12x32", Isa::avx512vnni, 12, 32, gemm_i8_avx512vnni_12x32),
    // With 12 rows, addresses spill; and the end of a small tile overlaps with the next one's begin.
    row("avx512vnni_8x32", Isa::avx512vnni, 8, 32, gemm_i8_avx512vnni_12x32),
    // N = 64 in one panel: x is read once. Also the widest stream of weights for few rows.
    row("avx512vnni_6x64", Isa::avx512vnni, 6, 64, gemm_i8_avx512vnni_6x64),
    row("avx512vnni_8x48", Isa::avx512vnni, 8, 48, gemm_i8_avx512vnni_8x48),  // 48, 96, 144 channels without waste
    row("avx512vnni_8x16", Isa::avx512vnni, 8, 16, gemm_i8_avx512vnni_8x16),  // few channels
    // 12 accumulators of 16 registers.
    row("avxvnni_6x16", Isa::avxvnni, 6, 16, gemm_i8_avxvnni_6x16),
    // Four temporaries beside two weight registers, eight accumulators and a constant. Signs go to the weights by xor,
    // which is exact for a weight of -128, too. On Zen 4, in GOPS: 125 by vpsignb, 145 by xor, 187 where a row's signs
    // and magnitudes are found once for all panels; 16-bit products take as many instructions and twice the weights.
    row("avx2_4x16", Isa::avx2, 4, 16, gemm_i8_avx2_4x16, run_packed, &gemm_i8_rows_avx2),
#endif
    row("scalar_4x8", Isa::scalar, 4, 8, gemm_i8_scalar_4x8),
};

}  // namespace

std::span<const GemmI8Kernel> gemm_i8_kernels() { return kTable; }

double gemm_i8_cost(const GemmI8Kernel& kernel, int64_t n, int64_t taps, int64_t run, int64_t rows) {
  const int lanes = info_of(kernel.isa).lanes;
  constexpr int kFreeRows = 10;  // with more, their addresses spill
  return cost_of_tiles(rows > 0 ? rows : kTypicalRows, n, kernel.mr, kernel.nr, kernel.nr / lanes,
                       taps * ceil_div(run, 4), kFreeRows);
}

const GemmI8Kernel& select_gemm_i8(Isa cap, int64_t n, int64_t taps, int64_t run, int64_t rows) {
  const GemmI8Kernel* best = nullptr;
  double least = 0;
  for (const GemmI8Kernel& kernel : kTable) {
    if (!runs_on(kernel.isa, cap)) continue;
    if (best != nullptr && best->isa != kernel.isa) break;  // the table is ordered by ISA, best first
    const double cost = gemm_i8_cost(kernel, n, taps, run, rows);
    if (best == nullptr || cost < least) best = &kernel, least = cost;
  }
  return *best;
}

}  // namespace lowbit::kernels
