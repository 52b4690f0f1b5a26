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

template <class T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <int kBits>
float dot(const GemmI4Tile& t, int row, int channel) {
  constexpr int64_t kStep = gemm_i4_step(kBits);
  const uint8_t* x = t.x[row];
  float sum = -static_cast<float>(t.zero_points[row]) * t.offsets[channel];
  int32_t acc = 0, of_x = 0;
  const uint8_t *head = nullptr, *w = t.panel;
  const bool offsets = t.kind >= GemmI4Kind::half_offsets, wide = t.kind == GemmI4Kind::float_offsets;
  const auto number = [&](int64_t place) {  // of what stands before a group's codes
    if (wide) return load<float>(head + 4 * place);
    return float_from_half(load<uint16_t>(head + 2 * place));
  };
  each_part(t.depth, [&](int64_t group, int64_t tap, int64_t k, int64_t length) {
    const uint8_t* part = x + t.depth.taps[tap] + k - tap * t.depth.run;
    if (k == group * t.depth.group_size) head = w, w += gemm_i4_head(kNr, t.kind), acc = of_x = 0;
    const int middle = offsets ? 0 : middle_code(kBits);
    const int zero_point = t.kind == GemmI4Kind::zero_points ? head[2 * kNr + channel] : middle;
    for (int64_t i = 0; i < length; ++i) {
      const int codes = w[(i / kStep * kNr + channel) * 4 + i % 4];
      acc += part[i] * ((codes >> (i % kStep / 4 * kBits) & highest_code(kBits)) - zero_point);
      of_x += part[i];
    }
    w += (length + kStep - 1) / kStep * kNr * 4;
    if (k + length != std::min(t.depth.k, (group + 1) * t.depth.group_size)) return;
    sum = std::fma(static_cast<float>(acc), number(channel), sum);
    if (offsets) sum = std::fma(static_cast<float>(of_x), number(kNr + channel), sum);
  });
  return sum;
}

template <int kBits, int kRows>
void tile(const GemmI4Tile& first) {
  GemmI4Tile t = first;
  for (int64_t left = first.panels; left > 0; --left, t.next_panel(kNr))
    for (int row = 0; row < kRows; ++row)
      for (int channel = 0; channel < t.columns; ++channel) finish(t, row, channel, dot<kBits>(t, row, channel));
}

// The sums above need none.
void group_sums(const uint8_t*, const GemmI4Depth&, bool, int32_t*) {}

}  // namespace

extern constinit const GemmI4Kernel gemm_i4_scalar = {
    {"scalar_4x8", Isa::scalar}, 4, kNr, 4, {{tile<4, 1>, tile<4, 2>, tile<4, 3>, tile<4, 4>}}, group_sums};
extern constinit const GemmI4Kernel gemm_i2_scalar = {
    {"scalar_4x8", Isa::scalar}, 4, kNr, 2, {{tile<2, 1>, tile<2, 2>, tile<2, 3>, tile<2, 4>}}, group_sums};

}  // namespace lowbit::kernels
