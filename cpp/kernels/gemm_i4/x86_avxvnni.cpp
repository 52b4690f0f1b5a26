// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/gemm_i4/x86_256.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Vnni256 : Codes256<kBitsOfCode> {
  using Base = Codes256<kBitsOfCode>;
  using typename Base::Int;
  static constexpr bool kComplements = false;

  // In assembly, for GCC 12 copies accumulators that change twice in a loop.
  static LOWBIT_INLINE void dot(Int& acc, Int x, Int w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
  }

  template <bool, int kRows, int kVectors>
  static LOWBIT_INLINE void steps(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    for (; count > 0; --count, k += gemm_i4_step(kBitsOfCode), w += kVectors * 32) {
      Base::template prefetch<kRows>(w);
      eight<0>(x, k, w, acc);
      if constexpr (kBitsOfCode == 2) eight<1>(x, k + 8, w, acc);
    }
  }

 private:
  template <int kPair, int kRows, int kVectors>
  static LOWBIT_INLINE void eight(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    Int low[kVectors], high[kVectors];
    Base::template unpack<kPair>(w, low, high);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Int x_low = Base::broadcast_quad(x[r] + k), x_high = Base::broadcast_quad(x[r] + k + 4);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        dot(acc[r][v], x_low, low[v]);
        dot(acc[r][v], x_high, high[v]);
      }
    }
  }
};

}  // namespace

extern constinit const GemmI4Kernel gemm_i4_avxvnni_4x16 = {
    {"avxvnni_4x16", Isa::avxvnni}, 4, 16, 4, tiles<Vnni256<4>, 4, 2>(), sum_groups<Vnni256<4>>};
extern constinit const GemmI4Kernel gemm_i2_avxvnni_4x16 = {
    {"avxvnni_4x16", Isa::avxvnni}, 4, 16, 2, tiles<Vnni256<2>, 4, 2>(), sum_groups<Vnni256<2>>};

}  // namespace lowbit::kernels
