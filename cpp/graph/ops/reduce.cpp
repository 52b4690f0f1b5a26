// Reductions over axes, and running sums. Floats are summed and multiplied in float64, in one order that depends on the
// shape alone; a variance takes two passes.
#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

constexpr int64_t kColumns = 64;  // outputs whose accumulators are held at once
constexpr int64_t kSums = 8;      // accumulators of one row

template <class T>
using Wide = std::conditional_t<std::is_floating_point_v<T>, double,
                                std::make_unsigned_t<std::conditional_t<std::is_floating_point_v<T>, int, T>>>;

template <class T>
struct Sum {
  using Result = T;
  using Accumulator = Wide<T>;
  static constexpr Accumulator start() { return 0; }
  static Accumulator join(Accumulator a, Accumulator b) { return a + b; }
};
template <class T>
struct Product : Sum<T> {
  using Accumulator = Wide<T>;
  static constexpr Accumulator start() { return 1; }
  static Accumulator join(Accumulator a, Accumulator b) { return a * b; }
};
template <class T>
struct Maximum {
  using Result = T;
  using Accumulator = T;
  static constexpr T start() {
    return std::is_floating_point_v<T> ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::min();
  }
  static T join(T a, T b) { return b != b || b > a ? b : a; }  // a NaN stays: nothing is greater
};
template <class T>
struct Minimum {
  using Result = T;
  using Accumulator = T;
  static constexpr T start() {
    return std::is_floating_point_v<T> ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();
  }
  static T join(T a, T b) { return b != b || b < a ? b : a; }
};
struct Any {
  using Result = uint8_t;
  using Accumulator = uint8_t;
  static constexpr uint8_t start() { return 0; }
  static uint8_t join(uint8_t a, uint8_t b) { return static_cast<uint8_t>(a | (b != 0)); }
};
struct All {
  using Result = uint8_t;
  using Accumulator = uint8_t;
  static constexpr uint8_t start() { return 1; }
  static uint8_t join(uint8_t a, uint8_t b) { return static_cast<uint8_t>(a & (b != 0)); }
};

// The axes of a row-major input, neighbours of one kind joined: those that are kept, and those that go.
struct Loops {
  struct Axes {
    int rank = 0;
    std::array<int64_t, kMaxRank> size{}, stride{};
    int64_t count = 1;
    void add(int64_t n, int64_t step) {
      size[rank] = n;
      stride[rank++] = step;
      count *= n;
    }
    // The offset of the index whose number in row-major order is i.
    int64_t offset(int64_t i) const {
      int64_t offset = 0;
      for (int d = rank - 1; d >= 0; --d) {
        offset += i % size[d] * stride[d];
        i /= size[d];
      }
      return offset;
    }
  } kept, gone;
  int64_t row = 1;     // the last axes, if they go; else 1
  int64_t column = 1;  // the last axes, if they are kept; else 1

  int64_t units() const { return kept.count * ((column + kColumns - 1) / kColumns); }
};

Loops loops_of(const Shape& x, const std::array<bool, kMaxRank>& reduced) {
  struct Part {
    int64_t size, stride;
    bool gone;
  };
  std::array<Part, kMaxRank> parts;
  size_t count = 0;
  int64_t stride = 1;
  for (int axis = x.rank() - 1; axis >= 0; --axis) {  // innermost first
    const bool gone = reduced[axis];
    if (x[axis] != 1) {
      if (count > 0 && parts[count - 1].gone == gone)
        parts[count - 1].size *= x[axis];
      else
        parts[count++] = {x[axis], stride, gone};
    }
    stride *= x[axis];
  }
  Loops loops;
  size_t first = 0;
  if (count > 0) {
    (parts[0].gone ? loops.row : loops.column) = parts[0].size;
    first = 1;
  }
  for (size_t i = count; i-- > first;) (parts[i].gone ? loops.gone : loops.kept).add(parts[i].size, parts[i].stride);
  return loops;
}

// read(element, column): what is reduced.
template <class Kind, class T>
struct Plain {
  auto operator()(T value, int64_t) const { return static_cast<typename Kind::Accumulator>(value); }
};

// What the elements behind one kept index come to.
template <class Kind, class T, class Read = Plain<Kind, T>>
typename Kind::Accumulator reduce_row(const T* x, int64_t n, typename Kind::Accumulator total, Read read) {
  typename Kind::Accumulator sums[kSums];
  for (auto& sum : sums) sum = Kind::start();
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int64_t j = 0; j < kSums; ++j) sums[j] = Kind::join(sums[j], read(x[i + j], 0));
  for (int64_t j = 0; i + j < n; ++j) sums[j] = Kind::join(sums[j], read(x[i + j], 0));
  for (int64_t half = kSums / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; ++j) sums[j] = Kind::join(sums[j], sums[j + half]);
  return Kind::join(total, sums[0]);
}

template <class Kind, class T, class Read = Plain<Kind, T>>
typename Kind::Accumulator reduce_rows(const Loops& loops, const T* from, Read read = {}) {
  auto total = Kind::start();
  for (int64_t j = 0; j < loops.gone.count; ++j)
    total = reduce_row<Kind>(from + loops.gone.offset(j), loops.row, total, read);
  return total;
}

// The same for n <= kColumns neighbours.
template <class Kind, class T, class Read = Plain<Kind, T>>
void reduce_columns(const Loops& loops, const T* from, int64_t n, typename Kind::Accumulator* totals, Read read = {}) {
  for (int64_t c = 0; c < n; ++c) totals[c] = Kind::start();
  for (int64_t j = 0; j < loops.gone.count; ++j) {
    const T* line = from + loops.gone.offset(j);
    for (int64_t c = 0; c < n; ++c) totals[c] = Kind::join(totals[c], read(line[c], c));
  }
}

// Unit u: some columns of one kept index, f(first input, first output, columns).
template <class F>
void each_unit(const Loops& loops, int64_t begin, int64_t end, F f) {
  const int64_t blocks = (loops.column + kColumns - 1) / kColumns;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t kept = unit / blocks, first = unit % blocks * kColumns;
    f(loops.kept.offset(kept) + first, kept * loops.column + first, std::min(kColumns, loops.column - first));
  }
}

template <class Kind, class T>
void reduce(const Loops& loops, const void* x, void* y, int64_t begin, int64_t end) {
  each_unit(loops, begin, end, [&](int64_t input, int64_t output, int64_t n) {
    const T* from = static_cast<const T*>(x) + input;
    auto* to = static_cast<typename Kind::Result*>(y) + output;
    typename Kind::Accumulator totals[kColumns];
    if (loops.column > 1)
      reduce_columns<Kind>(loops, from, n, totals);
    else
      totals[0] = reduce_rows<Kind>(loops, from);
    for (int64_t c = 0; c < n; ++c) to[c] = static_cast<typename Kind::Result>(totals[c]);
  });
}

// sum((x - mean)^2) / divisor, or its root; the second pass reads what the first left in the cache.
void variance(const Loops& loops, double divisor, bool root, const float* x, float* y, int64_t begin, int64_t end) {
  const auto count = static_cast<double>(loops.gone.count * loops.row);
  each_unit(loops, begin, end, [&](int64_t input, int64_t output, int64_t n) {
    const float* from = x + input;
    double means[kColumns], totals[kColumns];
    const auto square = [&](float value, int64_t c) {
      const double apart = static_cast<double>(value) - means[c];
      return apart * apart;
    };
    if (loops.column > 1) {
      reduce_columns<Sum<float>>(loops, from, n, means);
      for (int64_t c = 0; c < n; ++c) means[c] /= count;
      reduce_columns<Sum<float>>(loops, from, n, totals, square);
    } else {
      means[0] = reduce_rows<Sum<float>>(loops, from) / count;
      totals[0] = reduce_rows<Sum<float>>(loops, from, square);
    }
    for (int64_t c = 0; c < n; ++c) {
      const double square = totals[c] / divisor;
      y[output + c] = static_cast<float>(root ? std::sqrt(square) : square);
    }
  });
}

using ReduceFunction = void (*)(const Loops&, const void*, void*, int64_t, int64_t);

template <template <class> class Kind>
ReduceFunction reduce_numbers(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return reduce<Kind<float>, float>;
    case DType::i64:
      return reduce<Kind<int64_t>, int64_t>;
    case DType::i32:
      return reduce<Kind<int32_t>, int32_t>;
    default:
      return nullptr;
  }
}

// Null: not defined for the type. A variance is no single pass.
ReduceFunction find_reduce(std::string_view kind, DType dtype) {
  if (kind == "sum") return reduce_numbers<Sum>(dtype);
  if (kind == "prod") return reduce_numbers<Product>(dtype);
  if (kind == "max") return reduce_numbers<Maximum>(dtype);
  if (kind == "min") return reduce_numbers<Minimum>(dtype);
  if (dtype != DType::boolean) return nullptr;
  return kind == "any" ? reduce<Any, uint8_t> : reduce<All, uint8_t>;
}

class Reduce final : public Op {
 public:
  explicit Reduce(const NodeInfo& node)
      : kind_(node.text("kind")),
        axes_(node.integers("axes", 0, -kMaxRank, kMaxRank - 1)),
        keep_(node.integer("keepdim", 0, 1, 0) == 1),
        correction_(node.has("correction") ? node.number("correction") : 0.0) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    constexpr std::array<std::string_view, 8> kKinds = {"sum", "prod", "max", "min", "any", "all", "var", "std"};
    if (std::find(kKinds.begin(), kKinds.end(), kind_) == kKinds.end())
      node.fail("attribute 'kind' must be sum, prod, max, min, any, all, var or std");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const Shape& x = inputs[0].shape;
    require(is_variance() ? inputs[0].dtype == DType::f32 : find_reduce(kind_, inputs[0].dtype) != nullptr,
            kind_ + " is not defined for " + std::string(name_of(inputs[0].dtype)));
    const std::array<bool, kMaxRank> reduced = reduced_axes(x);
    require(std::count(reduced.begin(), reduced.end(), true) == std::ssize(axes_), "axes repeat");
    Shape shape;
    bool empty = false;
    for (int axis = 0; axis < x.rank(); ++axis) {
      const bool gone = reduced[axis];
      empty |= gone && x[axis] == 0;
      if (!gone || keep_) shape.push_back(gone ? 1 : x[axis]);
    }
    require(!empty || shape.elements() == 0 || (kind_ != "max" && kind_ != "min"),
            "there is no " + kind_ + " of no elements");
    return {{inputs[0].dtype, shape}};
  }
  Work work(Types inputs, Types outputs) const override {
    Work work = Op::work(inputs, outputs);
    work.operations = static_cast<double>(inputs[0].shape.elements()) * (is_variance() ? 4 : 1);
    return work;
  }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const Loops loops = loops_of(x.shape, reduced_axes(x.shape));
    if (is_variance()) return run_variance(args, loops);
    const ReduceFunction run = find_reduce(kind_, x.dtype);
    run_shares(loops.units(), bytes_of(x), args.threads,
               [&](int64_t begin, int64_t end) { run(loops, x.data, y.data, begin, end); });
  }

 private:
  bool is_variance() const { return kind_ == "var" || kind_ == "std"; }

  void run_variance(const RunArgs& args, const Loops& loops) const {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const double divisor = std::max(static_cast<double>(loops.gone.count * loops.row) - correction_, 0.0);
    run_shares(loops.units(), 2 * bytes_of(x), args.threads, [&](int64_t begin, int64_t end) {
      variance(loops, divisor, kind_ == "std", x.as<const float>(), y.as<float>(), begin, end);
    });
  }

  std::array<bool, kMaxRank> reduced_axes(const Shape& shape) const {
    std::array<bool, kMaxRank> reduced{};
    for (int64_t axis : axes_) reduced[normalized_axis(axis, shape.rank())] = true;
    return reduced;
  }

  std::string kind_;
  std::vector<int64_t> axes_;
  bool keep_;
  double correction_;
};

// Running totals, or extremes, along one axis, for units of some columns each.
template <template <class> class Kind, class T>
void accumulate(const AxisSplit& at, const void* x, void* y, int64_t begin, int64_t end) {
  const int64_t blocks = (at.inner + kColumns - 1) / kColumns;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (at.inner == 1) {
      auto total = Kind<T>::start();
      for (int64_t i = unit * at.size; i < (unit + 1) * at.size; ++i) {
        total = Kind<T>::join(total, static_cast<typename Kind<T>::Accumulator>(static_cast<const T*>(x)[i]));
        static_cast<T*>(y)[i] = static_cast<T>(total);
      }
      continue;
    }
    const int64_t first = unit % blocks * kColumns, n = std::min(kColumns, at.inner - first);
    const int64_t offset = unit / blocks * at.size * at.inner + first;
    typename Kind<T>::Accumulator totals[kColumns];
    for (auto& total : totals) total = Kind<T>::start();
    for (int64_t i = 0; i < at.size; ++i) {
      const T* from = static_cast<const T*>(x) + offset + i * at.inner;
      T* to = static_cast<T*>(y) + offset + i * at.inner;
      for (int64_t c = 0; c < n; ++c) {
        totals[c] = Kind<T>::join(totals[c], static_cast<typename Kind<T>::Accumulator>(from[c]));
        to[c] = static_cast<T>(totals[c]);
      }
    }
  }
}

using AccumulateFunction = void (*)(const AxisSplit&, const void*, void*, int64_t, int64_t);

template <template <class> class Kind>
AccumulateFunction accumulate_numbers(DType dtype) {
  return dtype == DType::f32 ? accumulate<Kind, float> : dtype == DType::i64 ? accumulate<Kind, int64_t> : nullptr;
}

class Accumulate final : public Op {
 public:
  explicit Accumulate(const NodeInfo& node)
      : axis_(node.integer("axis", -kMaxRank, kMaxRank - 1)), kind_(node.text("kind", "sum")) {
    node.expect_inputs(1, 1);
    node.expect_outputs(1);
    constexpr std::array<std::string_view, 4> kKinds = {"sum", "prod", "max", "min"};
    if (std::ranges::find(kKinds, kind_) == kKinds.end()) node.fail("attribute 'kind' must be sum, prod, max or min");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    normalized_axis(axis_, inputs[0].shape.rank());
    require(function(inputs[0].dtype) != nullptr, "the input must be f32 or i64, is " + to_string(inputs[0]));
    return {inputs[0]};
  }
  int in_place() const override { return 0; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const AxisSplit at = split_at(x.shape, normalized_axis(axis_, x.shape.rank()));
    const AccumulateFunction run = function(x.dtype);
    run_shares(at.outer * ((at.inner + kColumns - 1) / kColumns), 2 * bytes_of(x), args.threads,
               [&](int64_t begin, int64_t end) { run(at, x.data, y.data, begin, end); });
  }

 private:
  AccumulateFunction function(DType dtype) const {
    if (kind_ == "prod") return accumulate_numbers<Product>(dtype);
    if (kind_ == "max") return accumulate_numbers<Maximum>(dtype);
    if (kind_ == "min") return accumulate_numbers<Minimum>(dtype);
    return accumulate_numbers<Sum>(dtype);
  }

  int64_t axis_;
  std::string kind_;
};

}  // namespace

const OpRows kReduceOps = {
    {"cumsum", make<Accumulate>},
    {"reduce", make<Reduce>},
};

}  // namespace lowbit::graph
