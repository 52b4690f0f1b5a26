// Copies of a few bytes, inline: two pieces that overlap. For ISA files only: everything has internal linkage.
#pragma once

#include <stdint.h>

#include "simd/unroll.h"

namespace lowbit::kernels {
namespace {

// kSize <= count <= 2 * kSize.
template <int64_t kSize>
LOWBIT_INLINE void copy_ends(uint8_t* to, const uint8_t* from, int64_t count) {
  uint8_t first[kSize], last[kSize];
  __builtin_memcpy(first, from, kSize);
  __builtin_memcpy(last, from + count - kSize, kSize);
  __builtin_memcpy(to, first, kSize);
  __builtin_memcpy(to + count - kSize, last, kSize);
}

// count: 0 .. kMost, which is at most 64.
template <int64_t kMost>
LOWBIT_INLINE void copy_few(uint8_t* to, const uint8_t* from, int64_t count) {
  if constexpr (kMost > 32)
    if (count > 32) return copy_ends<32>(to, from, count);
  if (count >= 16) return copy_ends<16>(to, from, count);
  if (count >= 8) return copy_ends<8>(to, from, count);
  if (count >= 4) return copy_ends<4>(to, from, count);
  if (count >= 2) return copy_ends<2>(to, from, count);
  if (count == 1) *to = *from;
}

}  // namespace
}  // namespace lowbit::kernels
