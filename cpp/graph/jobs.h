// Which nodes a plan runs when. What depends on no input runs once, when the plan is made; the rest, in every call.
#pragma once

#include "graph/program.h"

namespace lowbit::graph {

// Nodes to run, for some of the values that they make.
struct Job {
  std::vector<int> nodes;
  std::vector<int> outputs;
};

struct Jobs {
  Job once, always;
};

Jobs divide(const Program& program, std::span<const TensorType> types);

inline size_t bytes_of(const TensorType& type) {
  return static_cast<size_t>(type.shape.elements()) * size_of(type.dtype);
}

}  // namespace lowbit::graph
