// The plain truth: Lanes are an array here.
#include "kernels/attention/rows.h"

namespace lowbit::kernels {

const AttentionKernel kAttentionScalar = {"scalar", Isa::scalar, softmax_row};

}  // namespace lowbit::kernels
