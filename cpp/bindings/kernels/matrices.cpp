// Rows of the matrix families over any grid, strides and taps, so that one entry is a matrix product and a convolution.
// Every address that the kernel may touch is checked before it runs.
#include <array>

#include "bindings/kernels/call.h"
#include "kernels/gemm_f32/gemm_f32.h"
#include "kernels/gemm_i1/gemm_i1.h"
#include "kernels/gemm_i4/gemm_i4.h"
#include "kernels/gemm_i8/gemm_i8.h"
#include "kernels/gemm_s8/gemm_s8.h"
#include "kernels/spmm_i8/spmm_i8.h"
#include "kernels/winograd_i8/winograd_i8.h"

namespace lowbit {
namespace {

using Three = std::array<int64_t, 3>;

// What a product is, and where its operands lie; y and the residual are [rows][pitch].
struct Geometry {
  int64_t n = 0, tap_count = 1, run = 0;  // of the weights
  kernels::Grid grid;
  Three strides{};
  std::vector<int64_t> taps;
  int64_t pitch = 0;

  template <class T>
  kernels::Rows<T> rows(T* data) const {
    return rows_of(data, grid.h, grid.w, pitch);
  }
  std::vector<py::ssize_t> shape() const { return {grid.rows(), pitch}; }
};

Geometry geometry(Keywords& keywords, int64_t x_size, int64_t n, int64_t tap_count, int64_t run) {
  constexpr int64_t kMost = int64_t{1} << 31;
  Geometry g{n, tap_count, run, {}, {}, {}, 0};
  require(n > 0 && run > 0 && tap_count > 0, "sizes must be positive");
  const auto extents = keywords.get("grid", Three{1, 1, x_size / run});
  g.grid = {extents[0], extents[1], extents[2]};
  g.strides = keywords.get("strides", Three{0, 0, run});
  g.taps = keywords.get("taps", std::vector<int64_t>(tap_count, 0));
  g.pitch = keywords.get("pitch", n);
  require(std::ssize(g.taps) == tap_count, "one tap offset for each tap of the weights");
  require(g.pitch >= n, "the pitch must be at least n");
  int64_t last = 0;
  for (int i = 0; i < 3; ++i) {
    require(extents[i] >= 0 && extents[i] <= kMost && g.strides[i] >= 0 && g.strides[i] <= kMost,
            "extents and strides must be between 0 and 2^31");
    last += std::max<int64_t>(0, extents[i] - 1) * std::min(g.strides[i], x_size);
  }
  for (int64_t tap : g.taps) {
    require(tap >= 0 && tap <= x_size, "tap offsets must lie in x");
    require(g.grid.rows() == 0 || last + tap + run <= x_size, "a tap reaches beyond x");
  }
  return g;
}

// Of weights [n][taps][run], or [n][run] for a single tap.
Geometry geometry(Keywords& keywords, int64_t x_size, const py::array& w) {
  require(w.ndim() == 3 || w.ndim() == 2, "weights must be [n][taps][run] or [n][k]");
  return geometry(keywords, x_size, w.shape(0), w.ndim() == 3 ? w.shape(1) : 1, w.shape(w.ndim() - 1));
}

// Of 3x3 adjacent pixels, one pixel apart, as winograd_i8.h asks.
void require_windows(const Geometry& g) {
  require(g.tap_count == 3 && g.run % 3 == 0 && g.strides[2] == g.run / 3, "windows must be 3 adjacent pixels wide");
  require(g.taps[1] - g.taps[0] == g.strides[1] && g.taps[2] - g.taps[1] == g.strides[1],
          "windows must be 3 adjacent lines high");
}

template <class Args, class Weights, class X>
void set_operands(Args& args, const Geometry& g, const Weights& weights, const Buffer& x, const X*) {
  args.weights = &weights;
  args.grid = g.grid;
  args.x = {x.as<const X>(), g.strides[0], g.strides[1], g.strides[2]};
  args.taps = g.taps;
}

template <class Kernel, class Args>
py::array run(const Kernel& kernel, Keywords& keywords, const Geometry& g, Args& args, DType type) {
  const auto tasks = keywords.get<int64_t>("tasks", 1);
  keywords.finish();
  py::array y = output(type, g.shape());
  args.y = g.rows(decltype(args.y.data)(y.mutable_data()));
  run_tasks(tasks, [&](int64_t task) { kernel.run(args, task, tasks); });
  return y;
}

// One row of gemm_i8, spmm_i8 or winograd_i8, which have one contract. task_scratch: null, or what a task needs.
template <class Weights, class Args, auto table, auto task_scratch = nullptr>
py::array run_i8(const std::string& name, const Array<uint8_t>& x, const Array<int8_t>& w,
                 const Array<float>& multiplier, const Array<float>& bias, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const auto& kernel = find(table(), name);
  const Geometry g = geometry(keywords, x.size(), w);
  if constexpr (std::is_same_v<Weights, kernels::WinogradI8Weights>) require_windows(g);
  const Buffer codes = copy(x);
  Weights weights;
  if constexpr (requires { kernel.otherwise; }) {
    kernel.pack_here(w.data(), g.n, g.tap_count, g.run, weights);
  } else {
    kernel.pack(w.data(), g.n, g.tap_count, g.run, weights);
  }
  Args args;
  set_operands(args, g, weights, codes, x.data());
  const Quantized quantized(keywords, args, multiplier, bias, g.n, g.pitch);
  Buffer scratch;
  if constexpr (requires { args.scratch; }) {
    scratch = Buffer(keywords.get<int64_t>("tasks", 1) * task_scratch(weights));
    args.scratch = scratch.as();
  }
  return run(kernel, keywords, g, args, args.epilogue.output);
}

template <auto table>
py::array run_i4(const std::string& name, const Array<uint8_t>& x, const Array<uint8_t>& codes, const py::array& scales,
                 int64_t group_size, const Array<float>& multiplier, const Array<float>& bias,
                 const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const kernels::GemmI4Kernel& kernel = find(table(), name);
  require(codes.ndim() == 2 && scales.ndim() == 2, "codes and scales must be matrices");
  const int64_t n = codes.shape(0), run = keywords.get("run", x.shape(x.ndim() - 1));
  const auto taps = keywords.get("taps", std::vector<int64_t>(1, 0));
  const Geometry g = geometry(keywords, x.size(), n, std::ssize(taps), run);
  const int64_t k = run * g.tap_count;
  require(codes.shape(1) == (k * kernel.bits + 7) / 8, "codes must be [n][ceil(k * bits / 8)]");
  require(group_size > 0 && (group_size % 8 == 0 || group_size == k), "group_size must be a multiple of 8, or k");
  const bool wide = py::isinstance<Array<float>>(scales);
  require(wide || py::isinstance<Array<uint16_t>>(scales), "scales must be float32, or uint16 (half floats)");
  kernels::GemmI4Source source{
      kernel.bits, codes.data(), scales.data(), keywords.array<uint8_t>("zero_points", scales.size()), n, k,
      group_size,  run};
  source.wide = wide;
  source.offsets = wide ? static_cast<const void*>(keywords.array<float>("offsets", scales.size()))
                        : keywords.array<uint16_t>("offsets", scales.size());
  require(source.offsets != nullptr ? source.zero_points == nullptr : !wide, "offsets replace zero points");
  require(scales.shape(0) == n && scales.shape(1) == source.groups(), "scales must be [n][groups]");
  require(source.groups() <= kernels::GemmI4Args::kMaxGroups, "too many groups");
  const Buffer values = copy(x);
  kernels::GemmI4Weights weights;
  kernel.pack(source, weights);
  kernels::GemmI4Args args;
  set_operands(args, g, weights, values, x.data());
  const Quantized quantized(keywords, args, multiplier, bias, n, g.pitch);
  return lowbit::run(kernel, keywords, g, args, args.epilogue.output);
}

// x: s8 [rows][k], x_scales [rows][groups of x]; codes [n][ceil(k * bits / 8)]; no scales: those of channels are in the
// multiplier.
py::array run_s8(const std::string& name, const Array<int8_t>& x, const Array<float>& x_scales, int64_t x_group,
                 const Array<uint8_t>& codes, const Array<float>& multiplier, const Array<float>& bias,
                 const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const kernels::GemmS8Kernel& kernel = find(kernels::gemm_s8_kernels(), name);
  require(x.ndim() == 2 && codes.ndim() == 2 && x_scales.ndim() == 2, "x, x_scales and codes must be matrices");
  const int64_t rows = x.shape(0), k = x.shape(1), n = codes.shape(0);
  require(k > 0 && n > 0 && codes.shape(1) == (k * kernel.bits + 7) / 8, "codes must be [n][ceil(k * bits / 8)]");
  require(x_group > 0 && (x_group % 8 == 0 || x_group == k), "x_group must be a multiple of 8, or k");
  const int64_t x_groups = (k + x_group - 1) / x_group;
  require(x_scales.shape(0) == rows && x_scales.shape(1) == x_groups, "x_scales must be [rows][groups of x]");
  require(x_groups <= kernels::GemmI4Args::kMaxGroups, "too many groups");
  const auto group_size = keywords.get("group_size", k);
  require(group_size == k || (group_size > 0 && group_size % x_group == 0), "x_group must divide group_size");
  kernels::GemmI4Source source{kernel.bits, codes.data(), nullptr, nullptr, n, k, group_size, x_group};
  const int64_t count = n * source.groups();
  source.wide = keywords.get("wide", false);
  source.scales = source.wide ? static_cast<const void*>(keywords.array<float>("scales", count))
                              : keywords.array<uint16_t>("scales", count);
  source.zero_points = keywords.array<uint8_t>("zero_points", count);
  source.offsets = source.wide ? static_cast<const void*>(keywords.array<float>("offsets", count))
                               : keywords.array<uint16_t>("offsets", count);
  require(source.offsets != nullptr ? source.zero_points == nullptr : !source.wide, "offsets replace zero points");
  require(source.scales != nullptr || (source.offsets == nullptr && source.zero_points == nullptr && group_size == k),
          "zero points and offsets go with scales");
  const Buffer values = copy(x);
  kernels::GemmS8Weights weights;
  kernel.pack(source, weights);
  const Geometry g{n, 1, k, {1, 1, rows}, {0, 0, k}, {0}, n};
  kernels::GemmS8Args args;
  args.weights = &weights;
  args.grid = g.grid;
  args.x = {values.as<const uint8_t>(), 0, 0, k};
  args.x_scales = x_scales.data();
  const Quantized quantized(keywords, args, multiplier, bias, n, n);
  require(args.epilogue.output == DType::f32, "the output must be f32");
  return run(kernel, keywords, g, args, DType::f32);
}

// x: bytes, pairs of words; w: words [n][run] or [n][taps][run].
py::array run_i1(const std::string& name, const Array<uint8_t>& x, const Array<uint32_t>& w,
                 const Array<float>& multiplier, const Array<float>& bias, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const kernels::GemmI1Kernel& kernel = find(kernels::gemm_i1_kernels(), name);
  require(w.ndim() == 3 || w.ndim() == 2, "weights must be [n][taps][run] or [n][run]");
  const int64_t run = w.shape(w.ndim() - 1);
  const Geometry g =
      geometry(keywords, x.size(), w.shape(0), w.ndim() == 3 ? w.shape(1) : 1, run * kernels::kSignBytes);
  const Buffer words = copy(x);
  kernels::GemmI1Weights weights;
  kernel.pack(w.data(), g.n, g.tap_count, run, weights);
  kernels::GemmI1Args args;
  set_operands(args, g, weights, words, x.data());
  const Quantized quantized(keywords, args, multiplier, bias, g.n, g.pitch);
  return lowbit::run(kernel, keywords, g, args, args.epilogue.output);
}

// The words of a row of numbers.
py::array signs_of(const std::string& name, const Array<float>& x, int zero) {
  require(zero >= -1 && zero <= 1, "zero must be -1, 0 or 1");
  Array<uint8_t> words = output<uint8_t>({kernels::sign_words(x.size()) * kernels::kSignBytes});
  find(kernels::gemm_i1_kernels(), name).signs(x.data(), x.size(), zero, words.mutable_data());
  return words;
}

py::array run_f32(const std::string& name, const Array<float>& x, const Array<float>& w, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  const kernels::GemmF32Kernel& kernel = find(kernels::gemm_f32_kernels(), name);
  const Geometry g = geometry(keywords, x.size(), w);
  const Buffer values = copy(x);
  kernels::GemmF32Weights weights;
  kernel.pack(w.data(), g.n, g.tap_count, g.run, weights);
  kernels::GemmF32Args args;
  set_operands(args, g, weights, values, x.data());
  args.bias = keywords.array<float>("bias", g.n);
  if (const float* residual = keywords.array<float>("residual", g.grid.rows() * g.pitch))
    args.residual = g.rows(residual);
  read_bounds(keywords, args.min, args.max);
  return run(kernel, keywords, g, args, DType::f32);
}

template <auto select>
std::string selected(int64_t n, int64_t taps, int64_t run, int64_t rows, const std::string& isa) {
  return select(isa.empty() ? default_isa() : parse_isa(isa), n, taps, run, rows).name;
}

}  // namespace

void bind_matrices(py::module_& m) {
  const auto def_i8 = [&](const char* name, auto function) {
    m.def(name, function, py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert(),
          py::arg("multiplier").noconvert(), py::arg("bias").noconvert());
  };
  def_i8("gemm_i8", run_i8<kernels::GemmI8Weights, kernels::GemmI8Args, kernels::gemm_i8_kernels>);
  def_i8("spmm_i8",
         run_i8<kernels::SpmmI8Weights, kernels::SpmmI8Args, kernels::spmm_i8_kernels, kernels::spmm_i8_scratch>);
  def_i8("winograd_i8", run_i8<kernels::WinogradI8Weights, kernels::WinogradI8Args, kernels::winograd_i8_kernels,
                               kernels::winograd_i8_scratch>);
  const auto def_groups = [&](const char* name, auto function) {
    m.def(name, function, py::arg("kernel"), py::arg("x").noconvert(), py::arg("codes").noconvert(),
          py::arg("scales").noconvert(), py::arg("group_size"), py::arg("multiplier").noconvert(),
          py::arg("bias").noconvert());
  };
  def_groups("gemm_i4", run_i4<kernels::gemm_i4_kernels>);
  def_groups("gemm_i2", run_i4<kernels::gemm_i2_kernels>);
  m.def("gemm_s8", run_s8, py::arg("kernel"), py::arg("x").noconvert(), py::arg("x_scales").noconvert(),
        py::arg("x_group"), py::arg("codes").noconvert(), py::arg("multiplier").noconvert(),
        py::arg("bias").noconvert());
  def_i8("gemm_i1", run_i1);
  m.def("signs", signs_of, py::arg("kernel"), py::arg("x").noconvert(), py::arg("zero"));
  m.def("gemm_f32", run_f32, py::arg("kernel"), py::arg("x").noconvert(), py::arg("w").noconvert());
  const auto def_select = [&](const char* name, auto function) {
    m.def(name, function, py::arg("n"), py::arg("taps"), py::arg("run"), py::arg("rows") = 0, py::arg("isa") = "");
  };
  def_select("select_gemm_i8", selected<kernels::select_gemm_i8>);
  def_select("select_gemm_f32", selected<kernels::select_gemm_f32>);
}

}  // namespace lowbit
