// Loops over views: the order that suits memory, neighbouring axes joined, a share of them for each task. Knows no
// element type and no ISA; only this folder includes it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/types.h"

namespace lowbit::kernels {

constexpr int kOperands = 4;

struct Share {
  int64_t begin, end;
};
// Share `task` of [0, count), in whole grains.
inline Share share_of(int64_t count, int64_t grain, int64_t task, int64_t tasks) {
  const int64_t grains = (count + grain - 1) / grain;
  return {std::min(count, grains * task / tasks * grain), std::min(count, grains * (task + 1) / tasks * grain)};
}

// Loops over the elements of up to four operands; operand 0 is the output. Outermost axis first.
struct Nest {
  int rank = 0;
  std::array<int64_t, kMaxRank> size{};
  std::array<std::array<int64_t, kOperands>, kMaxRank> stride{};
  std::array<int64_t, kOperands> offset{};
  bool empty = false;

  void swap_axes(int a, int b) {
    std::swap(size[static_cast<size_t>(a)], size[static_cast<size_t>(b)]);
    std::swap(stride[static_cast<size_t>(a)], stride[static_cast<size_t>(b)]);
  }
};
using Strides = std::array<const Shape*, kOperands>;

// Drops axes of one, orders the rest by the output's stride, joins neighbours that every operand walks as one.
inline Nest nest_of(const Shape& shape, const Strides& strides, int skip_axes = 0) {
  Nest nest;
  for (int axis = skip_axes; axis < shape.rank(); ++axis) {
    nest.empty |= shape[axis] == 0;
    if (shape[axis] == 1) continue;
    const auto slot = static_cast<size_t>(nest.rank++);
    nest.size[slot] = shape[axis];
    for (size_t i = 0; i < kOperands; ++i) nest.stride[slot][i] = strides[i] ? (*strides[i])[axis] : 0;
  }
  for (int i = 1; i < nest.rank; ++i)
    for (int j = i; j > 0 && std::abs(nest.stride[static_cast<size_t>(j)][0]) >
                                 std::abs(nest.stride[static_cast<size_t>(j - 1)][0]);
         --j)
      nest.swap_axes(j, j - 1);
  int kept = 0;
  for (int axis = 1; axis < nest.rank; ++axis) {
    const auto outer = static_cast<size_t>(kept), inner = static_cast<size_t>(axis);
    bool joined = true;
    for (size_t i = 0; i < kOperands; ++i) joined &= nest.stride[outer][i] == nest.stride[inner][i] * nest.size[inner];
    if (joined) {
      nest.size[outer] *= nest.size[inner];
      nest.stride[outer] = nest.stride[inner];
    } else {
      nest.swap_axes(++kept, axis);
    }
  }
  if (nest.rank == 0) nest.size[0] = 1;
  nest.rank = nest.rank == 0 ? 1 : kept + 1;
  return nest;
}

// Restricts the nest to one task's part of its outermost axis that is long enough, else of its longest.
inline void take_share(Nest& nest, int64_t task, int64_t tasks) {
  if (tasks <= 1 || nest.empty) return;
  const auto rank = static_cast<size_t>(nest.rank);
  size_t axis = 0;
  while (axis < rank && nest.size[axis] < 4 * tasks) ++axis;
  if (axis == rank)
    axis = static_cast<size_t>(std::max_element(nest.size.begin(), nest.size.begin() + nest.rank) - nest.size.begin());
  const Share share =
      share_of(nest.size[axis], axis + 1 == rank && nest.size[axis] >= 64 * tasks ? 64 : 1, task, tasks);
  for (size_t i = 0; i < kOperands; ++i) nest.offset[i] += share.begin * nest.stride[axis][i];
  nest.size[axis] = share.end - share.begin;
  nest.empty |= share.end == share.begin;
}

// Calls f(offsets) for every index of all but the `inner` innermost axes.
template <class F>
void for_outer(const Nest& nest, int inner, F f) {
  if (nest.empty) return;
  const int outer = nest.rank - inner;
  std::array<int64_t, kMaxRank> index{};
  std::array<int64_t, kOperands> offset = nest.offset;
  while (true) {
    f(offset);
    int axis = outer - 1;
    for (; axis >= 0; --axis) {
      const auto a = static_cast<size_t>(axis);
      for (size_t i = 0; i < kOperands; ++i) offset[i] += nest.stride[a][i];
      if (++index[a] < nest.size[a]) break;
      for (size_t i = 0; i < kOperands; ++i) offset[i] -= nest.stride[a][i] * nest.size[a];
      index[a] = 0;
    }
    if (axis < 0) return;
  }
}

}  // namespace lowbit::kernels
