// What the files of this folder give to the table in gemm_i4.cpp, and what they share.
#pragma once

#include <cstdint>

#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::kernels {

extern const GemmI4Tiles gemm_i4_scalar_4x8;
extern const GemmI4Tiles gemm_i4_avx2_4x16;
extern const GemmI4Tiles gemm_i4_avxvnni_4x16;
extern const GemmI4Tiles gemm_i4_avx512vnni_6x64;

void gemm_i4_group_sums_scalar(const uint8_t* x, int64_t k, int64_t group_size, int32_t* sums);
void gemm_i4_group_sums_avx2(const uint8_t* x, int64_t k, int64_t group_size, int32_t* sums);
void gemm_i4_group_sums_avx512vnni(const uint8_t* x, int64_t k, int64_t group_size, int32_t* sums);

void pack_gemm_i4(const GemmI4Kernel&, const GemmI4Source&, GemmI4Weights& out);

// Bytes in front of a group's codes.
static inline int64_t gemm_i4_head(int64_t nr, bool affine) { return 2 * nr + (affine ? (nr + 63) / 64 * 64 : 0); }

}  // namespace lowbit::kernels
