// What each ISA file of this folder defines.
#pragma once

#include "kernels/pool/pool.h"

namespace lowbit::kernels {

using PoolRun = void(const PoolArgs&, int64_t task, int64_t tasks);

namespace pool_scalar {
PoolRun max_u8, max_f32, avg_u8, avg_f32, max_index;
}
namespace pool_avx2 {
PoolRun max_u8, max_f32, avg_u8, avg_f32, max_index;
}
namespace pool_avx512vnni {
PoolRun max_u8, max_f32, avg_u8, avg_f32, max_index;
}

}  // namespace lowbit::kernels
