// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/gemm_i4/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Nibbles256 {
  static constexpr bool kComplements = false;

  // In assembly, for GCC 12 copies accumulators that change twice in a loop.
  static LOWBIT_INLINE void dot(Int& acc, Int x, Int w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
  }

  template <bool, int kRows, int kVectors>
  static LOWBIT_INLINE void steps(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    for (; count > 0; --count, k += 8, w += kVectors * 32) {
      prefetch<kRows>(w);
      Int low[kVectors], high[kVectors];
      unpack(w, low, high);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Int x_low = broadcast_quad(x[r] + k), x_high = broadcast_quad(x[r] + k + 4);
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          dot(acc[r][v], x_low, low[v]);
          dot(acc[r][v], x_high, high[v]);
        }
      }
    }
  }
};

}  // namespace

extern constinit const GemmI4Kernel gemm_i4_avxvnni_4x16 = {
    {"avxvnni_4x16", Isa::avxvnni}, 4, 16, tiles<Vnni256, 4, 2>(), sum_groups<Vnni256>};

}  // namespace lowbit::kernels
