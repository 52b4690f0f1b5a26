// Everything that works element by element, row by row, or only moves elements.
//
// A function here takes views (shape and element strides, in any memory order; stride 0 broadcasts an input), finds the
// loop order that suits memory, and hands blocks to the inner loops of one ISA (a row of the table). It does share
// `task` of `tasks`; tasks touch disjoint outputs, any number of tasks is right, eltwise_tasks() says which is good.
// Nothing allocates. An output may be an input's memory where both have the same element size and strides.
//
// Every operation is one rounded IEEE operation (fma where said), so every ISA gives the same bits; which NaN comes out
// of several is not fixed. Rounding is to nearest even; codes are u8.
#pragma once

#include <string_view>

#include "base/shared.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

struct EltwiseKernel;  // below: only this folder looks inside
LOWBIT_SHARED KernelTable<EltwiseKernel> eltwise_kernels();

// Into how many tasks to split work on so many bytes (inputs and outputs together).
int64_t eltwise_tasks(int64_t bytes, int threads);

// The operand of a view: strides in elements, as many as the shape has axes.
template <class T>
struct View {
  T* data = nullptr;
  Shape strides;
};

// y[i] = x[i], elements of 1, 2, 4 or 8 bytes. With strides this is permute, slice, concat (one call an input), layout
// conversion (blocked transposition), and fill or padding (x strides all 0).
struct CopyArgs {
  Shape shape;
  int element_bytes = 4;
  View<const void> x;
  View<void> y;
};
void copy(const EltwiseKernel&, const CopyArgs&, int64_t task = 0, int64_t tasks = 1);

// y[i] = rne(clampf(x[i] * inv, -zero_point, 255 - zero_point)) + zero_point, inv = 1.0f / scale; NaN gives zero_point.
// With scales and zero_points (both or none), axis 0 has its own: scales[i0], zero_points[i0].
struct QuantizeArgs {
  Shape shape;
  View<const float> x;
  View<uint8_t> y;
  float scale = 1.0f;
  int32_t zero_point = 0;
  const float* scales = nullptr;         // [shape[0]]
  const uint8_t* zero_points = nullptr;  // [shape[0]]
};
void quantize(const EltwiseKernel&, const QuantizeArgs&, int64_t task = 0, int64_t tasks = 1);

// y[i] = float(x[i] - zero_point) * scale; scales and zero_points as in quantize.
struct DequantizeArgs {
  Shape shape;
  View<const uint8_t> x;
  View<float> y;
  float scale = 1.0f;
  int32_t zero_point = 0;
  const float* scales = nullptr;
  const uint8_t* zero_points = nullptr;
};
void dequantize(const EltwiseKernel&, const DequantizeArgs&, int64_t task = 0, int64_t tasks = 1);

// For `rows` rows of `row` adjacent floats, row r at x + r * stride:
//   lo = min(0, min x), hi = max(0, max x);   scale = (hi - lo) / 255, or 1 where that is 0
//   zero_point = rne(clampf(-lo * (1.0f / scale), 0, 255)), NaN gives 0
// A row that holds NaN or infinity has scale NaN, which makes NaN of all that is computed from it. Where hi - lo
// overflows, scale = hi / 255 - lo / 255.
struct DynamicRangeArgs {
  int64_t rows = 0, row = 0;
  const float* x = nullptr;
  int64_t stride = 0;
  float* scales = nullptr;         // [rows]
  uint8_t* zero_points = nullptr;  // [rows]
};
void dynamic_range(const EltwiseKernel&, const DynamicRangeArgs&, int64_t task = 0, int64_t tasks = 1);

// lo and hi above over a part of a row, joined with what *lo and *hi hold (start both at 0); both NaN once there was a
// NaN. And the last step. For callers that split one long row between tasks.
void range_of(const EltwiseKernel&, const float* x, int64_t count, float* lo, float* hi);
void range_to_scale(float lo, float hi, float* scale, uint8_t* zero_point);

// What codes of some values have no room for: behind the codes of a row stand those of copies of its wide values.
//   t = rne(v[i] * inv)            v: values of the row that are copied, times their factors; NaN gives 0
//   y[i] = clamp(max(0, t - n[i] * (255 - zero_point)) + min(0, t + n[i] * zero_point)) + zero_point
// is what n[i] codes before it leave of t.
struct CodeCopies {
  int64_t count = 0;
  const int32_t* sources = nullptr;      // [count]: positions in the row
  const float* before = nullptr;         // [count]: n
  const float* range_factors = nullptr;  // [row]: factors over how often a value has codes
};

// dynamic_range, then quantize, row by row while the row is in cache. With factors, of x[r, i] * factors[i]. With
// copies, the range is that of x[r, i] * range_factors[i], and codes beyond it saturate.
struct DynamicQuantizeArgs {
  int64_t rows = 0, row = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;
  uint8_t* y = nullptr;
  int64_t y_stride = 0;
  float* scales = nullptr;         // [rows]
  uint8_t* zero_points = nullptr;  // [rows]
  const float* factors = nullptr;  // [row]
  CodeCopies copies;
};
void dynamic_quantize(const EltwiseKernel&, const DynamicQuantizeArgs&, int64_t task = 0, int64_t tasks = 1);

// For `rows` rows of `row` adjacent floats, times factors where there are any, in groups of so many adjacent ones, the
// last of which may be shorter; each has a scale of its own:
//   scale = max |x| / 127, or 1 where that is 0      y = rne(clampf(x * (1.0f / scale), -127, 127)), NaN gives 0
// A group that holds NaN or infinity has scale NaN.
struct GroupQuantizeArgs {
  int64_t rows = 0, row = 0, group = 0;
  const float* x = nullptr;        // [rows][row]
  int8_t* y = nullptr;             // the same
  float* scales = nullptr;         // [rows][groups]
  const float* factors = nullptr;  // [row]
  int64_t groups() const { return (row + group - 1) / group; }
};
void quantize_groups(const EltwiseKernel&, const GroupQuantizeArgs&, int64_t task = 0, int64_t tasks = 1);

// y[i] = table[x[i]], `count` adjacent elements.
void lookup(const EltwiseKernel&, const uint8_t* x, const uint8_t* table, uint8_t* y, int64_t count, int64_t task = 0,
            int64_t tasks = 1);

// Sums and products of codes, any broadcasting through strides of 0.
//   sum:     t = float(a - zero_point_a) * multiplier_a + float(b - zero_point_b) * multiplier_b    three roundings
//   product: t = float((a - zero_point_a) * (b - zero_point_b)) * multiplier_a                      one rounding
// y = rne(clampf(t, lo - zero_point, hi - zero_point)) + zero_point, then table[y] if table; NaN (both infinite) gives
// zero_point
struct PairI8Args {
  bool product = false;
  Shape shape;
  View<const uint8_t> a, b;
  View<uint8_t> y;
  int32_t zero_point_a = 0, zero_point_b = 0;
  float multiplier_a = 1.0f, multiplier_b = 1.0f;
  int32_t zero_point = 0, lo = 0, hi = 255;
  const uint8_t* table = nullptr;  // [256]
};
void pair_i8(const EltwiseKernel&, const PairI8Args&, int64_t task = 0, int64_t tasks = 1);

// y[i] = a[i] (+ - * / min max) b[i], any broadcasting through strides of 0; a minimum or maximum with NaN is NaN.
enum class BinaryKind { add, sub, mul, div, minimum, maximum, prelu };  // prelu: a > 0 ? a : a * b
struct BinaryArgs {
  BinaryKind kind = BinaryKind::add;
  Shape shape;
  View<const float> a, b;
  View<float> y;
};
void binary(const EltwiseKernel&, const BinaryArgs&, int64_t task = 0, int64_t tasks = 1);

// y[i] = f(x[i]). Within 4 ulp or 2e-7 of the exact value; abs, neg, sign, relu, clip, leaky_relu, square, sqrt,
// reciprocal and the roundings (round: to even) are exact, rsqrt is 1 / sqrt(x). NaN stays NaN; sign(+-0) is 0.
//   clip: min(max(x, min), max)             relu: clip to [0, inf)
//   sigmoid, tanh, exp, log, erf            silu: x * sigmoid(x)
//   exp2, expm1, log2, log1p, sin, cos      floor, ceil, trunc, round, sign
//   atan                                    erfc: 1 - erf(x), precise where it is small
//   gelu: x / 2 * (1 + erf(x / sqrt 2))     gelu_tanh: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
//   hardsigmoid: clip(x + 3, 0, 6) / 6      hardswish: x * clip(x + 3, 0, 6) / 6
//   fast_gelu: gelu in other bits, and not as near 0 where x is far below: off by 6e-8 there
//   elu: x > 0 ? x : alpha * expm1(x)       leaky_relu: x > 0 ? x : alpha * x
//   softplus: log(1 + exp(alpha * x)) / alpha (alpha: torch's beta)    mish: x * tanh(log(1 + exp(x)))
enum class UnaryKind {
  clip,
  relu,
  abs,
  neg,
  square,
  sqrt,
  rsqrt,
  reciprocal,
  exp,
  log,
  sigmoid,
  tanh,
  erf,
  silu,
  gelu,
  gelu_tanh,
  hardsigmoid,
  hardswish,
  elu,
  leaky_relu,
  softplus,
  mish,
  exp2,
  expm1,
  log2,
  log1p,
  sin,
  cos,
  floor,
  ceil,
  trunc,
  round,
  sign,
  atan,
  erfc,
  fast_gelu,
};
constexpr int kUnaryKinds = static_cast<int>(UnaryKind::fast_gelu) + 1;
const char* name_of(UnaryKind);
bool parse_unary(std::string_view name, UnaryKind& kind);  // false: unknown

struct UnaryArgs {
  UnaryKind kind = UnaryKind::clip;
  int64_t count = 0;  // adjacent elements
  const float* x = nullptr;
  float* y = nullptr;
  float alpha = 1.0f;
  float min = -__builtin_inff(), max = __builtin_inff();
};
void unary(const EltwiseKernel&, const UnaryArgs&, int64_t task = 0, int64_t tasks = 1);
// The same over a view whose first elements are args.x and args.y; args.count is ignored.
void unary(const EltwiseKernel&, const UnaryArgs&, const Shape& shape, const Shape& x_strides, const Shape& y_strides,
           int64_t task = 0, int64_t tasks = 1);

// y[r, i] = e / sum(e), e = exp(x[r, i] - max(x[r])), over rows of adjacent elements; a row with a NaN is all NaN.
// The sum has 16 lanes: lane l adds e[l], e[l + 16], ... ascending; then lanes l and l + 8, l + 4, l + 2, l + 1.
struct SoftmaxArgs {
  int64_t rows = 0, row = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};
void softmax(const EltwiseKernel&, const SoftmaxArgs&, int64_t task = 0, int64_t tasks = 1);

// What rounding to codes loses of rows of adjacent floats, for several scales each:
//   error[t, r] = sum over i of (v - min(max(rne(v), low[t, r]), high[t, r]))^2, v = x[r, i] * factor[t, r]
// in 16 lanes as softmax's sum, with one fma an element; low <= 0 <= high.
struct RoundingArgs {
  int64_t rows = 0, row = 0, trials = 0;
  const float* x = nullptr;
  const float *factor = nullptr, *low = nullptr, *high = nullptr;  // [trials][rows]
  float* error = nullptr;                                          // [trials][rows]
};
LOWBIT_SHARED void rounding_errors(const EltwiseKernel&, const RoundingArgs&, int64_t task = 0, int64_t tasks = 1);

// Rows of a block of pairs: steps from element to element are 0 (all read the first) or 1.
struct PairI8Rows {
  int64_t rows, n;
  const uint8_t *a, *b;
  uint8_t* y;
  int64_t a_step, b_step, a_row, b_row, y_row;
};

// x[i] * factors[i], or x[i] where factors is null.
struct FactorRow {
  const float *x, *factors = nullptr;
};

// The inner loops of one ISA, over adjacent elements.
struct EltwiseKernel : KernelRow {
  // within: x * inverse_scale is known to be finite and in the range of codes, but for rounding
  void (*quantize)(const FactorRow& x, uint8_t* y, int64_t n, float inverse_scale, int32_t zero_point, bool within);
  // x: products that are copied
  void (*copies)(const float* x, const float* before, uint8_t* y, int64_t n, float inverse_scale, int32_t zero_point);
  void (*dequantize)(const uint8_t* x, float* y, int64_t n, float scale, int32_t zero_point);
  void (*range)(const FactorRow& x, int64_t n, float* lo, float* hi);
  void (*groups)(const FactorRow& x, int8_t* y, int64_t n, int64_t group, float* scales);
  void (*lookup)(const uint8_t* x, const uint8_t* table, uint8_t* y, int64_t n);
  void (*pair_i8)(const PairI8Args&, const PairI8Rows&);
  void (*binary)(BinaryKind, const float* a, int64_t a_step, const float* b, int64_t b_step, float* y,
                 int64_t n);  // steps 0 or 1
  // y = condition ? a : b, whatever the bits mean; steps 0 or 1
  void (*where)(const uint8_t* condition, const float* a, int64_t a_step, const float* b, int64_t b_step, float* y,
                int64_t n);
  void (*unary)(const UnaryArgs&);
  void (*softmax)(const float* x, float* y, int64_t n);
  // What rounding_errors says of one row: of trial t, the factor and bounds and the error at [t * stride].
  void (*rounding)(const float* x, int64_t n, const float* factor, const float* low, const float* high, float* error,
                   int64_t trials, int64_t stride);
  // y[r * y_stride + c] = x[c * x_stride + r] for r < rows, c < cols.
  void (*transpose_u8)(const uint8_t* x, int64_t x_stride, uint8_t* y, int64_t y_stride, int64_t rows, int64_t cols);
  void (*transpose_u32)(const uint32_t* x, int64_t x_stride, uint32_t* y, int64_t y_stride, int64_t rows, int64_t cols);
};

}  // namespace lowbit::kernels
