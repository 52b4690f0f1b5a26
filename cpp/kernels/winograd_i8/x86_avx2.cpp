// vpmaddwd on 256 bits: as many products an instruction as vpmaddubsw and vpmaddwd come to, but no code saturates.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/winograd_i8/tile.h"
#include "kernels/winograd_i8/words256.h"

namespace lowbit::kernels {
namespace {

struct Madd256 : Words256 {
  static LOWBIT_INLINE Int dot_words(Int acc, Int x, Int w) { return add(acc, _mm256_madd_epi16(x, w)); }
};

}  // namespace

// 12 accumulators of 16 registers, two of weights, one of codes, one of products.
extern constinit const WinogradI8Kernel winograd_i8_avx2_6x16 = {{"avx2_winograd4x4", Isa::avx2},
                                                                 6,
                                                                 16,
                                                                 0.6,
                                                                 products<Madd256, 6>(),
                                                                 transform_weights<Madd256>,
                                                                 transform_input<Madd256>,
                                                                 transform_output<Madd256>};

}  // namespace lowbit::kernels
