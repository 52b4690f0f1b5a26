// The vectors of the instruction set that this is compiled for, for loops whose shape depends on them: `Vectors` has
// the words of vectors256.h, as far as floats go.
#pragma once

#if defined(__AVX512F__)
#include "simd/vectors512.h"
#elif defined(__AVX2__)
#include "simd/vectors256.h"
#else
#include "simd/lanes.h"
#endif

namespace lowbit::kernels {
namespace {

#if defined(__AVX512F__)
using Vectors = Avx512;
#elif defined(__AVX2__)
using Vectors = Avx2;
#else
struct Vectors {
  using Float = Lanes;
  static constexpr int kLanes = static_cast<int>(kernels::kLanes);

  static inline Float broadcast(float value) { return splat(value); }
  static inline Float add(const Float& a, const Float& b) { return a + b; }
  static inline Float fma(const Float& a, const Float& b, const Float& c) { return kernels::fma(a, b, c); }
  static inline Float clamp(const Float& a, const Float& lo, const Float& hi) { return kernels::clamp(a, lo, hi); }
  static inline Float load_floats(const float* p) { return kernels::load(p); }
  static inline Float load_floats(const float* p, int count) { return kernels::load(p, count); }
  static inline void store(float* p, const Float& a, int count) {
    kernels::store(p, a, count < kLanes ? count : kLanes);
  }
};
#endif

}  // namespace
}  // namespace lowbit::kernels
