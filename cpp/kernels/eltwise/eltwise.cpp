// Loop order, broadcasting and sharing between tasks; the arithmetic is in the inner loops (generic.h).
#include "kernels/eltwise/eltwise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/numerics.h"
#include "kernels/eltwise/nest.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kStage = 1024;  // elements staged on the stack where memory order or element type needs two steps
constexpr int64_t kBytesPerTask = 65536;  // below this a second task costs more than it saves
constexpr int64_t kMostBytes = 1 << 26;   // of a task, so that a call can be ended between two

// If the output's adjacent axis is not the input's, moves the input's adjacent axis next to it: a transposition.
bool find_transposition(Nest& nest) {
  const int last = nest.rank - 1;
  const auto& inner = nest.stride[static_cast<size_t>(last)];
  if (inner[0] != 1 || inner[1] == 1 || inner[1] == 0) return false;
  for (int axis = last - 1; axis >= 0; --axis) {
    if (nest.stride[static_cast<size_t>(axis)][1] != 1) continue;
    for (int i = axis; i + 1 < last; ++i) nest.swap_axes(i, i + 1);
    return true;
  }
  return false;
}

template <class T>
void transpose(const EltwiseKernel& kernel, const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t rows,
               int64_t cols) {
  if constexpr (sizeof(T) == 1) {
    kernel.transpose_u8(x, x_stride, y, y_stride, rows, cols);
  } else if constexpr (sizeof(T) == 4) {
    kernel.transpose_u32(x, x_stride, y, y_stride, rows, cols);
  } else {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) y[r * y_stride + c] = x[c * x_stride + r];
  }
}

template <class T>
void copy_line(const T* x, int64_t x_step, T* y, int64_t y_step, int64_t n) {
  if (x_step == 1 && y_step == 1) {
    std::memcpy(y, x, static_cast<size_t>(n) * sizeof(T));
  } else if (x_step == 0 && y_step == 1) {
    std::fill_n(y, n, *x);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i * y_step] = x[i * x_step];
  }
}

// Rows of adjacent elements. A few vectors each are moved here: a call of memcpy costs more than they do.
template <class T>
void copy_rows(const T* x, int64_t x_row, T* y, int64_t y_row, int64_t rows, int64_t n) {
  constexpr int64_t kPiece = 16, kFew = 16 * kPiece;
  const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
  const bool few = bytes >= kPiece && bytes <= kFew;
  for (int64_t r = 0; r < rows; ++r, x += x_row, y += y_row) {
    if (!few) {
      std::memcpy(y, x, static_cast<size_t>(bytes));
      continue;
    }
    const auto* from = reinterpret_cast<const std::byte*>(x);
    auto* to = reinterpret_cast<std::byte*>(y);
    for (int64_t i = 0; i + kPiece < bytes; i += kPiece) std::memcpy(to + i, from + i, kPiece);
    std::memcpy(to + bytes - kPiece, from + bytes - kPiece, kPiece);  // may overlap the one before
  }
}

template <class T>
void copy_nest(const EltwiseKernel& kernel, Nest& nest, const void* from, void* to) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  const bool transposed = find_transposition(nest);
  const auto last = static_cast<size_t>(nest.rank - 1);
  if (transposed) {
    constexpr int64_t kTile = 64;  // rows and columns whose lines stay in the first cache
    const auto& row = nest.stride[last - 1];
    const auto& col = nest.stride[last];
    for_outer(nest, 2, [&](const auto& at) {
      for (int64_t r = 0; r < nest.size[last - 1]; r += kTile)
        for (int64_t c = 0; c < nest.size[last]; c += kTile)
          transpose(kernel, x + at[1] + r * row[1] + c * col[1], col[1], y + at[0] + r * row[0] + c * col[0], row[0],
                    std::min(kTile, nest.size[last - 1] - r), std::min(kTile, nest.size[last] - c));
    });
  } else if (nest.rank > 1 && nest.stride[last][0] == 1 && nest.stride[last][1] == 1) {
    for_outer(nest, 2, [&](const auto& at) {
      const auto& row = nest.stride[last - 1];
      copy_rows(x + at[1], row[1], y + at[0], row[0], nest.size[last - 1], nest.size[last]);
    });
  } else {
    for_outer(nest, 1, [&](const auto& at) {
      copy_line(x + at[1], nest.stride[last][1], y + at[0], nest.stride[last][0], nest.size[last]);
    });
  }
}

// y = convert(x) between floats and codes: straight where both are adjacent, else a tile at a time through the stack.
template <class X, class Y, class F>
void convert_nest(const EltwiseKernel& kernel, Nest& nest, const X* x, Y* y, F convert) {
  if (nest.empty) return;  // a tile of no columns has no height
  const bool transposed = find_transposition(nest);
  const auto last = static_cast<size_t>(nest.rank - 1);
  const int64_t n = nest.size[last], x_step = nest.stride[last][1], y_step = nest.stride[last][0];
  if (transposed) {
    // Codes are the cheap side to transpose: after quantize, before dequantize.
    const int64_t rows = nest.size[last - 1], y_row = nest.stride[last - 1][0];
    const int64_t tile_cols = std::min<int64_t>(n, 64), tile_rows = kStage * 4 / tile_cols / 16 * 16;
    alignas(64) uint8_t stage[kStage * 4];
    for_outer(nest, 2, [&](const auto& at) {
      for (int64_t r0 = 0; r0 < rows; r0 += tile_rows)
        for (int64_t c0 = 0; c0 < n; c0 += tile_cols) {
          const int64_t nr = std::min(tile_rows, rows - r0), nc = std::min(tile_cols, n - c0);
          const X* from = x + at[1] + r0 + c0 * x_step;
          Y* to = y + at[0] + r0 * y_row + c0;
          if constexpr (sizeof(Y) == 1) {
            for (int64_t c = 0; c < nc; ++c) convert(from + c * x_step, stage + c * tile_rows, nr);
            kernel.transpose_u8(stage, tile_rows, to, y_row, nr, nc);
          } else {
            kernel.transpose_u8(from, x_step, stage, tile_cols, nr, nc);
            for (int64_t r = 0; r < nr; ++r) convert(stage + r * tile_cols, to + r * y_row, nc);
          }
        }
    });
    return;
  }
  X stage_x[kStage];
  Y stage_y[kStage];
  for_outer(nest, 1, [&](const auto& at) {
    if (x_step == 1 && y_step == 1) return convert(x + at[1], y + at[0], n);
    for (int64_t i = 0; i < n; i += kStage) {
      const int64_t count = std::min(kStage, n - i);
      copy_line(x + at[1] + i * x_step, x_step, stage_x, 1, count);
      convert(stage_x, stage_y, count);
      copy_line(stage_y, 1, y + at[0] + i * y_step, y_step, count);
    }
  });
}

// Runs f(nest, scale, zero_point, i0) over the whole view, or for each index of axis 0 where each has its own scale.
template <class Args, class F>
void for_scales(const Args& args, int64_t task, int64_t tasks, F f) {
  const Strides strides = {&args.y.strides, &args.x.strides, nullptr};
  if (!args.scales) {
    Nest nest = nest_of(args.shape, strides);
    take_share(nest, task, tasks);
    return f(nest, args.scale, args.zero_point);
  }
  const bool by_sample = args.shape[0] >= 4 * tasks;
  const Share share = by_sample ? share_of(args.shape[0], 1, task, tasks) : Share{0, args.shape[0]};
  const Nest sample = nest_of(args.shape, strides, 1);
  for (int64_t i = share.begin; i < share.end; ++i) {
    Nest nest = sample;
    nest.offset = {i * args.y.strides[0], i * args.x.strides[0], 0};
    if (!by_sample) take_share(nest, task, tasks);
    f(nest, args.scales[i], static_cast<int32_t>(args.zero_points[i]));
  }
}

// Calls f(offset in x, offset in y, count) for the stretches in which both are adjacent, in one task's share.
template <class F>
void each_stretch(const Shape& shape, const Shape& x_strides, const Shape& y_strides, int64_t task, int64_t tasks,
                  F f) {
  Nest nest = nest_of(shape, {&y_strides, &x_strides, nullptr});
  take_share(nest, task, tasks);
  const auto last = static_cast<size_t>(nest.rank - 1);
  const auto step = nest.stride[last];
  const int64_t n = nest.size[last];
  for_outer(nest, 1, [&](const auto& at) {
    if (n == 1 || (step[0] == 1 && step[1] == 1)) return f(at[1], at[0], n);
    for (int64_t i = 0; i < n; ++i) f(at[1] + i * step[1], at[0] + i * step[0], 1);
  });
}

constexpr std::array<const char*, kUnaryKinds> kUnaryNames = {
    "clip", "relu",       "abs",      "neg",   "square", "sqrt",  "rsqrt",     "reciprocal",  "exp",
    "log",  "sigmoid",    "tanh",     "erf",   "silu",   "gelu",  "gelu_tanh", "hardsigmoid", "hardswish",
    "elu",  "leaky_relu", "softplus", "mish",  "exp2",   "expm1", "log2",      "log1p",       "sin",
    "cos",  "floor",      "ceil",     "trunc", "round",  "sign",  "atan",      "erfc",        "fast_gelu"};

}  // namespace

int64_t eltwise_tasks(int64_t bytes, int threads) {
  return std::clamp<int64_t>(bytes / kBytesPerTask, 1, std::max<int64_t>({threads, 1, bytes / kMostBytes}));
}

void copy(const EltwiseKernel& kernel, const CopyArgs& args, int64_t task, int64_t tasks) {
  Nest nest = nest_of(args.shape, {&args.y.strides, &args.x.strides, nullptr});
  take_share(nest, task, tasks);
  switch (args.element_bytes) {
    case 1:
      return copy_nest<uint8_t>(kernel, nest, args.x.data, args.y.data);
    case 2:
      return copy_nest<uint16_t>(kernel, nest, args.x.data, args.y.data);
    case 4:
      return copy_nest<uint32_t>(kernel, nest, args.x.data, args.y.data);
    default:
      return copy_nest<uint64_t>(kernel, nest, args.x.data, args.y.data);
  }
}

void quantize(const EltwiseKernel& kernel, const QuantizeArgs& args, int64_t task, int64_t tasks) {
  for_scales(args, task, tasks, [&](Nest& nest, float scale, int32_t zero_point) {
    const float inverse = 1.0f / scale;
    convert_nest(kernel, nest, args.x.data, args.y.data, [&](const float* x, uint8_t* y, int64_t n) {
      kernel.quantize({x}, y, n, inverse, zero_point, false);
    });
  });
}

void dequantize(const EltwiseKernel& kernel, const DequantizeArgs& args, int64_t task, int64_t tasks) {
  for_scales(args, task, tasks, [&](Nest& nest, float scale, int32_t zero_point) {
    convert_nest(kernel, nest, args.x.data, args.y.data,
                 [&](const uint8_t* x, float* y, int64_t n) { kernel.dequantize(x, y, n, scale, zero_point); });
  });
}

void range_of(const EltwiseKernel& kernel, const float* x, int64_t count, float* lo, float* hi) {
  kernel.range({x}, count, lo, hi);
}

void range_to_scale(float lo, float hi, float* scale, uint8_t* zero_point) {
  float width = (hi - lo) / 255.0f;
  if (!std::isfinite(width)) width = hi / 255.0f - lo / 255.0f;  // the difference overflows, or there is none
  *scale = width == 0.0f ? 1.0f : std::isfinite(width) ? width : std::numeric_limits<float>::quiet_NaN();
  const float inverse = 1.0f / *scale;
  *zero_point = code_from_float(-lo * inverse, 0, 0, 255);
}

void dynamic_range(const EltwiseKernel& kernel, const DynamicRangeArgs& args, int64_t task, int64_t tasks) {
  const Share share = share_of(args.rows, 1, task, tasks);
  for (int64_t r = share.begin; r < share.end; ++r) {
    float lo = 0.0f, hi = 0.0f;
    kernel.range({args.x + r * args.stride}, args.row, &lo, &hi);
    range_to_scale(lo, hi, args.scales + r, args.zero_points + r);
  }
}

namespace {

void copy_codes(const EltwiseKernel& kernel, const CodeCopies& copies, const FactorRow& x, uint8_t* y, float inverse,
                int32_t zero_point) {
  for (int64_t i = 0; i < copies.count; i += kStage) {
    float values[kStage];
    const int64_t count = std::min(kStage, copies.count - i);
    for (int64_t j = 0; j < count; ++j) {
      const int32_t source = copies.sources[i + j];
      values[j] = x.x[source] * x.factors[source];
    }
    kernel.copies(values, copies.before + i, y + i, count, inverse, zero_point);
  }
}

}  // namespace

void dynamic_quantize(const EltwiseKernel& kernel, const DynamicQuantizeArgs& args, int64_t task, int64_t tasks) {
  const Share share = share_of(args.rows, 1, task, tasks);
  for (int64_t r = share.begin; r < share.end; ++r) {
    const FactorRow x{args.x + r * args.x_stride, args.factors};
    float lo = 0.0f, hi = 0.0f;
    kernel.range(args.copies.count > 0 ? FactorRow{x.x, args.copies.range_factors} : x, args.row, &lo, &hi);
    range_to_scale(lo, hi, args.scales + r, args.zero_points + r);
    const float inverse = 1.0f / args.scales[r];
    uint8_t* y = args.y + r * args.y_stride;
    kernel.quantize(x, y, args.row, inverse, args.zero_points[r], args.copies.count == 0 && std::isfinite(inverse));
    copy_codes(kernel, args.copies, x, y + args.row, inverse, args.zero_points[r]);
  }
}

void quantize_groups(const EltwiseKernel& kernel, const GroupQuantizeArgs& args, int64_t task, int64_t tasks) {
  const int64_t groups = args.groups();
  const Share share = share_of(args.rows * groups, 1, task, tasks);
  for (int64_t at = share.begin; at < share.end;) {
    const int64_t row = at / groups, group = at % groups, count = std::min(share.end - at, groups - group);
    const int64_t first = group * args.group, size = std::min(args.row - first, count * args.group);
    const FactorRow x{args.x + row * args.row + first, args.factors == nullptr ? nullptr : args.factors + first};
    kernel.groups(x, args.y + row * args.row + first, size, args.group, args.scales + at);
    at += count;
  }
}

void rounding_errors(const EltwiseKernel& kernel, const RoundingArgs& args, int64_t task, int64_t tasks) {
  const Share share = share_of(args.rows, 1, task, tasks);
  for (int64_t r = share.begin; r < share.end; ++r)
    kernel.rounding(args.x + r * args.row, args.row, args.factor + r, args.low + r, args.high + r, args.error + r,
                    args.trials, args.rows);
}

void lookup(const EltwiseKernel& kernel, const uint8_t* x, const uint8_t* table, uint8_t* y, int64_t count,
            int64_t task, int64_t tasks) {
  const Share share = share_of(count, 64, task, tasks);
  kernel.lookup(x + share.begin, table, y + share.begin, share.end - share.begin);
}

void pair_i8(const EltwiseKernel& kernel, const PairI8Args& args, int64_t task, int64_t tasks) {
  constexpr int64_t kPart = 4096;  // so that a table meets codes still in the first cache
  Nest nest = nest_of(args.shape, {&args.y.strides, &args.a.strides, &args.b.strides});
  take_share(nest, task, tasks);
  const auto last = static_cast<size_t>(nest.rank - 1);
  const auto step = nest.stride[last];
  const int64_t n = nest.size[last];
  const auto is_step = [](int64_t s) { return s == 0 || s == 1; };
  PairI8Rows block{1, 0, nullptr, nullptr, nullptr, step[1], step[2], 0, 0, 0};
  if (is_step(step[0]) && is_step(step[1]) && is_step(step[2])) {
    const bool many = nest.rank > 1;
    if (many) {
      block.rows = nest.size[last - 1];
      block.y_row = nest.stride[last - 1][0];
      block.a_row = nest.stride[last - 1][1];
      block.b_row = nest.stride[last - 1][2];
    }
    return for_outer(nest, many ? 2 : 1, [&](const auto& at) {
      for (int64_t i = 0; i < n; i += kPart) {
        block.n = std::min(kPart, n - i);
        block.a = args.a.data + at[1] + i * step[1];
        block.b = args.b.data + at[2] + i * step[2];
        block.y = args.y.data + at[0] + i;
        kernel.pair_i8(args, block);
      }
    });
  }
  uint8_t stage_a[kStage], stage_b[kStage], stage_y[kStage];
  for_outer(nest, 1, [&](const auto& at) {
    for (int64_t i = 0; i < n; i += kStage) {
      const int64_t count = std::min(kStage, n - i);
      copy_line(args.a.data + at[1] + i * step[1], step[1], stage_a, 1, count);
      copy_line(args.b.data + at[2] + i * step[2], step[2], stage_b, 1, count);
      kernel.pair_i8(args, {1, count, stage_a, stage_b, stage_y, 1, 1, 0, 0, 0});
      copy_line(stage_y, 1, args.y.data + at[0] + i * step[0], step[0], count);
    }
  });
}

void binary(const EltwiseKernel& kernel, const BinaryArgs& args, int64_t task, int64_t tasks) {
  Nest nest = nest_of(args.shape, {&args.y.strides, &args.a.strides, &args.b.strides});
  take_share(nest, task, tasks);
  const auto last = static_cast<size_t>(nest.rank - 1);
  const int64_t n = nest.size[last];
  const auto step = nest.stride[last];
  float stage_a[kStage], stage_b[kStage], stage_y[kStage];
  for_outer(nest, 1, [&](const auto& at) {
    const float* a = args.a.data + at[1];
    const float* b = args.b.data + at[2];
    float* y = args.y.data + at[0];
    if (step[0] == 1 && (step[1] == 0 || step[1] == 1) && (step[2] == 0 || step[2] == 1)) {
      return kernel.binary(args.kind, a, step[1], b, step[2], y, n);
    }
    for (int64_t i = 0; i < n; i += kStage) {
      const int64_t count = std::min(kStage, n - i);
      copy_line(a + i * step[1], step[1], stage_a, 1, count);
      copy_line(b + i * step[2], step[2], stage_b, 1, count);
      kernel.binary(args.kind, stage_a, 1, stage_b, 1, stage_y, count);
      copy_line(stage_y, 1, y + i * step[0], step[0], count);
    }
  });
}

const char* name_of(UnaryKind kind) { return kUnaryNames[static_cast<size_t>(kind)]; }

bool parse_unary(std::string_view name, UnaryKind& kind) {
  for (int i = 0; i < kUnaryKinds; ++i) {
    if (name != kUnaryNames[static_cast<size_t>(i)]) continue;
    kind = static_cast<UnaryKind>(i);
    return true;
  }
  return false;
}

void unary(const EltwiseKernel& kernel, const UnaryArgs& args, int64_t task, int64_t tasks) {
  const Share share = share_of(args.count, 64, task, tasks);
  UnaryArgs part = args;
  part.count = share.end - share.begin;
  part.x += share.begin;
  part.y += share.begin;
  kernel.unary(part);
}

void unary(const EltwiseKernel& kernel, const UnaryArgs& args, const Shape& shape, const Shape& x_strides,
           const Shape& y_strides, int64_t task, int64_t tasks) {
  each_stretch(shape, x_strides, y_strides, task, tasks, [&](int64_t x, int64_t y, int64_t count) {
    UnaryArgs part = args;
    part.count = count;
    part.x += x;
    part.y += y;
    kernel.unary(part);
  });
}

void softmax(const EltwiseKernel& kernel, const SoftmaxArgs& args, int64_t task, int64_t tasks) {
  const Share share = share_of(args.rows, 1, task, tasks);
  for (int64_t r = share.begin; r < share.end; ++r)
    kernel.softmax(args.x + r * args.x_stride, args.y + r * args.y_stride, args.row);
}

}  // namespace lowbit::kernels
