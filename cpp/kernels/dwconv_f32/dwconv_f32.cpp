// The table, the packer and the choice of a row.
#include "kernels/dwconv_f32/dwconv_f32.h"

#include <algorithm>
#include <iterator>

namespace lowbit::kernels {

void dwconv_f32_run_scalar(const DwconvF32Args&, int64_t task, int64_t tasks);
void dwconv_f32_run_avx2(const DwconvF32Args&, int64_t task, int64_t tasks);
void dwconv_f32_run_avx512vnni(const DwconvF32Args&, int64_t task, int64_t tasks);

namespace {

constexpr int64_t kOutputsPerTask = 16384;  // below this a second task costs more than it saves

void pack(const DwconvF32Kernel& kernel, const float* w, const DwconvShape& shape, DwconvF32Weights& out) {
  const int64_t taps = shape.kernel_h * shape.kernel_w, padded = (shape.channels + 15) / 16 * 16;
  out.kernel = &kernel;
  out.shape = shape;
  out.packed = Buffer(static_cast<size_t>(taps * padded) * sizeof(float));
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t c = 0; c < shape.channels; ++c) out.packed.as<float>()[t * padded + c] = w[c * taps + t];
}

int64_t tasks_of(const DwconvF32Args& args, int threads) {
  const int64_t outputs = args.grid.rows() * args.weights->shape.channels;
  return std::clamp<int64_t>(outputs / kOutputsPerTask, 1, std::max(threads, 1));
}

constexpr DwconvF32Kernel kTable[] = {
#if defined(LOWBIT_HAVE_X86)
    {"avx512vnni", Isa::avx512vnni, pack, tasks_of, dwconv_f32_run_avx512vnni},
    {"avx2", Isa::avx2, pack, tasks_of, dwconv_f32_run_avx2},
#endif
    {"scalar", Isa::scalar, pack, tasks_of, dwconv_f32_run_scalar},
};

}  // namespace

std::span<const DwconvF32Kernel> dwconv_f32_kernels() { return kTable; }

const DwconvF32Kernel& select_dwconv_f32(Isa cap) {
  for (const DwconvF32Kernel& kernel : kTable)
    if (runs_on(kernel.isa, cap)) return kernel;
  return kTable[std::size(kTable) - 1];
}

}  // namespace lowbit::kernels
