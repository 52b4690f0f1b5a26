// What a file may say: every mistake is an Error that names it, and nothing that passes can crash.
#include <limits>
#include <map>

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

bool refused_node(const char* part, const std::string& op, const std::vector<std::string>& inputs,
                  Attributes attributes, int outputs = 1) {
  return refused(part, [&](Maker& m) {
    m.builder.constant("w", "f32", {4, 4, 3, 3}, bytes(576));
    m.builder.constant("w8", "s8", {4, 4, 3, 3}, bytes(144));
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
  CHECK(refused_node("must be f32 of rank 4", "conv2d", {"x", "w8"}, {}));
  CHECK(refused_node("must be s8 of rank 4", "conv2d_i8", {"x", "w", "f4", "f4"}, {{"output", std::string("u8")}}));
  CHECK(refused_node("must be u8", "conv2d_i8", {"x", "w8", "f4", "f4"}, {{"output", std::string("u8")}}));
  CHECK(refused_node("'output' (a text) is missing", "conv2d_i8", {"x", "w8", "f4", "f4"}, {}));
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

TEST(weights_that_could_overflow_are_refused) {
  const auto with = [](int64_t depth, int8_t code, float multiplier) {
    Maker m;
    Array w(DType::s8, {1, depth}), scale(DType::f32, {1}), bias(DType::f32, {1});
    std::fill_n(w.as<int8_t>(), depth, code);
    *scale.as<float>() = multiplier;
    const std::string y =
        m.node("linear_i8", {m.input("u8", dims({1, depth})), m.constant(w), m.constant(scale), m.constant(bias)},
               {{"output", std::string("u8")}});
    m.session({y}, default_isa());
  };
  CHECK(throws(ErrorKind::graph, "could leave int32", [&] { with(70000, 127, 1.0f); }));
  CHECK(throws(ErrorKind::graph, "not finite", [&] { with(10, 1, std::numeric_limits<float>::infinity()); }));
  CHECK(throws(ErrorKind::graph, "too large", [&] { with(10, 1, 3e38f); }));
  with(66000, 127, 1.0f);
  with(10, -128, 1.0f);
}

// What a random node is made of. Integers: mostly small, now and then hostile.
class RandomNode {
 public:
  RandomNode(Maker& m, Random& random) : m_(m), random_(random) {}

  // The node's outputs; `inputs` are the graph's.
  std::vector<std::string> make(const std::string& op, const std::string& x, const TensorType& type) {
    std::vector<std::string> inputs = {x};
    const int64_t rank = type.shape.rank(), channels = rank > 1 ? type.shape[1] : 1,
                  last = rank > 0 ? type.shape[static_cast<int>(rank) - 1] : 1;
    const bool conv = op.starts_with("conv"), linear = op.starts_with("linear"), integer = op.ends_with("_i8");
    if (conv || linear) {
      const int64_t groups = conv && random_.whole(0, 2) == 0 ? std::max<int64_t>(channels, 1) : 1,
                    filters = groups * random_.whole(1, 3);
      Shape weight = linear ? Shape{filters, last} : Shape{filters, channels / groups};
      for (int axis = op.find("3d") != std::string::npos ? 3 : 2; conv && axis > 0; --axis)
        weight.push_back(random_.whole(1, 4));
      inputs.push_back(integer ? m_.codes(DType::s8, weight) : m_.floats(weight));
      if (integer) inputs.push_back(m_.floats({filters}, 0.01f));
      if (integer || maybe()) inputs.push_back(m_.floats({filters}));
      set("groups", groups);
    } else if (op == "add" || op == "sub" || op == "mul" || op == "div" || op == "add_i8" || op == "mul_i8" ||
               op == "concat") {
      inputs.push_back(maybe() ? x : m_.floats({random_.whole(0, 3), 1}));
    }
    if (op == "lookup" || random_.whole(0, 30) == 0) inputs.push_back(m_.codes(DType::u8, {256}));
    for (const char* key : {"zero_point", "zero_point_x", "zero_point_y", "zero_point_a", "zero_point_b", "lo"})
      set(key, random_.whole(0, 255));
    for (const char* key : {"scale", "multiplier", "multiplier_a", "multiplier_b", "value", "min", "max", "alpha"})
      set(key, static_cast<double>(random_.real(0, 2)));
    const size_t spatial = op.find("3d") == std::string::npos ? 2 : 3;
    for (const char* key : {"stride", "dilation", "output_size", "kernel"}) set(key, sizes(spatial, 1, 3));
    set("output_padding", sizes(spatial, 0, 1));
    set("padding", sizes(op == "pad" ? 2 * static_cast<size_t>(rank) : 2 * spatial, 0,
                         op.find("pool") == std::string::npos ? 3 : 0));
    set("axis", random_.whole(-rank, rank));
    set("axes", sizes(static_cast<size_t>(random_.whole(0, rank)), -rank, rank));
    set("perm", permutation(rank));
    set("shape", sizes(static_cast<size_t>(random_.whole(0, 4)), 0, 8));
    for (const char* key : {"start", "stop", "step"}) set(key, random_.whole(0, 9));
    for (const char* key : {"ceil_mode", "count_include_pad", "keepdim"}) set(key, random_.whole(0, 1));
    set("output", std::string(maybe() ? "u8" : "f32"));
    set("granularity", std::string(maybe() ? "row" : "sample"));
    constexpr const char* kTypes[] = {"f32", "f16", "i64", "i32", "bool", "u8", "s8"};
    set("dtype", std::string(kTypes[random_.whole(0, 6)]));
    constexpr const char* kKinds[] = {"gelu", "relu6", "softplus", "leaky_relu", "exp", "no such kind"};
    set("kind", std::string(kKinds[random_.whole(0, 5)]));
    keep_known(op);
    spoil();
    return m_.nodes(op, inputs, op == "dynamic_quantize" ? 3 : 1, attributes_);
  }

 private:
  bool maybe() { return random_.whole(0, 1) == 0; }
  int64_t hostile() {
    constexpr int64_t kValues[] = {
        0, -1, 63, 300, int64_t{1} << 31, int64_t{1} << 40, kHuge, std::numeric_limits<int64_t>::min()};
    return kValues[random_.whole(0, 7)];
  }
  void set(const char* key, graph::Attribute value) { attributes_[key] = std::move(value); }
  std::vector<int64_t> sizes(size_t count, int64_t low, int64_t high) {
    std::vector<int64_t> values(count);
    for (int64_t& value : values) value = random_.whole(low, high);
    return values;
  }
  std::vector<int64_t> permutation(int64_t rank) {
    std::vector<int64_t> perm;
    for (int64_t i = 0; i < rank; ++i) perm.insert(perm.begin() + random_.whole(0, i), i);
    return perm;
  }

  void keep_known(const std::string& op) {
    for (auto it = attributes_.begin(); it != attributes_.end();)
      it = knows(op, it->first) ? std::next(it) : attributes_.erase(it);
  }
  static bool knows(const std::string& op, const std::string& key);

  // One attribute, or one of its items, becomes hostile.
  void spoil() {
    if (attributes_.empty() || random_.whole(0, 3) != 0) return;
    auto it = attributes_.begin();
    std::advance(it, random_.whole(0, static_cast<int64_t>(attributes_.size()) - 1));
    if (auto* values = std::get_if<std::vector<int64_t>>(&it->second);
        values != nullptr && !values->empty() && maybe()) {
      (*values)[static_cast<size_t>(random_.whole(0, static_cast<int64_t>(values->size()) - 1))] = hostile();
    } else {
      it->second = hostile();
    }
  }

  Maker& m_;
  Random& random_;
  Attributes attributes_;
};

bool RandomNode::knows(const std::string& op, const std::string& key) {
  static const std::map<std::string, std::string> kKnown = {
      {"adaptive_avg_pool2d", "output_size"},
      {"adaptive_avg_pool2d_i8", "output_size zero_point_x multiplier output zero_point_y lo"},
      {"add_i8", "zero_point_a multiplier_a zero_point_b multiplier_b zero_point_y lo"},
      {"avg_pool2d", "kernel stride padding ceil_mode count_include_pad"},
      {"avg_pool2d_i8",
       "kernel stride padding ceil_mode count_include_pad zero_point_x multiplier output zero_point_y lo"},
      {"cast", "dtype"},
      {"clip", "min max"},
      {"concat", "axis"},
      {"conv2d", "stride padding dilation groups"},
      {"conv2d_i8", "stride padding dilation groups zero_point_x output zero_point_y lo min max"},
      {"conv3d", "stride padding dilation groups"},
      {"conv3d_i8", "stride padding dilation groups zero_point_x output zero_point_y lo min max"},
      {"conv_transpose2d", "stride padding dilation groups output_padding"},
      {"conv_transpose2d_i8",
       "stride padding dilation groups output_padding zero_point_x output zero_point_y lo min max"},
      {"conv_transpose3d", "stride padding dilation groups output_padding"},
      {"conv_transpose3d_i8",
       "stride padding dilation groups output_padding zero_point_x output zero_point_y lo min max"},
      {"dequantize", "scale zero_point"},
      {"dynamic_quantize", "granularity"},
      {"linear_i8", "zero_point_x output zero_point_y lo min max"},
      {"max_pool2d", "kernel stride padding dilation ceil_mode"},
      {"mean", "axes keepdim"},
      {"mul_i8", "zero_point_a zero_point_b multiplier zero_point_y lo"},
      {"pad", "padding value"},
      {"quantize", "scale zero_point"},
      {"reshape", "shape"},
      {"slice", "axis start stop step"},
      {"softmax", "axis"},
      {"transpose", "perm"},
      {"unary", "kind alpha"}};
  const auto found = kKnown.find(op);
  return found != kKnown.end() && (" " + found->second + " ").find(" " + key + " ") != std::string::npos;
}

// An Error or a clean run, and the sanitizers have the last word.
TEST(random_nodes_never_crash) {
  const std::vector<std::string> ops = graph::registered_ops();
  Random random(99);
  std::map<std::string, int> accepted;
  for (int round = 0; round < 10000; ++round) {
    Maker m(static_cast<uint64_t>(round) + 1);
    const std::string& op = ops[static_cast<size_t>(round) % ops.size()];
    const bool codes = op.ends_with("_i8") || op == "dequantize" || op == "lookup" || random.whole(0, 7) == 0;
    TensorType type{codes ? DType::u8 : DType::f32, {}};
    const int64_t usual = op.find("3d") == std::string::npos ? 4 : 5;
    for (int64_t axis = random.whole(0, 3) != 0 ? usual : random.whole(0, 5); axis > 0; --axis)
      type.shape.push_back(random.whole(0, 9));
    const std::string x = m.input(graph::name_of(type.dtype), dims(type.shape));
    const std::vector<std::string> outputs = RandomNode(m, random).make(op, x, type);
    try {
      const auto session = m.session(outputs, default_isa(), 2);
      run(*session, {codes ? random_codes(DType::u8, type.shape, random) : random_floats(type.shape, random)});
      ++accepted[op];
    } catch (const Error&) {
    } catch (const std::bad_alloc&) {
    }
  }
  for (const std::string& op : ops) {
    if (accepted[op] < 20) std::printf("%s: %d accepted\n", op.c_str(), accepted[op]);
    CHECK(accepted[op] >= 5);
  }
}

}  // namespace
}  // namespace lowbit::test
