// A 256-entry byte table in registers, for ISAs without a 256-byte permute.
//
// Entry x lies in sixteenth x / 16 of the table. vpshufb gives 0 where the index is negative, so with signed saturating
// subtraction of 16 at each step, step i of a half contributes where x reaches sixteenth i: the prefix differences
// T[i] ^ T[i - 1] telescope to T[x / 16]. Two halves, because the index is signed.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace lowbit::kernels {
namespace {

#if defined(__AVX512BW__)
using Bytes = __m512i;
inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_bytes(uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
inline Bytes repeat16(__m128i v) { return _mm512_broadcast_i32x4(v); }
inline Bytes splat_byte(char v) { return _mm512_set1_epi8(v); }
inline Bytes exclusive_or(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
inline Bytes subtract(Bytes a, Bytes b) { return _mm512_subs_epi8(a, b); }
inline Bytes shuffle(Bytes table, Bytes index) { return _mm512_shuffle_epi8(table, index); }
inline Bytes within(Bytes v, Bytes lo, Bytes hi) { return _mm512_min_epu8(_mm512_max_epu8(v, lo), hi); }
#else
using Bytes = __m256i;
inline Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_bytes(uint8_t* p, Bytes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline Bytes repeat16(__m128i v) { return _mm256_broadcastsi128_si256(v); }
inline Bytes splat_byte(char v) { return _mm256_set1_epi8(v); }
inline Bytes exclusive_or(Bytes a, Bytes b) { return _mm256_xor_si256(a, b); }
inline Bytes subtract(Bytes a, Bytes b) { return _mm256_subs_epi8(a, b); }
inline Bytes shuffle(Bytes table, Bytes index) { return _mm256_shuffle_epi8(table, index); }
inline Bytes within(Bytes v, Bytes lo, Bytes hi) { return _mm256_min_epu8(_mm256_max_epu8(v, lo), hi); }
#endif

inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store16(void* p, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }

// steps [256]: those of a CodeTable.
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

}  // namespace
}  // namespace lowbit::kernels
