// The tables of a build: one for each family, best first. x86.cpp fills them, or portable.cpp, which knows scalar
// kernels alone; tables.cpp hands them out.
#pragma once

#include "kernels/dwconv_i8/dwconv_i8.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_i1/gemm_i1.h"
#include "kernels/gemm_i4/gemm_i4.h"
#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/gemm_s8/gemm_s8.h"
#include "kernels/light/light.h"
#include "kernels/peak/peak.h"
#include "kernels/spmm_i8/spmm_i8.h"
#include "kernels/winograd_i8/winograd_i8.h"

namespace lowbit::kernels {

struct Tables {
  KernelTable<DwconvI8Kernel> dwconv_i8;
  KernelTable<GemmF32Kernel> gemm_f32;
  KernelTable<GemmI1Kernel> gemm_i1;
  KernelTable<GemmI4Kernel> gemm_i4, gemm_i2;
  KernelTable<GemmI8Kernel> gemm_i8;
  KernelTable<GemmS8Kernel> gemm_s8;
  KernelTable<PeakKernel> peak;
  KernelTable<SpmmI8Kernel> spmm_i8;
  KernelTable<WinogradI8Kernel> winograd_i8;
  KernelTable<LightKernels> light;
};
extern const Tables tables;

extern const DwconvI8Kernel dwconv_i8_scalar;
extern const GemmF32Kernel gemm_f32_scalar;
extern const GemmI1Kernel gemm_i1_scalar;
extern const GemmI4Kernel gemm_i4_scalar, gemm_i2_scalar;
extern const GemmI8Kernel gemm_i8_scalar;
extern const GemmS8Kernel gemm_s8_scalar_i8, gemm_s8_scalar_i4, gemm_s8_scalar_i2;
extern const LightKernels light_scalar;
extern const PeakKernel peak_scalar;
extern const SpmmI8Kernel spmm_i8_scalar_4x4, spmm_i8_scalar_1x4;

}  // namespace lowbit::kernels
