#include "reader/document.h"

#include <algorithm>
#include <array>

namespace lowbit::reader {
namespace {

using Keys = std::initializer_list<std::string_view>;

constexpr int64_t kVersion = 2;

const Json::Object& checked(const Json& value, const std::string& what, Keys required, Keys optional) {
  return as_object(value, what, {required.begin(), required.size()}, {optional.begin(), optional.size()});
}

std::vector<std::string> texts(const Json& value, const std::string& what) {
  std::vector<std::string> found;
  for (const Json& item : as_list(value, what)) found.push_back(as_text(item, what));
  return found;
}

std::pair<std::string, std::string> pair_of(const Json& value, const std::string& what, const std::string& kind) {
  std::vector<std::string> pair = texts(value, what);
  if (pair.size() != 2) refuse(kind + " is not a pair");
  return {std::move(pair[0]), std::move(pair[1])};
}

// Errors of sizes, which are Error(graph), are the file's here.
Size size_of(const Json& value, const std::string& what, Sizes& sizes) {
  if (!value.text()) return {as_size(value, what), ""};
  try {
    auto [number, text] = sizes.simplified(*value.text());
    return {number, std::move(text)};
  } catch (const Error& error) {
    refuse(error.what());
  }
}

Quant quant_of(const Json& value, const std::string& what) {
  const Json::List* pair = value.list();
  if (!pair || pair->size() != 2) refuse("the quantization of " + what + " is not a pair");
  const Json &scale = (*pair)[0], &zero_point = (*pair)[1];
  Quant quant;
  if (scale.text())
    quant.scale = *scale.text();
  else if (scale.real() || scale.integer())
    quant.scale = scale.real() ? *scale.real() : static_cast<double>(*scale.integer());
  else
    refuse("the scale of " + what + " is not a number or a name");
  if (zero_point.text())
    quant.zero_point = *zero_point.text();
  else
    quant.zero_point = as_integer(zero_point, what);
  return quant;
}

Value value_of(const Json& entry, const std::string& what, Sizes& sizes) {
  checked(entry, what, {"dtype", "shape"}, {"quant"});
  Value value;
  for (const Json& size : as_list(*entry.find("shape"), "the shape of " + what))
    value.shape.push_back(size_of(size, "the shape of " + what, sizes));
  if (const Json* quant = entry.find("quant")) value.quant = quant_of(*quant, what);
  value.dtype = as_text(*entry.find("dtype"), what);
  return value;
}

// Numbers, texts, truth values, and lists of these, three deep at most.
void check_attribute(const Json& value, const std::string& what, int depth = 0) {
  if (value.list() && depth < 3) {
    for (const Json& item : *value.list()) check_attribute(item, what, depth + 1);
  } else if (value.text()) {
    as_text(value, what);
  } else if (!value.boolean() && !value.real()) {
    as_integer(value, what);
  }
}

Node node_of(const Json& entry) {
  checked(entry, "nodes", {"op", "name", "inputs", "outputs"}, {"attrs", "source"});
  Node node;
  node.name = as_text(*entry.find("name"), "nodes");
  const std::string where = "node " + quoted(node.name);
  node.attributes = entry.find("attrs");
  if (node.attributes)
    for (const auto& [key, value] : as_object(*node.attributes, "the attributes of " + where))
      check_attribute(value, "attribute " + quoted(key) + " of " + where);
  node.op = as_text(*entry.find("op"), where);
  node.inputs = texts(*entry.find("inputs"), "the inputs of " + where);
  node.outputs = texts(*entry.find("outputs"), "the outputs of " + where);
  if (const Json* source = entry.find("source")) node.source = as_text(*source, where);
  return node;
}

Symbol symbol_of(const Json& entry, const std::string& what) {
  std::vector<int64_t> items;
  for (const Json& item : as_list(entry, what)) items.push_back(as_size(item, what));
  if (items.size() != 2 && items.size() != 4)
    refuse(what + " is neither two bounds, nor these and a multiple and a remainder");
  if (items.size() == 2) items.insert(items.end(), {1, 0});
  return {items[0], items[1], items[2], items[3]};
}

State state_of(const Json& entry) {
  const std::string what = "a state";
  checked(entry, what, {"input", "output"}, {"initial", "count", "axis"});
  State state;
  for (const auto& [key, to] : {std::pair("input", &state.input), std::pair("output", &state.output),
                                std::pair("initial", &state.initial), std::pair("count", &state.count)})
    if (const Json* text = entry.find(key)) *to = as_text(*text, what);
  if (const Json* axis = entry.find("axis")) state.axis = as_integer(*axis, what);
  return state;
}

// ---------------------------------------------------------------------------------------------------------- version 1

constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kRenamed = {{
    {"conv2d_i8", "quantized_conv2d"},
    {"conv3d_i8", "quantized_conv3d"},
    {"conv_transpose2d_i8", "quantized_conv_transpose2d"},
    {"conv_transpose3d_i8", "quantized_conv_transpose3d"},
    {"linear_i8", "quantized_linear"},
    {"conv2d_i4", "quantized_conv2d"},
    {"linear_i4", "quantized_linear"},
    {"embedding_i4", "quantized_embedding"},
    {"add_i8", "quantized_add"},
    {"mul_i8", "quantized_mul"},
    {"avg_pool2d_i8", "quantized_avg_pool2d"},
    {"adaptive_avg_pool2d_i8", "quantized_adaptive_avg_pool2d"},
}};

Json* find(Json& object, std::string_view key) { return const_cast<Json*>(std::as_const(object).find(key)); }

// A weight was a tensor of s8 with an axis and a packing. Returns its bits.
int64_t upgrade_weight(Json& weight, const std::string& what) {
  checked(weight, what, {"codes", "scales", "bits", "axis", "group_size", "packing"},
          {"zero_points", "g_idx", "sparsity"});
  const int64_t bits = as_integer(*weight.find("bits"), what);
  const std::string packing = as_text(*weight.find("packing"), what);
  const int64_t* axis = weight.find("axis")->integer();
  const int64_t expected = packing == "plain" ? 8 : packing == "nibbles" ? 4 : -1;
  if (bits != expected || !axis || *axis != 0 || weight.find("g_idx"))
    refuse(what + ": " + std::to_string(bits) + " bits, packing " + quoted(packing) + ", axis " +
           weight.find("axis")->shown() + " is no weight of version 1");
  std::erase_if(*weight.object(), [](const auto& item) { return item.first == "axis" || item.first == "packing"; });
  return bits;
}

// Its type is what its codes stand for, in the order of a float weight.
void upgrade_value(Json& value, const std::string& what, int64_t bits) {
  checked(value, what, {"dtype", "shape"}, {"quant"});
  Json* shape = find(value, "shape");
  as_list(*shape, "the shape of " + what);
  const std::string* dtype = value.find("dtype")->text();
  if (!dtype || *dtype != "s8" || value.find("quant")) refuse(what + " is a weight, but its type is no s8");
  Json::List& sizes = *shape->list();
  if (bits == 4 && sizes.size() > 2) std::rotate(sizes.begin() + 1, sizes.end() - 1, sizes.end());
  *find(value, "dtype") = Json(std::string("f32"));
}

void upgrade_from_1(Json& document) {
  Json none;
  const auto need = [&](std::string_view key) -> Json& {
    Json* found = find(document, key);
    return found ? *found : none;
  };
  Json &constants = need("constants"), &values = need("values"), &nodes = need("nodes");
  as_object(constants, "constants"), as_object(values, "values");
  std::unordered_map<std::string_view, Json*> by_name;
  for (auto& [name, value] : *values.object()) by_name.emplace(name, &value);
  for (auto& [name, entry] : *constants.object()) {
    if (!entry.object() || entry.object()->size() != 1 || !entry.find("weight")) continue;
    const int64_t bits = upgrade_weight(*find(entry, "weight"), "constant " + quoted(name));
    if (const auto value = by_name.find(name); value != by_name.end())
      upgrade_value(*value->second, "value " + quoted(name), bits);
  }
  as_list(nodes, "nodes");
  for (Json& node : *nodes.list()) {
    Json* op = node.object() ? find(node, "op") : nullptr;
    if (!op || !op->text()) continue;
    if (std::ranges::any_of(kRenamed, [&](const auto& each) { return each.second == *op->text(); }))
      refuse("version 1 has no operator " + quoted(*op->text()));
    const auto renamed = std::ranges::find_if(kRenamed, [&](const auto& each) { return each.first == *op->text(); });
    if (renamed != kRenamed.end()) *op = Json(std::string(renamed->second));
  }
  *find(document, "version") = Json(kVersion);
}

}  // namespace

std::string to_string(const std::vector<Size>& shape) {
  std::string text;
  for (const Size& size : shape)
    text += (text.empty() ? "" : ", ") + (size.text.empty() ? std::to_string(size.number) : size.text);
  return "[" + text + "]";
}

const Value* Document::find(std::string_view name) const {
  const auto found = values_by_name.find(name);
  return found == values_by_name.end() ? nullptr : found->second;
}

void upgrade(Json& document, const std::string& path) {
  const Json* version = document.find("version");
  if (!version || !version->integer() || *version->integer() < 1)
    refuse(path + ": its format version is " + (version ? version->shown() : "None"));
  if (*version->integer() > kVersion)
    refuse(path + " has format version " + std::to_string(*version->integer()) + ", this lowbit reads up to " +
           std::to_string(kVersion) + ": upgrade lowbit");
  if (*version->integer() == 1) upgrade_from_1(document);
}

Document read_document(const Json& document, Sizes& sizes) {
  checked(document, "the graph",
          {"version", "symbols", "inputs", "outputs", "values", "constants", "nodes", "states", "meta"},
          {"compressed", "conditions"});
  Document graph;
  for (const auto& [name, entry] : as_object(*document.find("values"), "values")) {
    graph.values.emplace_back(name, value_of(entry, "value " + quoted(name), sizes));
    as_text(Json(name), "values");
  }
  for (const auto& [name, value] : graph.values) graph.values_by_name.emplace(name, &value);
  graph.inputs = texts(*document.find("inputs"), "inputs");
  graph.outputs = texts(*document.find("outputs"), "outputs");
  for (const Json& entry : as_list(*document.find("nodes"), "nodes")) graph.nodes.push_back(node_of(entry));
  graph.constants = &as_object(*document.find("constants"), "constants");
  for (const auto& [name, entry] : as_object(*document.find("symbols"), "symbols")) {
    as_text(Json(name), "symbols");
    graph.symbols.emplace_back(name, symbol_of(entry, "symbol " + quoted(name)));
  }
  if (const Json* conditions = document.find("conditions"))
    for (const Json& entry : as_list(*conditions, "conditions"))
      graph.conditions.push_back(pair_of(entry, "conditions", "a condition"));
  for (const Json& entry : as_list(*document.find("states"), "states")) graph.states.push_back(state_of(entry));
  graph.meta = document.find("meta");
  as_object(*graph.meta, "meta");
  return graph;
}

}  // namespace lowbit::reader
