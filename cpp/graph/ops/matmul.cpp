// matmul: [..., M, K] times [..., K, N] (or [..., N, K], transpose_b), both computed, their leading axes broadcast.
//
// Each task packs a panel of the right-hand side into its own scratch and multiplies all its rows by it, so a panel is
// used while it is in cache. One accumulator an output, k ascending: the split changes no bit.
#include "graph/ops/common.h"
#include "graph/ops/ops.h"
#include "kernels/gemm_f32/gemm_f32.h"

namespace lowbit::graph {
namespace {

constexpr int64_t kTap = 0;
constexpr double kTaskWork = 1 << 19;  // multiply-adds that are worth waking a thread for
constexpr int64_t kRowsATask = 48;     // packing a panel costs about as much as multiplying a few rows by it

// The product as units: one panel of one matrix times one piece of the rows.
struct Cut {
  int64_t batch, m, n, k, panels, pieces, tasks;
  int64_t units() const { return batch * panels * pieces; }
};

class Matmul final : public Op {
 public:
  explicit Matmul(const NodeInfo& node)
      : isa_(node.isa),
        copier_(kernels::best_of(kernels::eltwise_kernels(), node.isa)),
        transposed_(node.integer("transpose_b", 0, 1, 0) == 1) {
    node.expect_inputs(2, 2);
    node.expect_outputs(1);
  }

  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    for (size_t i : {0, 1}) {
      require_type(inputs, i, DType::f32);
      require(inputs[i].shape.rank() >= 2, "both operands must have at least two axes");
    }
    const Shape &a = inputs[0].shape, &b = inputs[1].shape;
    const int rank = std::max(a.rank(), b.rank());
    require(a[a.rank() - 1] == depth(b), "the inner sizes differ: " + to_string(a) + " and " + to_string(b));
    Shape y;
    for (int axis = 0; axis < rank - 2; ++axis) {
      const int64_t p = leading(a, axis, rank), q = leading(b, axis, rank);
      require(p == q || p == 1 || q == 1, "shapes " + to_string(a) + " and " + to_string(b) + " do not broadcast");
      y.push_back(p == 1 ? q : p);
    }
    y.push_back(a[a.rank() - 2]);
    y.push_back(columns(b));
    return {{DType::f32, y}};
  }
  std::string kernel() const override { return kernels::select_gemm_f32(isa_, 64, 1, 64, 64).name; }
  size_t scratch_bytes(Types inputs, Types outputs, int threads) const override {
    const Cut c = cut(inputs[0].shape, inputs[1].shape, outputs[0].shape, threads);
    return c.tasks * c.k * row(c).nr * sizeof(float);
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations *= 2.0 * static_cast<double>(depth(inputs[1].shape));
    return work;
  }

  void run(const RunArgs& args) const override {
    const Tensor &a = args.inputs[0], &b = args.inputs[1], &y = args.outputs[0];
    const Cut c = cut(a.shape, b.shape, y.shape, args.threads);
    if (c.k == 0) {
      std::fill_n(y.as<float>(), y.shape.elements(), 0.0f);
      return;
    }
    const kernels::GemmF32Kernel& kernel = row(c);
    run_tasks(c.tasks, args.threads, [&](int64_t task) {
      float* panel = reinterpret_cast<float*>(args.scratch) + task * c.k * kernel.nr;
      const int64_t end = (task + 1) * c.units() / c.tasks;
      for (int64_t unit = task * c.units() / c.tasks; unit < end && !should_stop(); ++unit)
        run_unit(args, c, kernel, unit, panel);
    });
  }

 private:
  int64_t depth(const Shape& b) const { return b[b.rank() - (transposed_ ? 1 : 2)]; }
  int64_t columns(const Shape& b) const { return b[b.rank() - (transposed_ ? 2 : 1)]; }
  // A leading axis of the broadcast shape, as an operand has it.
  static int64_t leading(const Shape& shape, int axis, int rank) {
    const int own = axis - (rank - shape.rank());
    return own < 0 ? 1 : shape[own];
  }

  // One right-hand side for all: the leading axes of the left-hand side are rows, too.
  Cut cut(const Shape& a, const Shape& b, const Shape& y, int threads) const {
    Cut c{.batch = 1, .m = y[y.rank() - 2], .n = columns(b), .k = depth(b), .panels = 0, .pieces = 1, .tasks = 1};
    for (int axis = 0; axis < y.rank() - 2; ++axis) c.batch *= y[axis];
    const int64_t matrices = b.elements() / std::max<int64_t>(c.k * c.n, 1);
    if (matrices == 1 && a.elements() == c.batch * c.m * c.k) c = {1, c.batch * c.m, c.n, c.k, 0, 1, 1};
    c.panels = kernels::panels_of(row(c), c.n);
    const double work = static_cast<double>(c.batch * c.m * c.n) * static_cast<double>(c.k);
    const auto wanted = static_cast<int64_t>(std::clamp(work / kTaskWork, 1.0, 2.0 * threads));
    if (threads > 1 && wanted > c.batch * c.panels)
      c.pieces = std::clamp<int64_t>(c.m / kRowsATask, 1, wanted / (c.batch * c.panels));
    c.tasks = threads > 1 ? std::min(wanted, c.units()) : 1;
    return c;
  }

  const kernels::GemmF32Kernel& row(const Cut& c) const {
    return kernels::select_gemm_f32(isa_, c.n, 1, std::max<int64_t>(c.k, 1), c.m);
  }

  // Where matrix `index` of the result's leading axes lies in an operand.
  static const float* matrix(const Tensor& x, const Shape& y, int64_t index) {
    const int rank = y.rank();
    int64_t offset = 0;
    for (int axis = rank - 3; axis >= 0; --axis) {
      const int own = axis - (rank - x.shape.rank());
      const int64_t at = index % y[axis];
      index /= y[axis];
      if (own >= 0 && x.shape[own] != 1) offset += at * x.strides[own];
    }
    return x.as<const float>() + offset;
  }

  void run_unit(const RunArgs& args, const Cut& c, const kernels::GemmF32Kernel& kernel, int64_t unit,
                float* packed) const {
    const Tensor &a = args.inputs[0], &b = args.inputs[1], &y = args.outputs[0];
    const int64_t piece = unit % c.pieces, panel = unit / c.pieces % c.panels, index = unit / c.pieces / c.panels;
    const int64_t first = piece * c.m / c.pieces, rows = (piece + 1) * c.m / c.pieces - first;
    const kernels::GemmF32Matrix right{matrix(b, y.shape, index), c.k, c.n, transposed_ ? 1 : c.n,
                                       transposed_ ? c.k : 1};
    kernels::pack_panels(kernel, copier_, right, panel, 1, packed);
    const int64_t column = panel * kernel.nr;
    const kernels::GemmF32Panels weights{&kernel, std::min<int64_t>(kernel.nr, c.n - column), 1, c.k, packed};
    kernels::GemmF32Args gemm;
    gemm.weights = &weights;
    gemm.grid = {1, 1, rows};
    gemm.x = {matrix(a, y.shape, index) + first * c.k, c.k, c.k, c.k};
    gemm.taps = {&kTap, 1};
    gemm.min = -std::numeric_limits<float>::infinity();
    gemm.max = std::numeric_limits<float>::infinity();
    gemm.y = {y.as<float>() + (index * c.m + first) * c.n + column, c.n, c.n, c.n};
    kernel.run(gemm, 0, 1);
  }

  Isa isa_;
  const kernels::EltwiseKernel& copier_;
  bool transposed_;
};

}  // namespace

const OpRows kMatmulOps = {{"matmul", make<Matmul>}};

}  // namespace lowbit::graph
