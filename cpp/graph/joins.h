// Where the inputs of joins (concat) belong: each into the memory of the joined value, so that whoever makes it may
// write it there, and the join has nothing left to do.
//
//   b = join(a0, a1);  c = join(b, a2):   a0, a1 and b lie in c
//   b = join(a0, a1);  c = join(a0, a1, a2):   b is the first part of c (a dense block's growing input)
#pragma once

#include "graph/jobs.h"

namespace lowbit::graph {

struct Home {
  int whole = -1;  // the value in whose memory this one lies; itself, of a join that lies in no other; -1: none
  Shape position;  // of its first element there
};

// By value. A value has one home, in the last join that reads it; none where its memory is another's or the caller's.
std::vector<Home> find_homes(const Program& program, std::span<const TensorType> types, const Job& job);

}  // namespace lowbit::graph
