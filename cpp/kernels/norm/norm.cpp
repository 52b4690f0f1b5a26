// The walk over rows.
#include "kernels/norm/norm.h"

namespace lowbit::kernels {

void normalize(const NormKernel& kernel, const NormArgs& args, int64_t task, int64_t tasks) {
  const int64_t channels = args.row / args.inner, end = (task + 1) * args.rows / tasks;
  for (int64_t r = task * args.rows / tasks; r < end; ++r) {
    const int64_t first = r % args.cycle * channels;
    kernel.row(args, args.x + r * args.row, args.y + r * args.row, args.weight ? args.weight + first : nullptr,
               args.bias ? args.bias + first : nullptr);
  }
}

}  // namespace lowbit::kernels
