// What the files of this folder give to the table in gemm_f32.cpp: micro-kernels for 1 .. mr rows.
#pragma once

#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::kernels {

extern const GemmF32Tiles gemm_f32_scalar_4x8;
extern const GemmF32Tiles gemm_f32_avx2_6x16;
extern const GemmF32Tiles gemm_f32_avx512vnni_12x32;
extern const GemmF32Tiles gemm_f32_avx512vnni_6x64;
extern const GemmF32Tiles gemm_f32_avx512vnni_8x48;
extern const GemmF32Tiles gemm_f32_avx512vnni_14x16;

}  // namespace lowbit::kernels
