// The choice among the kernels, the packer, and the driver they share (its order of work: kernels/matrix.h).
#include "kernels/gemm_f32/gemm_f32.h"

#include <algorithm>

#include "kernels/matrix.h"

namespace lowbit::kernels {
namespace {

Cut cut(const GemmF32Args& args) {
  const GemmF32Panels& weights = *args.weights;
  return {args.grid.rows(), weights.n, weights.kernel->mr, weights.kernel->nr,
          weights.taps * weights.run * static_cast<int64_t>(sizeof(float))};
}

// One call's tile arguments that do not change, and the walk over its rows.
class Run {
 public:
  explicit Run(const GemmF32Args& args) : args_(args), weights_(*args.weights), cut_(cut(args)) {
    walk_.grid = args.grid;
    walk_.bind(0, args.x, sizeof(float));
    walk_.bind(1, args.y, sizeof(float));
    walk_.bind(2, args.residual, sizeof(float));
    walk_.fold(false);
    tile_.taps = args.taps.data();
    tile_.tap_count = weights_.taps;
    tile_.run = weights_.run;
    tile_.min = args.min;
    tile_.max = args.max;
  }

  void task(int64_t task, int64_t tasks) {
    cut_.each(task, tasks,
              [this](int64_t panel, int64_t first_tile, int64_t count) { run_panel(panel, first_tile, count); });
  }

 private:
  void run_panel(int64_t panel, int64_t first_tile, int64_t count) {
    rows_.hold(walk_, cut_.first_row(first_tile), cut_.first_row(first_tile + count), [](int64_t, int) {});
    const int nr = weights_.kernel->nr;
    const int64_t channel = panel * nr;
    tile_.channel = channel;
    tile_.panel = weights_.data + channel * weights_.taps * weights_.run;
    tile_.columns = static_cast<int>(std::min<int64_t>(nr, weights_.n - channel));
    tile_.bias = args_.bias != nullptr ? args_.bias + channel : nullptr;
    for (int64_t tile = first_tile; tile < first_tile + count; ++tile) {
      const int64_t row = cut_.first_row(tile), rows = cut_.first_row(tile + 1) - row, at = row - rows_.first;
      tile_.x = rows_.x + at;
      tile_.y = rows_.y + at;
      tile_.residual = args_.residual.data != nullptr ? rows_.residual + at : nullptr;
      weights_.kernel->tiles.of_rows[rows - 1](tile_);
    }
  }

  const GemmF32Args& args_;
  const GemmF32Panels& weights_;
  const Cut cut_;
  RowWalk walk_;
  GemmF32Tile tile_;
  RowList<float, float, float> rows_;
};

double cost(const GemmF32Kernel& kernel, int64_t n, int64_t k, int64_t rows) {
  const int lanes = info_of(kernel.isa).lanes;
  return cost_of_tiles(rows, n, kernel.mr, kernel.nr, kernel.nr / lanes, k, GemmF32Tile::kMaxRows);
}

}  // namespace

void GemmF32Kernel::pack(const float* w, int64_t n, int64_t taps, int64_t run, GemmF32Weights& out) const {
  const int64_t k = taps * run;
  out.kernel = this;
  out.n = n, out.taps = taps, out.run = run;
  out.panels = Buffer(static_cast<size_t>(ceil_div(n, nr) * nr * k) * sizeof(float));
  for (int64_t channel = 0; channel < n; ++channel) {
    float* lane = out.panels.as<float>() + channel / nr * nr * k + channel % nr;
    for (int64_t i = 0; i < k; ++i) lane[i * nr] = w[channel * k + i];
  }
  out.data = out.panels.as<const float>();
}

int64_t GemmF32Kernel::tasks(const GemmF32Args& args, int threads) {
  const GemmF32Panels& weights = *args.weights;
  const int64_t count = weights.n * weights.taps * weights.run;
  return cut(args).tasks(threads, args.grid.rows() * count, static_cast<size_t>(count) * sizeof(float));
}

void GemmF32Kernel::run(const GemmF32Args& args, int64_t task, int64_t tasks) { Run(args).task(task, tasks); }

const GemmF32Kernel& select_gemm_f32(Isa cap, int64_t n, int64_t taps, int64_t run, int64_t rows) {
  const int64_t count = rows > 0 ? rows : kTypicalRows;
  const GemmF32Kernel* best = nullptr;
  for (const GemmF32Kernel* kernel : gemm_f32_kernels()) {
    if (!runs_on(kernel->isa, cap)) continue;
    if (best != nullptr && best->isa != kernel->isa) break;  // the table is ordered by ISA, best first
    if (best == nullptr || cost(*kernel, n, taps * run, count) < cost(*best, n, taps * run, count)) best = kernel;
  }
  return *best;
}

void pack_panels(const GemmF32Kernel& kernel, const EltwiseKernel& copier, const GemmF32Matrix& b, int64_t first,
                 int64_t count, float* out) {
  const int64_t nr = kernel.nr;
  for (int64_t panel = first; panel < first + count; ++panel, out += b.k * nr) {
    const int64_t columns = std::min(nr, b.n - panel * nr);
    if (columns < nr) std::fill_n(out, b.k * nr, 0.0f);
    copy(copier, {.shape = {b.k, columns},
                  .element_bytes = sizeof(float),
                  .x = {b.data + panel * nr * b.stride_n, {b.stride_k, b.stride_n}},
                  .y = {out, {nr, 1}}});
  }
}

}  // namespace lowbit::kernels
