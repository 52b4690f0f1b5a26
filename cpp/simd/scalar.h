// The names of lanes.h as arrays and loops: the plain truth, and what an architecture without a file of its own runs.
#pragma once

#include "base/half.h"

namespace lowbit::kernels {
namespace {

struct Lanes {
  float v[kLanes];
};
struct Mask {
  bool v[kLanes];
};

template <class F>
inline Lanes each_lane(F f) {
  Lanes y;
  for (int i = 0; i < kLanes; ++i) y.v[i] = f(i);
  return y;
}
inline float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

inline Lanes splat(float x) {
  return each_lane([=](int) { return x; });
}
inline Lanes load(const float* p, int64_t n = kLanes) {
  return each_lane([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, Lanes a, int64_t n = kLanes) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}

inline Lanes operator+(const Lanes& a, const Lanes& b) {
  return each_lane([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes operator-(const Lanes& a, const Lanes& b) {
  return each_lane([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes operator*(const Lanes& a, const Lanes& b) {
  return each_lane([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes operator/(const Lanes& a, const Lanes& b) {
  return each_lane([&](int i) { return a.v[i] / b.v[i]; });
}
inline Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return each_lane([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline Lanes sqrt(const Lanes& a) {
  return each_lane([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
inline Lanes round(const Lanes& a) {
  return each_lane([&](int i) { return __builtin_nearbyintf(a.v[i]); });
}
inline Lanes greater(const Lanes& a, const Lanes& b) {
  return each_lane([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes less(const Lanes& a, const Lanes& b) {
  return each_lane([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes abs(const Lanes& a) {
  return each_lane([&](int i) { return __builtin_fabsf(a.v[i]); });
}
inline Lanes sign_of(const Lanes& a) {
  return each_lane([&](int i) { return float_of(bits_of(a.v[i]) & 0x80000000u); });
}
inline Lanes flip(const Lanes& a, const Lanes& sign) {
  return each_lane([&](int i) { return float_of(bits_of(a.v[i]) ^ bits_of(sign.v[i])); });
}
inline Mask operator>(const Lanes& a, const Lanes& b) {
  Mask m;
  for (int i = 0; i < kLanes; ++i) m.v[i] = a.v[i] > b.v[i];
  return m;
}
inline Lanes or_zero(const Lanes& a) {  // for NaN
  return each_lane([&](int i) { return a.v[i] != a.v[i] ? 0.0f : a.v[i]; });
}
inline Mask either_nan(const Lanes& a, const Lanes& b) {
  Mask m;
  for (int i = 0; i < kLanes; ++i) m.v[i] = a.v[i] != a.v[i] || b.v[i] != b.v[i];
  return m;
}
inline Mask operator|(const Mask& a, const Mask& b) {
  Mask m;
  for (int i = 0; i < kLanes; ++i) m.v[i] = a.v[i] || b.v[i];
  return m;
}
inline Lanes select(const Mask& m, const Lanes& yes, const Lanes& no) {
  return each_lane([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
// By the sign bit, that of -0 and of NaN too.
inline Lanes select_negative(const Lanes& a, const Lanes& yes, const Lanes& no) {
  return each_lane([&](int i) { return bits_of(a.v[i]) >> 31 != 0 ? yes.v[i] : no.v[i]; });
}
inline bool any(const Mask& m) {
  bool found = false;
  for (bool lane : m.v) found |= lane;
  return found;
}
inline bool all(const Mask& m) {
  bool found = true;
  for (bool lane : m.v) found &= lane;
  return found;
}

struct Wide {
  double v[kLanes];
};
template <class F>
inline Wide each_wide(F f) {
  Wide y;
  for (int i = 0; i < kLanes; ++i) y.v[i] = f(i);
  return y;
}
inline Wide widen(const Lanes& a) {
  return each_wide([&](int i) { return static_cast<double>(a.v[i]); });
}
inline Lanes narrow(const Wide& a) {
  return each_lane([&](int i) { return static_cast<float>(a.v[i]); });
}
inline Wide operator+(const Wide& a, const Wide& b) {
  return each_wide([&](int i) { return a.v[i] + b.v[i]; });
}
inline Wide operator/(const Wide& a, const Wide& b) {
  return each_wide([&](int i) { return a.v[i] / b.v[i]; });
}

inline Mask load_flags(const uint8_t* p, int64_t n = kLanes) {
  Mask m;
  for (int64_t i = 0; i < kLanes; ++i) m.v[i] = i < n && p[i] != 0;
  return m;
}

// A lane whose integer conversion would be undefined is NaN or about to be discarded: any number will do.
inline int32_t integer_of(float value) {
  return __builtin_fabsf(value) < 1e9f ? static_cast<int32_t>(__builtin_nearbyintf(value)) : 0;
}
inline Lanes pow2(const Lanes& n) {
  return each_lane([&](int i) { return float_of(static_cast<uint32_t>(integer_of(n.v[i]) + 127) << 23); });
}
// a * 2^n for an integer n, where a and the result are normal.
inline Lanes raise(const Lanes& a, const Lanes& n) {
  return each_lane(
      [&](int i) { return float_of(bits_of(a.v[i]) + (static_cast<uint32_t>(integer_of(n.v[i])) << 23)); });
}
// Numbers of a table of eight, by their places.
inline Lanes pick(const float* table, const Lanes& place) {
  return each_lane([&](int i) { return table[integer_of(place.v[i]) & 7]; });
}
inline Lanes exponent(const Lanes& a) {
  return each_lane([&](int i) { return static_cast<float>(static_cast<int32_t>(bits_of(a.v[i]) >> 23) - 127); });
}
inline Lanes mantissa(const Lanes& a) {
  return each_lane([&](int i) { return float_of((bits_of(a.v[i]) & 0x007fffffu) | 0x3f800000u); });
}

inline void store_codes(uint8_t* p, const Lanes& a, int32_t offset, int64_t n = kLanes) {
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(integer_of(a.v[i]) + offset);
}
// The nearest code, for all a below 2^31 that are no NaN.
inline void store_saturated(uint8_t* p, const Lanes& a, int32_t offset, int64_t n = kLanes) {
  const auto lo = static_cast<float>(-offset), hi = static_cast<float>(255 - offset);
  store_codes(p, less(each_lane([=](int) { return hi; }), greater(each_lane([=](int) { return lo; }), a)), offset, n);
}
// The same of s8, without an offset.
inline void store_signed(int8_t* p, const Lanes& a, int64_t n = kLanes) {
  const Lanes bounded = less(splat(127.0f), greater(splat(-128.0f), a));
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<int8_t>(integer_of(bounded.v[i]));
}
inline Lanes load_codes(const uint8_t* p, int32_t offset, int64_t n = kLanes) {
  return each_lane([=](int i) { return i < n ? static_cast<float>(p[i] - offset) : 0.0f; });
}

inline float sum_lanes(Lanes a) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
  return a.v[0];
}
inline float highest_lane(const Lanes& a) {
  float top = a.v[0];
  for (float lane : a.v) top = lane > top ? lane : top;
  return top;
}

// Half floats; to them, to the nearest, even where there are two.
inline Lanes load_halves(const uint16_t* p) {
  return each_lane([=](int i) { return float_from_half(p[i]); });
}
inline void store_halves(uint16_t* p, const Lanes& a) {
  for (int64_t i = 0; i < kLanes; ++i) p[i] = half_from_float(a.v[i]);
}

inline Lanes load_signed(const int8_t* p) {
  return each_lane([=](int i) { return static_cast<float>(p[i]); });
}

// Two codes a byte, the low nibble first.
inline Lanes load_nibbles(const uint8_t* p, int32_t offset) {
  return each_lane([=](int i) { return static_cast<float>((p[i / 2] >> i % 2 * 4 & 15) - offset); });
}

// The same of two bits, four a byte.
inline Lanes load_quarters(const uint8_t* p, int32_t offset) {
  return each_lane([=](int i) { return static_cast<float>((p[i / 4] >> i % 4 * 2 & 3) - offset); });
}

struct Sums {
  int32_t v[kLanes];
};
inline Sums no_sums() { return {}; }
inline Sums add_codes(Sums a, const uint8_t* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) a.v[i] += p[i];
  return a;
}
inline Lanes to_lanes(const Sums& a, int32_t subtract) {
  return each_lane([&](int i) { return static_cast<float>(a.v[i] - subtract); });
}

struct Quad {
  int32_t v[4];
};
inline Quad load_quad(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
// Sums of products of quads x, begun and added to, each lane's weights at w[4 * lane]. column_sums: of all weights of a
// lane; below: the magnitudes of all codes that are negative. They are for sets that multiply other operands than
// these.
inline Sums begin_products(const int32_t*, int32_t) { return no_sums(); }
inline Sums add_products(Sums a, const Quad& x, const int8_t* w) {
  for (int i = 0; i < 4 * kLanes; ++i) a.v[i / 4] += x.v[i % 4] * w[i];
  return a;
}

struct Bytes {
  uint8_t v[kLanes];
};
template <class F>
inline Bytes each_byte(F f) {
  Bytes y;
  for (int i = 0; i < kLanes; ++i) y.v[i] = f(i);
  return y;
}
inline Bytes load_bytes(const uint8_t* p, int64_t n = kLanes) {
  return each_byte([=](int i) { return i < n ? p[i] : uint8_t{0}; });
}
inline void store_bytes(uint8_t* p, const Bytes& a, int64_t n = kLanes) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
inline Bytes splat_byte(char v) {
  return each_byte([=](int) { return static_cast<uint8_t>(v); });
}
inline Bytes higher(const Bytes& a, const Bytes& b) {
  return each_byte([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}

struct ByteTable {
  const uint8_t* table;
  Bytes operator()(const Bytes& x) const {
    return each_byte([&](int i) { return table[x.v[i]]; });
  }
};

template <class T>
inline void transpose(const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) y[r * y_stride + c] = x[c * x_stride + r];
}

}  // namespace
}  // namespace lowbit::kernels
