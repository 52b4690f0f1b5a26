// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile with the flags of avxvnni in cpp/isa.cmake"
#endif
#include "kernels/gemm_i4/nibbles256.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Nibbles256<Vnni256> {
  static LOWBIT_INLINE Int dot(Int acc, Int x_low, Int w_low, Int x_high, Int w_high) {
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, x_low, w_low), x_high, w_high);
  }
};

}  // namespace

constinit const GemmI4Tiles gemm_i4_avxvnni_4x16 = tiles<Vnni256, 4, 2>();

}  // namespace lowbit::kernels
