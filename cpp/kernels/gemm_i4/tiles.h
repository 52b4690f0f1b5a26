// What the files of this folder give to the table in gemm_i4.cpp, and what they share.
#pragma once

#include <cstdint>

#include "kernels/gemm_i4/gemm_i4.h"

namespace lowbit::kernels {

extern const GemmI4Tiles gemm_i4_scalar_4x8;
extern const GemmI4Tiles gemm_i4_avx2_4x16;
extern const GemmI4Tiles gemm_i4_avxvnni_4x16;
extern const GemmI4Tiles gemm_i4_avx512vnni_6x64;

void gemm_i4_group_sums_scalar(const uint8_t* x, const GemmI4Depth& depth, int32_t* sums);
void gemm_i4_group_sums_avx2(const uint8_t* x, const GemmI4Depth& depth, int32_t* sums);
void gemm_i4_group_sums_avx512vnni(const uint8_t* x, const GemmI4Depth& depth, int32_t* sums);

void pack_gemm_i4(const GemmI4Kernel&, const GemmI4Source&, GemmI4Weights& out);

// Calls part(group, tap, first k, length) for what each group has in each tap, k ascending.
template <class Part>
static inline void each_part(const GemmI4Depth& depth, Part&& part) {
  int64_t group = 0, tap = 0, group_end = depth.group_size, tap_end = depth.run;
  for (int64_t k = 0; k < depth.k;) {
    const int64_t end = group_end < tap_end ? group_end : tap_end, stop = end < depth.k ? end : depth.k;
    part(group, tap, k, stop - k);
    k = stop;
    if (k == group_end) ++group, group_end += depth.group_size;
    if (k == tap_end) ++tap, tap_end += depth.run;
  }
}

// Bytes in front of a group's codes.
static inline int64_t gemm_i4_head(int64_t nr, bool affine) { return 2 * nr + (affine ? (nr + 63) / 64 * 64 : 0); }

}  // namespace lowbit::kernels
