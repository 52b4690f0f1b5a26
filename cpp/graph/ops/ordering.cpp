// Operators that compare elements along an axis: argmax, argmin, sort, topk. NaN is greater than every number; of equal
// elements the first comes first.
#include <algorithm>
#include <type_traits>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

constexpr int64_t kColumns = 64;  // whose best values are held at once
constexpr int64_t kLanes = 8;     // parts of a row that are compared side by side

template <class T>
bool less(T a, T b) {
  return a < b || (a == a && b != b);
}

bool is_ordered(DType dtype) { return dtype == DType::f32 || dtype == DType::i64 || dtype == DType::i32; }

template <class F>
void with_number(DType dtype, F f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::i64) return f(int64_t{});
  f(int32_t{});
}

class OrderingOp : public Op {
 public:
  explicit OrderingOp(const NodeInfo& node) : axis_(node.integer("axis", -kMaxRank, kMaxRank - 1)) {
    node.expect_inputs(1, 1);
  }

 protected:
  int axis(const Shape& shape) const { return normalized_axis(axis_, shape.rank()); }
  int checked_axis(Types inputs) const {
    require(is_ordered(inputs[0].dtype), "the input must be f32, i64 or i32, is " + to_string(inputs[0]));
    return axis(inputs[0].shape);
  }

 private:
  int64_t axis_;
};

class ArgExtreme final : public OrderingOp {
 public:
  explicit ArgExtreme(const NodeInfo& node)
      : OrderingOp(node), keep_(node.integer("keepdim", 0, 1, 0) == 1), max_(node.text("kind", "max") == "max") {
    node.expect_outputs(1);
    if (!max_ && node.text("kind", "max") != "min") node.fail("attribute 'kind' must be max or min");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const Shape& x = inputs[0].shape;
    const int at = checked_axis(inputs);
    Shape shape;
    for (int i = 0; i < x.rank(); ++i)
      if (i != at || keep_) shape.push_back(i == at ? 1 : x[i]);
    require(x[at] > 0 || shape.elements() == 0, "the axis is empty");
    return {{DType::i64, shape}};
  }
  void run(const RunArgs& args) const override {
    const Tensor& x = args.inputs[0];
    const AxisSplit at = split_at(x.shape, axis(x.shape));
    auto* y = args.outputs[0].as<int64_t>();
    with_number(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      run_shares(at.outer, bytes_of(x), args.threads, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
          find(x.as<const T>() + row * at.size * at.inner, at, y + row * at.inner);
      });
    });
  }

 private:
  // Some columns at a time, their best values at hand. A NaN wins either way, the first of them.
  template <class T>
  void find(const T* x, const AxisSplit& at, int64_t* y) const {
    if (at.inner == 1) return find_in_row(x, at.size, y);
    T best[kColumns];
    for (int64_t first = 0; first < at.inner; first += kColumns) {
      const int64_t n = std::min(kColumns, at.inner - first);
      std::copy_n(x + first, n, best);
      std::fill_n(y + first, n, 0);
      for (int64_t i = 1; i < at.size; ++i) {
        const T* line = x + i * at.inner + first;
        for (int64_t j = 0; j < n; ++j) {
          const bool better = is_better(line[j], best[j]);
          best[j] = better ? line[j] : best[j];
          y[first + j] = better ? i : y[first + j];
        }
      }
    }
  }

  // The best value first, then its place: both loops are simple.
  template <class T>
  void find_in_row(const T* x, int64_t n, int64_t* y) const {
    T best[kLanes];
    std::fill_n(best, kLanes, x[0]);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) best[j] = is_better(x[i + j], best[j]) ? x[i + j] : best[j];
    for (; i < n; ++i) best[0] = is_better(x[i], best[0]) ? x[i] : best[0];
    for (const T value : best) best[0] = is_better(value, best[0]) ? value : best[0];
    const T found = best[0];
    *y = std::find_if(x, x + n, [&](T value) { return value == found || (value != value && found != found); }) - x;
  }

  template <class T>
  bool is_better(T next, T best) const {
    return best == best && (next != next || (max_ ? next > best : next < best));
  }

  bool keep_, max_;
};

// Output 0: values, 1: their indices. Sorting needs an order that stays the same, so it looks at a copy of the line,
// which no other thread of the caller's can change.
class Order : public OrderingOp {
 public:
  explicit Order(const NodeInfo& node) : OrderingOp(node) { node.expect_outputs(2); }
  size_t scratch_bytes(Types inputs, Types, int) const override {
    return inputs[0].shape.elements() * (sizeof(int64_t) + size_of(inputs[0].dtype));
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations = 8 * static_cast<double>(inputs[0].shape.elements());
    return work;
  }

 protected:
  // The first `count` in order along the axis.
  void run_order(const RunArgs& args, int64_t count, bool descending) const {
    const Tensor &x = args.inputs[0], &values = args.outputs[0], &indices = args.outputs[1];
    const AxisSplit at = split_at(x.shape, axis(x.shape));
    with_number(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      auto* orders = reinterpret_cast<int64_t*>(args.scratch);
      T* keys = reinterpret_cast<T*>(orders + x.shape.elements());
      run_shares(at.outer * at.inner, 8 * bytes_of(x), args.threads, [&](int64_t begin, int64_t end) {
        for (int64_t line = begin; line < end; ++line) {
          const T* from = x.as<const T>() + line / at.inner * at.size * at.inner + line % at.inner;
          int64_t* order = orders + line * at.size;
          T* key = keys + line * at.size;
          for (int64_t i = 0; i < at.size; ++i) key[i] = from[i * at.inner];
          sort_line(key, at.size, order, count, descending);
          const int64_t to = line / at.inner * count * at.inner + line % at.inner;
          for (int64_t i = 0; i < count; ++i) {
            values.as<T>()[to + i * at.inner] = key[order[i]];
            indices.as<int64_t>()[to + i * at.inner] = order[i];
          }
        }
      });
    });
  }

 private:
  static constexpr int64_t kLong = 1 << 18, kPiece = 1 << 12;  // elements of a line; comparisons
  struct Stopped {};

  template <class F>
  static void sort(int64_t* order, int64_t count, int64_t size, const F& before) {
    if (count < size)
      std::partial_sort(order, order + count, order + size, before);
    else
      std::sort(order, order + size, before);
  }

  // A line that may take a while: where it is to end, what is left is some order.
  template <class F>
  static void sort_long(int64_t* order, int64_t count, int64_t size, const F& before) {
    int64_t compared = 0;
    const auto asking = [&](int64_t i, int64_t j) {
      if (++compared % kPiece == 0 && should_stop()) throw Stopped();
      return before(i, j);
    };
    try {
      sort(order, count, size, asking);
    } catch (const Stopped&) {
    }
  }

  template <class T>
  static void sort_line(const T* key, int64_t size, int64_t* order, int64_t count, bool descending) {
    for (int64_t i = 0; i < size; ++i) order[i] = i;
    const auto before = [&](int64_t i, int64_t j) {
      const T a = key[i], b = key[j];
      if (descending ? less(b, a) : less(a, b)) return true;
      if (descending ? less(a, b) : less(b, a)) return false;
      return i < j;
    };
    if (size > kLong) return sort_long(order, count, size, before);
    sort(order, count, size, before);
  }
};

class Sort final : public Order {
 public:
  explicit Sort(const NodeInfo& node) : Order(node), descending_(node.integer("descending", 0, 1, 0) == 1) {}
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    checked_axis(inputs);
    return {inputs[0], {DType::i64, inputs[0].shape}};
  }
  void run(const RunArgs& args) const override {
    run_order(args, args.inputs[0].shape[axis(args.inputs[0].shape)], descending_);
  }

 private:
  bool descending_;
};

class TopK final : public Order {
 public:
  explicit TopK(const NodeInfo& node)
      : Order(node), k_(node.dim("k")), largest_(node.integer("largest", 0, 1, 1) == 1) {}
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    Shape shape = inputs[0].shape;
    const int at = checked_axis(inputs);
    const int64_t k = evaluate(k_, symbols);
    require(k >= 0 && k <= shape[at], "k is " + std::to_string(k) + ", the axis has " + std::to_string(shape[at]));
    shape[at] = k;
    return {{inputs[0].dtype, shape}, {DType::i64, shape}};
  }
  void run(const RunArgs& args) const override { run_order(args, evaluate(k_, args.symbols), largest_); }

 private:
  Dim k_;
  bool largest_;
};

}  // namespace

const OpRows kOrderingOps = {
    {"argmax", make<ArgExtreme>},
    {"sort", make<Sort>},
    {"topk", make<TopK>},
};

}  // namespace lowbit::graph
