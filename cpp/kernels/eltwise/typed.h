// Operations between elements of any type, broadcasting through strides of 0: plain loops that the compiler vectorizes.
// Sums, differences, products and quotients of floats are in eltwise.h.
//
// Integers wrap around. floor_div and remainder round towards minus infinity, trunc_div and fmod towards zero; their
// results fit: a == b * floor_div(a, b) + remainder(a, b). pow is exact for integers (a negative exponent gives what
// truncation leaves of the fraction), within an ulp for floats. minimum and maximum of floats are NaN where either is.
#pragma once

#include "kernels/eltwise/eltwise.h"

namespace lowbit::kernels {

enum class TypedKind {
  add,
  sub,
  mul,
  minimum,
  maximum,
  pow,
  floor_div,
  trunc_div,
  remainder,
  fmod,
  eq,
  ne,
  lt,
  le,
  gt,
  ge,
  bit_and,  // of bool: the logical ones
  bit_or,
  bit_xor,
};

// y[i] = f(a[i], b[i]), lines of adjacent (step 1), repeated (0) or strided elements. An integer divided by 0
// gives anything, but traps not.
using TypedLine = void (*)(const void* a, int64_t a_step, const void* b, int64_t b_step, void* y, int64_t y_step,
                           int64_t n);
// Null if there is none for that type: arithmetic is for f32, i64 and i32, comparison for all but halves, bits for bool
// and integers. y has the type of a and b; comparisons give bool.
TypedLine find_typed(TypedKind kind, DType dtype);

struct TypedArgs {
  TypedLine line = nullptr;
  DType dtype = DType::f32, y_dtype = DType::f32;
  Shape shape;
  View<const void> a, b;
  View<void> y;
};
void typed(const TypedArgs&, int64_t task = 0, int64_t tasks = 1);

// y[i] = condition[i] ? a[i] : b[i], elements of 1, 2, 4 or 8 bytes.
struct WhereArgs {
  Shape shape;
  int element_bytes = 4;
  View<const uint8_t> condition;
  View<const void> a, b;
  View<void> y;
};
void where(const EltwiseKernel&, const WhereArgs&, int64_t task = 0, int64_t tasks = 1);

// x to the power y; computed in float64 by the same operations everywhere.
float power(float x, float y);

}  // namespace lowbit::kernels
