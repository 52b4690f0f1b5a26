// The rows of the depthwise, pooling and elementwise families, one by one, for tests and benchmarks: a named row runs
// on NumPy arrays. Images are [n][h][w][c]; elementwise views take any strides, and their outputs are the caller's
// arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/threads.h"
#include "bindings/bindings.h"
#include "bindings/rows.h"
#include "kernels/dwconv_f32/dwconv_f32.h"
#include "kernels/dwconv_i8/dwconv_i8.h"
#include "kernels/eltwise/eltwise.h"
#include "kernels/pool/pool.h"

namespace py = pybind11;

namespace lowbit {
namespace {

using namespace kernels;
template <class T>
using Array = py::array_t<T, py::array::c_style>;
template <class T>
using Optional = std::optional<Array<T>>;
using Pair = std::array<int64_t, 2>;

constexpr int kUntouched = 0xa5;  // fills the gaps between pixels, so that a test sees a stray write
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
const T* pointer(const Optional<T>& array, int64_t size, const char* message) {
  if (!array) return nullptr;
  require(array->size() == size, message);
  return array->data();
}

// Runs task(0 .. tasks - 1) in this thread, then all again `repeats` times under the clock. Returns seconds a round.
template <class F>
double execute(int64_t tasks, int64_t repeats, F task) {
  require(tasks > 0 && repeats >= 0, "need tasks > 0 and repeats >= 0");
  py::gil_scoped_release release;
  for (int64_t i = tasks - 1; i >= 0; --i) task(i);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t round = 0; round < repeats; ++round)
    for (int64_t i = 0; i < tasks; ++i) task(i);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return repeats > 0 ? elapsed.count() / static_cast<double>(repeats) : 0.0;
}

// An image batch [n][h][w][pitch], of whose elements the first `channels` of a pixel count.
template <class T>
Rows<T> image(T* data, int64_t h, int64_t w, int64_t pitch) {
  return {data, h * w * pitch, w * pitch, pitch};
}

template <class T>
Array<T> output(const Grid& grid, int64_t pitch) {
  Array<T> y(std::vector<py::ssize_t>{grid.n, grid.h, grid.w, pitch});
  if (y.nbytes() > 0) std::memset(y.mutable_data(), kUntouched, static_cast<size_t>(y.nbytes()));
  return y;
}

py::array output(bool codes, const Grid& grid, int64_t pitch) {
  return codes ? py::array(output<uint8_t>(grid, pitch)) : py::array(output<float>(grid, pitch));
}

struct Dwconv {
  DwconvShape shape;
  Grid grid;
};

Dwconv dwconv_of(const py::array& x, const py::array& w, Pair stride, Pair dilation,
                 const std::array<int64_t, 4>& padding = {}) {
  require(x.ndim() == 4 && w.ndim() == 3 && x.shape(3) == w.shape(0), "x must be [n][h][w][c] and w [c][kh][kw]");
  require(std::min({stride[0], stride[1], dilation[0], dilation[1]}) > 0 && w.shape(1) > 0 && w.shape(2) > 0,
          "kernel, stride and dilation must be positive");
  Dwconv d;
  d.shape = {w.shape(0), w.shape(1), w.shape(2), stride[0], stride[1], dilation[0], dilation[1]};
  require(std::ranges::min(padding) >= 0, "padding must not be negative");
  const auto outputs = [](int64_t size, int64_t kernel, int64_t step, int64_t spread) {
    return std::max<int64_t>(0, (size - (kernel - 1) * spread - 1 + step) / step);
  };
  d.grid = {x.shape(0), outputs(x.shape(1) + padding[0] + padding[2], w.shape(1), stride[0], dilation[0]),
            outputs(x.shape(2) + padding[1] + padding[3], w.shape(2), stride[1], dilation[1])};
  return d;
}

py::tuple run_dwconv_i8(const std::string& name, const Array<uint8_t>& x, const Array<int8_t>& w,
                        const Array<float>& multiplier, const Array<float>& bias, Pair stride, Pair dilation,
                        const std::array<int64_t, 4>& padding, int32_t x_zero_point,
                        const Optional<uint8_t>& x_zero_points, const Optional<float>& row_scale,
                        const Optional<uint8_t>& residual, float residual_multiplier, int32_t lo, int32_t hi,
                        const Optional<uint8_t>& table, float min, float max, const std::string& output_type,
                        bool bounded, int64_t gap, int64_t tasks, int64_t repeats) {
  const DwconvI8Kernel& kernel = find(dwconv_i8_kernels(), name);
  const Dwconv d = dwconv_of(x, w, stride, dilation, padding);
  const int64_t channels = d.shape.channels, pitch = channels + gap;
  require(multiplier.size() == channels && bias.size() == channels, "multiplier and bias must be [c]");
  require(0 <= lo && lo <= hi && hi <= 255 && gap >= 0, "need 0 <= lo <= hi <= 255 and gap >= 0");
  require(output_type == "u8" || output_type == "f32", "output must be u8 or f32");
  Buffer codes(static_cast<size_t>(x.nbytes()));
  if (x.nbytes() > 0) std::memcpy(codes.as(), x.data(), static_cast<size_t>(x.nbytes()));

  DwconvI8Weights weights;
  kernel.pack(kernel, w.data(), d.shape, weights);
  DwconvI8Args args;
  args.weights = &weights;
  args.grid = d.grid;
  args.x = image<const uint8_t>(codes.as<const uint8_t>(), x.shape(1), x.shape(2), channels);
  args.x_zero_point = x_zero_point;
  args.x_zero_points = pointer(x_zero_points, d.grid.n, "x_zero_points must be one a sample");
  args.height = x.shape(1), args.width = x.shape(2), args.top = padding[0], args.left = padding[1];
  args.border_stride_n = args.width * channels;
  Buffer border(static_cast<size_t>(d.grid.n * args.border_stride_n));
  for (int64_t n = 0; n < d.grid.n; ++n)
    std::fill_n(border.as<uint8_t>() + n * args.border_stride_n, args.border_stride_n,
                args.x_zero_points != nullptr ? args.x_zero_points[n] : static_cast<uint8_t>(x_zero_point));
  args.border = border.as<uint8_t>();
  Epilogue& e = args.epilogue;
  e.multiplier = multiplier.data();
  e.bias = bias.data();
  e.row_scale = pointer(row_scale, d.grid.n, "row_scale must be one a sample");
  if (residual)
    e.residual = image(pointer(residual, d.grid.rows() * channels, "the residual must have the output's shape"),
                       d.grid.h, d.grid.w, channels);
  e.residual_multiplier = residual_multiplier;
  e.lo = lo;
  e.hi = hi;
  const auto codes_of = code_table(table);
  e.table = codes_of ? &*codes_of : nullptr;
  e.min = min;
  e.max = max;
  e.output = output_type == "u8" ? DType::u8 : DType::f32;
  e.bounded = bounded;
  py::array y = output(e.output == DType::u8, d.grid, pitch);
  args.y = image(y.mutable_data(), d.grid.h, d.grid.w, pitch);
  const double seconds = execute(tasks, repeats, [&](int64_t task) { kernel.run(args, task, tasks); });
  return py::make_tuple(y, seconds);
}

py::tuple run_dwconv_f32(const std::string& name, const Array<float>& x, const Array<float>& w,
                         const Optional<float>& bias, Pair stride, Pair dilation, const Optional<float>& residual,
                         float min, float max, int64_t gap, int64_t tasks, int64_t repeats) {
  const DwconvF32Kernel& kernel = find(dwconv_f32_kernels(), name);
  const Dwconv d = dwconv_of(x, w, stride, dilation);
  const int64_t channels = d.shape.channels, pitch = channels + gap;
  require(gap >= 0, "need gap >= 0");
  DwconvF32Weights weights;
  kernel.pack(kernel, w.data(), d.shape, weights);
  DwconvF32Args args;
  args.weights = &weights;
  args.grid = d.grid;
  args.x = image(x.data(), x.shape(1), x.shape(2), channels);
  args.bias = pointer(bias, channels, "bias must be [c]");
  if (residual)
    args.residual = image(pointer(residual, d.grid.rows() * channels, "the residual must have the output's shape"),
                          d.grid.h, d.grid.w, channels);
  args.min = min;
  args.max = max;
  Array<float> y = output<float>(d.grid, pitch);
  args.y = image(y.mutable_data(), d.grid.h, d.grid.w, pitch);
  const double seconds = execute(tasks, repeats, [&](int64_t task) { kernel.run(args, task, tasks); });
  return py::make_tuple(y, seconds);
}

// Both pools. `outputs` makes the pool adaptive; otherwise their number follows from the window, as in torch.
py::tuple run_pool(const std::string& name, const py::array& x, const std::string& kind, std::optional<Pair> outputs,
                   Pair window, Pair stride, const std::array<int64_t, 4>& padding, Pair dilation,
                   bool count_include_pad, int32_t x_zero_point, float multiplier, int32_t zero_point, int32_t lo,
                   int32_t hi, const std::string& output_type, int64_t gap, int64_t tasks, int64_t repeats) {
  const PoolKernel& kernel = find(pool_kernels(), name);
  const bool codes = py::isinstance<Array<uint8_t>>(x);
  require(x.ndim() == 4 && (codes || py::isinstance<Array<float>>(x)),
          "x must be [n][h][w][c], C order, uint8 or float32");
  require(kind == "max" || kind == "avg", "kind must be max or avg");
  require(output_type == "u8" || output_type == "f32", "output must be u8 or f32");
  require(0 <= lo && lo <= hi && hi <= 255 && gap >= 0, "need 0 <= lo <= hi <= 255 and gap >= 0");
  const auto axis = [&](size_t i) {
    PoolAxis a;
    a.size = x.shape(static_cast<py::ssize_t>(i) + 1);
    a.kernel = window[i];
    a.stride = stride[i];
    a.padding_begin = padding[i];
    a.padding_end = padding[i + 2];
    a.dilation = dilation[i];
    a.adaptive = outputs.has_value();
    require(std::min({a.kernel, a.stride, a.dilation}) > 0 && std::min(a.padding_begin, a.padding_end) >= 0,
            "kernel, stride and dilation must be positive, padding not negative");
    const int64_t room = a.size + a.padding_begin + a.padding_end - (a.kernel - 1) * a.dilation - 1;
    a.outputs = outputs ? (*outputs)[i] : std::max<int64_t>(0, (room + a.stride) / a.stride);
    require(a.outputs >= 0 && (a.size > 0 || !a.adaptive), "sizes must be positive");
    return a;
  };
  PoolArgs args;
  args.h = axis(0);
  args.w = axis(1);
  args.grid = {x.shape(0), args.h.outputs, args.w.outputs};
  args.channels = x.shape(3);
  args.x = image(x.data(), args.h.size, args.w.size, args.channels);
  args.count_include_pad = count_include_pad;
  args.x_zero_point = x_zero_point;
  args.multiplier = multiplier;
  args.zero_point = zero_point;
  args.lo = lo;
  args.hi = hi;
  args.output = output_type == "u8" ? DType::u8 : DType::f32;
  const bool max = kind == "max";
  py::array y = output(codes && (max || args.output == DType::u8), args.grid, args.channels + gap);
  args.y = image(y.mutable_data(), args.grid.h, args.grid.w, args.channels + gap);
  const auto run = max ? (codes ? kernel.max_u8 : kernel.max_f32) : (codes ? kernel.avg_u8 : kernel.avg_f32);
  const double seconds = execute(tasks, repeats, [&](int64_t task) { run(args, task, tasks); });
  return py::make_tuple(y, seconds);
}

const EltwiseKernel& eltwise_row(const std::string& name) { return *find(eltwise_kernels(), name); }

Shape shape_of(const py::array& array) {
  require(array.ndim() <= kMaxRank, "at most 8 axes");
  Shape shape;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) shape.push_back(array.shape(axis));
  return shape;
}

Shape strides_of(const py::array& array) {
  Shape strides;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    require(array.strides(axis) % array.itemsize() == 0, "strides must be whole elements");
    strides.push_back(array.strides(axis) / array.itemsize());
  }
  return strides;
}

template <class T>
void require_type(const py::array& array, const char* message) {
  require(py::isinstance<py::array_t<T>>(array), message);
}

template <class T>
View<const T> view(const py::array& array) {
  require_type<T>(array, "an input has the wrong element type");
  return {static_cast<const T*>(array.data()), strides_of(array)};
}

template <class T>
View<T> mutable_view(py::array& array) {
  require_type<T>(array, "the output has the wrong element type");
  return {static_cast<T*>(array.mutable_data()), strides_of(array)};
}

double run_copy(const std::string& name, const py::array& x, py::array& y, int64_t tasks, int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  const int64_t bytes = x.itemsize();
  require(shape_of(x) == shape_of(y) && bytes == y.itemsize(), "x and y must agree in shape and element size");
  require(bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8, "elements must have 1, 2, 4 or 8 bytes");
  const CopyArgs args = {
      shape_of(x), static_cast<int>(bytes), {x.data(), strides_of(x)}, {y.mutable_data(), strides_of(y)}};
  return execute(tasks, repeats, [&](int64_t task) { copy(kernel, args, task, tasks); });
}

template <class Args>
void set_scales(Args& args, const Optional<float>& scales, const Optional<uint8_t>& zero_points) {
  require(scales.has_value() == zero_points.has_value(), "give both scales and zero_points, or neither");
  require(!scales || args.shape.rank() > 0, "scales need an axis");
  const int64_t count = scales ? args.shape[0] : 0;
  args.scales = pointer(scales, count, "scales must be one for each index of axis 0");
  args.zero_points = pointer(zero_points, count, "zero_points must be one for each index of axis 0");
}

double run_quantize(const std::string& name, const py::array& x, py::array& y, float scale, int32_t zero_point,
                    const Optional<float>& scales, const Optional<uint8_t>& zero_points, int64_t tasks,
                    int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  QuantizeArgs args = {shape_of(x), view<float>(x), mutable_view<uint8_t>(y), scale, zero_point};
  require(args.shape == shape_of(y), "x and y must agree in shape");
  set_scales(args, scales, zero_points);
  return execute(tasks, repeats, [&](int64_t task) { quantize(kernel, args, task, tasks); });
}

double run_dequantize(const std::string& name, const py::array& x, py::array& y, float scale, int32_t zero_point,
                      const Optional<float>& scales, const Optional<uint8_t>& zero_points, int64_t tasks,
                      int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  DequantizeArgs args = {shape_of(x), view<uint8_t>(x), mutable_view<float>(y), scale, zero_point};
  require(args.shape == shape_of(y), "x and y must agree in shape");
  set_scales(args, scales, zero_points);
  return execute(tasks, repeats, [&](int64_t task) { dequantize(kernel, args, task, tasks); });
}

py::tuple run_dynamic_quantize(const std::string& name, const Array<float>& x, const Optional<float>& factors,
                               int64_t tasks, int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  require(x.ndim() == 2, "x must be [rows][row]");
  const int64_t rows = x.shape(0), row = x.shape(1);
  Array<uint8_t> y({rows, row});
  Array<float> scales(rows), range_scales(rows);
  Array<uint8_t> zero_points(rows), range_zero_points(rows);
  DynamicQuantizeArgs args = {
      rows, row, x.data(), row, y.mutable_data(), row, scales.mutable_data(), zero_points.mutable_data()};
  Array<float> products({tasks, row});
  if (factors) {
    require(factors->size() == row, "there must be one factor for each value of a row");
    args.factors = factors->data();
    args.products = products.mutable_data();
  }
  const DynamicRangeArgs range = {
      rows, row, x.data(), row, range_scales.mutable_data(), range_zero_points.mutable_data()};
  if (!factors) execute(tasks, 0, [&](int64_t task) { dynamic_range(kernel, range, task, tasks); });
  const double seconds = execute(tasks, repeats, [&](int64_t task) { dynamic_quantize(kernel, args, task, tasks); });
  require(rows == 0 || factors ||
              (std::memcmp(scales.data(), range_scales.data(), static_cast<size_t>(scales.nbytes())) == 0 &&
               std::memcmp(zero_points.data(), range_zero_points.data(), static_cast<size_t>(rows)) == 0),
          "dynamic_range and dynamic_quantize disagree");
  return py::make_tuple(y, scales, zero_points, seconds);
}

py::tuple run_lookup(const std::string& name, const Array<uint8_t>& x, const Array<uint8_t>& table, int64_t tasks,
                     int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  require(table.size() == 256, "the table must have 256 entries");
  Array<uint8_t> y(x.size());
  const double seconds = execute(tasks, repeats, [&](int64_t task) {
    lookup(kernel, x.data(), table.data(), y.mutable_data(), x.size(), task, tasks);
  });
  return py::make_tuple(y, seconds);
}

py::tuple run_add_i8(const std::string& name, const Array<uint8_t>& a, const Array<uint8_t>& b, int32_t zero_point_a,
                     float multiplier_a, int32_t zero_point_b, float multiplier_b, int32_t zero_point, int32_t lo,
                     int32_t hi, const Optional<uint8_t>& table, int64_t tasks, int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  require(a.size() == b.size(), "a and b must agree in size");
  require(0 <= lo && lo <= hi && hi <= 255, "need 0 <= lo <= hi <= 255");
  Array<uint8_t> y(a.size());
  PairI8Args args;
  args.shape = {a.size()};
  args.a = {a.data(), {1}};
  args.b = {b.data(), {1}};
  args.y = {y.mutable_data(), {1}};
  args.zero_point_a = zero_point_a;
  args.zero_point_b = zero_point_b;
  args.multiplier_a = multiplier_a;
  args.multiplier_b = multiplier_b;
  args.zero_point = zero_point;
  args.lo = lo;
  args.hi = hi;
  args.table = pointer(table, 256, "the table must have 256 entries");
  const double seconds = execute(tasks, repeats, [&](int64_t task) { pair_i8(kernel, args, task, tasks); });
  return py::make_tuple(y, seconds);
}

double run_binary(const std::string& name, const std::string& kind, const py::array& a, const py::array& b,
                  py::array& y, int64_t tasks, int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  constexpr std::array<const char*, 7> kKinds = {"add", "sub", "mul", "div", "minimum", "maximum", "prelu"};
  const auto found = std::find(kKinds.begin(), kKinds.end(), kind);
  require(found != kKinds.end(), "kind must be add, sub, mul, div, minimum, maximum or prelu");
  const BinaryArgs args = {static_cast<BinaryKind>(found - kKinds.begin()), shape_of(y), view<float>(a), view<float>(b),
                           mutable_view<float>(y)};
  require(shape_of(a) == args.shape && shape_of(b) == args.shape,
          "broadcast a and b to the shape of y first (strides of 0)");
  return execute(tasks, repeats, [&](int64_t task) { binary(kernel, args, task, tasks); });
}

py::tuple run_unary(const std::string& name, const std::string& kind, const Array<float>& x, float alpha, float min,
                    float max, int64_t tasks, int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  Array<float> y(x.size());
  UnaryArgs args;
  require(parse_unary(kind, args.kind), "no unary function has this name");
  args.count = x.size();
  args.x = x.data();
  args.y = y.mutable_data();
  args.alpha = alpha;
  args.min = min;
  args.max = max;
  const double seconds = execute(tasks, repeats, [&](int64_t task) { unary(kernel, args, task, tasks); });
  return py::make_tuple(y, seconds);
}

py::tuple run_softmax(const std::string& name, const Array<float>& x, int64_t tasks, int64_t repeats) {
  const EltwiseKernel& kernel = eltwise_row(name);
  require(x.ndim() == 2, "x must be [rows][row]");
  Array<float> y({x.shape(0), x.shape(1)});
  const SoftmaxArgs args = {x.shape(0), x.shape(1), x.data(), x.shape(1), y.mutable_data(), x.shape(1)};
  const double seconds = execute(tasks, repeats, [&](int64_t task) { softmax(kernel, args, task, tasks); });
  return py::make_tuple(y, seconds);
}

Array<float> run_rounding_errors(const Array<float>& x, const Array<float>& factor, const Array<float>& low,
                                 const Array<float>& high, const std::string& name) {
  const EltwiseKernel& kernel = name.empty() ? select_eltwise(default_isa()) : eltwise_row(name);
  require(x.ndim() == 2 && factor.ndim() == 2 && factor.shape(1) == x.shape(0),
          "x must be [rows][row], factor [trials][rows]");
  for (const Array<float>* bound : {&low, &high})
    require(bound->ndim() == 2 && bound->shape(0) == factor.shape(0) && bound->shape(1) == factor.shape(1),
            "low and high must be [trials][rows]");
  Array<float> error({factor.shape(0), factor.shape(1)});
  RoundingArgs args = {x.shape(0), x.shape(1), factor.shape(0)};
  args.x = x.data();
  args.factor = factor.data();
  args.low = low.data();
  args.high = high.data();
  args.error = error.mutable_data();
  py::gil_scoped_release release;
  rounding_errors(kernel, args);
  return error;
}

void bind_images(py::module_& m) {
  const py::none none;
  const auto tasks = py::arg("tasks") = 1;
  const auto repeats = py::arg("repeats") = 0;
  const Pair ones = {1, 1};
  m.def(
      "dwconv_i8_kernels", [] { return describe(dwconv_i8_kernels()); },
      "The rows of the int8 depthwise kernel: name, isa, available.");
  m.def(
      "dwconv_f32_kernels", [] { return describe(dwconv_f32_kernels()); },
      "The rows of the float32 depthwise kernel: name, isa, available.");
  m.def(
      "pool_kernels", [] { return describe(pool_kernels()); }, "The rows of the pooling kernel: name, isa, available.");
  m.def("dwconv_i8", run_dwconv_i8,
        "Runs one row on an image x [n][h][w][c] and w [c][kh][kw]; padding is top, left, bottom, right; returns (y "
        "[n][oh][ow][c + gap], seconds a call).",
        py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert(), py::arg("multiplier").noconvert(),
        py::arg("bias").noconvert(), py::kw_only(), py::arg("stride") = ones, py::arg("dilation") = ones,
        py::arg("padding") = std::array<int64_t, 4>{}, py::arg("x_zero_point") = 0,
        py::arg("x_zero_points").noconvert() = none, py::arg("row_scale").noconvert() = none,
        py::arg("residual").noconvert() = none, py::arg("residual_multiplier") = 0.0f, py::arg("lo") = 0,
        py::arg("hi") = 255, py::arg("table").noconvert() = none, py::arg("min") = -kInfinity,
        py::arg("max") = kInfinity, py::arg("output") = "u8", py::arg("bounded") = false, py::arg("gap") = 0, tasks,
        repeats);
  m.def("dwconv_f32", run_dwconv_f32,
        "Runs one row on a padded image x [n][h][w][c] and w [c][kh][kw]; returns (y [n][oh][ow][c + gap], seconds a "
        "call).",
        py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert(), py::arg("bias").noconvert() = none,
        py::kw_only(), py::arg("stride") = ones, py::arg("dilation") = ones, py::arg("residual").noconvert() = none,
        py::arg("min") = -kInfinity, py::arg("max") = kInfinity, py::arg("gap") = 0, tasks, repeats);
  m.def("pool", run_pool,
        "Runs one row on x [n][h][w][c], codes or floats, kind max or avg, padding (top, left, bottom, right); "
        "`outputs` makes "
        "it adaptive. Returns (y, seconds a call).",
        py::arg("kernel"), py::arg("x"), py::arg("kind"), py::kw_only(), py::arg("outputs") = none,
        py::arg("window") = ones, py::arg("stride") = ones, py::arg("padding") = std::array<int64_t, 4>{},
        py::arg("dilation") = ones, py::arg("count_include_pad") = false, py::arg("x_zero_point") = 0,
        py::arg("multiplier") = 1.0f, py::arg("zero_point") = 0, py::arg("lo") = 0, py::arg("hi") = 255,
        py::arg("output") = "u8", py::arg("gap") = 0, tasks, repeats);
}

}  // namespace

void bind_eltwise(py::module_& m) {
  const py::none none;
  const auto tasks = py::arg("tasks") = 1;
  const auto repeats = py::arg("repeats") = 0;
  bind_images(m);
  m.def(
      "eltwise_kernels", [] { return describe(eltwise_kernels()); },
      "The rows of the elementwise kernels: name, isa, available.");
  m.def(
      "unary_kinds",
      [] {
        std::vector<std::string> names;
        for (int kind = 0; kind < kUnaryKinds; ++kind) names.emplace_back(name_of(static_cast<UnaryKind>(kind)));
        return names;
      },
      "The unary functions.");
  m.def("copy", run_copy, "y[...] = x, any strides; returns seconds a call.", py::arg("kernel"), py::arg("x"),
        py::arg("y"), py::kw_only(), tasks, repeats);
  m.def("quantize", run_quantize, "y[...] = codes of x, any strides; returns seconds a call.", py::arg("kernel"),
        py::arg("x"), py::arg("y"), py::kw_only(), py::arg("scale") = 1.0f, py::arg("zero_point") = 0,
        py::arg("scales").noconvert() = none, py::arg("zero_points").noconvert() = none, tasks, repeats);
  m.def("dequantize", run_dequantize, "y[...] = numbers of the codes x, any strides; returns seconds a call.",
        py::arg("kernel"), py::arg("x"), py::arg("y"), py::kw_only(), py::arg("scale") = 1.0f,
        py::arg("zero_point") = 0, py::arg("scales").noconvert() = none, py::arg("zero_points").noconvert() = none,
        tasks, repeats);
  m.def("dynamic_quantize", run_dynamic_quantize,
        "Rows of x [rows][row], times factors [row]: (codes, scales, zero points, seconds a call).", py::arg("kernel"),
        py::arg("x").noconvert(), py::kw_only(), py::arg("factors").noconvert() = none, tasks, repeats);
  m.def("lookup", run_lookup, "(table[x], seconds a call).", py::arg("kernel"), py::arg("x").noconvert(),
        py::arg("table").noconvert(), py::kw_only(), tasks, repeats);
  m.def("add_i8", run_add_i8, "(codes of a + b, seconds a call).", py::arg("kernel"), py::arg("a").noconvert(),
        py::arg("b").noconvert(), py::kw_only(), py::arg("zero_point_a") = 0, py::arg("multiplier_a") = 1.0f,
        py::arg("zero_point_b") = 0, py::arg("multiplier_b") = 1.0f, py::arg("zero_point") = 0, py::arg("lo") = 0,
        py::arg("hi") = 255, py::arg("table").noconvert() = none, tasks, repeats);
  m.def("binary", run_binary,
        "y[...] = a (add, sub, mul, div, minimum, maximum, prelu) b, all of one shape; returns seconds a call.",
        py::arg("kernel"), py::arg("kind"), py::arg("a"), py::arg("b"), py::arg("y"), py::kw_only(), tasks, repeats);
  m.def("unary", run_unary, "(f(x), seconds a call).", py::arg("kernel"), py::arg("kind"), py::arg("x").noconvert(),
        py::kw_only(), py::arg("alpha") = 1.0f, py::arg("min") = -kInfinity, py::arg("max") = kInfinity, tasks,
        repeats);
  m.def("rounding_errors", run_rounding_errors,
        "What rounding rows of x [rows][row] to codes loses, for each factor and bounds [trials][rows]; kernel: a row, "
        "or the best.",
        py::arg("x").noconvert(), py::arg("factor").noconvert(), py::arg("low").noconvert(),
        py::arg("high").noconvert(), py::kw_only(), py::arg("kernel") = "");
  m.def("softmax", run_softmax, "(softmax over the rows of x [rows][row], seconds a call).", py::arg("kernel"),
        py::arg("x").noconvert(), py::kw_only(), tasks, repeats);
}

}  // namespace lowbit
