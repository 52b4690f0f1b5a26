// vpdpbusd on 256 bits.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this with the features of avxvnni in base/cpu.h"
#endif
#include "kernels/peak/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Loops256 {
  using Operand = Int;
  static constexpr int kDots = 10;

  static LOWBIT_INLINE Operand operand(int8_t code) { return _mm256_set1_epi8(code); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
};

}  // namespace

extern constinit const PeakKernel peak_avxvnni = peak_row<Vnni256>(Isa::avxvnni);

}  // namespace lowbit::kernels
