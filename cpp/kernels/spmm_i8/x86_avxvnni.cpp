// vpdpbusd on 256 bits, for CPUs that have it without AVX-512.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile with the flags of avxvnni in cpp/isa.cmake"
#endif
#include "kernels/spmm_i8/planes256.h"
#include "kernels/spmm_i8/tile.h"

namespace lowbit::kernels {
namespace {

struct Vnni256 : Planes256 {
  using Operand = Int;
  static constexpr int32_t kXOffset = 0;

  static LOWBIT_INLINE Int shifted(Int codes) { return codes; }
  static LOWBIT_INLINE Operand operand(const uint8_t* plane) { return load(plane); }
  static LOWBIT_INLINE Operand shifted_operand(Int codes) { return codes; }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
};

}  // namespace

constinit const SpmmI8Tiles spmm_i8_avxvnni_1x4 = tiles<Vnni256, 1, 1, 2, 3>();
constinit const SpmmI8Tiles spmm_i8_avxvnni_4x4 = tiles<Vnni256, 4, 1, 2, 3>();

}  // namespace lowbit::kernels
