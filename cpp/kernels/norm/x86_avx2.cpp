// Normalization for AVX2: Lanes are two ymm registers.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif

#include "kernels/norm/rows.h"

namespace lowbit::kernels {

const NormKernel kNormAvx2 = {"avx2", Isa::avx2, normalize_row};

}  // namespace lowbit::kernels
