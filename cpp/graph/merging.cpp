#include "graph/merging.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace lowbit::graph {
namespace {

enum Input : size_t { kX, kWeight };

// Inputs of a layer that hold a number for each channel, and those that its rows come with. All others must be absent.
struct Layer {
  std::string_view op;
  std::array<size_t, 3> channels;
  std::array<size_t, 2> rows;
};

constexpr size_t kNone = SIZE_MAX;
constexpr Layer kLayers[] = {{"linear", {2, kNone, kNone}, {kNone, kNone}}, {"quantized_linear", {2, 3, 8}, {6, 7}}};
// Read parts where they lie (Op::reads_parts), and parts in any order of axes (Op::reads_orders).
constexpr std::string_view kReadParts[] = {"add", "clip", "mul", "slice", "sub", "transpose", "unary"};
constexpr std::string_view kReadOrders[] = {"attention", "cached_attention"};

template <size_t count>
bool has(const std::array<size_t, count>& positions, size_t input) {
  return std::ranges::find(positions, input) != positions.end();
}

class Merging {
 public:
  explicit Merging(Graph& graph) : graph_(graph), readers_(graph.values.size()), returned_(graph.values.size(), 0) {
    for (Graph::Node& node : graph.nodes)
      for (int value : node.inputs)
        if (value >= 0) readers_[value].push_back(&node);
    for (int output : graph.outputs)
      if (output >= 0) returned_[output] = 1;
    for (const Graph::State& state : graph.states)
      if (state.initial >= 0) returned_[state.initial] = 1;
  }

  void run() {
    find_groups();
    if (std::ranges::none_of(groups_, [](const Group& group) { return group.size() > 1; })) return;
    std::vector<Graph::Node> nodes;
    for (const Group& group : groups_) find_gates(group);
    for (size_t i = 0; i < group_of_.size(); ++i) {
      const Group& group = group_of_[i] < 0 ? Group() : groups_[group_of_[i]];
      if (group.size() < 2) {
        if (!gone_.contains(&graph_.nodes[i])) nodes.push_back(std::move(graph_.nodes[i]));
      } else if (group.front() == i) {
        merge(group, nodes);
      }
    }
    graph_.nodes = std::move(nodes);
  }

 private:
  using Group = std::vector<size_t>;  // nodes, in order

  // A layer joins the last group of its input, if it fits that.
  void find_groups() {
    std::map<int, int> last;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Graph::Node& node = graph_.nodes[i];
      group_of_.push_back(-1);
      if (!can_merge(node)) continue;
      const auto [found, is_new] = last.emplace(node.inputs[kX], std::ssize(groups_));
      if (is_new || !fit(graph_.nodes[groups_[found->second].front()], node)) {
        found->second = static_cast<int>(std::ssize(groups_));
        groups_.emplace_back();
      }
      group_of_[i] = found->second;
      groups_[found->second].push_back(i);
    }
  }

  static const Layer* layer_of(const Graph::Node& node) {
    const auto found = std::ranges::find(kLayers, node.op, &Layer::op);
    return found == std::end(kLayers) ? nullptr : found;
  }

  static int input(const Graph::Node& node, size_t position) {
    return position < node.inputs.size() ? node.inputs[position] : -1;
  }

  const Constant* constant(int value) const {
    const auto found = graph_.constants.find(value);
    return found == graph_.constants.end() ? nullptr : &found->second;
  }

  // A sound layer of constants of its own, whose result is read as a part at no cost.
  bool can_merge(const Graph::Node& node) const {
    const Layer* layer = layer_of(node);
    if (layer == nullptr || node.outputs.size() != 1 || input(node, kX) < 0) return false;
    const int w = input(node, kWeight);
    const Constant* weight = constant(w);
    if (weight == nullptr || weight->type.shape.rank() != 2 || readers_[w].size() != 1 || returned_[w] != 0 ||
        (weight->weight != nullptr) != (node.op != "linear") || weight->type.dtype != DType::f32)
      return false;
    for (size_t i = kWeight + 1; i < node.inputs.size(); ++i) {
      if (node.inputs[i] < 0 || has(layer->rows, i)) continue;
      const Constant* each = has(layer->channels, i) ? constant(node.inputs[i]) : nullptr;
      if (each == nullptr || each->buffer == nullptr || each->type != TensorType{DType::f32, {weight->type.shape[0]}})
        return false;
    }
    return reads_parts(node.outputs[0]);
  }

  bool reads_parts(int value) const {
    return returned_[value] == 0 && std::ranges::all_of(readers_[value], [&](const Graph::Node* reader) {
             return std::ranges::find(kReadParts, reader->op) != std::end(kReadParts) ||
                    (reader->op == "reshape" && reader->outputs.size() == 1 && reads_orders(reader->outputs[0]));
           });
  }

  bool reads_orders(int value) const {
    return returned_[value] == 0 && std::ranges::all_of(readers_[value], [&](const Graph::Node* reader) {
             return std::ranges::find(kReadOrders, reader->op) != std::end(kReadOrders) ||
                    (reader->op == "transpose" && reader->outputs.size() == 1 && readers_[value].size() == 1 &&
                     reads_orders(reader->outputs[0]));
           });
  }

  // Whether two layers differ in nothing but their channels.
  bool fit(const Graph::Node& a, const Graph::Node& b) const {
    if (a.op != b.op || a.attributes != b.attributes) return false;
    const Layer& layer = *layer_of(a);
    for (size_t i = kWeight + 1; i < std::max(a.inputs.size(), b.inputs.size()); ++i) {
      if (has(layer.channels, i) ? (input(a, i) < 0) != (input(b, i) < 0) : input(a, i) != input(b, i)) return false;
    }
    const Constant &p = *constant(a.inputs[kWeight]), &q = *constant(b.inputs[kWeight]);
    return p.type.shape[1] == q.type.shape[1] && (p.weight == nullptr || are_alike(*p.weight, *q.weight));
  }

  static bool are_alike(const Weight& a, const Weight& b) {
    const auto both = [](const Buffer& x, const Buffer& y) { return (x.bytes() > 0) == (y.bytes() > 0); };
    return a.bits == b.bits && a.group_size == b.group_size && a.scale_type == b.scale_type &&
           a.offset_type == b.offset_type && a.pattern == b.pattern && both(a.zero_points, b.zero_points) &&
           both(a.offsets, b.offsets) && a.values.bytes() == b.values.bytes() &&
           (a.values.bytes() == 0 ||
            std::memcmp(a.values.as<std::byte>(), b.values.as<std::byte>(), a.values.bytes()) == 0);
  }

  // Of two layers with as many channels, one through a function that its product with the other alone reads.
  void find_gates(const Group& group) {
    for (size_t a : group) {
      const int gate = graph_.nodes[a].outputs[0];
      Graph::Node* function = only_reader(gate);
      if (function == nullptr || function->op != "unary" || function->attributes.size() != 1 ||
          function->outputs.size() != 1)
        continue;
      const int made = function->outputs[0];
      Graph::Node* product = only_reader(made);
      if (product == nullptr || product->op != "mul" || product->inputs.size() != 2 || !product->attributes.empty())
        continue;
      const int other = product->inputs[product->inputs[0] == made ? 1 : 0];
      const auto fits = [&](size_t b) {
        return graph_.nodes[b].outputs[0] == other && other != gate && channels_of(b) == channels_of(a);
      };
      const auto kind = function->attributes.find("kind");
      if (kind == function->attributes.end() || std::ranges::none_of(group, fits)) continue;
      product->inputs = {gate, other};
      product->attributes.emplace(kGate, kind->second);
      gone_.insert(function);
    }
  }

  int64_t channels_of(size_t node) const { return constant(graph_.nodes[node].inputs[kWeight])->type.shape[0]; }

  Graph::Node* only_reader(int value) const {
    return returned_[value] == 0 && readers_[value].size() == 1 ? readers_[value].front() : nullptr;
  }

  void merge(const Group& group, std::vector<Graph::Node>& nodes) {
    Graph::Node merged = graph_.nodes[group.front()];
    const int whole = add_value();
    std::vector<Graph::Node> slices;
    int64_t start = 0;
    for (size_t i : group) {
      const Graph::Node& node = graph_.nodes[i];
      const int64_t channels = channels_of(i);
      merged.layers.push_back({node.name, channels});
      if (i != group.front()) merged.name += " + " + node.name;
      const Attributes part = {{"axis", int64_t{-1}}, {"start", start}, {"stop", start + channels}};
      slices.push_back({"slice", node.name, {whole}, node.outputs, part, {}});
      start += channels;
    }
    for (size_t i = kWeight; i < merged.inputs.size(); ++i)
      if (merged.inputs[i] >= 0 && !has(layer_of(merged)->rows, i)) merged.inputs[i] = join(group, i);
    merged.outputs = {whole};
    nodes.push_back(std::move(merged));
    std::ranges::move(slices, std::back_inserter(nodes));
  }

  int add_value() {
    graph_.values.push_back("merged");
    return static_cast<int>(std::ssize(graph_.values)) - 1;
  }

  // A constant input of all layers, one behind the other. Their weights are gone then.
  int join(const Group& group, size_t position) {
    std::vector<const Constant*> parts;
    for (size_t i : group) parts.push_back(constant(graph_.nodes[i].inputs[position]));
    Constant joined{parts.front()->type, nullptr, nullptr};
    joined.type.shape[0] = 0;
    for (const Constant* part : parts) joined.type.shape[0] += part->type.shape[0];
    if (parts.front()->weight == nullptr) {
      joined.buffer = std::make_shared<Buffer>(append(parts, [](const Constant& part) { return part.buffer.get(); }));
    } else {
      const Weight& like = *parts.front()->weight;
      Weight weight;
      weight.shape = joined.type.shape, weight.bits = like.bits, weight.group_size = like.group_size;
      weight.scale_type = like.scale_type, weight.offset_type = like.offset_type, weight.pattern = like.pattern;
      for (Buffer Weight::* member : {&Weight::codes, &Weight::scales, &Weight::zero_points, &Weight::offsets})
        weight.*member = append(parts, [&](const Constant& part) { return &(*part.weight.*member); });
      weight.values = append({parts.front()}, [](const Constant& part) { return &part.weight->values; });
      joined.weight = std::make_shared<const Weight>(std::move(weight));
    }
    if (position == kWeight)
      for (size_t i : group) graph_.constants.erase(graph_.nodes[i].inputs[kWeight]);
    const int value = add_value();
    graph_.constants.emplace(value, std::move(joined));
    return value;
  }

  // buffer: of a constant, what is to be appended.
  template <class Choose>
  static Buffer append(const std::vector<const Constant*>& parts, Choose buffer) {
    size_t bytes = 0;
    for (const Constant* part : parts) bytes += buffer(*part)->bytes();
    if (bytes == 0) return {};
    Buffer whole(bytes);
    auto* to = whole.template as<std::byte>();
    for (const Constant* part : parts) {
      const Buffer& each = *buffer(*part);
      if (each.bytes() > 0) to = std::copy_n(each.as<std::byte>(), each.bytes(), to);
    }
    return whole;
  }

  Graph& graph_;
  std::vector<std::vector<Graph::Node*>> readers_;  // by value
  std::vector<char> returned_;                      // by value: a caller reads it
  std::set<const Graph::Node*> gone_;               // functions that became part of a product
  std::vector<Group> groups_;
  std::vector<int> group_of_;  // by node; -1: none
};

}  // namespace

void merge_products(Graph& graph) {
  if (graph.problems.empty()) Merging(graph).run();
}

}  // namespace lowbit::graph
