// Float depthwise convolution for AVX2.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this file for AVX2 and FMA only: cpp/isa.cmake"
#endif

#include "kernels/dwconv_f32/tile.h"

namespace lowbit::kernels {

void dwconv_f32_run_avx2(const DwconvF32Args& args, int64_t task, int64_t tasks) { run_dwconv(args, task, tasks); }

}  // namespace lowbit::kernels
