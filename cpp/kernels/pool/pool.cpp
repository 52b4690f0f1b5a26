// How a call splits into tasks.
#include "kernels/pool/pool.h"

#include <algorithm>

namespace lowbit::kernels {

int64_t PoolKernel::tasks(const PoolArgs& args, int threads) {
  constexpr int64_t kElementsPerTask = 65536;  // read; below this a second task costs more than it saves
  const int64_t elements = args.grid.n * args.h.size * args.w.size * args.channels;
  return std::clamp<int64_t>(elements / kElementsPerTask, 1, std::max(threads, 1));
}

}  // namespace lowbit::kernels
