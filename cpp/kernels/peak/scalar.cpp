// One number a register, which is not what a compiler makes of a plain loop: shares of these roofs may exceed 100 %.
#include <cmath>

#include "kernels/peak/tile.h"

namespace lowbit::kernels {
namespace {

struct Scalar {
  using Int = uint32_t;  // codes are sign-extended; sums may wrap
  using Float = float;
  using Operand = Int;
  static constexpr int kBytes = 4, kDots = 8, kFmas = 8, kProducts = 1;

  static LOWBIT_INLINE Int operand(int8_t code) { return weights(code); }
  static LOWBIT_INLINE Int weights(int8_t code) { return static_cast<uint32_t>(int32_t{code}); }
  static LOWBIT_INLINE Float floats(float value) { return value; }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return acc + x * w; }
  static LOWBIT_INLINE Float fma(Float a, Float b, Float c) { return std::fma(a, b, c); }
  static LOWBIT_INLINE Int differ(Int a, Int b) { return a ^ b; }
  static LOWBIT_INLINE void hide(Int& w) { asm volatile("" : "+r"(w)); }
  static LOWBIT_INLINE void hide(Float& a) { asm volatile("" : "+m"(a)); }
  static LOWBIT_INLINE Int load(const std::byte* p) {
    Int word;
    __builtin_memcpy(&word, p, sizeof word);
    return word;
  }
};

}  // namespace

extern constinit const PeakKernel peak_scalar = peak_row<Scalar>(Isa::scalar);

}  // namespace lowbit::kernels
