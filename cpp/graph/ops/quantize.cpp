// Between numbers and codes: quantize, dequantize, dynamic_quantize, quantize_groups.
#include "graph/ops/integer.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

struct Affine {
  float scale;
  int32_t zero_point;

  explicit Affine(const NodeInfo& node)
      : scale(static_cast<float>(node.number("scale"))),
        zero_point(static_cast<int32_t>(node.integer("zero_point", 0, 255))) {
    if (!(scale >= std::numeric_limits<float>::min()))
      node.fail("attribute 'scale' must be a positive normal float32 number");
  }
};

class Quantize final : public ElementwiseOp {
 public:
  explicit Quantize(const NodeInfo& node) : ElementwiseOp(node), affine_(node) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    return {{DType::u8, inputs[0].shape}};
  }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    kernels::QuantizeArgs quantize;
    quantize.shape = x.shape;
    quantize.x = {x.as<const float>(), x.strides};
    quantize.y = {y.as<uint8_t>(), y.strides};
    quantize.scale = affine_.scale;
    quantize.zero_point = affine_.zero_point;
    split(args, [&](int64_t task, int64_t tasks) { kernels::quantize(kernel_, quantize, task, tasks); });
  }

 private:
  Affine affine_;
};

class Dequantize final : public ElementwiseOp {
 public:
  explicit Dequantize(const NodeInfo& node) : ElementwiseOp(node), affine_(node) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::u8);
    return {{DType::f32, inputs[0].shape}};
  }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    kernels::DequantizeArgs dequantize;
    dequantize.shape = x.shape;
    dequantize.x = {x.as<const uint8_t>(), x.strides};
    dequantize.y = {y.as<float>(), y.strides};
    dequantize.scale = affine_.scale;
    dequantize.zero_point = affine_.zero_point;
    split(args, [&](int64_t task, int64_t tasks) { kernels::dequantize(kernel_, dequantize, task, tasks); });
  }

 private:
  Affine affine_;
};

// A scale and zero point for each row (last axis) or sample (axis 0); wide values of a row may have several codes. Many
// rows are shared out between threads; the range of few long ones is found in parts, unless they are multiplied by
// factors first.
class DynamicQuantize final : public ElementwiseOp {
 public:
  explicit DynamicQuantize(const NodeInfo& node) : ElementwiseOp(node) {
    node.expect_inputs(1, 3);
    node.expect_outputs(3);
    const std::string& granularity = node.text("granularity");
    if (granularity != "row" && granularity != "sample") node.fail("attribute 'granularity' must be row or sample");
    by_row_ = granularity == "row";
    if (node.has(2) && !node.has(1)) node.fail("copies need factors");
    if (!node.has(1)) return;
    if (!by_row_) node.fail("factors need granularity row");
    const Constant& factors = node.constant(1, DType::f32, 1);
    factors_ = factors.buffer;
    factor_count_ = factors.type.shape[0];
    if (node.has(2)) prepare_copies(node, node.constant(2, DType::i64, 1).values<int64_t>());
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    const Shape& x = inputs[0].shape;
    require(x.rank() >= 1, "the input must have at least one axis");
    require(factor_count_ < 0 || factor_count_ == x[x.rank() - 1], "there must be one factor for each value of a row");
    const int64_t count = rows(x);
    Shape codes = x;
    codes[x.rank() - 1] += copies_.count;
    return {{DType::u8, codes}, {DType::f32, {count}}, {DType::u8, {count}}};
  }
  Layout input_layout(size_t) const override { return by_row_ ? Layout::contiguous : Layout::same; }
  Layout output_layout(size_t output) const override {
    return output == 0 && !by_row_ ? Layout::same : Layout::contiguous;
  }
  bool reads(size_t input) const override { return input == 0; }
  size_t scratch_bytes(Types inputs, Types, int threads) const override {
    if (factor_count_ >= 0) return 0;
    return std::min<int64_t>(rows(inputs[0].shape), threads) * 2 * threads * sizeof(float);
  }
  void run(const RunArgs& args) const override {
    const Tensor& x = args.inputs[0];
    kernels::DynamicQuantizeArgs quantize;
    quantize.rows = rows(x.shape);
    quantize.row = quantize.rows == 0 ? 0 : x.shape.elements() / quantize.rows;
    quantize.x = x.as<const float>();
    quantize.y = args.outputs[0].as<uint8_t>();
    quantize.x_stride = quantize.row;
    quantize.y_stride = quantize.row + copies_.count;
    quantize.copies = copies_;
    quantize.scales = args.outputs[1].as<float>();
    quantize.zero_points = args.outputs[2].as<uint8_t>();
    const int64_t tasks = tasks_for(x.shape, args.threads);
    if (factor_count_ >= 0) {
      quantize.factors = factors_->as<const float>();
    } else if (std::min<int64_t>(tasks, args.threads) > quantize.rows) {
      return in_parts(args, quantize, tasks);
    }
    run_tasks(tasks, args.threads, [&](int64_t task) { kernels::dynamic_quantize(kernel_, quantize, task, tasks); });
  }

 private:
  int64_t rows(const Shape& shape) const {
    if (!by_row_) return shape[0];
    int64_t rows = 1;
    for (int axis = 0; axis + 1 < shape.rank(); ++axis) rows *= shape[axis];
    return rows;
  }

  int64_t tasks_for(const Shape& x, int threads) const {
    const int64_t tasks = kernels::eltwise_tasks(5 * x.elements(), threads);
    return factor_count_ >= 0 ? std::min(tasks, std::max<int64_t>(rows(x), 1)) : tasks;
  }

  void prepare_copies(const NodeInfo& node, std::span<const int64_t> sources) {
    const auto* factors = factors_->as<const float>();
    const auto count = static_cast<int64_t>(sources.size());
    if (count > factor_count_) node.fail("there are more copies than values of a row");
    tables_ = Buffer(static_cast<size_t>(2 * count + 2 * factor_count_) * sizeof(float));
    auto* places = tables_.as<int32_t>();
    auto *before = tables_.as<float>() + count, *times = before + count, *range_factors = times + factor_count_;
    std::fill_n(times, factor_count_, 1.0f);
    for (int64_t i = 0; i < count; ++i) {
      if (sources[i] < 0 || sources[i] >= factor_count_) node.fail("a copy is of no value of a row");
      places[i] = static_cast<int32_t>(sources[i]);
      before[i] = times[sources[i]]++;
    }
    for (int64_t k = 0; k < factor_count_; ++k) range_factors[k] = factors[k] / times[k];
    copies_ = {count, places, before, range_factors};
  }

  void in_parts(const RunArgs& args, const kernels::DynamicQuantizeArgs& all, int64_t tasks) const {
    const int64_t parts = std::min<int64_t>(tasks, args.threads);
    float* ranges = reinterpret_cast<float*>(args.scratch);  // [rows][parts][2]
    run_tasks(parts, args.threads, [&](int64_t part) {
      const int64_t begin = all.row * part / parts, end = all.row * (part + 1) / parts;
      for (int64_t row = 0; row < all.rows; ++row) {
        float* range = ranges + (row * parts + part) * 2;
        range[0] = range[1] = 0;
        kernels::range_of(kernel_, all.x + row * all.x_stride + begin, end - begin, &range[0], &range[1]);
      }
    });
    for (int64_t row = 0; row < all.rows; ++row) {
      float lo = 0, hi = 0;
      kernels::range_of(kernel_, ranges + row * parts * 2, parts * 2, &lo, &hi);
      kernels::range_to_scale(lo, hi, &all.scales[row], &all.zero_points[row]);
    }
    kernels::QuantizeArgs quantize;
    quantize.shape = {all.rows, all.row};
    quantize.x = {all.x, {all.x_stride, 1}};
    quantize.y = {all.y, {all.y_stride, 1}};
    quantize.scales = all.scales;
    quantize.zero_points = all.zero_points;
    run_tasks(tasks, args.threads, [&](int64_t task) { kernels::quantize(kernel_, quantize, task, tasks); });
  }

  bool by_row_ = true;
  int64_t factor_count_ = -1;  // none
  std::shared_ptr<const Buffer> factors_;
  kernels::CodeCopies copies_;
  Buffer tables_;  // that copies_ points to
};

// A scale for each group of adjacent values of a row.
class QuantizeGroups final : public ElementwiseOp {
 public:
  explicit QuantizeGroups(const NodeInfo& node)
      : ElementwiseOp(node), group_(node.integer("group_size", 1, std::numeric_limits<int32_t>::max())) {
    node.expect_inputs(1, 2);
    node.expect_outputs(2);
    if (!node.has(1)) return;
    const Constant& factors = node.constant(1, DType::f32, 1);
    factors_ = factors.buffer, count_ = factors.type.shape[0];
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    const Shape& x = inputs[0].shape;
    require(x.rank() >= 1, "the input must have at least one axis");
    const int64_t row = x[x.rank() - 1];
    require(count_ < 0 || count_ == row, "there must be one factor for each value of a row");
    int64_t rows = 1;
    for (int axis = 0; axis + 1 < x.rank(); ++axis) rows *= x[axis];
    return {{DType::s8, x}, {DType::f32, {rows, (row + group_ - 1) / group_}}};
  }
  Layout input_layout(size_t) const override { return Layout::contiguous; }
  Layout output_layout(size_t) const override { return Layout::contiguous; }
  bool reads(size_t input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    const Tensor& x = args.inputs[0];
    kernels::GroupQuantizeArgs quantize;
    quantize.rows = args.outputs[1].shape[0];
    quantize.row = x.shape[x.shape.rank() - 1];
    quantize.group = group_;
    quantize.x = x.as<const float>();
    quantize.y = args.outputs[0].as<int8_t>();
    quantize.scales = args.outputs[1].as<float>();
    if (factors_ != nullptr) quantize.factors = factors_->as<const float>();
    const int64_t tasks = kernels::eltwise_tasks(5 * x.shape.elements(), args.threads);
    run_tasks(tasks, args.threads, [&](int64_t task) { kernels::quantize_groups(kernel_, quantize, task, tasks); });
  }

 private:
  const int64_t group_;
  int64_t count_ = -1;  // of factors: none
  std::shared_ptr<const Buffer> factors_;
};

}  // namespace

const OpRows kQuantizeOps = {
    {"dequantize", make<Dequantize>},
    {"dynamic_quantize", make<DynamicQuantize>},
    {"quantize", make<Quantize>},
    {"quantize_groups", make<QuantizeGroups>},
};

}  // namespace lowbit::graph
