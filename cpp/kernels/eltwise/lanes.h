// Sixteen floats as one value, whatever the ISA: one zmm register, two ymm registers, or an array. `Wide` are sixteen
// float64 numbers.
//
// Kernels written over `Lanes` are written once and give the same bits everywhere, because each function here is one
// IEEE operation per lane. Everything is in an anonymous namespace: each ISA file compiles its own copy.
#pragma once

#include <stdint.h>

#if defined(__AVX2__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own <avx512fintrin.h> warns (GCC bug 105593)
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace lowbit::kernels {
namespace {

constexpr int64_t kLanes = 16;

#if defined(__AVX512F__)

struct Lanes {
  __m512 v;
};
struct Mask {
  __mmask16 v;
};

inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline Lanes splat(float x) { return {_mm512_set1_ps(x)}; }
inline Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Lanes load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store(float* p, Lanes a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, Lanes a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Lanes sqrt(Lanes a) { return {_mm512_sqrt_ps(a.v)}; }
inline Lanes round(Lanes a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Lanes greater(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Lanes less(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Lanes abs(Lanes a) { return {_mm512_abs_ps(a.v)}; }
inline Lanes sign_of(Lanes a) { return {_mm512_and_ps(a.v, _mm512_set1_ps(-0.0f))}; }
inline Lanes flip(Lanes a, Lanes sign) { return {_mm512_xor_ps(a.v, sign.v)}; }
inline Mask operator>(Lanes a, Lanes b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask either_nan(Lanes a, Lanes b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q)}; }
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.v | b.v)}; }
inline Lanes select(Mask m, Lanes yes, Lanes no) { return {_mm512_mask_blend_ps(m.v, no.v, yes.v)}; }
inline bool any(Mask m) { return m.v != 0; }
inline __m256 lower(Lanes a) { return _mm512_castps512_ps256(a.v); }
inline __m256 upper(Lanes a) { return _mm512_extractf32x8_ps(a.v, 1); }

struct Wide {
  __m512d lo, hi;
};
inline Wide widen(Lanes a) { return {_mm512_cvtps_pd(lower(a)), _mm512_cvtps_pd(upper(a))}; }
inline Lanes narrow(Wide a) {
  const __m512 lo = _mm512_castps256_ps512(_mm512_cvtpd_ps(a.lo));
  return {_mm512_insertf32x8(lo, _mm512_cvtpd_ps(a.hi), 1)};
}
inline Wide operator+(Wide a, Wide b) { return {_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)}; }
inline Wide operator/(Wide a, Wide b) { return {_mm512_div_pd(a.lo, b.lo), _mm512_div_pd(a.hi, b.hi)}; }

inline Lanes pow2(Lanes n) {
  return {
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
inline Lanes exponent(Lanes a) {
  return {
      _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(a.v), 23), _mm512_set1_epi32(127)))};
}
inline Lanes mantissa(Lanes a) {
  const __m512i bits = _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x007fffff));
  return {_mm512_castsi512_ps(_mm512_or_si512(bits, _mm512_set1_epi32(0x3f800000)))};
}

inline __m128i codes_of(Lanes a, int32_t offset) {
  return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(offset)));
}
inline void store_codes(uint8_t* p, Lanes a, int32_t offset) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes_of(a, offset));
}
inline void store_codes(uint8_t* p, Lanes a, int32_t offset, int64_t n) {
  _mm_mask_storeu_epi8(p, first_lanes(n), codes_of(a, offset));
}
inline Lanes codes_to_lanes(__m128i codes, int32_t offset) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), _mm512_set1_epi32(offset)))};
}
inline Lanes load_codes(const uint8_t* p, int32_t offset) {
  return codes_to_lanes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), offset);
}
inline Lanes load_codes(const uint8_t* p, int32_t offset, int64_t n) {
  return codes_to_lanes(_mm_maskz_loadu_epi8(first_lanes(n), p), offset);
}

// Which of the bytes are not 0.
inline Mask load_flags(const uint8_t* p) {
  const __m128i flags = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm_test_epi8_mask(flags, flags)};
}
inline Mask load_flags(const uint8_t* p, int64_t n) {
  const __m128i flags = _mm_maskz_loadu_epi8(first_lanes(n), p);
  return {_mm_test_epi8_mask(flags, flags)};
}

#elif defined(__AVX2__)

struct Lanes {
  __m256 lo, hi;
};
struct Mask {
  __m256 lo, hi;
};

inline __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Lanes load(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes(n)),
          n > 8 ? _mm256_maskload_ps(p + 8, first_lanes(n - 8)) : _mm256_setzero_ps()};
}
inline void store(float* p, Lanes a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline void store(float* p, Lanes a, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), a.lo);
  if (n > 8) _mm256_maskstore_ps(p + 8, first_lanes(n - 8), a.hi);
}

inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Lanes sqrt(Lanes a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline Lanes round(Lanes a) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kNearest), _mm256_round_ps(a.hi, kNearest)};
}
inline Lanes greater(Lanes a, Lanes b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Lanes less(Lanes a, Lanes b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Lanes abs(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline Lanes sign_of(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_and_ps(sign, a.lo), _mm256_and_ps(sign, a.hi)};
}
inline Lanes flip(Lanes a, Lanes sign) { return {_mm256_xor_ps(a.lo, sign.lo), _mm256_xor_ps(a.hi, sign.hi)}; }
inline Mask operator>(Lanes a, Lanes b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ)};
}
inline Mask either_nan(Lanes a, Lanes b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, b.hi, _CMP_UNORD_Q)};
}
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)}; }
inline Lanes select(Mask m, Lanes yes, Lanes no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}
inline bool any(Mask m) { return _mm256_movemask_ps(_mm256_or_ps(m.lo, m.hi)) != 0; }
inline __m256 lower(Lanes a) { return a.lo; }
inline __m256 upper(Lanes a) { return a.hi; }

struct Wide {
  __m256d v[4];
};
template <class F>
inline Wide each_quarter(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}
inline Wide widen(Lanes a) {
  return {{_mm256_cvtps_pd(_mm256_castps256_ps128(a.lo)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.lo, 1)),
           _mm256_cvtps_pd(_mm256_castps256_ps128(a.hi)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.hi, 1))}};
}
inline Lanes narrow(const Wide& a) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(a.v[1]), _mm256_cvtpd_ps(a.v[0])),
          _mm256_set_m128(_mm256_cvtpd_ps(a.v[3]), _mm256_cvtpd_ps(a.v[2]))};
}
inline Wide operator+(const Wide& a, const Wide& b) {
  return each_quarter([&](int i) { return _mm256_add_pd(a.v[i], b.v[i]); });
}
inline Wide operator/(const Wide& a, const Wide& b) {
  return each_quarter([&](int i) { return _mm256_div_pd(a.v[i], b.v[i]); });
}

inline __m256 pow2(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Lanes pow2(Lanes n) { return {pow2(n.lo), pow2(n.hi)}; }
inline __m256 exponent(__m256 a) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(a), 23), _mm256_set1_epi32(127)));
}
inline Lanes exponent(Lanes a) { return {exponent(a.lo), exponent(a.hi)}; }
inline __m256 mantissa(__m256 a) {
  const __m256i bits = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x3f800000)));
}
inline Lanes mantissa(Lanes a) { return {mantissa(a.lo), mantissa(a.hi)}; }

inline __m128i codes_of(Lanes a, int32_t offset) {
  const __m256i add = _mm256_set1_epi32(offset);
  const __m256i words = _mm256_packs_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(a.lo), add),
                                           _mm256_add_epi32(_mm256_cvtps_epi32(a.hi), add));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
}
inline void store_codes(uint8_t* p, Lanes a, int32_t offset) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes_of(a, offset));
}
inline void store_codes(uint8_t* p, Lanes a, int32_t offset, int64_t n) {
  alignas(kLanes) uint8_t codes[kLanes];
  _mm_store_si128(reinterpret_cast<__m128i*>(codes), codes_of(a, offset));
  for (int64_t i = 0; i < n; ++i) p[i] = codes[i];
}
inline Lanes codes_to_lanes(__m128i codes, int32_t offset) {
  const __m256i subtract = _mm256_set1_epi32(offset);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(codes), subtract)),
          _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)), subtract))};
}
inline Lanes load_codes(const uint8_t* p, int32_t offset) {
  return codes_to_lanes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), offset);
}
inline Lanes load_codes(const uint8_t* p, int32_t offset, int64_t n) {
  alignas(kLanes) uint8_t codes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) codes[i] = p[i];
  return load_codes(codes, offset);
}

inline Mask load_flags(const uint8_t* p) {
  const __m128i flags = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i zero = _mm256_setzero_si256();
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_cvtepu8_epi32(flags), zero)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(flags, 8)), zero))};
}
inline Mask load_flags(const uint8_t* p, int64_t n) {
  alignas(kLanes) uint8_t flags[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) flags[i] = p[i];
  return load_flags(flags);
}

#else

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
inline bool any(const Mask& m) {
  bool found = false;
  for (bool lane : m.v) found |= lane;
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
inline Lanes exponent(const Lanes& a) {
  return each_lane([&](int i) { return static_cast<float>(static_cast<int32_t>(bits_of(a.v[i]) >> 23) - 127); });
}
inline Lanes mantissa(const Lanes& a) {
  return each_lane([&](int i) { return float_of((bits_of(a.v[i]) & 0x007fffffu) | 0x3f800000u); });
}

inline void store_codes(uint8_t* p, const Lanes& a, int32_t offset, int64_t n = kLanes) {
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(integer_of(a.v[i]) + offset);
}
inline Lanes load_codes(const uint8_t* p, int32_t offset, int64_t n = kLanes) {
  return each_lane([=](int i) { return i < n ? static_cast<float>(p[i] - offset) : 0.0f; });
}

#endif

// Lanes l and l + 8, then l + 4, l + 2, l + 1: their sum, and the highest of lanes of which none is NaN.
#if defined(__AVX2__)
inline float sum_lanes(Lanes a) {
  const __m256 eight = _mm256_add_ps(lower(a), upper(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float highest_lane(Lanes a) {
  const __m256 eight = _mm256_max_ps(lower(a), upper(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#else
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
#endif

inline Mask is_nan(const Lanes& a) { return either_nan(a, a); }

// min(max(a, lo), hi); NaN stays NaN.
inline Lanes clamp(const Lanes& a, const Lanes& lo, const Lanes& hi) { return less(hi, greater(lo, a)); }

// Clamps to the code range and turns NaN into the zero point (0 before it is added).
inline Lanes clamp_codes(const Lanes& t, const Lanes& lo, const Lanes& hi) {
  return clamp(select(is_nan(t), splat(0.0f), t), lo, hi);
}

// Calls f(index, count) for 0, 16, 32, ... with count = 16, then once for what is left; Full tells the two apart at
// compile time.
struct Full {
  operator int64_t() const { return kLanes; }
};
inline Lanes load(const float* p, Full) { return load(p); }
inline void store(float* p, const Lanes& a, Full) { store(p, a); }
inline Mask load_flags(const uint8_t* p, Full) { return load_flags(p); }
inline Lanes load_codes(const uint8_t* p, int32_t offset, Full) { return load_codes(p, offset); }
inline void store_codes(uint8_t* p, const Lanes& a, int32_t offset, Full) { store_codes(p, a, offset); }

template <class F>
inline void for_lanes(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Full{});
  if (i < n) f(i, n - i);
}

}  // namespace
}  // namespace lowbit::kernels
