// Recurrent cells for AVX2: Lanes are two ymm registers.
#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile with the flags of avx2 in cpp/isa.cmake"
#endif

#include "kernels/rnn/cells.h"

namespace lowbit::kernels {

const RnnKernel kRnnAvx2 = {"avx2", Isa::avx2, lstm_cell, gru_cell};

}  // namespace lowbit::kernels
