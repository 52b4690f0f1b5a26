// The tables of architectures without kernels of their own.
#include "kernels/tables.h"

namespace lowbit::kernels {
namespace {

constexpr const DwconvI8Kernel* kDwconvI8[] = {&dwconv_i8_scalar};
constexpr const GemmF32Kernel* kGemmF32[] = {&gemm_f32_scalar};
constexpr const GemmI1Kernel* kGemmI1[] = {&gemm_i1_scalar};
constexpr const GemmI4Kernel* kGemmI4[] = {&gemm_i4_scalar};
constexpr const GemmI4Kernel* kGemmI2[] = {&gemm_i2_scalar};
constexpr const GemmI8Kernel* kGemmI8[] = {&gemm_i8_scalar};
constexpr const GemmS8Kernel* kGemmS8[] = {&gemm_s8_scalar_i8, &gemm_s8_scalar_i4, &gemm_s8_scalar_i2};
constexpr const PeakKernel* kPeak[] = {&peak_scalar};
constexpr const SpmmI8Kernel* kSpmmI8[] = {&spmm_i8_scalar_4x4, &spmm_i8_scalar_1x4};
constexpr const LightKernels* kLight[] = {&light_scalar};

}  // namespace

constinit const Tables tables = {kDwconvI8, kGemmF32, kGemmI1, kGemmI4, kGemmI2, kGemmI8,
                                 kGemmS8,   kPeak,    kSpmmI8, {},      kLight};

}  // namespace lowbit::kernels
