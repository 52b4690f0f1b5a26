// The cells of recurrent layers: what follows a step's matrix product, `hidden` adjacent units of one sample.
//
//   lstm  gates = [i f g o]:  c = f' * c + i' * g',  h = o' * tanh(c)          ' : sigmoid, but tanh for g
//   gru   from input x and from the state before s, each [r z n]:  r = sigmoid(xr + sr), z = sigmoid(xz + sz),
//         n = tanh(xn + r * sn),  h = n + z * (before - n)
//
// sigmoid and tanh are those of simd/functions.h; a product that is added to is one fma. Every ISA gives the same bits.
#pragma once

#include "kernels/kernel.h"

namespace lowbit::kernels {

struct RnnKernel : KernelRow {
  void (*lstm)(const float* gates, int64_t hidden, float* c, float* h);
  // before may not be h.
  void (*gru)(const float* x, const float* s, const float* before, int64_t hidden, float* h);
};
KernelTable<RnnKernel> rnn_kernels();

}  // namespace lowbit::kernels
