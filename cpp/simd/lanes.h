// One vocabulary of vectors for all instruction sets. Kernels in these words are written once and give the same bits
// everywhere, because each function is one IEEE operation a lane:
//
//   Lanes   sixteen floats       Mask   a yes or no for each of them       Wide   sixteen float64 numbers
//   Sums    sixteen int32        Bytes  as many bytes as a register holds  ByteTable   256 bytes, looked up by bytes
//   Quad    four codes s8, from -127 on
//
// load_x, store_x (p, n) touch n elements; lanes beyond read as zero. scalar.h says what each word means. A new
// instruction set is one more file with the same words, and a line here. Everything is in an anonymous namespace: each
// file of an instruction set compiles its own copy.
#pragma once

#include <stdint.h>

namespace lowbit::kernels {
namespace {

constexpr int64_t kLanes = 16;

// A count that is known to be all lanes.
struct Full {
  operator int64_t() const { return kLanes; }
};

}  // namespace
}  // namespace lowbit::kernels

#if defined(__AVX512F__)
#include "simd/avx512.h"
#include "simd/x86.h"
#elif defined(__AVX2__)
#include "simd/avx2.h"
#include "simd/x86.h"
#else
#include "simd/scalar.h"
#endif

namespace lowbit::kernels {
namespace {

// How many Lanes the registers hold.
#if defined(__AVX512F__)
constexpr int kLaneRegisters = 32;
#else
constexpr int kLaneRegisters = 8;
#endif

}  // namespace
}  // namespace lowbit::kernels

namespace lowbit::kernels {
namespace {

inline Mask is_nan(const Lanes& a) { return either_nan(a, a); }

// min(max(a, lo), hi); NaN stays NaN.
inline Lanes clamp(const Lanes& a, const Lanes& lo, const Lanes& hi) { return less(hi, greater(lo, a)); }

// Clamps to the code range and turns NaN into the zero point (0 before it is added).
inline Lanes clamp_codes(const Lanes& t, const Lanes& lo, const Lanes& hi) { return clamp(or_zero(t), lo, hi); }

inline Lanes load(const float* p, Full) { return load(p); }
inline void store(float* p, const Lanes& a, Full) { store(p, a); }
inline Mask load_flags(const uint8_t* p, Full) { return load_flags(p); }
inline Lanes load_codes(const uint8_t* p, int32_t offset, Full) { return load_codes(p, offset); }
inline void store_codes(uint8_t* p, const Lanes& a, int32_t offset, Full) { store_codes(p, a, offset); }
inline void store_saturated(uint8_t* p, const Lanes& a, int32_t offset, Full) { store_saturated(p, a, offset); }
inline Bytes load_bytes(const uint8_t* p, Full) { return load_bytes(p); }
inline void store_bytes(uint8_t* p, const Bytes& v, Full) { store_bytes(p, v); }

// Calls f(index, count) for 0, 16, 32, ... with count = 16, then once for what is left; Full tells the two apart at
// compile time.
template <class F>
inline void for_lanes(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Full{});
  if (i < n) f(i, n - i);
}

}  // namespace
}  // namespace lowbit::kernels
