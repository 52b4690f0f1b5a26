// The two directions of a recurrent layer as one node, which runs them at once.
#pragma once

#include "graph/program.h"

namespace lowbit::graph {

// before: x -> lstm -> a,  x -> lstm(reverse) -> b        after: x -> lstm + lstm(reverse) -> a, b
//
// Of layers that follow each other and of which none needs the other. For sessions of several threads: one thread would
// hold both directions' gates for nothing.
void join_directions(Program& program);

}  // namespace lowbit::graph
