// The cells, written once over Lanes.
#pragma once

#include "kernels/rnn/rnn.h"
#include "simd/functions.h"

namespace lowbit::kernels::rnn {
namespace {

void lstm_cell(const float* gates, int64_t hidden, float* c, float* h) {
  for_lanes(hidden, [&](int64_t u, auto n) {
    const float* gate = gates + u;
    const Lanes i = sigmoid(load(gate, n)), f = sigmoid(load(gate + hidden, n));
    const Lanes g = tanh(load(gate + 2 * hidden, n)), o = sigmoid(load(gate + 3 * hidden, n));
    const Lanes state = fma(f, load(c + u, n), i * g);
    store(c + u, state, n);
    store(h + u, o * tanh(state), n);
  });
}

void gru_cell(const float* x, const float* s, const float* before, int64_t hidden, float* h) {
  for_lanes(hidden, [&](int64_t u, auto n) {
    const Lanes r = sigmoid(load(x + u, n) + load(s + u, n));
    const Lanes z = sigmoid(load(x + hidden + u, n) + load(s + hidden + u, n));
    const Lanes fresh = tanh(fma(r, load(s + 2 * hidden + u, n), load(x + 2 * hidden + u, n)));
    store(h + u, fma(z, load(before + u, n) - fresh, fresh), n);
  });
}

}  // namespace
}  // namespace lowbit::kernels::rnn
