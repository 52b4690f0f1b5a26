// The epilogue of a depthwise block on AVX-512: 64 channels, in the order of interleaved vectors (layout.h).
#pragma once

#include <immintrin.h>

#include "kernels/dwconv_i8/tile.h"
#include "simd/lanes.h"

namespace lowbit::kernels {
namespace {

inline __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }
inline __mmask16 first_floats(int64_t n) {
  return n <= 0 ? 0 : n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1u);
}

// A vector of kParts pixels of `channels` bytes each, of which the first `there` exist; kFull: nothing is missing.
template <int kParts, bool kFull>
LOWBIT_INLINE __m512i load_parts(const uint8_t* p, int64_t step, int64_t there, int64_t channels) {
  const __mmask64 mask = first_bytes(channels);
  if constexpr (kParts == 1) {
    return kFull ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(mask, p);
  } else if constexpr (kParts == 2) {
    const auto load = [&](int part) {
      const auto half = static_cast<__mmask32>(there > part ? mask : 0);
      return kFull ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + part * step))
                   : _mm256_maskz_loadu_epi8(half, p + part * step);
    };
    return _mm512_inserti64x4(_mm512_castsi256_si512(load(0)), load(1), 1);
  } else {
    const auto load = [&](int part) {
      const auto quarter = static_cast<__mmask16>(there > part ? mask : 0);
      return kFull ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + part * step))
                   : _mm_maskz_loadu_epi8(quarter, p + part * step);
    };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(2)), load(3), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
}

// Holds a value in a register: the compiler would rather load it again at each use.
template <class T>
LOWBIT_INLINE T keep(T value) {
  asm("" : "+v"(value));
  return value;
}

LOWBIT_INLINE __m512i words(const __m512i v[2]) { return _mm512_packs_epi32(v[0], v[1]); }

struct Finish : BlockConstants<64> {
  alignas(64) uint8_t highest[64], lowest[64];

  void prepare(const DwconvI8Args& args, int64_t n, int64_t c, int64_t count, int64_t parts_of_block) {
    BlockConstants::prepare(args, n, c, count, parts_of_block);
    _mm512_store_si512(highest, _mm512_set1_epi8(static_cast<char>(epilogue->hi)));
    _mm512_store_si512(lowest, _mm512_set1_epi8(static_cast<char>(epilogue->lo)));
  }

  // kernel.h's slope, of quarter q.
  LOWBIT_INLINE __m512 bent(__m512 t, int q) const {
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(t));
    const __m512 factor = _mm512_mask_blend_ps(negative, _mm512_set1_ps(1), _mm512_load_ps(slope + 16 * q));
    return _mm512_fmadd_ps(t, factor, _mm512_set1_ps(epilogue->zero_point));
  }

  // Rounds kCount results of quarter q to whole numbers, still without bounds.
  template <int kCount>
  LOWBIT_INLINE void convert(const __m512i* acc, int q, __m512i* out, int out_step) const {
    const __m512 m = keep(_mm512_load_ps(multiplier + 16 * q)), b = keep(_mm512_load_ps(bias + 16 * q));
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      const __m512 t = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i]), m, b);
      out[i * out_step] = _mm512_cvtps_epi32(epilogue->slope ? bent(t, q) : t);
    }
  }

  // Codes of four quarters, as words. Saturation on the way to bytes does the clamping that the bounds leave undone,
  // and all of it where kBare.
  template <bool kBare = false>
  LOWBIT_INLINE __m512i pack(__m512i lower, __m512i upper) const {
    const __m512i v = _mm512_packus_epi16(lower, upper);
    if constexpr (kBare) return v;
    return _mm512_max_epu8(_mm512_min_epu8(v, _mm512_load_si512(highest)), _mm512_load_si512(lowest));
  }

  LOWBIT_INLINE __m512i translated(__m512i v) const { return epilogue->table ? lookup(epilogue->table->steps, v) : v; }

  LOWBIT_INLINE void store(__m512i v, int64_t at, int64_t pixel, int64_t there) const {
    uint8_t* y = codes + at;
    const __mmask64 mask = first_bytes(channels);
    if (parts == 1) return _mm512_mask_storeu_epi8(y, mask, v);
    if (channels == 32 && there == 2) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_castsi512_si256(v));
      return _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + pixel), _mm512_extracti64x4_epi64(v, 1));
    }
    if (parts == 2) {
      _mm256_mask_storeu_epi8(y, static_cast<__mmask32>(mask), _mm512_castsi512_si256(v));
      if (there > 1) _mm256_mask_storeu_epi8(y + pixel, static_cast<__mmask32>(mask), _mm512_extracti64x4_epi64(v, 1));
      return;
    }
    const auto quarter = static_cast<__mmask16>(mask);
    _mm_mask_storeu_epi8(y, quarter, _mm512_castsi512_si128(v));
    if (there > 1) _mm_mask_storeu_epi8(y + pixel, quarter, _mm512_extracti32x4_epi32(v, 1));
    if (there > 2) _mm_mask_storeu_epi8(y + 2 * pixel, quarter, _mm512_extracti32x4_epi32(v, 2));
    if (there > 3) _mm_mask_storeu_epi8(y + 3 * pixel, quarter, _mm512_extracti32x4_epi32(v, 3));
  }

  __m512i residual_codes(int64_t at, int64_t there) const {
    const uint8_t* r = epilogue->residual.data + at;
    if (parts == 1) return load_parts<1, false>(r, 0, 1, channels);
    if (parts == 2) return load_parts<2, false>(r, residual_pixel, there, channels);
    return load_parts<4, false>(r, residual_pixel, there, channels);
  }

  // Sixteen residuals of quarter q in the interleaved order.
  static __m512i quarter_of(__m512i bytes, int q) {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i words = q < 2 ? _mm512_unpacklo_epi8(bytes, zero) : _mm512_unpackhi_epi8(bytes, zero);
    return q % 2 == 0 ? _mm512_unpacklo_epi16(words, zero) : _mm512_unpackhi_epi16(words, zero);
  }

  void store_floats(const __m512 t[4], int64_t at, int64_t there) const {
    const __m512 a = _mm512_shuffle_f32x4(t[0], t[1], 0x44), b = _mm512_shuffle_f32x4(t[2], t[3], 0x44);
    const __m512 c = _mm512_shuffle_f32x4(t[0], t[1], 0xee), d = _mm512_shuffle_f32x4(t[2], t[3], 0xee);
    const __m512 natural[4] = {_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd),
                               _mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd)};
    const int64_t vectors = 4 / parts;
    const __m512 lowest = _mm512_set1_ps(epilogue->min), highest = _mm512_set1_ps(epilogue->max);
    for (int64_t i = 0; i < there * vectors; ++i) {
      const int64_t first = i % vectors * 16;
      _mm512_mask_storeu_ps(floats + at + i / vectors * pixel + first, first_floats(channels - first),
                            _mm512_min_ps(highest, _mm512_max_ps(lowest, natural[i])));
    }
  }

  void finish_any(const __m512i acc[4], int64_t y, int64_t residual, int64_t there) const {
    __m512 t[4];
    const bool add = epilogue->residual.data != nullptr;
    const __m512i r = add ? residual_codes(residual, there) : _mm512_setzero_si512();
    for (int q = 0; q < 4; ++q) {
      const __m512 sum = _mm512_cvtepi32_ps(acc[q]);
      const __m512 m = _mm512_load_ps(multiplier + 16 * q), b = _mm512_load_ps(bias + 16 * q);
      t[q] = epilogue->row_scale ? _mm512_fmadd_ps(_mm512_mul_ps(sum, m), _mm512_set1_ps(row_scale), b)
                                 : _mm512_fmadd_ps(sum, m, b);
      if (add)
        t[q] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(quarter_of(r, q)), _mm512_set1_ps(epilogue->residual_multiplier), t[q]);
      if (epilogue->slope) t[q] = bent(t[q], q);
    }
    if (epilogue->output == DType::f32) return store_floats(t, y, there);
    // Below the range a conversion gives a negative number, which saturates; above, it would turn negative too.
    const __m512 highest = _mm512_set1_ps(static_cast<float>(epilogue->hi));
    __m512i v[4];
    for (int q = 0; q < 4; ++q) v[q] = _mm512_cvtps_epi32(_mm512_min_ps(t[q], highest));
    store(translated(pack(words(v), words(v + 2))), y, pixel, there);
  }

  // Codes of a block's channels; part p goes to y + p * step, if it is there.
  template <bool kBare, int kParts>
  LOWBIT_INLINE void leave_rows(__m512i v, int64_t y, int64_t step, int64_t there) const {
    if constexpr (!kBare) v = translated(v);
    uint8_t* to = codes + y;
    if (channels == 64 / kParts) {
      if constexpr (kParts == 1) {
        _mm512_storeu_si512(to, v);
      } else if constexpr (kParts == 2) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(v));
        if (there > 1) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + step), _mm512_extracti64x4_epi64(v, 1));
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(v));
        if (there > 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + step), _mm512_extracti32x4_epi32(v, 1));
        if (there > 2) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * step), _mm512_extracti32x4_epi32(v, 2));
        if (there > 3) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 3 * step), _mm512_extracti32x4_epi32(v, 3));
      }
    } else {
      store(v, y, step, there);
    }
  }

  // The end of one vector of results: rounded ones (convert), or for Mode::any accumulators.
  template <Mode kMode>
  LOWBIT_INLINE void leave(const __m512i v[4], int64_t y, int64_t residual, int64_t there) const {
    if constexpr (kMode == Mode::full) {
      _mm512_storeu_si512(codes + y, translated(pack(words(v), words(v + 2))));
    } else if constexpr (kMode == Mode::parts) {
      store(translated(pack(words(v), words(v + 2))), y, pixel, there);
    } else {
      finish_any(v, y, residual, there);
    }
  }
};

}  // namespace
}  // namespace lowbit::kernels
