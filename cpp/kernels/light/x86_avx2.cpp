// The light families for AVX2: Lanes are two ymm registers.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile this with the features of avx2 in base/cpu.h"
#endif
#include "kernels/light/generic.h"

namespace lowbit::kernels {

extern constinit const LightKernels light_avx2 = light_kernels(Isa::avx2);

}  // namespace lowbit::kernels
