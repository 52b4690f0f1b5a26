// One loop for each operation and type, and the choice among them.
#include "kernels/eltwise/typed.h"

#include <bit>
#include <cmath>
#include <functional>
#include <type_traits>

#include "base/read_once.h"
#include "kernels/eltwise/nest.h"

namespace lowbit::kernels {
namespace {

// A bool as it lies in memory: any byte but 0 is true.
struct Bool {
  uint8_t byte;
  explicit operator bool() const { return byte != 0; }
  friend int operator-(Bool a, Bool b) { return static_cast<int>(a.byte != 0) - static_cast<int>(b.byte != 0); }
};

template <class T>
using Wrapping = std::make_unsigned_t<T>;

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<Wrapping<T>>(a) + static_cast<Wrapping<T>>(b));
    else
      return a + b;
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<Wrapping<T>>(a) - static_cast<Wrapping<T>>(b));
    else
      return a - b;
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b));
    else
      return a * b;
  }
};
struct Minimum {
  template <class T>
  T operator()(T a, T b) const {
    return a != a || a < b ? a : b;
  }
};
struct Maximum {
  template <class T>
  T operator()(T a, T b) const {
    return a != a || a > b ? a : b;
  }
};

// Whether dividing would trap: by 0, or the least number by -1.
template <class T>
bool traps(T b) {
  return static_cast<std::make_unsigned_t<T>>(b) + 1u <= 1u;
}

struct Division {};

struct TruncDiv : Division {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return std::trunc(a / b);
    else
      return traps(b) ? Sub()(T{0}, a) : static_cast<T>(a / b);
  }
};
struct Fmod : Division {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return std::fmod(a, b);
    else
      return traps(b) ? T{0} : static_cast<T>(a % b);
  }
};
struct Remainder : Division {
  template <class T>
  T operator()(T a, T b) const {
    const T rest = Fmod()(a, b);
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
  }
};
struct FloorDiv : Division {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      if (b == 0) return a / b;
      const T rest = std::fmod(a, b);
      T quotient = (a - rest) / b;
      if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
      if (quotient == 0) return std::copysign(T{0}, a / b);
      const T below = std::floor(quotient);
      return quotient - below > T{0.5} ? below + 1 : below;
    } else {
      const T quotient = TruncDiv()(a, b), rest = Fmod()(a, b);
      return rest != 0 && (rest < 0) != (b < 0) ? quotient - 1 : quotient;
    }
  }
};

struct Pow {
  float operator()(float a, float b) const { return power(a, b); }
  template <class T>
  T operator()(T a, T b) const {
    if (b < 0) return a == 1 ? T{1} : a == -1 ? static_cast<T>(b % 2 != 0 ? -1 : 1) : T{0};
    T result = 1;
    for (T factor = a; b != 0; b >>= 1, factor = Mul()(factor, factor))
      if (b & 1) result = Mul()(result, factor);
    return result;
  }
};

// Comparisons of bools go by their difference.
template <class Relation>
struct Compare {
  template <class T>
  Bool operator()(T a, T b) const {
    if constexpr (std::is_same_v<T, Bool>)
      return {static_cast<uint8_t>(Relation()(a - b, 0))};
    else
      return {static_cast<uint8_t>(Relation()(a, b))};
  }
};
template <class Operation>
struct Bits {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_same_v<T, Bool>)
      return {static_cast<uint8_t>(Operation()(static_cast<int>(a.byte != 0), static_cast<int>(b.byte != 0)))};
    else
      return static_cast<T>(Operation()(a, b));
  }
};

// A divisor must stay what it was found to be.
template <class F, class T>
T operand(const T* x) {
  if constexpr (std::is_base_of_v<Division, F> && std::is_integral_v<T>)
    return read_once(x);
  else
    return *x;
}

template <class T, class F>
void line(const void* a, int64_t a_step, const void* b, int64_t b_step, void* y, int64_t y_step, int64_t n) {
  using Result = std::invoke_result_t<F, T, T>;
  const F f;
  const T* p = static_cast<const T*>(a);
  const T* q = static_cast<const T*>(b);
  Result* to = static_cast<Result*>(y);
  if (y_step == 1 && a_step == 1 && b_step == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = f(p[i], operand<F>(q + i));
  } else if (y_step == 1 && a_step == 1 && b_step == 0) {
    const T second = operand<F>(q);
    for (int64_t i = 0; i < n; ++i) to[i] = f(p[i], second);
  } else if (y_step == 1 && a_step == 0 && b_step == 1) {
    const T first = *p;
    for (int64_t i = 0; i < n; ++i) to[i] = f(first, operand<F>(q + i));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * y_step] = f(p[i * a_step], operand<F>(q + i * b_step));
  }
}

template <class F>
TypedLine arithmetic(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return line<float, F>;
    case DType::i64:
      return line<int64_t, F>;
    case DType::i32:
      return line<int32_t, F>;
    default:
      return nullptr;
  }
}

template <class F>
TypedLine bits(DType dtype) {
  switch (dtype) {
    case DType::boolean:
      return line<Bool, F>;
    case DType::i64:
      return line<int64_t, F>;
    case DType::i32:
      return line<int32_t, F>;
    case DType::u8:
      return line<uint8_t, F>;
    case DType::s8:
      return line<int8_t, F>;
    default:
      return nullptr;
  }
}

template <class Relation>
TypedLine comparison(DType dtype) {
  return dtype == DType::f32 ? line<float, Compare<Relation>> : bits<Compare<Relation>>(dtype);
}

template <class T>
void where_line(const EltwiseKernel& kernel, const uint8_t* condition, int64_t step, const T* a, int64_t a_step,
                const T* b, int64_t b_step, T* y, int64_t y_step, int64_t n) {
  if (step == 0 && y_step == 1) {  // one choice for the whole line
    const T* from = *condition != 0 ? a : b;
    const int64_t from_step = *condition != 0 ? a_step : b_step;
    for (int64_t i = 0; i < n; ++i) y[i] = from[i * from_step];
  } else if (sizeof(T) == 4 && step == 1 && y_step == 1 && a_step <= 1 && b_step <= 1) {
    kernel.where(condition, reinterpret_cast<const float*>(a), a_step, reinterpret_cast<const float*>(b), b_step,
                 reinterpret_cast<float*>(y), n);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i * y_step] = condition[i * step] != 0 ? a[i * a_step] : b[i * b_step];
  }
}

template <class T>
void where_nest(const EltwiseKernel& kernel, const WhereArgs& args, const Nest& nest) {
  const auto last = static_cast<size_t>(nest.rank - 1);
  const auto step = nest.stride[last];
  for_outer(nest, 1, [&](const auto& at) {
    where_line(kernel, args.condition.data + at[1], step[1], static_cast<const T*>(args.a.data) + at[2], step[2],
               static_cast<const T*>(args.b.data) + at[3], step[3], static_cast<T*>(args.y.data) + at[0], step[0],
               nest.size[last]);
  });
}

// Base-2 logarithm of a finite x > 0: x = 2^e m with m near 1, and ln m = 2 artanh((m - 1) / (m + 1)).
double log2_of(double x) {
  const auto bits = std::bit_cast<uint64_t>(x);  // a float is no subnormal double
  double e = static_cast<double>(static_cast<int64_t>(bits >> 52) - 1023);
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    e += 1.0;
  }
  const double s = (m - 1.0) / (m + 1.0), square = s * s;
  constexpr double kTerms[] = {1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                               1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
  double sum = 0.0;
  for (const double term : kTerms) sum = sum * square + term;
  return e + 2.0 * s * sum * 1.4426950408889634;
}

double exp2_of(double t) {
  constexpr double kWhole = 6755399441055744.0;  // added and taken away, it leaves what nearbyint() gives
  const double n = (t + kWhole) - kWhole, r = (t - n) * 0.6931471805599453;
  constexpr double kTerms[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  double sum = 0.0;
  for (const double term : kTerms) sum = sum * r + term;
  return sum * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52);
}

}  // namespace

TypedLine find_typed(TypedKind kind, DType dtype) {
  switch (kind) {
    case TypedKind::add:
      return arithmetic<Add>(dtype);
    case TypedKind::sub:
      return arithmetic<Sub>(dtype);
    case TypedKind::mul:
      return arithmetic<Mul>(dtype);
    case TypedKind::minimum:
      return arithmetic<Minimum>(dtype);
    case TypedKind::maximum:
      return arithmetic<Maximum>(dtype);
    case TypedKind::pow:
      return arithmetic<Pow>(dtype);
    case TypedKind::floor_div:
      return arithmetic<FloorDiv>(dtype);
    case TypedKind::trunc_div:
      return arithmetic<TruncDiv>(dtype);
    case TypedKind::remainder:
      return arithmetic<Remainder>(dtype);
    case TypedKind::fmod:
      return arithmetic<Fmod>(dtype);
    case TypedKind::eq:
      return comparison<std::equal_to<>>(dtype);
    case TypedKind::ne:
      return comparison<std::not_equal_to<>>(dtype);
    case TypedKind::lt:
      return comparison<std::less<>>(dtype);
    case TypedKind::le:
      return comparison<std::less_equal<>>(dtype);
    case TypedKind::gt:
      return comparison<std::greater<>>(dtype);
    case TypedKind::ge:
      return comparison<std::greater_equal<>>(dtype);
    case TypedKind::bit_and:
      return bits<Bits<std::bit_and<>>>(dtype);
    case TypedKind::bit_or:
      return bits<Bits<std::bit_or<>>>(dtype);
    case TypedKind::bit_xor:
      return bits<Bits<std::bit_xor<>>>(dtype);
  }
  return nullptr;
}

void typed(const TypedArgs& args, int64_t task, int64_t tasks) {
  Nest nest = nest_of(args.shape, {&args.y.strides, &args.a.strides, &args.b.strides});
  take_share(nest, task, tasks);
  const auto last = static_cast<size_t>(nest.rank - 1);
  const auto step = nest.stride[last];
  const auto from = static_cast<int64_t>(size_of(args.dtype)), to = static_cast<int64_t>(size_of(args.y_dtype));
  for_outer(nest, 1, [&](const auto& at) {
    args.line(static_cast<const std::byte*>(args.a.data) + at[1] * from, step[1],
              static_cast<const std::byte*>(args.b.data) + at[2] * from, step[2],
              static_cast<std::byte*>(args.y.data) + at[0] * to, step[0], nest.size[last]);
  });
}

void where(const EltwiseKernel& kernel, const WhereArgs& args, int64_t task, int64_t tasks) {
  Nest nest = nest_of(args.shape, {&args.y.strides, &args.condition.strides, &args.a.strides, &args.b.strides});
  take_share(nest, task, tasks);
  switch (args.element_bytes) {
    case 1:
      return where_nest<uint8_t>(kernel, args, nest);
    case 2:
      return where_nest<uint16_t>(kernel, args, nest);
    case 4:
      return where_nest<float>(kernel, args, nest);
    default:
      return where_nest<uint64_t>(kernel, args, nest);
  }
}

float power(float x, float y) {
  if (y == 0.0f || x == 1.0f) return 1.0f;
  if (x != x || y != y) return x + y;
  const bool small = std::fabs(y) < 16777216.0f;  // beyond, all floats are even
  const int32_t near = small ? static_cast<int32_t>(y) : 0;
  const bool whole = !small || static_cast<float>(near) == y, odd = small && whole && near % 2 != 0;
  const float magnitude = std::fabs(x);
  if (x < 0.0f && !whole && magnitude != INFINITY) return NAN;
  float result;
  if (magnitude == 1.0f) {
    result = 1.0f;
  } else if (magnitude == 0.0f || magnitude == INFINITY) {
    result = (magnitude == 0.0f) == (y < 0.0f) ? INFINITY : 0.0f;
  } else {
    const double t = static_cast<double>(y) * log2_of(magnitude);
    result = t >= 129.0 ? INFINITY : t <= -160.0 ? 0.0f : static_cast<float>(exp2_of(t));
  }
  return odd && std::signbit(x) ? -result : result;
}

}  // namespace lowbit::kernels
