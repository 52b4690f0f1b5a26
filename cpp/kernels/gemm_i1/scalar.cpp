// The plain truth: gemm_i1.h and kernel.h as loops.
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/finish.h"
#include "kernels/gemm_i1/gemm_i1.h"

namespace lowbit::kernels {
namespace {

constexpr int kNr = 8;

uint32_t word(const uint8_t* from) {
  uint32_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

int32_t unlike(const GemmI1Tile& t, int row, int channel) {
  const uint8_t* w = t.panel + 4 * channel;
  int32_t count = 0;
  for (int64_t tap = 0; tap < t.tap_count; ++tap) {
    const uint8_t* x = t.x[row] + t.taps[tap];
    for (int64_t i = 0; i < t.run; ++i, x += kSignBytes, w += 4 * kNr)
      count += std::popcount(word(x) ^ (word(w) & word(x + 4)));
  }
  return count;
}

template <int kRows>
void tile(const GemmI1Tile& t) {
  for (int row = 0; row < kRows; ++row)
    for (int channel = 0; channel < t.columns; ++channel)
      finish(t, row, channel, static_cast<float>(t.nonzero[row] - 2 * unlike(t, row, channel)));
}

void signs(const float* x, int64_t count, int zero, uint8_t* words) {
  for (int64_t k = 0; k < count; k += kSigns) {
    uint32_t positive = 0, nonzero = 0;
    for (int64_t i = 0; i < kSigns && k + i < count; ++i) {
      const float number = x[k + i];
      positive |= uint32_t{number > 0 || (zero > 0 && number == 0)} << i;
      nonzero |= uint32_t{zero != 0 || number > 0 || number < 0} << i;
    }
    std::memcpy(words + k / kSigns * kSignBytes, &positive, sizeof positive);
    std::memcpy(words + k / kSigns * kSignBytes + 4, &nonzero, sizeof nonzero);
  }
}

}  // namespace

extern constinit const GemmI1Kernel gemm_i1_scalar = {
    {"scalar_4x8", Isa::scalar}, 4, kNr, {{tile<1>, tile<2>, tile<3>, tile<4>}}, signs};

}  // namespace lowbit::kernels
