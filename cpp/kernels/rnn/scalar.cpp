// The plain truth: Lanes are an array here.
#include "kernels/rnn/cells.h"

namespace lowbit::kernels {

const RnnKernel kRnnScalar = {"scalar", Isa::scalar, lstm_cell, gru_cell};

}  // namespace lowbit::kernels
