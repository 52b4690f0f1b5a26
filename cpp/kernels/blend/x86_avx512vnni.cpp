// Blending for AVX-512: Lanes are one zmm register.
#if !defined(__AVX512BW__)
#error "compile with the flags of avx512vnni in cpp/isa.cmake"
#endif

#include "kernels/blend/pixels.h"

namespace lowbit::kernels {

const BlendKernel kBlendAvx512Vnni = {"avx512vnni", Isa::avx512vnni, blend_pixels<Floats>, blend_pixels<CodesOfSums>};

}  // namespace lowbit::kernels
