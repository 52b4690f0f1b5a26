// The packer, and how a call splits into tasks.
#include "kernels/dwconv_f32/dwconv_f32.h"

#include <algorithm>

namespace lowbit::kernels {

void DwconvF32Kernel::pack(const float* w, const DwconvShape& shape, DwconvF32Weights& out) const {
  const int64_t taps = shape.kernel_h * shape.kernel_w, padded = (shape.channels + 15) / 16 * 16;
  out.kernel = this;
  out.shape = shape;
  out.packed = Buffer(static_cast<size_t>(taps * padded) * sizeof(float));
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t c = 0; c < shape.channels; ++c) out.packed.as<float>()[t * padded + c] = w[c * taps + t];
}

int64_t DwconvF32Kernel::tasks(const DwconvF32Args& args, int threads) {
  constexpr int64_t kOutputsPerTask = 16384;  // below this a second task costs more than it saves
  constexpr int64_t kMostWork = 1 << 28;      // of a task, so that a call can be ended between two
  const DwconvShape& shape = args.weights->shape;
  const int64_t outputs = args.grid.rows() * shape.channels;
  const int64_t long_tasks = outputs / std::max<int64_t>(kMostWork / (shape.kernel_h * shape.kernel_w), 1);
  return std::clamp<int64_t>(outputs / kOutputsPerTask, 1, std::max<int64_t>({threads, 1, long_tasks}));
}

}  // namespace lowbit::kernels
