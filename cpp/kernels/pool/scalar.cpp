// The plain truth: the contract as written, one output at a time.
#include "base/numerics.h"
#include "kernels/pool/rows.h"
#include "kernels/pool/window.h"

namespace lowbit::kernels {
namespace {

// Calls f(n, h, w, c, window_h, window_w) for this task's outputs.
template <class F>
void for_outputs(const PoolArgs& args, int64_t task, int64_t tasks, F f) {
  const int64_t outputs = args.grid.rows() * args.channels;
  for (int64_t i = outputs * task / tasks; i < outputs * (task + 1) / tasks; ++i) {
    const int64_t c = i % args.channels, pixel = i / args.channels;
    const int64_t w = pixel % args.grid.w, h = pixel / args.grid.w % args.grid.h, n = pixel / args.grid.w / args.grid.h;
    f(n, h, w, c, window_of(args.h, h), window_of(args.w, w));
  }
}

// Folds the window's elements, rows then columns ascending.
template <class T, class A, class F>
A fold(const PoolArgs& args, int64_t n, int64_t c, const Window& h, const Window& w, A start, F f) {
  A acc = start;
  for (int64_t i = h.begin; i < h.end; i += h.step)
    for (int64_t j = w.begin; j < w.end; j += w.step)
      acc = f(acc, static_cast<const T*>(args.x.data)[args.x.offset(n, i, j) + c]);
  return acc;
}

double sum_of_many(const PoolArgs& args, int64_t n, int64_t c, const Window& h, const Window& w) {
  float odd = 0.0f;
  bool waits = false;
  const double sum = fold<float>(args, n, c, h, w, 0.0, [&](double acc, float v) {
    waits = !waits;
    if (!waits) return acc + static_cast<double>(odd + v);
    odd = v;
    return acc;
  });
  return waits ? sum + static_cast<double>(odd) : sum;
}

template <class T>
void max_pool(const PoolArgs& args, int64_t task, int64_t tasks, T lowest) {
  for_outputs(args, task, tasks, [&](int64_t n, int64_t h, int64_t w, int64_t c, const Window& wh, const Window& ww) {
    static_cast<T*>(args.y.data)[args.y.offset(n, h, w) + c] =
        fold<T>(args, n, c, wh, ww, lowest, [](T acc, T v) { return v > acc || v != v ? v : acc; });
  });
}

}  // namespace

namespace pool_scalar {

void max_u8(const PoolArgs& args, int64_t task, int64_t tasks) { max_pool<uint8_t>(args, task, tasks, 0); }
void max_f32(const PoolArgs& args, int64_t task, int64_t tasks) {
  max_pool<float>(args, task, tasks, -__builtin_inff());
}

void max_index(const PoolArgs& args, int64_t task, int64_t tasks) {
  for_outputs(args, task, tasks, [&](int64_t n, int64_t h, int64_t w, int64_t c, const Window& wh, const Window& ww) {
    float best = -__builtin_inff();
    int64_t index = wh.count() * ww.count() == 0 ? -1 : wh.begin * args.w.size + ww.begin;
    for (int64_t i = wh.begin; i < wh.end; i += wh.step)
      for (int64_t j = ww.begin; j < ww.end; j += ww.step) {
        const float v = static_cast<const float*>(args.x.data)[args.x.offset(n, i, j) + c];
        if (v > best || v != v) best = v, index = i * args.w.size + j;
      }
    static_cast<float*>(args.y.data)[args.y.offset(n, h, w) + c] = best;
    args.index.data[args.index.offset(n, h, w) + c] = index;
  });
}

void avg_f32(const PoolArgs& args, int64_t task, int64_t tasks) {
  for_outputs(args, task, tasks, [&](int64_t n, int64_t h, int64_t w, int64_t c, const Window& wh, const Window& ww) {
    const Counts counts = counts_of(args, wh, ww);
    float& y = static_cast<float*>(args.y.data)[args.y.offset(n, h, w) + c];
    if (!is_wide(args, counts)) {
      y = fold<float>(args, n, c, wh, ww, 0.0f, [](float acc, float v) { return v + acc; }) / counts.divisor;
    } else {
      y = static_cast<float>(sum_of_many(args, n, c, wh, ww) / static_cast<double>(counts.divisor));
    }
  });
}

void avg_u8(const PoolArgs& args, int64_t task, int64_t tasks) {
  for_outputs(args, task, tasks, [&](int64_t n, int64_t h, int64_t w, int64_t c, const Window& wh, const Window& ww) {
    const Counts counts = counts_of(args, wh, ww);
    const int32_t sum = fold<uint8_t>(args, n, c, wh, ww, 0, [](int32_t acc, uint8_t v) { return acc + v; });
    const int32_t acc = sum - static_cast<int32_t>(counts.elements) * args.x_zero_point;
    const float t = static_cast<float>(acc) * args.multiplier / counts.divisor;
    const int64_t at = args.y.offset(n, h, w) + c;
    if (args.output == DType::f32) {
      static_cast<float*>(args.y.data)[at] = t;
    } else {
      static_cast<uint8_t*>(args.y.data)[at] = code_from_float(t, args.zero_point, args.lo, args.hi);
    }
  });
}

}  // namespace pool_scalar

}  // namespace lowbit::kernels
