// The plain truth: the contract as written, one output at a time.
#include "base/numerics.h"
#include "kernels/dwconv_i8/dwconv_i8.h"

namespace lowbit::kernels {
namespace {

// The window whose first tap meets row h, column w of the image, which may lie outside.
int32_t accumulate(const DwconvI8Args& args, int64_t n, int64_t h, int64_t w, int64_t c, int32_t x_zero_point) {
  const DwconvShape& shape = args.weights->shape;
  const int8_t* weights = args.weights->packed.as<int8_t>() + c * shape.kernel_h * shape.kernel_w;
  int32_t acc = 0;
  for (int64_t i = 0; i < shape.kernel_h; ++i)
    for (int64_t j = 0; j < shape.kernel_w; ++j) {
      const int64_t row = h + i * shape.dilation_h, column = w + j * shape.dilation_w;
      if (row < 0 || row >= args.height || column < 0 || column >= args.width) continue;
      const int32_t code = args.x.data[args.x.offset(n, row, column) + c];
      acc += (code - x_zero_point) * weights[i * shape.kernel_w + j];
    }
  return acc;
}

void finish(const DwconvI8Args& args, int32_t acc, int64_t n, int64_t h, int64_t w, int64_t c) {
  const Epilogue& e = args.epilogue;
  float t = rescale(acc, e.multiplier[c], e.row_scale ? e.row_scale + n : nullptr, e.bias[c]);
  if (e.residual.data) t = add_residual(t, e.residual.data[e.residual.offset(n, h, w) + c], e.residual_multiplier);
  if (e.slope) t = bend(t, e.slope[c], e.zero_point);
  const int64_t at = args.y.offset(n, h, w) + c;
  if (e.output == DType::f32) {
    t = t < e.min ? e.min : t;
    static_cast<float*>(args.y.data)[at] = t > e.max ? e.max : t;
  } else {
    const uint8_t code = code_from_float(t, 0, e.lo, e.hi);
    static_cast<uint8_t*>(args.y.data)[at] = e.table ? e.table->codes[code] : code;
  }
}

void run(const DwconvI8Args& args, int64_t task, int64_t tasks) {
  const DwconvShape& shape = args.weights->shape;
  const Grid& grid = args.grid;
  const int64_t lines = grid.n * grid.h;
  for (int64_t line = lines * task / tasks; line < lines * (task + 1) / tasks; ++line) {
    const int64_t n = line / grid.h, h = line % grid.h;
    const int32_t x_zero_point = args.x_zero_points ? args.x_zero_points[n] : args.x_zero_point;
    for (int64_t w = 0; w < grid.w; ++w) {
      const int64_t top = h * shape.stride_h - args.top, left = w * shape.stride_w - args.left;
      for (int64_t c = 0; c < shape.channels; ++c)
        finish(args, accumulate(args, n, top, left, c, x_zero_point), n, h, w, c);
    }
  }
}

}  // namespace

extern constinit const DwconvI8Kernel dwconv_i8_scalar = {{"scalar", Isa::scalar}, 1, 0, run};

}  // namespace lowbit::kernels
