// Normalization for AVX-512: Lanes are one zmm register.
#if !defined(__AVX512BW__)
#error "compile with the flags of avx512vnni in cpp/isa.cmake"
#endif

#include "kernels/norm/rows.h"

namespace lowbit::kernels {

const NormKernel kNormAvx512Vnni = {"avx512vnni", Isa::avx512vnni, normalize_row};

}  // namespace lowbit::kernels
