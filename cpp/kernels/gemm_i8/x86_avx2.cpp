// u8 x s8 without a dot-product instruction, yet exact, although vpmaddubsw would saturate for codes of 8 bits. For
// most weights x stays as it is, and they are packed so that nothing saturates (pairs.h). For the others, x is shifted
// to s8 and its sign moved to w: x * w = |x| * -w for negative x, and -w = ~w + 1. So a dot product takes |x| and w
// with its bits flipped where x is negative (an xor), and all sums of a row lack the same sum of |x| over its negative
// x, which is found once for all channels. With |x| <= 128, and 127 where w is not flipped, a pair lies within -2 * 128
// * 128 .. 2 * 128 * 127, which 16 bits just hold.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/gemm_i8/flipped.h"
#include "kernels/gemm_i8/pairs.h"
#include "kernels/gemm_i8/tile.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {
namespace {

struct Flip256 : Avx2 {
  using Operand = Flipped;
  static constexpr int kOperandBytes = 4;
  static constexpr int32_t kXOffset = 128;
  static constexpr bool kRowSums = true;
  static constexpr bool kTogether = true;
  static constexpr bool kStoresFloats = false;

  static LOWBIT_INLINE Operand operand(const uint8_t* x) { return flipped(broadcast_quad(x)); }
  static LOWBIT_INLINE Operand flipped(Int x) { return Flipped::of(_mm256_xor_si256(x, _mm256_set1_epi8(-128))); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return x.dot(acc, w); }
};

// Two places in a row, none of them negative, in one load: loads are scarce in these loops.
struct Places {
  int64_t first, second;
};
LOWBIT_INLINE Places both(const int32_t* places) {
  int64_t two;
  __builtin_memcpy(&two, places, sizeof two);
  return {static_cast<uint32_t>(two), two >> 32};
}

// Operands from packed rows: four magnitudes, then four bytes that are ~0 where x is negative.
struct PackedFlip256 : Flip256 {
  static constexpr int kOperandBytes = 8;
  static LOWBIT_INLINE Operand operand(const uint8_t* x) { return {broadcast_quad(x + 4), broadcast_quad(x)}; }
};

// The same in pairs of quads, whose products share 16 bits, then quads alone (flipped.h).
struct PairedFlip256 : Flip256 {
  static LOWBIT_INLINE Int products(const uint8_t* x, Int w) {
    return _mm256_maddubs_epi16(broadcast_quad(x), _mm256_xor_si256(w, broadcast_quad(x + 4)));
  }

  template <int kRows>
  static LOWBIT_INLINE void add_products(const GemmI8Tile& t, Int (&acc)[kRows][2]) {
    const uint8_t* x[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = t.x[r];
    const Int ones = _mm256_set1_epi16(1);
    const auto add = [&](Int& sum, Int sums)
                         __attribute__((always_inline)) { sum = _mm256_add_epi32(sum, _mm256_madd_epi16(sums, ones)); };
    const int8_t* w = t.panel;
    // One row or two wait for their weights, and gain nothing.
    const int32_t *at = t.places, *paired = at + (kRows > 2 ? 2 * t.pairs : 0), *end = at + t.quads;
    for (; at != paired; at += 2, w += 128) {
      const auto [a, b] = both(at);
      const Int first[2] = {load(w), load(w + 32)};
      __builtin_prefetch(w + prefetch_bytes(kRows, kLanes));
      __builtin_prefetch(w + prefetch_bytes(kRows, kLanes) + 64);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        Int sums[2];
        LOWBIT_UNROLL
        for (int v = 0; v < 2; ++v) sums[v] = products(x[r] + a, first[v]);
        LOWBIT_UNROLL
        for (int v = 0; v < 2; ++v) sums[v] = _mm256_add_epi16(sums[v], products(x[r] + b, load(w + 64 + 32 * v)));
        LOWBIT_UNROLL
        for (int v = 0; v < 2; ++v) add(acc[r][v], sums[v]);
      }
    }
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      LOWBIT_UNROLL
      for (int v = 0; v < 2; ++v) asm("" : "+x"(acc[r][v]));  // or the loops keep sums in different registers
    }
    for (; at != end; ++at, w += 64) {
      const int64_t a = *at;
      const Int first[2] = {load(w), load(w + 32)};
      __builtin_prefetch(w + prefetch_bytes(kRows, kLanes));
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        LOWBIT_UNROLL
        for (int v = 0; v < 2; ++v) add(acc[r][v], products(x[r] + a, first[v]));
      }
    }
  }
};

// The operands of 16 or 32 bytes, magnitudes and signs in turn, if they are wanted; four sums of |x| over negative x.
LOWBIT_INLINE __m256i pack(__m256i x, uint8_t* packed) {
  if (packed != nullptr) {
    const Flipped f = Flip256::flipped(x);
    const __m256i low = _mm256_unpacklo_epi32(f.magnitude, f.negative);  // quads 0, 1, 4, 5
    const __m256i high = _mm256_unpackhi_epi32(f.magnitude, f.negative);
    auto* to = reinterpret_cast<__m256i*>(packed);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
  }
  return _mm256_sad_epu8(_mm256_subs_epu8(_mm256_set1_epi8(-128), x), _mm256_setzero_si256());
}
LOWBIT_INLINE __m128i pack(__m128i x, uint8_t* packed) {
  if (packed != nullptr) {
    const __m128i shifted = _mm_xor_si128(x, _mm_set1_epi8(-128));
    const __m128i negative = _mm_cmpgt_epi8(_mm_setzero_si128(), shifted), magnitude = _mm_abs_epi8(shifted);
    auto* to = reinterpret_cast<__m128i*>(packed);
    _mm_storeu_si128(to, _mm_unpacklo_epi32(magnitude, negative));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi32(magnitude, negative));
  }
  return _mm_sad_epu8(_mm_subs_epu8(_mm_set1_epi8(-128), x), _mm_setzero_si128());
}

// 4, 8 or 12 bytes, then some that count as zero.
LOWBIT_INLINE __m128i load_few(const uint8_t* x, int64_t bytes) {
  const __m128i zeros = _mm_set1_epi8(-128);
  if (bytes == 4) return _mm_unpacklo_epi64(_mm_unpacklo_epi32(_mm_loadu_si32(x), zeros), zeros);
  const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x));
  return _mm_unpacklo_epi64(first, bytes == 8 ? zeros : _mm_unpacklo_epi32(_mm_loadu_si32(x + 8), zeros));
}

// `bytes`, a multiple of 4, of a row; the sum of |x| over negative x.
template <bool kPacked>
LOWBIT_INLINE int32_t pack_run(const uint8_t* x, int64_t bytes, uint8_t* packed) {
  const auto to = [&](int64_t i) { return kPacked ? packed + 2 * i : nullptr; };
  __m128i sum = _mm_setzero_si128();
  int64_t i = 0;
  if (bytes >= 32) {
    __m256i wide = _mm256_setzero_si256();
    for (; i + 32 <= bytes; i += 32) wide = _mm256_add_epi64(wide, pack(Avx2::load(x + i), to(i)));
    sum = _mm_add_epi64(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  }
  if (i + 16 <= bytes) {
    sum = _mm_add_epi64(sum, pack(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)), to(i)));
    i += 16;
  }
  if (i < bytes) sum = _mm_add_epi64(sum, pack(load_few(x + i, bytes - i), to(i)));
  return _mm_cvtsi128_si32(_mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum)));
}

// A run's bytes; where few are copied, never one by one.
LOWBIT_INLINE void copy_run(uint8_t* to, const uint8_t* from, int64_t bytes) {
  if (bytes <= 32) return copy_few<32>(to, from, bytes);
  for (int64_t i = 0; i + 32 < bytes; i += 32) Avx2::store(reinterpret_cast<int32_t*>(to + i), Avx2::load(from + i));
  Avx2::store(reinterpret_cast<int32_t*>(to + bytes - 32), Avx2::load(from + bytes - 32));
}

// Some rows are joined before the first one is packed: what was just written in pieces is slow to read as a whole.
void pack_joined(const uint8_t* const* x, int64_t rows, const int64_t* taps, int64_t tap_count, int64_t bytes,
                 int32_t* sums, uint8_t* packed) {
  constexpr int64_t kAtOnce = 32, kMost = GemmI8RowPacking::kMostJoined;
  alignas(32) uint8_t lines[kMost + 4];
  const int64_t joined = (tap_count * bytes + 3) / 4 * 4, at_once = joined * kAtOnce > kMost ? kMost / joined : kAtOnce;
  for (int64_t first = 0; first < rows; first += at_once) {
    const int64_t count = rows - first < at_once ? rows - first : at_once;
    for (int64_t row = 0; row < count; ++row) {
      uint8_t* to = lines + row * joined;
      for (int64_t tap = 0; tap < tap_count; ++tap, to += bytes) copy_run(to, x[first + row] + taps[tap], bytes);
      __builtin_memset(to, 0, 4);
    }
    for (int64_t row = 0; row < count; ++row, packed += 2 * joined)
      sums[first + row] = pack_run<true>(lines + row * joined, joined, packed);
  }
}

void pack_rows(const uint8_t* const* x, int64_t rows, const int64_t* taps, int64_t tap_count, int64_t bytes,
               int32_t* sums, uint8_t* packed) {
  if (bytes % 4 != 0) return pack_joined(x, rows, taps, tap_count, bytes, sums, packed);
  for (int64_t row = 0; row < rows; ++row) {
    int32_t sum = 0;
    for (int64_t tap = 0; tap < tap_count; ++tap) {
      const uint8_t* run = x[row] + taps[tap];
      sum += packed != nullptr ? pack_run<true>(run, bytes, packed) : pack_run<false>(run, bytes, nullptr);
      if (packed != nullptr) packed += 2 * bytes;
    }
    sums[row] = sum;
  }
}

// Raw x, with weights of which 16 bits hold two sums (pairs.h). One vector of channels, for fewer channels have fewer
// rests, and quads are more easily matched.
struct Pairs256 : Avx2 {
  static constexpr int32_t kXOffset = 0;
  static constexpr bool kRowSums = false;
  static constexpr bool kTogether = true;
  static constexpr bool kStoresFloats = false;

  template <int kRows>
  static LOWBIT_INLINE void add_products(const GemmI8Tile& t, Int (&acc)[kRows][1]) {
    const uint8_t* x[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = t.x[r] + t.taps[0];
    const int8_t* w = t.panel;
    const int64_t panel = (t.quads + 1) / 2 * 64;  // the next one comes from afar while this one is multiplied
    for (const int32_t *at = t.places, *end = at + (t.quads + 1) / 2 * 2; at != end; at += 2, w += 64) {
      const Int first = load(w), second = load(w + 32);
      const auto [a, b] = both(at);
      __builtin_prefetch(w + panel, 0, 2);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r)
        acc[r][0] = dot(acc[r][0], broadcast_quad(x[r] + a), first, broadcast_quad(x[r] + b), second);
    }
    for (const GemmI8Windows *at = t.windows, *end = at + t.window_count; at != end; ++at) {
      const Int first = load(at->weights[0]), second = load(at->weights[1]);
      const Int of_first = quads(at->quads[0]), of_second = quads(at->quads[1]);
      const auto [a, b] = both(at->places);
      __builtin_prefetch(at + t.window_count, 0, 2);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        acc[r][0] = dot(acc[r][0], _mm256_permutevar8x32_epi32(load(x[r] + a), of_first), first,
                        _mm256_permutevar8x32_epi32(load(x[r] + b), of_second), second);
      }
    }
  }

 private:
  struct Places {
    int64_t first, second;
  };
  static LOWBIT_INLINE Int quads(const uint8_t* numbers) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(numbers)));
  }
  static LOWBIT_INLINE Int dot(Int acc, Int x0, Int w0, Int x1, Int w1) {
    const Int pairs = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w0), _mm256_maddubs_epi16(x1, w1));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

template <int kRows>
void run_flipped(const GemmI8Tile& t) {
  t.pairs == 0 ? Tile<PackedFlip256, kRows, 2>::run(t) : Tile<PairedFlip256, kRows, 2>::run(t);
}

constexpr GemmI8RowPacking kPacking = {pack_rows, PackedFlip256::kOperandBytes, tiles<PackedFlip256, 4, 2>()};
constexpr GemmI8RowPacking kMatchedPacking = {
    pack_rows, PackedFlip256::kOperandBytes, {{run_flipped<1>, run_flipped<2>, run_flipped<3>, run_flipped<4>}}};

}  // namespace

extern const GemmI8Kernel gemm_i8_avx2_paired_4x16;

// Four temporaries beside two weight registers, eight accumulators and a constant. Signs go to the weights by xor,
// which is exact for a weight of -128, too. On Zen 4, in GOPS: 125 by vpsignb, 145 by xor, 187 where a row's signs and
// magnitudes are found once for all panels; 16-bit products take as many instructions and twice the weights.
extern constinit const GemmI8Kernel gemm_i8_avx2_4x16 = {{"avx2_4x16", Isa::avx2},  4,         16,
                                                         tiles<Flip256, 4, 2>(),    &kPacking, nullptr,
                                                         &gemm_i8_avx2_paired_4x16, false,     true};

// On Zen 4, in GOPS: 190 to 209 where the one above comes to 180 to 196, K = 128 to 1024. For one row or two, where the
// places that quads lie at take as long to read as what pairs spare, it is not.
extern constinit const GemmI8Kernel gemm_i8_avx2_paired_4x16 = {
    {"avx2_paired_4x16", Isa::avx2}, 4, 16, tiles<Flip256, 4, 2>(), &kMatchedPacking, nullptr, nullptr, true, true};

// On Zen 4, in GOPS: 200 to 228 for weights as trained ones are, k = 384 and more, and 192 to 212 for normally
// distributed ones, where the kernel above comes to 187. 10x8 is as fast, 4x16 meets more rests and is not.
extern constinit const GemmI8Kernel gemm_i8_avx2_8x8 = {
    {"avx2_8x8", Isa::avx2}, 8, 8, tiles<Pairs256, 8, 1>(), nullptr, &gemm_i8_avx2_paired_4x16, nullptr, false, true};

}  // namespace lowbit::kernels
