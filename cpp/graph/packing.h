// The memory of a plan in pieces, and where each piece lies in the arena: pieces that are never used at the same time
// may share bytes.
#pragma once

#include <climits>

#include "graph/op.h"

namespace lowbit::graph {

// Memory that one or several values share: a stretch of the arena, a constant, or the caller's.
struct Storage {
  enum class Kind { arena, constant, input, output };
  Kind kind = Kind::arena;
  size_t index = 0;      // input or output
  void* data = nullptr;  // constant
  int64_t bytes = 0;
  int first = INT_MAX, last = -1;  // steps
  int needed = -1;                 // last node that needs any value in it
  bool slack = false;              // some step reads past its end
  size_t offset = 0;               // in the arena
};

// Where a value lies in a storage.
struct Location {
  int storage = -1;
  int64_t offset = 0;  // bytes
  Shape strides;
  bool exists() const { return storage >= 0; }
};

// Gives the storages in the arena their offsets, and returns the arena's bytes.
size_t pack(std::vector<Storage>& storages);

}  // namespace lowbit::graph
