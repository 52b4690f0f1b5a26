// u8 times a code by vpmaddubsw: two products are at most 2 * 255 * 15 = 7,650, or 2 * 255 * 3 = 1,530, so that 16 bits
// hold the sum of four such pairs, or of 21. Half of the codes are complements, whose pairs are subtracted, so that
// they hold twice as many, and each vpmaddwd serves 32 k, or 128; what complements lack is 2^bits - 1 times a sum of x,
// found once a row.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/gemm_i4/x86_256.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Maddubs256 : Codes256<kBitsOfCode> {
  using Base = Codes256<kBitsOfCode>;
  using typename Base::Int;
  static constexpr bool kComplements = true;
  static constexpr int kStep = gemm_i4_step(kBitsOfCode);
  static constexpr int kMost = kBitsOfCode == 4 ? 32 : 128;  // k whose sums 16 bits hold
  static constexpr int kChain = kBitsOfCode == 4 ? kMost : 0;

  template <bool kBegin, int kRows, int kVectors>
  static LOWBIT_INLINE void steps(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    constexpr int64_t kSteps = kMost / kStep, kBytes = kVectors * 32;
    if constexpr (kChain == 0) {  // one loop, for the code of more would be larger than L1 likes
      if (kBegin) clear(acc);
      for (int64_t now; count > 0; count -= now, k += now * kStep, w += now * kBytes) {
        now = count < kSteps ? count : kSteps;
        short_chain<false>(x, k, now, w, acc);
      }
    } else {
      const int64_t end = k + kStep * count;
      if (kBegin && count < kSteps) {
        chain_of<1, true>(x, k, w, acc);
        k += kStep, w += kBytes;
      } else if (kBegin) {
        chain_of<kSteps, true>(x, k, w, acc);
        k += kMost, w += kSteps * kBytes;
      }
      for (; k + kMost <= end; k += kMost, w += kSteps * kBytes) chain_of<kSteps, false>(x, k, w, acc);
      for (; k < end; k += kStep, w += kBytes) chain_of<1, false>(x, k, w, acc);
    }
  }

  template <int kRows, int kVectors>
  static LOWBIT_INLINE void chain(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    chain_of<kMost / kStep, true>(x, k, w, acc);
  }
  template <int kRows, int kVectors>
  static LOWBIT_INLINE void add_chain(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                      Int (&acc)[kRows][kVectors]) {
    chain_of<kMost / kStep, false>(x, k, w, acc);
  }

 private:
  template <int kRows, int kVectors>
  static LOWBIT_INLINE void clear(Int (&acc)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm256_setzero_si256();
    }
  }

  template <int kSteps, bool kBegin, int kRows, int kVectors>
  static LOWBIT_INLINE void chain_of(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                     Int (&acc)[kRows][kVectors]) {
    Int sums[kRows][kVectors];
    step<true>(x, k, w, sums);
    LOWBIT_UNROLL
    for (int i = 1; i < kSteps; ++i) step<false>(x, k + kStep * i, w + i * kVectors * 32, sums);
    finish<kBegin>(sums, acc);
  }

  template <bool kBegin, int kRows, int kVectors>
  static LOWBIT_INLINE void short_chain(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                        Int (&acc)[kRows][kVectors]) {
    Int sums[kRows][kVectors];
    step<true>(x, k, w, sums);
    for (; --count > 0;) {
      k += kStep, w += kVectors * 32;
      step<false>(x, k, w, sums);
    }
    finish<kBegin>(sums, acc);
  }

  template <bool kBegin, int kRows, int kVectors>
  static LOWBIT_INLINE void finish(const Int (&sums)[kRows][kVectors], Int (&acc)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const Int pairs = _mm256_madd_epi16(sums[r][v], _mm256_set1_epi16(1));
        acc[r][v] = kBegin ? pairs : _mm256_add_epi32(acc[r][v], pairs);
      }
    }
  }

  template <bool kFirst, int kRows, int kVectors>
  static LOWBIT_INLINE void step(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                 Int (&sums)[kRows][kVectors]) {
    Base::template prefetch<kRows>(w);
    add_pairs<0, kFirst>(x, k, w, sums);
    if constexpr (kStep > 8) add_pairs<1, false>(x, k + 8, w, sums);
  }

  // In this order, for the compiler would rather sum products by pairs, and lack registers for them.
  template <int kPair, bool kFirst, int kRows, int kVectors>
  static LOWBIT_INLINE void add_pairs(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                      Int (&sums)[kRows][kVectors]) {
    Int low[kVectors], high[kVectors];
    Base::template unpack<kPair>(w, low, high);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Int x_low = Base::broadcast_quad(x[r] + k), x_high = Base::broadcast_quad(x[r] + k + 4);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const Int pairs = _mm256_maddubs_epi16(x_low, low[v]);
        sums[r][v] = kFirst ? pairs : _mm256_add_epi16(sums[r][v], pairs);
        asm("" : "+x"(sums[r][v]));
        sums[r][v] = _mm256_sub_epi16(sums[r][v], _mm256_maddubs_epi16(x_high, high[v]));
        asm("" : "+x"(sums[r][v]));
      }
    }
  }
};

}  // namespace

// The sums of a chain stay in registers, those of a group in L1.
extern constinit const GemmI4Kernel gemm_i4_avx2_4x16 = {
    {"avx2_4x16", Isa::avx2}, 4, 16, 4, tiles<Maddubs256<4>, 4, 2>(), sum_groups<Maddubs256<4>>, true};
extern constinit const GemmI4Kernel gemm_i2_avx2_4x16 = {
    {"avx2_4x16", Isa::avx2}, 4, 16, 2, tiles<Maddubs256<2>, 4, 2>(), sum_groups<Maddubs256<2>>, true};

}  // namespace lowbit::kernels
