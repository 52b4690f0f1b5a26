// Operators that only move elements: reshape (a view), transpose, expand, pad, concat, slice, triangle.
#include <cstring>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

class Reshape final : public Op {
 public:
  explicit Reshape(const NodeInfo& node) : shape_(node.dims("shape")) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    if (shape_.size() > kMaxRank) node.fail("the shape has more than 8 axes");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    TensorType type{inputs[0].dtype, {}};
    for (const Dim& dim : shape_) type.shape.push_back(evaluate(dim, symbols));
    require(checked_elements(type) >= 0 && type.shape.elements() == inputs[0].shape.elements(),
            to_string(inputs[0].shape) + " does not reshape to " + to_string(type.shape));
    return {type};
  }
  bool is_view() const override { return true; }
  void run(const RunArgs&) const override {}

 private:
  std::vector<Dim> shape_;
};

// An operator that copies stretches of its inputs, whatever their type.
class MoveOp : public ElementwiseOp {
 public:
  using ElementwiseOp::ElementwiseOp;
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations = 0;
    return work;
  }

 protected:
  // The bytes of the element at `index` along `axis`.
  static std::byte* at(const Tensor& x, int axis, int64_t index) {
    return x.as<std::byte>() + index * x.strides[axis] * size_of(x.dtype);
  }
  void copy(const RunArgs& args, const Shape& shape, const Tensor& like, const void* x, const Shape& x_strides, void* y,
            const Shape& y_strides) const {
    copy_view(kernel_, shape, size_of(like.dtype), x, x_strides, y, y_strides, args.threads);
  }
};

class Transpose final : public MoveOp {
 public:
  explicit Transpose(const NodeInfo& node) : MoveOp(node), perm_(node.integers("perm", 0, 0, kMaxRank - 1)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    std::vector<int64_t> sorted = perm_;
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < sorted.size(); ++i)
      if (sorted[i] != static_cast<int64_t>(i)) node.fail("attribute 'perm' is no permutation");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const Shape& x = inputs[0].shape;
    require(x.rank() == std::ssize(perm_),
            "perm has " + std::to_string(perm_.size()) + " axes, the input " + std::to_string(x.rank()));
    TensorType type{inputs[0].dtype, {}};
    for (int64_t axis : perm_) type.shape.push_back(x[axis]);
    return {type};
  }
  Layout input_layout(size_t) const override { return Layout::any; }
  Layout output_layout(size_t) const override { return Layout::contiguous; }
  std::span<const int64_t> order() const override { return perm_; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    Shape strides;
    for (int64_t axis : perm_) strides.push_back(x.strides[axis]);
    copy(args, y.shape, y, x.data, strides, y.data, y.strides);
  }

 private:
  std::vector<int64_t> perm_;
};

std::vector<TensorType> type_of(DType dtype, const std::vector<Dim>& dims, std::span<const int64_t> symbols) {
  TensorType type{dtype, {}};
  for (const Dim& dim : dims) type.shape.push_back(evaluate(dim, symbols));
  require(checked_elements(type) >= 0, "the output " + to_string(type) + " is negative or too large");
  return {type};
}

class Expand final : public MoveOp {
 public:
  explicit Expand(const NodeInfo& node) : MoveOp(node), shape_(node.dims("shape")) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    if (shape_.size() > kMaxRank) node.fail("the shape has more than 8 axes");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    std::vector<TensorType> types = type_of(inputs[0].dtype, shape_, symbols);
    require(broadcast_shape(inputs[0].shape, types[0].shape) == types[0].shape,
            to_string(inputs[0].shape) + " does not expand to " + to_string(types[0].shape));
    return types;
  }
  Layout input_layout(size_t) const override { return Layout::any; }
  Layout output_layout(size_t) const override { return Layout::contiguous; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    copy(args, y.shape, y, x.data, broadcast_strides(x, y.shape), y.data, y.strides);
  }

 private:
  std::vector<Dim> shape_;
};

// The input is copied to its place; then the borders are filled: by one value, or axis by axis from the output itself.
class Pad final : public MoveOp {
 public:
  explicit Pad(const NodeInfo& node)
      : MoveOp(node), padding_(node.dims("padding")), value_(node.number("value", 0)), mode_(mode_of(node)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    if (padding_.size() > 2 * kMaxRank) node.fail("attribute 'padding' is too long");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    TensorType type = inputs[0];
    require(type.dtype != DType::f16 && type.dtype != DType::bf16, "cannot pad " + std::string(name_of(type.dtype)));
    require(std::ssize(padding_) == 2 * type.shape.rank(), "padding has " + std::to_string(padding_.size()) +
                                                               " items, rank " + std::to_string(type.shape.rank()) +
                                                               " needs " + std::to_string(2 * type.shape.rank()));
    require(type.dtype == DType::f32 || fits(type.dtype), "the value is none of the input's type");
    for (int axis = 0; axis < type.shape.rank(); ++axis) {
      int64_t& size = type.shape[axis];
      const int64_t begin = side(axis, 0, symbols), end = side(axis, 1, symbols), most = widest(size);
      require(std::min(begin, end) >= 0, "the padding is negative");
      require(
          mode_ == Mode::constant || std::max(begin, end) == 0 || std::max(begin, end) <= most,
          "this mode cannot add " + std::to_string(std::max(begin, end)) + " to " + std::to_string(size) + " elements");
      require(begin <= kMaxBytes && end <= kMaxBytes, "the output is too large");
      size += begin + end;
    }
    return {type};
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    if (mode_ == Mode::constant) fill(args, y);
    Shape begin;
    int64_t offset = 0;
    for (int axis = 0; axis < y.shape.rank(); ++axis) {
      begin.push_back(side(axis, 0, args.symbols));
      offset += begin[axis] * y.strides[axis];
    }
    std::byte* inside = y.as<std::byte>() + offset * size_of(y.dtype);
    copy(args, x.shape, x, x.data, x.strides, inside, y.strides);
    if (mode_ == Mode::constant) return;
    // Axes before this one are complete, those behind it hold only the input yet.
    Shape slab = x.shape;
    for (int axis = 0; axis < y.shape.rank(); ++axis) {
      slab[axis] = 1;
      const auto at_index = [&](int64_t index) { return inside + bytes_to(y, axis, index - begin[axis]); };
      for (int64_t i = 0; i < y.shape[axis]; ++i) {
        const int64_t from = source(i - begin[axis], x.shape[axis]) + begin[axis];
        if (i != from) copy(args, slab, y, at_index(from), y.strides, at_index(i), y.strides);
      }
      slab[axis] = y.shape[axis];
      inside -= bytes_to(y, axis, begin[axis]);
    }
  }

 private:
  enum class Mode { constant, reflect, replicate, circular };

  static Mode mode_of(const NodeInfo& node) {
    const std::string name = node.text("mode", "constant");
    if (name == "reflect") return Mode::reflect;
    if (name == "replicate") return Mode::replicate;
    if (name == "circular") return Mode::circular;
    if (name != "constant") node.fail("attribute 'mode' must be constant, reflect, replicate or circular");
    return Mode::constant;
  }
  static int64_t bytes_to(const Tensor& y, int axis, int64_t count) {
    return count * y.strides[axis] * size_of(y.dtype);
  }
  int64_t side(int axis, int end, std::span<const int64_t> symbols) const {
    return evaluate(padding_[2 * axis + end], symbols);
  }
  // The most that a mode other than constant can add on one side.
  int64_t widest(int64_t size) const {
    return mode_ == Mode::reflect ? size - 1 : mode_ == Mode::circular ? size : size > 0 ? kMaxBytes : 0;
  }
  // Which of `size` elements stands at position i, which may lie before or behind them.
  int64_t source(int64_t i, int64_t size) const {
    if (i >= 0 && i < size) return i;
    if (mode_ == Mode::replicate) return i < 0 ? 0 : size - 1;
    if (mode_ == Mode::circular) return i < 0 ? i + size : i - size;
    return i < 0 ? -i : 2 * (size - 1) - i;
  }

  bool fits(DType type) const {
    const double low = type == DType::u8 || type == DType::boolean ? 0 : type == DType::s8 ? -128 : -2147483648.0;
    const double high = type == DType::boolean ? 1 : type == DType::u8 ? 255 : type == DType::s8 ? 127 : 2147483647.0;
    return value_ >= low && value_ <= high && value_ == static_cast<double>(static_cast<int64_t>(value_));
  }
  void fill(const RunArgs& args, const Tensor& y) const {
    int64_t bits = y.dtype == DType::f32 ? 0 : static_cast<int64_t>(value_);  // little-endian: any width is a prefix
    const auto number = static_cast<float>(value_);
    if (y.dtype == DType::f32) std::memcpy(&bits, &number, sizeof number);
    Shape still = y.strides;
    for (int axis = 0; axis < y.shape.rank(); ++axis) still[axis] = 0;
    copy(args, y.shape, y, &bits, still, y.data, y.strides);
  }

  std::vector<Dim> padding_;
  double value_;
  Mode mode_;
};

class Concat final : public MoveOp {
 public:
  explicit Concat(const NodeInfo& node) : MoveOp(node), axis_(node.integer("axis", -kMaxRank, kMaxRank - 1)) {
    if (node.present.empty()) node.fail("takes at least one input");
    node.expect_inputs(node.present.size(), node.present.size());
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    TensorType type = inputs[0];
    const int axis = normalized_axis(axis_, type.shape.rank());
    for (size_t i = 1; i < inputs.size(); ++i) {
      require_type(inputs, i, type.dtype, type.shape.rank());
      for (int other = 0; other < type.shape.rank(); ++other) {
        require(other == axis || inputs[i].shape[other] == type.shape[other],
                "input " + std::to_string(i) + " " + to_string(inputs[i].shape) + " does not fit input 0 " +
                    to_string(inputs[0].shape));
      }
      type.shape[axis] += inputs[i].shape[axis];
      require(type.shape[axis] <= kMaxBytes, "the output is too large");
    }
    return {type};
  }
  std::optional<int> join_axis(const Shape& output) const override { return normalized_axis(axis_, output.rank()); }
  void run(const RunArgs& args) const override {
    const Tensor& y = args.outputs[0];
    const int axis = normalized_axis(axis_, y.shape.rank());
    int64_t offset = 0;
    for (const Tensor& x : args.inputs) {
      copy(args, x.shape, x, x.data, x.strides, at(y, axis, offset), y.strides);
      offset += x.shape[axis];
    }
  }

 private:
  int64_t axis_;
};

class Slice final : public MoveOp {
 public:
  explicit Slice(const NodeInfo& node)
      : MoveOp(node),
        axis_(node.integer("axis", -kMaxRank, kMaxRank - 1)),
        start_(node.dim("start")),
        stop_(node.dim("stop")),
        step_(node.integer("step", 1, kMaxSize, 1)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    TensorType type = inputs[0];
    int64_t& size = type.shape[normalized_axis(axis_, type.shape.rank())];
    const int64_t start = evaluate(start_, symbols), stop = evaluate(stop_, symbols);
    require(start >= 0 && stop >= 0,
            "start " + std::to_string(start) + " or stop " + std::to_string(stop) + " is negative");
    const int64_t end = std::min(stop, size), begin = std::min(start, size);
    size = end <= begin ? 0 : (end - begin + step_ - 1) / step_;
    return {type};
  }
  std::optional<Part> part(const Shape& input, std::span<const int64_t> symbols) const override {
    return Part{normalized_axis(axis_, input.rank()), evaluate(start_, symbols), step_};
  }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const int axis = normalized_axis(axis_, x.shape.rank());
    Shape strides = x.strides;
    if (y.shape[axis] > 1) strides[axis] *= step_;
    copy(args, y.shape, y, at(x, axis, evaluate(start_, args.symbols)), strides, y.data, y.strides);
  }

 private:
  int64_t axis_;
  Dim start_, stop_;
  int64_t step_;
};

// Keeps what lies on or below the diagonal (`upper`: on or above) of the last two axes; the rest becomes zero.
class Triangle final : public MoveOp {
 public:
  explicit Triangle(const NodeInfo& node)
      : MoveOp(node), diagonal_(node.dim("diagonal")), upper_(node.integer("upper", 0, 1, 0) == 1) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require(inputs[0].shape.rank() >= 2, "the input must have at least two axes, is " + to_string(inputs[0]));
    return {inputs[0]};
  }
  Layout input_layout(size_t) const override { return Layout::contiguous; }
  Layout output_layout(size_t) const override { return Layout::contiguous; }
  bool reads_parts(size_t) const override { return false; }
  bool writes_parts(size_t) const override { return false; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const int rank = y.shape.rank();
    const int64_t rows = y.shape[rank - 2], cols = y.shape[rank - 1], element = size_of(y.dtype);
    const int64_t diagonal = std::clamp(evaluate(diagonal_, args.symbols), -rows - 1, cols + 1);
    run_shares(y.shape.elements() / cols, 2 * bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t split = std::clamp<int64_t>(row % rows + diagonal + (upper_ ? 0 : 1), 0, cols);
        const auto* from = x.as<const std::byte>() + row * cols * element;
        auto* to = y.as<std::byte>() + row * cols * element;
        const int64_t left = split * element, right = (cols - split) * element;
        if (upper_) {
          std::memset(to, 0, left);
          std::memcpy(to + left, from + left, right);
        } else {
          std::memcpy(to, from, left);
          std::memset(to + left, 0, right);
        }
      }
    });
  }

 private:
  Dim diagonal_;
  bool upper_;
};

}  // namespace

const OpRows kShapeOps = {
    {"concat", make<Concat>}, {"expand", make<Expand>},       {"pad", make<Pad>},           {"reshape", make<Reshape>},
    {"slice", make<Slice>},   {"transpose", make<Transpose>}, {"triangle", make<Triangle>},
};

}  // namespace lowbit::graph
