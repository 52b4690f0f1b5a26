// The plain truth: gemm_s8.h and kernel.h as loops.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "kernels/finish.h"
#include "kernels/gemm_s8/gemm_s8.h"

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
float dot(const GemmS8Tile& t, int row, int channel) {
  constexpr int64_t kStep = gemm_i4_step(kBits);
  const auto* x = reinterpret_cast<const int8_t*>(t.x[row]);
  const uint8_t *head = nullptr, *w = t.panel;
  const bool wide = t.kind == GemmI4Kind::float_offsets, offsets = t.kind >= GemmI4Kind::half_offsets;
  const auto number = [&](int64_t place) {  // of what stands before a group's codes
    return wide ? load<float>(head + 4 * place) : float_from_half(load<uint16_t>(head + 2 * place));
  };
  float total = 0;
  for (int64_t k = 0, group = 0; k < t.k; ++group) {
    if (k % t.group_size == 0) head = w, w += gemm_i4_head(kNr, t.kind);
    const int64_t length = std::min(t.x_group, t.k - k);
    const int middle = offsets && kBits < 8 ? 0 : middle_code(kBits);
    const int zero_point = t.kind == GemmI4Kind::zero_points ? head[2 * kNr + channel] : middle;
    int32_t acc = 0, of_x = 0;
    for (int64_t i = 0; i < length; ++i) {
      const int codes = w[(i / kStep * kNr + channel) * 4 + i % 4];
      acc += x[k + i] * ((codes >> (i % kStep / 4 * kBits) & highest_code(kBits)) - zero_point);
      of_x += x[k + i];
    }
    w += (length + kStep - 1) / kStep * kNr * 4;
    k += length;
    const float scale = t.scales[row][group], sum = static_cast<float>(acc);
    total =
        t.kind == GemmI4Kind::no_scales ? std::fma(sum, scale, total) : std::fma(sum * scale, number(channel), total);
    if (offsets) total = std::fma(static_cast<float>(of_x) * scale, number(kNr + channel), total);
  }
  return total;
}

template <int kBits, int kRows>
void tile(const GemmS8Tile& first) {
  GemmS8Tile t = first;
  for (int64_t left = first.panels; left > 0; --left, t.next_panel(kNr))
    for (int row = 0; row < kRows; ++row)
      for (int channel = 0; channel < t.columns; ++channel) finish(t, row, channel, dot<kBits>(t, row, channel));
}

void sums_of(const uint8_t* x, int64_t k, int64_t x_group, int32_t* sums) {
  const auto* codes = reinterpret_cast<const int8_t*>(x);
  for (int64_t first = 0; first < k; first += x_group, ++sums) {
    *sums = 0;
    for (int64_t i = first; i < std::min(k, first + x_group); ++i) *sums += codes[i];
  }
}

template <int kBits>
consteval GemmS8Kernel row(const char* name) {
  return {
      {name, Isa::scalar}, 4, kNr, kBits, {{tile<kBits, 1>, tile<kBits, 2>, tile<kBits, 3>, tile<kBits, 4>}}, sums_of};
}

}  // namespace

extern constinit const GemmS8Kernel gemm_s8_scalar_i8 = row<8>("scalar_i8_4x8");
extern constinit const GemmS8Kernel gemm_s8_scalar_i4 = row<4>("scalar_i4_4x8");
extern constinit const GemmS8Kernel gemm_s8_scalar_i2 = row<2>("scalar_i2_4x8");

}  // namespace lowbit::kernels
