// vpdpbusd on 512 bits: a code, which is not negative, times s8.
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/gemm_s8/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Codes512 : Avx512 {
  static constexpr int kBits = kBitsOfCode;
  static constexpr bool kBegins = false;
  static constexpr int kHeld = 12;

  static LOWBIT_INLINE Float half(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LOWBIT_INLINE Int bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  template <int kRows, int kVectors>
  static LOWBIT_INLINE void products(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                     Int (&acc)[kRows][kVectors]) {
    for (; count > 0; --count, k += gemm_i4_step(kBits), w += kVectors * 64) step(x, k, w, acc);
  }

 private:
  template <int kRows, int kVectors>
  static LOWBIT_INLINE void step(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                 Int (&acc)[kRows][kVectors]) {
    if constexpr (kRows <= kStreaming) {
      Int packed[kVectors];
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        packed[v] = load(w + v * 64);
        asm("" : "+v"(packed[v]));  // or the compiler would load them for each place
      }
      places(x, k, packed, acc);
    } else {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(w + v * 64 + kPrefetchBytes);
      places(x, k, reinterpret_cast<const __m512i_u*>(w), acc);
    }
  }

  template <class Packed, int kRows, int kVectors>
  static LOWBIT_INLINE void places(const uint8_t* const (&x)[kRows], int64_t k, const Packed& packed,
                                   Int (&acc)[kRows][kVectors]) {
    four<0>(x, k, packed, acc);
    if constexpr (kBits < 8) four<1>(x, k + 4, packed, acc);
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
    for (int v = 0; v < kVectors; ++v) {
      weights[v] = packed[v];
      if constexpr (kPlace > 0) weights[v] = _mm512_srli_epi16(weights[v], kPlace * kBits);
      if constexpr (kBits < 8) weights[v] = _mm512_and_si512(weights[v], _mm512_set1_epi8(highest_code(kBits)));
    }
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      int32_t quad;
      __builtin_memcpy(&quad, x[r] + k, 4);
      const Int operand = broadcast(quad);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) asm("vpdpbusd %1, %2, %0" : "+v"(acc[r][v]) : "v"(operand), "v"(weights[v]));
    }
  }
};

// The sum of 64 codes in sixteen parts.
LOWBIT_INLINE __m512i parts_of(__m512i x) {
  return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), x);
}

void sums_of(const uint8_t* x, int64_t k, int64_t x_group, int32_t* sums) {
  for (int64_t first = 0; first < k; first += x_group, ++sums) {
    const int64_t end = first + x_group < k ? first + x_group : k;
    __m512i parts = _mm512_setzero_si512();
    for (int64_t i = first; i < end; i += 64) {
      const __mmask64 mask = end - i >= 64 ? ~0ull : ~0ull >> (64 - (end - i));
      parts = _mm512_add_epi32(parts, parts_of(_mm512_maskz_loadu_epi8(mask, x + i)));
    }
    *sums = _mm512_reduce_add_epi32(parts);
  }
}

template <int kBits, int kRows>
consteval GemmS8Kernel row(const char* name) {
  return {{name, Isa::avx512vnni}, kRows, 64, kBits, tiles<Codes512<kBits>, kRows, 4>(), sums_of};
}

}  // namespace

// Three rows, whose floats stay in registers, are 4 to 9 % faster on Zen 4 than six with theirs in L1: 72 % of its
// peak, of which scales leave 80 %. Six rows of half as many channels are slower, for what they read is not adjacent.
// Of codes of eight bits three rows would need more than L2 gives.
extern constinit const GemmS8Kernel gemm_s8_avx512vnni_i8_6x64 = row<8, 6>("avx512vnni_i8_6x64");
extern constinit const GemmS8Kernel gemm_s8_avx512vnni_i4_3x64 = row<4, 3>("avx512vnni_i4_3x64");
extern constinit const GemmS8Kernel gemm_s8_avx512vnni_i2_3x64 = row<2, 3>("avx512vnni_i2_3x64");

}  // namespace lowbit::kernels
