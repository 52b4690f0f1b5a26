// The names of lanes.h on AVX2, FMA and F16C: Lanes are two ymm registers.
#pragma once

#include <immintrin.h>

namespace lowbit::kernels {
namespace {

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

inline Lanes load_halves(const uint16_t* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline void store_halves(uint16_t* p, Lanes a) {
  auto* halves = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
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
inline Lanes or_zero(Lanes a) {
  return {_mm256_and_ps(a.lo, _mm256_cmp_ps(a.lo, a.lo, _CMP_ORD_Q)),
          _mm256_and_ps(a.hi, _mm256_cmp_ps(a.hi, a.hi, _CMP_ORD_Q))};
}
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)}; }
inline Lanes select(Mask m, Lanes yes, Lanes no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}
inline Lanes select_negative(Lanes a, Lanes yes, Lanes no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, a.lo), _mm256_blendv_ps(no.hi, yes.hi, a.hi)};
}
inline bool any(Mask m) { return _mm256_movemask_ps(_mm256_or_ps(m.lo, m.hi)) != 0; }
inline bool all(Mask m) { return _mm256_movemask_ps(_mm256_and_ps(m.lo, m.hi)) == 0xff; }
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
inline __m256 raise(__m256 a, __m256 n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
inline Lanes raise(Lanes a, Lanes n) { return {raise(a.lo, n.lo), raise(a.hi, n.hi)}; }
inline Lanes pick(const float* table, Lanes place) {
  const __m256 all = _mm256_loadu_ps(table);
  return {_mm256_permutevar8x32_ps(all, _mm256_cvtps_epi32(place.lo)),
          _mm256_permutevar8x32_ps(all, _mm256_cvtps_epi32(place.hi))};
}
inline __m256 exponent(__m256 a) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(a), 23), _mm256_set1_epi32(127)));
}
inline Lanes exponent(Lanes a) { return {exponent(a.lo), exponent(a.hi)}; }
inline __m256 mantissa(__m256 a) {
  const __m256i bits = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x3f800000)));
}
inline Lanes mantissa(Lanes a) { return {mantissa(a.lo), mantissa(a.hi)}; }

inline __m128i codes_of(Lanes a, int32_t offset) {  // saturated
  const __m256i words = _mm256_adds_epi16(_mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)),
                                          _mm256_set1_epi16(static_cast<int16_t>(offset)));
  const __m256i bytes = _mm256_packus_epi16(words, words);
  return _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5)));
}
inline void store_codes(uint8_t* p, Lanes a, int32_t offset) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes_of(a, offset));
}
inline void store_codes(uint8_t* p, Lanes a, int32_t offset, int64_t n) {
  alignas(kLanes) uint8_t codes[kLanes];
  _mm_store_si128(reinterpret_cast<__m128i*>(codes), codes_of(a, offset));
  for (int64_t i = 0; i < n; ++i) p[i] = codes[i];
}
inline void store_saturated(uint8_t* p, Lanes a, int32_t offset) { store_codes(p, a, offset); }
inline void store_saturated(uint8_t* p, Lanes a, int32_t offset, int64_t n) { store_codes(p, a, offset, n); }
inline __m128i signed_codes_of(Lanes a) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i bytes = _mm256_packs_epi16(words, words);
  return _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5)));
}
inline void store_signed(int8_t* p, Lanes a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), signed_codes_of(a)); }
inline void store_signed(int8_t* p, Lanes a, int64_t n) {
  alignas(kLanes) int8_t codes[kLanes];
  store_signed(codes, a);
  for (int64_t i = 0; i < n; ++i) p[i] = codes[i];
}
inline Lanes codes_to_lanes(__m128i codes, int32_t offset) {
  const __m256i subtract = _mm256_set1_epi32(offset);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(codes), subtract)),
          _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)), subtract))};
}
inline __m256 load_eight_signed(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Lanes load_signed(const int8_t* p) { return {load_eight_signed(p), load_eight_signed(p + 8)}; }
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

struct Sums {
  __m256i lo, hi;
};
inline Sums no_sums() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Sums add(Sums a, __m128i codes) {
  return {_mm256_add_epi32(a.lo, _mm256_cvtepu8_epi32(codes)),
          _mm256_add_epi32(a.hi, _mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)))};
}
inline Lanes to_lanes(Sums a, int32_t subtract) {
  const __m256i s = _mm256_set1_epi32(subtract);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(a.lo, s)), _mm256_cvtepi32_ps(_mm256_sub_epi32(a.hi, s))};
}

// Of |x| and weights whose sign is turned where x is negative: x * w = |x| * (~w + 1) there. With |x| <= 127, 16 bits
// hold two products; `below` makes up for the 1.
struct Quad {
  __m256i magnitudes, negative;
};
inline Quad load_quad(const int8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  const __m256i x = _mm256_set1_epi32(quad);
  return {_mm256_abs_epi8(x), _mm256_cmpgt_epi8(_mm256_setzero_si256(), x)};
}
inline Sums begin_products(const int32_t*, int32_t below) {
  return {_mm256_set1_epi32(below), _mm256_set1_epi32(below)};
}
inline __m256i products(Quad x, const int8_t* w) {
  const __m256i turned = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)), x.negative);
  return _mm256_madd_epi16(_mm256_maddubs_epi16(x.magnitudes, turned), _mm256_set1_epi16(1));
}
inline Sums add_products(Sums a, Quad x, const int8_t* w) {
  return {_mm256_add_epi32(a.lo, products(x, w)), _mm256_add_epi32(a.hi, products(x, w + 32))};
}

using Bytes = __m256i;
inline Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Bytes load_bytes(const uint8_t* p, int64_t n) {
  alignas(32) uint8_t bytes[sizeof(Bytes)] = {};
  for (int64_t i = 0; i < n; ++i) bytes[i] = p[i];
  return load_bytes(bytes);
}
inline void store_bytes(uint8_t* p, Bytes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline void store_bytes(uint8_t* p, Bytes v, int64_t n) {
  alignas(32) uint8_t bytes[sizeof(Bytes)];
  store_bytes(bytes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = bytes[i];
}
inline Bytes splat_byte(char v) { return _mm256_set1_epi8(v); }
inline Bytes higher(Bytes a, Bytes b) { return _mm256_max_epu8(a, b); }
inline Bytes within(Bytes v, Bytes lo, Bytes hi) { return _mm256_min_epu8(_mm256_max_epu8(v, lo), hi); }
inline Bytes repeat16(__m128i v) { return _mm256_broadcastsi128_si256(v); }
inline Bytes exclusive_or(Bytes a, Bytes b) { return _mm256_xor_si256(a, b); }
inline Bytes subtract(Bytes a, Bytes b) { return _mm256_subs_epi8(a, b); }
inline Bytes shuffle(Bytes table, Bytes index) { return _mm256_shuffle_epi8(table, index); }

inline __m128i load_sixteen(const uint8_t* p, int64_t n) { return _mm256_castsi256_si128(load_bytes(p, n)); }

}  // namespace
}  // namespace lowbit::kernels
