// The driver that the kernels share (its order of work: kernels/matrix.h).
#include "kernels/gemm_s8/gemm_s8.h"

#include <algorithm>

#include "kernels/product_run.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kSums = 16 * 1024;  // of x over groups, held at once; 64 KB on the stack of the thread that uses them

bool has_offsets(const GemmS8Weights& weights) { return weights.kind >= GemmI4Kind::half_offsets; }
int64_t groups(const GemmS8Weights& weights) { return ceil_div(weights.k, weights.x_group()); }
int64_t sums_of_row(const GemmS8Weights& weights) { return groups(weights) * (has_offsets(weights) ? 2 : 1); }
static_assert(kSums >= 2 * GemmI4Args::kMaxGroups);

Cut cut(const GemmS8Args& args) {
  const GemmS8Weights& weights = *args.weights;
  const int64_t rows = std::clamp<int64_t>(Cut::kBlockBytes / std::max<int64_t>(1, weights.k), 1, kSums);
  const auto mr = static_cast<int>(std::clamp<int64_t>(kSums / sums_of_row(weights), 1, weights.kernel->mr));
  return {args.grid.rows(),
          weights.n,
          mr,
          weights.kernel->nr,
          sums_of_row(weights),
          std::min(kSums, rows * sums_of_row(weights))};
}

class Run : public ProductRun<Run, GemmS8Args, GemmS8Tile> {
 public:
  explicit Run(const GemmS8Args& args)
      : ProductRun(args, cut(args), args.weights->kernel->tiles),
        weights_(*args.weights),
        panel_bytes_(static_cast<int64_t>(weights_.panels.bytes()) / cut_.panels) {
    tile_.k = weights_.k, tile_.x_group = weights_.x_group(), tile_.group_size = weights_.group_size;
    tile_.kind = weights_.kind;
  }

  void begin_rows(int64_t count) {
    const int64_t groups = kernels::groups(weights_);
    for (int64_t row = 0; row < count; ++row) {
      int32_t* sums = sums_ + row * sums_of_row(weights_);
      auto* shifts = reinterpret_cast<float*>(sums + groups);
      scales_of_[row] = args_.x_scales + (rows_.first + row) * groups;
      starts_[row] = sums, shifts_[row] = shifts;
      weights_.kernel->sums(rows_.x[row], weights_.k, weights_.x_group(), sums);
      if (has_offsets(weights_))
        for (int64_t j = 0; j < groups; ++j) shifts[j] = static_cast<float>(sums[j]) * scales_of_[row][j];
      const int32_t factor = -start_factor();
      for (int64_t j = 0; j < groups; ++j) sums[j] *= factor;
    }
  }

  void begin_panel(int64_t panel, int64_t panels) {
    tile_.panels = panels;
    tile_.panel_bytes = panel_bytes_;
    tile_.channels = weights_.n - tile_.channel;
    tile_.panel = weights_.panels.as<uint8_t>() + panel * panel_bytes_;
  }

  void begin_tile(int64_t at) {
    tile_.scales = scales_of_ + at;
    tile_.starts = starts_ + at;
    tile_.shifts = shifts_ + at;
  }

 private:
  // What a sum of x counts for each code: that of zero, or for each zero point.
  int32_t start_factor() const {
    const int bits = weights_.kernel->bits;
    if (weights_.kind == GemmI4Kind::zero_points) return 1;
    return bits == 8 || !has_offsets(weights_) ? middle_code(bits) : 0;
  }

  const GemmS8Weights& weights_;
  const int64_t panel_bytes_;
  const float *scales_of_[Cut::kBlockRows], *shifts_[Cut::kBlockRows];
  const int32_t* starts_[Cut::kBlockRows];
  int32_t sums_[kSums];
};

}  // namespace

void GemmS8Kernel::pack(const GemmI4Source& source, GemmS8Weights& out) const {
  pack_panels(source, nr, false, out);
  out.kernel = this;
}

int64_t GemmS8Kernel::tasks(const GemmS8Args& args, int threads) {
  const int64_t work = args.grid.rows() * args.weights->n * args.weights->k;
  return cut(args).tasks(threads, work, args.weights->panels.bytes());
}

void GemmS8Kernel::run(const GemmS8Args& args, int64_t task, int64_t tasks) { Run(args).task(task, tasks); }

const GemmS8Kernel& select_gemm_s8(Isa cap, int bits) {
  for (const GemmS8Kernel* kernel : gemm_s8_kernels())
    if (kernel->bits == bits && runs_on(kernel->isa, cap)) return *kernel;
  return *gemm_s8_kernels().back();
}

}  // namespace lowbit::kernels
