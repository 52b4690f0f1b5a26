// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/gemm_s8/x86_256.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Vnni256 : Codes256<kBitsOfCode> {
  using Base = Codes256<kBitsOfCode>;
  using Base::kStep;
  using typename Base::Int;
  static constexpr bool kBegins = false;

  template <int kRows, int kVectors>
  static LOWBIT_INLINE void products(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                     Int (&acc)[kRows][kVectors]) {
    for (; count > 0; --count, k += kStep, w += kVectors * 32) {
      Base::template prefetch<kRows>(w);
      if constexpr (kBitsOfCode == 8) {
        Int codes[kVectors];
        LOWBIT_UNROLL
        for (int v = 0; v < kVectors; ++v) codes[v] = Base::load(w + v * 32);
        four(x, k, codes, acc);
      } else {
        eight<0>(x, k, w, acc);
        if constexpr (kBitsOfCode == 2) eight<2>(x, k + 8, w, acc);
      }
    }
  }

 private:
  template <int kPlace, int kRows, int kVectors>
  static LOWBIT_INLINE void eight(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    Int low[kVectors], high[kVectors];
    Base::template unpack<kPlace>(w, low, high);
    four(x, k, low, acc);
    four(x, k + 4, high, acc);
  }

  // In assembly, for GCC 12 copies accumulators that change twice in a loop.
  template <int kRows, int kVectors>
  static LOWBIT_INLINE void four(const uint8_t* const (&x)[kRows], int64_t k, const Int (&codes)[kVectors],
                                 Int (&acc)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Int quad = Base::broadcast_quad(x[r] + k);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v)
        asm("%{vex%} vpdpbusd %1, %2, %0" : "+x"(acc[r][v]) : "x"(quad), "x"(codes[v]));
    }
  }
};

template <int kBits>
consteval GemmS8Kernel row(const char* name) {
  return {{name, Isa::avxvnni}, 4, 16, kBits, tiles<Vnni256<kBits>, 4, 2>(), sums_of};
}

}  // namespace

extern constinit const GemmS8Kernel gemm_s8_avxvnni_i8_4x16 = row<8>("avxvnni_i8_4x16");
extern constinit const GemmS8Kernel gemm_s8_avxvnni_i4_4x16 = row<4>("avxvnni_i4_4x16");
extern constinit const GemmS8Kernel gemm_s8_avxvnni_i2_4x16 = row<2>("avxvnni_i2_4x16");

}  // namespace lowbit::kernels
