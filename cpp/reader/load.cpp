#include "reader/load.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "base/float_environment.h"
#include "base/half.h"
#include "reader/calls.h"
#include "reader/operators.h"
#include "reader/weights.h"

namespace lowbit::reader {
namespace {

constexpr size_t kMostNodes = 100'000, kMostSymbols = 1000, kMostConditions = 200, kMostProblems = 20;
constexpr size_t kMostText = 1000;  // of a problem
constexpr int64_t kMostElements = int64_t{1} << 40, kMostSize = (int64_t{1} << 31) - 1;
// What a file may take, its document and what its tensors become: bytes, and for each of its.
constexpr int64_t kRoom = int64_t{36} << 20, kRoomEach = 7, kStreamed = 3, kAsNumber = 4;
constexpr int kNear = 4;  // sizes, the smallest among them, at which all that is said of shapes is tried

// What is wrong with a graph; after kMostProblems, nothing is looked for any more.
class Problems {
 public:
  struct Full {};
  void add(std::string text) {
    if (text.size() > kMostText) text = text.substr(0, kMostText) + "...";
    texts_.push_back(std::move(text));
    if (texts_.size() > kMostProblems) throw Full();
  }
  bool empty() const { return texts_.empty(); }
  [[noreturn]] void raise() {
    std::string count = texts_.size() == 1 ? "a problem" : std::to_string(texts_.size()) + " problems";
    if (texts_.size() > kMostProblems) count = "more than 20 problems", texts_.back() = "and more";
    std::string text = "the graph has " + count + ":";
    for (const std::string& problem : texts_) text += "\n  - " + problem;
    throw Error(ErrorKind::graph, text);
  }

 private:
  std::vector<std::string> texts_;
};

// ---------------------------------------------------------------------------------------------------------- constants

struct Constant {
  std::string name, identity;  // what says the same has one identity
  std::optional<Array> array;  // or else a weight; neither: it is one with an earlier constant
  std::optional<FileWeight> weight;
  int64_t bytes = 0;  // that its tensors take in the file, without streams
};

// A text that no other JSON has.
std::string identity_of(const Json& value) {
  if (value.text()) return "s" + std::to_string(value.text()->size()) + ":" + *value.text();
  if (value.integer()) return "i" + std::to_string(*value.integer());
  std::string text;
  if (value.object())
    for (const auto& [key, item] : *value.object())
      text += "s" + std::to_string(key.size()) + ":" + key + identity_of(item);
  if (value.list())
    for (const Json& item : *value.list()) text += identity_of(item);
  return (value.object() ? "{" + text + "}" : value.list() ? "[" + text + "]" : "x" + value.shown(100));
}

class Constants {
 public:
  Constants(const Document& document, const Container& file) : document_(document), file_(file) {}

  std::vector<Constant> read() {
    std::vector<Constant> found;
    std::set<std::string> known;
    for (const auto& [name, entry] : *document_.constants) {
      const Value* value = document_.find(name);
      std::string identity = identity_of(entry) + (value ? to_string(value->shape) : "");
      if (known.insert(identity).second)
        found.push_back(read(as_text(Json(name), "constants"), entry, value));
      else
        found.push_back({name, "", std::nullopt, std::nullopt, 0});
      found.back().identity = std::move(identity);
    }
    for (const auto& [tensor, entry] : file_.entries())
      if (!used_.contains(tensor)) refuse("tensors [" + quoted(tensor) + "] belong to no constant");
    return found;
  }

 private:
  Constant read(const std::string& name, const Json& entry, const Value* value) {
    const std::string what = "constant " + quoted(name);
    const Json::Object& fields = as_object(entry, what);
    if (fields.size() == 1 && fields[0].first == "tensor")
      return {name, "", tensor(fields[0].second, what), std::nullopt, 0};
    if (fields.size() != 1 || fields[0].first != "weight") refuse(what + " is neither a tensor nor a weight");
    try {
      bytes_ = 0;
      FileWeight made = weight(fields[0].second, what, value);
      return {name, "", std::nullopt, std::move(made), bytes_};
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::graph) throw;
      refuse(what + ": " + error.what());
    }
  }

  FileWeight weight(const Json& parts, const std::string& what, const Value* value) {
    constexpr std::array<std::string_view, 4> required = {"codes", "scales", "bits", "group_size"};
    constexpr std::array<std::string_view, 5> optional = {"zero_points", "offsets", "values", "sparsity", "packing"};
    as_object(parts, what, required, optional);
    FileWeight made;
    made.bits = as_integer(*parts.find("bits"), what);
    if (value)
      for (const Size& size : value->shape)
        if (size.text.empty()) made.shape.push_back(size.number);
    if (made.shape.size() > kMaxRank) refuse(what + " has " + std::to_string(made.shape.size()) + " axes, more than 8");
    const Json &codes = *parts.find("codes"), *sparsity = parts.find("sparsity"), *packing = parts.find("packing");
    const bool plain = !parts.find("zero_points") && !parts.find("offsets") && !parts.find("values");
    std::vector<std::string> owned;
    if (sparsity) {
      constexpr std::array<std::string_view, 2> keys = {"pattern", "mask"};
      as_object(*sparsity, "the sparsity of " + what, keys);
      made.pattern = as_text(*sparsity->find("pattern"), what);
      const Array mask = own(*sparsity->find("mask"), what, owned), blocks = own(codes, what, owned);
      made.codes = codes_of_blocks(mask, blocks, made.shape, made.pattern);
    } else if (packing) {
      if (!packing->text() || *packing->text() != "ternary")
        refuse(what + " has codes in the unknown packing " + packing->shown(100));
      if (made.bits != 2 || !plain)
        refuse(what + ": ternary codes are of 2 bits, without zero points, offsets and values");
      made.codes = codes_of_trits(own(codes, what, owned), made.shape);
    } else if (made.bits >= 1 && made.bits <= 4) {
      made.codes = checked_codes(own(codes, what, owned), made.shape, made.bits);
    } else {
      made.codes = own(codes, what, owned);
      made.shape = made.codes.shape;
    }
    made.scales = tensor(*parts.find("scales"), what);
    made.group_size = as_integer(*parts.find("group_size"), what);
    for (const auto& [key, part] : {std::pair("zero_points", &made.zero_points), std::pair("offsets", &made.offsets),
                                    std::pair("values", &made.values)})
      if (const Json* named = parts.find(key)) *part = tensor(*named, what);
    gone_.insert(owned.begin(), owned.end());
    return made;
  }

  Array tensor(const Json& key, const std::string& what) {
    if (key.text() && gone_.contains(*key.text())) refuse_shared(key, what);
    if (!key.text() || !file_.entries().contains(*key.text()))
      refuse(what + " refers to tensor " + key.shown(100) + ", which is not in the file");
    used_.insert(*key.text());
    Array array = file_.read(*key.text());
    bytes_ += static_cast<int64_t>(array.data.bytes());
    return array;
  }

  // Codes take more bytes where they are unpacked, or read as numbers: only one weight has them.
  Array own(const Json& key, const std::string& what, std::vector<std::string>& owned) {
    if (key.text() && used_.contains(*key.text())) refuse_shared(key, what);
    Array array = tensor(key, what);
    owned.push_back(*key.text());
    return array;
  }

  [[noreturn]] static void refuse_shared(const Json& key, const std::string& what) {
    refuse(what + " shares the codes " + key.shown(100) + " with a constant that is not the same");
  }

  const Document& document_;
  const Container& file_;
  std::set<std::string, std::less<>> used_, gone_;
  int64_t bytes_ = 0;  // of the constant at hand
};

// ------------------------------------------------------------------------------------------------------------- memory

// The names of what nodes, or callers, read as arrays.
std::set<std::string_view> read_as_numbers(const Json& document) {
  std::set<std::string_view> names;
  const auto add = [&](const Json& name) {
    if (name.text()) names.insert(*name.text());
  };
  if (const Json* outputs = document.find("outputs"); outputs && outputs->list())
    for (const Json& name : *outputs->list()) add(name);
  const Json* nodes = document.find("nodes");
  for (size_t i = 0; nodes && nodes->list() && i < nodes->list()->size(); ++i) {
    const Json& node = (*nodes->list())[i];
    const Json *kind = node.find("op"), *inputs = node.find("inputs");
    const Operator* op = kind && kind->text() ? find_operator(*kind->text()) : nullptr;
    if (!op || !inputs || !inputs->list()) continue;
    for (size_t place = 0; place < inputs->list()->size(); ++place)
      if ((op->variadic || place < op->inputs.size()) && !op->inputs.empty() && !op->input(place).weight)
        add((*inputs->list())[place]);
  }
  return names;
}

// About the bytes that weights take beyond the file's own, as far as the document says; it is not checked. names: what
// is read as numbers; null: all.
double unpacked(const Json& document, const std::set<std::string_view>* numbers) {
  const Json *values = document.find("values"), *constants = document.find("constants");
  std::unordered_map<std::string_view, const Json*> by_name;
  if (values && values->object())
    for (const auto& [name, value] : *values->object()) by_name.emplace(name, &value);
  double total = 0, largest = 0;
  for (size_t i = 0; constants && constants->object() && i < constants->object()->size(); ++i) {
    const auto& [name, entry] = (*constants->object())[i];
    const Json* weight = entry.find("weight");
    const auto value = by_name.find(name);
    const Json* shape = value == by_name.end() ? nullptr : value->second->find("shape");
    if (!weight || !weight->object() || !shape || !shape->list()) continue;
    double elements = 1;
    for (size_t axis = 0; axis < std::min<size_t>(shape->list()->size(), kMaxRank); ++axis)
      if (const int64_t* size = (*shape->list())[axis].integer())
        elements *= static_cast<double>(std::max<int64_t>(*size, 0));
    const Json* bits = weight->find("bits");
    const bool sparse = weight->find("sparsity");
    if (sparse || !bits || !bits->integer() || *bits->integer() != 8) total += elements;
    largest = std::max(largest, elements * (sparse + 2 * (weight->find("values") != nullptr)));
    if (!numbers || numbers->contains(name)) total += kAsNumber * elements;
  }
  return total + largest;
}

// Returns the bytes that what the file holds packed, and the session of it, may take.
int64_t check_room(Container& file, const graph::Limits& limits) {
  const int64_t most = limits.memory.value_or(std::max<int64_t>(1, kRoom + kRoomEach * file.size() - file.taken()));
  const auto need = [&](double bytes) {
    if (bytes > static_cast<double>(most))
      throw Error(ErrorKind::limit, file.name() + ": its compressed, sparse and few-bit tensors take about " +
                                        std::to_string(static_cast<int64_t>(std::min(bytes, 1e18)) >> 20) +
                                        " MiB unpacked, more than the " + std::to_string(most >> 20) +
                                        " MiB that they may. If you trust the file, allow more memory");
  };
  if (const Json* compressed = file.document().find("compressed")) file.describe_streams(*compressed);
  const auto streams = static_cast<double>(file.stream_bytes());
  need(kStreamed * streams);
  if (streams + unpacked(file.document(), nullptr) > static_cast<double>(most)) {
    const std::set<std::string_view> numbers = read_as_numbers(file.document());
    need(streams + unpacked(file.document(), &numbers));
  }
  return most;
}

// --------------------------------------------------------------------------------------------------------- validation

class Validation {
 public:
  Validation(const Document& document, const std::vector<Constant>& constants, Sizes& sizes)
      : document_(document), sizes_(sizes) {
    for (const Constant& constant : constants) {
      const Constant*& first = by_identity_[constant.identity];
      if (!first) first = &constant;
      constants_.emplace(constant.name, first);
    }
  }

  // Throws Error(graph) with all problems. Conditions, once they are known to be sound, come out.
  void run(Sizes::Conditions& conditions) {
    try {
      check(conditions);
    } catch (const Problems::Full&) {
    } catch (const Error& error) {  // too many steps of arithmetic
      if (error.kind() != ErrorKind::graph) throw;
      if (problems_.empty()) problems_.add(error.what());
    }
    if (!problems_.empty()) problems_.raise();
  }

 private:
  void check(Sizes::Conditions& conditions) {
    for (const auto& [what, found, most] : {std::tuple("nodes", document_.nodes.size(), kMostNodes),
                                            std::tuple("symbols", document_.symbols.size(), kMostSymbols),
                                            std::tuple("conditions", document_.conditions.size(), kMostConditions)})
      if (found > most)
        return problems_.add(std::to_string(found) + " " + what + " are more than " + std::to_string(most));
    const bool free = check_symbols() && check_conditions(conditions);
    for (const auto& [name, value] : document_.values)
      if (check_value(name, value)) sound_.insert(name);
    check_constants();
    if (free) check_nodes();  // else nothing can be said of sizes
    if (document_.outputs.empty()) problems_.add("there are no outputs");
    for (const std::string& name : document_.outputs)
      if (!defined_.contains(name) || !document_.find(name))
        problems_.add("output " + quoted(name) + " is not defined");
    const std::set<std::string_view> inputs(document_.inputs.begin(), document_.inputs.end());
    if (inputs.size() != document_.inputs.size()) problems_.add("input names repeat");
    check_states();
  }

  // As Python's `_state_problems`; what else there is to say of them, the builder of the core says.
  void check_states() {
    std::set<std::string_view> seen;
    for (const State& state : document_.states) {
      const std::string what = "state " + quoted(state.input);
      const Value *value = document_.find(state.input), *given = document_.find(state.output);
      if (std::ranges::count(document_.inputs, state.input) == 0 ||
          std::ranges::count(document_.outputs, state.output) != 1)
        problems_.add(what + " is not a pair of an input and an output (" + quoted(state.output) + ")");
      else if (!seen.insert(state.input).second || !seen.insert(state.output).second)
        problems_.add(what + ": it, or its output " + quoted(state.output) + ", is another state's, too");
      else if (value && given && (value->dtype != given->dtype || to_string(value->shape) != to_string(given->shape)))
        problems_.add(what + " and its output " + quoted(state.output) + " are of different types");
      if (state.count.empty() && state.axis != 0)
        problems_.add(what + " has an axis of positions, and no count of them");
      if (!state.count.empty()) check_count(state, what, value);
    }
    if (!seen.empty() && seen.size() == 2 * document_.outputs.size()) problems_.add("all outputs are states");
  }

  void check_count(const State& state, const std::string& what, const Value* value) {
    const auto counter = std::ranges::find(document_.states, state.count, &State::input);
    const Value* counts = document_.find(state.count);
    if (counter == document_.states.end() || !counter->count.empty() || !counts || counts->dtype != "i64" ||
        counts->shape.size() != 1)
      problems_.add(what + " is counted by " + quoted(state.count) + ", which is no state i64 [batch]");
    else if (value && (state.axis < 1 || state.axis >= std::ssize(value->shape) ||
                       to_string({value->shape[0]}) != to_string(counts->shape)))
      problems_.add(what + " has no axis of positions for " + quoted(state.count));
  }

  bool check_symbols() {
    std::set<std::string_view> bare;
    for (const std::string& name : document_.inputs)
      if (const Value* value = document_.find(name))
        for (const Size& size : value->shape) bare.insert(size.text);
    bool sound = true;
    const auto wrong = [&](const std::string& text) { problems_.add(text), sound = false; };
    for (const auto& [name, symbol] : document_.symbols) {
      const auto& [minimum, maximum, multiple, remainder] = symbol;
      const std::string what = "symbol " + quoted(name);
      graph::Symbol made{name, minimum, maximum, multiple, remainder, 0};
      if (!is_symbol_name(name))
        wrong(quoted(name) + " is no name for a symbol");
      else if (minimum > maximum || maximum > kMostSize)
        wrong(what + " has bounds [" + std::to_string(minimum) + ", " + std::to_string(maximum) + "]");
      else if (remainder >= multiple || multiple > kMostSize)
        wrong(what + " is " + std::to_string(remainder) + " more than a multiple of " + std::to_string(multiple));
      else if (!made.allows(made.allowed_from(minimum)))
        wrong(what + " has no size: " + std::to_string(remainder) + " more than a multiple of " +
              std::to_string(multiple) + ", from " + std::to_string(minimum) + " to " + std::to_string(maximum));
      else if (!bare.contains(name))
        wrong(what + " is not the size of any input");
      else
        sizes_.add(name, made);
    }
    return sound;
  }

  bool check_conditions(Sizes::Conditions& conditions) {
    constexpr std::array<std::string_view, 3> kinds = {"zero", "nonzero", "natural"};
    for (const auto& [kind, size] : document_.conditions) {
      const auto found = std::ranges::find(kinds, kind);
      try {
        if (found != kinds.end() && sizes_.knows_symbols(size)) {
          conditions.emplace_back(static_cast<graph::Condition::Kind>(found - kinds.begin()), size);
          continue;
        }
      } catch (const Error& error) {
        return problems_.add(std::string("a condition: ") + error.what()), false;
      }
      return problems_.add("condition " + quoted(kind) + " of " + size + ": unknown kind or symbols"), false;
    }
    if (conditions.empty() || sizes_.smallest(conditions)) return true;
    std::string text;
    for (size_t i = 0; i < std::min(conditions.size(), kMostProblems); ++i)
      text +=
          (i ? "; " : "") + std::string(kinds[static_cast<size_t>(conditions[i].first)]) + ": " + conditions[i].second;
    return problems_.add("no sizes are possible: " + text), false;
  }

  bool check_value(const std::string& name, const Value& value) {
    bool sound = true;
    const auto wrong = [&](const std::string& reason) {
      problems_.add("value " + quoted(name) + ": " + reason), sound = false;
    };
    DType dtype;
    if (value.dtype == "bf16" || value.dtype == "sign")
      wrong("dtype '" + value.dtype + "' has no operators yet");
    else if (!graph::parse_dtype(value.dtype, dtype))
      wrong("dtype " + quoted(value.dtype) + " is not one of f32, f16, i64, i32, bool, u8, s8");
    if (value.shape.size() > kMaxRank) {
      wrong("rank " + std::to_string(value.shape.size()) + " is more than 8");
      return false;
    }
    try {
      double elements = 1;
      for (const Size& size : value.shape) {
        const auto [low, high] =
            size.text.empty() ? std::pair<Wide, Wide>(size.number, size.number) : sizes_.bounds(size.text);
        if (high < 0) wrong("size " + (size.text.empty() ? std::to_string(size.number) : size.text) + " is negative");
        elements *= static_cast<double>(std::max<Wide>(low, 1));
      }
      if (elements > static_cast<double>(kMostElements))
        wrong("shape " + to_string(value.shape) + " has more than 2^40 elements");
    } catch (const Error& error) {
      sizes_.spend(0);
      wrong(error.what());
    }
    if (value.quant) check_quant(*value.quant, value.dtype, wrong);
    return sound;
  }

  template <class Wrong>
  void check_quant(const Quant& quant, const std::string& dtype, Wrong wrong) {
    const auto refers = [&](const auto& part, std::string_view expected) {
      const auto* name = std::get_if<std::string>(&part);
      const Value* value = name ? document_.find(*name) : nullptr;
      if (name && (!value || value->dtype != expected))
        wrong("its quantization refers to " + quoted(*name) + ", which is no " + std::string(expected) + " value");
    };
    refers(quant.scale, "f32"), refers(quant.zero_point, "u8");
    if (const auto* scale = std::get_if<double>(&quant.scale))
      if (!(*scale > 0 && *scale <= std::numeric_limits<float>::max())) wrong("its scale is not a positive float32");
    if (dtype != "u8" && dtype != "s8") {
      wrong("it is " + dtype + " but has a quantization");
    } else if (const auto* zero = std::get_if<int64_t>(&quant.zero_point)) {
      const int64_t low = dtype == "u8" ? 0 : -128;
      if (*zero < low || *zero > low + 255)
        wrong("its zero point " + std::to_string(*zero) + " is not a " + dtype + " code");
    }
  }

  void check_constants() {
    const std::set<std::string_view> inputs(document_.inputs.begin(), document_.inputs.end());
    for (const auto& [name, entry] : *document_.constants) {
      const Constant& constant = *constants_.at(name);
      if (inputs.contains(name)) problems_.add("constant " + quoted(name) + " is also an input");
      const Value* value = document_.find(name);
      if (!value) {
        problems_.add("constant " + quoted(name) + " has no entry in values");
        continue;
      }
      std::vector<Size> shape;
      for (const int64_t size : constant.array ? constant.array->shape : constant.weight->shape)
        shape.push_back({size, ""});
      const std::string dtype(graph::name_of(constant.array ? constant.array->dtype : DType::f32));
      if (dtype != value->dtype || shape != value->shape)
        problems_.add("constant " + quoted(name) + " is " + dtype + " " + to_string(shape) + ", its value says " +
                      value->dtype + " " + to_string(value->shape));
      if (constant.weight && constant.name == name)
        for (const std::string& reason : problems_of(*constant.weight))
          problems_.add("weight " + quoted(name) + ": " + reason);
    }
  }

  void check_nodes() {
    for (const std::string& name : document_.inputs) {
      defined_.insert(name);
      if (!document_.find(name)) problems_.add("input " + quoted(name) + " has no entry in values");
    }
    for (const auto& [name, entry] : *document_.constants) defined_.insert(name);
    std::set<std::string_view> names;
    for (const Node& node : document_.nodes) {
      const std::string where =
          "node " + quoted(node.name) + " (" + node.op + (node.source.empty() ? "" : ", " + node.source) + ")";
      if (!names.insert(node.name).second) problems_.add(where + ": another node has that name");
      bool known = true;
      for (const std::string& name : node.inputs) {
        if (name.empty() || defined_.contains(name)) continue;
        problems_.add(where + ": input " + quoted(name) + " is not defined before it");
        known = false;
      }
      for (const std::string& name : node.outputs) {
        if (name.empty())
          problems_.add(where + ": an output has no name");
        else if (defined_.contains(name))
          problems_.add(where + ": output " + quoted(name) + " is already defined");
        else if (!document_.find(name))
          problems_.add(where + ": output " + quoted(name) + " has no entry in values");
      }
      defined_.insert(node.outputs.begin(), node.outputs.end());
      const Operator* op = find_operator(node.op);
      if (!op)
        problems_.add(where + ": there is no such operator");
      else if (known &&
               std::ranges::all_of(node.inputs, [&](const auto& it) { return it.empty() || sound_.contains(it); }))
        check_node(*op, node, where);
    }
  }

  void check_node(const Operator& op, const Node& node, const std::string& where) {
    std::vector<std::string> reasons = attribute_problems(op, node.attributes, sizes_);
    check_arity(op, node, reasons);
    for (size_t i = 0; reasons.empty() && i < node.inputs.size(); ++i) {
      const Value* value = document_.find(node.inputs[i]);
      if (!node.inputs[i].empty() && !op.input(i).takes(value->dtype)) {
        std::string allowed(op.input(i).dtypes);
        for (size_t at; (at = allowed.find('|')) != std::string::npos;) allowed.replace(at, 1, " or ");
        reasons.push_back(described(op, i) + " is " + value->dtype + ", must be " + allowed);
      }
    }
    std::string text;
    for (const std::string& reason : reasons) text += (text.empty() ? "" : "; ") + reason;
    if (!text.empty()) return problems_.add(where + ": " + text);
    for (size_t i = 0; i < node.inputs.size(); ++i) check_operand(op.input(i), described(op, i), node.inputs[i], where);
  }

  static std::string described(const Operator& op, size_t input) {
    return "input " + std::to_string(input) + " (" + std::string(op.input(input).name) + ")";
  }

  static void check_arity(const Operator& op, const Node& node, std::vector<std::string>& reasons) {
    const size_t least = std::ranges::count_if(op.inputs, [](const auto& input) { return !input.optional; }),
                 most = op.inputs.size(), count = node.inputs.size();
    if (count < least || (count > most && !op.variadic)) {
      std::string expected = op.variadic ? "at least " + std::to_string(least) : std::to_string(least);
      if (!op.variadic && least != most) expected += " to " + std::to_string(most);
      reasons.push_back("takes " + expected + " inputs, has " + std::to_string(count));
    }
    for (size_t i = 0; i < (op.variadic ? count : std::min(count, most)); ++i)
      if (node.inputs[i].empty() && !op.input(i).optional) reasons.push_back(described(op, i) + " is required");
    if (op.outputs != 0 && node.outputs.size() != static_cast<size_t>(op.outputs))
      reasons.push_back("makes " + std::to_string(op.outputs) + " outputs, names " +
                        std::to_string(node.outputs.size()));
  }

  // Inputs that must be constants, weights, finite.
  void check_operand(const Operator::Input& input, const std::string& what, const std::string& name,
                     const std::string& where) {
    if (name.empty()) return;
    const auto found = constants_.find(name);
    const Constant* constant = found == constants_.end() ? nullptr : found->second;
    if (input.constant && !constant)
      problems_.add(where + ": " + what + " must be a constant, " + quoted(name) + " is not");
    else if (input.weight && (!constant || !constant->weight))
      problems_.add(where + ": " + what + " must be a quantized weight");
    else if (const double most = most_of(input.name); constant && most > 0 && !input.weight && !within(*constant, most))
      problems_.add(where + ": " + what + " has a value that is not finite or too large");
  }

  static bool within(const Constant& constant, double most) {
    if (constant.array && constant.array->dtype != DType::f32) return true;  // refused elsewhere
    const Buffer made = constant.weight ? numbers_of(*constant.weight) : Buffer();
    const Buffer& numbers = constant.weight ? made : constant.array->data;
    const auto* begin = numbers.as<const float>();
    return std::all_of(begin, begin + numbers.bytes() / sizeof(float), [&](float x) { return std::abs(x) <= most; });
  }

  const Document& document_;
  Sizes& sizes_;
  Problems problems_;
  std::unordered_map<std::string_view, const Constant*> constants_;
  std::unordered_map<std::string_view, const Constant*> by_identity_;
  std::set<std::string_view> sound_, defined_;
};

// ----------------------------------------------------------------------------------------------------------- the core

class Building {
 public:
  Building(const Document& document, Sizes& sizes) : document_(document), sizes_(sizes) {}

  graph::Graph run(std::vector<Constant> constants, const Sizes::Conditions& conditions) {
    put_symbols(conditions);
    for (const auto& [kind, size] : conditions) builder_.condition(kind_name(kind), sizes_.rpn(size));
    for (const std::string& name : document_.inputs) {
      const Value& value = *document_.find(name);
      builder_.input(name, value.dtype, dims_of(value.shape));
    }
    put_constants(std::move(constants));
    for (const Node& node : document_.nodes) put_node(node);
    for (const std::string& name : document_.outputs) builder_.output(called(name, false));
    for (const State& state : document_.states)
      builder_.state(state.input, state.output, called(state.initial, false), state.count, state.axis);
    return builder_.finish();
  }

 private:
  static std::string_view kind_name(graph::Condition::Kind kind) {
    constexpr std::array<std::string_view, 3> names = {"zero", "nonzero", "natural"};
    return names[static_cast<size_t>(kind)];
  }

  std::vector<graph::Dim> dims_of(const std::vector<Size>& shape) {
    std::vector<graph::Dim> dims;
    for (const Size& size : shape)
      dims.push_back(size.text.empty() ? graph::Dim::constant(size.number) : sizes_.rpn(size.text));
    return dims;
  }

  // In calls, a batch may also be 0: the first axis of an input, unless its symbol says otherwise.
  void put_symbols(const Sizes::Conditions& conditions) {
    std::set<std::string_view> batches;
    for (const std::string& name : document_.inputs)
      if (const std::vector<Size>& shape = document_.find(name)->shape; !shape.empty()) batches.insert(shape[0].text);
    const std::optional<Sample> trial = sizes_.smallest(conditions);
    for (size_t i = 0; i < sizes_.symbols().size(); ++i) {
      const graph::Symbol& symbol = sizes_.symbols()[i];
      const bool empty = batches.contains(symbol.name) && symbol.minimum <= symbol.multiple && symbol.remainder == 0;
      builder_.symbol(symbol.name, empty ? 0 : symbol.minimum, symbol.maximum, symbol.multiple, symbol.remainder,
                      trial ? (*trial)[i] : 0);
    }
    if (sizes_.symbols().empty()) return;
    for (Sample& sample : sizes_.samples(conditions, kNear, false)) builder_.sample(std::move(sample));
    std::vector<Sample> all = sizes_.samples(conditions, 24);
    if (!all.empty()) builder_.sample(std::move(all.back()));
  }

  void put_constants(std::vector<Constant> constants) {
    std::set<std::string_view> coded, plain(document_.outputs.begin(), document_.outputs.end()), signs;
    for (const Node& node : document_.nodes) {
      const Operator& op = *find_operator(node.op);
      for (size_t i = 0; i < node.inputs.size(); ++i) (op.input(i).weight ? coded : plain).insert(node.inputs[i]);
      if (node.op.starts_with(kSigns) && node.inputs.size() > 1) signs.insert(node.inputs[1]);
    }
    for (const State& state : document_.states) plain.insert(state.initial);
    std::unordered_map<std::string_view, Constant*> first;
    std::map<std::pair<std::string_view, std::string_view>, std::string> held;  // by identity, and how it is read
    // Which ways of reading are still to come, so that the last one takes the memory itself.
    std::map<std::string_view, int> uses;
    for (Constant& constant : constants) {
      first.emplace(constant.identity, &constant);
      const bool weight = first.at(constant.identity)->weight.has_value();
      uses[constant.identity] += (weight && coded.contains(constant.name)) + plain.contains(constant.name);
    }
    for (Constant& constant : constants) {
      Constant& own = *first.at(constant.identity);
      const bool is_coded = coded.contains(constant.name);
      const auto put = [&](bool as_code, std::string_view way, const std::string& name, auto how) {
        --uses[constant.identity];
        const auto [at, fresh] = held.emplace(std::pair(std::string_view(own.identity), way), name);
        names_[{constant.name, as_code}] = at->second;
        if (fresh) how(name);
      };
      const bool is_sign = signs.contains(constant.name);
      if (plain.contains(constant.name))
        put(false, "numbers", is_coded ? unused(constant.name + "/numbers") : constant.name,
            [&](const std::string& name) { put_numbers(name, own); });
      if (is_coded && own.weight)
        put(true, is_sign ? "signs" : "codes", constant.name, [&](const std::string& name) {
          const bool last = uses[constant.identity] == 0;
          builder_.weight(name, as_read(last ? std::move(*own.weight) : copy_of(*own.weight), is_sign));
        });
    }
  }

  void put_numbers(const std::string& name, Constant& constant) {
    if (constant.weight) {
      builder_.constant(name, "f32", constant.weight->shape, numbers_of(*constant.weight));
    } else {
      Array& array = *constant.array;
      builder_.constant(name, graph::name_of(array.dtype), array.shape, std::move(array.data));
    }
  }

  static Array copy_of(const Array& array) {
    Array made{array.dtype, array.shape, Buffer(array.data.bytes())};
    std::copy_n(array.data.as<const std::byte>(), array.data.bytes(), made.data.as<std::byte>());
    return made;
  }
  static FileWeight copy_of(const FileWeight& weight) {
    const auto part = [](const std::optional<Array>& each) {
      return each ? std::optional(copy_of(*each)) : std::nullopt;
    };
    return {weight.shape,           weight.bits,
            weight.group_size,      copy_of(weight.codes),
            copy_of(weight.scales), part(weight.zero_points),
            part(weight.offsets),   part(weight.values),
            weight.pattern};
  }

  std::string unused(std::string name) const {
    while (document_.find(name)) name += "_";
    return name;
  }

  std::string called(const std::string& name, bool as_code) const {
    const auto found = names_.find({name, as_code});
    return found == names_.end() ? name : found->second;
  }

  void put_node(const Node& node) {
    const Operator& op = *find_operator(node.op);
    std::vector<std::string> inputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) inputs.push_back(called(node.inputs[i], op.input(i).weight));
    builder_.node(node.op, node.name, inputs, node.outputs, attributes_of(op, node.attributes, sizes_));
    for (const std::string& name : node.outputs)
      if (const Value* value = document_.find(name)) builder_.claim(name, value->dtype, dims_of(value->shape));
  }

  const Document& document_;
  Sizes& sizes_;
  graph::GraphBuilder builder_;
  std::map<std::pair<std::string, bool>, std::string> names_;
};

// As a caller sees them.
std::vector<std::string> without_states(const Document& document, const std::vector<std::string>& names) {
  std::vector<std::string> given;
  for (const std::string& name : names)
    if (std::ranges::none_of(document.states,
                             [&](const State& state) { return state.input == name || state.output == name; }))
      given.push_back(name);
  return given;
}

void refuse_segments(const Document& document, const std::string& name) {
  std::string names;
  for (const Node& node : document.nodes)
    if (node.op == "torch" && names.size() < 500) names += (names.empty() ? "" : ", ") + quoted(node.name);
  if (!names.empty())
    throw Error(ErrorKind::unsupported, name + " holds segments that run in torch: " + names +
                                            ". Only lowbit.load in Python runs them, with allow_torch=True");
}

}  // namespace

Model load(const Source& source, const std::string& name, const Options& options) {
  const DefaultFloatEnvironment environment;  // codes that are read as floats are multiplied here
  Container file(source, name);
  upgrade(file.document(), name);
  const int64_t most = check_room(file, options.limits);
  Sizes sizes;
  const Document document = read_document(file.document(), sizes);
  std::vector<Constant> constants = Constants(document, file).read();
  Sizes::Conditions conditions;
  Validation(document, constants, sizes).run(conditions);
  const std::vector<std::string> given = without_states(document, document.inputs),
                                 made = without_states(document, document.outputs);
  const Names names = names_of(*document.meta, given, made.size());
  refuse_segments(document, name);
  Model model;
  const auto port = [&](const std::string& called, const std::string& value) {
    const Value& type = *document.find(value);
    Port found{called, value, DType::f32, type.shape};
    graph::parse_dtype(type.dtype, found.dtype);
    return found;
  };
  for (const std::string& input : given) model.inputs.push_back(port(names.inputs.at(input), input));
  for (size_t i = 0; i < made.size(); ++i) {
    const auto called = names.outputs.find(static_cast<int64_t>(i));
    model.outputs.push_back(port(called == names.outputs.end() ? made[i] : called->second, made[i]));
  }
  std::map<std::string_view, const Constant*> by_identity;
  for (const Constant& constant : constants) {
    const Constant& own = *by_identity.emplace(constant.identity, &constant).first->second;
    if (own.weight) model.weights.push_back({constant.name, own.weight->bits, own.bytes});
  }
  if (options.document) model.document = file.text();
  graph::Graph graph = Building(document, sizes).run(std::move(constants), conditions);
  graph::Limits limits = options.limits;
  limits.weights = limits.memory ? limits.memory : std::optional(most);
  const Isa cap = options.isa.empty() ? default_isa() : parse_isa(options.isa);
  model.session = std::make_unique<graph::Session>(std::move(graph), cap, options.threads, limits);
  return model;
}

}  // namespace lowbit::reader
