#include "graph/joins.h"

#include <algorithm>

#include "graph/layout.h"

namespace lowbit::graph {
namespace {

class Search {
 public:
  Search(const Program& program, std::span<const TensorType> types, const Job& job)
      : types_(types), slots_(types.size()), is_free_(types.size(), 0) {
    for (int index : job.nodes) {
      const Program::Node& node = program.nodes[index];
      for (int value : node.outputs) is_free_[value] = !node.impl->is_view() && type(value).shape.elements() > 0;
    }
    for (int output : job.outputs) is_free_[output] = 0;
    // The last join first: it is the whole of which earlier ones are parts.
    for (size_t i = job.nodes.size(); i-- > 0;) visit(program.nodes[job.nodes[i]]);
  }

  std::vector<Slot> slots() { return std::move(slots_); }

 private:
  const TensorType& type(int value) const { return types_[value]; }
  Slot& slot(int value) { return slots_[value]; }

  void visit(const Program::Node& node) {
    const int joined = node.outputs[0];
    if (type(joined).shape.elements() == 0) return;
    const std::optional<int> axis = node.impl->join_axis(type(joined).shape);
    if (!axis) return;
    Slot& whole = slot(joined);
    if (whole.whole < 0 && is_free_[joined]) whole = common_slot(node, *axis);
    if (whole.whole < 0) {
      whole.whole = joined;
      for (int i = 0; i < type(joined).shape.rank(); ++i) whole.position.push_back(0);
    }
    Slot place = whole;
    for (int value : node.inputs) {
      if (slot(value).whole < 0 && is_free_[value]) slot(value) = place;
      place.position[*axis] += type(value).shape[*axis];
    }
  }

  // Where the inputs already have slots one behind the other, the place of the first.
  Slot common_slot(const Program::Node& node, int axis) {
    Slot first, next;
    for (int value : node.inputs) {
      if (type(value).shape.elements() == 0) continue;
      if (first.whole < 0) first = next = slot(value);
      if (first.whole < 0 || slot(value) != next) return {};
      next.position[axis] += type(value).shape[axis];
    }
    return first;
  }

  std::span<const TensorType> types_;
  std::vector<Slot> slots_;
  std::vector<char> is_free_;  // made by a node, in memory of its own
};

}  // namespace

Joins::Joins(const Program& program, std::span<const TensorType> types, const Job& job)
    : types_(types), slots_(Search(program, types, job).slots()), wholes_(types.size()), is_filled_(types.size(), 0) {}

Location Joins::locate(const Slot& slot, const TensorType& type) const {
  const Whole& whole = wholes_[slot.whole];
  Location location{whole.storage, 0, strides_of(types_[slot.whole].shape, whole.layout)};
  for (int axis = 0; axis < type.shape.rank(); ++axis)
    location.offset += slot.position[axis] * location.strides[axis] * size_of(type.dtype);
  return location;
}

}  // namespace lowbit::graph
