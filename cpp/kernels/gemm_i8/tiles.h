// What the files of this folder give to the table in gemm_i8.cpp: micro-kernels for 1 .. mr rows, and the packer.
#pragma once

#include "kernels/gemm_i8/gemm_i8.h"

namespace lowbit::kernels {

extern const GemmI8Tiles gemm_i8_scalar_4x8;
extern const GemmI8Tiles gemm_i8_avx2_4x16;
extern const GemmI8Tiles gemm_i8_avxvnni_6x16;
extern const GemmI8Tiles gemm_i8_avx512vnni_12x32;
extern const GemmI8Tiles gemm_i8_avx512vnni_6x64;
extern const GemmI8Tiles gemm_i8_avx512vnni_8x48;
extern const GemmI8Tiles gemm_i8_avx512vnni_8x16;

extern const GemmI8RowPacking gemm_i8_rows_avx2;

void pack_gemm_i8(const GemmI8Kernel&, const int8_t* w, int64_t n, int64_t taps, int64_t run, GemmI8Weights& out);

}  // namespace lowbit::kernels
