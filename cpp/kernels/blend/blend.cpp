// The table and the choice of a row.
#include "kernels/blend/blend.h"

#include "kernels/blend/inner.h"

namespace lowbit::kernels {
namespace {

constexpr const BlendKernel* kTable[] = {
#if defined(LOWBIT_HAVE_X86)
    &kBlendAvx512Vnni,
    &kBlendAvx2,
#endif
    &kBlendScalar,
};

}  // namespace

std::span<const BlendKernel* const> blend_kernels() { return kTable; }

const BlendKernel& select_blend(Isa cap) {
  for (const BlendKernel* kernel : kTable)
    if (runs_on(kernel->isa, cap)) return *kernel;
  return kBlendScalar;
}

}  // namespace lowbit::kernels
