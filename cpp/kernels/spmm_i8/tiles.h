// What the files of this folder give to the table in spmm_i8.cpp: micro-kernels for blocks of 1 and 4 channels, and the
// packer.
#pragma once

#include "kernels/spmm_i8/spmm_i8.h"

namespace lowbit::kernels {

extern const SpmmI8Tiles spmm_i8_scalar_1x4, spmm_i8_scalar_4x4;
extern const SpmmI8Tiles spmm_i8_avx2_1x4, spmm_i8_avx2_4x4;
extern const SpmmI8Tiles spmm_i8_avxvnni_1x4, spmm_i8_avxvnni_4x4;
extern const SpmmI8Tiles spmm_i8_avx512vnni_1x4, spmm_i8_avx512vnni_4x4;

void pack_spmm_i8(const SpmmI8Kernel&, const int8_t* w, int64_t n, int64_t taps, int64_t run, SpmmI8Weights& out);
// How many blocks of `block_rows` channels are not zero.
int64_t blocks_of(const int8_t* w, int64_t n, int64_t taps, int64_t run, int block_rows);

}  // namespace lowbit::kernels
