// How a value of some shape lies in memory.
#pragma once

#include <optional>

#include "base/shared.h"
#include "graph/op.h"

namespace lowbit::graph {

constexpr Layout kLayouts[] = {Layout::contiguous, Layout::channels_last};  // those that a value can lie in

// Of a dense value, in elements.
LOWBIT_SHARED Shape strides_of(const Shape& shape, Layout layout);

// Whether both layouts are the same memory.
bool is_indifferent(const Shape& shape);

// Whether these strides are those of a dense value; axes of one element lie anywhere.
bool is_dense(const Shape& shape, const Shape& strides, Layout layout);

// Whether elements along the layout's innermost axis are neighbours.
bool is_adjacent(const Shape& shape, const Shape& strides, Layout layout);

// The strides at which memory of these strides is seen in another shape of as many elements, if it can be.
std::optional<Shape> viewed(const Shape& shape, const Shape& strides, const Shape& to);

}  // namespace lowbit::graph
