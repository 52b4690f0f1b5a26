// The plain truth: the contract as written, one output at a time.
#include "kernels/dwconv_f32/dwconv_f32.h"

namespace lowbit::kernels {
namespace {

float accumulate(const DwconvF32Args& args, const float* x, int64_t c) {
  const DwconvShape& shape = args.weights->shape;
  const float* w = args.weights->packed.as<float>() + c;
  const int64_t padded = (shape.channels + 15) / 16 * 16;
  float acc = 0.0f;
  for (int64_t i = 0; i < shape.kernel_h; ++i)
    for (int64_t j = 0; j < shape.kernel_w; ++j, w += padded)
      acc = __builtin_fmaf(x[i * shape.dilation_h * args.x.stride_h + j * shape.dilation_w * args.x.stride_w + c], *w,
                           acc);
  return acc;
}

}  // namespace

void dwconv_f32_run_scalar(const DwconvF32Args& args, int64_t task, int64_t tasks) {
  const DwconvShape& shape = args.weights->shape;
  const Grid& grid = args.grid;
  const int64_t lines = grid.n * grid.h;
  for (int64_t line = lines * task / tasks; line < lines * (task + 1) / tasks; ++line) {
    const int64_t n = line / grid.h, h = line % grid.h;
    for (int64_t w = 0; w < grid.w; ++w) {
      const float* x = args.x.data + args.x.offset(n, h * shape.stride_h, w * shape.stride_w);
      float* y = args.y.data + args.y.offset(n, h, w);
      for (int64_t c = 0; c < shape.channels; ++c) {
        float t = accumulate(args, x, c);
        if (args.bias) t = t + args.bias[c];
        if (args.residual.data) t = t + args.residual.data[args.residual.offset(n, h, w) + c];
        t = args.min > t ? args.min : t;
        y[c] = args.max < t ? args.max : t;
      }
    }
  }
}

}  // namespace lowbit::kernels
