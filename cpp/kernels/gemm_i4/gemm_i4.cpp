// The table of kernels, the choice among them, and the driver they share (its order of work: kernels/matrix.h).
#include "kernels/gemm_i4/gemm_i4.h"

#include <algorithm>

#include "kernels/gemm_i4/tiles.h"
#include "kernels/matrix.h"

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

// One call's tile arguments that do not change, and the walk over its rows.
class Run {
 public:
  explicit Run(const GemmI4Args& args) : args_(args), weights_(*args.weights), cut_(cut(args)) {
    const Epilogue& epilogue = args.epilogue;
    walk_.grid = args.grid;
    walk_.bind(0, args.x, 1);
    walk_.bind(1, args.y, epilogue.output == DType::u8 ? 1 : 4);
    walk_.bind(2, epilogue.residual, 1);
    walk_.fold(args.x_zero_points != nullptr || epilogue.row_scale != nullptr);
    tile_.epilogue = &epilogue;
    tile_.k = weights_.k;
    tile_.group_size = weights_.group_size;
    tile_.affine = weights_.affine;
  }

  void task(int64_t task, int64_t tasks) {
    cut_.each(task, tasks,
              [this](int64_t panel, int64_t first_tile, int64_t count) { run_panel(panel, first_tile, count); });
  }

 private:
  void run_panel(int64_t panel, int64_t first_tile, int64_t count) {
    hold_rows(cut_.first_row(first_tile), cut_.first_row(first_tile + count));
    const int64_t channel = panel * weights_.kernel->nr;
    tile_.panel = weights_.panels.as<uint8_t>() + panel * (static_cast<int64_t>(weights_.panels.bytes()) / cut_.panels);
    tile_.offsets = weights_.offsets.as<float>() + channel;
    tile_.channel = channel;
    tile_.columns = static_cast<int>(std::min<int64_t>(weights_.kernel->nr, weights_.n - channel));
    tile_.multiplier = args_.epilogue.multiplier + channel;
    tile_.bias = args_.epilogue.bias + channel;
    for (int64_t tile = first_tile; tile < first_tile + count; ++tile) {
      const int64_t row = cut_.first_row(tile), rows = cut_.first_row(tile + 1) - row, at = row - rows_.first;
      tile_.x = rows_.x + at;
      tile_.y = rows_.y + at;
      tile_.group_sums = row_sums_ + at;
      tile_.zero_points = zero_points_ + at;
      tile_.residual = args_.epilogue.residual.data != nullptr ? rows_.residual + at : nullptr;
      tile_.row_scales = args_.epilogue.row_scale != nullptr ? scales_ + at : nullptr;
      weights_.kernel->tiles->of_rows[rows - 1](tile_);
    }
  }

  void hold_rows(int64_t first, int64_t end) {
    const bool listed = rows_.hold(walk_, first, end, [this](int64_t sample, int i) {
      zero_points_[i] = args_.x_zero_points != nullptr ? args_.x_zero_points[sample] : args_.x_zero_point;
      if (args_.epilogue.row_scale != nullptr) scales_[i] = args_.epilogue.row_scale[sample];
    });
    for (int64_t row = 0; listed && row < end - first; ++row) {
      int32_t* sums = sums_ + row * weights_.groups();
      weights_.kernel->group_sums(rows_.x[row], weights_.k, weights_.group_size, sums);
      row_sums_[row] = sums;
    }
  }

  const GemmI4Args& args_;
  const GemmI4Weights& weights_;
  const Cut cut_;
  RowWalk walk_;
  GemmI4Tile tile_;
  RowList<uint8_t, void, uint8_t> rows_;
  int32_t zero_points_[Cut::kBlockRows];
  const int32_t* row_sums_[Cut::kBlockRows];
  float scales_[Cut::kBlockRows];
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
