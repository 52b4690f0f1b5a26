// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/spmm_i8/tile.h"
#include "kernels/spmm_i8/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Planes256 {
  static constexpr bool kPairs = false;
  // In assembly, for GCC 12 copies and spills the sums of _mm256_dpbusd_avx_epi32.
  static LOWBIT_INLINE Int dot(Int acc, Int x, Int w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
    return acc;
  }
};

}  // namespace

extern constinit const SpmmI8Kernel spmm_i8_avxvnni_4x4 = {{"avxvnni_sparse4x4", Isa::avxvnni}, 4, 3, 1.1, false,
                                                           tiles<Vnni256, 4, 1, 2, 3>()};
extern constinit const SpmmI8Kernel spmm_i8_avxvnni_1x4 = {{"avxvnni_sparse1x4", Isa::avxvnni}, 1, 3, 2.7, false,
                                                           tiles<Vnni256, 1, 1, 2, 3>()};

}  // namespace lowbit::kernels
