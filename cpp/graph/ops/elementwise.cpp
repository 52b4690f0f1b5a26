// Operators on each element alone: float functions, tables and sums of codes, casts.
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "graph/ops/integer.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

class Unary final : public ElementwiseOp {
 public:
  Unary(const NodeInfo& node, const kernels::UnaryArgs& args) : ElementwiseOp(node), args_(args) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    return {inputs[0]};
  }
  int in_place() const override { return 0; }
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    kernels::UnaryArgs unary = args_;
    unary.x = x.as<const float>();
    unary.y = y.as<float>();
    split(args, [&](int64_t task, int64_t tasks) {
      kernels::unary(kernel_, unary, y.shape, x.strides, y.strides, task, tasks);
    });
  }

 private:
  kernels::UnaryArgs args_;
};

kernels::UnaryArgs clip(Bounds bounds) {
  kernels::UnaryArgs args;
  args.min = bounds.min;
  args.max = bounds.max;
  return args;
}

kernels::UnaryArgs unary_args(const NodeInfo& node) {
  const std::string& kind = node.text("kind");
  const bool has_alpha = node.has("alpha"), has_bounds = node.has("min") || node.has("max");
  if (kind == "relu6") return clip({0, 6});
  if (kind == "hardtanh") {
    return clip({static_cast<float>(node.number("min", -1)), static_cast<float>(node.number("max", 1))});
  }
  kernels::UnaryArgs args;
  if (!kernels::parse_unary(kind, args.kind))
    node.fail("attribute 'kind' names no function: '" + kind.substr(0, 100) + "'");
  if (args.kind == kernels::UnaryKind::clip) node.fail("clip is an operator of its own");
  if (has_bounds) node.fail("attributes 'min' and 'max' are hardtanh's");
  args.alpha = args.kind == kernels::UnaryKind::leaky_relu ? 0.01f : 1.0f;
  if (has_alpha) args.alpha = static_cast<float>(node.number("alpha"));
  return args;
}

// One table for all codes, or one for each channel (axis 1).
class Lookup final : public ElementwiseOp {
 public:
  explicit Lookup(const NodeInfo& node) : ElementwiseOp(node) {
    node.expect_inputs(2, 2);
    node.expect_outputs(1);
    const Constant& table = node.constant(1, DType::u8, -1);
    const Shape& shape = table.type.shape;
    if ((shape.rank() != 1 && shape.rank() != 2) || shape[shape.rank() - 1] != 256 || shape[0] == 0)
      node.fail("a table must have shape [256] or [channels, 256], has " + to_string(shape));
    channels_ = shape.rank() == 2 ? shape[0] : 0;
    table_ = table.buffer;
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::u8);
    const Shape& x = inputs[0].shape;
    require(channels_ == 0 || (x.rank() >= 2 && x[1] == channels_),
            "there are " + std::to_string(channels_) + " tables for the channels of " + to_string(x));
    return {inputs[0]};
  }
  bool reads(size_t input) const override { return input == 0; }
  int in_place() const override { return 0; }
  std::string kernel() const override { return channels_ == 0 ? ElementwiseOp::kernel() : "scalar"; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const auto *from = x.as<const uint8_t>(), *table = table_->as<const uint8_t>();
    auto* to = y.as<uint8_t>();
    const int64_t elements = x.shape.elements();
    if (channels_ == 0) {
      return split(
          args, [&](int64_t task, int64_t tasks) { kernels::lookup(kernel_, from, table, to, elements, task, tasks); });
    }
    if (has_layouts(x.shape) && x.strides[1] == 1) {
      const int64_t channels = channels_, pixels = elements / channels;
      return split(args, [=](int64_t task, int64_t tasks) {
        const int64_t end = pixels * (task + 1) / tasks * channels;
        for (int64_t i = pixels * task / tasks * channels; i < end; i += channels)
          for (int64_t c = 0; c < channels; ++c) to[i + c] = table[c * 256 + from[i + c]];
      });
    }
    const int64_t planes = x.shape[0] * channels_, size = elements / planes;
    split(args, [&](int64_t task, int64_t tasks) {
      for (int64_t i = planes * task / tasks; i < planes * (task + 1) / tasks; ++i)
        kernels::lookup(kernel_, from + i * size, table + i % channels_ * 256, to + i * size, size);
    });
  }

 private:
  std::shared_ptr<const Buffer> table_;
  int64_t channels_;  // 0: one table
};

// quantized_add and quantized_mul.
class PairI8 final : public ElementwiseOp {
 public:
  explicit PairI8(const NodeInfo& node) : ElementwiseOp(node), table_(table_of(node, 2)) {
    node.expect_inputs(2, 3);
    node.expect_outputs(1);
    const CodeRange range(node);
    args_.product = node.op == "quantized_mul";
    args_.zero_point_a = static_cast<int32_t>(node.integer("zero_point_a", 0, 255));
    args_.zero_point_b = static_cast<int32_t>(node.integer("zero_point_b", 0, 255));
    args_.multiplier_a = small_number(node, args_.product ? "multiplier" : "multiplier_a", 1e33);
    if (!args_.product) args_.multiplier_b = small_number(node, "multiplier_b", 1e33);
    args_.zero_point = range.zero_point;
    args_.lo = range.lo;
    args_.hi = range.hi;
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::u8);
    require_type(inputs, 1, DType::u8);
    return {{DType::u8, broadcast_shape(inputs[0].shape, inputs[1].shape)}};
  }
  bool reads(size_t input) const override { return input < 2; }
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  int in_place() const override { return 0; }
  void run(const RunArgs& args) const override {
    const Tensor &a = args.inputs[0], &b = args.inputs[1], &y = args.outputs[0];
    kernels::PairI8Args pair = args_;
    pair.shape = y.shape;
    pair.a = {a.as<const uint8_t>(), broadcast_strides(a, y.shape)};
    pair.b = {b.as<const uint8_t>(), broadcast_strides(b, y.shape)};
    pair.y = {y.as<uint8_t>(), y.strides};
    if (table_ != nullptr) pair.table = table_->as<const uint8_t>();
    split(args, [&](int64_t task, int64_t tasks) { kernels::pair_i8(kernel_, pair, task, tasks); });
  }

 private:
  std::shared_ptr<const Buffer> table_;
  kernels::PairI8Args args_;
};

struct Half {
  uint16_t bits;
};

// A bool as it lies in memory: a caller's byte may be neither 0 nor 1.
struct Bool {
  uint8_t byte;
};

template <class To, class From>
To converted(From value) {
  if constexpr (std::is_same_v<From, Half>) {
    return converted<To>(float_from_half(value.bits));
  } else if constexpr (std::is_same_v<From, Bool>) {
    return converted<To>(static_cast<int32_t>(value.byte != 0));
  } else if constexpr (std::is_same_v<To, Half>) {
    return {half_from_float(static_cast<float>(value))};
  } else if constexpr (std::is_same_v<To, Bool>) {
    return {static_cast<uint8_t>(value != From{})};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    // Towards zero, saturating, NaN to 0: defined where a plain cast is not.
    constexpr auto low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    if (value != value) return 0;
    if (value <= static_cast<From>(low)) return low;
    return value >= static_cast<From>(high) ? high : static_cast<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

template <class From, class To>
void cast_range(const void* x, void* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) static_cast<To*>(y)[i] = converted<To>(static_cast<const From*>(x)[i]);
}

using CastFunction = void (*)(const void*, void*, int64_t, int64_t);

template <class From>
CastFunction cast_from(DType to) {
  switch (to) {
    case DType::f32:
      return cast_range<From, float>;
    case DType::f16:
      return cast_range<From, Half>;
    case DType::i64:
      return cast_range<From, int64_t>;
    case DType::i32:
      return cast_range<From, int32_t>;
    case DType::boolean:
      return cast_range<From, Bool>;
    case DType::u8:
      return cast_range<From, uint8_t>;
    case DType::s8:
      return cast_range<From, int8_t>;
    case DType::bf16:
      break;
  }
  return nullptr;
}

CastFunction find_cast(DType from, DType to) {
  switch (from) {
    case DType::f32:
      return cast_from<float>(to);
    case DType::f16:
      return cast_from<Half>(to);
    case DType::i64:
      return cast_from<int64_t>(to);
    case DType::i32:
      return cast_from<int32_t>(to);
    case DType::boolean:
      return cast_from<Bool>(to);
    case DType::u8:
      return cast_from<uint8_t>(to);
    case DType::s8:
      return cast_from<int8_t>(to);
    case DType::bf16:
      break;
  }
  return nullptr;
}

class Cast final : public ElementwiseOp {
 public:
  explicit Cast(const NodeInfo& node) : ElementwiseOp(node) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    const std::string& name = node.text("dtype");
    for (DType type : {DType::f32, DType::f16, DType::i64, DType::i32, DType::boolean, DType::u8, DType::s8})
      if (name_of(type) == name) type_ = type;
    if (name_of(type_) != name) node.fail("cannot cast to '" + name.substr(0, 100) + "'");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require(inputs[0].dtype != DType::bf16, "cannot cast from bf16");
    return {{type_, inputs[0].shape}};
  }
  std::string kernel() const override { return "scalar"; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const CastFunction cast = find_cast(x.dtype, type_);
    const int64_t count = x.shape.elements();
    split(args,
          [&](int64_t task, int64_t tasks) { cast(x.data, y.data, count * task / tasks, count * (task + 1) / tasks); });
  }

 private:
  DType type_ = DType::f32;
};

std::unique_ptr<Op> make_unary(const NodeInfo& node) { return std::make_unique<Unary>(node, unary_args(node)); }
std::unique_ptr<Op> make_clip(const NodeInfo& node) {
  return std::make_unique<Unary>(node, clip(bounds_of(node, "min", "max")));
}

}  // namespace

const OpRows kElementwiseOps = {
    {"quantized_add", make<PairI8>}, {"cast", make<Cast>},  {"clip", make_clip}, {"lookup", make<Lookup>},
    {"quantized_mul", make<PairI8>}, {"unary", make_unary},
};

}  // namespace lowbit::graph
