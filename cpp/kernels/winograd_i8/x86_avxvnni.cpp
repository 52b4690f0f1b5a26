// vpdpwssd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/winograd_i8/tile.h"
#include "kernels/winograd_i8/words256.h"

namespace lowbit::kernels {
namespace {

struct Dpwssd256 : Words256 {
  static LOWBIT_INLINE Int dot_words(Int acc, Int x, Int w) { return _mm256_dpwssd_avx_epi32(acc, x, w); }
};

}  // namespace

extern constinit const WinogradI8Kernel winograd_i8_avxvnni_6x16 = {{"avxvnni_winograd4x4", Isa::avxvnni},
                                                                    6,
                                                                    16,
                                                                    0.6,
                                                                    products<Dpwssd256, 6>(),
                                                                    transform_weights<Dpwssd256>,
                                                                    transform_input<Dpwssd256>,
                                                                    transform_output<Dpwssd256>};

}  // namespace lowbit::kernels
