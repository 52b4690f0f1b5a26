// The pooling loops over vectors of channels. Four vectors run at once so that their sums do not wait for each other;
// each channel still has one accumulator, in the order of pool.h.
#pragma once

#include "kernels/pool/pool.h"
#include "simd/lanes.h"

namespace lowbit::kernels::pool {
namespace {

// Which input positions an output sees on one axis.
struct Window {
  int64_t begin, end, step;  // input positions inside the image
  int64_t padded;            // positions inside the padded image, for count_include_pad
  int64_t count() const { return end > begin ? (end - begin + step - 1) / step : 0; }
};

inline Window window_of(const PoolAxis& axis, int64_t output) {
  if (axis.adaptive) {
    const int64_t begin = output * axis.size / axis.outputs;
    const int64_t end = ((output + 1) * axis.size + axis.outputs - 1) / axis.outputs;
    return {begin, end, 1, end - begin};
  }
  const int64_t first = output * axis.stride - axis.padding_begin;
  int64_t begin = first, end = first + (axis.kernel - 1) * axis.dilation + 1;
  const int64_t padded_end = end < axis.size + axis.padding_end ? end : axis.size + axis.padding_end;
  if (begin < 0) begin += (-begin + axis.dilation - 1) / axis.dilation * axis.dilation;
  if (end > axis.size) end = axis.size;
  return {begin, end, axis.dilation, padded_end - first};
}

// The divisor of an average, and the elements that were summed.
struct Counts {
  int64_t elements;
  float divisor;
};

inline Counts counts_of(const PoolArgs& args, const Window& h, const Window& w) {
  const int64_t elements = h.count() * w.count();
  const int64_t count = args.count_include_pad ? h.padded * w.padded : elements;
  return {elements, static_cast<float>(count > 0 ? count : 1)};
}

// Whether an average is summed in float64: a mean, or a window that is not small.
inline bool is_wide(const PoolArgs& args, const Counts& counts) {
  constexpr int64_t kSmall = 16;
  return args.h.adaptive || counts.elements > kSmall;
}

constexpr int64_t kChannelBlock = 256;

// Calls f(n, h, w, first channel, channels, window_h, window_w). Where an image has a single output, channels are
// shared out too; where there are more tasks than rows of outputs, so are their columns.
template <class F>
inline void for_outputs(const PoolArgs& args, int64_t task, int64_t tasks, F f) {
  const Grid& grid = args.grid;
  const int64_t block = grid.h * grid.w == 1 ? kChannelBlock : args.channels;
  const int64_t blocks = block ? (args.channels + block - 1) / block : 0;
  const int64_t rows = grid.n * grid.h * blocks;
  const int64_t wanted = rows > 0 ? tasks / rows : 1, most = grid.w < wanted ? grid.w : wanted;
  const int64_t pieces = most > 1 ? most : 1, units = rows * pieces;
  for (int64_t unit = units * task / tasks; unit < units * (task + 1) / tasks; ++unit) {
    const int64_t u = unit / pieces, piece = unit % pieces;
    const int64_t c = u % blocks * block, n = u / blocks / grid.h, h = u / blocks % grid.h;
    const int64_t channels = args.channels - c < block ? args.channels - c : block;
    const Window window_h = window_of(args.h, h);
    for (int64_t w = grid.w * piece / pieces; w < grid.w * (piece + 1) / pieces; ++w)
      f(n, h, w, c, channels, window_h, window_of(args.w, w));
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
    for (auto& o : odd) o = splat(0.0f);
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

void max_f32(const PoolArgs& args, int64_t task, int64_t tasks) {
  for_outputs(
      args, task, tasks,
      [&](int64_t n, int64_t h, int64_t w, int64_t first, int64_t channels, const Window& wh, const Window& ww) {
        pool_pixel(
            args, n, first, channels, wh, ww, pixel_of(args, n, h, w, first), splat(-__builtin_inff()),
            [](const Lanes& v, const Lanes& acc) { return select(is_nan(v), v, greater(v, acc)); },
            [](const Lanes& acc) { return acc; });
      });
}

void avg_f32(const PoolArgs& args, int64_t task, int64_t tasks) {
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
void max_index(const PoolArgs& args, int64_t task, int64_t tasks) {
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

void max_u8(const PoolArgs& args, int64_t task, int64_t tasks) {
  constexpr int64_t kWidth = sizeof(Bytes);
  for_outputs(
      args, task, tasks,
      [&](int64_t n, int64_t h, int64_t w, int64_t first, int64_t channels, const Window& wh, const Window& ww) {
        uint8_t* y = static_cast<uint8_t*>(args.y.data) + args.y.offset(n, h, w) + first;
        for_channels(channels, kWidth, [&](int64_t c, auto vectors, auto count) {
          Bytes acc[vectors.value];
          for (auto& a : acc) a = splat_byte(0);
          for_window<uint8_t>(args, n, first + c, wh, ww, [&](const uint8_t* x) {
            for (int i = 0; i < vectors.value; ++i) acc[i] = higher(load_bytes(x + i * kWidth, count), acc[i]);
          });
          for (int i = 0; i < vectors.value; ++i) store_bytes(y + c + i * kWidth, acc[i], count);
        });
      });
}

void avg_u8(const PoolArgs& args, int64_t task, int64_t tasks) {
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
            for (int i = 0; i < vectors.value; ++i) acc[i] = add_codes(acc[i], x + i * kLanes, count);
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
}  // namespace lowbit::kernels::pool
