// Bytes as a graph: any bytes are some sequence of calls of the builder, and a changed byte mostly changes one of them.
//
// Four bytes choose sizes and data of the runs; then come statements: a byte for the kind (its lowest three bits:
// symbol, input, constant, weight, node, node, output, condition), and what it takes. Numbers are a byte where they
// are small; values are named by how many definitions they lie back; words are places in words.h; operators are the
// hash of their name. fuzz_seeds.py writes the same for whole graphs.
#pragma once

#include <bit>
#include <cctype>
#include <cmath>
#include <limits>
#include <set>

#include "base/half.h"
#include "make.h"
#include "words.h"

namespace lowbit::fuzz {

using graph::Dim;
using test::Random;

// What is beyond the end is zero.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

  bool done() const { return data_ == end_; }
  uint8_t byte() { return done() ? 0 : *data_++; }
  size_t count(size_t limit) { return byte() % (limit + 1); }
  template <class List>
  std::string_view word(const List& list) {
    return list[byte() % list.size()];
  }
  uint64_t raw(int bytes) {
    uint64_t bits = 0;
    for (int i = 0; i < bytes; ++i) bits |= uint64_t{byte()} << 8 * i;
    return bits;
  }

  int64_t whole() {
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
    constexpr std::array<int64_t, 13> kHostile = {
        100,     1000,  1 << 16,    (int64_t{1} << 31) - 1, int64_t{1} << 31, -(int64_t{1} << 31),
        1 << 24, kMost, -kMost - 1, int64_t{1} << 32,       int64_t{1} << 40, int64_t{1} << 62,
        -1};
    const uint8_t first = byte();
    if (first < 240) return int64_t{first} - 8;
    if (first == 240) return static_cast<int16_t>(raw(2));
    if (first == 241) return static_cast<int32_t>(raw(4));
    if (first == 242) return static_cast<int64_t>(raw(8));
    return kHostile[first - 243];
  }

  double real() {
    using Limits = std::numeric_limits<float>;
    constexpr std::array<double, 10> kHostile = {-0.0,
                                                 Limits::quiet_NaN(),
                                                 Limits::infinity(),
                                                 -Limits::infinity(),
                                                 1e-45,
                                                 Limits::min(),
                                                 Limits::max(),
                                                 1e300,
                                                 1e-300,
                                                 0.1};
    const uint8_t first = byte();
    if (first < 128) return (first - 32) / 8.0;
    if (first == 128) return std::bit_cast<float>(static_cast<uint32_t>(raw(4)));
    if (first == 129) return std::bit_cast<double>(raw(8));
    return kHostile[(first - 130) % kHostile.size()];
  }

 private:
  const uint8_t *data_, *end_;
};

// 16 bits of FNV-1a.
inline uint16_t hash_of(std::string_view name) {
  uint32_t hash = 2166136261u;
  for (const char letter : name) hash = (hash ^ static_cast<uint8_t>(letter)) * 16777619u;
  return static_cast<uint16_t>(hash ^ hash >> 16);
}

// The operator of that hash, or the next one, so that an operator more moves few of the others.
inline const std::string& operator_of(uint16_t hash) {
  static const std::map<uint16_t, std::string> names = [] {
    std::map<uint16_t, std::string> found;
    for (std::string& name : graph::registered_ops()) found.emplace(hash_of(name), std::move(name));
    return found;
  }();
  const auto next = names.lower_bound(hash);
  return (next == names.end() ? names.begin() : next)->second;
}

// The calls that bytes stand for. Statements of the numbers in `left_out` are none, and define nothing.
class Decoder {
 public:
  Decoder(const uint8_t* data, size_t size, const std::set<int>& left_out = {}) : in_(data, size) {
    for (uint8_t& each : choices) each = in_.byte();
    for (; number_ < kMaxStatements && !in_.done(); ++number_) {
      taken_ = !left_out.contains(number_);
      statement(in_.byte());
    }
    if (!has_output_) builder.output(values_.empty() ? "" : values_.back());
  }

  graph::GraphBuilder builder;
  std::array<uint8_t, 4> choices;

  // Names every value that a node makes an output, so that nothing is computed in place, joined or left out.
  void expose() {
    for (const std::string& name : made_) builder.output(name);
  }

 private:
  static constexpr int kMaxStatements = 200;
  static constexpr int64_t kMaxBytes = 1 << 16;  // of a constant; a larger one gets none, and is refused

  void statement(uint8_t kind) {
    spoiled_ = kind >= 0xF0;
    switch (kind & 7) {
      case 0:
        symbol();
        break;
      case 1: {
        const std::string_view type = in_.word(kTypes);
        std::vector<Dim> shape = dims();
        if (taken_) builder.input(define(), type, std::move(shape));
        break;
      }
      case 2:
        constant();
        break;
      case 3:
        weight();
        break;
      case 6: {
        const std::string name = value();
        if (taken_) builder.output(name);
        has_output_ |= taken_;
        break;
      }
      case 7: {
        const std::string_view condition = in_.word(kConditions);
        Dim size = dim();
        if (taken_) builder.condition(condition, std::move(size));
        break;
      }
      default:
        node();
    }
  }

  void symbol() {
    const int64_t minimum = in_.whole(), maximum = in_.whole(), multiple = in_.whole(), remainder = in_.whole(),
                  trial = in_.whole();
    if (taken_) builder.symbol("s" + std::to_string(number_), minimum, maximum, multiple, remainder, trial);
  }

  // A new name, which holds the statement's number, or the first again.
  std::string define() {
    const std::string fresh = "v" + std::to_string(number_) + "_" + std::to_string(values_.size());
    values_.push_back(spoiled_ && !values_.empty() ? values_.front() : fresh);
    return values_.back();
  }
  std::string value() {
    const uint8_t back = in_.byte();
    if (back == 255 || values_.empty()) return "";
    return back == 254 ? "nowhere" : values_[values_.size() - 1 - back % values_.size()];
  }

  // Below 224 a number, below 240 a symbol, else an expression.
  Dim dim() {
    const uint8_t first = in_.byte();
    if (first < 224) return Dim::constant(first);
    if (first == 224) return Dim::constant(in_.whole());
    if (first < 240) return test::symbol(first - 225);
    Dim expression;
    for (int i = 240; i <= first; ++i) {
      expression.rpn.push_back(in_.byte() % 11);
      expression.rpn.push_back(expression.rpn.back() < 2 || expression.rpn.back() == 9 ? in_.whole() : 0);
    }
    return expression;
  }
  std::vector<Dim> dims() {
    std::vector<Dim> made(in_.count(9));
    for (Dim& each : made) each = dim();
    return made;
  }
  std::vector<int64_t> wholes(size_t limit) {
    std::vector<int64_t> made(in_.count(limit));
    for (int64_t& each : made) each = in_.whole();
    return made;
  }

  void constant() {
    const std::string_view name = in_.word(kTypes);
    const std::vector<int64_t> shape = wholes(9);
    TensorType type;
    const bool known = graph::parse_dtype(name, type.dtype);
    for (size_t i = 0; i < std::min<size_t>(shape.size(), kMaxRank); ++i) type.shape.push_back(shape[i]);
    const int64_t elements = graph::checked_elements(type);
    const bool fits = known && elements >= 0 && bytes_of(type) <= kMaxBytes;
    Buffer data = contents(type.dtype, fits ? type.shape.elements() : 0);
    if (taken_) builder.constant(define(), name, shape, std::move(data));
  }

  // Listed numbers over and over, or random ones.
  Buffer contents(DType type, int64_t elements) {
    Buffer buffer(elements * size_of(type));
    const std::vector<int64_t> listed = wholes(32);
    Random random(in_.byte());
    for (int64_t i = 0; i < elements; ++i)
      put(buffer, type, i,
          listed.empty() ? random.real(-2, 2) * (is_float(type) ? 1 : 64)
                         : static_cast<double>(listed[i % listed.size()]));
    return buffer;
  }
  static bool is_float(DType type) { return type == DType::f32 || type == DType::f16 || type == DType::bf16; }

 public:
  // Any number as one of that type.
  static void put(const Buffer& buffer, DType type, int64_t i, double number) {
    const double bounded = std::clamp(std::isnan(number) ? 0.0 : number, -9.2e18, 9.2e18);
    const auto whole = static_cast<int64_t>(bounded);
    switch (type) {
      case DType::f32:
        buffer.as<float>()[i] = static_cast<float>(number);
        break;
      case DType::f16:
      case DType::bf16:
        buffer.as<uint16_t>()[i] = half_from_float(static_cast<float>(number));
        break;
      case DType::i64:
        buffer.as<int64_t>()[i] = whole;
        break;
      case DType::i32:
        buffer.as<int32_t>()[i] = static_cast<int32_t>(static_cast<uint64_t>(whole));
        break;
      case DType::boolean:
        buffer.as<uint8_t>()[i] = whole & 1;
        break;
      default:
        buffer.as<uint8_t>()[i] = static_cast<uint8_t>(static_cast<uint64_t>(whole));
    }
  }

 private:
  void weight() {
    graph::Weight weight;
    const std::vector<int64_t> shape = wholes(kMaxRank);
    for (const int64_t size : shape) weight.shape.push_back(size);
    weight.bits = in_.byte();
    weight.group_size = in_.whole();
    const uint8_t parts = in_.byte(), density = in_.byte();
    weight.pattern = in_.word(kPatterns);
    Random random(in_.byte());
    const TensorType floats{DType::f32, weight.shape};
    const int64_t elements = graph::checked_elements(floats);

    const bool fits =
        elements > 0 && elements <= kMaxBytes && weight.bits >= 1 && weight.bits <= 8 && shape.size() >= 2;
    if (fits && weight.group_size >= 0) fill(weight, parts, density, random);
    if (taken_) builder.weight(define(), std::move(weight));
  }

  // parts: which there are beside codes and scales; the two highest bits make sizes or scales wrong.
  static void fill(graph::Weight& weight, uint8_t parts, uint8_t density, Random& random) {
    const size_t extra = (parts & 0x40) != 0 ? 1 : 0;
    weight.codes = Buffer(weight.code_bytes() + extra);
    for (size_t i = 0; i < weight.code_bytes(); ++i) {
      const bool kept = weight.bits < 8 || is_kept(weight.shape, static_cast<int64_t>(i), density);
      weight.codes.as<int8_t>()[i] = static_cast<int8_t>(kept ? random.whole(-127, 127) : 0);
    }
    weight.scale_type = (parts & 1) != 0 ? DType::f16 : DType::f32;
    const int64_t scales = weight.channels() * weight.groups();
    weight.scales = Buffer(scales * size_of(weight.scale_type));
    for (int64_t i = 0; i < scales; ++i)
      put(weight.scales, weight.scale_type, i, (parts & 0x80) != 0 && i == 1 ? -1 : random.real(0.01f, 1));
    if ((parts & 2) != 0) {
      weight.zero_points = Buffer(scales);
      for (int64_t i = 0; i < scales; ++i)
        weight.zero_points.as<uint8_t>()[i] = static_cast<uint8_t>(random.whole(0, (1 << weight.bits) - 1));
    }
    if ((parts & 4) != 0) weight.offsets = Buffer(2 * scales);
    if ((parts & 8) != 0) weight.values = Buffer(sizeof(float) << weight.bits);
    if ((parts & 8) != 0 && weight.bits == 1) weight.values.as<float>()[0] = -1, weight.values.as<float>()[1] = 1;
  }

  // Whether the block of 4 x 4 channels that holds the code is one of the `density` of 255 that are not zero.
  static bool is_kept(const Shape& shape, int64_t place, uint8_t density) {
    int64_t window = 1;
    for (int axis = 2; axis < shape.rank(); ++axis) window *= shape[axis];
    const int64_t row = place / (shape[1] * window) / 4, column = place / window % shape[1] / 4, tap = place % window;
    return static_cast<uint8_t>(hash_of(std::to_string((row * 4096 + column) * 64 + tap))) <= density;
  }

  void node() {
    const std::string op = operator_of(static_cast<uint16_t>(in_.raw(2)));
    std::vector<std::string> inputs(in_.count(15)), outputs(in_.count(7));
    for (std::string& each : inputs) each = value();
    graph::Attributes attributes;
    for (size_t count = in_.count(23); count > 0; --count) {
      const std::string_view key = in_.word(kKeys);
      attributes.emplace(key, attribute());
    }
    if (!taken_) return;
    for (std::string& each : outputs) made_.push_back(each = define());
    builder.node(op, "n" + std::to_string(number_), inputs, outputs, std::move(attributes));
  }

  graph::Attribute attribute() {
    switch (in_.count(5)) {
      case 0:
        return in_.whole();
      case 1:
        return in_.real();
      case 2:
        return std::string(in_.word(kTexts));
      case 3:
        return wholes(20);
      case 4: {
        std::vector<double> reals(in_.count(20));
        for (double& each : reals) each = in_.real();
        return reals;
      }
      default:
        return dims();
    }
  }

  Reader in_;
  std::vector<std::string> values_, made_;
  int number_ = 0;  // of the statement
  bool taken_ = true, spoiled_ = false, has_output_ = false;
};

// The statements that an error's lines name first.
inline std::set<int> blamed(const std::string& text) {
  std::set<int> found;
  for (size_t line = 0; line != std::string::npos && line < text.size(); line = text.find('\n', line + 1)) {
    const size_t name = text.find('\'', line) + 1, end = text.find('\n', line + 1);
    if (name > 0 && name + 1 < end && name + 1 < text.size() && std::isdigit(text[name + 1]) != 0)
      found.insert(std::atoi(text.c_str() + name + 1));
  }
  return found;
}

}  // namespace lowbit::fuzz
