#include "graph/joins.h"

#include <algorithm>

namespace lowbit::graph {
namespace {

class Search {
 public:
  Search(const Program& program, std::span<const TensorType> types, const Job& job)
      : program_(program), types_(types), homes_(types.size()), is_free_(types.size(), 0) {
    for (int index : job.nodes) {
      const Program::Node& node = program.nodes[index];
      for (int value : node.outputs) is_free_[value] = !node.impl->is_view() && type(value).shape.elements() > 0;
    }
    for (int output : job.outputs) is_free_[output] = 0;
    // The last join first: it is the whole of which earlier ones are parts.
    for (size_t i = job.nodes.size(); i-- > 0;) visit(program.nodes[job.nodes[i]]);
  }

  std::vector<Home> homes() { return std::move(homes_); }

 private:
  const TensorType& type(int value) const { return types_[value]; }
  Home& home(int value) { return homes_[value]; }

  void visit(const Program::Node& node) {
    const int joined = node.outputs[0];
    if (type(joined).shape.elements() == 0) return;
    const std::optional<int> axis = node.impl->join_axis(type(joined).shape);
    if (!axis) return;
    Home& whole = home(joined);
    if (whole.whole < 0 && is_free_[joined]) whole = common_home(node, *axis);
    if (whole.whole < 0) {
      whole.whole = joined;
      for (int i = 0; i < type(joined).shape.rank(); ++i) whole.position.push_back(0);
    }
    Home place = whole;
    for (int value : node.inputs) {
      if (home(value).whole < 0 && is_free_[value]) home(value) = place;
      place.position[*axis] += type(value).shape[*axis];
    }
  }

  // Where the inputs already have homes one behind the other, the place of the first.
  Home common_home(const Program::Node& node, int axis) {
    Home first, next;
    for (int value : node.inputs) {
      if (type(value).shape.elements() == 0) continue;
      if (first.whole < 0) first = next = home(value);
      if (first.whole < 0 || home(value).whole != first.whole || !(home(value).position == next.position)) return {};
      next.position[axis] += type(value).shape[axis];
    }
    return first;
  }

  const Program& program_;
  std::span<const TensorType> types_;
  std::vector<Home> homes_;
  std::vector<char> is_free_;  // made by a node, in memory of its own
};

}  // namespace

std::vector<Home> find_homes(const Program& program, std::span<const TensorType> types, const Job& job) {
  return Search(program, types, job).homes();
}

}  // namespace lowbit::graph
