// The plain truth: gemm_i8.h and kernel.h as loops.
#include "kernels/finish.h"
#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::kernels {
namespace {

constexpr int kNr = 8;

int32_t dot(const GemmI8Tile& t, int row, int channel) {
  const int8_t* w = t.panel + channel * 4;
  int32_t acc = 0;
  for (int64_t tap = 0; tap < t.tap_count; ++tap) {
    const uint8_t* x = t.x[row] + t.taps[tap];
    for (int64_t quad = 0; quad < t.quads; ++quad, x += 4, w += kNr * 4)
      for (int k = 0; k < 4; ++k) acc += int32_t{x[k]} * int32_t{w[k]};
  }
  return acc - (t.row_zero_points != nullptr ? t.row_zero_points[row] : t.x_zero_point) * t.column_sums[channel];
}

template <int kRows>
void tile(const GemmI8Tile& first) {
  GemmI8Tile t = first;
  for (int64_t left = t.tiles; left > 0; --left, t.skip(kRows))
    for (int row = 0; row < kRows; ++row)
      for (int channel = 0; channel < t.columns; ++channel)
        finish(t, row, channel, static_cast<float>(dot(t, row, channel)));
}

}  // namespace

extern constinit const GemmI8Kernel gemm_i8_scalar = {
    {"scalar_4x8", Isa::scalar}, 4, kNr, {{tile<1>, tile<2>, tile<3>, tile<4>}}};

}  // namespace lowbit::kernels
