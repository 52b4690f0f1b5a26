// The packer, and the driver that the kernels share (its order of work: kernels/matrix.h).
#include "kernels/gemm_i1/gemm_i1.h"

#include <bit>
#include <cstring>

#include "kernels/product_run.h"

namespace lowbit::kernels {
namespace {

Cut cut(const GemmI1Args& args) {
  const GemmI1Weights& w = *args.weights;
  return {args.grid.rows(), w.n, w.kernel->mr, w.kernel->nr, w.taps * w.run * kSignBytes};
}

class Run : public ProductRun<Run, GemmI1Args, GemmI1Tile> {
 public:
  explicit Run(const GemmI1Args& args)
      : ProductRun(args, cut(args), args.weights->kernel->tiles), weights_(*args.weights) {
    tile_.taps = args.taps.data();
    tile_.tap_count = weights_.taps;
    tile_.run = weights_.run;
  }

  void begin_rows(int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
      int64_t sum = 0;
      for (int64_t tap = 0; tap < weights_.taps; ++tap) {
        const uint8_t* words = rows_.x[row] + args_.taps[tap];
        for (int64_t i = 0; i < weights_.run; ++i) {
          uint32_t nonzero;
          std::memcpy(&nonzero, words + i * kSignBytes + 4, sizeof nonzero);
          sum += std::popcount(nonzero);
        }
      }
      nonzero_[row] = static_cast<int32_t>(sum);
    }
  }

  void begin_panel(int64_t panel) {
    tile_.panel = weights_.panels.as<uint8_t>() + panel * weights_.taps * weights_.run * weights_.kernel->nr * 4;
  }

  void begin_tile(int64_t at) { tile_.nonzero = nonzero_ + at; }

 private:
  const GemmI1Weights& weights_;
  int32_t nonzero_[Cut::kBlockRows];
};

}  // namespace

void GemmI1Kernel::pack(const uint32_t* w, int64_t n, int64_t taps, int64_t run, GemmI1Weights& out) const {
  const int64_t words = taps * run;
  out.kernel = this;
  out.n = n, out.taps = taps, out.run = run;
  out.panels = Buffer(static_cast<size_t>(ceil_div(n, nr) * nr * words) * sizeof(uint32_t));
  for (int64_t c = 0; c < n; ++c) {
    uint32_t* panel = out.panels.as<uint32_t>() + c / nr * nr * words + c % nr;
    for (int64_t i = 0; i < words; ++i) panel[i * nr] = w[c * words + i];
  }
}

int64_t GemmI1Kernel::tasks(const GemmI1Args& args, int threads) {
  const GemmI1Weights& w = *args.weights;
  const int64_t work = args.grid.rows() * w.n * w.taps * w.run * 4;  // a word is about as much as four
  return cut(args).tasks(threads, work, w.bytes());
}

void GemmI1Kernel::run(const GemmI1Args& args, int64_t task, int64_t tasks) { Run(args).task(task, tasks); }

}  // namespace lowbit::kernels
