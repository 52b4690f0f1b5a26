// vpdpbusd on 512 bits: u8 x s8, four products a lane, exact (it does not saturate).
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile with the flags of avx512vnni in cpp/isa.cmake"
#endif
#include "kernels/avx512.h"
#include "kernels/gemm_i8/tile.h"

namespace lowbit::kernels {
namespace {

struct Vnni512 : Avx512 {
  using Operand = Int;
  static constexpr int kOperandBytes = 4;
  static constexpr int32_t kXOffset = 0;
  static constexpr bool kRowSums = false;

  static LOWBIT_INLINE Operand operand(const uint8_t* x) {
    int32_t quad;
    __builtin_memcpy(&quad, x, 4);
    return _mm512_set1_epi32(quad);
  }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return _mm512_dpbusd_epi32(acc, x, w); }
};

}  // namespace

constinit const GemmI8Tiles gemm_i8_avx512vnni_12x32 = tiles<Vnni512, 12, 2>();
constinit const GemmI8Tiles gemm_i8_avx512vnni_6x64 = tiles<Vnni512, 6, 4>();
constinit const GemmI8Tiles gemm_i8_avx512vnni_8x48 = tiles<Vnni512, 8, 3>();
constinit const GemmI8Tiles gemm_i8_avx512vnni_8x16 = tiles<Vnni512, 8, 1>();

}  // namespace lowbit::kernels
