// Attention for AVX-512: Lanes are one zmm register.
#if !defined(__AVX512BW__)
#error "compile with the flags of avx512vnni in cpp/isa.cmake"
#endif

#include "kernels/attention/rows.h"

namespace lowbit::kernels {

const AttentionKernel kAttentionAvx512Vnni = {"avx512vnni", Isa::avx512vnni, softmax_row};

}  // namespace lowbit::kernels
