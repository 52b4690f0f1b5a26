// How a call splits into tasks.
#include "kernels/pool/pool.h"

#include <algorithm>

namespace lowbit::kernels {

int64_t PoolKernel::tasks(const PoolArgs& args, int threads) {
  constexpr int64_t kElementsPerTask = 65536;  // read; below this a second task costs more than it saves
  constexpr double kMostWork = 1 << 27;        // of a task, so that a call can be ended between two
  const int64_t elements = args.grid.n * args.h.size * args.w.size * args.channels;
  const auto long_tasks = static_cast<int64_t>(std::min(pool_work(args) / kMostWork, 1e9));
  return std::max(std::clamp<int64_t>(elements / kElementsPerTask, 1, std::max(threads, 1)), long_tasks);
}

double pool_work(const PoolArgs& args) {
  const auto window = [](const PoolAxis& axis) {
    return axis.adaptive ? axis.size / std::max<int64_t>(axis.outputs, 1) + 1 : std::min(axis.kernel, axis.size);
  };
  const auto outputs = static_cast<double>(args.grid.rows()) * static_cast<double>(args.channels);
  return outputs * static_cast<double>(window(args.h)) * static_cast<double>(window(args.w));
}

}  // namespace lowbit::kernels
