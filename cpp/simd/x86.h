// What avx2.h and avx512.h have in common: sums over lanes, byte tables, blocked transposition.
#pragma once

namespace lowbit::kernels {
namespace {

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

inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store16(void* p, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }

// A 256-entry byte table in registers, for ISAs without a 256-byte permute: entry x lies in sixteenth x / 16 of the
// table. vpshufb gives 0 where the index is negative, so with signed saturating subtraction of 16 at each step, step i
// of a half contributes where x reaches sixteenth i: the prefix differences T[i] ^ T[i - 1] telescope to T[x / 16]. Two
// halves, because the index is signed. steps [256]: those of a CodeTable.
inline Bytes lookup(const uint8_t* steps, Bytes x) {
  const Bytes sixteen = splat_byte(16);
  Bytes low = x, high = exclusive_or(x, splat_byte(-128)), y = splat_byte(0);
  for (int i = 0; i < 128; i += 16) {
    y = exclusive_or(y, shuffle(repeat16(load16(steps + i)), low));
    y = exclusive_or(y, shuffle(repeat16(load16(steps + 128 + i)), high));
    low = subtract(low, sixteen);
    high = subtract(high, sixteen);
  }
  return y;
}

struct ByteTable {
  alignas(64) uint8_t steps[256];

  ByteTable() = default;
  explicit ByteTable(const uint8_t* table) { set(table); }
  void set(const uint8_t* table) {
    for (int half = 0; half < 256; half += 128) {
      store16(steps + half, load16(table + half));
      for (int i = 16; i < 128; i += 16)
        store16(steps + half + i, _mm_xor_si128(load16(table + half + i), load16(table + half + i - 16)));
    }
  }

  Bytes operator()(Bytes x) const { return lookup(steps, x); }
};

// Two codes a byte, the low nibble first.
inline Lanes load_nibbles(const uint8_t* p, int32_t offset) {
  const __m128i mask = _mm_set1_epi8(15), pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const __m128i low = _mm_and_si128(pairs, mask), high = _mm_and_si128(_mm_srli_epi16(pairs, 4), mask);
  return codes_to_lanes(_mm_unpacklo_epi8(low, high), offset);
}
// The same of two bits, four a byte.
inline Lanes load_quarters(const uint8_t* p, int32_t offset) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  const __m128i mask = _mm_set1_epi8(3), four = _mm_cvtsi32_si128(word);
  const __m128i first = _mm_unpacklo_epi8(_mm_and_si128(four, mask), _mm_and_si128(_mm_srli_epi16(four, 2), mask));
  const __m128i last =
      _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(four, 4), mask), _mm_and_si128(_mm_srli_epi16(four, 6), mask));
  return codes_to_lanes(_mm_unpacklo_epi16(first, last), offset);
}

inline Sums add_codes(Sums a, const uint8_t* p, int64_t n) { return add(a, load_sixteen(p, n)); }
inline Sums add_codes(Sums a, const uint8_t* p, Full) { return add(a, load16(p)); }

// 16 x 16 bytes: four rounds of interleaving row i with row i + 8.
inline void transpose_16x16(const uint8_t* x, int64_t x_stride, uint8_t* y, int64_t y_stride) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = load16(x + i * x_stride);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) store16(y + i * y_stride, a[i]);
}

inline void transpose_8x8(const uint8_t* x, int64_t x_stride, uint8_t* y, int64_t y_stride) {
  __m128i a[4], b[4];
  for (int i = 0; i < 4; ++i)
    a[i] = _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + 2 * i * x_stride)),
                             _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + (2 * i + 1) * x_stride)));
  for (int i = 0; i < 2; ++i) {
    b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    a[2 * i] = _mm_unpacklo_epi32(b[i], b[i + 2]);
    a[2 * i + 1] = _mm_unpackhi_epi32(b[i], b[i + 2]);
  }
  for (int i = 0; i < 4; ++i) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(y + 2 * i * y_stride), a[i]);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(y + (2 * i + 1) * y_stride), _mm_srli_si128(a[i], 8));
  }
}

// Three planes of 16 to 16 pixels of three: image input.
inline void interleave_3x16(const uint8_t* x, int64_t x_stride, uint8_t* y) {
  const __m128i a = load16(x), b = load16(x + x_stride), c = load16(x + 2 * x_stride);
  constexpr char z = -1;
  const __m128i a0 = _mm_setr_epi8(0, z, z, 1, z, z, 2, z, z, 3, z, z, 4, z, z, 5);
  const __m128i b0 = _mm_setr_epi8(z, 0, z, z, 1, z, z, 2, z, z, 3, z, z, 4, z, z);
  const __m128i c0 = _mm_setr_epi8(z, z, 0, z, z, 1, z, z, 2, z, z, 3, z, z, 4, z);
  const __m128i a1 = _mm_setr_epi8(z, z, 6, z, z, 7, z, z, 8, z, z, 9, z, z, 10, z);
  const __m128i b1 = _mm_setr_epi8(5, z, z, 6, z, z, 7, z, z, 8, z, z, 9, z, z, 10);
  const __m128i c1 = _mm_setr_epi8(z, 5, z, z, 6, z, z, 7, z, z, 8, z, z, 9, z, z);
  const __m128i a2 = _mm_setr_epi8(z, 11, z, z, 12, z, z, 13, z, z, 14, z, z, 15, z, z);
  const __m128i b2 = _mm_setr_epi8(z, z, 11, z, z, 12, z, z, 13, z, z, 14, z, z, 15, z);
  const __m128i c2 = _mm_setr_epi8(10, z, z, 11, z, z, 12, z, z, 13, z, z, 14, z, z, 15);
  const auto merge = [&](__m128i i, __m128i j, __m128i k) {
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, i), _mm_shuffle_epi8(b, j)), _mm_shuffle_epi8(c, k));
  };
  store16(y, merge(a0, b0, c0));
  store16(y + 16, merge(a1, b1, c1));
  store16(y + 32, merge(a2, b2, c2));
}

template <class T>
inline void transpose_plain(const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) y[r * y_stride + c] = x[c * x_stride + r];
}

inline void transpose(const uint8_t* x, int64_t x_stride, uint8_t* y, int64_t y_stride, int64_t rows, int64_t cols) {
  int64_t r = 0;
  if (cols == 3 && y_stride == 3) {
    for (; r + 16 <= rows; r += 16) interleave_3x16(x + r, x_stride, y + r * 3);
  } else {
    for (; cols >= 16 && r + 16 <= rows; r += 16) {
      int64_t c = 0;
      for (; c + 16 <= cols; c += 16) transpose_16x16(x + c * x_stride + r, x_stride, y + r * y_stride + c, y_stride);
      transpose_plain(x + c * x_stride + r, x_stride, y + r * y_stride + c, y_stride, 16, cols - c);
    }
    for (; cols >= 8 && r + 8 <= rows; r += 8) {
      int64_t c = 0;
      for (; c + 8 <= cols; c += 8) transpose_8x8(x + c * x_stride + r, x_stride, y + r * y_stride + c, y_stride);
      transpose_plain(x + c * x_stride + r, x_stride, y + r * y_stride + c, y_stride, 8, cols - c);
    }
  }
  transpose_plain(x + r, x_stride, y + r * y_stride, y_stride, rows - r, cols);
}

inline void transpose_8x8(const uint32_t* x, int64_t x_stride, uint32_t* y, int64_t y_stride) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(x + i * x_stride));
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; ++k) {
      a[i + 2 * k] = _mm256_shuffle_ps(b[i + k], b[i + 2 + k], 0x44);
      a[i + 2 * k + 1] = _mm256_shuffle_ps(b[i + k], b[i + 2 + k], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(reinterpret_cast<float*>(y + i * y_stride), _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(reinterpret_cast<float*>(y + (i + 4) * y_stride), _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

// Three planes of 8 to 8 pixels of three.
inline void interleave_3x8(const uint32_t* x, int64_t x_stride, uint32_t* y) {
  const auto load = [&](int i) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i * x_stride)); };
  const __m256i a = load(0), b = load(1), c = load(2), third = _mm256_setr_epi32(0, 0, 0, 1, 1, 1, 2, 2);
  // Eight elements of which every third is the next one of a plane, from element `at` on.
  const auto spread = [&](__m256i plane, int at) {
    return _mm256_permutevar8x32_epi32(plane, _mm256_add_epi32(third, _mm256_set1_epi32(at)));
  };
  const auto merge = [&](int i, __m256i first, __m256i second, __m256i last) {
    const __m256i v = _mm256_blend_epi32(_mm256_blend_epi32(first, second, 0x92), last, 0x24);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + 8 * i), v);
  };
  merge(0, spread(a, 0), spread(b, 0), spread(c, 0));
  merge(1, spread(c, 2), spread(a, 3), spread(b, 3));
  merge(2, spread(b, 5), spread(c, 5), spread(a, 6));
}

inline void transpose(const uint32_t* x, int64_t x_stride, uint32_t* y, int64_t y_stride, int64_t rows, int64_t cols) {
  int64_t r = 0;
  if (cols == 3 && y_stride == 3)
    for (; r + 8 <= rows; r += 8) interleave_3x8(x + r, x_stride, y + r * 3);
  for (; cols >= 8 && r + 8 <= rows; r += 8) {
    int64_t c = 0;
    for (; c + 8 <= cols; c += 8) transpose_8x8(x + c * x_stride + r, x_stride, y + r * y_stride + c, y_stride);
    transpose_plain(x + c * x_stride + r, x_stride, y + r * y_stride + c, y_stride, 8, cols - c);
  }
  transpose_plain(x + r, x_stride, y + r * y_stride, y_stride, rows - r, cols);
}

}  // namespace
}  // namespace lowbit::kernels
