// The plain truth: gemm_i4.h and kernel.h as loops.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "kernels/finish.h"
#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::kernels {
namespace {

constexpr int kNr = 8;

float dot(const GemmI4Tile& t, int row, int channel) {
  const uint8_t* x = t.x[row];
  float sum = -static_cast<float>(t.zero_points[row]) * t.offsets[channel];
  int32_t acc = 0;
  const uint8_t *head = nullptr, *w = t.panel;
  each_part(t.depth, [&](int64_t group, int64_t tap, int64_t k, int64_t length) {
    const uint8_t* part = x + t.depth.taps[tap] + k - tap * t.depth.run;
    if (k == group * t.depth.group_size) head = w, w += gemm_i4_head(kNr, t.affine), acc = 0;
    const int zero_point = t.affine ? head[2 * kNr + channel] : 8;
    for (int64_t i = 0; i < length; ++i) {
      const uint8_t pair = w[i / 8 * kNr * 4 + channel * 4 + i % 4];
      acc += part[i] * ((i % 8 < 4 ? pair & 15 : pair >> 4) - zero_point);
    }
    w += (length + 7) / 8 * kNr * 4;
    if (k + length != std::min(t.depth.k, (group + 1) * t.depth.group_size)) return;
    uint16_t scale;
    std::memcpy(&scale, head + 2 * channel, 2);
    sum = std::fma(static_cast<float>(acc), float_from_half(scale), sum);
  });
  return sum;
}

template <int kRows>
void tile(const GemmI4Tile& first) {
  GemmI4Tile t = first;
  for (int64_t left = first.panels; left > 0; --left, t.next_panel(kNr))
    for (int row = 0; row < kRows; ++row)
      for (int channel = 0; channel < t.columns; ++channel) finish(t, row, channel, dot(t, row, channel));
}

// The sums above need none.
void group_sums(const uint8_t*, const GemmI4Depth&, bool, int32_t*) {}

}  // namespace

extern constinit const GemmI4Kernel gemm_i4_scalar = {
    {"scalar_4x8", Isa::scalar}, 4, kNr, {{tile<1>, tile<2>, tile<3>, tile<4>}}, group_sums};

}  // namespace lowbit::kernels
