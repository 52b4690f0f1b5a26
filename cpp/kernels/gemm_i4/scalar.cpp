// The plain truth: gemm_i4.h and kernel.h as loops.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "kernels/finish.h"
#include "kernels/gemm_i4/tiles.h"

namespace lowbit::kernels {
namespace {

constexpr int kNr = 8;

float dot(const GemmI4Tile& t, int row, int channel) {
  const uint8_t* group = t.panel;
  const uint8_t* x = t.x[row];
  float sum = -static_cast<float>(t.zero_points[row]) * t.offsets[channel];
  for (int64_t first = 0; first < t.k; first += t.group_size) {
    const int64_t length = std::min(t.group_size, t.k - first);
    uint16_t scale;
    std::memcpy(&scale, group + 2 * channel, 2);
    const int zero_point = t.affine ? group[2 * kNr + channel] : 8;
    const uint8_t* codes = group + gemm_i4_head(kNr, t.affine) + channel * 4;
    int32_t acc = 0;
    for (int64_t i = 0; i < length; ++i) {
      const uint8_t pair = codes[i / 8 * kNr * 4 + i % 4];
      acc += x[first + i] * ((i % 8 < 4 ? pair & 15 : pair >> 4) - zero_point);
    }
    sum = std::fma(static_cast<float>(acc), float_from_half(scale), sum);
    group += gemm_i4_head(kNr, t.affine) + (length + 7) / 8 * kNr * 4;
  }
  return sum;
}

template <int kRows>
void tile(const GemmI4Tile& t) {
  for (int row = 0; row < kRows; ++row)
    for (int channel = 0; channel < t.columns; ++channel) finish(t, row, channel, dot(t, row, channel));
}

}  // namespace

constinit const GemmI4Tiles gemm_i4_scalar_4x8 = {{tile<1>, tile<2>, tile<3>, tile<4>}};

void gemm_i4_group_sums_scalar(const uint8_t* x, int64_t k, int64_t group_size, int32_t* sums) {
  for (int64_t first = 0; first < k; first += group_size) {
    int32_t sum = 0;
    for (int64_t i = first; i < std::min(k, first + group_size); ++i) sum += x[i];
    *sums++ = sum;
  }
}

}  // namespace lowbit::kernels
