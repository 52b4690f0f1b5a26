#include "graph/ops/common.h"

namespace lowbit::graph {
namespace {

class CopyOp final : public Op {
 public:
  explicit CopyOp(Isa isa) : kernel_(kernels::best_of(kernels::eltwise_kernels(), isa)) {}
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override { return {inputs[0]}; }
  std::string kernel() const override { return kernel_.name; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    copy_view(kernel_, x.shape, size_of(x.dtype), x.data, x.strides, y.data, y.strides, args.threads);
  }

 private:
  const kernels::EltwiseKernel& kernel_;
};

}  // namespace

std::unique_ptr<Op> make_copy(Isa isa) { return std::make_unique<CopyOp>(isa); }

void require_type(Op::Types inputs, size_t input, DType dtype, int rank) {
  const TensorType& type = inputs[input];
  if (type.dtype == dtype && (rank < 0 || type.shape.rank() == rank)) return;
  throw Error(ErrorKind::input, "input " + std::to_string(input) + " must be " + std::string(name_of(dtype)) +
                                    (rank < 0 ? "" : " of rank " + std::to_string(rank)) + ", is " + to_string(type));
}

void require_shape(Op::Types inputs, size_t input, const Shape& shape) {
  if (inputs[input].shape == shape) return;
  throw Error(ErrorKind::input, "input " + std::to_string(input) + " must have shape " + to_string(shape) + ", has " +
                                    to_string(inputs[input].shape));
}

int normalized_axis(int64_t axis, int rank) {
  // Not require(): the text would be made, and memory allocated, in every run.
  if (axis < -rank || axis >= rank)
    throw Error(ErrorKind::input, "axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

Shape broadcast_shape(const Shape& a, const Shape& b) {
  Shape shape;
  const int rank = std::max(a.rank(), b.rank());
  for (int axis = 0; axis < rank; ++axis) {
    const int64_t x = axis < rank - a.rank() ? 1 : a[axis - (rank - a.rank())],
                  y = axis < rank - b.rank() ? 1 : b[axis - (rank - b.rank())];
    require(x == y || x == 1 || y == 1, "shapes " + to_string(a) + " and " + to_string(b) + " do not broadcast");
    shape.push_back(x == 1 ? y : x);
  }
  return shape;
}

Shape broadcast_strides(const Tensor& x, const Shape& shape) {
  Shape strides;
  const int missing = shape.rank() - x.shape.rank();
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const bool repeated = axis < missing || x.shape[axis - missing] == 1;
    strides.push_back(repeated ? 0 : x.strides[axis - missing]);
  }
  return strides;
}

AxisSplit split_at(const Shape& shape, int axis) {
  AxisSplit split;
  for (int i = 0; i < shape.rank(); ++i) (i < axis ? split.outer : i == axis ? split.size : split.inner) *= shape[i];
  return split;
}

Bounds bounds_of(const NodeInfo& node, std::string_view min, std::string_view max) {
  Bounds bounds;
  if (node.has(min)) bounds.min = static_cast<float>(node.number(min));
  if (node.has(max)) bounds.max = static_cast<float>(node.number(max));
  return bounds;
}

void copy_view(const kernels::EltwiseKernel& kernel, const Shape& shape, size_t element, const void* x,
               const Shape& x_strides, void* y, const Shape& y_strides, int threads) {
  const int64_t elements = shape.elements();
  if (elements == 0) return;
  const kernels::CopyArgs args{shape, static_cast<int>(element), {x, x_strides}, {y, y_strides}};
  const int64_t tasks = kernels::eltwise_tasks(2 * elements * static_cast<int64_t>(element), threads);
  run_tasks(tasks, threads, [&](int64_t task) { kernels::copy(kernel, args, task, tasks); });
}

}  // namespace lowbit::graph
