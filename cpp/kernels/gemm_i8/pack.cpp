// Reorders row-major weights [n][taps][run] into a kernel's panels [ceil(n / nr)][taps][ceil(run / 4)][nr][4]: the four
// k of one output channel are the bytes of one 32-bit lane, as the dot-product instructions want them.
#include <cstring>

#include "kernels/gemm_i8/tiles.h"

namespace lowbit::kernels {

void pack_gemm_i8(const GemmI8Kernel& kernel, const int8_t* w, int64_t n, int64_t taps, int64_t run,
                  GemmI8Weights& out) {
  const int64_t nr = kernel.nr, quads = (run + 3) / 4, padded = (n + nr - 1) / nr * nr;
  out.kernel = &kernel;
  out.n = n, out.taps = taps, out.run = run;
  out.panels = Buffer(static_cast<size_t>(padded * taps * quads * 4));
  out.column_sums = Buffer(static_cast<size_t>(padded) * sizeof(int32_t));
  for (int64_t channel = 0; channel < n; ++channel) {
    int8_t* lane = out.panels.as<int8_t>() + channel / nr * nr * taps * quads * 4 + channel % nr * 4;
    int32_t sum = 0;
    for (int64_t tap = 0; tap < taps; ++tap, w += run) {
      for (int64_t k = 0; k < run; k += 4, lane += nr * 4)
        std::memcpy(lane, w + k, static_cast<size_t>(run - k < 4 ? run - k : 4));
      for (int64_t k = 0; k < run; ++k) sum += w[k];
    }
    out.column_sums.as<int32_t>()[channel] = sum;
  }
}

}  // namespace lowbit::kernels
