// The table, and the walk over rows.
#include "kernels/norm/norm.h"

#include "kernels/norm/inner.h"

namespace lowbit::kernels {
namespace {

constexpr const NormKernel* kTable[] = {
#if defined(LOWBIT_HAVE_X86)
    &kNormAvx512Vnni,
    &kNormAvx2,
#endif
    &kNormScalar,
};

}  // namespace

const NormKernel& select_norm(Isa cap) {
  for (const NormKernel* kernel : kTable)
    if (runs_on(kernel->isa, cap)) return *kernel;
  return kNormScalar;
}

const char* name_of(const NormKernel& kernel) { return kernel.name; }

void normalize(const NormKernel& kernel, const NormArgs& args, int64_t task, int64_t tasks) {
  const int64_t channels = args.row / args.inner, end = (task + 1) * args.rows / tasks;
  for (int64_t r = task * args.rows / tasks; r < end; ++r) {
    const int64_t first = r % args.cycle * channels;
    kernel.row(args, args.x + r * args.row, args.y + r * args.row, args.weight ? args.weight + first : nullptr,
               args.bias ? args.bias + first : nullptr);
  }
}

}  // namespace lowbit::kernels
