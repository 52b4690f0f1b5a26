// The inner loops, written once over Lanes.
#pragma once

#include "kernels/eltwise/eltwise.h"
#include "simd/softmax.h"

namespace lowbit::kernels::eltwise {
namespace {

// Calls f(row of x times factors, or of x).
template <class F>
inline void with_factors(const FactorRow& x, F f) {
  if (x.factors != nullptr) {
    f([&](int64_t i, auto count) { return load(x.x + i, count) * load(x.factors + i, count); });
  } else {
    f([&](int64_t i, auto count) { return load(x.x + i, count); });
  }
}

void quantize_block(const FactorRow& x, uint8_t* y, int64_t n, float inverse_scale, int32_t zero_point, bool within) {
  const Lanes inverse = splat(inverse_scale), hi = splat(static_cast<float>(255 - zero_point));
  with_factors(x, [&](auto row) {
    if (within)
      return for_lanes(
          n, [&](int64_t i, auto count) { store_saturated(y + i, row(i, count) * inverse, zero_point, count); });
    for_lanes(n, [&](int64_t i, auto count) {
      store_saturated(y + i, less(hi, or_zero(row(i, count) * inverse)), zero_point, count);
    });
  });
}

void copies_block(const float* x, const float* before, uint8_t* y, int64_t n, float inverse_scale, int32_t zero_point) {
  const Lanes inverse = splat(inverse_scale), zero = splat(0.0f), lo = splat(static_cast<float>(-zero_point)),
              hi = splat(static_cast<float>(255 - zero_point));
  for_lanes(n, [&](int64_t i, auto count) {
    const Lanes t = or_zero(round(load(x + i, count) * inverse)), times = load(before + i, count);
    const Lanes above = clamp(t - times * hi, zero, hi), below = clamp(t - times * lo, lo, zero);
    store_saturated(y + i, above + below, zero_point, count);
  });
}

void dequantize_block(const uint8_t* x, float* y, int64_t n, float scale, int32_t zero_point) {
  const Lanes multiplier = splat(scale);
  for_lanes(n, [&](int64_t i, auto count) { store(y + i, load_codes(x + i, zero_point, count) * multiplier, count); });
}

// Bounds that are NaN stay so, because less and greater give their second operand then. Lanes past the end read as 0,
// which never widens a range.
void range_block(const FactorRow& x, int64_t n, float* lo, float* hi) {
  Lanes lowest[2] = {splat(*lo), splat(*lo)}, highest[2] = {splat(*hi), splat(*hi)};
  Mask nan = is_nan(splat(0.0f));
  with_factors(x, [&](auto row) {
    int64_t done = 0;
    for (; done + 2 * kLanes <= n; done += 2 * kLanes) {
      const Lanes v[2] = {row(done, Full{}), row(done + kLanes, Full{})};
      for (int j = 0; j < 2; ++j) {
        lowest[j] = less(v[j], lowest[j]);
        highest[j] = greater(v[j], highest[j]);
      }
      nan = nan | either_nan(v[0], v[1]);
    }
    for_lanes(n - done, [&](int64_t i, auto count) {
      const Lanes v = row(done + i, count);
      lowest[0] = less(v, lowest[0]);
      highest[0] = greater(v, highest[0]);
      nan = nan | is_nan(v);
    });
  });
  if (any(nan)) *lo = *hi = __builtin_nanf("");
  const float bottom = -highest_lane(-less(lowest[0], lowest[1])), top = highest_lane(greater(highest[0], highest[1]));
  *lo = bottom < *lo ? bottom : *lo;
  *hi = top > *hi ? top : *hi;
}

// max |x|, NaN where one is.
template <class Row>
inline float magnitude_of(int64_t n, Row row) {
  Lanes top[2] = {splat(0.0f), splat(0.0f)};
  Mask nan = is_nan(splat(0.0f));
  int64_t done = 0;
  for (; done + 2 * kLanes <= n; done += 2 * kLanes) {
    const Lanes v[2] = {row(done, Full{}), row(done + kLanes, Full{})};
    for (int j = 0; j < 2; ++j) top[j] = greater(abs(v[j]), top[j]);
    nan = nan | either_nan(v[0], v[1]);
  }
  for_lanes(n - done, [&](int64_t i, auto count) {
    const Lanes v = row(done + i, count);
    top[0] = greater(abs(v), top[0]);
    nan = nan | is_nan(v);
  });
  return any(nan) ? __builtin_nanf("") : highest_lane(greater(top[0], top[1]));
}

// Some groups at a time: their divisions go together, and they are still in the first cache when they are read again.
void groups_block(const FactorRow& x, int8_t* y, int64_t n, int64_t group, float* scales) {
  constexpr int64_t kTogether = 32;
  float inverses[kTogether];
  with_factors(x, [&](auto row) {
    const auto part = [&](int64_t first, auto f) {
      f(group < n - first ? group : n - first, [&](int64_t i, auto count) { return row(first + i, count); });
    };
    for (int64_t begin = 0; begin < n; begin += kTogether * group, scales += kTogether) {
      const int64_t left = (n - begin + group - 1) / group, count = left < kTogether ? left : kTogether;
      for (int64_t g = 0; g < count; ++g)
        part(begin + g * group, [&](int64_t size, auto values) { scales[g] = magnitude_of(size, values); });
      for_lanes(count, [&](int64_t i, auto lanes) {
        const Lanes width = load(scales + i, lanes) / splat(127.0f), finite = width + (width - width);
        const Lanes scale = select(is_nan(finite) | (finite > splat(0.0f)), finite, splat(1.0f));
        store(scales + i, scale, lanes);
        store(inverses + i, splat(1.0f) / scale, lanes);
      });
      for (int64_t g = 0; g < count; ++g) {
        const int64_t first = begin + g * group;
        const Lanes inverse = splat(inverses[g]), most = splat(127.0f), least = splat(-127.0f);
        const bool within = inverses[g] < __builtin_inff();
        part(first, [&](int64_t size, auto values) {
          if (within)
            return for_lanes(
                size, [&](int64_t i, auto lanes) { store_signed(y + first + i, values(i, lanes) * inverse, lanes); });
          for_lanes(size, [&](int64_t i, auto lanes) {
            store_signed(y + first + i, less(most, greater(least, or_zero(values(i, lanes) * inverse))), lanes);
          });
        });
      }
    }
  });
}

void lookup_block(const uint8_t* x, const uint8_t* table, uint8_t* y, int64_t n) {
  const ByteTable lookup{table};
  int64_t i = 0;
  for (; i + static_cast<int64_t>(sizeof(Bytes)) <= n; i += sizeof(Bytes))
    store_bytes(y + i, lookup(load_bytes(x + i)));
  for (; i < n; ++i) y[i] = table[x[i]];
}

template <class F>
inline void pair_row_i8(const PairI8Args& args, const PairI8Rows& r, int64_t row, F combine) {
  const uint8_t *a = r.a + row * r.a_row, *b = r.b + row * r.b_row;
  uint8_t* y = r.y + row * r.y_row;
  const Lanes lo = splat(static_cast<float>(args.lo - args.zero_point)),
              hi = splat(static_cast<float>(args.hi - args.zero_point));
  const Lanes first_a = splat(static_cast<float>(a[0] - args.zero_point_a)),
              first_b = splat(static_cast<float>(b[0] - args.zero_point_b));
  const auto put = [&](int64_t i, const Lanes& t, auto n) {
    store_codes(y + i, clamp_codes(t, lo, hi), args.zero_point, n);
  };
  const auto load_a = [&](int64_t i, auto n) { return load_codes(a + i, args.zero_point_a, n); };
  const auto load_b = [&](int64_t i, auto n) { return load_codes(b + i, args.zero_point_b, n); };
  if (r.a_step && r.b_step) {
    for_lanes(r.n, [&](int64_t i, auto n) { put(i, combine(load_a(i, n), load_b(i, n)), n); });
  } else if (r.a_step) {
    for_lanes(r.n, [&](int64_t i, auto n) { put(i, combine(load_a(i, n), first_b), n); });
  } else if (r.b_step) {
    for_lanes(r.n, [&](int64_t i, auto n) { put(i, combine(first_a, load_b(i, n)), n); });
  } else {
    for_lanes(r.n, [&](int64_t i, auto n) { put(i, combine(first_a, first_b), n); });
  }
  if (args.table) lookup_block(y, args.table, y, r.n);
}

void pair_i8_block(const PairI8Args& args, const PairI8Rows& rows) {
  const Lanes ma = splat(args.multiplier_a), mb = splat(args.multiplier_b);
  for (int64_t row = 0; row < rows.rows; ++row) {
    if (args.product) {
      pair_row_i8(args, rows, row, [&](const Lanes& a, const Lanes& b) { return (a * b) * ma; });
    } else {
      pair_row_i8(args, rows, row, [&](const Lanes& a, const Lanes& b) { return a * ma + b * mb; });
    }
  }
}

// A step of 0 repeats the first element.
template <class F>
inline void map_pairs(const float* a, int64_t a_step, const float* b, int64_t b_step, float* y, int64_t n, F f) {
  if (n <= 0) return;
  const Lanes first_a = splat(a[0]), first_b = splat(b[0]);
  if (a_step && b_step) {
    for_lanes(n, [&](int64_t i, auto count) { store(y + i, f(load(a + i, count), load(b + i, count)), count); });
  } else if (a_step) {
    for_lanes(n, [&](int64_t i, auto count) { store(y + i, f(load(a + i, count), first_b), count); });
  } else if (b_step) {
    for_lanes(n, [&](int64_t i, auto count) { store(y + i, f(first_a, load(b + i, count)), count); });
  } else {
    for_lanes(n, [&](int64_t i, auto count) { store(y + i, f(first_a, first_b), count); });
  }
}

void binary_block(BinaryKind kind, const float* a, int64_t a_step, const float* b, int64_t b_step, float* y,
                  int64_t n) {
  switch (kind) {
    case BinaryKind::add:
      return map_pairs(a, a_step, b, b_step, y, n, [](const Lanes& p, const Lanes& q) { return p + q; });
    case BinaryKind::sub:
      return map_pairs(a, a_step, b, b_step, y, n, [](const Lanes& p, const Lanes& q) { return p - q; });
    case BinaryKind::mul:
      return map_pairs(a, a_step, b, b_step, y, n, [](const Lanes& p, const Lanes& q) { return p * q; });
    case BinaryKind::div:
      return map_pairs(a, a_step, b, b_step, y, n, [](const Lanes& p, const Lanes& q) { return p / q; });
    case BinaryKind::minimum:
      return map_pairs(a, a_step, b, b_step, y, n,
                       [](const Lanes& p, const Lanes& q) { return select(is_nan(p), p, less(p, q)); });
    case BinaryKind::maximum:
      return map_pairs(a, a_step, b, b_step, y, n,
                       [](const Lanes& p, const Lanes& q) { return select(is_nan(p), p, greater(p, q)); });
    case BinaryKind::prelu:
      return map_pairs(a, a_step, b, b_step, y, n,
                       [](const Lanes& p, const Lanes& q) { return select(p > splat(0.0f), p, p * q); });
  }
}

// Lanes are chosen bit for bit, whatever they hold.
void where_block(const uint8_t* condition, const float* a, int64_t a_step, const float* b, int64_t b_step, float* y,
                 int64_t n) {
  if (n <= 0) return;
  const Lanes first_a = splat(a[0]), first_b = splat(b[0]);
  for_lanes(n, [&](int64_t i, auto count) {
    const Mask chosen = load_flags(condition + i, count);
    const Lanes yes = a_step != 0 ? load(a + i, count) : first_a, no = b_step != 0 ? load(b + i, count) : first_b;
    store(y + i, select(chosen, yes, no), count);
  });
}

void softmax_block(const float* x, float* y, int64_t n) { exp_and_divide(x, y, n, highest_of(x, n)); }

// Lanes past the end are 0, and 0 lies between low and high: they add nothing.
void rounding_block(const float* x, int64_t n, const float* factor, const float* low, const float* high, float* error,
                    int64_t trials, int64_t stride) {
  for (int64_t at = 0; at < trials * stride; at += stride) {
    const Lanes scale = splat(factor[at]), bottom = splat(low[at]), top = splat(high[at]);
    Lanes sums = splat(0.0f);
    for_lanes(n, [&](int64_t i, auto count) {
      const Lanes scaled = load(x + i, count) * scale;
      const Lanes left = scaled - less(greater(round(scaled), bottom), top);
      sums = fma(left, left, sums);
    });
    error[at] = sum_lanes(sums);
  }
}

inline Lanes relu6_of_shifted(const Lanes& x) { return clamp(x + splat(3.0f), splat(0.0f), splat(6.0f)); }

// Calls f(x, y, n) for multiples of sixteen elements. What is left past the last sixteen goes through the same call, on
// the stack, so that f is compiled once, and inlined.
template <class F>
LOWBIT_INLINE void map_stretches(const UnaryArgs& args, F f) {
  alignas(64) float rest[kLanes];
  const int64_t left = args.count % kLanes, whole = args.count - left;
  store(rest, load(args.x + whole, left));
  const float* x = args.x;
  float* y = args.y;
  for (int64_t n = whole, turn = 0; turn < 2; ++turn, n = left > 0 ? kLanes : 0, x = y = rest) f(x, y, n);
  store(args.y + whole, load(rest), left);
}

template <class F>
LOWBIT_INLINE void map(const UnaryArgs& args, F f) {
  map_stretches(args, [&](const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) store(y + i, f(load(x + i)));
  });
}

inline void unary_block(const UnaryArgs& args) {
  const Lanes zero = splat(0.0f), one = splat(1.0f), six = splat(6.0f), alpha = splat(args.alpha);
  const Lanes lo = splat(args.min), hi = splat(args.max);
  switch (args.kind) {
    case UnaryKind::clip:
      return map(args, [&](const Lanes& x) { return clamp(x, lo, hi); });
    case UnaryKind::relu:
      return map(args, [&](const Lanes& x) { return greater(zero, x); });
    case UnaryKind::abs:
      return map(args, [](const Lanes& x) { return abs(x); });
    case UnaryKind::neg:
      return map(args, [](const Lanes& x) { return -x; });
    case UnaryKind::square:
      return map(args, [](const Lanes& x) { return x * x; });
    case UnaryKind::sqrt:
      return map(args, [](const Lanes& x) { return sqrt(x); });
    case UnaryKind::rsqrt:
      return map(args, [&](const Lanes& x) { return one / sqrt(x); });
    case UnaryKind::reciprocal:
      return map(args, [&](const Lanes& x) { return one / x; });
    case UnaryKind::exp:
      return map(args, [](const Lanes& x) { return exp(x); });
    case UnaryKind::log:
      return map(args, [](const Lanes& x) { return log(x); });
    case UnaryKind::sigmoid:
      return map(args, [](const Lanes& x) { return sigmoid(x); });
    case UnaryKind::tanh:
      return map(args, [](const Lanes& x) { return tanh(x); });
    case UnaryKind::erf:
      return map(args, [](const Lanes& x) { return erf(x); });
    case UnaryKind::silu:
      return map(args, [](const Lanes& x) { return x * sigmoid(x); });
    case UnaryKind::gelu:
      return map_stretches(args, [](const float* x, float* y, int64_t n) {
        for (int64_t i = 0; i < n; i += kGeluBlock) gelu(x + i, y + i, n - i < kGeluBlock ? n - i : kGeluBlock);
      });
    case UnaryKind::fast_gelu:
      return map(args, [](const Lanes& x) { return fast_gelu(x); });
    case UnaryKind::gelu_tanh:
      return map(args, [](const Lanes& x) { return gelu_tanh(x); });
    case UnaryKind::hardsigmoid:
      return map(args, [&](const Lanes& x) { return relu6_of_shifted(x) / six; });
    case UnaryKind::hardswish:
      return map(args, [&](const Lanes& x) { return x * relu6_of_shifted(x) / six; });
    case UnaryKind::elu:
      return map(args, [&](const Lanes& x) { return select(x > zero, x, alpha * expm1_of_negative(less(zero, x))); });
    case UnaryKind::leaky_relu:
      return map(args, [&](const Lanes& x) { return select(x > zero, x, alpha * x); });
    case UnaryKind::softplus:
      return map(args, [&](const Lanes& x) { return softplus(x, alpha); });
    case UnaryKind::mish:
      return map(args, [](const Lanes& x) { return mish(x); });
    case UnaryKind::exp2:
      return map(args, [](const Lanes& x) { return exp2(x); });
    case UnaryKind::expm1:
      return map(args, [](const Lanes& x) { return expm1(x); });
    case UnaryKind::log2:
      return map(args, [](const Lanes& x) { return log2(x); });
    case UnaryKind::log1p:
      return map(args, [](const Lanes& x) { return log1p(x); });
    case UnaryKind::sin:
      return map(args, [](const Lanes& x) { return sine(x, 0.0f); });
    case UnaryKind::cos:
      return map(args, [](const Lanes& x) { return sine(x, 1.0f); });
    case UnaryKind::floor:
      return map(args, [](const Lanes& x) { return floor(x); });
    case UnaryKind::ceil:
      return map(args, [](const Lanes& x) { return ceil(x); });
    case UnaryKind::trunc:
      return map(args, [](const Lanes& x) { return trunc(x); });
    case UnaryKind::round:
      return map(args, [](const Lanes& x) { return round(x); });
    case UnaryKind::sign:
      return map(args, [](const Lanes& x) { return sign(x); });
    case UnaryKind::atan:
      return map(args, [](const Lanes& x) { return atan(x); });
    case UnaryKind::erfc:
      return map(args, [](const Lanes& x) { return erfc(x); });
  }
}

}  // namespace
}  // namespace lowbit::kernels::eltwise
