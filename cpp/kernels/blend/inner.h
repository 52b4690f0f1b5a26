// What each ISA file of this folder defines.
#pragma once

#include "kernels/blend/blend.h"

namespace lowbit::kernels {

extern const BlendKernel kBlendScalar;
#if defined(LOWBIT_HAVE_X86)
extern const BlendKernel kBlendAvx2;
extern const BlendKernel kBlendAvx512Vnni;
#endif

}  // namespace lowbit::kernels
