// Where each step of a plan reads and writes: one node after the other, in the job's order.
#pragma once

#include "graph/jobs.h"
#include "graph/planner.h"

namespace lowbit::graph {

// The plan of a job's steps, tensors and outputs. `kept`: values that are there already, row-major.
std::unique_ptr<Plan> place(const Program& program, std::span<const TensorType> types, const Job& job,
                            const std::map<int, Buffer>& kept, std::span<const int64_t> symbols, int threads);

}  // namespace lowbit::graph
