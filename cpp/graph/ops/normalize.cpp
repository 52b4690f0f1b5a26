// layer_norm and rms_norm over the last axes, group_norm over the channels of a group and all pixels.
#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/norm/norm.h"

namespace lowbit::graph {
namespace {

enum Input : size_t { kX, kWeight, kBias, kInputs };

// What the three share; a subclass says which elements make a row.
class Normalize : public Op {
 public:
  explicit Normalize(const NodeInfo& node)
      : kernel_(kernels::best_of(kernels::norm_kernels(), node.isa)),
        eps_(static_cast<float>(node.number("eps"))),
        weight_(node.has(kWeight)),
        bias_(node.has(kBias)) {
    if (eps_ < 0.0f) node.fail("attribute 'eps' must not be negative");
    node.expect_outputs(1);
  }
  std::string kernel() const override { return kernel_.name; }
  int in_place() const override { return 0; }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 8;
    return work;
  }

 protected:
  void require_affine(Types inputs, const Shape& shape) const {
    for (size_t input : {kWeight, kBias}) {
      if (!(input == kWeight ? weight_ : bias_)) continue;
      require_type(inputs, input, DType::f32);
      require_shape(inputs, input, shape);
    }
  }

  void run_rows(const RunArgs& args, kernels::NormArgs norm) const {
    norm.x = args.inputs[kX].as<const float>();
    norm.y = args.outputs[0].as<float>();
    if (weight_) norm.weight = args.inputs[kWeight].as<const float>();
    if (bias_) norm.bias = args.inputs[kBias].as<const float>();
    norm.eps = eps_;
    const int64_t tasks = std::min(norm.rows, kernels::eltwise_tasks(2 * bytes_of(args.inputs[kX]), args.threads));
    run_tasks(tasks, args.threads, [&](int64_t task) { kernels::normalize(kernel_, norm, task, tasks); });
  }

 private:
  const kernels::NormKernel& kernel_;
  float eps_;
  bool weight_, bias_;
};

class LastAxesNorm final : public Normalize {
 public:
  LastAxesNorm(const NodeInfo& node, bool centered)
      : Normalize(node), axes_(static_cast<int>(node.integer("axes", 1, kMaxRank, 1))), centered_(centered) {
    node.expect_inputs(1, centered ? kInputs : kBias);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, kX, DType::f32);
    const Shape& x = inputs[kX].shape;
    require(x.rank() >= axes_, "the input has fewer axes than are normalized");
    Shape shape;
    for (int axis = x.rank() - axes_; axis < x.rank(); ++axis) shape.push_back(x[axis]);
    require_affine(inputs, shape);
    return {inputs[kX]};
  }
  void run(const RunArgs& args) const override {
    const Shape& x = args.inputs[kX].shape;
    kernels::NormArgs norm;
    norm.row = 1;
    for (int axis = x.rank() - axes_; axis < x.rank(); ++axis) norm.row *= x[axis];
    norm.rows = x.elements() / norm.row;
    norm.centered = centered_;
    run_rows(args, norm);
  }

 private:
  int axes_;
  bool centered_;
};

class GroupNorm final : public Normalize {
 public:
  explicit GroupNorm(const NodeInfo& node) : Normalize(node), groups_(node.integer("groups", 1, kMaxSize)) {
    node.expect_inputs(1, kInputs);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_type(inputs, kX, DType::f32);
    const Shape& x = inputs[kX].shape;
    require(x.rank() >= 2 && x[1] % groups_ == 0 && x[1] > 0, "the groups do not divide the channels (axis 1)");
    require_affine(inputs, {x[1]});
    return {inputs[kX]};
  }
  void run(const RunArgs& args) const override {
    const Shape& x = args.inputs[kX].shape;
    kernels::NormArgs norm;
    norm.rows = x[0] * groups_;
    norm.cycle = groups_;
    norm.row = x.elements() / norm.rows;
    norm.inner = norm.row / (x[1] / groups_);
    run_rows(args, norm);
  }

 private:
  int64_t groups_;
};

}  // namespace

const OpRows kNormalizeOps = {
    {"group_norm", make<GroupNorm>},
    {"layer_norm", make<LastAxesNorm, true>},
    {"rms_norm", make<LastAxesNorm, false>},
};

}  // namespace lowbit::graph
