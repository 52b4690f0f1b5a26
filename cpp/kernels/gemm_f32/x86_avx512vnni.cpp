// Fused multiply-add on 512 bits: 24 accumulators of 32 registers in each tile but the narrowest; the shapes of
// gemm_i8, for the same reasons.
#if !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/gemm_f32/tile.h"
#include "simd/vectors512.h"

namespace lowbit::kernels {
extern constinit const GemmF32Kernel gemm_f32_avx512vnni_12x32 = {
    {"avx512vnni_12x32", Isa::avx512vnni}, 12, 32, tiles<Avx512, 12, 2>()};
extern constinit const GemmF32Kernel gemm_f32_avx512vnni_6x64 = {
    {"avx512vnni_6x64", Isa::avx512vnni}, 6, 64, tiles<Avx512, 6, 4>()};
extern constinit const GemmF32Kernel gemm_f32_avx512vnni_8x48 = {
    {"avx512vnni_8x48", Isa::avx512vnni}, 8, 48, tiles<Avx512, 8, 3>()};
extern constinit const GemmF32Kernel gemm_f32_avx512vnni_14x16 = {
    {"avx512vnni_14x16", Isa::avx512vnni}, 14, 16, tiles<Avx512, 14, 1>()};

}  // namespace lowbit::kernels
