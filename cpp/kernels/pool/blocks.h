// The pooling loops over vectors of channels. Four vectors run at once so that their sums do not wait for each other;
// each channel still has one accumulator, in the order of pool.h.
#pragma once

#include "kernels/eltwise/byte_table.h"
#include "kernels/eltwise/lanes.h"
#include "kernels/pool/rows.h"
#include "kernels/pool/window.h"

namespace lowbit::kernels {
namespace {

#if defined(__AVX512F__)

struct Sums {
  __m512i v;
};
inline Sums no_sums() { return {_mm512_setzero_si512()}; }
inline Sums add_codes(Sums a, __m128i codes) { return {_mm512_add_epi32(a.v, _mm512_cvtepu8_epi32(codes))}; }
inline Lanes to_lanes(Sums a, int32_t subtract) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(a.v, _mm512_set1_epi32(subtract)))};
}
inline __m128i load_few(const uint8_t* p, int64_t n) { return _mm_maskz_loadu_epi8(first_lanes(n), p); }
inline Bytes load_bytes(const uint8_t* p, int64_t n) { return _mm512_maskz_loadu_epi8((__mmask64{1} << n) - 1, p); }
inline void store_bytes(uint8_t* p, Bytes v, int64_t n) { _mm512_mask_storeu_epi8(p, (__mmask64{1} << n) - 1, v); }
inline Bytes greater(Bytes a, Bytes b) { return _mm512_max_epu8(a, b); }

#else

struct Sums {
  __m256i lo, hi;
};
inline Sums no_sums() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Sums add_codes(Sums a, __m128i codes) {
  return {_mm256_add_epi32(a.lo, _mm256_cvtepu8_epi32(codes)),
          _mm256_add_epi32(a.hi, _mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)))};
}
inline Lanes to_lanes(Sums a, int32_t subtract) {
  const __m256i s = _mm256_set1_epi32(subtract);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(a.lo, s)), _mm256_cvtepi32_ps(_mm256_sub_epi32(a.hi, s))};
}
inline Bytes load_bytes(const uint8_t* p, int64_t n) {
  alignas(32) uint8_t bytes[sizeof(Bytes)] = {};
  for (int64_t i = 0; i < n; ++i) bytes[i] = p[i];
  return load_bytes(bytes);
}
inline __m128i load_few(const uint8_t* p, int64_t n) { return _mm256_castsi256_si128(load_bytes(p, n)); }
inline void store_bytes(uint8_t* p, Bytes v, int64_t n) {
  alignas(32) uint8_t bytes[sizeof(Bytes)];
  store_bytes(bytes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = bytes[i];
}
inline Bytes greater(Bytes a, Bytes b) { return _mm256_max_epu8(a, b); }

#endif

inline __m128i load_few(const uint8_t* p, Full) { return load16(p); }
inline Bytes load_bytes(const uint8_t* p, Full) { return load_bytes(p); }
inline void store_bytes(uint8_t* p, Bytes v, Full) { store_bytes(p, v); }

constexpr int64_t kChannelBlock = 256;

// Calls f(n, h, w, first channel, channels, window_h, window_w). Where an image has a single output, channels are
// shared out too.
template <class F>
inline void for_outputs(const PoolArgs& args, int64_t task, int64_t tasks, F f) {
  const Grid& grid = args.grid;
  const int64_t block = grid.h * grid.w == 1 ? kChannelBlock : args.channels;
  const int64_t blocks = block ? (args.channels + block - 1) / block : 0;
  const int64_t units = grid.n * grid.h * blocks;
  for (int64_t u = units * task / tasks; u < units * (task + 1) / tasks; ++u) {
    const int64_t c = u % blocks * block, n = u / blocks / grid.h, h = u / blocks % grid.h;
    const int64_t channels = args.channels - c < block ? args.channels - c : block;
    const Window window_h = window_of(args.h, h);
    for (int64_t w = 0; w < grid.w; ++w) f(n, h, w, c, channels, window_h, window_of(args.w, w));
  }
}

// Calls f(image elements of a pixel) over the window, rows then columns ascending.
template <class T, class F>
inline void for_window(const PoolArgs& args, int64_t n, int64_t c, const Window& h, const Window& w, F f) {
  for (int64_t i = h.begin; i < h.end; i += h.step) {
    const T* x = static_cast<const T*>(args.x.data) + args.x.offset(n, i, w.begin) + c;
    for (int64_t j = w.begin; j < w.end; j += w.step, x += w.step * args.x.stride_w) f(x);
  }
}

// Splits channels into kMost vectors at once, one, and what is left: f(first, vectors as a type, count).
template <int kVectors>
struct Vectors {
  static constexpr int value = kVectors;
};
template <int kMost = 4, class F>
inline void for_channels(int64_t channels, int64_t width, F f) {
  int64_t c = 0;
  for (; c + kMost * width <= channels; c += kMost * width) f(c, Vectors<kMost>{}, Full{});
  for (; c + width <= channels; c += width) f(c, Vectors<1>{}, Full{});
  if (c < channels) f(c, Vectors<1>{}, channels - c);
}

// One output pixel: y = finish(the window's elements, folded).
template <class F, class G>
inline void pool_pixel(const PoolArgs& args, int64_t n, int64_t first, int64_t channels, const Window& h,
                       const Window& w, float* y, const Lanes& start, F fold, G finish) {
  for_channels(channels, kLanes, [&](int64_t c, auto vectors, auto count) {
    Lanes acc[vectors.value];
    for (auto& a : acc) a = start;
    for_window<float>(args, n, first + c, h, w, [&](const float* x) {
      for (int i = 0; i < vectors.value; ++i) acc[i] = fold(load(x + i * kLanes, count), acc[i]);
    });
    for (int i = 0; i < vectors.value; ++i) store(y + c + i * kLanes, finish(acc[i]), count);
  });
}

// Pairs of elements are added first, for widening is what takes time.
inline void average_of_many(const PoolArgs& args, int64_t n, int64_t first, int64_t channels, const Window& h,
                            const Window& w, float* y, const Wide& divisor) {
  for_channels<2>(channels, kLanes, [&](int64_t c, auto vectors, auto count) {
    Wide acc[vectors.value];
    Lanes odd[vectors.value];
    bool waits = false;
    for (auto& a : acc) a = widen(splat(0.0f));
    for_window<float>(args, n, first + c, h, w, [&](const float* x) {
      for (int i = 0; i < vectors.value; ++i) {
        const Lanes v = load(x + i * kLanes, count);
        if (waits)
          acc[i] = acc[i] + widen(odd[i] + v);
        else
          odd[i] = v;
      }
      waits = !waits;
    });
    for (int i = 0; i < vectors.value; ++i) {
      if (waits) acc[i] = acc[i] + widen(odd[i]);
      store(y + c + i * kLanes, narrow(acc[i] / divisor), count);
    }
  });
}

inline float* pixel_of(const PoolArgs& args, int64_t n, int64_t h, int64_t w, int64_t first) {
  return static_cast<float*>(args.y.data) + args.y.offset(n, h, w) + first;
}

void run_max_f32(const PoolArgs& args, int64_t task, int64_t tasks) {
  for_outputs(
      args, task, tasks,
      [&](int64_t n, int64_t h, int64_t w, int64_t first, int64_t channels, const Window& wh, const Window& ww) {
        pool_pixel(
            args, n, first, channels, wh, ww, pixel_of(args, n, h, w, first), splat(-__builtin_inff()),
            [](const Lanes& v, const Lanes& acc) { return select(is_nan(v), v, greater(v, acc)); },
            [](const Lanes& acc) { return acc; });
      });
}

void run_avg_f32(const PoolArgs& args, int64_t task, int64_t tasks) {
  for_outputs(
      args, task, tasks,
      [&](int64_t n, int64_t h, int64_t w, int64_t first, int64_t channels, const Window& wh, const Window& ww) {
        const Counts counts = counts_of(args, wh, ww);
        const Lanes divisor = splat(counts.divisor);
        float* y = pixel_of(args, n, h, w, first);
        if (!is_wide(args, counts))
          return pool_pixel(
              args, n, first, channels, wh, ww, y, splat(0.0f),
              [](const Lanes& v, const Lanes& acc) { return v + acc; },
              [&](const Lanes& acc) { return acc / divisor; });
        average_of_many(args, n, first, channels, wh, ww, y, widen(divisor));
      });
}

// Where in its window a maximum lies is counted in lanes, by rows and columns: whole numbers far below 2^24.
void run_max_index(const PoolArgs& args, int64_t task, int64_t tasks) {
  const Lanes one = splat(1.0f);
  for_outputs(
      args, task, tasks,
      [&](int64_t n, int64_t h, int64_t w, int64_t first, int64_t channels, const Window& wh, const Window& ww) {
        float* y = static_cast<float*>(args.y.data) + args.y.offset(n, h, w) + first;
        int64_t* index = args.index.data + args.index.offset(n, h, w) + first;
        const bool empty = wh.count() * ww.count() == 0;
        for_lanes(channels, [&](int64_t c, auto count) {
          Lanes best = splat(-__builtin_inff()), best_row = splat(0.0f), best_column = best_row, row = best_row;
          for (int64_t i = wh.begin; i < wh.end; i += wh.step, row = row + one) {
            Lanes column = splat(0.0f);
            const float* x = static_cast<const float*>(args.x.data) + args.x.offset(n, i, ww.begin) + first + c;
            for (int64_t j = ww.begin; j < ww.end;
                 j += ww.step, x += ww.step * args.x.stride_w, column = column + one) {
              const Lanes v = load(x, count);
              const Mask above = v > best, nan = is_nan(v);
              best = select(nan, v, select(above, v, best));
              best_row = select(nan, row, select(above, row, best_row));
              best_column = select(nan, column, select(above, column, best_column));
            }
          }
          store(y + c, best, count);
          alignas(64) float rows[kLanes], columns[kLanes];
          store(rows, best_row);
          store(columns, best_column);
          const int64_t lanes = channels - c < kLanes ? channels - c : kLanes;
          for (int64_t i = 0; i < lanes; ++i)
            index[c + i] = empty ? -1
                                 : (wh.begin + static_cast<int64_t>(rows[i]) * wh.step) * args.w.size + ww.begin +
                                       static_cast<int64_t>(columns[i]) * ww.step;
        });
      });
}

void run_max_u8(const PoolArgs& args, int64_t task, int64_t tasks) {
  constexpr int64_t kWidth = sizeof(Bytes);
  for_outputs(
      args, task, tasks,
      [&](int64_t n, int64_t h, int64_t w, int64_t first, int64_t channels, const Window& wh, const Window& ww) {
        uint8_t* y = static_cast<uint8_t*>(args.y.data) + args.y.offset(n, h, w) + first;
        for_channels(channels, kWidth, [&](int64_t c, auto vectors, auto count) {
          Bytes acc[vectors.value];
          for (auto& a : acc) a = splat_byte(0);
          for_window<uint8_t>(args, n, first + c, wh, ww, [&](const uint8_t* x) {
            for (int i = 0; i < vectors.value; ++i) acc[i] = greater(load_bytes(x + i * kWidth, count), acc[i]);
          });
          for (int i = 0; i < vectors.value; ++i) store_bytes(y + c + i * kWidth, acc[i], count);
        });
      });
}

void run_avg_u8(const PoolArgs& args, int64_t task, int64_t tasks) {
  const Lanes multiplier = splat(args.multiplier);
  const Lanes lo = splat(static_cast<float>(args.lo - args.zero_point)),
              hi = splat(static_cast<float>(args.hi - args.zero_point));
  for_outputs(
      args, task, tasks,
      [&](int64_t n, int64_t h, int64_t w, int64_t first, int64_t channels, const Window& wh, const Window& ww) {
        const Counts counts = counts_of(args, wh, ww);
        const int32_t correction = static_cast<int32_t>(counts.elements) * args.x_zero_point;
        const Lanes divisor = splat(counts.divisor);
        const int64_t at = args.y.offset(n, h, w) + first;
        for_channels(channels, kLanes, [&](int64_t c, auto vectors, auto count) {
          Sums acc[vectors.value];
          for (auto& a : acc) a = no_sums();
          for_window<uint8_t>(args, n, first + c, wh, ww, [&](const uint8_t* x) {
            for (int i = 0; i < vectors.value; ++i) acc[i] = add_codes(acc[i], load_few(x + i * kLanes, count));
          });
          for (int i = 0; i < vectors.value; ++i) {
            const Lanes t = to_lanes(acc[i], correction) * multiplier / divisor;
            if (args.output == DType::f32) {
              store(static_cast<float*>(args.y.data) + at + c + i * kLanes, t, count);
            } else {
              store_codes(static_cast<uint8_t*>(args.y.data) + at + c + i * kLanes, clamp_codes(t, lo, hi),
                          args.zero_point, count);
            }
          }
        });
      });
}

}  // namespace
}  // namespace lowbit::kernels
