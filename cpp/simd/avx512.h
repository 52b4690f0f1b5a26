// The names of lanes.h on AVX-512 (F, BW, DQ, VL): Lanes are one zmm register.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own <avx512fintrin.h> warns (GCC bug 105593)
#include <immintrin.h>
#pragma GCC diagnostic pop

namespace lowbit::kernels {
namespace {

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

inline Lanes load_halves(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_halves(uint16_t* p, Lanes a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

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
inline Lanes select_negative(Lanes a, Lanes yes, Lanes no) {
  return {_mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(a.v)), no.v, yes.v)};
}
inline Lanes or_zero(Lanes a) { return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, a.v, _CMP_ORD_Q), a.v)}; }
inline bool any(Mask m) { return m.v != 0; }
inline bool all(Mask m) { return m.v == 0xffff; }
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
inline Lanes raise(Lanes a, Lanes n) {
  const __m512i bits = _mm512_castps_si512(a.v), shift = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(bits, shift))};
}
inline Lanes pick(const float* table, Lanes place) {
  const __m512 both = _mm512_broadcast_f32x8(_mm256_loadu_ps(table));
  return {_mm512_permutexvar_ps(_mm512_cvtps_epi32(place.v), both)};
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
inline __m128i saturated_codes_of(Lanes a, int32_t offset) {
  const __m512i codes = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(offset));
  return _mm512_cvtusepi32_epi8(_mm512_max_epi32(codes, _mm512_setzero_si512()));
}
inline void store_saturated(uint8_t* p, Lanes a, int32_t offset) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), saturated_codes_of(a, offset));
}
inline void store_saturated(uint8_t* p, Lanes a, int32_t offset, int64_t n) {
  _mm_mask_storeu_epi8(p, first_lanes(n), saturated_codes_of(a, offset));
}
inline void store_signed(int8_t* p, Lanes a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline void store_signed(int8_t* p, Lanes a, int64_t n) {
  _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline Lanes codes_to_lanes(__m128i codes, int32_t offset) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), _mm512_set1_epi32(offset)))};
}
inline Lanes load_signed(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline Lanes load_codes(const uint8_t* p, int32_t offset) {
  return codes_to_lanes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), offset);
}
inline Lanes load_codes(const uint8_t* p, int32_t offset, int64_t n) {
  return codes_to_lanes(_mm_maskz_loadu_epi8(first_lanes(n), p), offset);
}

inline Mask load_flags(const uint8_t* p) {
  const __m128i flags = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm_test_epi8_mask(flags, flags)};
}
inline Mask load_flags(const uint8_t* p, int64_t n) {
  const __m128i flags = _mm_maskz_loadu_epi8(first_lanes(n), p);
  return {_mm_test_epi8_mask(flags, flags)};
}

struct Sums {
  __m512i v;
};
inline Sums no_sums() { return {_mm512_setzero_si512()}; }
inline Sums add(Sums a, __m128i codes) { return {_mm512_add_epi32(a.v, _mm512_cvtepu8_epi32(codes))}; }
inline Lanes to_lanes(Sums a, int32_t subtract) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(a.v, _mm512_set1_epi32(subtract)))};
}
// Of codes moved up by 128, which are not negative.
struct Quad {
  __m512i v;
};
inline Quad load_quad(const int8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  return {_mm512_xor_si512(_mm512_set1_epi32(quad), _mm512_set1_epi8(-128))};
}
inline Sums begin_products(const int32_t* column_sums, int32_t) {
  return {_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(_mm512_loadu_si512(column_sums), 7))};
}
inline Sums add_products(Sums a, Quad x, const int8_t* w) {
  return {_mm512_dpbusd_epi32(a.v, x.v, _mm512_loadu_si512(w))};
}
inline __m128i load_sixteen(const uint8_t* p, int64_t n) { return _mm_maskz_loadu_epi8(first_lanes(n), p); }

using Bytes = __m512i;
inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Bytes load_bytes(const uint8_t* p, int64_t n) { return _mm512_maskz_loadu_epi8((__mmask64{1} << n) - 1, p); }
inline void store_bytes(uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
inline void store_bytes(uint8_t* p, Bytes v, int64_t n) { _mm512_mask_storeu_epi8(p, (__mmask64{1} << n) - 1, v); }
inline Bytes splat_byte(char v) { return _mm512_set1_epi8(v); }
inline Bytes higher(Bytes a, Bytes b) { return _mm512_max_epu8(a, b); }
inline Bytes within(Bytes v, Bytes lo, Bytes hi) { return _mm512_min_epu8(_mm512_max_epu8(v, lo), hi); }
inline Bytes repeat16(__m128i v) { return _mm512_broadcast_i32x4(v); }
inline Bytes exclusive_or(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
inline Bytes subtract(Bytes a, Bytes b) { return _mm512_subs_epi8(a, b); }
inline Bytes shuffle(Bytes table, Bytes index) { return _mm512_shuffle_epi8(table, index); }

}  // namespace
}  // namespace lowbit::kernels
