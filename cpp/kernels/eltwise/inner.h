// A row of the elementwise table: the inner loops of one ISA over adjacent elements. Only this folder includes it.
#pragma once

#include "kernels/eltwise/eltwise.h"

namespace lowbit::kernels {

// Rows of a block of pairs: steps from element to element are 0 (all read the first) or 1.
struct PairI8Rows {
  int64_t rows, n;
  const uint8_t *a, *b;
  uint8_t* y;
  int64_t a_step, b_step, a_row, b_row, y_row;
};

struct EltwiseKernel {
  const char* name;
  Isa isa;
  void (*quantize)(const float* x, uint8_t* y, int64_t n, float inverse_scale, int32_t zero_point);
  void (*dequantize)(const uint8_t* x, float* y, int64_t n, float scale, int32_t zero_point);
  void (*range)(const float* x, int64_t n, float* lo, float* hi);
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

extern const EltwiseKernel kEltwiseScalar;
#if defined(LOWBIT_HAVE_X86)
extern const EltwiseKernel kEltwiseAvx2;
extern const EltwiseKernel kEltwiseAvx512Vnni;
#endif

}  // namespace lowbit::kernels
