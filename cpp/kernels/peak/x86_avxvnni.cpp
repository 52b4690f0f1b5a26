// vpdpbusd on 256 bits.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile with the flags of avxvnni in cpp/isa.cmake"
#endif
#include "kernels/peak/avx2.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Avx2 {
  using Operand = Int;
  static constexpr int kDots = 10;

  static LOWBIT_INLINE Operand operand(int8_t code) { return _mm256_set1_epi8(code); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
};

}  // namespace

constinit const PeakKernel kPeakAvxVnni = peak_row<Vnni256>("avxvnni", Isa::avxvnni);

}  // namespace lowbit::kernels
