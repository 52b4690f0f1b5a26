// Builds small graphs with reproducible random constants, and runs them on owned memory.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>

#include "graph/layout.h"
#include "graph/session.h"

namespace lowbit::test {

using graph::Attributes;
using graph::Dim;
using graph::DimOp;
using graph::GraphBuilder;
using graph::Session;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t bits() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  int64_t whole(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  float real(float low, float high) {
    return low + (high - low) * static_cast<float>(bits() >> 40) / static_cast<float>(1 << 24);
  }

 private:
  uint64_t state_;
};

// A tensor that owns its memory.
struct Array {
  TensorType type;
  std::vector<std::byte> bytes;

  Array(DType dtype, Shape shape) : type{dtype, shape}, bytes(bytes_of(type)) {}
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
  Tensor view() { return {type, graph::strides_of(type.shape, graph::Layout::contiguous), bytes.data()}; }
  friend bool operator==(const Array&, const Array&) = default;
};

inline Array random_floats(Shape shape, Random& random, float scale = 1.0f) {
  Array array(DType::f32, shape);
  for (int64_t i = 0; i < shape.elements(); ++i) array.as<float>()[i] = random.real(-scale, scale);
  return array;
}

inline Array random_codes(DType dtype, Shape shape, Random& random) {
  Array array(dtype, shape);
  for (int64_t i = 0; i < shape.elements(); ++i) {
    if (dtype == DType::s8) {
      array.as<int8_t>()[i] = static_cast<int8_t>(random.whole(-127, 127));
    } else {
      array.as<uint8_t>()[i] = static_cast<uint8_t>(random.whole(0, 255));
    }
  }
  return array;
}

inline std::vector<Dim> dims(const Shape& shape) {
  std::vector<Dim> result;
  for (int64_t size : shape) result.push_back(Dim::constant(size));
  return result;
}
inline Dim symbol(int64_t index) { return Dim{{static_cast<int64_t>(DimOp::symbol), index}}; }

// A builder that names values by itself and remembers the constants.
class Maker {
 public:
  explicit Maker(uint64_t seed = 1) : random(seed) {}

  std::string input(std::string_view dtype, std::vector<Dim> shape) {
    const std::string name = fresh();
    builder.input(name, dtype, std::move(shape));
    return name;
  }
  std::string constant(const Array& array) {
    const std::string name = fresh();
    Buffer buffer(array.bytes.size());
    if (!array.bytes.empty()) std::memcpy(buffer.as<void>(), array.bytes.data(), array.bytes.size());
    builder.constant(name, graph::name_of(array.type.dtype), {array.type.shape.begin(), array.type.shape.end()},
                     std::move(buffer));
    return name;
  }
  std::string weight(graph::Weight weight) {
    const std::string name = fresh();
    builder.weight(name, std::move(weight));
    return name;
  }
  // A quantized weight of 8-bit codes, whose scales are 1.
  std::string weight(const Array& codes) {
    graph::Weight weight;
    weight.shape = codes.type.shape;
    weight.codes = Buffer(codes.bytes.size());
    std::memcpy(weight.codes.as<void>(), codes.bytes.data(), codes.bytes.size());
    weight.scales = Buffer(codes.type.shape[0] * sizeof(float));
    std::fill_n(weight.scales.as<float>(), codes.type.shape[0], 1.0f);
    return this->weight(std::move(weight));
  }
  std::string weight(const Shape& shape) { return weight(random_codes(DType::s8, shape, random)); }
  std::string floats(Shape shape, float scale = 1.0f) { return constant(random_floats(shape, random, scale)); }
  std::string codes(DType dtype, Shape shape) { return constant(random_codes(dtype, shape, random)); }
  std::string node(std::string_view op, const std::vector<std::string>& inputs, Attributes attributes = {}) {
    return nodes(op, inputs, 1, std::move(attributes))[0];
  }
  std::vector<std::string> nodes(std::string_view op, const std::vector<std::string>& inputs, int outputs,
                                 Attributes attributes) {
    std::vector<std::string> names;
    for (int i = 0; i < outputs; ++i) names.push_back(fresh());
    builder.node(std::string(op), "node " + names[0], inputs, names, std::move(attributes));
    return names;
  }
  std::unique_ptr<Session> session(const std::vector<std::string>& outputs, Isa isa, int threads = 1) {
    for (const std::string& output : outputs) builder.output(output);
    return std::make_unique<Session>(builder.finish(), isa, threads);
  }

  GraphBuilder builder;
  Random random;

 private:
  std::string fresh() { return std::string("v").append(std::to_string(count_++)); }
  int count_ = 0;
};

inline std::vector<Array> run(const Session& session, std::vector<Array> inputs) {
  std::vector<Tensor> in, out;
  for (Array& input : inputs) in.push_back(input.view());
  Session::Call call(session, in);
  std::vector<Array> outputs;
  for (const TensorType& type : call.outputs()) outputs.emplace_back(type.dtype, type.shape);
  for (Array& output : outputs) out.push_back(output.view());
  call.run(out);
  return outputs;
}

}  // namespace lowbit::test
