// What a file may say: every mistake is an Error that names it, and nothing that passes can crash.
#include <algorithm>
#include <limits>

#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

Buffer bytes(size_t count) { return Buffer(count); }

bool refused(const char* part, const std::function<void(Maker&)>& fill) {
  Maker m;
  m.builder.input("x", "f32", dims({1, 4, 8, 8}));
  fill(m);
  return throws(ErrorKind::graph, part, [&] { m.session({"x"}, default_isa()); });
}

// 8-bit codes [4, 4, 3, 3].
graph::Weight sound_weight() {
  graph::Weight weight;
  weight.shape = {4, 4, 3, 3};
  weight.codes = Buffer(144);
  weight.scales = Buffer(16);
  std::fill_n(weight.scales.as<float>(), 4, 1.0f);
  return weight;
}

// 4-bit codes [4, 32] in groups of 8.
graph::Weight grouped_weight() {
  graph::Weight weight;
  weight.shape = {4, 32};
  weight.bits = 4;
  weight.group_size = 8;
  weight.codes = Buffer(64);
  weight.scale_type = DType::f16;
  weight.scales = Buffer(32);
  std::fill_n(weight.scales.as<uint16_t>(), 16, uint16_t{0x3C00});
  return weight;
}

bool refused_node(const char* part, const std::string& op, const std::vector<std::string>& inputs,
                  Attributes attributes, int outputs = 1) {
  return refused(part, [&](Maker& m) {
    m.builder.constant("w", "f32", {4, 4, 3, 3}, bytes(576));
    m.builder.weight("w8", sound_weight());
    m.builder.constant("f4", "f32", {4}, bytes(16));
    m.nodes(op, inputs, outputs, std::move(attributes));
  });
}

TEST(all_problems_come_at_once) {
  Maker m;
  m.builder.input("x", "f32", dims({2}));
  m.builder.input("x", "f33", dims({2}));
  m.builder.symbol("n", 5, 2);
  m.builder.constant("c", "f32", {3}, bytes(11));
  m.node("no_such_op", {"x"});
  m.node("clip", {"nowhere"});
  m.node("clip", {"x"}, {{"min", std::string("low")}, {"size", int64_t{1}}});
  m.builder.output("missing");
  try {
    m.session({}, default_isa());
    CHECK(false);
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part : {"'x' is defined twice", "dtype 'f33'", "minimum <= maximum", "got 11", "unknown operator",
                             "'nowhere' is not defined", "'min' must be a finite", "'missing' is not defined"})
      if (text.find(part) == std::string::npos) {
        std::printf("no '%s' in: %s\n", part, text.c_str());
        CHECK(false);
      }
    CHECK(error.kind() == ErrorKind::graph);
  }
}

TEST(wrong_values_are_refused) {
  CHECK(refused("rank 9", [](Maker& m) {
    m.builder.input("y", "f32", dims({1, 1, 1, 1, 1, 1, 1, 1})),
        m.builder.input("z", "f32", std::vector<Dim>(9, Dim::constant(1)));
  }));
  CHECK(refused("negative or too large", [](Maker& m) { m.builder.input("y", "f32", dims({kHuge, kHuge})); }));
  CHECK(refused("negative or too large", [](Maker& m) { m.builder.input("y", "f32", dims({-1})); }));
  CHECK(refused("negative or too large", [](Maker& m) { m.builder.constant("c", "f32", {kHuge, 4}, bytes(16)); }));
  CHECK(
      refused("negative or too large", [](Maker& m) { m.builder.constant("c", "f32", {0, kHuge, kHuge}, bytes(0)); }));
  CHECK(refused("is not the size of any input", [](Maker& m) { m.builder.symbol("n", 1, 2); }));
  CHECK(refused("wrong length", [](Maker& m) { m.builder.input("y", "f32", {Dim{}}); }));
  CHECK(refused("wrong length", [](Maker& m) { m.builder.input("y", "f32", {Dim{{0}}}); }));
  CHECK(refused("unknown operation", [](Maker& m) { m.builder.input("y", "f32", {Dim{{99, 0}}}); }));
  CHECK(refused("symbol that does not exist", [](Maker& m) { m.builder.input("y", "f32", {Dim{{1, 0}}}); }));
  CHECK(refused("lacks an operand", [](Maker& m) { m.builder.input("y", "f32", {Dim{{0, 1, 2, 0}}}); }));
  CHECK(refused("left over", [](Maker& m) { m.builder.input("y", "f32", {Dim{{0, 1, 0, 1}}}); }));
  CHECK(refused("overflows", [](Maker& m) { m.builder.input("y", "f32", {Dim{{0, kHuge, 0, 2, 4, 0}}}); }));
  CHECK(refused("divides by zero", [](Maker& m) { m.builder.input("y", "f32", {Dim{{0, 7, 0, 0, 5, 0}}}); }));
  CHECK(refused("overflows", [](Maker& m) {
    m.builder.input("y", "f32", {Dim{{0, std::numeric_limits<int64_t>::min(), 0, -1, 5, 0}}});
  }));
  CHECK(refused("needs a name", [](Maker& m) { m.builder.input("", "f32", {}); }));
}

TEST(wrong_nodes_are_refused) {
  CHECK(refused_node("unknown operator", "conv9d", {"x"}, {}));
  CHECK(refused_node("takes 2 to 4 inputs", "conv2d", {"x"}, {}));
  CHECK(refused_node("must be a constant", "conv2d", {"x", "x"}, {}));
  CHECK(refused_node("cannot be a quantized weight", "conv2d", {"x", "w8"}, {}));
  CHECK(refused_node("cannot be a quantized weight", "add", {"x", "w8"}, {}));
  CHECK(refused_node("must be a quantized weight", "quantized_conv2d", {"x", "w", "f4", "f4"},
                     {{"output", std::string("u8")}}));
  CHECK(refused_node("must be u8", "quantized_conv2d", {"x", "w8", "f4", "f4"}, {{"output", std::string("u8")}}));
  CHECK(refused_node("'output' (a text) is missing", "quantized_conv2d", {"x", "w8", "f4", "f4"}, {}));
  CHECK(refused_node("unknown attribute 'strides'", "conv2d", {"x", "w"}, {{"strides", int64_t{1}}}));
  CHECK(refused_node("'stride' must be", "conv2d", {"x", "w"}, {{"stride", std::vector<int64_t>{0, 1}}}));
  CHECK(refused_node("'stride' must be", "conv2d", {"x", "w"}, {{"stride", std::vector<int64_t>{1}}}));
  CHECK(refused_node("'dilation' must be", "conv2d", {"x", "w"}, {{"dilation", std::vector<int64_t>{kHuge, kHuge}}}));
  CHECK(refused_node("'padding' must be", "conv2d", {"x", "w"}, {{"padding", std::vector<int64_t>{-1, 0, 0, 0}}}));
  CHECK(refused_node("does not fit", "conv2d", {"x", "w"}, {{"dilation", std::vector<int64_t>{30000, 30000}}}));
  CHECK(refused_node("too large", "conv_transpose2d", {"x", "w"}, {{"stride", std::vector<int64_t>{70, 70}}}));
  CHECK(refused_node("below the stride", "conv_transpose2d", {"x", "w"},
                     {{"output_padding", std::vector<int64_t>{2, 0}}}));
  CHECK(
      refused_node("does not fit", "conv_transpose2d", {"x", "w"}, {{"padding", std::vector<int64_t>{900, 0, 0, 0}}}));
  CHECK(refused_node("do not divide", "conv2d", {"x", "w"}, {{"groups", int64_t{3}}}));
  CHECK(refused_node("channels", "conv2d", {"x", "w"}, {{"groups", int64_t{2}}}));
  CHECK(refused_node("finite", "clip", {"x"}, {{"min", std::numeric_limits<double>::quiet_NaN()}}));
  CHECK(refused_node("finite", "clip", {"x"}, {{"min", 1e300}}));
  CHECK(refused_node("outputs", "clip", {"x"}, {}, 2));
  CHECK(refused_node("positive normal", "quantize", {"x"}, {{"scale", 0.0}, {"zero_point", int64_t{0}}}));
  CHECK(refused_node("'zero_point' must be", "quantize", {"x"}, {{"scale", 1.0}, {"zero_point", int64_t{256}}}));
  CHECK(refused_node("does not reshape", "reshape", {"x"}, {{"shape", std::vector<int64_t>{kHuge, kHuge}}}));
  CHECK(refused_node("more than 8 axes", "reshape", {"x"}, {{"shape", std::vector<int64_t>(9, 1)}}));
  CHECK(refused_node("no permutation", "transpose", {"x"}, {{"perm", std::vector<int64_t>{0, 0, 1, 2}}}));
  CHECK(refused_node("out of range", "softmax", {"x"}, {{"axis", int64_t{4}}}));
  CHECK(refused_node("negative or too large", "pad", {"x"},
                     {{"padding", std::vector<int64_t>(8, (int64_t{1} << 31) - 1)}, {"value", 0.0}}));
  CHECK(refused_node("names no function", "unary", {"x"}, {{"kind", std::string("format_disk")}}));
  CHECK(refused_node("wider than the window", "max_pool2d", {"x"},
                     {{"kernel", std::vector<int64_t>{2, 2}},
                      {"stride", std::vector<int64_t>{1, 1}},
                      {"padding", std::vector<int64_t>{2, 0, 0, 0}}}));
}

TEST(wrong_weights_are_refused) {
  const auto with = [](const char* part, graph::Weight (*sound)(), const auto& change) {
    return refused(part, [&](Maker& m) {
      graph::Weight weight = sound();
      change(weight);
      m.builder.weight("w", std::move(weight));
    });
  };
  const auto grouped = [&](const char* part, const auto& change) { return with(part, grouped_weight, change); };
  CHECK(with("1, 2, 3, 4 or 8 bits", sound_weight, [](graph::Weight& w) { w.bits = 5; }));
  CHECK(with("take 108 bytes, got 144", sound_weight, [](graph::Weight& w) { w.shape[0] = 3; }));
  CHECK(with("none of a weight", sound_weight, [](graph::Weight& w) { w.shape[0] = kHuge; }));
  CHECK(with("none of a weight", sound_weight, [](graph::Weight& w) { w.shape = {}; }));
  CHECK(with("a scale for each group", sound_weight, [](graph::Weight& w) { w.scales = Buffer(12); }));
  CHECK(with("finite and positive", sound_weight, [](graph::Weight& w) { w.scales.as<float>()[3] = -1; }));
  CHECK(with("finite and positive", sound_weight, [](graph::Weight& w) { w.scales = Buffer(16); }));
  CHECK(grouped("divide the depth", [](graph::Weight& w) { w.group_size = 12; }));
  CHECK(grouped("divide the depth", [](graph::Weight& w) { w.group_size = -8; }));
  CHECK(grouped("none of them empty", [](graph::Weight& w) { w.shape = {4, 0}; }));
  CHECK(grouped("finite and positive", [](graph::Weight& w) { w.scales.as<uint16_t>()[7] = 0x7C00; }));
  CHECK(grouped("a zero point is no code", [](graph::Weight& w) {
    w.zero_points = Buffer(16);
    w.zero_points.as<uint8_t>()[5] = 16;
  }));
  CHECK(grouped("a zero point for each", [](graph::Weight& w) { w.zero_points = Buffer(15); }));
  CHECK(grouped("a finite offset", [](graph::Weight& w) { w.offsets = Buffer(30); }));
  CHECK(grouped("a finite value", [](graph::Weight& w) { w.values = Buffer(32); }));
  CHECK(grouped("exclude each other", [](graph::Weight& w) {
    w.zero_points = Buffer(16);
    w.offsets = Buffer(32);
  }));
  for (int bits : {1, 3}) {
    Maker m;
    graph::Weight weight = grouped_weight();
    weight.bits = bits;
    weight.codes = Buffer(16 * bits);
    const std::string y = m.node(
        "quantized_linear", {m.input("u8", dims({1, 32})), m.weight(std::move(weight)), m.floats({4}), m.floats({4})},
        {{"output", std::string("f32")}});
    CHECK(throws(ErrorKind::graph, "no kernel reads its weight yet", [&] { m.session({y}, default_isa()); }));
  }
}

TEST(weights_that_could_overflow_are_refused) {
  const auto with = [](int64_t depth, int8_t code, float multiplier) {
    Maker m;
    Array w(DType::s8, {1, depth}), scale(DType::f32, {1}), bias(DType::f32, {1});
    std::fill_n(w.as<int8_t>(), depth, code);
    *scale.as<float>() = multiplier;
    const std::string y =
        m.node("quantized_linear", {m.input("u8", dims({1, depth})), m.weight(w), m.constant(scale), m.constant(bias)},
               {{"output", std::string("u8")}});
    m.session({y}, default_isa());
  };
  CHECK(throws(ErrorKind::graph, "could leave int32", [&] { with(70000, 127, 1.0f); }));
  CHECK(throws(ErrorKind::graph, "not finite", [&] { with(10, 1, std::numeric_limits<float>::infinity()); }));
  CHECK(throws(ErrorKind::graph, "too large", [&] { with(10, 1, 3e38f); }));
  with(66000, 127, 1.0f);
  with(10, -128, 1.0f);
}

}  // namespace
}  // namespace lowbit::test
