// Operators between elements, with broadcasting: arithmetic, comparison, logic, choice.
#include <algorithm>
#include <array>

#include "graph/merging.h"
#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/eltwise/typed.h"

namespace lowbit::graph {
namespace {

using kernels::BinaryKind;
using kernels::TypedKind;

template <class Kind>
struct Named {
  std::string_view name;
  Kind kind;
};

constexpr Named<BinaryKind> kFloat[] = {{"add", BinaryKind::add},         {"sub", BinaryKind::sub},
                                        {"mul", BinaryKind::mul},         {"div", BinaryKind::div},
                                        {"minimum", BinaryKind::minimum}, {"maximum", BinaryKind::maximum},
                                        {"prelu", BinaryKind::prelu}};
constexpr Named<TypedKind> kArithmetic[] = {{"add", TypedKind::add},
                                            {"sub", TypedKind::sub},
                                            {"mul", TypedKind::mul},
                                            {"minimum", TypedKind::minimum},
                                            {"maximum", TypedKind::maximum},
                                            {"pow", TypedKind::pow},
                                            {"floor_div", TypedKind::floor_div},
                                            {"trunc_div", TypedKind::trunc_div},
                                            {"remainder", TypedKind::remainder},
                                            {"fmod", TypedKind::fmod}};
constexpr Named<TypedKind> kComparisons[] = {{"eq", TypedKind::eq}, {"ne", TypedKind::ne}, {"lt", TypedKind::lt},
                                             {"le", TypedKind::le}, {"gt", TypedKind::gt}, {"ge", TypedKind::ge}};
constexpr Named<TypedKind> kLogic[] = {
    {"and", TypedKind::bit_and}, {"or", TypedKind::bit_or}, {"xor", TypedKind::bit_xor}};

template <class Kind, size_t N>
const Kind* find(const Named<Kind> (&table)[N], std::string_view name) {
  const auto* row =
      std::find_if(std::begin(table), std::end(table), [&](const auto& item) { return item.name == name; });
  return row == std::end(table) ? nullptr : &row->kind;
}

bool divides(TypedKind kind) {
  return kind == TypedKind::floor_div || kind == TypedKind::trunc_div || kind == TypedKind::remainder ||
         kind == TypedKind::fmod;
}

template <class T>
bool has_zero(const Tensor& x) {
  const T* values = x.as<const T>();
  return std::find(values, values + x.shape.elements(), T{0}) != values + x.shape.elements();
}

// Output 0 has the two inputs' type, or is bool.
class TwoOperands : public ElementwiseOp {
 public:
  explicit TwoOperands(const NodeInfo& node) : ElementwiseOp(node) {
    node.expect_inputs(2, 2);
    node.expect_outputs(1);
  }

 protected:
  static Shape shape_of(Types inputs) {
    require(inputs[0].dtype == inputs[1].dtype, "input 0 is " + std::string(name_of(inputs[0].dtype)) + ", input 1 " +
                                                    std::string(name_of(inputs[1].dtype)));
    return broadcast_shape(inputs[0].shape, inputs[1].shape);
  }
  static kernels::TypedLine line_for(TypedKind kind, DType dtype) {
    const kernels::TypedLine line = kernels::find_typed(kind, dtype);
    require(line != nullptr, "it is not defined for " + std::string(name_of(dtype)));
    return line;
  }
  void run_typed(const RunArgs& args, TypedKind kind) const {
    const Tensor &a = args.inputs[0], &b = args.inputs[1], &y = args.outputs[0];
    const kernels::TypedArgs typed{kernels::find_typed(kind, a.dtype),
                                   a.dtype,
                                   y.dtype,
                                   y.shape,
                                   {a.data, broadcast_strides(a, y.shape)},
                                   {b.data, broadcast_strides(b, y.shape)},
                                   {y.data, y.strides}};
    split(args, [&](int64_t task, int64_t tasks) { kernels::typed(typed, task, tasks); });
  }
};

class Arithmetic final : public TwoOperands {
 public:
  explicit Arithmetic(const NodeInfo& node)
      : TwoOperands(node), float_(find(kFloat, node.op)), typed_(find(kArithmetic, node.op)) {}
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const DType dtype = inputs[0].dtype;
    if (dtype != DType::f32 || float_ == nullptr) {
      require(typed_ != nullptr, "it is not defined for " + std::string(name_of(dtype)));
      line_for(*typed_, dtype);
    }
    return {{dtype, shape_of(inputs)}};
  }
  int in_place() const override { return 0; }
  bool reads_parts(size_t) const override { return typed_ == nullptr || !divides(*typed_); }
  bool writes_parts(size_t) const override { return true; }
  std::string kernel() const override { return float_ != nullptr ? kernel_.name : "scalar"; }
  void run(const RunArgs& args) const override {
    const Tensor &a = args.inputs[0], &b = args.inputs[1], &y = args.outputs[0];
    if (y.dtype != DType::f32 || float_ == nullptr) {
      const bool whole = y.dtype != DType::f32 && divides(*typed_);
      if (whole && (b.dtype == DType::i64 ? has_zero<int64_t>(b) : has_zero<int32_t>(b)))
        throw Error(ErrorKind::input, "an integer is divided by zero");
      return run_typed(args, *typed_);
    }
    const kernels::BinaryArgs binary{*float_,
                                     y.shape,
                                     {a.as<const float>(), broadcast_strides(a, y.shape)},
                                     {b.as<const float>(), broadcast_strides(b, y.shape)},
                                     {y.as<float>(), y.strides}};
    split(args, [&](int64_t task, int64_t tasks) { kernels::binary(kernel_, binary, task, tasks); });
  }

 private:
  const BinaryKind* float_;  // null: not one of the float kernels
  const TypedKind* typed_;   // null: not for integers
};

// f(a) * b, of operands of one shape whose innermost elements are adjacent: what merge_products makes of a gate.
class Gate final : public ElementwiseOp {
 public:
  explicit Gate(const NodeInfo& node) : ElementwiseOp(node) {
    node.expect_inputs(2, 2);
    node.expect_outputs(1);
    if (!kernels::parse_unary(node.text(kGate), unary_.kind)) node.fail("its gate names no function");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    require_type(inputs, 1, DType::f32);
    require_shape(inputs, 1, inputs[0].shape);
    return {inputs[0]};
  }
  bool reads_parts(size_t) const override { return true; }
  Layout input_layout(size_t) const override { return Layout::contiguous; }
  Layout output_layout(size_t) const override { return Layout::contiguous; }
  void run(const RunArgs& args) const override {
    const Tensor &a = args.inputs[0], &b = args.inputs[1], &y = args.outputs[0];
    const int last = y.shape.rank() - 1;
    const int64_t row = y.shape[last], pieces = (row + kPiece - 1) / kPiece, count = y.shape.elements() / row * pieces;
    const auto run_piece = [&](int64_t piece) {
      const int64_t first = piece % pieces * kPiece, n = std::min(kPiece, row - first);
      kernels::UnaryArgs unary = unary_;
      unary.count = n;
      unary.x = a.as<const float>() + offset_of(a, piece / pieces) + first;
      unary.y = y.as<float>() + piece / pieces * row + first;
      kernel_.unary(unary);
      kernel_.binary(BinaryKind::mul, unary.y, 1, b.as<const float>() + offset_of(b, piece / pieces) + first, 1,
                     unary.y, n);
    };
    split(args, [&](int64_t task, int64_t tasks) {
      for (int64_t piece = count * task / tasks; piece < count * (task + 1) / tasks; ++piece) run_piece(piece);
    });
  }

 private:
  static constexpr int64_t kPiece = 2048;  // elements that stay in the first cache from one loop to the next

  // Of a row, counted over all axes but the last.
  static int64_t offset_of(const Tensor& x, int64_t row) {
    int64_t offset = 0;
    for (int axis = x.shape.rank() - 1; axis-- > 0; row /= x.shape[axis])
      offset += row % x.shape[axis] * x.strides[axis];
    return offset;
  }

  kernels::UnaryArgs unary_;
};

std::unique_ptr<Op> make_mul(const NodeInfo& node) {
  if (node.has(kGate)) return std::make_unique<Gate>(node);
  return std::make_unique<Arithmetic>(node);
}

class Compare final : public TwoOperands {
 public:
  explicit Compare(const NodeInfo& node) : TwoOperands(node) {
    const TypedKind* kind = find(kComparisons, node.text("kind"));
    if (kind == nullptr) node.fail("attribute 'kind' names no comparison: '" + node.text("kind").substr(0, 100) + "'");
    kind_ = *kind;
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    line_for(kind_, inputs[0].dtype);
    return {{DType::boolean, shape_of(inputs)}};
  }
  std::string kernel() const override { return "scalar"; }
  void run(const RunArgs& args) const override { run_typed(args, kind_); }

 private:
  TypedKind kind_;
};

class Logical final : public TwoOperands {
 public:
  explicit Logical(const NodeInfo& node) : TwoOperands(node) {
    const TypedKind* kind = find(kLogic, node.text("kind"));
    if (kind == nullptr) node.fail("attribute 'kind' must be and, or or xor");
    kind_ = *kind;
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    line_for(kind_, inputs[0].dtype);
    return {{inputs[0].dtype, shape_of(inputs)}};
  }
  int in_place() const override { return 0; }
  std::string kernel() const override { return "scalar"; }
  void run(const RunArgs& args) const override { run_typed(args, kind_); }

 private:
  TypedKind kind_;
};

class LogicalNot final : public ElementwiseOp {
 public:
  explicit LogicalNot(const NodeInfo& node) : ElementwiseOp(node) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::boolean);
    return {inputs[0]};
  }
  int in_place() const override { return 0; }
  std::string kernel() const override { return "scalar"; }
  void run(const RunArgs& args) const override {
    const auto* x = args.inputs[0].as<const uint8_t>();
    auto* y = args.outputs[0].as<uint8_t>();
    for (int64_t i = 0, count = args.outputs[0].shape.elements(); i < count; ++i) y[i] = x[i] == 0;
  }
};

class Where final : public ElementwiseOp {
 public:
  explicit Where(const NodeInfo& node) : ElementwiseOp(node) {
    node.expect_inputs(3, 3);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::boolean);
    require(inputs[1].dtype == inputs[2].dtype,
            "inputs 1 and 2 differ in type: " + std::string(name_of(inputs[1].dtype)) + " and " +
                std::string(name_of(inputs[2].dtype)));
    return {{inputs[1].dtype, broadcast_shape(inputs[0].shape, broadcast_shape(inputs[1].shape, inputs[2].shape))}};
  }
  int in_place() const override { return 2; }
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  void run(const RunArgs& args) const override {
    const Tensor &c = args.inputs[0], &a = args.inputs[1], &b = args.inputs[2], &y = args.outputs[0];
    const kernels::WhereArgs where{y.shape,
                                   static_cast<int>(size_of(y.dtype)),
                                   {c.as<const uint8_t>(), broadcast_strides(c, y.shape)},
                                   {a.data, broadcast_strides(a, y.shape)},
                                   {b.data, broadcast_strides(b, y.shape)},
                                   {y.data, y.strides}};
    split(args, [&](int64_t task, int64_t tasks) { kernels::where(kernel_, where, task, tasks); });
  }
};

}  // namespace

const OpRows kArithmeticOps = {
    {"add", make<Arithmetic>},         {"compare", make<Compare>},
    {"div", make<Arithmetic>},         {"floor_div", make<Arithmetic>},
    {"fmod", make<Arithmetic>},        {"logical", make<Logical>},
    {"logical_not", make<LogicalNot>}, {"maximum", make<Arithmetic>},
    {"minimum", make<Arithmetic>},     {"mul", make_mul},
    {"pow", make<Arithmetic>},         {"prelu", make<Arithmetic>},
    {"remainder", make<Arithmetic>},   {"sub", make<Arithmetic>},
    {"trunc_div", make<Arithmetic>},   {"where", make<Where>},
};

}  // namespace lowbit::graph
