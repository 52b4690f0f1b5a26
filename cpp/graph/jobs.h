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

}  // namespace lowbit::graph
