// Rows of the depthwise and pooling families, over images [n][h][w][c].
#include <algorithm>
#include <array>

#include "bindings/kernels/call.h"
#include "kernels/dwconv_f32/dwconv_f32.h"
#include "kernels/dwconv_i8/dwconv_i8.h"
#include "kernels/pool/pool.h"

namespace lowbit {
namespace {

using kernels::Grid, kernels::DwconvShape;
using Pair = std::array<int64_t, 2>;
using Sides = std::array<int64_t, 4>;  // top, left, bottom, right

std::vector<py::ssize_t> shape_of(const Grid& grid, int64_t pitch) { return {grid.n, grid.h, grid.w, pitch}; }

DwconvShape dwconv_shape(Keywords& keywords, const py::array& x, const py::array& w) {
  require(x.ndim() == 4 && w.ndim() == 3 && x.shape(3) == w.shape(0), "x must be [n][h][w][c] and w [c][kh][kw]");
  const Pair stride = keywords.get("stride", Pair{1, 1}), dilation = keywords.get("dilation", Pair{1, 1});
  require(std::min({stride[0], stride[1], dilation[0], dilation[1], w.shape(1), w.shape(2)}) > 0,
          "kernel, stride and dilation must be positive");
  return {w.shape(0), w.shape(1), w.shape(2), stride[0], stride[1], dilation[0], dilation[1]};
}

Grid dwconv_grid(const DwconvShape& shape, const py::array& x, const Sides& padding) {
  require(std::ranges::min(padding) >= 0, "padding must not be negative");
  const auto outputs = [](int64_t size, int64_t kernel, int64_t step, int64_t spread) {
    return std::max<int64_t>(0, (size - (kernel - 1) * spread - 1 + step) / step);
  };
  return {x.shape(0), outputs(x.shape(1) + padding[0] + padding[2], shape.kernel_h, shape.stride_h, shape.dilation_h),
          outputs(x.shape(2) + padding[1] + padding[3], shape.kernel_w, shape.stride_w, shape.dilation_w)};
}

// Ends a call: `gap` elements stay free behind each pixel's channels.
template <class Function, class Args>
py::array run(Keywords& keywords, Function function, Args& args, int64_t channels, DType type) {
  const auto gap = keywords.get<int64_t>("gap", 0), tasks = keywords.get<int64_t>("tasks", 1);
  keywords.finish();
  require(gap >= 0, "need gap >= 0");
  py::array y = output(type, shape_of(args.grid, channels + gap));
  args.y = rows_of(decltype(args.y.data)(y.mutable_data()), args.grid.h, args.grid.w, channels + gap);
  run_tasks(tasks, [&](int64_t task) { function(args, task, tasks); });
  return y;
}

py::array run_dwconv_i8(const std::string& name, const Array<uint8_t>& x, const Array<int8_t>& w,
                        const Array<float>& multiplier, const Array<float>& bias, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const kernels::DwconvI8Kernel& kernel = find(kernels::dwconv_i8_kernels(), name);
  const DwconvShape shape = dwconv_shape(keywords, x, w);
  const auto padding = keywords.get("padding", Sides{});
  const int64_t channels = shape.channels;
  const Buffer codes = copy(x);
  kernels::DwconvI8Weights weights;
  kernel.pack(w.data(), shape, weights);
  kernels::DwconvI8Args args;
  args.weights = &weights;
  args.grid = dwconv_grid(shape, x, padding);
  args.x = rows_of(codes.as<const uint8_t>(), x.shape(1), x.shape(2), channels);
  args.height = x.shape(1), args.width = x.shape(2), args.top = padding[0], args.left = padding[1];
  const Quantized quantized(keywords, args, multiplier, bias, channels, channels);
  args.border_stride_n = args.width * channels;
  const Buffer border(args.grid.n * args.border_stride_n);
  for (int64_t n = 0; n < args.grid.n; ++n)
    std::fill_n(border.as<uint8_t>() + n * args.border_stride_n, args.border_stride_n,
                args.x_zero_points != nullptr ? args.x_zero_points[n] : args.x_zero_point);
  args.border = border.as<uint8_t>();
  return run(keywords, kernel.run, args, channels, args.epilogue.output);
}

py::array run_dwconv_f32(const std::string& name, const Array<float>& x, const Array<float>& w,
                         const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const kernels::DwconvF32Kernel& kernel = find(kernels::dwconv_f32_kernels(), name);
  const DwconvShape shape = dwconv_shape(keywords, x, w);
  kernels::DwconvF32Weights weights;
  kernel.pack(w.data(), shape, weights);
  kernels::DwconvF32Args args;
  args.weights = &weights;
  const auto padding = keywords.get("padding", Sides{});
  args.grid = dwconv_grid(shape, x, padding);
  args.x = rows_of(x.data(), x.shape(1), x.shape(2), shape.channels);
  args.height = x.shape(1), args.width = x.shape(2), args.top = padding[0], args.left = padding[1];
  const std::vector<float> border(static_cast<size_t>(args.width * shape.channels));
  args.border = border.data();
  args.bias = keywords.array<float>("bias", shape.channels);
  if (const float* residual = keywords.array<float>("residual", args.grid.rows() * shape.channels))
    args.residual = rows_of(residual, args.grid.h, args.grid.w, shape.channels);
  read_bounds(keywords, args.min, args.max);
  return run(keywords, kernel.run, args, shape.channels, DType::f32);
}

// One axis of a pool. `outputs` makes it adaptive; otherwise their number follows from the window, as in torch.
kernels::PoolAxis pool_axis(Keywords& keywords, int i, int64_t size) {
  const auto padding = keywords.get("padding", Sides{});
  const auto outputs = keywords.get("outputs", std::optional<Pair>());
  kernels::PoolAxis a;
  a.size = size;
  a.kernel = keywords.get("window", Pair{1, 1})[i];
  a.stride = keywords.get("stride", Pair{1, 1})[i];
  a.dilation = keywords.get("dilation", Pair{1, 1})[i];
  a.padding_begin = padding[i], a.padding_end = padding[i + 2];
  a.adaptive = outputs.has_value();
  require(std::min({a.kernel, a.stride, a.dilation}) > 0 && std::min(a.padding_begin, a.padding_end) >= 0,
          "kernel, stride and dilation must be positive, padding not negative");
  const int64_t room = size + a.padding_begin + a.padding_end - (a.kernel - 1) * a.dilation - 1;
  a.outputs = outputs ? (*outputs)[i] : std::max<int64_t>(0, (room + a.stride) / a.stride);
  require(a.outputs >= 0 && (size > 0 || !a.adaptive), "sizes must be positive");
  return a;
}

py::array run_pool(const std::string& name, const py::array& x, const std::string& kind, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const kernels::PoolKernel& kernel = find(kernels::pool_kernels(), name);
  const bool codes = py::isinstance<Array<uint8_t>>(x), max = kind == "max";
  require(x.ndim() == 4 && (codes || py::isinstance<Array<float>>(x)),
          "x must be [n][h][w][c], C order, uint8 or float32");
  require(max || kind == "avg", "kind must be max or avg");
  kernels::PoolArgs args;
  args.h = pool_axis(keywords, 0, x.shape(1)), args.w = pool_axis(keywords, 1, x.shape(2));
  args.grid = {x.shape(0), args.h.outputs, args.w.outputs};
  args.channels = x.shape(3);
  args.x = rows_of(x.data(), args.h.size, args.w.size, args.channels);
  keywords.read("count_include_pad", args.count_include_pad);
  keywords.read("x_zero_point", args.x_zero_point);
  args.multiplier = keywords.get("multiplier", 1.0f);
  keywords.read("zero_point", args.zero_point);
  read_codes(keywords, args.lo, args.hi);
  args.output = output_type(keywords);
  const auto function = max ? (codes ? kernel.max_u8 : kernel.max_f32) : (codes ? kernel.avg_u8 : kernel.avg_f32);
  return run(keywords, function, args, args.channels, codes && max ? DType::u8 : codes ? args.output : DType::f32);
}

}  // namespace

void bind_images(py::module_& m) {
  m.def("dwconv_i8", run_dwconv_i8, py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert(),
        py::arg("multiplier").noconvert(), py::arg("bias").noconvert());
  m.def("dwconv_f32", run_dwconv_f32, py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert());
  m.def("pool", run_pool, py::arg("kernel"), py::arg("x"), py::arg("kind"));
}

}  // namespace lowbit
