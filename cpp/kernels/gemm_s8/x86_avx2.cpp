// A code times s8 by vpmaddubsw: two products are at most 2 * 128 * 15 = 3,840 in magnitude, or 2 * 128 * 3 = 768, so
// that 16 bits hold the sum of 32 k, or of 128. Codes of eight bits are 16 * high + low: a chain of 32 k goes twice,
// with the low halves and with the high ones, which vpmaddwd then multiplies by 16.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/gemm_s8/x86_256.h"

namespace lowbit::kernels {
namespace {

template <int kBitsOfCode>
struct Maddubs256 : Codes256<kBitsOfCode> {
  using Base = Codes256<kBitsOfCode>;
  using Base::kStep;
  using typename Base::Int;
  static constexpr bool kBegins = true;
  static constexpr int64_t kMost = kBitsOfCode == 2 ? 128 : 32;  // k whose sums 16 bits hold
  static constexpr int64_t kSteps = kMost / kStep;

  template <int kRows, int kVectors>
  static LOWBIT_INLINE void products(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                     Int (&acc)[kRows][kVectors]) {
    if (kBitsOfCode < 8 && count == 32 / kStep) return whole_chain<32 / kStep>(x, k, w, acc);
    part<true>(x, k, count < kSteps ? count : kSteps, w, acc);
    for (int64_t done = kSteps; done < count; done += kSteps) {
      const int64_t now = count - done < kSteps ? count - done : kSteps;
      part<false>(x, k + done * kStep, now, w + done * kVectors * 32, acc);
    }
  }

 private:
  // acc (+)= the products of so many steps, at most kSteps.
  template <bool kBegin, int kRows, int kVectors>
  static LOWBIT_INLINE void part(const uint8_t* const (&x)[kRows], int64_t k, int64_t count, const uint8_t* w,
                                 Int (&acc)[kRows][kVectors]) {
    Int sums[kRows][kVectors];
    step<0, true>(x, k, w, sums);
    for (int64_t i = 1; i < count; ++i) step<0, false>(x, k + i * kStep, w + i * kVectors * 32, sums);
    finish<kBegin, 1>(sums, acc);
    if constexpr (kBitsOfCode == 8) {
      step<1, true>(x, k, w, sums);
      for (int64_t i = 1; i < count; ++i) step<1, false>(x, k + i * kStep, w + i * kVectors * 32, sums);
      finish<false, 16>(sums, acc);
    }
  }

  // The same of as many steps as most groups have, which begins acc.
  template <int64_t kCount, int kRows, int kVectors>
  static LOWBIT_INLINE void whole_chain(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                        Int (&acc)[kRows][kVectors]) {
    Int sums[kRows][kVectors];
    step<0, true>(x, k, w, sums);
    LOWBIT_UNROLL
    for (int i = 1; i < kCount; ++i) step<0, false>(x, k + i * kStep, w + i * kVectors * 32, sums);
    finish<true, 1>(sums, acc);
  }

  template <bool kBegin, int kFactor, int kRows, int kVectors>
  static LOWBIT_INLINE void finish(const Int (&sums)[kRows][kVectors], Int (&acc)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const Int pairs = _mm256_madd_epi16(sums[r][v], _mm256_set1_epi16(kFactor));
        acc[r][v] = kBegin ? pairs : _mm256_add_epi32(acc[r][v], pairs);
      }
    }
  }

  // Of codes of eight bits the halves kHalf alone.
  template <int kHalf, bool kFirst, int kRows, int kVectors>
  static LOWBIT_INLINE void step(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                 Int (&sums)[kRows][kVectors]) {
    Base::template prefetch<kRows>(w);
    if constexpr (kBitsOfCode == 8) {
      Int codes[kVectors];
      Base::template unpack<kHalf>(w, codes);
      add_quad<kFirst>(x, k, codes, sums);
    } else {
      add_eight<0, kFirst>(x, k, w, sums);
      if constexpr (kStep > 8) add_eight<2, false>(x, k + 8, w, sums);
    }
  }

  template <int kPlace, bool kFirst, int kRows, int kVectors>
  static LOWBIT_INLINE void add_eight(const uint8_t* const (&x)[kRows], int64_t k, const uint8_t* w,
                                      Int (&sums)[kRows][kVectors]) {
    Int low[kVectors], high[kVectors];
    Base::template unpack<kPlace>(w, low, high);
    add_quad<kFirst>(x, k, low, sums);
    add_quad<false>(x, k + 4, high, sums);
  }

  // In this order, for the compiler would rather sum products by pairs, and lack registers for them.
  template <bool kFirst, int kRows, int kVectors>
  static LOWBIT_INLINE void add_quad(const uint8_t* const (&x)[kRows], int64_t k, const Int (&codes)[kVectors],
                                     Int (&sums)[kRows][kVectors]) {
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Int quad = Base::broadcast_quad(x[r] + k);
      LOWBIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const Int pairs = _mm256_maddubs_epi16(codes[v], quad);
        sums[r][v] = kFirst ? pairs : _mm256_add_epi16(sums[r][v], pairs);
        asm("" : "+x"(sums[r][v]));
      }
    }
  }
};

template <int kBits>
consteval GemmS8Kernel row(const char* name) {
  return {{name, Isa::avx2}, 4, 16, kBits, tiles<Maddubs256<kBits>, 4, 2>(), sums_of};
}

}  // namespace

extern constinit const GemmS8Kernel gemm_s8_avx2_i8_4x16 = row<8>("avx2_i8_4x16");
extern constinit const GemmS8Kernel gemm_s8_avx2_i4_4x16 = row<4>("avx2_i4_4x16");
extern constinit const GemmS8Kernel gemm_s8_avx2_i2_4x16 = row<2>("avx2_i2_4x16");

}  // namespace lowbit::kernels
