// The light families as plain code: Lanes are arrays.
#include "kernels/light/generic.h"

namespace lowbit::kernels {

extern constinit const LightKernels light_scalar = light_kernels(Isa::scalar);

}  // namespace lowbit::kernels
