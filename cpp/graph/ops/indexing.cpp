// Operators that read or write at computed places. Indices are checked before anything is touched.
#include "graph/ops/indexing.h"

#include <array>
#include <cstring>
#include <type_traits>

#include "graph/ops/common.h"
#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

// Copies or adds blocks of adjacent elements; reads move nothing but bytes.
class IndexOp : public Op {
 public:
  explicit IndexOp(const NodeInfo& node) : axis_(node.integer("axis", -kMaxRank, kMaxRank - 1)) {
    node.expect_outputs(1);
  }
  Work work(Types inputs, Types outputs) const override {
    Work work;  // the table is not read whole
    for (size_t i = 1; i < inputs.size(); ++i) work.bytes += bytes_of(inputs[i]);
    for (const TensorType& type : outputs) work.bytes += 2 * bytes_of(type);
    return work;
  }

 protected:
  int axis(const Shape& shape) const { return normalized_axis(axis_, shape.rank()); }
  // Input 1 holds indices, of input 0's shape but for the axis.
  void require_fit(Types inputs) const {
    require_indices(inputs, 1);
    const Shape &x = inputs[0].shape, &indices = inputs[1].shape;
    const int at = axis(x);
    Shape expected = x;
    expected[at] = indices.rank() == x.rank() ? indices[at] : 0;
    require(indices == expected, "indices " + to_string(indices) + " do not fit the input " + to_string(x) +
                                     " but for axis " + std::to_string(at));
  }

 private:
  int64_t axis_;
};

// x's shape with some axes, from `axis` on, replaced by the indices'.
Shape indexed(const Shape& x, int axis, int count, const Shape& indices) {
  require(x.rank() - count + indices.rank() <= kMaxRank, "the output has more than 8 axes");
  Shape result;
  for (int i = 0; i < axis; ++i) result.push_back(x[i]);
  for (int64_t size : indices) result.push_back(size);
  for (int i = axis + count; i < x.rank(); ++i) result.push_back(x[i]);
  return result;
}

// y's block i = x's block place(i), for blocks of so many bytes.
template <class F>
void copy_blocks(const std::byte* x, std::byte* y, int64_t bytes, int64_t begin, int64_t end, F place) {
  const auto each = [&](auto element) {
    using T = decltype(element);
    for (int64_t i = begin; i < end; ++i) reinterpret_cast<T*>(y)[i] = reinterpret_cast<const T*>(x)[place(i)];
  };
  switch (bytes) {
    case 1:
      return each(uint8_t{});
    case 2:
      return each(uint16_t{});
    case 4:
      return each(uint32_t{});
    case 8:
      return each(uint64_t{});
    default:
      for (int64_t i = begin; i < end; ++i) std::memcpy(y + i * bytes, x + place(i) * bytes, bytes);
  }
}

// y[.., i.., ..] = x[.., indices[i..], ..]: rows of an embedding table.
class Take final : public IndexOp {
 public:
  explicit Take(const NodeInfo& node) : IndexOp(node) { node.expect_inputs(2, 2); }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_indices(inputs, 1);
    const Shape& x = inputs[0].shape;
    return {{inputs[0].dtype, indexed(x, axis(x), 1, inputs[1].shape)}};
  }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &indices = args.inputs[1], &y = args.outputs[0];
    const AxisSplit at = split_at(x.shape, axis(x.shape));
    check_indices(indices, 0, at.size);
    const int64_t count = indices.shape.elements(), block = at.inner * size_of(x.dtype);
    run_shares(at.outer * count, 2 * bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      copy_blocks(x.as<const std::byte>(), y.as<std::byte>(), block, begin, end,
                  [&](int64_t row) { return row / count * at.size + inside(index_at(indices, row % count), at.size); });
    });
  }
};

template <class T, class I>
void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y, const AxisSplit& at, int64_t size,
                 int64_t begin, int64_t end) {
  if (at.inner == 1) {
    for (int64_t row = begin; row < end;) {
      const T* from = x.as<const T>() + row / size * at.size;
      for (const int64_t stop = std::min(end, (row / size + 1) * size); row < stop; ++row)
        y.as<T>()[row] = from[inside(read_once(indices.as<const I>() + row), at.size)];
    }
    return;
  }
  for (int64_t row = begin; row < end; ++row) {  // of [outer][y's size]
    const T* from = x.as<const T>() + row / size * at.size * at.inner;
    const I* index = indices.as<const I>() + row * at.inner;
    T* to = y.as<T>() + row * at.inner;
    for (int64_t i = 0; i < at.inner; ++i) to[i] = from[inside(read_once(index + i), at.size) * at.inner + i];
  }
}

// y[.., i, ..] = x[.., indices[.., i, ..], ..] along one axis
class Gather final : public IndexOp {
 public:
  explicit Gather(const NodeInfo& node) : IndexOp(node) { node.expect_inputs(2, 2); }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_fit(inputs);
    return {{inputs[0].dtype, inputs[1].shape}};
  }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &indices = args.inputs[1], &y = args.outputs[0];
    const int axis_of_x = axis(x.shape);
    const AxisSplit at = split_at(x.shape, axis_of_x);
    const int64_t size = y.shape[axis_of_x];
    check_indices(indices, 0, at.size);
    run_shares(at.outer * size, 4 * bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      switch (size_of(x.dtype)) {
        case 1:
          return rows<uint8_t>(x, indices, y, at, size, begin, end);
        case 2:
          return rows<uint16_t>(x, indices, y, at, size, begin, end);
        case 4:
          return rows<uint32_t>(x, indices, y, at, size, begin, end);
        default:
          return rows<uint64_t>(x, indices, y, at, size, begin, end);
      }
    });
  }

 private:
  template <class T>
  static void rows(const Tensor& x, const Tensor& indices, const Tensor& y, const AxisSplit& at, int64_t size,
                   int64_t begin, int64_t end) {
    indices.dtype == DType::i64 ? gather_rows<T, int64_t>(x, indices, y, at, size, begin, end)
                                : gather_rows<T, int32_t>(x, indices, y, at, size, begin, end);
  }
};

// Several index tensors, broadcast to one shape, for as many adjacent axes; a negative index counts from the end.
class Places {
 public:
  Places(int first, int count) : first_(first), count_(count) {}

  void require_fit(Op::Types inputs, const Shape& x, int axis) const {
    require(axis + count_ <= x.rank(), std::to_string(count_) + " indices from axis " + std::to_string(axis) +
                                           " are more than " + to_string(x) + " has");
    for (int i = 0; i < count_; ++i) require_indices(inputs, first_ + i);
  }
  template <class Operands>
  Shape shape(const Operands& inputs) const {
    Shape shape;
    for (int i = 0; i < count_; ++i) shape = broadcast_shape(shape, inputs[first_ + i].shape);
    return shape;
  }
  Shape result(Op::Types inputs, const Shape& x, int axis) const { return indexed(x, axis, count_, shape(inputs)); }
  // x as [outer][indexed axes][inner]
  AxisSplit split(const Shape& x, int axis) const {
    AxisSplit split;
    for (int i = 0; i < x.rank(); ++i) (i < axis ? split.outer : i < axis + count_ ? split.size : split.inner) *= x[i];
    return split;
  }
  size_t scratch_bytes(Op::Types inputs) const { return shape(inputs).elements() * sizeof(int64_t); }
  // The position within the indexed axes, for each of the indices' elements. Throws for one out of range.
  void find(std::span<const Tensor> inputs, const Shape& x, int axis, int64_t* places) const {
    const Shape all = shape(inputs);
    const int64_t elements = all.elements();
    std::fill_n(places, elements, 0);
    for (int i = 0; i < count_; ++i) {
      const Tensor& indices = inputs[first_ + i];
      const int64_t size = x[axis + i];
      check_indices(indices, -size, size);
      if (indices.dtype == DType::i64)
        add_places<int64_t>(indices, all, size, places);
      else
        add_places<int32_t>(indices, all, size, places);
    }
  }

 private:
  // places = places * size + index, line by line of the last axis.
  template <class I>
  static void add_places(const Tensor& indices, const Shape& all, int64_t size, int64_t* places) {
    const Shape strides = broadcast_strides(indices, all);
    const int rank = all.rank();
    const int64_t line = rank == 0 ? 1 : all[rank - 1], step = rank == 0 ? 0 : strides[rank - 1];
    std::array<int64_t, kMaxRank> at{};
    int64_t offset = 0;
    for (int64_t *to = places, *end = places + all.elements(); to < end; to += line) {
      const I* from = indices.as<const I>() + offset;
      for (int64_t i = 0; i < line; ++i) {
        const auto index = static_cast<int64_t>(read_once(from + i * step));
        to[i] = to[i] * size + inside(index < 0 ? index + size : index, size);
      }
      for (int d = rank - 2; d >= 0; --d) {
        offset += strides[d];
        if (++at[d] < all[d]) break;
        offset -= strides[d] * all[d];
        at[d] = 0;
      }
    }
  }

  int first_, count_;
};

// y[.., i.., ..] = x[.., a[i..], b[i..], .., ..]
class Index final : public IndexOp {
 public:
  explicit Index(const NodeInfo& node) : IndexOp(node), places_(1, node.present.size() - 1) {
    node.expect_inputs(std::max<size_t>(node.present.size(), 2), kMaxRank + 1);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const Shape& x = inputs[0].shape;
    places_.require_fit(inputs, x, axis(x));
    return {{inputs[0].dtype, places_.result(inputs, x, axis(x))}};
  }
  size_t scratch_bytes(Types inputs, Types, int) const override { return places_.scratch_bytes(inputs); }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &y = args.outputs[0];
    const AxisSplit at = places_.split(x.shape, axis(x.shape));
    auto* places = reinterpret_cast<int64_t*>(args.scratch);
    places_.find(args.inputs, x.shape, axis(x.shape), places);
    const int64_t count = places_.shape(args.inputs).elements(), element = size_of(x.dtype);
    const int64_t block = at.inner * element;
    run_shares(at.outer * count, 2 * bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      copy_blocks(x.as<const std::byte>(), y.as<std::byte>(), block, begin, end,
                  [&](int64_t row) { return row / count * at.size + places[row % count]; });
    });
  }

 private:
  Places places_;
};

enum class Update { none, add, mul, max, min };
Update update_of(const NodeInfo& node) {
  const std::string kind = node.text("reduce", "none");
  constexpr std::array<std::string_view, 5> kNames = {"none", "add", "mul", "max", "min"};
  const auto found = std::find(kNames.begin(), kNames.end(), kind);
  if (found == kNames.end()) node.fail("attribute 'reduce' must be none, add, mul, max or min");
  return static_cast<Update>(found - kNames.begin());
}
void require_update(Update update, DType dtype) {
  require(update == Update::none || dtype == DType::f32 || dtype == DType::i64 || dtype == DType::i32,
          "only f32, i64 and i32 can be reduced");
}

template <class T>
T combined(Update update, T old, T value) {
  using Wide = std::conditional_t<std::is_integral_v<T>, uint64_t, T>;
  switch (update) {
    case Update::add:
      return static_cast<T>(static_cast<Wide>(old) + static_cast<Wide>(value));
    case Update::mul:
      return static_cast<T>(static_cast<Wide>(old) * static_cast<Wide>(value));
    case Update::max:
      return old != old || old > value ? old : value;
    case Update::min:
      return old != old || old < value ? old : value;
    default:
      return value;
  }
}

// Calls f(T{}) with a type that stores the dtype's elements, a numeric one where they are to be reduced.
template <class F>
void with_element(DType dtype, F f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::i64:
      return f(int64_t{});
    case DType::i32:
      return f(int32_t{});
    default:
      return size_of(dtype) == 2 ? f(uint16_t{}) : f(uint8_t{});
  }
}

// y = x, but y[.., indices[.., i, ..], ..] takes updates[.., i, ..], in order.
class Scatter final : public IndexOp {
 public:
  explicit Scatter(const NodeInfo& node) : IndexOp(node), update_(update_of(node)) { node.expect_inputs(3, 3); }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    require_fit(inputs);
    require_type(inputs, 2, inputs[0].dtype);
    require_update(update_, inputs[0].dtype);
    require_shape(inputs, 2, inputs[1].shape);
    return {inputs[0]};
  }
  int in_place() const override { return 0; }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &indices = args.inputs[1], &updates = args.inputs[2], &y = args.outputs[0];
    const int axis_of_x = axis(x.shape);
    const AxisSplit at = split_at(x.shape, axis_of_x);
    const int64_t size = indices.shape[axis_of_x], rows = indices.shape.elements() == 0 ? 0 : at.outer * size;
    check_indices(indices, 0, at.size);
    if (y.data != x.data) std::memcpy(y.data, x.data, bytes_of(x));
    with_element(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      for (int64_t row = 0; row < rows; ++row) {
        T* to = y.as<T>() + row / size * at.size * at.inner;
        for (int64_t i = 0; i < at.inner; ++i) {
          T& old = to[inside(index_at(indices, row * at.inner + i), at.size) * at.inner + i];
          old = combined(update_, old, updates.as<const T>()[row * at.inner + i]);
        }
      }
    });
  }

 private:
  Update update_;
};

// y = x, but y[.., a[i..], b[i..], .., ..] takes updates[.., i.., ..], in order.
class IndexPut final : public IndexOp {
 public:
  explicit IndexPut(const NodeInfo& node)
      : IndexOp(node), update_(update_of(node)), places_(2, std::max<size_t>(node.present.size(), 3) - 2) {
    node.expect_inputs(std::max<size_t>(node.present.size(), 3), kMaxRank + 2);
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t>) const override {
    const Shape& x = inputs[0].shape;
    places_.require_fit(inputs, x, axis(x));
    require_type(inputs, 1, inputs[0].dtype);
    require_update(update_, inputs[0].dtype);
    require_shape(inputs, 1, places_.result(inputs, x, axis(x)));
    return {inputs[0]};
  }
  int in_place() const override { return 0; }
  size_t scratch_bytes(Types inputs, Types, int) const override { return places_.scratch_bytes(inputs); }
  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &updates = args.inputs[1], &y = args.outputs[0];
    const AxisSplit at = places_.split(x.shape, axis(x.shape));
    auto* places = reinterpret_cast<int64_t*>(args.scratch);
    places_.find(args.inputs, x.shape, axis(x.shape), places);
    const int64_t count = places_.shape(args.inputs).elements();
    if (y.data != x.data) std::memcpy(y.data, x.data, bytes_of(x));
    with_element(x.dtype, [&](auto zero) {
      using T = decltype(zero);
      for (int64_t row = 0; row < at.outer * count; ++row) {
        T* to = y.as<T>() + (row / count * at.size + places[row % count]) * at.inner;
        const T* from = updates.as<const T>() + row * at.inner;
        for (int64_t i = 0; i < at.inner; ++i) to[i] = combined(update_, to[i], from[i]);
      }
    });
  }

 private:
  Update update_;
  Places places_;
};

// y[n, c] = 0, but at each flat index of its own image the x that goes there; of several the last one.
class MaxUnpool final : public Op {
 public:
  explicit MaxUnpool(const NodeInfo& node) : size_(node.dims("output_size")) {
    node.expect_inputs(2, 2);
    node.expect_outputs(1);
    if (size_.size() != 2) node.fail("attribute 'output_size' must have 2 items");
  }
  std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const override {
    require_type(inputs, 0, DType::f32, 4);
    require_type(inputs, 1, DType::i64, 4);
    require_shape(inputs, 1, inputs[0].shape);
    Shape shape = inputs[0].shape;
    for (int axis : {2, 3}) {
      shape[axis] = evaluate(size_[axis - 2], symbols);
      require(shape[axis] >= 0 && shape[axis] <= kMaxSize,
              "the output has " + std::to_string(shape[axis]) + " elements an axis");
    }
    return {{DType::f32, shape}};
  }
  Layout input_layout(size_t) const override { return Layout::channels_last; }
  Layout output_layout(size_t) const override { return Layout::channels_last; }

  void run(const RunArgs& args) const override {
    const Tensor &x = args.inputs[0], &indices = args.inputs[1], &y = args.outputs[0];
    const int64_t channels = x.shape[1], from = x.shape[2] * x.shape[3], to = y.shape[2] * y.shape[3];
    check_indices(indices, 0, to);
    const int64_t blocks = (channels + kBlock - 1) / kBlock;
    run_shares(x.shape[0] * blocks, bytes_of(y), args.threads, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t n = block / blocks, first = block % blocks * kBlock, count = std::min(kBlock, channels - first);
        float* image = y.as<float>() + n * to * channels + first;
        for (int64_t pixel = 0; pixel < to; ++pixel) std::fill_n(image + pixel * channels, count, 0.0f);
        for (int64_t pixel = n * from; pixel < (n + 1) * from; ++pixel)
          for (int64_t c = 0; c < count; ++c) {
            const int64_t at = pixel * channels + first + c;
            image[inside(index_at(indices, at), to) * channels + c] = x.as<const float>()[at];
          }
      }
    });
  }

 private:
  static constexpr int64_t kBlock = 16;  // channels: a cache line of a pixel
  std::vector<Dim> size_;
};

}  // namespace

const OpRows kIndexingOps = {
    {"gather", make<Gather>},          {"index", make<Index>},     {"index_put", make<IndexPut>},
    {"max_unpool2d", make<MaxUnpool>}, {"scatter", make<Scatter>}, {"take", make<Take>},
};

}  // namespace lowbit::graph
