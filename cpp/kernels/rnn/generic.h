// The cells, and steps on codes, written once over Lanes.
#pragma once

#include "kernels/rnn/rnn.h"
#include "simd/functions.h"

namespace lowbit::kernels::rnn {
namespace {

LOWBIT_INLINE Lanes lstm_unit(const Lanes& i, const Lanes& f, const Lanes& g, const Lanes& o, Lanes& c) {
  c = fma(sigmoid(f), c, sigmoid(i) * tanh(g));
  return sigmoid(o) * tanh(c);
}

LOWBIT_INLINE Lanes gru_unit(const Lanes& r, const Lanes& z, const Lanes& xn, const Lanes& sn, const Lanes& before) {
  const Lanes fresh = tanh(fma(sigmoid(r), sn, xn));
  return fma(sigmoid(z), before - fresh, fresh);
}

void lstm_cell(const float* gates, int64_t hidden, float* c, float* h) {
  for_lanes(hidden, [&](int64_t u, auto n) {
    const float* gate = gates + u;
    Lanes state = load(c + u, n);
    const Lanes y =
        lstm_unit(load(gate, n), load(gate + hidden, n), load(gate + 2 * hidden, n), load(gate + 3 * hidden, n), state);
    store(c + u, state, n);
    store(h + u, y, n);
  });
}

void gru_cell(const float* x, const float* s, const float* before, int64_t hidden, float* h) {
  for_lanes(hidden, [&](int64_t u, auto n) {
    const Lanes r = load(x + u, n) + load(s + u, n), z = load(x + hidden + u, n) + load(s + hidden + u, n);
    store(h + u, gru_unit(r, z, load(x + 2 * hidden + u, n), load(s + 2 * hidden + u, n), load(before + u, n)), n);
  });
}

RnnRow code_row(const float* h, int64_t n, int8_t* codes) {
  Lanes top = splat(0.0f), strange = top, below = top;  // x - x is 0 where x is finite
  for_lanes(n, [&](int64_t i, auto lanes) {
    const Lanes x = load(h + i, lanes);
    top = greater(top, abs(x));
    strange = strange + (x - x);
  });
  const float width = highest_lane(top) / 127.0f + sum_lanes(strange), scale = width == 0 ? 1.0f : width;
  const Lanes inverse = splat(1.0f / scale), most = splat(127.0f), least = -most;
  for_lanes(n, [&](int64_t i, auto lanes) {
    const Lanes code = round(less(most, greater(least, or_zero(load(h + i, lanes) * inverse))));
    store_signed(codes + i, code, lanes);
    below = below + greater(splat(0.0f), -code);
  });
  for (int64_t i = n; i % 4 != 0; ++i) codes[i] = 0;
  return {scale, static_cast<int32_t>(sum_lanes(below))};
}

// The state's share of sixteen units of a row, of each gate, with what it starts from.
template <int kGates>
LOWBIT_INLINE void share(const RnnStep& p, int64_t panel, int64_t row, const Lanes (&start)[kGates],
                         Lanes (&s)[kGates]) {
  const RnnWeights& weights = *p.weights;
  const int64_t quads = weights.quads(), channel = panel * kGates * kLanes;
  const int8_t *w = weights.panels.as<int8_t>() + channel * quads * 4, *codes = p.codes + row * quads * 4;
  const RnnRow& state = p.states[row];
  Sums sums[kGates];
  LOWBIT_UNROLL
  for (int g = 0; g < kGates; ++g)
    sums[g] = begin_products(weights.column_sums.as<int32_t>() + channel + g * kLanes, state.below);
  for (int64_t k = 0; k < quads; ++k, w += kGates * kLanes * 4) {
    const Quad x = load_quad(codes + 4 * k);
    LOWBIT_UNROLL
    for (int g = 0; g < kGates; ++g) sums[g] = add_products(sums[g], x, w + g * kLanes * 4);
  }
  LOWBIT_UNROLL
  for (int g = 0; g < kGates; ++g) {
    const Lanes scale = load(weights.scales.as<float>() + channel + g * kLanes);
    s[g] = fma(to_lanes(sums[g], 0) * scale, splat(state.scale), start[g]);
  }
}

// What each panel of units and each row that runs does; f(panel, row, number of units).
template <class F>
LOWBIT_INLINE void each_part(const RnnStep& p, int64_t begin, int64_t end, F f) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t panel = p.backward ? begin + end - 1 - i : i, left = p.weights->hidden - panel * kLanes;
    for (int64_t row = 0; row < p.rows; ++row) {
      if (p.lengths != nullptr && p.t >= p.lengths[row]) continue;
      left >= kLanes ? f(panel, row, Full{}) : f(panel, row, left);
    }
  }
}

void lstm_step(const RnnStep& p, int64_t begin, int64_t end) {
  const int64_t hidden = p.weights->hidden;
  each_part(p, begin, end, [&](int64_t panel, int64_t row, auto n) {
    const int64_t at = row * hidden + panel * kLanes;
    const float* x = p.x + row * 4 * hidden + panel * kLanes;
    Lanes start[4], s[4], c = load(p.c + at, n);
    LOWBIT_UNROLL
    for (int g = 0; g < 4; ++g) start[g] = load(x + g * hidden, n);
    share(p, panel, row, start, s);
    const Lanes h = lstm_unit(s[0], s[1], s[2], s[3], c);
    store(p.c + at, c, n);
    store(p.h + at, h, n);
  });
}

void gru_step(const RnnStep& p, int64_t begin, int64_t end) {
  const int64_t hidden = p.weights->hidden;
  const auto* biases = p.weights->biases.bytes() > 0 ? p.weights->biases.as<float>() : nullptr;
  each_part(p, begin, end, [&](int64_t panel, int64_t row, auto n) {
    const int64_t at = row * hidden + panel * kLanes;
    const float* x = p.x + row * 3 * hidden + panel * kLanes;
    Lanes start[3], s[3];
    LOWBIT_UNROLL
    for (int g = 0; g < 3; ++g) {
      start[g] = biases != nullptr ? load(biases + (panel * 3 + g) * kLanes) : splat(0.0f);
      if (g < 2) start[g] = start[g] + load(x + g * hidden, n);
    }
    share(p, panel, row, start, s);
    store(p.h + at, gru_unit(s[0], s[1], load(x + 2 * hidden, n), s[2], load(p.before + at, n)), n);
  });
}

void rnn_step(const RnnStep& p, int64_t begin, int64_t end) {
  each_part(p, begin, end, [&](int64_t panel, int64_t row, auto n) {
    const int64_t at = row * p.weights->hidden + panel * kLanes;
    Lanes start[1] = {load(p.x + at, n)}, s[1];
    share(p, panel, row, start, s);
    store(p.h + at, p.relu ? greater(splat(0.0f), s[0]) : tanh(s[0]), n);
  });
}

}  // namespace
}  // namespace lowbit::kernels::rnn
