// The plain truth: Lanes are an array here.
#include "kernels/norm/rows.h"

namespace lowbit::kernels {

const NormKernel kNormScalar = {"scalar", Isa::scalar, normalize_row};

}  // namespace lowbit::kernels
