// Pools over NHWC images: max and average, float and codes, sliding and adaptive; with the place of each maximum.
#include "kernels/pool/pool.h"

#include <algorithm>
#include <limits>

#include "graph/ops/integer.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

constexpr int64_t kMaxWindow = int64_t{1} << 23;  // elements: the kernels' sums stay exact

enum class Kind { max, max_index, average };

struct Window {
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1};
  int64_t padding[4] = {0, 0, 0, 0};  // top, bottom, left, right

  int64_t reach(int axis) const { return dilation[axis] * (kernel[axis] - 1) + 1; }
  int64_t padded(int axis, int64_t size) const { return size + padding[2 * axis] + padding[2 * axis + 1]; }
};

// The output's type and how sums of codes become it.
struct Rescale {
  int32_t x_zero_point = 0;
  float multiplier = 1;
  CodeRange range;
  DType output = DType::u8;

  explicit Rescale(const NodeInfo& node)
      : x_zero_point(static_cast<int32_t>(node.integer("zero_point_x", 0, 255))),
        multiplier(small_number(node, "multiplier", 1e27)),
        range(node) {
    const std::string& name = node.text("output");
    if (name != "u8" && name != "f32") node.fail("attribute 'output' must be u8 or f32");
    output = name == "u8" ? DType::u8 : DType::f32;
  }
};

class Pool : public Op {
 public:
  Layout input_layout(size_t) const override { return Layout::channels_last; }
  Layout output_layout(size_t) const override { return Layout::channels_last; }
  bool reads_parts(size_t) const override { return true; }
  bool writes_parts(size_t) const override { return true; }
  std::string kernel() const override { return kernel_.name; }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations = kernels::pool_work(sizes(inputs[0].shape, outputs[0].shape));
    return work;
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    const TensorType& x = inputs[0];
    require_type(inputs, 0, codes_ || (any_type_ && x.dtype == DType::u8) ? DType::u8 : DType::f32, 4);
    Shape shape = x.shape;
    for (int axis : {0, 1}) shape[2 + axis] = outputs(axis, x.shape[2 + axis], symbols);
    require(largest_window(0, x.shape[2], shape[2]) * largest_window(1, x.shape[3], shape[3]) < kMaxWindow,
            "a window has too many elements");
    std::vector<TensorType> types = {{codes_ ? rescale_->output : x.dtype, shape}};
    if (kind_ == Kind::max_index) types.push_back({DType::i64, shape});
    return types;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    kernels::PoolArgs pool = sizes(x.shape, y.shape);
    pool.x = pixels_of<const void>(x);
    pool.y = pixels_of<void>(y);
    if (kind_ == Kind::max_index) pool.index = pixels_of<int64_t>(args.outputs[1]);
    pool.count_include_pad = count_include_pad_;
    if (rescale_ != nullptr) {
      pool.x_zero_point = rescale_->x_zero_point;
      pool.multiplier = rescale_->multiplier;
      pool.zero_point = rescale_->range.zero_point;
      pool.lo = rescale_->range.lo;
      pool.hi = rescale_->range.hi;
      pool.output = rescale_->output;
    }
    const bool u8 = x.dtype == DType::u8;
    const auto run = kind_ == Kind::max_index ? kernel_.max_index
                     : kind_ == Kind::max     ? (u8 ? kernel_.max_u8 : kernel_.max_f32)
                                              : (u8 ? kernel_.avg_u8 : kernel_.avg_f32);
    const int64_t tasks = kernel_.tasks(pool, args.threads);
    run_tasks(tasks, args.threads, [&](int64_t task) { run(pool, task, tasks); });
  }

 protected:
  Pool(const NodeInfo& node, Kind kind, bool codes)
      : kind_(kind),
        codes_(codes),
        any_type_(kind == Kind::max),
        kernel_(kernels::best_of(kernels::pool_kernels(), node.isa)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(kind == Kind::max_index ? 2 : 1);
    if (codes) rescale_ = std::make_unique<Rescale>(node);
  }
  virtual int64_t outputs(int axis, int64_t size, std::span<const int64_t> symbols) const = 0;
  virtual int64_t largest_window(int axis, int64_t size, int64_t outputs) const = 0;
  virtual kernels::PoolAxis axis(int axis, int64_t size, int64_t outputs) const = 0;

  bool count_include_pad_ = false;

 private:
  // All but the operands.
  kernels::PoolArgs sizes(const Shape& x, const Shape& y) const {
    kernels::PoolArgs pool;
    pool.grid = {y[0], y[2], y[3]};
    pool.channels = x[1];
    pool.h = axis(0, x[2], y[2]);
    pool.w = axis(1, x[3], y[3]);
    return pool;
  }

  Kind kind_;
  bool codes_, any_type_;
  std::unique_ptr<const Rescale> rescale_;  // of codes that are averaged
  const kernels::PoolKernel& kernel_;
};

class SlidingPool final : public Pool {
 public:
  SlidingPool(const NodeInfo& node, Kind kind, bool codes)
      : Pool(node, kind, codes), ceil_(node.integer("ceil_mode", 0, 1, 0) == 1) {
    const std::vector<int64_t> kernel = node.integers("kernel", 2, 1, kMaxExtent),
                               stride = node.integers("stride", 2, 1, kMaxExtent),
                               padding = node.integers("padding", 0, kMaxExtent, {0, 0, 0, 0}),
                               dilation = kind != Kind::average ? node.integers("dilation", 1, kMaxExtent, {1, 1})
                                                                : std::vector<int64_t>{1, 1};
    for (size_t i : {0, 1})
      window_.kernel[i] = kernel[i], window_.stride[i] = stride[i], window_.dilation[i] = dilation[i];
    std::copy(padding.begin(), padding.end(), window_.padding);
    for (int side = 0; side < 4; ++side)
      if (window_.padding[side] >= window_.reach(side / 2))
        node.fail("the padding is wider than the window lets it be");
    if (kind == Kind::average) count_include_pad_ = node.integer("count_include_pad", 0, 1, 0) == 1;
  }

 protected:
  // With ceil_mode the last window may hang over the end, but must start inside the input or the padding before it. It
  // may be the only one: an input smaller than the window, by less than the stride.
  int64_t outputs(int axis, int64_t size, std::span<const int64_t>) const override {
    const int64_t stride = window_.stride[axis], room = window_.padded(axis, size) - window_.reach(axis);
    require(room > (ceil_ ? -stride : -1) && size > 0, "a window of " + std::to_string(window_.reach(axis)) +
                                                           " does not fit into an input of " + std::to_string(size));
    if (!ceil_) return room / stride + 1;
    return std::min((room + stride - 1) / stride, (size + window_.padding[2 * axis] - 1) / stride) + 1;
  }
  int64_t largest_window(int axis, int64_t size, int64_t) const override {
    return std::min(window_.kernel[axis], window_.padded(axis, size));
  }
  kernels::PoolAxis axis(int axis, int64_t size, int64_t outputs) const override {
    return {.size = size,
            .outputs = outputs,
            .kernel = window_.kernel[axis],
            .stride = window_.stride[axis],
            .padding_begin = window_.padding[2 * axis],
            .padding_end = window_.padding[2 * axis + 1],
            .dilation = window_.dilation[axis]};
  }

 private:
  Window window_;
  bool ceil_;
};

class AdaptivePool final : public Pool {
 public:
  AdaptivePool(const NodeInfo& node, Kind kind, bool codes) : Pool(node, kind, codes), size_(node.dims("output_size")) {
    if (size_.size() != 2) node.fail("attribute 'output_size' must have 2 items");
  }

 protected:
  int64_t outputs(int axis, int64_t size, std::span<const int64_t> symbols) const override {
    const int64_t outputs = evaluate(size_[axis], symbols);
    require(size > 0, "the input is empty");
    require(outputs > 0 && outputs <= kMaxSize, "the output has " + std::to_string(outputs) + " elements an axis");
    return outputs;
  }
  int64_t largest_window(int, int64_t size, int64_t outputs) const override {
    return std::min(size, size / outputs + 2);
  }
  kernels::PoolAxis axis(int, int64_t size, int64_t outputs) const override {
    return {.size = size, .outputs = outputs, .adaptive = true};
  }

 private:
  std::vector<Dim> size_;
};

// The mean over some axes is the adaptive pool of [outer][axis][inner]; axes that are not adjacent, or that would leave
// too little to the inner loop, are first moved to the front.
class Mean final : public Op {
 public:
  explicit Mean(const NodeInfo& node)
      : axes_(node.integers("axes", 0, -kMaxRank, kMaxRank - 1)),
        keep_(node.integer("keepdim", 0, 1, 0) == 1),
        kernel_(kernels::best_of(kernels::pool_kernels(), node.isa)),
        copy_(kernels::best_of(kernels::eltwise_kernels(), node.isa)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    const Shape& x = inputs[0].shape;
    const Axes axes = reduced(x);
    require(std::count(axes.begin(), axes.end(), true) == std::ssize(axes_), "axes repeat");
    int64_t count = 1;
    Shape shape;
    for (int axis = 0; axis < x.rank(); ++axis) {
      const bool gone = axes[axis];
      if (gone) count *= x[axis];
      require(count < kMaxWindow, "the mean is over too many elements");
      if (!gone || keep_) shape.push_back(gone ? 1 : x[axis]);
    }
    return {{DType::f32, shape}};
  }
  Layout input_layout(size_t) const override { return Layout::any; }
  size_t scratch_bytes(Types inputs, Types, int) const override { return inputs[0].shape.elements() * sizeof(float); }
  std::string kernel() const override { return kernel_.name; }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations = static_cast<double>(inputs[0].shape.elements());
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    if (x.shape.elements() == 0) {  // 0 / 0
      std::fill_n(y.as<float>(), y.shape.elements(), std::numeric_limits<float>::quiet_NaN());
      return;
    }
    int64_t outer = 1, count = 1, inner = 1;
    const void* data = x.data;
    if (!split(x, outer, count, inner)) {
      data = args.scratch;
      move_to_front(args, count, inner);
      outer = 1;
    }
    kernels::PoolArgs pool;
    pool.grid = {outer, 1, 1};
    pool.channels = inner;
    pool.h = {.size = count, .outputs = 1, .adaptive = true};
    pool.w = {.size = 1, .outputs = 1, .adaptive = true};
    pool.x = {data, count * inner, inner, inner};
    pool.y = {y.data, inner, inner, inner};
    const int64_t tasks = kernel_.tasks(pool, args.threads);
    run_tasks(tasks, args.threads, [&](int64_t task) { kernel_.avg_f32(pool, task, tasks); });
  }

 private:
  using Axes = std::array<bool, kMaxRank>;

  Axes reduced(const Shape& shape) const {
    Axes axes{};
    for (int64_t axis : axes_) axes[normalized_axis(axis, shape.rank())] = true;
    return axes;
  }

  // The input as [outer][count][inner] in the memory order it has; false if the axes do not allow it.
  bool split(const Tensor& x, int64_t& outer, int64_t& count, int64_t& inner) const {
    const Axes axes = reduced(x.shape);
    const int rank = x.shape.rank();
    const bool channels_last = has_layouts(x.shape) && x.strides[1] == 1 && x.shape[1] > 1;
    // Kept axes must come out in logical order: channels last only in the mean over all axes behind them.
    if (channels_last && (axes[1] || std::count(axes.begin() + 2, axes.begin() + rank, true) != rank - 2)) return false;
    int phase = 0;
    for (int i = 0; i < rank; ++i) {
      const int axis = !channels_last || i == 0 ? i : i == rank - 1 ? 1 : i + 1;
      const bool gone = axes[axis];
      if (x.shape[axis] == 1) continue;
      if (gone && phase == 2) return false;
      phase = gone ? 1 : phase == 0 ? 0 : 2;
      (gone ? count : phase == 0 ? outer : inner) *= x.shape[axis];
    }
    return inner >= 8 || outer == 1;
  }

  void move_to_front(const RunArgs& args, int64_t& count, int64_t& inner) const {
    const Tensor& x = args.inputs[0];
    const Axes axes = reduced(x.shape);
    Shape shape, from, to;
    count = inner = 1;
    for (bool gone : {true, false}) {
      for (int axis = 0; axis < x.shape.rank(); ++axis) {
        if (axes[axis] != gone) continue;
        shape.push_back(x.shape[axis]);
        from.push_back(x.strides[axis]);
        to.push_back(0);
        (gone ? count : inner) *= x.shape[axis];
      }
    }
    for (int64_t axis = shape.rank() - 1, stride = 1; axis >= 0; --axis) {
      to[axis] = stride;
      stride *= shape[axis];
    }
    copy_view(copy_, shape, sizeof(float), x.data, from, args.scratch, to, args.threads);
  }

  std::vector<int64_t> axes_;
  bool keep_;
  const kernels::PoolKernel& kernel_;
  const kernels::EltwiseKernel& copy_;
};

}  // namespace

const OpRows kPoolOps = {
    {"adaptive_avg_pool2d", make<AdaptivePool, Kind::average, false>},
    {"quantized_adaptive_avg_pool2d", make<AdaptivePool, Kind::average, true>},
    {"adaptive_max_pool2d", make<AdaptivePool, Kind::max, false>},
    {"adaptive_max_pool2d_with_indices", make<AdaptivePool, Kind::max_index, false>},
    {"avg_pool2d", make<SlidingPool, Kind::average, false>},
    {"quantized_avg_pool2d", make<SlidingPool, Kind::average, true>},
    {"max_pool2d", make<SlidingPool, Kind::max, false>},
    {"max_pool2d_with_indices", make<SlidingPool, Kind::max_index, false>},
    {"mean", make<Mean>},
};

}  // namespace lowbit::graph
