// Depthwise convolution for AVX2: two image rows in each dword as 16-bit numbers, vpmaddwd. Exact: no sum of two
// products of 9 and 8 bits comes near 2^31, and nothing saturates. What does not walk (walk_256.h) takes 32 channels a
// step.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this file for AVX2 and FMA only: cpp/isa.cmake"
#endif

#include <immintrin.h>

#include "kernels/dwconv_i8/tile.h"
#include "kernels/dwconv_i8/walk_256.h"
#include "simd/copy_few.h"
#include "simd/lanes.h"

namespace lowbit::kernels {
namespace {

inline __m128i load_part(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// A vector of kParts pixels, of which the first `there` exist; what lies behind their channels is read too.
template <int kParts>
inline __m256i load_parts(const uint8_t* p, int64_t step, int64_t there) {
  if constexpr (kParts == 1) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  } else {
    const __m128i second = there > 1 ? load_part(p + step) : _mm_setzero_si128();
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_part(p)), second, 1);
  }
}

struct Finish : BlockConstants<32> {
  // kernel.h's slope, of quarter q.
  LOWBIT_INLINE __m256 bent(__m256 t, int q) const {
    const __m256 factor = _mm256_blendv_ps(_mm256_set1_ps(1), _mm256_load_ps(slope + 8 * q), t);
    return _mm256_fmadd_ps(t, factor, _mm256_set1_ps(epilogue->zero_point));
  }

  // Rounds kCount results of quarter q to whole numbers, still without bounds.
  template <int kCount>
  LOWBIT_INLINE void convert(const __m256i* acc, int q, __m256i* out, int out_step) const {
    const __m256 m = keep(_mm256_load_ps(multiplier + 8 * q)), b = keep(_mm256_load_ps(bias + 8 * q));
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      const __m256 t = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[i]), m, b);
      out[i * out_step] = _mm256_cvtps_epi32(epilogue->slope ? bent(t, q) : t);
    }
  }

  // Codes of four quarters, not yet the table's. Saturation on the way to bytes does the clamping that the bounds leave
  // undone.
  LOWBIT_INLINE __m256i pack(const __m256i v[4]) const {
    const __m256i lower = _mm256_packs_epi32(v[0], v[1]);
    const __m256i upper = _mm256_packs_epi32(v[2], v[3]);
    const __m256i hi = _mm256_set1_epi8(static_cast<char>(epilogue->hi)),
                  lo = _mm256_set1_epi8(static_cast<char>(epilogue->lo));
    return _mm256_max_epu8(_mm256_min_epu8(_mm256_packus_epi16(lower, upper), hi), lo);
  }
  LOWBIT_INLINE __m256i translated(__m256i v) const { return epilogue->table ? lookup(epilogue->table->steps, v) : v; }

  inline void store(__m256i v, int64_t at, int64_t there) const {
    uint8_t* y = codes + at;
    if (channels == 32) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), v);
    alignas(32) uint8_t bytes[64];
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), v);
    for (int64_t part = 0; part < there; ++part) copy_few<32>(y + part * pixel, bytes + part * 16, channels);
  }

  // Copied channel by channel where the block is not full: a residual promises no slack.
  __m256i residual_codes(int64_t at, int64_t there) const {
    const uint8_t* r = epilogue->residual.data + at;
    if (channels == 32) return load_parts<1>(r, 0, 1);
    alignas(32) uint8_t bytes[64] = {};
    for (int64_t part = 0; part < there; ++part) copy_few<32>(bytes + part * 16, r + part * residual_pixel, channels);
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
  }

  // Eight residuals of quarter q in the interleaved order.
  static __m256i quarter_of(__m256i bytes, int q) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i words = q < 2 ? _mm256_unpacklo_epi8(bytes, zero) : _mm256_unpackhi_epi8(bytes, zero);
    return q % 2 == 0 ? _mm256_unpacklo_epi16(words, zero) : _mm256_unpackhi_epi16(words, zero);
  }

  void store_floats(const __m256 t[4], int64_t at, int64_t there) const {
    const __m256 lowest = _mm256_set1_ps(epilogue->min), highest = _mm256_set1_ps(epilogue->max);
    alignas(32) float natural[32];
    for (int q = 0; q < 4; ++q) {
      const __m256 y = _mm256_min_ps(highest, _mm256_max_ps(lowest, t[q]));
      _mm_store_ps(natural + 4 * q, _mm256_castps256_ps128(y));
      _mm_store_ps(natural + 16 + 4 * q, _mm256_extractf128_ps(y, 1));
    }
    for (int64_t part = 0; part < there; ++part) {
      float* y = floats + at + part * pixel;
      int64_t i = 0;
      for (; i + 8 <= channels; i += 8) _mm256_storeu_ps(y + i, _mm256_load_ps(natural + part * 16 + i));
      for (; i < channels; ++i) y[i] = natural[part * 16 + i];
    }
  }

  void finish_any(const __m256i acc[4], int64_t y, int64_t residual, int64_t there) const {
    __m256 t[4];
    const bool add = epilogue->residual.data != nullptr;
    const __m256i r = add ? residual_codes(residual, there) : _mm256_setzero_si256();
    for (int q = 0; q < 4; ++q) {
      const __m256 sum = _mm256_cvtepi32_ps(acc[q]);
      const __m256 m = _mm256_load_ps(multiplier + 8 * q), b = _mm256_load_ps(bias + 8 * q);
      t[q] = epilogue->row_scale ? _mm256_fmadd_ps(_mm256_mul_ps(sum, m), _mm256_set1_ps(row_scale), b)
                                 : _mm256_fmadd_ps(sum, m, b);
      if (add)
        t[q] =
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(quarter_of(r, q)), _mm256_set1_ps(epilogue->residual_multiplier), t[q]);
      if (epilogue->slope) t[q] = bent(t[q], q);
    }
    if (epilogue->output == DType::f32) return store_floats(t, y, there);
    // Below the range a conversion gives a negative number, which saturates; above, it would turn negative too.
    const __m256 highest = _mm256_set1_ps(static_cast<float>(epilogue->hi));
    __m256i v[4];
    for (int q = 0; q < 4; ++q) v[q] = _mm256_cvtps_epi32(_mm256_min_ps(t[q], highest));
    store(translated(pack(v)), y, there);
  }

  // The end of one vector of results: rounded ones (convert), or for Mode::any accumulators.
  template <Mode kMode>
  LOWBIT_INLINE void leave(const __m256i v[4], int64_t y, int64_t residual, int64_t there) const {
    if constexpr (kMode == Mode::full) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + y), translated(pack(v)));
    } else if constexpr (kMode == Mode::parts) {
      store(translated(pack(v)), y, there);
    } else {
      finish_any(v, y, residual, there);
    }
  }
};

struct Avx2 {
  using Vector = __m256i;
  using Finish = kernels::Finish;
  static constexpr int kBlock = 32, kGroup = 2;
  static constexpr int kPixels = 2;

  static __m256i load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  static __m256i dot(__m256i acc, __m256i codes, __m256i weights) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(codes, weights));
  }

  static __m256i keep(__m256i value) { return kernels::keep(value); }

  template <int kParts, bool>
  static LOWBIT_INLINE void interleave(const uint8_t* const rows[2], const Columns& columns, uint8_t* out) {
    const __m256i zero = _mm256_setzero_si256();
    const uint8_t *upper = rows[0], *lower = rows[1];
    for (int64_t i = 0; i < columns.count; ++i, upper += columns.pixel, lower += columns.pixel, out += columns.out) {
      const __m256i a = load_parts<kParts>(upper, columns.part, kParts);
      const __m256i b = load_parts<kParts>(lower, columns.part, kParts);
      const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
      __m256i* to = reinterpret_cast<__m256i*>(out);
      _mm256_store_si256(to, _mm256_unpacklo_epi8(low, zero));
      _mm256_store_si256(to + 1, _mm256_unpackhi_epi8(low, zero));
      _mm256_store_si256(to + 2, _mm256_unpacklo_epi8(high, zero));
      _mm256_store_si256(to + 3, _mm256_unpackhi_epi8(high, zero));
    }
  }
};

void run(const DwconvI8Args& args, int64_t task, int64_t tasks) {
  if (walks(args)) return run_walks(args, task, tasks);
  run_dwconv<Avx2>(args, task, tasks);
}

}  // namespace

extern constinit const DwconvI8Kernel dwconv_i8_avx2 = {{"avx2", Isa::avx2}, Avx2::kBlock, Avx2::kGroup, run};

}  // namespace lowbit::kernels
