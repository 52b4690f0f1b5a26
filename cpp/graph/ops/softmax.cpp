// softmax along any axis: rows of adjacent elements as they lie, other axes through a transposed copy.
#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

class Softmax final : public ElementwiseOp {
 public:
  explicit Softmax(const NodeInfo& node) : ElementwiseOp(node), axis_(node.integer("axis", -kMaxRank, kMaxRank - 1)) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, 0, DType::f32);
    normalized_axis(axis_, inputs[0].shape.rank());
    return {inputs[0]};
  }
  size_t scratch_bytes(Types inputs, Types, int) const override {
    const Shape& x = inputs[0].shape;
    const bool last = normalized_axis(axis_, x.rank()) == x.rank() - 1 && !has_layouts(x);
    return last ? 0 : x.elements() * sizeof(float);
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 4;
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const int axis = normalized_axis(axis_, x.shape.rank());
    const int64_t row = x.shape[axis], rows = x.shape.elements() / row;
    const bool adjacent = x.strides[axis] == 1 || row == 1;
    if (adjacent) return softmax_rows(args, x.as<const float>(), y.as<float>(), rows, row);
    Shape shape, from, to;
    for (int i = 0; i < x.shape.rank(); ++i) {
      if (i == axis) continue;
      shape.push_back(x.shape[i]);
      from.push_back(x.strides[i]);
      to.push_back(0);
    }
    shape.push_back(row);
    from.push_back(x.strides[axis]);
    to.push_back(1);
    int64_t stride = row;
    for (int i = shape.rank() - 2; i >= 0; --i) {
      to[i] = stride;
      stride *= shape[i];
    }
    float* rows_of_axis = reinterpret_cast<float*>(args.scratch);
    copy_view(kernel_, shape, sizeof(float), x.data, from, rows_of_axis, to, args.threads);
    softmax_rows(args, rows_of_axis, rows_of_axis, rows, row);
    copy_view(kernel_, shape, sizeof(float), rows_of_axis, to, y.data, from, args.threads);  // y lies as x does
  }

 private:
  void softmax_rows(const RunArgs& args, const float* x, float* y, int64_t rows, int64_t row) const {
    const kernels::SoftmaxArgs softmax{rows, row, x, row, y, row};
    split(args, [&](int64_t task, int64_t tasks) { kernels::softmax(kernel_, softmax, task, tasks); });
  }

  int64_t axis_;
};

}  // namespace

const OpRows kSoftmaxOps = {{"softmax", make<Softmax>}};

}  // namespace lowbit::graph
