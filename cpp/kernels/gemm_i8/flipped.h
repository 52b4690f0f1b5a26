// Weights for kernels that flip their signs by those of x (x86_avx2.cpp), in packed rows.
//
// Two products of |x| and a flipped weight fill 16 bits, at worst. But four fit where their weights are not all large:
// |x| <= 128, and a weight w counts as w + 1 where it is not negative, for so much it is when it is flipped, else as
// -w; what counts to 256 at most cannot leave 16 bits, for any x. Quads of k are matched so that most are in pairs for
// which this holds in all channels of a panel; the others follow alone.
#pragma once

#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::kernels {

// Packs w [n][taps][run], for rows of x of which each quad takes quad_bytes; n, taps, run and column_sums are there.
void pack_flipped(const int8_t* w, int quad_bytes, GemmI8Weights& out);

}  // namespace lowbit::kernels
