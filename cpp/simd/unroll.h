// For kernels that keep an array of vectors in registers: the loops over it must be unrolled whole, the functions
// inlined.
#pragma once

#define LOWBIT_UNROLL _Pragma("GCC unroll 32")
#define LOWBIT_INLINE inline __attribute__((always_inline))
