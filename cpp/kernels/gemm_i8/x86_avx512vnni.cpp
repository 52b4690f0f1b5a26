// vpdpbusd on 512 bits: u8 x s8, four products a lane, exact (it does not saturate).
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/gemm_i8/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {
namespace {

struct Vnni512 : Avx512 {
  using Operand = Int;
  static constexpr int kOperandBytes = 4;
  static constexpr int32_t kXOffset = 0;
  static constexpr bool kRowSums = false;
  static constexpr bool kTogether = false;
  static constexpr bool kStoresFloats = true;

  static LOWBIT_INLINE Operand operand(const uint8_t* x) {
    int32_t quad;
    __builtin_memcpy(&quad, x, 4);
    return _mm512_set1_epi32(quad);
  }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return _mm512_dpbusd_epi32(acc, x, w); }
};

}  // namespace

// 24 accumulators of 32 registers, as many as leave room for weights and a row. 12x32 reads least per product: for few
// rows and many weights. No faster on Zen 4: to prefetch the outputs or the next panel, or one list of offsets for all
// taps.
extern constinit const GemmI8Kernel gemm_i8_avx512vnni_12x32 = {
    {"avx512vnni_12x32", Isa::avx512vnni}, 12, 32, tiles<Vnni512, 12, 2>()};
// With 12 rows, addresses spill; and the end of a small tile overlaps with the next one's begin.
extern constinit const GemmI8Kernel gemm_i8_avx512vnni_8x32 = {
    {"avx512vnni_8x32", Isa::avx512vnni}, 8, 32, tiles<Vnni512, 8, 2>()};
// N = 64 in one panel: x is read once. Also the widest stream of weights for few rows.
extern constinit const GemmI8Kernel gemm_i8_avx512vnni_6x64 = {
    {"avx512vnni_6x64", Isa::avx512vnni}, 6, 64, tiles<Vnni512, 6, 4>()};
// 48, 96, 144 channels without waste.
extern constinit const GemmI8Kernel gemm_i8_avx512vnni_8x48 = {
    {"avx512vnni_8x48", Isa::avx512vnni}, 8, 48, tiles<Vnni512, 8, 3>()};
// Few channels.
extern constinit const GemmI8Kernel gemm_i8_avx512vnni_8x16 = {
    {"avx512vnni_8x16", Isa::avx512vnni}, 8, 16, tiles<Vnni512, 8, 1>()};

}  // namespace lowbit::kernels
