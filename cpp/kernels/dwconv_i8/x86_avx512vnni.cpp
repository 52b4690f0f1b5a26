// Depthwise convolution for AVX512-VNNI: 64 channels a step, four image rows in each dword, vpdpbusd. Kernels 3x3
// and 5x5 walk in registers (walk.h): 1.3 to 2.3 times as fast as strips of interleaved columns (tile.h), which take
// the rest.
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__)
#error "compile this file for AVX-512 F, BW, DQ, VL, VNNI: cpp/isa.cmake"
#endif

#include <immintrin.h>

#include "kernels/dwconv_i8/avx512.h"
#include "kernels/dwconv_i8/tile.h"
#include "kernels/dwconv_i8/walks.h"

namespace lowbit::kernels {
namespace {

struct Avx512 {
  using Vector = __m512i;
  using Finish = kernels::Finish;
  static constexpr int kBlock = 64, kGroup = 4;
  static constexpr int kPixels = 4;

  static __m512i load(const void* p) { return _mm512_load_si512(p); }
  static __m512i dot(__m512i acc, __m512i codes, __m512i weights) { return _mm512_dpbusd_epi32(acc, codes, weights); }

  static __m512i keep(__m512i value) { return kernels::keep(value); }

  template <int kParts, bool kFull>
  static LOWBIT_INLINE void interleave(const uint8_t* const rows[4], const Columns& columns, uint8_t* out) {
    const uint8_t *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
    const int64_t pixel = columns.pixel, part = columns.part, channels = columns.channels, step = columns.out;
    for (int64_t i = columns.count; i > 0; --i, a += pixel, b += pixel, c += pixel, d += pixel, out += step) {
      const __m512i va = kernels::keep(load_parts<kParts, kFull>(a, part, kParts, channels));
      const __m512i vb = kernels::keep(load_parts<kParts, kFull>(b, part, kParts, channels));
      const __m512i vc = kernels::keep(load_parts<kParts, kFull>(c, part, kParts, channels));
      const __m512i vd = kernels::keep(load_parts<kParts, kFull>(d, part, kParts, channels));
      const __m512i top_low = _mm512_unpacklo_epi8(va, vb), top_high = _mm512_unpackhi_epi8(va, vb);
      const __m512i bottom_low = _mm512_unpacklo_epi8(vc, vd), bottom_high = _mm512_unpackhi_epi8(vc, vd);
      _mm512_store_si512(out, _mm512_unpacklo_epi16(top_low, bottom_low));
      _mm512_store_si512(out + 64, _mm512_unpackhi_epi16(top_low, bottom_low));
      _mm512_store_si512(out + 128, _mm512_unpacklo_epi16(top_high, bottom_high));
      _mm512_store_si512(out + 192, _mm512_unpackhi_epi16(top_high, bottom_high));
    }
  }
};

void run(const DwconvI8Args& args, int64_t task, int64_t tasks) {
  if (walks(args)) return run_walks(args, task, tasks);
  run_dwconv<Avx512>(args, task, tasks);
}

}  // namespace

extern constinit const DwconvI8Kernel dwconv_i8_avx512vnni = {
    {"avx512vnni", Isa::avx512vnni}, Avx512::kBlock, Avx512::kGroup, run};

}  // namespace lowbit::kernels
