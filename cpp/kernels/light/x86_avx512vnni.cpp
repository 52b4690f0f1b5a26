// The light families for AVX-512: Lanes are one zmm register.
#if !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this with the features of avx512vnni in base/cpu.h"
#endif
#include "kernels/light/generic.h"

namespace lowbit::kernels {

extern constinit const LightKernels light_avx512vnni = light_kernels(Isa::avx512vnni);

}  // namespace lowbit::kernels
