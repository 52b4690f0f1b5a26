#include "reader/calls.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>

namespace lowbit::reader {
namespace {

// --------------------------------------------------------------------------------------------------------------- meta

constexpr double kMostNumber = 1e300;

// A kind of value. t: a text, n: a number, f: true or false, o: an object, l: a list of texts; capital: or null.
// m: an object of numbers; g: {vocabulary: a whole number, stop: a list of such}; [...]: a list of objects with these
// keys, `!` for those that must be there.
struct Key {
  std::string_view name, kind;
};
constexpr std::array<Key, 18> kKeys = {{
    {"producer", "t"},
    {"name", "t"},
    {"scheme", "t"},
    {"target", "T"},
    {"signature", "O"},
    {"output", "O"},
    {"decisions", "[node!t op.t scheme.t reason.t cost_int8_us.N cost_float_us.N "},
    {"sparsity", "[node!t pattern!t density!n "},
    {"evaluations", "[model!t score!n drop!n int8_layers!n int4_layers.n float_layers!l "},
    {"max_drop", "N"},
    {"training", "[kind!t facts.o "},
    {"generation", "G"},
    {"goal", "M"},
    {"trials", "[model!t score!n drop!n milliseconds!n bytes!n width.n trained.f holds.f taken.f "},
    {"choices",
     "[layer!t taken!t microseconds!n bytes!n noise!n better.t cheaper.t better_microseconds.N better_bytes.N "
     "better_noise.N cheaper_microseconds.N cheaper_bytes.N cheaper_noise.N "},
    {"sizes", "[step!t bytes!n "},
    {"notes", "l"},
    {"writes", "l"},
}};

void check(const Json& value, char kind, const std::string& what) {
  const auto need = [&](bool sound, const char* expected) {
    if (!sound) refuse(what + " must be " + expected + ", is " + value.shown(60));
  };
  const auto is_number = [](const Json& each) {
    return each.integer() || (each.real() && std::abs(*each.real()) <= kMostNumber);
  };
  if (kind >= 'A' && kind <= 'Z') {
    if (value.is_null()) return;
    kind = static_cast<char>(kind - 'A' + 'a');
  }
  if (kind == 't') need(value.text(), "a text");
  if (kind == 'n') need(is_number(value), "a number");
  if (kind == 'f') need(value.boolean(), "true or false");
  if (kind == 'o' || kind == 'm' || kind == 'g') need(value.object(), "an object");
  if (kind == 'm')
    for (const auto& [key, each] : *value.object()) check(each, 'n', what);
  if (kind == 'g') {
    const Json *vocabulary = value.find("vocabulary"), *stop = value.find("stop");
    const bool tokens = !stop || (stop->list() && std::ranges::all_of(*stop->list(), [](const Json& each) {
                                    return each.integer() != nullptr;
                                  }));
    need(vocabulary && vocabulary->integer() && tokens, "the size of the vocabulary and tokens that end an answer");
  }
  if (kind == 'l') {
    need(value.list(), "a list");
    for (const Json& each : *value.list()) check(each, 't', what);
  }
}

void check_rows(const Json& value, std::string_view keys, const std::string& what) {
  if (!value.list()) refuse(what + " must be a list, is " + value.shown(60));
  for (const Json& row : *value.list()) {
    check(row, 'o', what);
    for (size_t at = 0; at < keys.size();) {
      const size_t mark = keys.find_first_of("!.", at);
      const std::string_view key = keys.substr(at, mark - at);
      const Json* each = row.find(key);
      if (!each && keys[mark] == '!') refuse(what + " lacks " + std::string(key) + " in " + row.shown(60));
      if (each) check(*each, keys[mark + 1], what);
      at = mark + 3;
    }
  }
}

void check_meta(const Json& meta) {
  for (const auto& [name, kind] : kKeys) {
    const Json* value = meta.find(name);
    if (!value) continue;
    const std::string what = "meta['" + std::string(name) + "']";
    if (kind[0] == '[')
      check_rows(*value, kind.substr(1), what);
    else
      check(*value, kind[0], what);
  }
}

// ---------------------------------------------------------------------------------------------------------- structures

constexpr int kMostDepth = 50;
constexpr std::array<std::string_view, 5> kKinds = {"tuple", "list", "dict", "namedtuple", "object"};
constexpr std::array<std::string_view, 13> kDtypes = {"f32", "f16", "i64",  "i32", "bool",  "u8",  "s8",
                                                      "f64", "c64", "c128", "int", "float", "bf16"};

[[noreturn]] void refuse_structure() { refuse("a structure of inputs or outputs is not sound"); }

// Calls leaf(tree, path) for each tensor.
using Leaf = std::function<void(const Json& tensor, const std::string& path)>;

void walk(const Json& tree, const std::string& path, const Leaf& leaf, int depth = 0) {
  const Json::Object* members = tree.object();
  if (!members || depth > kMostDepth) refuse_structure();
  const Json *constant = tree.find("constant"), *tensor = tree.find("tensor"), *dtype = tree.find("dtype");
  if (constant && members->size() == 1 && !constant->list() && !constant->object()) return;
  if (tensor && members->size() == (dtype ? 2u : 1u)) {
    if (dtype && (!dtype->text() || std::ranges::find(kDtypes, *dtype->text()) == kDtypes.end()))
      refuse("an input or output has dtype " + dtype->shown());
    return leaf(*tensor, path);
  }
  const auto found = std::ranges::find_if(*members, [](const auto& each) { return each.first != "class"; });
  if (found == members->end() || std::ranges::find(kKinds, found->first) == kKinds.end()) refuse_structure();
  const bool named = found->first == "namedtuple" || found->first == "object";
  const Json* type = tree.find("class");
  if (members->size() != (named ? 2u : 1u) || (named && (!type || !type->text()))) refuse_structure();
  const auto inner = [&](const std::string& key) { return path.empty() ? key : path + "." + key; };
  if (found->first == "tuple" || found->first == "list") {
    if (!found->second.list()) refuse_structure();
    int64_t index = 0;
    for (const Json& item : *found->second.list()) walk(item, inner(std::to_string(index++)), leaf, depth + 1);
  } else {
    if (!found->second.object()) refuse_structure();
    for (const auto& [key, item] : *found->second.object()) walk(item, inner(key), leaf, depth + 1);
  }
}

void read_signature(const Json& signature, const std::vector<std::string>& inputs, Names& names) {
  constexpr std::array<std::string_view, 3> keys = {"name", "kind", "tree"},
                                            kinds = {"positional", "positional_only", "keyword"};
  const Json* parameters = signature.find("parameters");
  if (!parameters || !parameters->list()) refuse("the signature is not a list of parameters");
  const std::set<std::string_view> known(inputs.begin(), inputs.end());
  std::set<std::string> parameter_names;
  size_t fed = 0;
  for (const Json& entry : *parameters->list()) {
    const Json* name = entry.find("name");
    if (!entry.object() || entry.object()->size() != keys.size() || !name || !name->text() || !entry.find("kind") ||
        !entry.find("tree"))
      refuse("a parameter of the signature is not {name, kind, tree}");
    const std::string* kind = entry.find("kind")->text();
    if (!kind || std::ranges::find(kinds, *kind) == kinds.end())
      refuse("parameter " + quoted(*name->text()) + " is of no kind that lowbit knows");
    const bool fresh = parameter_names.insert(*name->text()).second;
    walk(*entry.find("tree"), *name->text(), [&](const Json& tensor, const std::string& path) {
      if (!tensor.text() || !known.contains(*tensor.text())) refuse_structure();
      ++fed;
      names.inputs.emplace(*tensor.text(), path);
    });
    if (!fresh) fed = inputs.size() + 1;
  }
  if (fed != inputs.size() || names.inputs.size() != inputs.size())
    refuse("the signature does not feed each of the " + std::to_string(inputs.size()) + " inputs once");
}

}  // namespace

Names names_of(const Json& meta, const std::vector<std::string>& inputs, size_t outputs) {
  check_meta(meta);
  Names names;
  const Json *signature = meta.find("signature"), *output = meta.find("output");
  if (signature && !signature->is_null()) {
    read_signature(*signature, inputs, names);
  } else {
    for (const std::string& input : inputs) names.inputs.emplace(input, input);
  }
  if (output && !output->is_null()) {
    walk(*output, "", [&](const Json& tensor, const std::string& path) {
      const int64_t* index = tensor.integer();
      if (!index || *index < 0 || *index >= static_cast<int64_t>(outputs)) refuse_structure();
      names.outputs.emplace(*index, path.empty() ? "output" : path);
    });
    const bool bare = output->find("tensor");
    if (!bare) {  // those of a tuple are `output.0` and so on, those of a dict are called by their keys
      const bool keyed = output->find("dict") || output->find("namedtuple") || output->find("object");
      for (auto& [index, name] : names.outputs)
        if (!keyed) name = "output." + name;
    }
  } else {
    for (size_t i = 0; i < outputs; ++i) names.outputs[i] = outputs == 1 ? "output" : "output." + std::to_string(i);
  }
  return names;
}

}  // namespace lowbit::reader
