// The plain truth: Lanes are an array here.
#include "kernels/blend/pixels.h"

namespace lowbit::kernels {

const BlendKernel kBlendScalar = {"scalar", Isa::scalar, blend_pixels<Floats>, blend_pixels<CodesOfSums>};

}  // namespace lowbit::kernels
