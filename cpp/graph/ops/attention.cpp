// attention: softmax(q k^T * scale + mask) v for each head, [B, H, L, D] each (or [H, L, D]).
#include "kernels/attention/attention.h"

#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

enum Input : size_t { kQ, kK, kV, kMask, kInputs };

class Attention final : public Op {
 public:
  explicit Attention(const NodeInfo& node)
      : isa_(node.isa),
        kernel_(kernels::best_of(kernels::attention_kernels(), node.isa)),
        copier_(kernels::best_of(kernels::eltwise_kernels(), node.isa)),
        scale_(static_cast<float>(node.number("scale"))),
        causal_(node.integer("causal", 0, 1, 0) == 1),
        nan_if_empty_(node.integer("nan_if_empty", 0, 1, 0) == 1),
        divides_last_(node.integer("divides_last", 0, 1, 0) == 1),
        masked_(node.has(kMask)) {
    node.expect_inputs(kMask, kInputs);
    node.expect_outputs(1);
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const int rank = inputs[kQ].shape.rank();
    require(rank == 3 || rank == 4, "q, k and v must have rank 3 or 4");
    for (size_t input : {kQ, kK, kV}) require_type(inputs, input, DType::f32, rank);
    const Shape &q = inputs[kQ].shape, &k = inputs[kK].shape, &v = inputs[kV].shape;
    const int heads = rank - 3, rows = rank - 2, last = rank - 1;
    const bool shared = k[heads] > 0 ? q[heads] % k[heads] == 0 : q[heads] == 0;
    require(q[last] == k[last] && k[rows] == v[rows] && k[heads] == v[heads] && shared &&
                (rank == 3 || (q[0] == k[0] && q[0] == v[0])),
            "q " + to_string(q) + ", k " + to_string(k) + " and v " + to_string(v) + " do not fit");
    if (masked_) require_mask(inputs[kMask], q, k);
    Shape y = q;
    y[last] = v[last];
    return {{DType::f32, y}};
  }
  bool reads_orders(size_t input) const override { return input <= kV; }
  bool writes_orders(size_t) const override { return true; }
  std::string kernel() const override { return kernel_.name; }
  size_t scratch_bytes(Types inputs, Types, int threads) const override {
    const kernels::AttentionArgs args = sizes(inputs[kQ].shape, inputs[kK].shape, inputs[kV].shape);
    return kernels::AttentionPlan(args, isa_, threads).scratch_bytes();
  }
  Work work(Types inputs, Types outputs) const override {
    const kernels::AttentionArgs a = sizes(inputs[kQ].shape, inputs[kK].shape, inputs[kV].shape);
    Work work = Op::work(inputs, outputs);
    work.operations = 2.0 * static_cast<double>(a.batch * a.heads * a.length) * static_cast<double>(a.keys) *
                      static_cast<double>(a.depth + a.value_depth);
    return work;
  }

  void run(const RunArgs& run) const override {
    const Tensor &q = run.inputs[kQ], &k = run.inputs[kK], &v = run.inputs[kV], &y = run.outputs[0];
    kernels::AttentionArgs args = sizes(q.shape, k.shape, v.shape);
    if (args.keys == 0) {
      const float nothing = nan_if_empty_ ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
      std::fill_n(y.as<float>(), y.shape.elements(), nothing);  // dense, in whatever order
      return;
    }
    args.q = rows_of<const float>(q), args.k = rows_of<const float>(k), args.v = rows_of<const float>(v);
    if (masked_) args.mask = mask_of(run.inputs[kMask], q.shape.rank());
    args.y = rows_of<float>(y);
    const kernels::AttentionPlan plan(args, isa_, run.threads);
    run_tasks(plan.tasks(), run.threads,
              [&](int64_t task) { plan.run(kernel_, copier_, args, task, reinterpret_cast<float*>(run.scratch)); });
  }

 private:
  static void require_mask(const TensorType& mask, const Shape& q, const Shape& k) {
    require(mask.dtype == DType::f32 || mask.dtype == DType::boolean, "the mask must be f32 or bool");
    const int rank = q.rank();
    Shape full = q;
    full[rank - 1] = k[rank - 2];
    bool fits = mask.shape.rank() <= rank;
    for (int axis = 0; fits && axis < mask.shape.rank(); ++axis) {
      const int64_t size = mask.shape[mask.shape.rank() - 1 - axis];
      fits = size == 1 || size == full[rank - 1 - axis];
    }
    require(fits, "the mask " + to_string(mask.shape) + " does not broadcast to " + to_string(full));
  }

  // All but the operands.
  kernels::AttentionArgs sizes(const Shape& q, const Shape& k, const Shape& v) const {
    const int rank = q.rank();
    kernels::AttentionArgs args;
    args.batch = rank == 4 ? q[0] : 1;
    args.heads = q[rank - 3];
    args.key_heads = k[rank - 3];
    args.length = q[rank - 2];
    args.keys = k[rank - 2];
    args.depth = q[rank - 1];
    args.value_depth = v[rank - 1];
    args.scale = scale_;
    args.causal = causal_;
    args.nan_if_empty = nan_if_empty_;
    args.divides_last = divides_last_;
    return args;
  }

  template <class T>
  static kernels::HeadRows<T> rows_of(const Tensor& x) {
    const int rank = x.shape.rank();
    return {x.as<T>(), rank == 4 ? x.strides[0] : 0, x.strides[rank - 3], x.strides[rank - 2]};
  }

  // Absent axes and those of one repeat.
  static kernels::AttentionMask mask_of(const Tensor& mask, int rank) {
    kernels::AttentionMask result{mask.data, mask.dtype == DType::f32, 0, 0, 0, 0};
    int64_t* strides[] = {&result.column, &result.row, &result.head, &result.batch};
    for (int axis = 0; axis < std::min(mask.shape.rank(), rank); ++axis) {
      const int own = mask.shape.rank() - 1 - axis;
      if (mask.shape[own] != 1) *strides[axis] = mask.strides[own];
    }
    return result;
  }

  Isa isa_;
  const kernels::AttentionKernel& kernel_;
  const kernels::EltwiseKernel& copier_;
  float scale_;
  bool causal_, nan_if_empty_, divides_last_, masked_;
};

}  // namespace

const OpRows kAttentionOps = {{"attention", make<Attention>}};

}  // namespace lowbit::graph
