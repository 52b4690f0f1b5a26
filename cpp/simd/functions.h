// The unary float functions, over sixteen lanes: each a fixed sequence of IEEE operations, hence the same bits on every
// ISA.
//
// Polynomials: exp, log, tanh and atan after Cephes (S. Moshier, expf.c, logf.c, tanhf.c, atanf.c), erf after N.
// Juffa's erff (public domain).
#pragma once

#include "simd/lanes.h"
#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

inline Lanes operator-(const Lanes& a) { return flip(a, splat(-0.0f)); }

// e^r - 1 for |r| <= ln(2) / 2.
LOWBIT_INLINE Lanes expm1_near_zero(const Lanes& r) {
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
LOWBIT_INLINE Reduced reduce(const Lanes& x) {
  const Lanes n = round(x * splat(1.44269504088896341f));
  return {n, fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x))};
}

// For |x| < 87: 2^n and e^x are normal floats.
LOWBIT_INLINE Lanes exp_of_moderate(const Lanes& x) {
  const Reduced a = reduce(x);
  return raise(expm1_near_zero(a.r) + splat(1.0f), a.n);
}
LOWBIT_INLINE Lanes exp_of_any(const Lanes& x) {
  const Reduced a = reduce(clamp(x, splat(-105.0f), splat(89.0f)));
  const Lanes p = expm1_near_zero(a.r) + splat(1.0f);
  const Lanes half = round(a.n * splat(0.5f));  // 2^n in two steps: its ends are no normal floats
  return p * pow2(half) * pow2(a.n - half);
}
LOWBIT_INLINE Lanes exp(const Lanes& x) {
  if (all(splat(87.0f) > abs(x))) return exp_of_moderate(x);  // the same bits
  return exp_of_any(x);
}

// For x of 87 at most; 0 below -87. NaN stays NaN, for greater gives its second operand then.
LOWBIT_INLINE Lanes exp_or_zero(const Lanes& x) {
  const Lanes lowest = splat(-87.0f);
  return select(lowest > x, splat(0.0f), exp_of_moderate(greater(lowest, x)));
}

// 2^x; the fraction of x is exact.
inline Lanes exp2(const Lanes& x) {
  const Lanes bounded = clamp(x, splat(-151.0f), splat(129.0f)), n = round(bounded);
  const Lanes p = expm1_near_zero((bounded - n) * splat(0.693147181f)) + splat(1.0f);
  const Lanes half = round(n * splat(0.5f));
  return p * pow2(half) * pow2(n - half);
}

// e^x - 1 for x <= 0.
inline Lanes expm1_of_negative(const Lanes& x) {
  const Reduced a = reduce(greater(splat(-80.0f), x));
  const Lanes power = pow2(a.n);
  return fma(expm1_near_zero(a.r), power, power - splat(1.0f));
}

// x = 2^e (1 + m) for x > 0, and p with log(1 + m) = m + p - m^2 / 2.
struct Logarithm {
  Lanes e, m, p, square;
};
inline Logarithm log_parts(const Lanes& x) {
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
  return {e, m, p * m * square, square};
}

// The logarithm y of x > 0, made right for all other x.
inline Lanes of_positive(const Lanes& x, const Lanes& y) {
  const Lanes infinity = splat(__builtin_inff());
  const Lanes above = select(x > splat(3.4028234e38f), infinity, y);
  const Lanes all = select(x > splat(0.0f), above, select(splat(0.0f) > x, splat(__builtin_nanf("")), -infinity));
  return select(is_nan(x), x, all);
}

inline Lanes log(const Lanes& x) {
  const Logarithm a = log_parts(x);
  Lanes y = fma(a.e, splat(-2.12194440e-4f), a.p);
  y = fma(a.square, splat(-0.5f), y);
  y = fma(a.e, splat(0.693359375f), a.m + y);
  return of_positive(x, y);
}

inline Lanes log2(const Lanes& x) {
  const Logarithm a = log_parts(x);
  const Lanes tail = fma(a.square, splat(-0.5f), a.p);  // log(1 + m) - m
  Lanes y = fma(a.m, splat(0.442695041f), tail * splat(1.44269504f)) + a.m;
  return of_positive(x, a.e + y);
}

// log(1 + x) for 0 <= x <= 1: the second term restores what 1 + x rounded away.
inline Lanes log1p_near_zero(const Lanes& x) {
  const Lanes sum = x + splat(1.0f);
  return log(sum) - ((sum - splat(1.0f)) - x) / sum;
}
inline Lanes log1p(const Lanes& x) {
  const Lanes near = log1p_near_zero(x), far = log(x + splat(1.0f));
  const Lanes y = select(abs(x) > splat(1e6f), far, select(x > splat(-1.0f), near, far));
  return select(is_nan(x), x, select(abs(x) > splat(1e-20f), y, x));
}

inline Lanes expm1(const Lanes& x) {
  const Lanes bounded = less(splat(64.0f), x);
  const Reduced a = reduce(greater(splat(-80.0f), bounded));
  const Lanes power = pow2(a.n);
  const Lanes y = fma(expm1_near_zero(a.r), power, power - splat(1.0f));
  return select(x > splat(60.0f), exp(x), y);
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
LOWBIT_INLINE Lanes erf_near_zero(const Lanes& x) {
  const Lanes square = x * x;
  Lanes p = splat(-5.96761703e-4f);
  p = fma(p, square, splat(4.99119423e-3f));
  p = fma(p, square, splat(-2.67681349e-2f));
  p = fma(p, square, splat(1.12819925e-1f));
  p = fma(p, square, splat(-3.76125336e-1f));
  p = fma(p, square, splat(1.28379166e-1f));
  return fma(p, x, x);
}
LOWBIT_INLINE Lanes log_erfc(const Lanes& t) {
  const Lanes square = t * t;
  Lanes p = fma(splat(-1.72853470e-5f), t, splat(3.83197126e-4f));
  p = fma(p, square, fma(splat(-3.88396438e-3f), t, splat(2.42546219e-2f)));
  p = fma(p, t, splat(-1.06777877e-1f));
  p = fma(p, t, splat(-6.34846687e-1f));
  p = fma(p, t, splat(-1.28717512e-1f));
  return fma(p, t, -t);
}
LOWBIT_INLINE Lanes erfc_of_magnitude(const Lanes& x) {
  const Lanes t = abs(x);
  if (all(splat(8.5f) > t)) return exp_of_moderate(log_erfc(t));  // of -77.7 and above
  return exp_of_any(log_erfc(less(splat(10.0f), t)));
}
constexpr float kErfSplit = 0.927734375f;

inline Lanes erf(const Lanes& x) {
  const Lanes large = flip(splat(1.0f) - erfc_of_magnitude(x), sign_of(x));
  return select(abs(x) > splat(kErfSplit), large, erf_near_zero(x));
}

inline Lanes erfc(const Lanes& x) {
  const Lanes tail = erfc_of_magnitude(x);
  const Lanes large = select_negative(x, splat(2.0f) - tail, tail);
  return select(abs(x) > splat(kErfSplit), large, splat(1.0f) - erf_near_zero(x));
}

// For n <= kGeluBlock, a multiple of kLanes; y may be x. In three passes: a CPU looks ahead no farther than the chain
// of dependent operations of one vector is long, unless it is cut into pieces.
constexpr int64_t kGeluBlock = 256;
inline void gelu(const float* x, float* y, int64_t n) {
  const Lanes root = splat(0.70710678118654752f);
  alignas(64) float tails[kGeluBlock];
  bool moderate = true;
  for (int64_t i = 0; i < n; i += kLanes) {
    const Lanes t = abs(load(x + i) * root);
    moderate &= all(splat(8.5f) > t);
    store(tails + i, log_erfc(t));
  }
  for (int64_t i = 0; i < n; i += kLanes)
    store(tails + i, moderate ? exp_of_moderate(load(tails + i)) : erfc_of_magnitude(load(x + i) * root));
  for (int64_t i = 0; i < n; i += kLanes) {
    const Lanes v = load(x + i), z = v * root;
    const Lanes tail = load(tails + i);  // 1 + erf(z) where z is negative: no cancellation
    const Lanes large = select_negative(z, tail, splat(2.0f) - tail);
    const Lanes sum = select(abs(z) > splat(kErfSplit), large, erf_near_zero(z) + splat(1.0f));
    store(y + i, v * splat(0.5f) * sum);
  }
}

// The share of a normal distribution below -t, t >= 0, is a polynomial of degree 7 for each 0.8 of t (least squares on
// Chebyshev's nodes, off by 4e-9), and 0 from 5.6 on. Of the highest power first, for the eight stretches.
constexpr float kTails[8][8] = {
    {1.220927741e-04f, -1.694800878e-04f, 2.198000831e-05f, 3.366300432e-05f, -5.385643191e-06f, -2.624715873e-06f,
     -2.371042571e-07f, 0.000000000e+00f},
    {6.934317373e-04f, 2.293422306e-04f, -3.442296474e-04f, -1.970718131e-05f, 4.234096763e-05f, 8.138373866e-06f,
     5.253212351e-07f, 0.000000000e+00f},
    {-2.076607493e-03f, 1.890044450e-03f, 7.376649470e-04f, -3.766382698e-04f, -1.557975937e-04f, -1.781341941e-05f,
     -8.346273111e-07f, 0.000000000e+00f},
    {-7.135792248e-03f, -6.204392238e-03f, 1.841393674e-03f, 1.831380652e-03f, 3.745212994e-04f, 3.059596854e-05f,
     1.137081024e-06f, 0.000000000e+00f},
    {2.639756158e-02f, -7.290965281e-03f, -1.382172259e-02f, -4.620091286e-03f, -6.244942965e-04f, -3.907838110e-05f,
     -1.191447255e-06f, 0.000000000e+00f},
    {4.713837214e-02f, 7.456746387e-02f, 3.455429339e-02f, 7.092212932e-03f, 7.049073655e-04f, 3.512132398e-05f,
     8.924115155e-07f, 0.000000000e+00f},
    {-2.946161115e-01f, -1.553488454e-01f, -4.319277255e-02f, -6.332361256e-03f, -4.895216314e-04f, -1.995396746e-05f,
     -4.288794052e-07f, 0.000000000e+00f},
    {3.445782600e-01f, 1.150696701e-01f, 2.275013136e-02f, 2.555130577e-03f, 1.591086189e-04f, 5.412525758e-06f,
     9.964163830e-08f, 0.000000000e+00f},
};
inline Lanes fast_gelu(const Lanes& x) {
  const Lanes at = fma(less(splat(6.0f), abs(x)), splat(1.25f), splat(-0.5f));  // in stretches, from a middle
  const Lanes stretch = round(at), u = at - stretch;
  Lanes tail = pick(kTails[0], stretch);
  LOWBIT_UNROLL
  for (int i = 1; i < 8; ++i) tail = fma(tail, u, pick(kTails[i], stretch));
  return x * select_negative(x, tail, splat(1.0f) - tail);
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
  return (greater(splat(0.0f), z) + log1p_near_zero(exp(-abs(z)))) / beta;
}

// round() leaves floats that have no fraction as they are, the signed zeros too.
inline Lanes floor(const Lanes& x) {
  const Lanes near = round(x);
  return select(near > x, near - splat(1.0f), near);
}
inline Lanes ceil(const Lanes& x) { return -floor(-x); }
inline Lanes trunc(const Lanes& x) { return flip(floor(abs(x)), sign_of(x)); }

// NaN has no sign.
inline Lanes sign(const Lanes& x) {
  return select(x > splat(0.0f), splat(1.0f), select(splat(0.0f) > x, splat(-1.0f), splat(0.0f)));
}

// sin(r) and cos(r) for |r| a little over pi / 4 (Cephes), turned by n quarters.
inline Lanes sine_of_turn(const Lanes& r, const Lanes& n) {
  const Lanes square = r * r;
  Lanes s = splat(-1.9515295891e-4f);
  s = fma(s, square, splat(8.3321608736e-3f));
  s = fma(s, square, splat(-1.6666654611e-1f));
  s = fma(s * square, r, r);
  Lanes c = splat(2.443315711809948e-5f);
  c = fma(c, square, splat(-1.388731625493765e-3f));
  c = fma(c, square, splat(4.166664568298827e-2f));
  c = fma(c * square, square, fma(square, splat(-0.5f), splat(1.0f)));
  const Lanes quarter = n - floor(n * splat(0.25f)) * splat(4.0f);  // 0, 1, 2 or 3
  const Mask back = quarter > splat(1.5f);
  const Lanes odd = select(back, quarter - splat(2.0f), quarter);
  const Lanes y = select(odd > splat(0.5f), c, s);
  return select(back, -y, y);
}

// x - n pi / 2 in float64: for arguments too large for float32.
inline void reduce_far(float x, float* r, float* n) {
  const double turns = __builtin_floor(static_cast<double>(x) * 0.63661977236758134 + 0.5);
  double rest = __builtin_fma(-turns, 1.5707963267948966, static_cast<double>(x));  // exact
  rest = __builtin_fma(-turns, 6.123233995736766e-17, rest);
  const double quarter = turns - __builtin_floor(turns * 0.25) * 4.0;
  const bool sound = rest < 0.8 && rest > -0.8;  // beyond 2^52 nothing is left to reduce
  *r = sound ? static_cast<float>(rest) : 0.0f;
  *n = sound ? static_cast<float>(quarter) : 0.0f;
}

// sin(x + quarters pi / 2)
inline Lanes sine(const Lanes& x, float quarters) {
  const Lanes magnitude = abs(x);
  Lanes n = round(x * splat(0.636619772f));
  // The first difference is exact: both sides are multiples of 2^-23 or of x's last place.
  Lanes r = fma(n, splat(-1.57079637050628662f), x);
  r = fma(n, splat(4.37113882867379e-8f), r);
  r = fma(n, splat(1.71512451e-15f), r);
  const Mask far = magnitude > splat(100000.0f);
  if (any(far)) {
    float xs[kLanes], rs[kLanes], ns[kLanes];
    store(xs, x);
    store(rs, r);
    store(ns, n);
    for (int i = 0; i < kLanes; ++i)
      if (xs[i] > 100000.0f || xs[i] < -100000.0f) reduce_far(xs[i], rs + i, ns + i);
    r = load(rs);
    n = load(ns);
  }
  const Lanes y = sine_of_turn(r, n + splat(quarters));
  const Lanes nan = splat(__builtin_nanf(""));
  return select(is_nan(x), x, select(magnitude > splat(3.4028234e38f), nan, y));
}

// atan(x) = base + atan(t): t = x; (x - 1) / (x + 1) from tan(pi / 8) on; -1 / x from tan(3 pi / 8) on.
inline Lanes atan(const Lanes& x) {
  const Lanes magnitude = abs(x), one = splat(1.0f);
  const Mask steep = magnitude > splat(2.414213562373095f), middle = magnitude > splat(0.4142135623730950f);
  const Lanes above = select(steep, splat(-1.0f), select(middle, magnitude - one, magnitude));
  const Lanes below = select(steep, magnitude, select(middle, magnitude + one, one));
  const Lanes base = select(steep, splat(1.5707963267948966f), select(middle, splat(0.7853981633974483f), splat(0.0f)));
  const Lanes t = above / below, square = t * t;
  Lanes p = splat(8.05374449538e-2f);
  p = fma(p, square, splat(-1.38776856032e-1f));
  p = fma(p, square, splat(1.99777106478e-1f));
  p = fma(p, square, splat(-3.33329491539e-1f));
  return flip(base + fma(p * square, t, t), sign_of(x));
}

}  // namespace
}  // namespace lowbit::kernels
