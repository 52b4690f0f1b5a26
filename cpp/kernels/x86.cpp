// The tables of x86-64: a row for each kernel, best first. Names of matrix kernels end with their tile, rows x
// channels.
#include "kernels/tables.h"

namespace lowbit::kernels {

extern const DwconvI8Kernel dwconv_i8_avx2, dwconv_i8_avx512vnni;
extern const GemmF32Kernel gemm_f32_avx2_6x16;
extern const GemmF32Kernel gemm_f32_avx512vnni_12x32, gemm_f32_avx512vnni_6x64, gemm_f32_avx512vnni_8x48,
    gemm_f32_avx512vnni_14x16;
extern const GemmI1Kernel gemm_i1_avx2_8x8, gemm_i1_avx512vnni_12x16;
extern const GemmI4Kernel gemm_i4_avx2_4x16, gemm_i4_avxvnni_4x16, gemm_i4_avx512vnni_6x64;
extern const GemmI4Kernel gemm_i2_avx2_4x16, gemm_i2_avxvnni_4x16, gemm_i2_avx512vnni_6x64;
extern const GemmI8Kernel gemm_i8_avx2_8x8, gemm_i8_avx2_4x16, gemm_i8_avx2_paired_4x16, gemm_i8_avxvnni_6x16;
extern const GemmI8Kernel gemm_i8_avx512vnni_12x32, gemm_i8_avx512vnni_8x32, gemm_i8_avx512vnni_6x64,
    gemm_i8_avx512vnni_8x48, gemm_i8_avx512vnni_8x16;
extern const GemmS8Kernel gemm_s8_avx2_i8_4x16, gemm_s8_avx2_i4_4x16, gemm_s8_avx2_i2_4x16;
extern const GemmS8Kernel gemm_s8_avxvnni_i8_4x16, gemm_s8_avxvnni_i4_4x16, gemm_s8_avxvnni_i2_4x16;
extern const GemmS8Kernel gemm_s8_avx512vnni_i8_6x64, gemm_s8_avx512vnni_i4_3x64, gemm_s8_avx512vnni_i2_3x64;
extern const LightKernels light_avx2, light_avx512vnni;
extern const PeakKernel peak_avx2, peak_avxvnni, peak_avx512vnni;
extern const SpmmI8Kernel spmm_i8_avx2_4x4, spmm_i8_avx2_1x4, spmm_i8_avxvnni_4x4, spmm_i8_avxvnni_1x4;
extern const SpmmI8Kernel spmm_i8_avx512vnni_4x4, spmm_i8_avx512vnni_1x4;
extern const WinogradI8Kernel winograd_i8_avx2_6x16, winograd_i8_avxvnni_6x16, winograd_i8_avx512vnni_12x32;

namespace {

constexpr const DwconvI8Kernel* kDwconvI8[] = {&dwconv_i8_avx512vnni, &dwconv_i8_avx2, &dwconv_i8_scalar};

constexpr const GemmF32Kernel* kGemmF32[] = {
    &gemm_f32_avx512vnni_12x32, &gemm_f32_avx512vnni_6x64, &gemm_f32_avx512vnni_8x48,
    &gemm_f32_avx512vnni_14x16, &gemm_f32_avx2_6x16,       &gemm_f32_scalar,
};

constexpr const GemmI1Kernel* kGemmI1[] = {&gemm_i1_avx512vnni_12x16, &gemm_i1_avx2_8x8, &gemm_i1_scalar};

constexpr const GemmI4Kernel* kGemmI4[] = {&gemm_i4_avx512vnni_6x64, &gemm_i4_avxvnni_4x16, &gemm_i4_avx2_4x16,
                                           &gemm_i4_scalar};
constexpr const GemmI4Kernel* kGemmI2[] = {&gemm_i2_avx512vnni_6x64, &gemm_i2_avxvnni_4x16, &gemm_i2_avx2_4x16,
                                           &gemm_i2_scalar};

constexpr const GemmI8Kernel* kGemmI8[] = {
    &gemm_i8_avx512vnni_12x32, &gemm_i8_avx512vnni_8x32, &gemm_i8_avx512vnni_6x64, &gemm_i8_avx512vnni_8x48,
    &gemm_i8_avx512vnni_8x16,  &gemm_i8_avxvnni_6x16,    &gemm_i8_avx2_8x8,        &gemm_i8_avx2_4x16,
    &gemm_i8_avx2_paired_4x16, &gemm_i8_scalar,
};

constexpr const GemmS8Kernel* kGemmS8[] = {
    &gemm_s8_avx512vnni_i8_6x64, &gemm_s8_avx512vnni_i4_3x64, &gemm_s8_avx512vnni_i2_3x64, &gemm_s8_avxvnni_i8_4x16,
    &gemm_s8_avxvnni_i4_4x16,    &gemm_s8_avxvnni_i2_4x16,    &gemm_s8_avx2_i8_4x16,       &gemm_s8_avx2_i4_4x16,
    &gemm_s8_avx2_i2_4x16,       &gemm_s8_scalar_i8,          &gemm_s8_scalar_i4,          &gemm_s8_scalar_i2,
};

constexpr const PeakKernel* kPeak[] = {&peak_avx512vnni, &peak_avxvnni, &peak_avx2, &peak_scalar};

constexpr const SpmmI8Kernel* kSpmmI8[] = {
    &spmm_i8_avx512vnni_4x4, &spmm_i8_avx512vnni_1x4, &spmm_i8_avxvnni_4x4, &spmm_i8_avxvnni_1x4,
    &spmm_i8_avx2_4x4,       &spmm_i8_avx2_1x4,       &spmm_i8_scalar_4x4,  &spmm_i8_scalar_1x4,
};

constexpr const WinogradI8Kernel* kWinogradI8[] = {&winograd_i8_avx512vnni_12x32, &winograd_i8_avxvnni_6x16,
                                                   &winograd_i8_avx2_6x16};

constexpr const LightKernels* kLight[] = {&light_avx512vnni, &light_avx2, &light_scalar};

}  // namespace

constinit const Tables tables = {kDwconvI8, kGemmF32, kGemmI1, kGemmI4,     kGemmI2, kGemmI8,
                                 kGemmS8,   kPeak,    kSpmmI8, kWinogradI8, kLight};

}  // namespace lowbit::kernels
