// Where the inputs of joins (concat) belong: each into a slot of the joined value, so that whoever makes it may write
// it there, and the join has nothing left to do.
//
//   b = join(a0, a1);  c = join(b, a2):   a0, a1 and b lie in c
//   b = join(a0, a1);  c = join(a0, a1, a2):   b is the first part of c (a dense block's growing input)
#pragma once

#include "graph/jobs.h"
#include "graph/packing.h"

namespace lowbit::graph {

struct Slot {
  int whole = -1;  // the joined value that this one is a part of; itself, of a join that is part of no other; -1: none
  Shape position;  // of its first element there
  friend bool operator==(const Slot&, const Slot&) = default;
};

// The slots of a job's values, and which of them hold their values so far.
class Joins {
 public:
  // A value has one slot, in the last join that reads it; none where its memory is another's or the caller's.
  Joins(const Program& program, std::span<const TensorType> types, const Job& job);

  // The memory of a joined value, once something was written into it.
  struct Whole {
    int storage = -1;
    Layout layout = Layout::contiguous;
  };
  const Slot& slot(int value) const { return slots_[value]; }
  Whole& whole(const Slot& slot) { return wholes_[slot.whole]; }
  bool is_filled(int value) const { return is_filled_[value]; }
  void fill(int value) { is_filled_[value] = 1; }
  // Where that slot of a whole with memory lies, for a value of `type`.
  Location locate(const Slot& slot, const TensorType& type) const;

 private:
  std::span<const TensorType> types_;
  std::vector<Slot> slots_;
  std::vector<Whole> wholes_;
  std::vector<char> is_filled_;
};

}  // namespace lowbit::graph
