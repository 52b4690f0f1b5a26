// The table and the choice of a row.
#include "kernels/pool/pool.h"

#include <algorithm>
#include <iterator>

#include "kernels/pool/rows.h"

namespace lowbit::kernels {
namespace {

constexpr int64_t kElementsPerTask = 65536;  // read; below this a second task costs more than it saves

int64_t tasks_of(const PoolArgs& args, int threads) {
  const int64_t elements = args.grid.n * args.h.size * args.w.size * args.channels;
  return std::clamp<int64_t>(elements / kElementsPerTask, 1, std::max(threads, 1));
}

constexpr PoolKernel kTable[] = {
#if defined(LOWBIT_HAVE_X86)
    {"avx512vnni", Isa::avx512vnni, tasks_of, pool_avx512vnni::max_u8, pool_avx512vnni::max_f32,
     pool_avx512vnni::avg_u8, pool_avx512vnni::avg_f32, pool_avx512vnni::max_index},
    {"avx2", Isa::avx2, tasks_of, pool_avx2::max_u8, pool_avx2::max_f32, pool_avx2::avg_u8, pool_avx2::avg_f32,
     pool_avx2::max_index},
#endif
    {"scalar", Isa::scalar, tasks_of, pool_scalar::max_u8, pool_scalar::max_f32, pool_scalar::avg_u8,
     pool_scalar::avg_f32, pool_scalar::max_index},
};

}  // namespace

std::span<const PoolKernel> pool_kernels() { return kTable; }

const PoolKernel& select_pool(Isa cap) {
  for (const PoolKernel& kernel : kTable)
    if (runs_on(kernel.isa, cap)) return kernel;
  return kTable[std::size(kTable) - 1];
}

}  // namespace lowbit::kernels
