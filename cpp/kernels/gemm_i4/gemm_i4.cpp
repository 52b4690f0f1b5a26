// The table of kernels, the choice among them, and the driver they share (its order of work: kernels/matrix.h).
#include "kernels/gemm_i4/gemm_i4.h"

#include <algorithm>

#include "kernels/gemm_i4/tiles.h"
#include "kernels/product_run.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kSums = 16 * 1024;  // of x over groups, held at once; 64 KB on the stack of the thread that uses them
static_assert(kSums >= GemmI4Args::kMaxGroups * GemmI4Tile::kMaxRows);

Cut cut(const GemmI4Args& args) {
  const GemmI4Weights& weights = *args.weights;
  const int64_t rows = std::clamp<int64_t>(Cut::kBlockBytes / std::max<int64_t>(1, weights.k), 1, kSums);
  return {args.grid.rows(),   weights.n,        weights.kernel->mr,
          weights.kernel->nr, weights.groups(), std::min(kSums, rows * weights.groups())};
}

int64_t tasks(const GemmI4Args& args, int threads) {
  return cut(args).tasks(threads, args.grid.rows() * args.weights->n * args.weights->k);
}

class Run : public ProductRun<Run, GemmI4Args, GemmI4Tile, GemmI4Tiles> {
 public:
  explicit Run(const GemmI4Args& args)
      : ProductRun(args, cut(args), *args.weights->kernel->tiles),
        weights_(*args.weights),
        panel_bytes_(static_cast<int64_t>(weights_.panels.bytes()) / cut_.panels) {
    tile_.depth = {weights_.k, weights_.run, weights_.group_size, args.taps.data()};
    tile_.affine = weights_.affine;
  }

  void begin_rows(int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
      int32_t* sums = sums_ + row * weights_.groups();
      weights_.kernel->group_sums(rows_.x[row], tile_.depth, sums);
      row_sums_[row] = sums;
    }
  }

  void begin_panel(int64_t panel) {
    tile_.panel = weights_.panels.as<uint8_t>() + panel * panel_bytes_;
    tile_.offsets = weights_.offsets.as<float>() + tile_.channel;
  }

  void begin_tile(int64_t at) {
    tile_.group_sums = row_sums_ + at;
    tile_.zero_points = zero_points_ + at;
  }

 private:
  const GemmI4Weights& weights_;
  const int64_t panel_bytes_;
  const int32_t* row_sums_[Cut::kBlockRows];
  int32_t sums_[kSums];
};

void run(const GemmI4Args& args, int64_t task, int64_t tasks) { Run(args).task(task, tasks); }

constexpr GemmI4Kernel row(const char* name, Isa isa, int mr, int nr, const GemmI4Tiles& tiles,
                           decltype(GemmI4Kernel::group_sums) group_sums) {
  return {name, isa, mr, nr, &tiles, group_sums, pack_gemm_i4, tasks, run};
}

constexpr GemmI4Kernel kTable[] = {
#ifdef LOWBIT_HAVE_X86
    row("avx512vnni_6x64", Isa::avx512vnni, 6, 64, gemm_i4_avx512vnni_6x64, gemm_i4_group_sums_avx512vnni),
    row("avxvnni_4x16", Isa::avxvnni, 4, 16, gemm_i4_avxvnni_4x16, gemm_i4_group_sums_avx2),
    row("avx2_4x16", Isa::avx2, 4, 16, gemm_i4_avx2_4x16, gemm_i4_group_sums_avx2),
#endif
    row("scalar_4x8", Isa::scalar, 4, 8, gemm_i4_scalar_4x8, gemm_i4_group_sums_scalar),
};

}  // namespace

std::span<const GemmI4Kernel> gemm_i4_kernels() { return kTable; }

const GemmI4Kernel& select_gemm_i4(Isa cap) {
  return *std::ranges::find_if(kTable, [cap](const GemmI4Kernel& kernel) { return runs_on(kernel.isa, cap); });
}

}  // namespace lowbit::kernels
