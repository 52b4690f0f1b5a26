// The cells of recurrent layers: what follows a step's matrix product, `hidden` adjacent units of one sample.
//
//   lstm  gates = [i f g o]:  c = f' * c + i' * g',  h = o' * tanh(c)          ' : sigmoid, but tanh for g
//   gru   from input x and from the state before s, each [r z n]:  r = sigmoid(xr + sr), z = sigmoid(xz + sz),
//         n = tanh(xn + r * sn),  h = n + z * (before - n)
//   rnn   h = tanh(x + s), or relu
//
// sigmoid and tanh are those of simd/functions.h; a product that is added to is one fma. Every ISA gives the same bits.
//
// Or whole steps on codes: weights of 8 bits, a scale a channel; states of 8 bits, a scale a row, found at each step:
//   scale = max |h| / 127 (1 where that is 0, NaN where it is no finite number),  code = rne(h * (1 / scale))
//   s[r, c] = fma(float(sum over k of code[r, k] * w[c, k]) * w_scale[c], scale[r], start)
// where start is the input's share x, and of a gru the bias. A step reads its weights once, at the speed of the cache;
// the cells are computed beside that, as soon as the sums of sixteen units are there.
#pragma once

#include "base/buffer.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

// Weights of `gates` gates of `hidden` units each: [units, in panels of 16][ceil(k / 4)][gates][16][4], zero where
// padded; what there is for each channel is [units, in panels of 16][gates][16].
struct RnnWeights {
  static constexpr int64_t kUnits = 16;
  int64_t gates = 0, hidden = 0, k = 0;
  Buffer panels;       // int8_t
  Buffer scales;       // float
  Buffer biases;       // float, or empty: none
  Buffer column_sums;  // int32_t

  int64_t quads() const { return (k + 3) / 4; }
  int64_t panel_count() const { return (hidden + kUnits - 1) / kUnits; }
  size_t bytes() const { return panels.bytes() + scales.bytes() + biases.bytes() + column_sums.bytes(); }
};
// w [gates * hidden][k], scales and bias (or null) of each row.
void pack_rnn(const int8_t* w, const float* scales, const float* bias, int64_t gates, int64_t hidden, int64_t k,
              RnnWeights& out);

// What is found of a row of states, beside its codes.
struct RnnRow {
  float scale;
  int32_t below;  // the magnitudes of its negative codes
};

struct RnnStep {
  const RnnWeights* weights = nullptr;
  int64_t rows = 0;
  const int8_t* codes = nullptr;     // [rows][4 * quads]
  const RnnRow* states = nullptr;    // [rows]
  const float* x = nullptr;          // [rows][gates * hidden]
  const float* before = nullptr;     // [rows][hidden], gru
  float* c = nullptr;                // [rows][hidden], lstm
  float* h = nullptr;                // [rows][hidden]; may not be `before`
  const int64_t* lengths = nullptr;  // [rows]; samples that end at step t or before are left alone; null: none does
  int64_t t = 0;
  bool relu = false;      // rnn
  bool backward = false;  // begins with the last panel: what was read last is read first
};

struct RnnKernel : KernelRow {
  void (*lstm)(const float* gates, int64_t hidden, float* c, float* h);
  // before may not be h.
  void (*gru)(const float* x, const float* s, const float* before, int64_t hidden, float* h);
  // Codes of a row h [n], padded to whole quads.
  RnnRow (*code)(const float* h, int64_t n, int8_t* codes);
  // The panels of units from `begin` to `end`, by the number of gates.
  void (*lstm_step)(const RnnStep&, int64_t begin, int64_t end);
  void (*gru_step)(const RnnStep&, int64_t begin, int64_t end);
  void (*rnn_step)(const RnnStep&, int64_t begin, int64_t end);

  void step(const RnnStep& args, int64_t begin, int64_t end) const {
    (args.weights->gates == 4 ? lstm_step : args.weights->gates == 3 ? gru_step : rnn_step)(args, begin, end);
  }
};
KernelTable<RnnKernel> rnn_kernels();

}  // namespace lowbit::kernels
