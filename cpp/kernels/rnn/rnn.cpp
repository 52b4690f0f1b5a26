// The table.
#include "kernels/rnn/rnn.h"

namespace lowbit::kernels {
namespace {

constexpr const RnnKernel* kTable[] = {
#if defined(LOWBIT_HAVE_X86)
    &kRnnAvx512Vnni,
    &kRnnAvx2,
#endif
    &kRnnScalar,
};

}  // namespace

const RnnKernel& select_rnn(Isa cap) {
  for (const RnnKernel* kernel : kTable)
    if (runs_on(kernel->isa, cap)) return *kernel;
  return kRnnScalar;
}

}  // namespace lowbit::kernels
