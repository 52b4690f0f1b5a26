// Weights for kernels that multiply by vpmaddubsw, whose sums of two products saturate at 16 bits, and even add two of
// those sums in 16 bits: exact, because weights are packed so that nothing can saturate. x is multiplied as it is.
//
// A quad is four k of a panel's channels. As k may be summed in any order, quads are put into pairs. In a pair, four
// products of a channel share 16 bits; whether they fit can be said beforehand, for all x: where the positive and the
// negative weights among the four sum to at most 128 each, 255 * 128 < 2^15. Quads are matched so that this holds for
// most channels. Where it does not, what is too much of a weight is taken off and put into a rest: a quad of its own,
// for this channel alone. A window is eight adjacent quads of x, from which each channel picks the one that its rest
// belongs to; the channels' rests are gathered into as few windows as possible, and windows are paired, too.
//
// Rows of x are contiguous, [taps * run], padded to quads: those of a convolution are copied together.
#pragma once

#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::kernels {

struct GemmI8Windows {
  static constexpr int kChannels = 8, kQuads = 8;
  int8_t weights[2][kChannels][4];
  uint8_t quads[2][kChannels];  // of the window, < kQuads
  int32_t places[2];            // where they begin in a row of x, in bytes
};

// Whether weights of this shape can be packed so.
constexpr bool can_be_paired(int64_t taps, int64_t run) {
  return (taps * run + 3) / 4 >= GemmI8Windows::kQuads && taps * (run + 3) < int64_t{1} << 31;
}

// Packs w [n][taps][run]; n, taps, run and column_sums of `out` are there.
void pack_pairs(const int8_t* w, GemmI8Weights& out);

}  // namespace lowbit::kernels
