#include "kernels/rnn/rnn.h"

namespace lowbit::kernels {

void pack_rnn(const int8_t* w, const float* scales, const float* bias, int64_t gates, int64_t hidden, int64_t k,
              RnnWeights& out) {
  out.gates = gates, out.hidden = hidden, out.k = k;
  const int64_t channels = out.panel_count() * gates * RnnWeights::kUnits, step = gates * RnnWeights::kUnits * 4;
  out.panels = Buffer(static_cast<size_t>(channels * out.quads() * 4));
  out.scales = Buffer(static_cast<size_t>(channels) * sizeof(float));
  if (bias != nullptr) out.biases = Buffer(static_cast<size_t>(channels) * sizeof(float));
  out.column_sums = Buffer(static_cast<size_t>(channels) * sizeof(int32_t));
  for (int64_t row = 0; row < gates * hidden; ++row, w += k) {
    const int64_t unit = row % hidden, panel = unit / RnnWeights::kUnits;
    const int64_t lane = row / hidden * RnnWeights::kUnits + unit % RnnWeights::kUnits;
    const int64_t channel = panel * gates * RnnWeights::kUnits + lane;
    int8_t* to = out.panels.as<int8_t>() + panel * step * out.quads() + lane * 4;
    for (int64_t i = 0; i < k; ++i) {
      to[i / 4 * step + i % 4] = w[i];
      out.column_sums.as<int32_t>()[channel] += w[i];
    }
    out.scales.as<float>()[channel] = scales[row];
    if (bias != nullptr) out.biases.as<float>()[channel] = bias[row];
  }
}

}  // namespace lowbit::kernels
