#include "graph/program.h"

#include <algorithm>

#include "base/account.h"
#include "base/float_environment.h"
#include "base/large_pages.h"
#include "base/memory.h"
#include "graph/merging.h"
#include "graph/ops/common.h"

namespace lowbit::graph {
namespace {

using MaybeType = std::optional<TensorType>;

// One node's output types, checked. Throws Error(input) with the reason.
std::vector<TensorType> infer_node(const Op& op, std::span<const TensorType> inputs, std::span<const int64_t> symbols,
                                   size_t outputs) {
  std::vector<TensorType> types = op.infer(inputs, symbols);
  if (types.size() != outputs)
    throw Error(ErrorKind::input,
                "gives " + std::to_string(types.size()) + " outputs, the node names " + std::to_string(outputs));
  for (const TensorType& type : types)
    if (checked_elements(type) < 0)
      throw Error(ErrorKind::input, "its output " + to_string(type) + " is negative or too large");
  return types;
}

// A free size that leads no input, such as a number of tokens, where kernels are chosen for it.
constexpr int64_t kTypicalSize = 64;

// What packed weights may take if nobody said: so much whatever they are, and so much for each byte of constants. Tiles
// pad a layer of one output channel to a multiple; only very many groups of a convolution are beyond it.
constexpr int64_t kPackedBytes = int64_t{32} << 20, kPackedShare = 16;

// Bytes of freed constants that are worth giving back to the system: about a millisecond's work.
constexpr size_t kFreedTogether = size_t{16} << 20;

int64_t bytes_held(const Graph& graph) {
  int64_t bytes = 0;
  for (const auto& [value, constant] : graph.constants)
    bytes += static_cast<int64_t>(constant.weight ? constant.weight->bytes() : constant.buffer->bytes()) +
             static_cast<int64_t>(Buffer::kSlack);
  return bytes;
}

// What is known while preparing: types at the trial sizes, and at typical ones as far as these are possible; and what
// is left to read of each constant.
class Preparation {
 public:
  Preparation(Graph&& graph, Isa isa, const Limits& limits)
      : graph_(std::move(graph)),
        isa_(isa),
        held_(bytes_held(graph_)),
        memory_limit_(limits.memory ? *limits.memory : available_memory()),
        account_(held_, std::min(memory_limit_, limits.weights  ? *limits.weights
                                                : limits.memory ? *limits.memory
                                                                : kPackedBytes + kPackedShare * held_)) {}

  Program run() {
    if (held_ > memory_limit_)
      throw Error(ErrorKind::limit, "the model's constants take " + in_mebibytes(held_) +
                                        ", and the session may hold " + in_mebibytes(memory_limit_) +
                                        ", which limits=lowbit.Limits(memory=...) sets");
    Program program;
    put_states_last();
    types_.resize(graph_.values.size());
    typical_types_.resize(graph_.values.size());
    for (const Symbol& symbol : graph_.symbols) sizes_.push_back(symbol.trial);
    typical_sizes_ = typical_sizes();
    sampled_types_.assign(graph_.samples.size(), std::vector<MaybeType>(graph_.values.size()));
    infer_inputs();
    for (const auto& [value, constant] : graph_.constants) {
      types_[value] = typical_types_[value] = constant.type;
      for (std::vector<MaybeType>& types : sampled_types_) types[value] = constant.type;
    }
    count_readers();
    std::vector<char> read(graph_.values.size(), 0);  // constants that a node reads at run time
    for (size_t i = 0; i < graph_.nodes.size() && !graph_.problems.full(); ++i) {
      std::unique_ptr<Op> op = make(graph_.nodes[i]);
      if (op != nullptr && live_[i]) {
        for (size_t input = 0; input < graph_.nodes[i].inputs.size(); ++input)
          if (const int value = graph_.nodes[i].inputs[input]; value >= 0) {
            if (op->reads(input)) read[value] = 1;
            if (op->shares(input)) sharing_[value].push_back(program.nodes.size());
          }
        Graph::Node& node = graph_.nodes[i];
        program.nodes.push_back({std::move(node.op), std::move(node.name), node.inputs, std::move(node.outputs),
                                 std::move(op), std::move(node.layers)});
      }
      release(program, graph_.nodes[i].inputs, read);
    }
    for (int output : graph_.outputs)
      if (const auto found = graph_.constants.find(output);
          found != graph_.constants.end() && found->second.weight != nullptr)
        graph_.problems.add("output '" + graph_.values[output] + "' is a quantized weight");
    for (int output : graph_.outputs) {
      if (types_[output]) {
        program.outputs.push_back({output, types_[output]->dtype, {}});
      } else if (graph_.problems.empty()) {
        graph_.problems.add("output '" + graph_.values[output] + "' has no type");
      }
      read[output] = 1;
    }
    throw_problems(graph_.problems);
    add_states(program);
    throw_problems(graph_.problems);
    finish(program, read);
    if (held_ >= static_cast<int64_t>(kFreedTogether)) return_free_memory();
    program.packed_bytes = account_.held();
    program.memory_limit = memory_limit_;
    return program;
  }

 private:
  // Inputs and outputs in their order, those of states behind the others, in the order of these. What is no state is
  // dropped, after noting why.
  void put_states_last() {
    std::vector<Graph::Input> kept;
    std::set<int> seen;
    std::erase_if(graph_.states, [&](const Graph::State& state) {
      const auto input = std::ranges::find(graph_.inputs, state.input, &Graph::Input::value);
      const bool given = std::ranges::count(graph_.outputs, state.output) == 1;
      if (input != graph_.inputs.end() && given && seen.insert(state.output).second) {
        kept.push_back(std::move(*input));
        graph_.inputs.erase(input);
        return false;
      }
      graph_.problems.add("state '" + (state.input < 0 ? std::string() : graph_.values[state.input]) +
                          "' is not a pair of an input and an output of its own");
      return true;
    });
    std::ranges::move(kept, std::back_inserter(graph_.inputs));
    for (const Graph::State& state : graph_.states) std::erase(graph_.outputs, state.output);
    for (const Graph::State& state : graph_.states) graph_.outputs.push_back(state.output);
  }

  void add_states(Program& program) {
    for (const Graph::State& state : graph_.states) {
      const auto wrong = [&](const std::string& reason) {
        graph_.problems.add("state '" + graph_.values[state.input] + "' " + reason);
      };
      const TensorType& type = *types_[state.input];
      if (type != *types_[state.output]) {
        wrong("is " + to_string(type) + ", and its output " + to_string(*types_[state.output]));
        continue;
      }
      Program::State made;
      if (state.initial >= 0 && !take_initial(state, made)) {
        wrong("begins with '" + graph_.values[state.initial] + "', which is no constant of its type");
        continue;
      }
      if (state.count >= 0) {
        const auto counter = std::ranges::find(graph_.states, state.count, &Graph::State::input);
        if (counter == graph_.states.end() || counter->count >= 0 ||
            *types_[state.count] != TensorType{DType::i64, {type.shape.rank() > 0 ? type.shape[0] : 0}} ||
            state.axis < 1 || state.axis >= type.shape.rank()) {
          wrong("has no count of its positions");
          continue;
        }
        made.count = static_cast<int>(counter - graph_.states.begin()), made.axis = state.axis;
      }
      made.in_place = is_updated(program, state);
      program.states.push_back(std::move(made));
    }
  }

  bool take_initial(const Graph::State& state, Program::State& made) const {
    const auto found = graph_.constants.find(state.initial);
    if (found == graph_.constants.end() || found->second.weight != nullptr) return false;
    const TensorType &type = *types_[state.input], &initial = found->second.type;
    if (initial.dtype != type.dtype || initial.shape.rank() != type.shape.rank()) return false;
    for (int axis = 0; axis < type.shape.rank(); ++axis)
      if (initial.shape[axis] != 1 && initial.shape[axis] != type.shape[axis]) return false;
    made.initial = initial, made.begin = found->second.buffer;
    return true;
  }

  // Whether one node alone reads the state, and makes its output from it as an update.
  bool is_updated(const Program& program, const Graph::State& state) const {
    int readers = 0;
    bool updated = false;
    for (const Program::Node& node : program.nodes) {
      readers += static_cast<int>(std::ranges::count(node.inputs, state.input) +
                                  std::ranges::count(node.inputs, state.output));
      for (size_t i = 0; i < node.outputs.size(); ++i)
        if (const int from = node.impl->updates(i); node.outputs[i] == state.output && from >= 0)
          updated = node.inputs[from] == state.input;
    }
    return updated && readers == 1;
  }

  // One sample, and kTypicalSize of all else.
  std::vector<int64_t> typical_sizes() const {
    std::vector<int64_t> sizes;
    for (size_t i = 0; i < graph_.symbols.size(); ++i)
      sizes.push_back(graph_.symbols[i].allowed_from(std::max(sizes_[i], kTypicalSize)));
    for (const Graph::Input& input : graph_.inputs)
      if (!input.shape.empty())
        if (const std::optional<size_t> leads = symbol_of(input.shape[0])) sizes[*leads] = sizes_[*leads];
    return sizes;
  }

  static TensorType type_of(const Graph::Input& input, std::span<const int64_t> sizes) {
    TensorType type{input.dtype, {}};
    for (const Dim& dim : input.shape) type.shape.push_back(evaluate(dim, sizes));
    if (checked_elements(type) < 0) throw Error(ErrorKind::input, "its size is negative or too large");
    return type;
  }

  void infer_inputs() {
    for (const Graph::Input& input : graph_.inputs) {
      try {
        types_[input.value] = type_of(input, sizes_);
        typical_types_[input.value] = type_of(input, typical_sizes_);
      } catch (const Error& error) {
        if (!types_[input.value]) graph_.problems.add("input '" + graph_.values[input.value] + "': " + error.what());
      }
      for (size_t i = 0; i < sampled_types_.size(); ++i) {
        try {
          sampled_types_[i][input.value] = type_of(input, graph_.samples[i]);
        } catch (const Error&) {  // too large there
        }
      }
    }
  }

  // Not all sizes need be possible together: what cannot be inferred stays unknown.
  void infer_typical(const Op& op, const Graph::Node& node) {
    const std::optional<std::vector<TensorType>> types = input_types(node, typical_types_);
    if (!types) return;
    try {
      const std::vector<TensorType> outputs = infer_node(op, *types, typical_sizes_, node.outputs.size());
      for (size_t i = 0; i < outputs.size(); ++i) typical_types_[node.outputs[i]] = outputs[i];
    } catch (const Error&) {
    }
  }

  // A node's outputs as it makes them, against what was said of them.
  void check_claims(const Graph::Node& node, std::span<const TensorType> outputs, std::span<const int64_t> sizes) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto found = graph_.claims.find(node.outputs[i]);
      if (found == graph_.claims.end()) continue;
      const auto& [dtype, shape] = found->second;
      bool holds = name_of(outputs[i].dtype) == dtype && std::ssize(shape) == outputs[i].shape.rank();
      for (int axis = 0; holds && axis < outputs[i].shape.rank(); ++axis)
        holds = evaluate(shape[axis], sizes) == outputs[i].shape[axis];
      if (holds) continue;
      std::string said = dtype + " [";
      for (const Dim& dim : shape) said += (&dim != shape.data() ? ", " : "") + to_string(dim, graph_.symbols);
      throw Error(ErrorKind::input, "output '" + graph_.values[node.outputs[i]] + "' is " + to_string(outputs[i]) +
                                        at(sizes) + ", its value says " + said + "]");
    }
  }

  // For messages: ` where batch is 3`.
  std::string at(std::span<const int64_t> sizes) const {
    std::string text;
    for (size_t i = 0; i < std::min<size_t>(sizes.size(), 4); ++i)
      text += (i == 0 ? " where " : ", ") + graph_.symbols[i].name + " is " + std::to_string(sizes[i]);
    return text;
  }

  void infer_samples(const Op& op, const Graph::Node& node) {
    for (size_t i = 0; i < sampled_types_.size(); ++i) {
      const std::vector<int64_t>& sizes = graph_.samples[i];
      const std::optional<std::vector<TensorType>> types = input_types(node, sampled_types_[i]);
      if (!types) continue;
      std::vector<TensorType> outputs;
      try {
        outputs = infer_node(op, *types, sizes, node.outputs.size());
      } catch (const Error&) {
        continue;  // calls with such sizes are refused
      }
      for (size_t output = 0; output < outputs.size(); ++output)
        sampled_types_[i][node.outputs[output]] = outputs[output];
      check_claims(node, outputs, sizes);
    }
  }

  void count_readers() {
    readers_.resize(graph_.values.size());
    live_.resize(graph_.nodes.size());
    std::vector<char> needed(graph_.values.size(), 0);
    for (int output : graph_.outputs) needed[output] = 1, ++readers_[output];  // the caller reads it
    for (const Graph::State& state : graph_.states)
      if (state.initial >= 0) ++readers_[state.initial];
    for (size_t i = graph_.nodes.size(); i-- > 0;) {
      const Graph::Node& node = graph_.nodes[i];
      live_[i] = std::any_of(node.outputs.begin(), node.outputs.end(), [&](int value) { return needed[value]; });
      for (int value : node.inputs) {
        if (value < 0) continue;
        ++readers_[value];
        if (live_[i]) needed[value] = 1;
      }
    }
  }

  // The prepared operator, or null after noting why there is none.
  std::unique_ptr<Op> make(const Graph::Node& node) {
    const Factory factory = find_factory(node.op);
    if (factory == nullptr) return note(node, "unknown operator");
    const std::optional<std::vector<TensorType>> types = input_types(node, types_);
    NodeInfo info{.op = node.op,
                  .name = node.name,
                  .attributes = node.attributes,
                  .constants = {},
                  .present = {},
                  .types = input_types(node, typical_types_).value_or(std::vector<TensorType>()),
                  .outputs = node.outputs.size(),
                  .symbols = graph_.symbols.size(),
                  .isa = isa_,
                  .packings = &packings_,
                  .known = {},
                  .weights = {}};
    for (int value : node.inputs) {
      const auto found = graph_.constants.find(value);
      info.constants.push_back(found == graph_.constants.end() ? nullptr : &found->second);
      info.present.push_back(value >= 0);
    }
    try {
      std::unique_ptr<Op> op = factory(info);
      for (const auto& [key, value] : node.attributes)
        if (!info.known.contains(key)) note(node, "unknown attribute '" + key.substr(0, 100) + "'");
      for (size_t i = 0; i < info.constants.size(); ++i)
        if (info.constants[i] != nullptr && info.constants[i]->weight != nullptr && !info.weights.contains(i))
          throw Error(ErrorKind::input, "input " + std::to_string(i) + " cannot be a quantized weight");
      if (!types) return nullptr;  // a consequence of a problem noted before
      const std::vector<TensorType> outputs = infer_node(*op, *types, sizes_, node.outputs.size());
      for (size_t i = 0; i < outputs.size(); ++i) types_[node.outputs[i]] = outputs[i];
      check_claims(node, outputs, sizes_);
      infer_typical(*op, node);
      infer_samples(*op, node);
      return op;
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::input) return note(node, error.what());
      if (error.kind() == ErrorKind::limit)
        throw Error(ErrorKind::limit, describe(node.name, node.op) + ": " + error.what());
      graph_.problems.add(error.what());
      return nullptr;
    }
  }

  // The types of a node's inputs, if all are known.
  static std::optional<std::vector<TensorType>> input_types(const Graph::Node& node,
                                                            const std::vector<MaybeType>& known) {
    std::vector<TensorType> types;
    for (int value : node.inputs) {
      if (value >= 0 && !known[value]) return std::nullopt;
      types.push_back(value < 0 ? TensorType{} : *known[value]);
    }
    return types;
  }

  std::nullptr_t note(const Graph::Node& node, const std::string& reason) {
    graph_.problems.add(describe(node.name, node.op) + ": " + reason);
    return nullptr;
  }

  // Frees constants that no later node reads, unless a prepared node wants them at run time.
  void release(Program& program, const std::vector<int>& inputs, const std::vector<char>& read) {
    for (int value : inputs) {
      if (value < 0 || --readers_[value] > 0 || read[value]) continue;
      const auto found = graph_.constants.find(value);
      if (found == graph_.constants.end()) continue;
      for (size_t node : sharing_[value]) program.nodes[node].impl->share(found->second.identity(), packings_);
      sharing_.erase(value);
      freed_ += found->second.weight ? found->second.weight->bytes() : found->second.buffer->bytes();
      packings_.forget(found->second.identity());
      found->second.buffer.reset(), found->second.weight.reset();
    }
    if (freed_ < kFreedTogether) return;
    return_free_memory();  // else the heap holds both forms of all weights in the end
    freed_ = 0;
  }

  void finish(Program& program, const std::vector<char>& read) {
    program.symbols = std::move(graph_.symbols);
    program.conditions = std::move(graph_.conditions);
    program.copy = make_copy(isa_);
    for (std::string& name : graph_.values) program.values.push_back({std::move(name), {}, false});
    for (auto& [value, constant] : graph_.constants) {
      if (!read[value]) constant.buffer.reset();
      constant.weight.reset();  // who reads it at run time holds it
      program.values[value].constant = std::move(constant);
      program.values[value].is_constant = true;
    }
    for (Graph::Input& input : graph_.inputs)
      program.inputs.push_back({input.value, input.dtype, std::move(input.shape)});
    describe_outputs(program);
  }

  // A size that stays the same when every symbol grows is taken for fixed.
  void describe_outputs(Program& program) const {
    std::vector<TensorType> larger;
    for (int64_t step : {1, 2, 3, 8}) {
      std::vector<int64_t> sizes;
      for (size_t i = 0; i < sizes_.size(); ++i)
        sizes.push_back(program.symbols[i].allowed_from(sizes_[i] * 2 + step + i));
      try {
        std::vector<TensorType> inputs;
        for (const Program::Input& input : program.inputs) {
          inputs.push_back({input.dtype, {}});
          for (const Dim& dim : input.shape) inputs.back().shape.push_back(evaluate(dim, sizes));
        }
        larger = infer_types(program, inputs, sizes);
        break;
      } catch (const Error&) {  // not every size need be possible
      }
    }
    for (Program::Output& output : program.outputs) {
      const Shape& shape = types_[output.value]->shape;
      const bool compare = !larger.empty() && larger[output.value].shape.rank() == shape.rank();
      for (int axis = 0; axis < shape.rank(); ++axis)
        output.shape.push_back(compare && larger[output.value].shape[axis] == shape[axis] ? shape[axis] : -1);
    }
  }

  Graph graph_;
  Isa isa_;
  int64_t held_, memory_limit_;  // bytes of the constants; that the session may hold in all
  MemoryAccount account_;        // the graph's constants, and what operators keep
  Packings packings_;
  std::vector<int64_t> sizes_, typical_sizes_;  // of the symbols
  std::vector<MaybeType> types_, typical_types_;
  std::vector<std::vector<MaybeType>> sampled_types_;  // at the graph's samples
  std::vector<int> readers_;
  std::vector<char> live_;
  std::map<int, std::vector<size_t>> sharing_;  // by constant: nodes
  size_t freed_ = 0;                            // bytes of constants since memory was given back
};

std::string describe(const Program& program, const Program::Input& input) {
  std::string text = std::string(name_of(input.dtype)) + " [";
  for (const Dim& dim : input.shape) text += (&dim != input.shape.data() ? ", " : "") + to_string(dim, program.symbols);
  return text + "]";
}

}  // namespace

std::string describe(std::string_view name, std::string_view op) {
  return "node '" + std::string(name) + "' (" + std::string(op) + ")";
}

Program prepare(Graph&& graph, Isa isa, const Limits& limits) {
  const DefaultFloatEnvironment environment;  // packed numbers, and sizes that are multiplied by floats
  merge_products(graph);  // before buffers lie together: what it makes is gone with the last packing
  const LargePages together(static_cast<size_t>(bytes_held(graph)));
  return Preparation(std::move(graph), isa, limits).run();
}

std::vector<int64_t> bind_symbols(const Program& program, std::span<const TensorType> inputs) {
  const auto wrong = [&](size_t i, const std::string& reason) -> Error {
    const Program::Input& input = program.inputs[i];
    return Error(ErrorKind::input, "input '" + program.values[input.value].name + "': expected " +
                                       describe(program, input) + ", got " + to_string(inputs[i]) + reason);
  };
  if (inputs.size() != program.inputs.size())
    throw Error(ErrorKind::input,
                "expected " + std::to_string(program.inputs.size()) + " inputs, got " + std::to_string(inputs.size()));
  std::vector<int64_t> symbols(program.symbols.size(), -1);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Program::Input& input = program.inputs[i];
    if (inputs[i].dtype != input.dtype || inputs[i].shape.rank() != std::ssize(input.shape)) throw wrong(i, "");
    if (checked_elements(inputs[i]) < 0) throw wrong(i, ", which is too large");
    for (size_t axis = 0; axis < input.shape.size(); ++axis) {
      const std::optional<size_t> index = symbol_of(input.shape[axis]);
      if (!index) continue;
      int64_t& size = symbols[*index];
      if (size < 0) size = inputs[i].shape[axis];
      const Symbol& symbol = program.symbols[*index];
      if (!symbol.allows(size)) {
        const std::string more = std::to_string(symbol.remainder) + " more than a multiple of ";
        throw wrong(i, ": " + symbol.name + " must be from " + std::to_string(symbol.minimum) + " to " +
                           std::to_string(symbol.maximum) +
                           (symbol.multiple > 1 ? ", " + more + std::to_string(symbol.multiple) : ""));
      }
    }
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t axis = 0; axis < program.inputs[i].shape.size(); ++axis) {
      const int64_t expected = evaluate(program.inputs[i].shape[axis], symbols);
      if (expected != inputs[i].shape[axis])
        throw wrong(i, ": axis " + std::to_string(axis) + " must be " + std::to_string(expected));
    }
  }
  for (const Condition& condition : program.conditions) {
    const int64_t found = evaluate(condition.size, symbols);
    const bool holds = condition.kind == Condition::Kind::natural
                           ? found >= 0
                           : (found == 0) == (condition.kind == Condition::Kind::zero);
    if (!holds)
      throw Error(ErrorKind::input, "the inputs' sizes do not go together: " +
                                        to_string(condition.size, program.symbols) + " is " + std::to_string(found));
  }
  return symbols;
}

std::vector<TensorType> infer_types(const Program& program, std::span<const TensorType> inputs,
                                    std::span<const int64_t> symbols) {
  std::vector<TensorType> types(program.values.size());
  for (size_t i = 0; i < program.values.size(); ++i) types[i] = program.values[i].constant.type;
  for (size_t i = 0; i < inputs.size(); ++i) types[program.inputs[i].value] = inputs[i];
  std::vector<TensorType> arguments;
  for (const Program::Node& node : program.nodes) {
    arguments.clear();
    for (int value : node.inputs) arguments.push_back(value < 0 ? TensorType{} : types[value]);
    try {
      const std::vector<TensorType> results = infer_node(*node.impl, arguments, symbols, node.outputs.size());
      for (size_t i = 0; i < results.size(); ++i) types[node.outputs[i]] = results[i];
    } catch (const Error& error) {
      throw Error(ErrorKind::input, describe(node.name, node.op) + ": " + error.what());
    }
  }
  return types;
}

}  // namespace lowbit::graph
