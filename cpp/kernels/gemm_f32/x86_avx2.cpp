// Fused multiply-add on 256 bits: 12 accumulators, 2 of weights, 1 of x are 15 of 16 registers.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/gemm_f32/tile.h"
#include "simd/vectors256.h"

namespace lowbit::kernels {

extern constinit const GemmF32Kernel gemm_f32_avx2_6x16 = {{"avx2_6x16", Isa::avx2}, 6, 16, tiles<Avx2, 6, 2>()};

}  // namespace lowbit::kernels
