// The plain truth: gemm_f32.h as loops.
#include <cmath>

#include "base/numerics.h"
#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::kernels {
namespace {

constexpr int kNr = 8;

float dot(const GemmF32Tile& t, int row, int channel) {
  const float* w = t.panel + channel;
  float acc = 0.0f;
  for (int64_t tap = 0; tap < t.tap_count; ++tap) {
    const float* x = t.x[row] + t.taps[tap];
    for (int64_t k = 0; k < t.run; ++k, w += kNr) acc = std::fma(x[k], *w, acc);
  }
  return acc;
}

template <int kRows>
void tile(const GemmF32Tile& t) {
  for (int row = 0; row < kRows; ++row) {
    for (int channel = 0; channel < t.columns; ++channel) {
      float value = dot(t, row, channel) + (t.bias != nullptr ? t.bias[channel] : 0.0f);
      if (t.residual != nullptr) value += t.residual[row][t.channel + channel];
      t.y[row][t.channel + channel] = clamp_float(value, t.min, t.max);
    }
  }
}

}  // namespace

extern constinit const GemmF32Kernel gemm_f32_scalar = {
    {"scalar_4x8", Isa::scalar}, 4, kNr, {{tile<1>, tile<2>, tile<3>, tile<4>}}};

}  // namespace lowbit::kernels
