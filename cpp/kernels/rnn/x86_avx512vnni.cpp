// Recurrent cells for AVX-512: Lanes are one zmm register.
#if !defined(__AVX512BW__)
#error "compile with the flags of avx512vnni in cpp/isa.cmake"
#endif

#include "kernels/rnn/cells.h"

namespace lowbit::kernels {

const RnnKernel kRnnAvx512Vnni = {"avx512vnni", Isa::avx512vnni, lstm_cell, gru_cell};

}  // namespace lowbit::kernels
