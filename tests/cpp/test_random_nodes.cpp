// Nodes of every operator, mostly sensible and sometimes hostile: an Error or a clean run, and the sanitizers have the
// last word.
#include <cmath>
#include <limits>
#include <map>

#include "base/half.h"
#include "check.h"
#include "make.h"

namespace lowbit::test {
namespace {

// What a node of an operator takes: the first input's dtype and rank (-1: any), the operands after it, its attributes.
struct Kind {
  DType dtype = DType::f32;
  int rank = 4;
  const char* operands = "";  // separated by spaces, see RandomNode::operand; "a|b": either
  const char* attributes = "";
  int outputs = 1;
};

constexpr const char* kConv = "stride padding dilation groups";
constexpr const char* kConvI8 = "stride padding dilation groups zero_point_x output zero_point_y lo min max";
constexpr const char* kTransposedI8 =
    "stride padding dilation groups output_padding zero_point_x output zero_point_y lo min max";

const std::map<std::string, Kind, std::less<>>& kinds() {
  static const std::map<std::string, Kind, std::less<>> table = {
      {"adaptive_avg_pool2d", {DType::f32, 4, "", "output_size"}},
      {"adaptive_max_pool2d", {DType::f32, 4, "", "output_size"}},
      {"adaptive_max_pool2d_with_indices", {DType::f32, 4, "", "output_size", 2}},
      {"add", {DType::f32, 4, "like"}},
      {"arange", {DType::f32, 0, "none", "start length step whole"}},
      {"argmax", {DType::f32, -1, "", "axis keepdim extreme"}},
      {"attention", {DType::f32, 4, "x x scores|?", "factor causal nan_if_empty"}},
      {"avg_pool2d", {DType::f32, 4, "", "kernel stride padding ceil_mode count_include_pad"}},
      {"cached_attention", {DType::f32, 4, "x x caches cached", "factor window softcap", 3}},
      {"cast", {DType::f32, -1, "", "dtype"}},
      {"clip", {DType::f32, -1, "", "min max"}},
      {"compare", {DType::f32, -1, "like", "order"}},
      {"concat", {DType::f32, -1, "x|like", "axis"}},
      {"conv2d", {DType::f32, 4, "conv", kConv}},
      {"conv3d", {DType::f32, 5, "conv", kConv}},
      {"conv_transpose2d", {DType::f32, 4, "conv", "stride padding dilation groups output_padding"}},
      {"conv_transpose3d", {DType::f32, 5, "conv", "stride padding dilation groups output_padding"}},
      {"cumsum", {DType::f32, -1, "", "axis total"}},
      {"dequantize", {DType::u8, -1, "", "scale zero_point"}},
      {"dim_value", {DType::f32, 0, "none", "size"}},
      {"div", {DType::f32, -1, "like"}},
      {"dynamic_quantize", {DType::f32, -1, "last|? copies|?", "granularity", 3}},
      {"embedding_bag", {DType::f32, 2, "places offsets", "bag last row"}},
      {"expand", {DType::f32, -1, "", "shape"}},
      {"floor_div", {DType::i64, -1, "like"}},
      {"fmod", {DType::i64, -1, "like"}},
      {"gather", {DType::f32, 3, "alike", "axis"}},
      {"group_norm", {DType::f32, 4, "channels|? channels|?", "groups factor_eps"}},
      {"grid_sample", {DType::f32, 4, "grid", "sampled beyond align_corners"}},
      {"gru", {DType::f32, 3, "gru ? ? lengths|?", "reverse", 2}},
      {"index", {DType::f32, 4, "places places|?", "axis"}},
      {"index_put", {DType::f32, 3, "rows three", "axis reduce"}},
      {"layer_norm", {DType::f32, -1, "last|? last|?", "count factor_eps"}},
      {"linear", {DType::f32, -1, "linear", ""}},
      {"logical", {DType::boolean, -1, "like", "logic"}},
      {"logical_not", {DType::boolean, -1}},
      {"lookup", {DType::u8, -1, "table|tables"}},
      {"lstm", {DType::f32, 3, "lstm ? ? ? lengths|?", "reverse", 3}},
      {"matmul", {DType::f32, -1, "matrix", "transpose_b"}},
      {"max_pool2d", {DType::f32, 4, "", "kernel stride padding dilation ceil_mode"}},
      {"max_pool2d_with_indices", {DType::f32, 4, "", "kernel stride padding dilation ceil_mode", 2}},
      {"max_unpool2d", {DType::f32, 4, "alike", "output_size"}},
      {"maximum", {DType::f32, -1, "like"}},
      {"mean", {DType::f32, -1, "", "axes keepdim"}},
      {"minimum", {DType::f32, -1, "like"}},
      {"mul", {DType::f32, -1, "like"}},
      {"pack_signs", {DType::f32, 4, "", "axis zero"}},
      {"pad", {DType::f32, 4, "", "padding value fill"}},
      {"pow", {DType::f32, -1, "like"}},
      {"prelu", {DType::f32, -1, "like"}},
      {"quantize", {DType::f32, -1, "", "scale zero_point"}},
      {"quantize_groups", {DType::f32, -1, "last|?", "group_size", 2}},
      {"quantized_adaptive_avg_pool2d",
       {DType::u8, 4, "", "output_size zero_point_x multiplier output zero_point_y lo"}},
      {"quantized_add", {DType::u8, 4, "like", "zero_point_a multiplier_a zero_point_b multiplier_b zero_point_y lo"}},
      {"quantized_avg_pool2d",
       {DType::u8, 4, "",
        "kernel stride padding ceil_mode count_include_pad zero_point_x multiplier output zero_point_y lo"}},
      {"quantized_conv2d", {DType::u8, 4, "conv", kConvI8}},
      {"quantized_conv3d", {DType::u8, 5, "conv", kConvI8}},
      {"quantized_conv_transpose2d", {DType::u8, 4, "conv", kTransposedI8}},
      {"quantized_conv_transpose3d", {DType::u8, 5, "conv", kTransposedI8}},
      {"quantized_embedding", {DType::i64, -1, "quantized_table"}},
      {"quantized_embedding_bag", {DType::i64, 1, "quantized_table offsets floats|?", "bag last row"}},
      {"quantized_gru", {DType::f32, 3, "gru ? ? lengths|?", "reverse", 2}},
      {"quantized_linear", {DType::u8, -1, "linear", "zero_point_x output zero_point_y lo min max"}},
      {"quantized_lstm", {DType::f32, 3, "lstm ? ? ? lengths|?", "reverse", 3}},
      {"quantized_mul", {DType::u8, -1, "like", "zero_point_a zero_point_b multiplier zero_point_y lo"}},
      {"quantized_rnn", {DType::f32, 3, "rnn ? lengths|?", "reverse cell", 2}},
      {"reduce", {DType::f32, -1, "", "axes keepdim reduction correction"}},
      {"remainder", {DType::i64, -1, "like"}},
      {"resample", {DType::f32, 4, "", "image_axis outputs window_mode align_corners"}},
      {"reshape", {DType::f32, -1, "", "shape"}},
      {"resize", {DType::f32, 4, "", "size_list mode align_corners snap"}},
      {"rms_norm", {DType::f32, -1, "last|?", "count factor_eps"}},
      {"rnn", {DType::f32, 3, "rnn ? lengths|?", "reverse cell", 2}},
      {"scatter", {DType::f32, 3, "alike updates", "axis reduce"}},
      {"sign_conv2d", {DType::u8, 4, "conv", kConvI8}},
      {"sign_linear", {DType::u8, -1, "linear", "zero_point_x output zero_point_y lo min max"}},
      {"slice", {DType::f32, -1, "", "axis start stop step"}},
      {"softmax", {DType::f32, -1, "", "axis"}},
      {"sort", {DType::f32, -1, "", "axis descending", 2}},
      {"sub", {DType::f32, -1, "like"}},
      {"take", {DType::f32, -1, "places", "axis"}},
      {"topk", {DType::f32, -1, "", "axis k largest", 2}},
      {"transpose", {DType::f32, -1, "", "perm"}},
      {"triangle", {DType::f32, -1, "", "diagonal upper"}},
      {"trunc_div", {DType::i64, -1, "like"}},
      {"unary", {DType::f32, -1, "", "function alpha"}},
      {"where", {DType::boolean, -1, "floats floats"}},
  };
  return table;
}

std::vector<std::string> words(std::string_view text, char separator) {
  std::vector<std::string> found;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end > 0) found.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return found;
}

Array random_array(DType dtype, const Shape& shape, Random& random) {
  if (dtype == DType::f32) return random_floats(shape, random);
  if (dtype == DType::u8) return random_codes(dtype, shape, random);
  Array array(dtype, shape);
  for (int64_t i = 0; i < shape.elements(); ++i) {
    if (dtype == DType::boolean) {
      array.as<uint8_t>()[i] = static_cast<uint8_t>(random.whole(0, 1));
    } else {
      array.as<int64_t>()[i] = random.whole(0, 30) == 0 ? std::numeric_limits<int64_t>::min() : random.whole(-3, 3);
    }
  }
  return array;
}

class RandomNode {
 public:
  RandomNode(Maker& m, std::string op, const Kind& kind) : m_(m), random_(m.random), op_(std::move(op)), kind_(kind) {}

  // The graph's input; sometimes of another rank or dtype than the operator wants.
  TensorType input() {
    TensorType type{random_.whole(0, 7) == 0 ? DType::u8 : kind_.dtype, {}};
    const bool usual = kind_.rank >= 0 && random_.whole(0, 3) != 0;
    for (int64_t axis = usual ? kind_.rank : random_.whole(0, 5); axis > 0; --axis)
      type.shape.push_back(random_.whole(random_.whole(0, 5) == 0 ? 0 : 1, 9));
    return type;
  }

  std::vector<std::string> make(const std::string& x, const TensorType& type) {
    x_ = x, type_ = type;
    std::vector<std::string> inputs;
    if (std::string_view(kind_.operands) != "none") {
      inputs.push_back(x);
      for (const std::string& choice : words(kind_.operands, ' ')) {
        const std::vector<std::string> either = words(choice, '|');
        operand(either[static_cast<size_t>(random_.whole(0, std::ssize(either) - 1))], inputs);
      }
      if (random_.whole(0, 30) == 0) inputs.push_back(m_.codes(DType::u8, {256}));
    }
    for (const std::string& key : words(kind_.attributes, ' ')) attribute(key);
    spoil();
    return m_.nodes(op_, inputs, kind_.outputs, attributes_);
  }

 private:
  bool maybe() { return random_.whole(0, 1) == 0; }
  int64_t rank() const { return type_.shape.rank(); }
  int64_t size(int64_t axis) const { return axis >= 0 && axis < rank() ? type_.shape[static_cast<int>(axis)] : 1; }
  std::string places(const Shape& shape) {
    Array indices(DType::i64, shape);
    for (int64_t i = 0; i < shape.elements(); ++i)
      indices.as<int64_t>()[i] = random_.whole(0, 40) == 0 ? hostile() : random_.whole(0, 1);
    return m_.constant(indices);
  }

  // "?" is an absent operand, "x" the first input again.
  void operand(const std::string& word, std::vector<std::string>& inputs) {
    const int64_t channels = size(1), last = size(rank() - 1);
    if (word == "?") inputs.emplace_back();
    if (word == "x") inputs.push_back(x_);
    if (word == "like")
      inputs.push_back(maybe() ? x_ : m_.constant(random_array(type_.dtype, {random_.whole(0, 3), 1}, random_)));
    if (word == "rows") inputs.push_back(m_.floats({3, channels, size(2)}));
    if (word == "three") inputs.push_back(places({3}));
    if (word == "floats") inputs.push_back(m_.floats(maybe() ? type_.shape : Shape{1}));
    if (word == "updates") inputs.push_back(m_.floats(type_.shape));
    if (word == "channels") inputs.push_back(m_.floats({channels}));
    if (word == "last") inputs.push_back(m_.floats({last}));
    if (word == "table") inputs.push_back(m_.codes(DType::u8, {256}));
    if (word == "tables")
      inputs.push_back(m_.codes(DType::u8, {random_.whole(0, 7) == 0 ? random_.whole(0, 20) : channels, 256}));
    if (word == "scores") inputs.push_back(m_.floats({size(rank() - 2), size(rank() - 2)}));
    if (word == "matrix") inputs.push_back(maybe() ? x_ : m_.floats({last, random_.whole(1, 40)}));
    if (word == "places") inputs.push_back(places({random_.whole(1, 4)}));
    if (word == "lengths") inputs.push_back(lengths());
    if (word == "cached") inputs.push_back(cached());
    if (word == "copies") inputs.push_back(places({random_.whole(1, 4)}));
    if (word == "caches") caches(maybe(), inputs);
    if (word == "offsets") inputs.push_back(places({random_.whole(1, 3)}));
    if (word == "grid") inputs.push_back(grid());
    if (word == "alike") inputs.push_back(places(type_.shape));
    if (word == "quantized_table") inputs.push_back(quantized({random_.whole(1, 70), random_.whole(1, 40)}));
    if (word == "conv" || word == "linear") layer(word == "conv", inputs);
    for (const auto& [name, gates] : {std::pair{"lstm", 4}, {"gru", 3}, {"rnn", 1}})
      if (word == name) recurrent({last, std::max<int64_t>(last / gates, 1)}, inputs);
  }

  void recurrent(const Shape& weight, std::vector<std::string>& inputs) {
    inputs.push_back(op_.starts_with("quantized") ? quantized(weight) : m_.floats(weight, 0.3f));
  }

  // Of codes, with scales that may be anything, or of floats.
  void caches(bool codes, std::vector<std::string>& inputs) {
    const int64_t width = size(rank() - 1) + (codes ? 4 : 0);
    for (const Shape& shape : {Shape{size(0), size(1), 2, width, 16}, Shape{size(0), size(1), 2, 16, width}})
      inputs.push_back(codes ? m_.codes(DType::s8, shape) : m_.floats(shape));
  }
  std::string cached() {
    Array array(DType::i64, {size(0)});
    for (int64_t i = 0; i < size(0); ++i)
      array.as<int64_t>()[i] = random_.whole(0, 40) == 0 ? hostile() : random_.whole(0, 12);
    return m_.constant(array);
  }
  std::string lengths() {
    Array array(DType::i64, {size(1)});
    for (int64_t i = 0; i < size(1); ++i)
      array.as<int64_t>()[i] = random_.whole(0, 40) == 0 ? hostile() : random_.whole(1, std::max<int64_t>(size(0), 1));
    return m_.constant(array);
  }

  // Coordinates for 3 x 2 pixels of each image, some of them no numbers.
  std::string grid() {
    Array array = random_floats({size(0), 3, 2, random_.whole(0, 9) == 0 ? 3 : 2}, random_);
    for (int64_t i = 0; i < array.type.shape.elements(); ++i)
      if (random_.whole(0, 9) == 0)
        array.as<float>()[i] = random_.whole(0, 1) == 0 ? std::numeric_limits<float>::quiet_NaN()
                                                        : std::ldexp(1.0f, static_cast<int>(random_.whole(0, 128)));
    return m_.constant(array);
  }

  void layer(bool conv, std::vector<std::string>& inputs) {
    const int64_t channels = size(1), groups = conv && random_.whole(0, 2) == 0 ? std::max<int64_t>(channels, 1) : 1;
    const int64_t filters = groups * random_.whole(1, 3);
    const bool signs = op_.starts_with("sign_"), integer = signs || op_.starts_with("quantized");
    Shape weight = conv ? Shape{filters, channels / groups} : Shape{filters, size(rank() - 1)};
    if (signs) weight[1] *= 4;  // eight bytes for each 32
    for (size_t axis = 0; conv && axis < spatial(); ++axis) weight.push_back(random_.whole(1, 4));
    const bool bits = signs && random_.whole(0, 9) != 0;
    inputs.push_back(bits ? one_bit(weight) : integer ? quantized(weight) : m_.floats(weight));
    if (integer) inputs.push_back(m_.floats({filters}, 0.01f));
    if (integer || maybe()) inputs.push_back(m_.floats({filters}));
    if (integer && maybe()) {  // a slope
      inputs.resize(8);
      inputs.push_back(m_.floats({filters}));
    }
    if (op_ == "quantized_linear" && maybe()) of_groups(inputs);
    groups_ = groups;
  }
  // Of codes in groups, mostly such as fit.
  void of_groups(std::vector<std::string>& inputs) {
    const int64_t size = 8 * random_.whole(1, 3);
    const auto floats = m_.nodes("dequantize", {x_}, 1, {{"scale", 0.1}, {"zero_point", int64_t{99}}});
    const auto codes = m_.nodes("quantize_groups", floats, 2, {{"group_size", size}});
    inputs.resize(std::max<size_t>(inputs.size(), 7));
    inputs[0] = codes[0], inputs[6] = codes[1];
    attributes_["x_group_size"] = size + (random_.whole(0, 9) == 0 ? 8 : 0);
  }
  std::string one_bit(const Shape& shape) {
    graph::Weight weight;
    weight.shape = shape;
    weight.bits = 1;
    weight.codes = noise(weight.code_bytes());
    weight.scales = Buffer(weight.channels() * sizeof(float));
    std::fill_n(weight.scales.as<float>(), weight.channels(), random_.whole(0, 60) == 0 ? HUGE_VALF : 0.5f);
    weight.values = Buffer(2 * sizeof(float));
    weight.values.as<float>()[0] = random_.whole(0, 60) == 0 ? 0 : -1;
    weight.values.as<float>()[1] = 1;
    return m_.weight(std::move(weight));
  }
  // Of any format, mostly one that kernels read; sometimes no sound one.
  std::string quantized(const Shape& shape) {
    graph::Weight weight;
    weight.shape = shape;
    constexpr int kBits[] = {1, 2, 3, 4, 8, 4, 4, 4};
    weight.bits = maybe() ? 8 : kBits[random_.whole(0, 7)];
    const int64_t depth = weight.depth();
    if (weight.bits < 8 || random_.whole(0, 3) == 0) weight.group_size = depth % 8 == 0 && maybe() ? 8 : depth;
    weight.codes = noise(weight.code_bytes());
    const bool halves = (weight.group_size > 0) == (random_.whole(0, 9) != 0);
    weight.scale_type = halves ? DType::f16 : DType::f32;
    const int64_t count = weight.channels() * (weight.group_size == 0 ? 1 : weight.groups());
    weight.scales = Buffer(count * size_of(weight.scale_type));
    for (int64_t i = 0; i < count; ++i) {
      const float scale = random_.whole(0, 500) == 0 ? HUGE_VALF : random_.real(0.01f, 1);
      halves ? weight.scales.as<uint16_t>()[i] = half_from_float(scale) : weight.scales.as<float>()[i] = scale;
    }
    if (random_.whole(0, weight.group_size > 0 ? 3 : 39) == 0) {
      weight.offset_type = maybe() ? DType::f16 : DType::f32;
      weight.offsets = Buffer(count * size_of(weight.offset_type));
      for (int64_t i = 0; i < count; ++i) {
        const float offset = random_.whole(0, 500) == 0 ? HUGE_VALF : random_.real(-1, 1);
        if (weight.offset_type == DType::f16) {
          weight.offsets.as<uint16_t>()[i] = half_from_float(offset);
        } else {
          weight.offsets.as<float>()[i] = offset;
        }
      }
    } else if (weight.bits < 8 && maybe()) {
      weight.zero_points = noise(count);
      for (int64_t i = 0; i < count; ++i)
        if (random_.whole(0, 500) != 0) weight.zero_points.as<uint8_t>()[i] &= (1 << weight.bits) - 1;
    }
    if (random_.whole(0, 39) == 0) weight.offsets = noise(2 * count);
    if (random_.whole(0, 19) == 0) weight.values = Buffer(sizeof(float) << weight.bits);
    return m_.weight(std::move(weight));
  }
  Buffer noise(size_t bytes) {
    Buffer buffer(random_.whole(0, 60) == 0 ? bytes + 1 : bytes);
    for (size_t i = 0; i < bytes; ++i) buffer.as<uint8_t>()[i] = static_cast<uint8_t>(random_.bits());
    return buffer;
  }
  size_t spatial() const { return op_.find("3d") == std::string::npos ? 2 : 3; }

  void attribute(const std::string& key) {
    static const std::map<std::string, std::pair<const char*, const char*>, std::less<>> texts = {
        {"output", {"output", "u8 f32"}},
        {"granularity", {"granularity", "row sample"}},
        {"dtype", {"dtype", "f32 f16 i64 i32 bool u8 s8"}},
        {"whole", {"dtype", "i64 i32"}},
        {"function", {"kind", "gelu relu6 softplus leaky_relu exp sin no_such"}},
        {"extreme", {"kind", "max min"}},
        {"order", {"kind", "eq ne lt le gt ge"}},
        {"logic", {"kind", "and or xor"}},
        {"total", {"kind", "sum prod max min"}},
        {"reduction", {"kind", "sum prod max min var std"}},
        {"reduce", {"reduce", "none add mul max min"}},
        {"cell", {"kind", "tanh relu"}},
        {"mode", {"mode", "nearest nearest_exact linear cubic"}},
        {"window_mode", {"mode", "linear cubic"}},
        {"sampled", {"mode", "nearest linear cubic"}},
        {"beyond", {"padding", "zeros border reflection"}},
        {"fill", {"mode", "constant reflect replicate circular"}},
        {"bag", {"mode", "sum mean max"}},
    };
    static const std::map<std::string, const char*, std::less<>> renamed = {
        {"factor", "scale"}, {"factor_eps", "eps"}, {"count", "axes"},      {"size_list", "size"},
        {"size", "value"},   {"row", "padding"},    {"image_axis", "axis"}, {"outputs", "size"},
    };
    const auto text = texts.find(key);
    if (text != texts.end()) {
      const std::vector<std::string> choices = words(text->second.second, ' ');
      attributes_[text->second.first] = choices[static_cast<size_t>(random_.whole(0, std::ssize(choices) - 1))];
      return;
    }
    const auto name = renamed.find(key);
    attributes_[name == renamed.end() ? key : name->second] = number(key);
  }

  graph::Attribute number(const std::string& key) {
    for (const char* real : {"scale", "multiplier", "multiplier_a", "multiplier_b", "value", "min", "max", "alpha",
                             "factor", "factor_eps", "softcap", "correction"})
      if (key == real) return static_cast<double>(random_.real(0, 2));
    if (key.starts_with("zero_point") || key == "lo") return random_.whole(0, 255);
    for (const char* flag : {"ceil_mode", "count_include_pad", "keepdim", "causal", "nan_if_empty", "transpose_b",
                             "reverse", "descending", "largest", "upper", "align_corners", "last"})
      if (key == flag) return random_.whole(0, 1);
    if (key == "groups") return kind_.dtype == DType::f32 && op_ == "group_norm" ? random_.whole(1, 3) : groups_;
    if (key == "axis") return random_.whole(-rank(), rank());
    if (key == "zero") return random_.whole(-1, 1);
    if (key == "image_axis") return random_.whole(2, 3);
    if (key == "axes") return sizes(static_cast<size_t>(random_.whole(0, rank())), -rank(), rank());
    if (key == "count" || key == "k" || key == "step") return random_.whole(1, 2);
    if (key == "perm") return permutation();
    if (key == "shape") return shape();
    if (key == "size_list") return sizes(2, 1, 9);
    if (key == "padding") {
      const bool pool = op_.find("pool") != std::string::npos;
      return sizes(op_ == "pad" ? 2 * static_cast<size_t>(rank()) : 2 * spatial(), 0, pool ? 0 : op_ == "pad" ? 2 : 3);
    }
    if (key == "output_padding") return sizes(spatial(), 0, 1);
    for (const char* window : {"stride", "dilation", "output_size", "kernel"})
      if (key == window) return sizes(spatial(), 1, 3);
    return random_.whole(0, 9);
  }

  // That of the input with more axes before, or anything.
  std::vector<int64_t> shape() {
    if (maybe()) return sizes(static_cast<size_t>(random_.whole(0, 4)), 0, 8);
    std::vector<int64_t> same(type_.shape.begin(), type_.shape.end());
    if (op_ == "expand") same.insert(same.begin(), random_.whole(1, 3));
    return same;
  }
  std::vector<int64_t> sizes(size_t count, int64_t low, int64_t high) {
    std::vector<int64_t> values(count);
    for (int64_t& value : values) value = random_.whole(low, high);
    return values;
  }
  std::vector<int64_t> permutation() {
    std::vector<int64_t> perm;
    for (int64_t i = 0; i < rank(); ++i) perm.insert(perm.begin() + random_.whole(0, i), i);
    return perm;
  }
  int64_t hostile() {
    constexpr int64_t kValues[] = {0,
                                   -1,
                                   63,
                                   300,
                                   int64_t{1} << 31,
                                   int64_t{1} << 40,
                                   std::numeric_limits<int64_t>::max(),
                                   std::numeric_limits<int64_t>::min()};
    return kValues[random_.whole(0, 7)];
  }

  // One attribute, or one of its items, becomes hostile.
  void spoil() {
    if (attributes_.empty() || random_.whole(0, 3) != 0) return;
    auto it = attributes_.begin();
    std::advance(it, random_.whole(0, std::ssize(attributes_) - 1));
    if (auto* values = std::get_if<std::vector<int64_t>>(&it->second);
        values != nullptr && !values->empty() && maybe()) {
      (*values)[static_cast<size_t>(random_.whole(0, std::ssize(*values) - 1))] = hostile();
    } else {
      it->second = hostile();
    }
  }

  Maker& m_;
  Random& random_;
  std::string op_;
  const Kind& kind_;
  std::string x_;
  TensorType type_;
  int64_t groups_ = 1;
  Attributes attributes_;
};

// Whether the results would fit here: an expansion to 2^40 elements is no defect.
bool is_small(const Session& session, const std::vector<Array>& inputs) {
  constexpr int64_t kMost = 1 << 24;
  std::vector<Array> copies = inputs;
  std::vector<Tensor> views;
  for (Array& input : copies) views.push_back(input.view());
  const Session::Call call(session, views);
  return std::all_of(call.outputs().begin(), call.outputs().end(),
                     [](const TensorType& type) { return type.shape.elements() <= kMost; });
}

TEST(random_nodes_never_crash) {
  constexpr int kRounds = 200;  // for each operator
  for (const std::string& op : graph::registered_ops()) {
    const auto kind = kinds().find(op);
    if (kind == kinds().end()) {
      std::printf("%s has no line in this test\n", op.c_str());
      CHECK(false);
      continue;
    }
    int accepted = 0;
    for (int round = 0; round < kRounds; ++round) {
      Maker m(static_cast<uint64_t>(round) * 1000 + op.size());
      RandomNode node(m, op, kind->second);
      const TensorType type = node.input();
      const std::string x = m.input(graph::name_of(type.dtype), dims(type.shape));
      const std::vector<std::string> outputs = node.make(x, type);
      try {
        const auto session = m.session(outputs, default_isa(), 2);
        const std::vector<Array> inputs = {random_array(type.dtype, type.shape, m.random)};
        if (is_small(*session, inputs)) run(*session, inputs);
        ++accepted;
      } catch (const Error&) {
      } catch (const std::bad_alloc&) {
      }
    }
    if (accepted < 5) std::printf("%s: %d accepted\n", op.c_str(), accepted);
    CHECK(accepted >= 5);
  }
}

}  // namespace
}  // namespace lowbit::test
