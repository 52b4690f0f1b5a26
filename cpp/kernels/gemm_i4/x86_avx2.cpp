// u8 times a nibble by vpmaddubsw: two products are at most 2 * 255 * 15 = 7,650, so that 16 bits hold the sum of four
// such pairs. Half of the codes are complements (15 - q), whose pairs are subtracted, so that they hold eight, and each
// vpmaddwd serves 32 k; what complements lack is 15 times a sum of x, found once a row.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/gemm_i4/x86_256.h"

namespace lowbit::kernels {
namespace {

struct Maddubs256 : Nibbles256 {
  static constexpr bool kComplements = true;
  static constexpr int kChain = 32;  // k whose sums 16 bits hold

  template <bool kBegin, int kRows, int kVectors>
  static LOWBIT_INLINE void steps(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    constexpr int64_t kChainBytes = kChain / 8 * kVectors * 32;
    const int64_t end = k + 8 * count;
    if (kBegin && count < kChain / 8) {
      chain_of<8, true>(x, k, w, acc);
      k += 8, w += kVectors * 32;
    } else if (kBegin) {
      chain_of<kChain, true>(x, k, w, acc);
      k += kChain, w += kChainBytes;
    }
    for (; k + kChain <= end; k += kChain, w += kChainBytes) chain_of<kChain, false>(x, k, w, acc);
    for (; k < end; k += 8, w += kVectors * 32) chain_of<8, false>(x, k, w, acc);
  }

  template <int kRows, int kVectors>
  static LOWBIT_INLINE void chain(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                  Int (&acc)[kRows][kVectors]) {
    chain_of<kChain, true>(x, k, w, acc);
  }
  template <int kRows, int kVectors>
  static LOWBIT_INLINE void add_chain(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                      Int (&acc)[kRows][kVectors]) {
    chain_of<kChain, false>(x, k, w, acc);
  }

 private:
  template <int kLength, bool kBegin, int kRows, int kVectors>
  static LOWBIT_INLINE void chain_of(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                     Int (&acc)[kRows][kVectors]) {
    Int sums[kRows][kVectors];
    add_pairs<true>(x, k, w, sums);
    LOWBIT_UNROLL
    for (int step = 1; step < kLength / 8; ++step) add_pairs<false>(x, k + 8 * step, w + step * kVectors * 32, sums);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const Int four = _mm256_madd_epi16(sums[r][v], _mm256_set1_epi16(1));
        acc[r][v] = kBegin ? four : _mm256_add_epi32(acc[r][v], four);
      }
    }
  }

  // In this order, for the compiler would rather sum products by pairs, and lack registers for them.
  template <bool kFirst, int kRows, int kVectors>
  static LOWBIT_INLINE void add_pairs(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                      Int (&sums)[kRows][kVectors]) {
    Int low[kVectors], high[kVectors];
    unpack(w, low, high);
    prefetch<kRows>(w);
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Int x_low = broadcast_quad(x[r] + k), x_high = broadcast_quad(x[r] + k + 4);
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
    {"avx2_4x16", Isa::avx2}, 4, 16, tiles<Maddubs256, 4, 2>(), sum_groups<Maddubs256>, Maddubs256::kComplements};

}  // namespace lowbit::kernels
