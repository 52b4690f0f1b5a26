// The plain truth: Lanes are an array here, and bytes move one by one.
#include "kernels/eltwise/blocks.h"

namespace lowbit::kernels {
namespace {

void lookup_block(const uint8_t* x, const uint8_t* table, uint8_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = table[x[i]];
}

template <class T>
void transpose_block(const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) y[r * y_stride + c] = x[c * x_stride + r];
}

}  // namespace

const EltwiseKernel kEltwiseScalar = {
    "scalar",
    Isa::scalar,
    quantize_block,
    dequantize_block,
    range_block,
    lookup_block,
    pair_i8_block,
    binary_block,
    where_block,
    unary_block,
    softmax_block,
    rounding_block,
    transpose_block<uint8_t>,
    transpose_block<uint32_t>,
};

}  // namespace lowbit::kernels
