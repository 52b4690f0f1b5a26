// What the operators share: checks, rows over tensors, and how a kernel's tasks meet the thread pool.
#pragma once

#include <algorithm>
#include <limits>

#include "base/threads.h"
#include "base/watch.h"
#include "graph/op.h"
#include "kernels/eltwise/eltwise.h"
#include "kernels/kernel.h"

namespace lowbit::graph {

constexpr int64_t kMaxExtent = (1 << 15) - 1;  // of kernels, strides, dilations and paddings
constexpr int64_t kMaxTypicalRows = int64_t{1} << 20;
constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;

// Converts layouts; not a node's operator.
std::unique_ptr<Op> make_copy(Isa isa);

// For infer.
inline void require(bool condition, const std::string& reason) {
  if (!condition) throw Error(ErrorKind::input, reason);
}
void require_type(Op::Types inputs, size_t input, DType dtype, int rank = -1);
void require_shape(Op::Types inputs, size_t input, const Shape& shape);
int normalized_axis(int64_t axis, int rank);

// How many rows of its last axis input 0 has in a typical call, for the choice of a matrix kernel; 0: unknown.
inline int64_t typical_rows(const NodeInfo& node) {
  if (node.types.empty() || node.types[0].shape.rank() == 0) return 0;
  const Shape& x = node.types[0].shape;
  return std::min(x.elements() / std::max<int64_t>(x[x.rank() - 1], 1), kMaxTypicalRows);
}

// Activation bounds: absent ones are infinite.
struct Bounds {
  float min = -std::numeric_limits<float>::infinity(), max = std::numeric_limits<float>::infinity();
};
Bounds bounds_of(const NodeInfo& node, std::string_view min, std::string_view max);

// Rows of a channels-last image, one pixel each.
template <class T>
kernels::Rows<T> pixels_of(const Tensor& x) {
  return {static_cast<T*>(x.data), x.strides[0], x.strides[2], x.strides[3]};
}

// Runs run(task) for all tasks, on the call's threads.
template <class F>
void run_tasks(int64_t tasks, int threads, F run) {
  if (tasks <= 1) {
    if (tasks == 1 && !should_stop()) run(int64_t{0});
    return;
  }
  parallel_for(tasks, threads, run);
}

// All of a matrix, convolution or pooling kernel's work.
template <class Kernel, class Args>
void run_kernel(const Kernel& kernel, const Args& args, int threads) {
  const int64_t tasks = kernel.tasks(args, threads);
  run_tasks(tasks, threads, [&](int64_t task) { kernel.run(args, task, tasks); });
}

// y = x over views of one shape.
void copy_view(const kernels::EltwiseKernel& kernel, const Shape& shape, size_t element, const void* x,
               const Shape& x_strides, void* y, const Shape& y_strides, int threads);

// The shape of operands together, by NumPy's rule. Throws Error(input) where they do not broadcast.
Shape broadcast_shape(const Shape& a, const Shape& b);
// The strides at which an operand is read as if it had the broadcast `shape`.
Shape broadcast_strides(const Tensor& x, const Shape& shape);

// A row-major shape around one axis: [outer][size][inner].
struct AxisSplit {
  int64_t outer = 1, size = 1, inner = 1;
};
AxisSplit split_at(const Shape& shape, int axis);

// Share `task` of [0, count).
struct Range {
  int64_t begin, end;
};
inline Range share_of(int64_t count, int64_t task, int64_t tasks) {
  return {count * task / tasks, count * (task + 1) / tasks};
}

// Runs run(begin, end) over parts of [0, count), on as many threads as work on so many bytes is worth.
template <class F>
void run_shares(int64_t count, int64_t bytes, int threads, F run) {
  const int64_t tasks = std::min(count, kernels::eltwise_tasks(bytes, threads));
  run_tasks(tasks, threads, [&](int64_t task) {
    const Range share = share_of(count, task, tasks);
    run(share.begin, share.end);
  });
}

// Keys' cubic with A = -0.75 for the four elements around a position, `part` behind the second.
inline void cubic_weights(float part, float* weights) {
  const auto inner = [](float x) { return ((1.25f * x - 2.25f) * x) * x + 1.0f; };
  const auto outer = [](float x) { return ((-0.75f * x + 3.75f) * x - 6.0f) * x + 3.0f; };
  const float rest = 1.0f - part;
  weights[0] = outer(part + 1.0f), weights[1] = inner(part), weights[2] = inner(rest), weights[3] = outer(rest + 1.0f);
}

// An operator whose outputs have the type of input 0 and whose operands may lie in any one order.
class ElementwiseOp : public Op {
 public:
  explicit ElementwiseOp(const NodeInfo& node) : kernel_(kernels::best_of(kernels::eltwise_kernels(), node.isa)) {}
  Layout input_layout(size_t) const override { return Layout::same; }
  Layout output_layout(size_t) const override { return Layout::same; }
  std::string kernel() const override { return kernel_.name; }

 protected:
  template <class F>
  void split(const RunArgs& args, F run) const {
    int64_t bytes = bytes_of(args.outputs[0]);
    for (const Tensor& input : args.inputs) bytes += input.data != nullptr ? bytes_of(input) : 0;
    const int64_t tasks = kernels::eltwise_tasks(bytes, args.threads);
    run_tasks(tasks, args.threads, [&](int64_t task) { run(task, tasks); });
  }
  const kernels::EltwiseKernel& kernel_;
};

}  // namespace lowbit::graph
