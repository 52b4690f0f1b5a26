// Pooling for AVX-512.
#if !defined(__AVX512BW__)
#error "compile this file for AVX-512 F, BW, DQ, VL: cpp/isa.cmake"
#endif

#include "kernels/pool/blocks.h"

namespace lowbit::kernels::pool_avx512vnni {

void max_u8(const PoolArgs& args, int64_t task, int64_t tasks) { run_max_u8(args, task, tasks); }
void max_f32(const PoolArgs& args, int64_t task, int64_t tasks) { run_max_f32(args, task, tasks); }
void avg_u8(const PoolArgs& args, int64_t task, int64_t tasks) { run_avg_u8(args, task, tasks); }
void avg_f32(const PoolArgs& args, int64_t task, int64_t tasks) { run_avg_f32(args, task, tasks); }
void max_index(const PoolArgs& args, int64_t task, int64_t tasks) { run_max_index(args, task, tasks); }

}  // namespace lowbit::kernels::pool_avx512vnni
