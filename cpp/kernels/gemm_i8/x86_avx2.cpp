// u8 x s8 without a dot-product instruction, yet exact, although vpmaddubsw would saturate for codes of 8 bits. For
// most weights x stays as it is, and they are packed so that nothing saturates (pairs.h). For the others, x is shifted
// to s8 and its sign moved to w: x * w = |x| * -w for negative x, and -w = ~w + 1. So a dot product takes |x| and w
// with its bits flipped where x is negative (an xor), and all sums of a row lack the same sum of |x| over its negative
// x, which is found once for all channels. With |x| <= 128, and 127 where w is not flipped, a pair lies within -2 * 128
// * 128 .. 2 * 128 * 127, which 16 bits just hold.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
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

  static LOWBIT_INLINE Operand operand(const uint8_t* x) { return flipped(broadcast_quad(x)); }
  static LOWBIT_INLINE Operand flipped(Int x) { return Flipped::of(_mm256_xor_si256(x, _mm256_set1_epi8(-128))); }
  static LOWBIT_INLINE Int dot(Int acc, Operand x, Int w) { return x.dot(acc, w); }
};

// Operands from packed rows: four magnitudes, then four bytes that are ~0 where x is negative.
struct PackedFlip256 : Flip256 {
  static constexpr int kOperandBytes = 8;
  static LOWBIT_INLINE Operand operand(const uint8_t* x) { return {broadcast_quad(x + 4), broadcast_quad(x)}; }
};

// The operands of 32 bytes, if they are wanted; four sums of |x| over negative x, of those `counted`, in 64-bit lanes.
LOWBIT_INLINE __m256i pack(__m256i x, __m256i counted, uint8_t* packed) {
  const Flipped f = Flip256::flipped(x);
  if (packed != nullptr) {
    const __m256i low = _mm256_unpacklo_epi32(f.magnitude, f.negative);  // quads 0, 1, 4, 5
    const __m256i high = _mm256_unpackhi_epi32(f.magnitude, f.negative);
    auto* to = reinterpret_cast<__m256i*>(packed);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
  }
  const __m256i below = _mm256_and_si256(f.magnitude, _mm256_and_si256(f.negative, counted));
  return _mm256_sad_epu8(below, _mm256_setzero_si256());
}

void pack_rows(const uint8_t* const* x, int64_t rows, const int64_t* taps, int64_t tap_count, int64_t bytes,
               int32_t* sums, uint8_t* packed) {
  const __m256i all = _mm256_set1_epi8(-1), part = Avx2::mask(static_cast<int>(bytes % 32 / 4));
  for (int64_t row = 0; row < rows; ++row) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t tap = 0; tap < tap_count; ++tap) {
      const uint8_t* at = x[row] + taps[tap];
      int64_t i = 0;
      for (; i + 32 <= bytes; i += 32)
        sum = _mm256_add_epi64(sum, pack(Avx2::load(at + i), all, packed == nullptr ? nullptr : packed + 2 * i));
      if (i < bytes) {
        const __m256i x_part = _mm256_maskload_epi32(reinterpret_cast<const int*>(at + i), part);
        sum = _mm256_add_epi64(sum, pack(x_part, part, packed == nullptr ? nullptr : packed + 2 * i));
      }
      if (packed != nullptr) packed += 2 * bytes;
    }
    alignas(32) int64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
    sums[row] = static_cast<int32_t>(lanes[0] + lanes[1] + lanes[2] + lanes[3]);
  }
}

// Raw x, with weights of which 16 bits hold two sums (pairs.h). One vector of channels, for fewer channels have fewer
// rests, and quads are more easily matched.
struct Pairs256 : Avx2 {
  static constexpr int32_t kXOffset = 0;
  static constexpr bool kRowSums = false;
  static constexpr bool kTogether = true;

  template <int kRows>
  static LOWBIT_INLINE void add_products(const GemmI8Tile& t, Int (&acc)[kRows][1]) {
    const uint8_t* x[kRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = t.x[r] + t.taps[0];
    const int8_t* w = t.panel;
    const int64_t panel = (t.quads + 1) / 2 * 64;  // the next one comes from afar while this one is multiplied
    for (const int32_t *at = t.places, *end = at + (t.quads + 1) / 2 * 2; at != end; at += 2, w += 64) {
      const Int first = load(w), second = load(w + 32);
      const int64_t a = at[0], b = at[1];
      __builtin_prefetch(w + panel, 0, 2);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r)
        acc[r][0] = dot(acc[r][0], broadcast_quad(x[r] + a), first, broadcast_quad(x[r] + b), second);
    }
    for (const GemmI8Windows *at = t.windows, *end = at + t.window_count; at != end; ++at) {
      const Int first = load(at->weights[0]), second = load(at->weights[1]);
      const Int of_first = quads(at->quads[0]), of_second = quads(at->quads[1]);
      const int64_t a = at->places[0], b = at->places[1];
      __builtin_prefetch(at + t.window_count, 0, 2);
      LOWBIT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        acc[r][0] = dot(acc[r][0], _mm256_permutevar8x32_epi32(load(x[r] + a), of_first), first,
                        _mm256_permutevar8x32_epi32(load(x[r] + b), of_second), second);
      }
    }
  }

 private:
  static LOWBIT_INLINE Int quads(const uint8_t* numbers) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(numbers)));
  }
  static LOWBIT_INLINE Int dot(Int acc, Int x0, Int w0, Int x1, Int w1) {
    const Int pairs = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w0), _mm256_maddubs_epi16(x1, w1));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

constexpr GemmI8RowPacking kPacking = {pack_rows, PackedFlip256::kOperandBytes, tiles<PackedFlip256, 4, 2>()};

}  // namespace

// Four temporaries beside two weight registers, eight accumulators and a constant. Signs go to the weights by xor,
// which is exact for a weight of -128, too. On Zen 4, in GOPS: 125 by vpsignb, 145 by xor, 187 where a row's signs and
// magnitudes are found once for all panels; 16-bit products take as many instructions and twice the weights.
extern constinit const GemmI8Kernel gemm_i8_avx2_4x16 = {
    {"avx2_4x16", Isa::avx2}, 4, 16, tiles<Flip256, 4, 2>(), &kPacking, nullptr, true};

// On Zen 4, in GOPS: 200 to 228 for weights as trained ones are, k = 384 and more, and 192 to 212 for normally
// distributed ones, where the kernel above comes to 187. 10x8 is as fast, 4x16 meets more rests and is not.
extern constinit const GemmI8Kernel gemm_i8_avx2_8x8 = {
    {"avx2_8x8", Isa::avx2}, 8, 8, tiles<Pairs256, 8, 1>(), nullptr, &gemm_i8_avx2_4x16, true};

}  // namespace lowbit::kernels
