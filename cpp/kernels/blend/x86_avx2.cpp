// Blending for AVX2: Lanes are two ymm registers.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif

#include "kernels/blend/pixels.h"

namespace lowbit::kernels {

const BlendKernel kBlendAvx2 = {"avx2", Isa::avx2, blend_pixels<Floats>, blend_pixels<CodesOfSums>};

}  // namespace lowbit::kernels
