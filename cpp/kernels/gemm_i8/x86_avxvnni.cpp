// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/gemm_i8/tile.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Avx2 {
  using Operand = Int;
  static constexpr int kOperandBytes = 4;
  static constexpr int32_t kXOffset = 0;
  static constexpr bool kRowSums = false;
  static constexpr bool kTogether = false;
  static constexpr bool kStoresFloats = false;

  static LOWBIT_INLINE Operand operand(const uint8_t* x) { return broadcast_quad(x); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
};

}  // namespace

// 12 accumulators of 16 registers.
extern constinit const GemmI8Kernel gemm_i8_avxvnni_6x16 = {
    {"avxvnni_6x16", Isa::avxvnni}, 6, 16, tiles<Vnni256, 6, 2>()};

}  // namespace lowbit::kernels
