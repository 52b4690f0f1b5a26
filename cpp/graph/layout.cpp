#include "graph/layout.h"

#include <algorithm>

namespace lowbit::graph {

Shape strides_of(const Shape& shape, Layout layout) {
  Shape strides = shape;
  int64_t stride = 1;
  const auto set = [&](int axis) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(shape[axis], 1);
  };
  if (layout == Layout::channels_last && has_layouts(shape)) {
    set(1);
    for (int axis = shape.rank(); axis-- > 2;) set(axis);
    set(0);
  } else {
    for (int axis = shape.rank(); axis-- > 0;) set(axis);
  }
  return strides;
}

bool is_indifferent(const Shape& shape) {
  return has_layouts(shape) && (shape[1] == 1 || shape.elements() == shape[0] * shape[1] || shape.elements() == 0);
}

bool is_dense(const Shape& shape, const Shape& strides, Layout layout) {
  const Shape dense = strides_of(shape, layout);
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (shape[axis] > 1 && strides[axis] != dense[axis]) return false;
  return true;
}

bool is_adjacent(const Shape& shape, const Shape& strides, Layout layout) {
  if (shape.rank() == 0) return true;
  const int axis = layout == Layout::channels_last && has_layouts(shape) ? 1 : shape.rank() - 1;
  return shape[axis] <= 1 || strides[axis] == 1;
}

// Axes that lie in each other's wake are one stretch; each axis of `to` must lie within one.
std::optional<Shape> viewed(const Shape& shape, const Shape& strides, const Shape& to) {
  if (to.elements() == 0) return strides_of(to, Layout::contiguous);
  Shape made = to;
  int axis = to.rank() - 1;
  int64_t stretch = 1, step = 1;
  for (int from = shape.rank(); from-- > 0;) {
    if (stretch == 1) step = strides[from];
    stretch *= shape[from];
    int before = from - 1;
    while (before >= 0 && shape[before] == 1) --before;
    if (before >= 0 && strides[before] == stretch * step) continue;
    int64_t filled = 1;
    for (; axis >= 0 && (filled < stretch || to[axis] == 1); --axis) made[axis] = filled * step, filled *= to[axis];
    if (filled != stretch) return std::nullopt;
    stretch = 1;
  }
  for (; axis >= 0; --axis) {
    if (to[axis] != 1) return std::nullopt;
    made[axis] = 1;
  }
  return made;
}

}  // namespace lowbit::graph
