// What a core can do at most: loops that do one thing and nothing else, whose rates are the roofs of the roofline model
// (Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009).
//
//   dot(turns) = sum of 3 * -2 over turns * int8_operations / 2 products, modulo 2^32; u8 x s8, as gemm_i8 multiplies
//
//   fma(turns) = sum of 1 * 1 over turns * f32_operations / 2 products; exact for turns < 2^24
//
//   read(data, blocks, turns) = xor of the words of `turns` blocks, starting again after `blocks`
//
// dot and fma touch no memory. The results are defined so that a test can tell that no loop does less than it says.
#pragma once

#include <cstddef>
#include <span>

#include "base/shared.h"
#include "kernels/kernel.h"

namespace lowbit::kernels {

constexpr int64_t kPeakBlock = 512;  // bytes; read() takes them from 64-byte aligned addresses

struct PeakKernel : KernelRow {
  int64_t int8_operations, f32_operations;  // of a turn; a multiply-add counts two
  uint32_t (*dot)(int64_t turns);
  float (*fma)(int64_t turns);
  uint32_t (*read)(const std::byte* data, int64_t blocks, int64_t turns);
};
LOWBIT_SHARED KernelTable<PeakKernel> peak_kernels();

// Rates over about `seconds`, of `threads` threads together: operations a second, and bytes a second read from `data`,
// of which each thread reads its own part again and again. Parts of less than a block give 0.
LOWBIT_SHARED double peak_int8(const PeakKernel&, double seconds, int threads);
LOWBIT_SHARED double peak_f32(const PeakKernel&, double seconds, int threads);
LOWBIT_SHARED double peak_read(const PeakKernel&, std::span<const std::byte> data, double seconds, int threads);

}  // namespace lowbit::kernels
