// Elementwise kernels for AVX-512: Lanes are one zmm register.
#if !defined(__AVX512BW__)
#error "compile this file for AVX-512 F, BW, DQ, VL: cpp/isa.cmake"
#endif

#include "kernels/eltwise/bytes.h"

namespace lowbit::kernels {

const EltwiseKernel kEltwiseAvx512Vnni = {
    "avx512vnni",  Isa::avx512vnni, quantize_block,     dequantize_block,    range_block,
    lookup_block,  pair_i8_block,   binary_block,       where_block,         unary_block,
    softmax_block, rounding_block,  transpose_u8_block, transpose_u32_block,
};

}  // namespace lowbit::kernels
