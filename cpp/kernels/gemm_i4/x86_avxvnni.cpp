// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/gemm_i4/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Nibbles256<Vnni256> {
  static LOWBIT_INLINE Int dot(Int acc, Int x_low, Int w_low, Int x_high, Int w_high) {
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, x_low, w_low), x_high, w_high);
  }
};

}  // namespace

extern constinit const GemmI4Kernel gemm_i4_avxvnni_4x16 = {
    {"avxvnni_4x16", Isa::avxvnni}, 4, 16, tiles<Vnni256, 4, 2>(), sum_groups<Vnni256>};

}  // namespace lowbit::kernels
