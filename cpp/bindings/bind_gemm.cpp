// The rows of the two matrix families, one by one, for tests and benchmarks: a named row runs on NumPy arrays over any
// grid, strides and taps, so that the same entry is a matrix product and a convolution. Operands are copied into
// buffers once; every address the kernel may touch is checked before it runs.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/threads.h"
#include "bindings/bindings.h"
#include "bindings/rows.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_i4/gemm_i4.h"
#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/spmm_i8/spmm_i8.h"

namespace py = pybind11;

namespace lowbit {
namespace {

using kernels::Grid;
template <class T>
using Array = py::array_t<T, py::array::c_style>;
template <class T>
using Optional = std::optional<Array<T>>;
using Three = std::array<int64_t, 3>;

constexpr int kUntouched = 0xa5;  // fills the gaps between output rows, so that a test sees a stray write

template <class T>
Buffer copy(const Array<T>& array) {
  Buffer buffer(static_cast<size_t>(array.nbytes()));
  if (array.nbytes() > 0) std::memcpy(buffer.as(), array.data(), static_cast<size_t>(array.nbytes()));
  return buffer;
}

// With the slack that an epilogue's constants have.
Buffer padded(const Array<float>& values) {
  Buffer buffer(static_cast<size_t>(values.size() + kernels::Epilogue::kSlack) * sizeof(float));
  std::copy_n(values.data(), values.size(), buffer.as<float>());
  return buffer;
}

template <class T>
const T* pointer(const Optional<T>& array, int64_t size, const char* message) {
  if (!array) return nullptr;
  require(array->size() == size, message);
  return array->data();
}

void end_epilogue(kernels::Epilogue& e, float residual_multiplier, int32_t lo, int32_t hi,
                  const std::optional<kernels::CodeTable>& table, float min, float max,
                  const std::string& output_type) {
  require(output_type == "u8" || output_type == "f32", "output must be u8 or f32");
  require(0 <= lo && lo <= hi && hi <= 255, "need 0 <= lo <= hi <= 255");
  e.residual_multiplier = residual_multiplier;
  e.lo = lo, e.hi = hi;
  e.table = table ? &*table : nullptr;
  e.min = min, e.max = max;
  e.output = output_type == "u8" ? DType::u8 : DType::f32;
}

// The grid of a call and where its operands lie; y and the residual are [rows][pitch].
struct Geometry {
  Grid grid;
  Three strides;
  std::vector<int64_t> taps;
  int64_t n = 0, run = 0, pitch = 0;

  template <class T>
  kernels::Rows<T> rows(T* data) const {
    return {data, grid.h * grid.w * pitch, grid.w * pitch, pitch};
  }
};

// Of weights [n][tap_count][run].
Geometry geometry(int64_t x_size, int64_t n, int64_t tap_count, int64_t run, std::optional<Three> grid,
                  std::optional<Three> strides, std::optional<std::vector<int64_t>> taps, int64_t pitch) {
  Geometry g;
  g.n = n;
  g.run = run;
  g.taps = taps.value_or(std::vector<int64_t>(static_cast<size_t>(tap_count), 0));
  require(std::ssize(g.taps) == tap_count, "one tap offset for each tap of the weights");
  const Three extents = grid.value_or(Three{1, 1, g.run > 0 ? x_size / g.run : 0});
  g.grid = {extents[0], extents[1], extents[2]};
  g.strides = strides.value_or(Three{0, 0, g.run});
  g.pitch = pitch > 0 ? pitch : g.n;
  require(g.n > 0 && g.run > 0 && tap_count > 0 && g.pitch >= g.n, "sizes must be positive, and the pitch at least n");
  int64_t last = 0;
  for (size_t i = 0; i < 3; ++i) {
    require(
        extents[i] >= 0 && extents[i] <= (int64_t{1} << 31) && g.strides[i] >= 0 && g.strides[i] <= (int64_t{1} << 31),
        "extents and strides must be between 0 and 2^31");
    last += std::max<int64_t>(0, extents[i] - 1) * (g.strides[i] < x_size ? g.strides[i] : x_size);
  }
  for (int64_t tap : g.taps) {
    require(tap >= 0 && tap <= x_size, "tap offsets must lie in x");
    require(g.grid.rows() == 0 || last + tap + g.run <= x_size, "a tap reaches beyond x");
  }
  return g;
}

Geometry geometry(int64_t x_size, const py::array& w, std::optional<Three> grid, std::optional<Three> strides,
                  std::optional<std::vector<int64_t>> taps, int64_t pitch) {
  require(w.ndim() == 3 || w.ndim() == 2, "weights must be [n][taps][run] or [n][k]");
  return geometry(x_size, w.shape(0), w.ndim() == 3 ? w.shape(1) : 1, w.shape(w.ndim() - 1), grid, strides,
                  std::move(taps), pitch);
}

// Runs `tasks` tasks in this thread, or as many as the kernel wants on `threads` threads; then again `repeats` times
// under the clock, after `prepare`. Returns seconds a call.
template <class Kernel, class Args, class Prepare>
double execute(const Kernel& kernel, const Args& args, int64_t tasks, int threads, int64_t repeats, Prepare&& prepare) {
  const auto once = [&] {
    prepare();
    if (threads <= 1) {
      for (int64_t task = 0; task < tasks; ++task) kernel.run(args, task, tasks);
      return;
    }
    const int64_t count = kernel.tasks(args, threads);
    auto run_task = [&](int64_t task) { kernel.run(args, task, count); };
    parallel_for(count, threads, TaskRef(run_task));
  };
  py::gil_scoped_release release;
  once();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < repeats; ++i) once();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return repeats > 0 ? elapsed.count() / static_cast<double>(repeats) : 0.0;
}

template <class T>
Array<T> output(const Geometry& g) {
  Array<T> y(std::vector<py::ssize_t>{g.grid.rows(), g.pitch});
  if (y.nbytes() > 0) std::memset(y.mutable_data(), kUntouched, static_cast<size_t>(y.nbytes()));
  return y;
}

// The arguments that the integer families share, but for weights and y; multipliers and biases are padded.
template <class Args>
void set_operands(Args& args, const Geometry& g, const Buffer& x, const Buffer& multipliers, const Buffer& biases,
                  int32_t x_zero_point, const Optional<uint8_t>& x_zero_points, const Optional<float>& row_scale,
                  const Optional<uint8_t>& residual) {
  args.grid = g.grid;
  args.x = {x.as<const uint8_t>(), g.strides[0], g.strides[1], g.strides[2]};
  args.taps = g.taps;
  args.x_zero_point = x_zero_point;
  args.x_zero_points = pointer(x_zero_points, g.grid.n, "x_zero_points must be one a sample");
  kernels::Epilogue& e = args.epilogue;
  e.multiplier = multipliers.as<float>();
  e.bias = biases.as<float>();
  e.row_scale = pointer(row_scale, g.grid.n, "row_scale must be one a sample");
  const uint8_t* shortcut = pointer(residual, g.grid.rows() * g.pitch, "the residual must be [rows][pitch]");
  if (shortcut != nullptr) e.residual = g.rows(shortcut);
}

// One row of gemm_i8 or of spmm_i8, which have one contract.
struct DenseI8 {
  using Weights = kernels::GemmI8Weights;
  using Args = kernels::GemmI8Args;
  static constexpr auto& table = kernels::gemm_i8_kernels;
};
struct SparseI8 {
  using Weights = kernels::SpmmI8Weights;
  using Args = kernels::SpmmI8Args;
  static constexpr auto& table = kernels::spmm_i8_kernels;
};

template <class Family>
py::tuple run_i8(const std::string& name, const Array<uint8_t>& x, const Array<int8_t>& w,
                 const Array<float>& multiplier, const Array<float>& bias, std::optional<Three> grid,
                 std::optional<Three> strides, std::optional<std::vector<int64_t>> taps, int32_t x_zero_point,
                 const Optional<uint8_t>& x_zero_points, const Optional<float>& row_scale,
                 const Optional<uint8_t>& residual, float residual_multiplier, int32_t lo, int32_t hi,
                 const Optional<uint8_t>& table, float min, float max, const std::string& output_type, bool bounded,
                 int64_t pitch, int64_t tasks, int threads, int64_t repeats) {
  const auto& kernel = find(Family::table(), name);
  const Geometry g = geometry(x.size(), w, grid, strides, std::move(taps), pitch);
  require(multiplier.size() == g.n && bias.size() == g.n, "multiplier and bias must be [n]");
  require(tasks > 0 && repeats >= 0, "need tasks > 0, repeats >= 0");
  const Buffer codes = copy(x), multipliers = padded(multiplier), biases = padded(bias);

  typename Family::Weights weights;
  kernel.pack(kernel, w.data(), g.n, std::ssize(g.taps), g.run, weights);
  typename Family::Args args;
  args.weights = &weights;
  set_operands(args, g, codes, multipliers, biases, x_zero_point, x_zero_points, row_scale, residual);
  kernels::Epilogue& e = args.epilogue;
  const auto codes_of = code_table(table);
  end_epilogue(e, residual_multiplier, lo, hi, codes_of, min, max, output_type);
  e.bounded = bounded;
  py::array y = output_type == "u8" ? py::array(output<uint8_t>(g)) : py::array(output<float>(g));
  args.y = g.rows(y.mutable_data());
  Buffer scratch;
  if constexpr (std::is_same_v<Family, SparseI8>) {
    scratch = Buffer(static_cast<size_t>(std::max<int64_t>(tasks, threads)) * kernels::spmm_i8_scratch(weights));
    args.scratch = scratch.as();
  }
  const double seconds = execute(kernel, args, tasks, threads, repeats, [] {});
  return py::make_tuple(y, seconds);
}

py::tuple run_i4(const std::string& name, const Array<uint8_t>& x, const Array<uint8_t>& codes,
                 const Array<uint16_t>& scales, int64_t group_size, const Array<float>& multiplier,
                 const Array<float>& bias, const Optional<uint8_t>& zero_points, std::optional<int64_t> run,
                 std::optional<Three> grid, std::optional<Three> strides, std::optional<std::vector<int64_t>> taps,
                 int32_t x_zero_point, const Optional<uint8_t>& x_zero_points, const Optional<float>& row_scale,
                 const Optional<uint8_t>& residual, float residual_multiplier, int32_t lo, int32_t hi,
                 const Optional<uint8_t>& table, float min, float max, const std::string& output_type, int64_t pitch,
                 int64_t tasks, int threads, int64_t repeats, int64_t copies) {
  const kernels::GemmI4Kernel& kernel = find(kernels::gemm_i4_kernels(), name);
  require(codes.ndim() == 2 && scales.ndim() == 2, "codes and scales must be matrices");
  require(run.has_value() || x.ndim() == 2, "x must be [rows][k]");
  const int64_t each = run.value_or(x.ndim() == 2 ? x.shape(1) : 0), n = codes.shape(0);
  const int64_t rows = x.ndim() == 2 ? x.shape(0) : 0;
  const Geometry g = geometry(x.size(), n, taps.has_value() ? std::ssize(*taps) : 1, each,
                              grid.value_or(Three{rows, 1, 1}), strides.value_or(Three{each, 0, 0}), taps, pitch);
  const int64_t k = each * std::ssize(g.taps);
  require(codes.shape(1) == (k + 1) / 2, "codes must be [n][ceil(k / 2)]");
  require(group_size > 0 && (group_size % 8 == 0 || group_size == k), "group_size must be a multiple of 8, or k");
  const kernels::GemmI4Source source{codes.data(),
                                     scales.data(),
                                     pointer(zero_points, scales.size(), "zero_points must have the shape of scales"),
                                     n,
                                     k,
                                     group_size,
                                     each};
  require(scales.shape(0) == n && scales.shape(1) == source.groups(), "scales must be [n][groups]");
  require(source.groups() <= kernels::GemmI4Args::kMaxGroups, "too many groups");
  require(multiplier.size() == n && bias.size() == n, "multiplier and bias must be [n]");
  require(tasks > 0 && repeats >= 0 && copies > 0, "need tasks > 0, repeats >= 0, copies > 0");
  const Buffer values = copy(x), multipliers = padded(multiplier), biases = padded(bias);
  std::vector<kernels::GemmI4Weights> weights(static_cast<size_t>(copies));
  for (kernels::GemmI4Weights& w : weights) kernel.pack(kernel, source, w);
  kernels::GemmI4Args args;
  args.weights = weights.data();
  set_operands(args, g, values, multipliers, biases, x_zero_point, x_zero_points, row_scale, residual);
  const auto codes_of = code_table(table);
  end_epilogue(args.epilogue, residual_multiplier, lo, hi, codes_of, min, max, output_type);
  py::array y = output_type == "u8" ? py::array(output<uint8_t>(g)) : py::array(output<float>(g));
  args.y = g.rows(y.mutable_data());
  size_t turn = 0;
  const double seconds =
      execute(kernel, args, tasks, threads, repeats, [&] { args.weights = &weights[turn++ % weights.size()]; });
  return py::make_tuple(y, seconds);
}

py::tuple run_f32(const std::string& name, const Array<float>& x, const Array<float>& w, const Optional<float>& bias,
                  std::optional<Three> grid, std::optional<Three> strides, std::optional<std::vector<int64_t>> taps,
                  const Optional<float>& residual, float min, float max, int64_t pitch, int64_t tasks, int threads,
                  int64_t repeats) {
  const kernels::GemmF32Kernel& kernel = find(kernels::gemm_f32_kernels(), name);
  const Geometry g = geometry(x.size(), w, grid, strides, std::move(taps), pitch);
  require(tasks > 0 && repeats >= 0, "need tasks > 0, repeats >= 0");
  const Buffer values = copy(x);

  kernels::GemmF32Weights weights;
  kernel.pack(kernel, w.data(), g.n, std::ssize(g.taps), g.run, weights);
  kernels::GemmF32Args args;
  args.weights = &weights;
  args.grid = g.grid;
  args.x = {values.as<const float>(), g.strides[0], g.strides[1], g.strides[2]};
  args.taps = g.taps;
  args.bias = pointer(bias, g.n, "bias must be [n]");
  const float* shortcut = pointer(residual, g.grid.rows() * g.pitch, "the residual must be [rows][pitch]");
  if (shortcut != nullptr) args.residual = g.rows(shortcut);
  args.min = min;
  args.max = max;
  Array<float> y = output<float>(g);
  args.y = g.rows(y.mutable_data());
  const double seconds = execute(kernel, args, tasks, threads, repeats, [] {});
  return py::make_tuple(y, seconds);
}

}  // namespace

void bind_gemm(py::module_& m) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const py::none none;

  m.def(
      "gemm_i8_kernels", [] { return describe(kernels::gemm_i8_kernels()); },
      "The rows of the int8 matrix kernel: name, isa, mr, nr, available.");
  m.def(
      "spmm_i8_kernels", [] { return describe(kernels::spmm_i8_kernels()); },
      "The rows of the block-sparse int8 kernel: name, isa, available.");
  m.def(
      "gemm_i4_kernels", [] { return describe(kernels::gemm_i4_kernels()); },
      "The rows of the int4 matrix kernel: name, isa, mr, nr, available.");
  m.def(
      "gemm_f32_kernels", [] { return describe(kernels::gemm_f32_kernels()); },
      "The rows of the float32 matrix kernel: name, isa, mr, nr, available.");
  m.def(
      "select_gemm_i8",
      [](int64_t n, int64_t taps, int64_t run, int64_t rows, const std::string& isa) {
        return kernels::select_gemm_i8(isa.empty() ? default_isa() : parse_isa(isa), n, taps, run, rows).name;
      },
      "Name of the row chosen for a shape.", py::arg("n"), py::arg("taps"), py::arg("run"), py::arg("rows") = 0,
      py::arg("isa") = "");
  m.def(
      "select_gemm_f32",
      [](int64_t n, int64_t taps, int64_t run, int64_t rows, const std::string& isa) {
        return kernels::select_gemm_f32(isa.empty() ? default_isa() : parse_isa(isa), n, taps, run, rows).name;
      },
      "Name of the row chosen for a shape.", py::arg("n"), py::arg("taps"), py::arg("run"), py::arg("rows") = 0,
      py::arg("isa") = "");
  const auto def_i8 = [&](const char* name, auto function, const char* doc) {
    m.def(name, function, doc, py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert(),
          py::arg("multiplier").noconvert(), py::arg("bias").noconvert(), py::kw_only(), py::arg("grid") = none,
          py::arg("strides") = none, py::arg("taps") = none, py::arg("x_zero_point") = 0,
          py::arg("x_zero_points").noconvert() = none, py::arg("row_scale").noconvert() = none,
          py::arg("residual").noconvert() = none, py::arg("residual_multiplier") = 0.0f, py::arg("lo") = 0,
          py::arg("hi") = 255, py::arg("table").noconvert() = none, py::arg("min") = -kInfinity,
          py::arg("max") = kInfinity, py::arg("output") = "u8", py::arg("bounded") = false, py::arg("pitch") = 0,
          py::arg("tasks") = 1, py::arg("threads") = 1, py::arg("repeats") = 0);
  };
  def_i8("gemm_i8", run_i8<DenseI8>,
         "Runs one row of the int8 kernel; returns ([rows][pitch], seconds a call). Defaults: a matrix product x "
         "[rows][k], w [n][k].");
  def_i8("spmm_i8", run_i8<SparseI8>, "The same with one row of the kernel for weights of many zeros.");
  m.def(
      "gemm_i4", run_i4,
      "Runs one row of the int4 kernel: codes [n][ceil(k / 2)], scales as half floats' bits [n][groups]; k = taps * "
      "run. "
      "Defaults: a matrix product x [rows][k]. copies: of the weights, used in turn. Returns ([rows][pitch], seconds a "
      "call).",
      py::arg("kernel"), py::arg("x").noconvert(), py::arg("codes").noconvert(), py::arg("scales").noconvert(),
      py::arg("group_size"), py::arg("multiplier").noconvert(), py::arg("bias").noconvert(), py::kw_only(),
      py::arg("zero_points").noconvert() = none, py::arg("run") = none, py::arg("grid") = none,
      py::arg("strides") = none, py::arg("taps") = none, py::arg("x_zero_point") = 0,
      py::arg("x_zero_points").noconvert() = none, py::arg("row_scale").noconvert() = none,
      py::arg("residual").noconvert() = none, py::arg("residual_multiplier") = 0.0f, py::arg("lo") = 0,
      py::arg("hi") = 255, py::arg("table").noconvert() = none, py::arg("min") = -kInfinity, py::arg("max") = kInfinity,
      py::arg("output") = "u8", py::arg("pitch") = 0, py::arg("tasks") = 1, py::arg("threads") = 1,
      py::arg("repeats") = 0, py::arg("copies") = 1);
  m.def("gemm_f32", run_f32,
        "Runs one row of the float32 kernel; returns ([rows][pitch], seconds a call). Defaults: a matrix product x "
        "[rows][k], "
        "w [n][k].",
        py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert(), py::arg("bias").noconvert() = none,
        py::kw_only(), py::arg("grid") = none, py::arg("strides") = none, py::arg("taps") = none,
        py::arg("residual").noconvert() = none, py::arg("min") = -kInfinity, py::arg("max") = kInfinity,
        py::arg("pitch") = 0, py::arg("tasks") = 1, py::arg("threads") = 1, py::arg("repeats") = 0);
}

}  // namespace lowbit
