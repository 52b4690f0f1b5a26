// The unary float functions, over sixteen lanes: each a fixed sequence of IEEE operations, hence the same bits on every
// ISA.
//
// Polynomials: exp, log and tanh after Cephes (S. Moshier, expf.c, logf.c, tanhf.c), erf after N. Juffa's erff (public
// domain).
#pragma once

#include "kernels/eltwise/eltwise.h"
#include "kernels/eltwise/lanes.h"

namespace lowbit::kernels {
namespace {

inline Lanes operator-(const Lanes& a) { return flip(a, splat(-0.0f)); }

// e^r - 1 for |r| <= ln(2) / 2.
inline Lanes expm1_near_zero(const Lanes& r) {
  Lanes p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  return fma(p, r * r, r);
}

// x = n ln(2) + r, ln(2) in two parts so that r is exact enough.
struct Reduced {
  Lanes n, r;
};
inline Reduced reduce(const Lanes& x) {
  const Lanes n = round(x * splat(1.44269504088896341f));
  return {n, fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x))};
}

inline Lanes exp(const Lanes& x) {
  const Reduced a = reduce(clamp(x, splat(-105.0f), splat(89.0f)));
  const Lanes p = expm1_near_zero(a.r) + splat(1.0f);
  const Lanes half = round(a.n * splat(0.5f));  // 2^n in two steps: its ends are no normal floats
  return p * pow2(half) * pow2(a.n - half);
}

// e^x - 1 for x <= 0.
inline Lanes expm1_of_negative(const Lanes& x) {
  const Reduced a = reduce(greater(splat(-80.0f), x));
  const Lanes power = pow2(a.n);
  return fma(expm1_near_zero(a.r), power, power - splat(1.0f));
}

inline Lanes log(const Lanes& x) {
  const Mask tiny = splat(1.17549435e-38f) > x;  // below the normal range
  const Lanes scaled = select(tiny, x * splat(8388608.0f), x);
  const Lanes whole = mantissa(scaled);
  const Mask upper = whole > splat(1.41421356f);
  const Lanes m = select(upper, whole * splat(0.5f), whole) - splat(1.0f);
  const Lanes e = exponent(scaled) + select(upper, splat(1.0f), splat(0.0f)) - select(tiny, splat(23.0f), splat(0.0f));
  Lanes p = splat(7.0376836292e-2f);
  p = fma(p, m, splat(-1.1514610310e-1f));
  p = fma(p, m, splat(1.1676998740e-1f));
  p = fma(p, m, splat(-1.2420140846e-1f));
  p = fma(p, m, splat(1.4249322787e-1f));
  p = fma(p, m, splat(-1.6668057665e-1f));
  p = fma(p, m, splat(2.0000714765e-1f));
  p = fma(p, m, splat(-2.4999993993e-1f));
  p = fma(p, m, splat(3.3333331174e-1f));
  const Lanes square = m * m;
  Lanes y = fma(e, splat(-2.12194440e-4f), p * m * square);
  y = fma(square, splat(-0.5f), y);
  y = fma(e, splat(0.693359375f), m + y);
  const Lanes infinity = splat(__builtin_inff());
  y = select(x > splat(3.4028234e38f), infinity, y);
  y = select(x > splat(0.0f), y, select(splat(0.0f) > x, splat(__builtin_nanf("")), -infinity));
  return select(is_nan(x), x, y);
}

// log(1 + x) for 0 <= x <= 1: the second term restores what 1 + x rounded away.
inline Lanes log1p(const Lanes& x) {
  const Lanes sum = x + splat(1.0f);
  return log(sum) - ((sum - splat(1.0f)) - x) / sum;
}

inline Lanes sigmoid(const Lanes& x) {
  const Lanes e = exp(-abs(x));
  return select(splat(0.0f) > x, e, splat(1.0f)) / (e + splat(1.0f));
}

inline Lanes tanh(const Lanes& x) {
  const Lanes magnitude = abs(x);
  const Lanes square = x * x;
  Lanes p = splat(-5.70498872745e-3f);
  p = fma(p, square, splat(2.06390887954e-2f));
  p = fma(p, square, splat(-5.37397155531e-2f));
  p = fma(p, square, splat(1.33314422036e-1f));
  p = fma(p, square, splat(-3.33332819422e-1f));
  const Lanes small = fma(p * square, x, x);
  const Lanes large = splat(1.0f) - splat(2.0f) / (exp(magnitude + magnitude) + splat(1.0f));
  return select(magnitude > splat(0.625f), flip(large, sign_of(x)), small);
}

// erf(x) for |x| <= 0.93, and 1 - erf(|x|) above.
inline Lanes erf_near_zero(const Lanes& x) {
  const Lanes square = x * x;
  Lanes p = splat(-5.96761703e-4f);
  p = fma(p, square, splat(4.99119423e-3f));
  p = fma(p, square, splat(-2.67681349e-2f));
  p = fma(p, square, splat(1.12819925e-1f));
  p = fma(p, square, splat(-3.76125336e-1f));
  p = fma(p, square, splat(1.28379166e-1f));
  return fma(p, x, x);
}
inline Lanes erfc_of_magnitude(const Lanes& x) {
  const Lanes t = less(splat(10.0f), abs(x));
  const Lanes square = t * t;
  Lanes p = fma(splat(-1.72853470e-5f), t, splat(3.83197126e-4f));
  p = fma(p, square, fma(splat(-3.88396438e-3f), t, splat(2.42546219e-2f)));
  p = fma(p, t, splat(-1.06777877e-1f));
  p = fma(p, t, splat(-6.34846687e-1f));
  p = fma(p, t, splat(-1.28717512e-1f));
  return exp(fma(p, t, -t));
}
constexpr float kErfSplit = 0.927734375f;

inline Lanes erf(const Lanes& x) {
  const Lanes large = flip(splat(1.0f) - erfc_of_magnitude(x), sign_of(x));
  return select(abs(x) > splat(kErfSplit), large, erf_near_zero(x));
}

inline Lanes gelu(const Lanes& x) {
  const Lanes z = x * splat(0.70710678118654752f);
  const Lanes tail = erfc_of_magnitude(z);  // 1 + erf(z) where z is negative: no cancellation
  const Lanes large = select(splat(0.0f) > z, tail, splat(2.0f) - tail);
  const Lanes sum = select(abs(z) > splat(kErfSplit), large, erf_near_zero(z) + splat(1.0f));
  return x * splat(0.5f) * sum;
}

// 1 + tanh(u) = 2 sigmoid(2 u)
inline Lanes gelu_tanh(const Lanes& x) {
  const Lanes cube = fma(x * x * x, splat(0.044715f), x);
  return x * sigmoid(cube * splat(1.59576912160573f));
}

// tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2)
inline Lanes mish(const Lanes& x) {
  const Lanes e = exp(less(splat(20.0f), x));
  const Lanes n = e * (e + splat(2.0f));
  return x * (n / (n + splat(2.0f)));
}

inline Lanes softplus(const Lanes& x, const Lanes& beta) {
  const Lanes z = x * beta;
  return (greater(splat(0.0f), z) + log1p(exp(-abs(z)))) / beta;
}

inline Lanes relu6_of_shifted(const Lanes& x) { return clamp(x + splat(3.0f), splat(0.0f), splat(6.0f)); }

template <class F>
inline void map(const UnaryArgs& args, F f) {
  for_lanes(args.count, [&](int64_t i, auto n) { store(args.y + i, f(load(args.x + i, n)), n); });
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
      return map(args, [](const Lanes& x) { return gelu(x); });
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
  }
}

}  // namespace
}  // namespace lowbit::kernels
