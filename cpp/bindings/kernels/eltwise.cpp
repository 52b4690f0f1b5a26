// Rows of the elementwise families. Views take any strides; where y is given, results go there.
#include "kernels/eltwise/eltwise.h"

#include <algorithm>
#include <array>

#include "bindings/kernels/call.h"

namespace lowbit {
namespace {

using namespace kernels;

const EltwiseKernel& row(const std::string& name) { return find(eltwise_kernels(), name); }

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
View<const T> view(const py::array& array) {
  require(py::isinstance<py::array_t<T>>(array), "an input has the wrong element type");
  return {static_cast<const T*>(array.data()), strides_of(array)};
}

template <class T>
View<T> mutable_view(py::array& array) {
  require(py::isinstance<py::array_t<T>>(array), "the output has the wrong element type");
  return {static_cast<T*>(array.mutable_data()), strides_of(array)};
}

void run_copy(const std::string& name, const py::array& x, py::array& y, int64_t tasks) {
  const int64_t bytes = x.itemsize();
  require(shape_of(x) == shape_of(y) && bytes == y.itemsize(), "x and y must agree in shape and element size");
  require(bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8, "elements must have 1, 2, 4 or 8 bytes");
  const CopyArgs args = {
      shape_of(x), static_cast<int>(bytes), {x.data(), strides_of(x)}, {y.mutable_data(), strides_of(y)}};
  run_tasks(tasks, [&](int64_t task) { copy(row(name), args, task, tasks); });
}

// quantize and dequantize, by one scale and zero point or by `scales` and `zero_points`, one for each index of axis 0.
template <class Args, class X, class Y, auto function>
void run_scaled(const std::string& name, const py::array& x, py::array& y, const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  Args args = {shape_of(x), view<X>(x), mutable_view<Y>(y), keywords.get("scale", 1.0f)};
  require(args.shape == shape_of(y), "x and y must agree in shape");
  keywords.read("zero_point", args.zero_point);
  const int64_t count = args.shape.rank() > 0 ? args.shape[0] : 0;
  args.scales = keywords.array<float>("scales", count);
  args.zero_points = keywords.array<uint8_t>("zero_points", count);
  require((args.scales == nullptr) == (args.zero_points == nullptr), "give both scales and zero_points, or neither");
  const auto tasks = keywords.get<int64_t>("tasks", 1);
  keywords.finish();
  run_tasks(tasks, [&](int64_t task) { function(row(name), args, task, tasks); });
}

py::tuple run_dynamic_quantize(const std::string& name, const Array<float>& x,
                               const std::optional<Array<float>>& factors, int64_t tasks) {
  const EltwiseKernel& kernel = row(name);
  require(x.ndim() == 2, "x must be [rows][row]");
  const int64_t rows = x.shape(0), row = x.shape(1);
  Array<uint8_t> y({rows, row});
  Array<float> scales(rows), range_scales(rows);
  Array<uint8_t> zero_points(rows), range_zero_points(rows);
  DynamicQuantizeArgs args = {
      rows, row, x.data(), row, y.mutable_data(), row, scales.mutable_data(), zero_points.mutable_data(), nullptr, {}};
  if (factors) {
    require(factors->size() == row, "there must be one factor for each value of a row");
    args.factors = factors->data();
  }
  run_tasks(tasks, [&](int64_t task) { dynamic_quantize(kernel, args, task, tasks); });
  if (!factors) {
    const DynamicRangeArgs range = {
        rows, row, x.data(), row, range_scales.mutable_data(), range_zero_points.mutable_data()};
    run_tasks(tasks, [&](int64_t task) { dynamic_range(kernel, range, task, tasks); });
    require(std::memcmp(scales.data(), range_scales.data(), scales.nbytes()) == 0 &&
                std::memcmp(zero_points.data(), range_zero_points.data(), zero_points.nbytes()) == 0,
            "dynamic_range and dynamic_quantize disagree");
  }
  return py::make_tuple(y, scales, zero_points);
}

py::tuple run_quantize_groups(const std::string& name, const Array<float>& x, int64_t group,
                              const std::optional<Array<float>>& factors, int64_t tasks) {
  require(x.ndim() == 2 && group > 0, "x must be [rows][row], groups of one value or more");
  GroupQuantizeArgs args = {x.shape(0), x.shape(1), group, x.data()};
  Array<int8_t> y = output<int8_t>({args.rows, args.row});
  Array<float> scales({args.rows, args.groups()});
  args.y = y.mutable_data(), args.scales = scales.mutable_data();
  if (factors) {
    require(factors->size() == args.row, "there must be one factor for each value of a row");
    args.factors = factors->data();
  }
  run_tasks(tasks, [&](int64_t task) { quantize_groups(row(name), args, task, tasks); });
  return py::make_tuple(y, scales);
}

Array<uint8_t> run_lookup(const std::string& name, const Array<uint8_t>& x, const Array<uint8_t>& table,
                          int64_t tasks) {
  require(table.size() == 256, "the table must have 256 entries");
  Array<uint8_t> y(x.size());
  run_tasks(tasks,
            [&](int64_t task) { lookup(row(name), x.data(), table.data(), y.mutable_data(), x.size(), task, tasks); });
  return y;
}

Array<uint8_t> run_add_i8(const std::string& name, const Array<uint8_t>& a, const Array<uint8_t>& b,
                          const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  require(a.size() == b.size(), "a and b must agree in size");
  Array<uint8_t> y(a.size());
  PairI8Args args;
  args.shape = {a.size()};
  args.a = {a.data(), {1}}, args.b = {b.data(), {1}}, args.y = {y.mutable_data(), {1}};
  keywords.read("zero_point_a", args.zero_point_a), keywords.read("multiplier_a", args.multiplier_a);
  keywords.read("zero_point_b", args.zero_point_b), keywords.read("multiplier_b", args.multiplier_b);
  keywords.read("zero_point", args.zero_point);
  read_codes(keywords, args.lo, args.hi);
  args.table = keywords.array<uint8_t>("table", 256);
  const auto tasks = keywords.get<int64_t>("tasks", 1);
  keywords.finish();
  run_tasks(tasks, [&](int64_t task) { pair_i8(row(name), args, task, tasks); });
  return y;
}

void run_binary(const std::string& name, const std::string& kind, const py::array& a, const py::array& b, py::array& y,
                int64_t tasks) {
  constexpr std::array<const char*, 7> kKinds = {"add", "sub", "mul", "div", "minimum", "maximum", "prelu"};
  const auto found = std::find(kKinds.begin(), kKinds.end(), kind);
  require(found != kKinds.end(), "kind must be add, sub, mul, div, minimum, maximum or prelu");
  const BinaryArgs args = {static_cast<BinaryKind>(found - kKinds.begin()), shape_of(y), view<float>(a), view<float>(b),
                           mutable_view<float>(y)};
  require(shape_of(a) == args.shape && shape_of(b) == args.shape,
          "broadcast a and b to the shape of y first (strides of 0)");
  run_tasks(tasks, [&](int64_t task) { binary(row(name), args, task, tasks); });
}

Array<float> run_unary(const std::string& name, const std::string& kind, const Array<float>& x,
                       const py::kwargs& kwargs) {
  Keywords keywords(kwargs);
  Array<float> y(x.size());
  UnaryArgs args;
  require(parse_unary(kind, args.kind), "no unary function has this name");
  args.count = x.size();
  args.x = x.data();
  args.y = y.mutable_data();
  args.alpha = keywords.get("alpha", 1.0f);
  read_bounds(keywords, args.min, args.max);
  const auto tasks = keywords.get<int64_t>("tasks", 1);
  keywords.finish();
  run_tasks(tasks, [&](int64_t task) { unary(row(name), args, task, tasks); });
  return y;
}

std::vector<std::string> unary_kinds() {
  std::vector<std::string> names;
  for (int kind = 0; kind < kUnaryKinds; ++kind) names.emplace_back(name_of(static_cast<UnaryKind>(kind)));
  return names;
}

Array<float> run_softmax(const std::string& name, const Array<float>& x, int64_t tasks) {
  require(x.ndim() == 2, "x must be [rows][row]");
  Array<float> y({x.shape(0), x.shape(1)});
  const SoftmaxArgs args = {x.shape(0), x.shape(1), x.data(), x.shape(1), y.mutable_data(), x.shape(1)};
  run_tasks(tasks, [&](int64_t task) { softmax(row(name), args, task, tasks); });
  return y;
}

}  // namespace

void bind_eltwise(py::module_& m) {
  const auto tasks = py::arg("tasks") = 1;
  const auto kernel = py::arg("kernel"), kind = py::arg("kind"), a = py::arg("a"), b = py::arg("b");
  const auto x = py::arg("x"), y = py::arg("y"), same_x = py::arg("x").noconvert();
  m.def("copy", run_copy, kernel, x, y, py::kw_only(), tasks);
  m.def("quantize", run_scaled<QuantizeArgs, float, uint8_t, quantize>, kernel, x, y);
  m.def("dequantize", run_scaled<DequantizeArgs, uint8_t, float, dequantize>, kernel, x, y);
  m.def("quantize_groups", run_quantize_groups, kernel, same_x, py::arg("group"), py::kw_only(),
        py::arg("factors").noconvert() = py::none(), py::arg("tasks") = 1);
  m.def("dynamic_quantize", run_dynamic_quantize, kernel, same_x, py::kw_only(),
        py::arg("factors").noconvert() = py::none(), tasks);
  m.def("lookup", run_lookup, kernel, same_x, py::arg("table").noconvert(), py::kw_only(), tasks);
  m.def("add_i8", run_add_i8, kernel, py::arg("a").noconvert(), py::arg("b").noconvert());
  m.def("binary", run_binary, kernel, kind, a, b, y, py::kw_only(), tasks);
  m.def("unary", run_unary, kernel, kind, same_x);
  m.def("unary_kinds", unary_kinds);
  m.def("softmax", run_softmax, kernel, same_x, py::kw_only(), tasks);
}

}  // namespace lowbit
