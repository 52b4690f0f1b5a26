#include "graph/directions.h"

#include <algorithm>
#include <iterator>

#include "graph/ops/ops.h"

namespace lowbit::graph {
namespace {

bool reads_any(const Program::Node& node, const std::vector<int>& values) {
  return std::ranges::any_of(node.inputs,
                             [&](int value) { return value >= 0 && std::ranges::find(values, value) != values.end(); });
}

// The next recurrent node, if it is the other direction and nothing up to it reads this one's outputs.
size_t other_direction(const Program& program, size_t first) {
  const Program::Node& node = program.nodes[first];
  for (size_t i = first + 1; i < program.nodes.size() && !reads_any(program.nodes[i], node.outputs); ++i)
    if (are_directions(*node.impl, *program.nodes[i].impl)) return program.nodes[i].op == node.op ? i : 0;
  return 0;
}

void join(Program::Node& first, Program::Node& second) {
  second.impl =
      both_directions(std::move(first.impl), std::move(second.impl), first.inputs.size(), first.outputs.size());
  second.layers = {{first.name, 1}, {second.name, 1}};
  second.name = first.name + " + " + second.name;
  second.inputs.insert(second.inputs.begin(), first.inputs.begin(), first.inputs.end());
  second.outputs.insert(second.outputs.begin(), first.outputs.begin(), first.outputs.end());
}

}  // namespace

void join_directions(Program& program) {
  for (size_t i = 0; i < program.nodes.size(); ++i)
    if (program.nodes[i].impl != nullptr)
      if (const size_t other = other_direction(program, i); other > 0) join(program.nodes[i], program.nodes[other]);
  std::erase_if(program.nodes, [](const Program::Node& node) { return node.impl == nullptr; });
}

}  // namespace lowbit::graph
