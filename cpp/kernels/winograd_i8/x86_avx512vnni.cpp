// vpdpwssd on 512 bits: two products a lane.
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/winograd_i8/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {
namespace {

struct Dpwssd512 : Avx512 {
  using Words = __m512i;
  static constexpr int kWords = 32;
  using Avx512::add;

  static LOWBIT_INLINE Words widen(const uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LOWBIT_INLINE Words widen(const int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LOWBIT_INLINE void store_words(int16_t* p, Words a) { _mm512_storeu_si512(p, a); }
  static LOWBIT_INLINE Words add_words(Words a, Words b) { return _mm512_add_epi16(a, b); }
  static LOWBIT_INLINE Words subtract_words(Words a, Words b) { return _mm512_sub_epi16(a, b); }
  static LOWBIT_INLINE Words twice(Words a) { return _mm512_slli_epi16(a, 1); }
  static LOWBIT_INLINE Words fourfold(Words a) { return _mm512_slli_epi16(a, 2); }

  static LOWBIT_INLINE Int broadcast_pair(const int16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
  }
  static LOWBIT_INLINE Int dot_words(Int acc, Int x, Int w) { return _mm512_dpwssd_epi32(acc, x, w); }
  static LOWBIT_INLINE Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static LOWBIT_INLINE Int subtract(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static LOWBIT_INLINE Int shift_left(Int a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static LOWBIT_INLINE Int shift_right(Int a) {
    return _mm512_srai_epi32(a, kBits);
  }
};

}  // namespace

extern constinit const WinogradI8Kernel winograd_i8_avx512vnni_12x32 = {{"avx512vnni_winograd4x4", Isa::avx512vnni},
                                                                        12,
                                                                        32,
                                                                        1.1,
                                                                        products<Dpwssd512, 12>(),
                                                                        transform_weights<Dpwssd512>,
                                                                        transform_input<Dpwssd512>,
                                                                        transform_output<Dpwssd512>};

}  // namespace lowbit::kernels
