// What one caller keeps between its calls of a session: for each of the graph's states a value, in memory of its own. A
// call reads them, and leaves what its outputs give: nothing is copied where an operator updates a state in place, as
// caches are; what is beyond the positions that are counted does not count, so a call that fails changes nothing.
#pragma once

#include <atomic>

#include "base/pages.h"
#include "graph/contexts.h"

namespace lowbit::graph {

// The symbols' sizes as far as the inputs of a call say them, else -1; and the types of the states for such sizes.
// Throws Error(input).
std::vector<int64_t> sizes_of(const Program& program, std::span<const TensorType> given);
std::vector<TensorType> state_types(const Program& program, std::span<const int64_t> sizes);

class LOWBIT_SHARED State {
 public:
  // sizes: of the program's symbols; -1 of those that no state has. Throws Error(input), Error(limit). What is said of
  // both must outlive it.
  State(const Program& program, Contexts& contexts, std::vector<int64_t> sizes);
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void reset();                                               // as it began
  std::span<const Tensor> values() const { return values_; }  // one a state; theirs to write between calls
  const std::vector<int64_t>& sizes() const { return sizes_; }

  // Of one call. begin: all inputs of the program; throws Error(input) while another call has it.
  std::span<const Tensor> begin(std::span<const Tensor> given);
  std::span<const Tensor> outputs(std::span<const Tensor> given);
  void commit();  // what the call gave is what the next one takes
  void end() { busy_.store(false, std::memory_order_release); }

 private:
  int64_t used_bytes() const;
  void begin_with(size_t state);

  const Program& program_;
  Contexts& contexts_;
  std::vector<int64_t> sizes_;
  std::vector<Pages> memory_;  // of each state, then of the next value of those that are not updated in place
  std::vector<Tensor> values_, next_, inputs_, outputs_;
  int64_t booked_ = 0;
  std::atomic<bool> busy_{false};
};

}  // namespace lowbit::graph
