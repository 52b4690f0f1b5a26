// vpdpbusd on 512 bits: u8 times a code of four or two bits, which is a non-negative s8.
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/gemm_i4/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Codes512 : Avx512 {
  static constexpr int kBits = kBitsOfCode;
  static constexpr bool kComplements = false;

  static LOWBIT_INLINE Float half(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LOWBIT_INLINE Int bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  static LOWBIT_INLINE int32_t sum(const uint8_t* x, int64_t count) {
    Int sums = _mm512_setzero_si512();
    for (; count > 0; x += 64, count -= 64) {
      const __mmask64 mask = count >= 64 ? ~0ull : ~0ull >> (64 - count);
      sums = _mm512_add_epi64(sums, _mm512_sad_epu8(_mm512_maskz_loadu_epi8(mask, x), _mm512_setzero_si512()));
    }
    return static_cast<int32_t>(_mm512_reduce_add_epi64(sums));
  }

  template <bool, int kRows, int kVectors>
  static LOWBIT_INLINE void steps(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    for (; count > 0; --count, k += gemm_i4_step(kBits), w += kVectors * 64) step(x, k, w, acc);
  }

 private:
  template <int kRows, int kVectors>
  static LOWBIT_INLINE void step(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                 Int (&acc)[kRows][kVectors]) {
    if constexpr (kRows <= kStreaming) {
      Int pairs[kVectors];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        pairs[v] = load(w + v * 64);
        asm("" : "+v"(pairs[v]));  // or the compiler would load them for each half
      }
      fours(x, k, pairs, acc);
    } else {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(w + v * 64 + kPrefetchBytes);
      fours(x, k, reinterpret_cast<const __m512i_u*>(w), acc);
    }
  }

  template <class Packed, int kRows, int kVectors>
  static LOWBIT_INLINE void fours(const uint8_t* const (&x)[kRows], int64_t k, const Packed& packed,
                                  Int (&acc)[kRows][kVectors]) {
    four<0>(x, k, packed, acc);
    four<1>(x, k + 4, packed, acc);
    if constexpr (kBits == 2) {
      four<2>(x, k + 8, packed, acc);
      four<3>(x, k + 12, packed, acc);
    }
  }

  // Few rows stream the weights as fast as they come, which on Zen 4 is a quarter slower with prefetches of one's own.
  static constexpr int kStreaming = 4;
  static constexpr int64_t kPrefetchBytes = 2048;

  // Four k, at one place of each byte of `packed`, an array of vectors. Four vectors of weights at a time are all that
  // fit beside 24 accumulators. As an intrinsic, GCC 12 would copy accumulators that change twice in a loop through
  // memory, three times slower.
  template <int kPlace, class Packed, int kRows, int kVectors>
  static LOWBIT_INLINE void four(const uint8_t* const (&x)[kRows], int64_t k, const Packed& packed,
                                 Int (&acc)[kRows][kVectors]) {
    Int weights[kVectors];
    LOWBIT_UNROLL
    for (int v = 0; v < kVectors; ++v)
      weights[v] = _mm512_and_si512(kPlace == 0 ? Int(packed[v]) : _mm512_srli_epi16(packed[v], kPlace * kBits),
                                    _mm512_set1_epi8(highest_code(kBits)));
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      int32_t quad;
      __builtin_memcpy(&quad, x[r] + k, 4);
      const Int operand = broadcast(quad);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) asm("vpdpbusd %2, %1, %0" : "+v"(acc[r][v]) : "v"(operand), "v"(weights[v]));
    }
  }
};

}  // namespace

extern constinit const GemmI4Kernel gemm_i4_avx512vnni_6x64 = {
    {"avx512vnni_6x64", Isa::avx512vnni}, 6, 64, 4, tiles<Codes512<4>, 6, 4>(), sum_groups<Codes512<4>>};
extern constinit const GemmI4Kernel gemm_i2_avx512vnni_6x64 = {
    {"avx512vnni_6x64", Isa::avx512vnni}, 6, 64, 2, tiles<Codes512<2>, 6, 4>(), sum_groups<Codes512<2>>};

}  // namespace lowbit::kernels
