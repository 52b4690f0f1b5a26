// A row of the normalization table. Only this folder includes it.
#pragma once

#include "kernels/norm/norm.h"

namespace lowbit::kernels {

struct NormKernel {
  const char* name;
  Isa isa;
  void (*row)(const NormArgs&, const float* x, float* y, const float* weight, const float* bias);
};

extern const NormKernel kNormScalar;
#if defined(LOWBIT_HAVE_X86)
extern const NormKernel kNormAvx2;
extern const NormKernel kNormAvx512Vnni;
#endif

}  // namespace lowbit::kernels
