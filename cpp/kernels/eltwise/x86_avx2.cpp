// Elementwise kernels for AVX2: Lanes are two ymm registers.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this file for AVX2 and FMA only: cpp/isa.cmake"
#endif

#include "kernels/eltwise/bytes.h"

namespace lowbit::kernels {

const EltwiseKernel kEltwiseAvx2 = {
    "avx2",        Isa::avx2,      quantize_block,     dequantize_block,    range_block,
    lookup_block,  pair_i8_block,  binary_block,       where_block,         unary_block,
    softmax_block, rounding_block, transpose_u8_block, transpose_u32_block,
};

}  // namespace lowbit::kernels
