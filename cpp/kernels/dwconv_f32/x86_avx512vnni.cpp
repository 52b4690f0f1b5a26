// Float depthwise convolution for AVX-512.
#if !defined(__AVX512BW__)
#error "compile this file for AVX-512 F, BW, DQ, VL: cpp/isa.cmake"
#endif

#include "kernels/dwconv_f32/tile.h"

namespace lowbit::kernels {

void dwconv_f32_run_avx512vnni(const DwconvF32Args& args, int64_t task, int64_t tasks) {
  run_dwconv(args, task, tasks);
}

}  // namespace lowbit::kernels
