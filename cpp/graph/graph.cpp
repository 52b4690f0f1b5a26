#include "graph/graph.h"

#include <algorithm>
#include <array>

namespace lowbit::graph {
namespace {

constexpr int64_t kMaxSymbol = (int64_t{1} << 31) - 1;

std::string quoted(const std::string& name) {
  return "'" + (name.size() <= 100 ? name : name.substr(0, 100) + "...") + "'";
}

}  // namespace

int64_t Symbol::allowed_from(int64_t size) const {
  size = std::clamp(size, minimum, maximum);
  const int64_t above = size + ((remainder - size) % multiple + multiple) % multiple;
  return above <= maximum ? above : above - multiple;
}

int64_t GraphBuilder::symbol(std::string name, int64_t minimum, int64_t maximum, int64_t multiple, int64_t remainder,
                             int64_t trial) {
  if (!symbol_names_.insert(name).second) problem("symbol " + quoted(name) + " is defined twice");
  if (minimum < 0 || maximum < minimum || maximum > kMaxSymbol) {
    problem("symbol " + quoted(name) + ": bounds must satisfy 0 <= minimum <= maximum < 2^31, got " +
            std::to_string(minimum) + " and " + std::to_string(maximum));
    minimum = maximum = 1;
  }
  if (multiple < 1 || multiple > kMaxSymbol || remainder < 0 || remainder >= multiple) {
    problem("symbol " + quoted(name) + ": " + std::to_string(remainder) + " is no remainder of " +
            std::to_string(multiple));
    multiple = 1, remainder = 0;
  }
  Symbol symbol{std::move(name), minimum, maximum, multiple, remainder, trial};
  if (trial == 0) symbol.trial = symbol.allowed_from(1);
  if (!symbol.allows(symbol.trial)) {
    problem("symbol " + quoted(symbol.name) + " cannot be " + std::to_string(symbol.trial));
    symbol = {std::move(symbol.name)};
  }
  graph_.symbols.push_back(std::move(symbol));
  return std::ssize(graph_.symbols) - 1;
}

void GraphBuilder::condition(std::string_view kind, Dim size) {
  constexpr std::array<std::string_view, 3> kinds = {"zero", "nonzero", "natural"};
  const auto found = std::find(kinds.begin(), kinds.end(), kind);
  const std::string reason = found == kinds.end() ? "of no known kind" : problem_of(size, graph_.symbols.size());
  if (!reason.empty()) return problem("a condition: " + reason);
  graph_.conditions.push_back({static_cast<Condition::Kind>(found - kinds.begin()), std::move(size)});
}

int GraphBuilder::define(const std::string& name, const std::string& what) {
  const int value = graph_.values.size();
  graph_.values.push_back(name);
  if (name.empty()) {
    problem(what + ": a value needs a name");
  } else if (!names_.emplace(name, value).second) {
    problem(what + ": value " + quoted(name) + " is defined twice");
  }
  return value;
}

// An undefined name is reported once and stands for a value of unknown type from then on.
int GraphBuilder::find(const std::string& name, const std::string& what) {
  const auto found = names_.find(name);
  if (found != names_.end()) return found->second;
  if (undefined_.insert(name).second) problem(what + ": value " + quoted(name) + " is not defined before its use");
  graph_.values.push_back(name);
  return std::ssize(graph_.values) - 1;
}

void GraphBuilder::input(const std::string& name, std::string_view dtype, std::vector<Dim> shape) {
  const std::string what = "input " + quoted(name);
  Graph::Input input{define(name, what), DType::f32, std::move(shape)};
  bool ok = true;
  if (!parse_dtype(dtype, input.dtype)) problem(what + ": unknown dtype " + quoted(std::string(dtype))), ok = false;
  if (input.shape.size() > kMaxRank)
    problem(what + ": rank " + std::to_string(input.shape.size()) + " is more than 8"), ok = false;
  for (const Dim& dim : input.shape) {
    const std::string reason = problem_of(dim, graph_.symbols.size());
    if (!reason.empty()) problem(what + ": " + reason), ok = false;
  }
  if (ok) graph_.inputs.push_back(std::move(input));
}

std::shared_ptr<Buffer> GraphBuilder::constant(const std::string& name, std::string_view dtype,
                                               const std::vector<int64_t>& shape, Buffer data) {
  const int value = define(name, "constant " + quoted(name));
  const auto wrong = [&](const std::string& reason) {
    problem("constant " + quoted(name) + ": " + reason);
    return nullptr;
  };
  TensorType type;
  if (!parse_dtype(dtype, type.dtype)) return wrong("unknown dtype " + quoted(std::string(dtype)));
  if (shape.size() > kMaxRank) return wrong("rank " + std::to_string(shape.size()) + " is more than 8");
  for (int64_t size : shape) type.shape.push_back(size);
  if (checked_elements(type) < 0) return wrong("shape " + to_string(type.shape) + " is negative or too large");
  const size_t bytes = bytes_of(type);
  if (bytes != data.bytes())
    return wrong(to_string(type) + " takes " + std::to_string(bytes) + " bytes, got " + std::to_string(data.bytes()));
  auto buffer = std::make_shared<Buffer>(std::move(data));
  graph_.constants.emplace(value, Constant{type, buffer, nullptr});
  return buffer;
}

void GraphBuilder::weight(const std::string& name, Weight weight) {
  const std::string what = "weight " + quoted(name);
  const int value = define(name, what);
  const std::string reason = problem_of(weight);
  if (!reason.empty()) return problem(what + ": " + reason);
  const TensorType type{DType::f32, weight.shape};
  graph_.constants.emplace(value, Constant{type, nullptr, std::make_shared<const Weight>(std::move(weight))});
}

void GraphBuilder::node(std::string op, std::string name, const std::vector<std::string>& inputs,
                        const std::vector<std::string>& outputs, Attributes attributes) {
  const std::string what = "node " + quoted(name) + " (" + op.substr(0, 100) + ")";
  if (!node_names_.insert(name).second) problem(what + ": another node has this name");
  Graph::Node node{std::move(op), std::move(name), {}, {}, std::move(attributes), {}};
  for (const std::string& input : inputs) node.inputs.push_back(input.empty() ? -1 : find(input, what));
  for (const std::string& output : outputs) node.outputs.push_back(define(output, what));
  if (outputs.empty()) problem(what + ": has no outputs");
  graph_.nodes.push_back(std::move(node));
}

void GraphBuilder::output(const std::string& name) { graph_.outputs.push_back(find(name, "the graph's outputs")); }

void GraphBuilder::state(const std::string& input, const std::string& output, const std::string& initial,
                         const std::string& count, int64_t axis) {
  const std::string what = "state " + quoted(input);
  const auto named = [&](const std::string& name) { return name.empty() ? -1 : find(name, what); };
  graph_.states.push_back(
      {named(input), named(output), named(initial), named(count), static_cast<int>(std::clamp<int64_t>(axis, -1, 99))});
}

void GraphBuilder::claim(const std::string& name, std::string dtype, std::vector<Dim> shape) {
  const std::string what = "what is said of value " + quoted(name);
  for (const Dim& dim : shape)
    if (const std::string reason = problem_of(dim, graph_.symbols.size()); !reason.empty())
      return problem(what + ": " + reason);
  graph_.claims.emplace(find(name, what), Graph::Claim{std::move(dtype), std::move(shape)});
}

Graph GraphBuilder::finish() {
  if (graph_.outputs.empty()) problem("the graph has no outputs");
  std::vector<char> bound(graph_.symbols.size(), 0);
  for (const Graph::Input& input : graph_.inputs)
    for (const Dim& size : input.shape)
      if (const std::optional<size_t> index = symbol_of(size)) bound[*index] = 1;
  for (size_t i = 0; i < bound.size(); ++i)
    if (!bound[i]) problem("symbol " + quoted(graph_.symbols[i].name) + " is not the size of any input");
  Graph graph = std::move(graph_);
  *this = GraphBuilder();
  return graph;
}

void throw_problems(const Problems& problems) {
  if (problems.empty()) return;
  const size_t count = problems.texts.size();
  const std::string least = problems.full() ? " or more" : "";
  std::string text = "the graph is not valid";
  text += count == 1 ? ":" : " (" + std::to_string(count) + least + " problems):";
  for (const std::string& problem : problems.texts) text += "\n  " + problem;
  throw Error(ErrorKind::graph, text);
}

bool parse_dtype(std::string_view name, DType& type) {
  constexpr std::array all = {DType::f32, DType::f16,     DType::bf16, DType::i64,
                              DType::i32, DType::boolean, DType::u8,   DType::s8};
  for (DType candidate : all)
    if (name_of(candidate) == name) return type = candidate, true;
  return false;
}

std::string to_string(const Dim& dim, const std::vector<Symbol>& symbols) {
  constexpr std::array<const char*, 8> words = {" + ", " - ", "*", "//", "%", "max", "min", "scale"};
  std::vector<std::string> stack;
  for (size_t i = 0; i < dim.rpn.size(); i += 2) {
    const auto op = static_cast<DimOp>(dim.rpn[i]);
    if (op == DimOp::constant) {
      stack.push_back(std::to_string(dim.rpn[i + 1]));
    } else if (op == DimOp::symbol) {
      stack.push_back(symbols[dim.rpn[i + 1]].name);
    } else {
      const std::string b = std::move(stack.back());
      stack.pop_back();
      const std::string word = words[static_cast<int>(op) - static_cast<int>(DimOp::add)];
      const bool call = op == DimOp::max || op == DimOp::min || op == DimOp::scale;
      stack.back() = call ? word + "(" + stack.back() + ", " + b + ")" : "(" + stack.back() + word + b + ")";
      if (stack.back().size() > 200) stack.back() = "...";
    }
  }
  return stack.empty() ? "?" : std::move(stack.back());
}

}  // namespace lowbit::graph
