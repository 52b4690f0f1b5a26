// A plan: a program for one set of input shapes. Every step's views are laid out, every value has its place in one
// arena.
//
// Layouts: a step that wants channels_last gets a converted copy only where the value does not lie so already; `same`
// steps follow their inputs. Views (reshape) cost nothing where the memory order permits. Steps write into their
// input's memory where the operator allows it and nobody needs the input any more, and into the caller's buffers where
// a value is an output of the graph. Steps with empty outputs are left out. What depends on no input (only on the
// symbols, as masks and positions do) is computed when the plan is made, and kept with it.
//
// Joined values (concat) are written where the whole lies, and parts (slice) are read where it lies, by operators that
// take strides; the others get a dense copy. joins.h says which value belongs into which,
// packing.h what shares memory.
#pragma once

#include <functional>

#include "base/watch.h"
#include "graph/limits.h"
#include "graph/program.h"

namespace lowbit::graph {

struct Plan {
  enum class Source : uint8_t { arena, input, output };
  struct Binding {
    size_t tensor;  // in `tensors`
    Source source;
    size_t index;   // position among inputs or outputs
    size_t offset;  // bytes, in the arena or from there
  };
  struct Step {
    const Op* op;
    std::string_view op_name, name;             // of the program's node, or "layout" and the value's name
    size_t first = 0, inputs = 0, outputs = 0;  // of `tensors`
    size_t scratch = 0;                         // byte offset in the arena
    std::span<const MergedLayer> layers = {};   // of the program's node
    bool looks = false;                         // at the watch: it, and what came before, may take a while
  };
  std::vector<TensorType> inputs, outputs;
  std::vector<int64_t> symbols;
  std::vector<Step> steps;
  std::vector<Tensor> tensors;
  std::vector<Binding> arena_bindings, call_bindings;
  size_t arena_bytes = 0;
  std::vector<Buffer> kept;  // values that depend on no input
  const std::byte* bound_arena = nullptr;
  int64_t bytes = 0;  // of all that, without the arena
  int64_t output_bytes = 0;
  int64_t last_used = 0;  // nanoseconds of a clock
};

// Throws Error(input) where the shapes do not fit; Error(limit) where a call would take more operations than it may,
// and what `reserve` throws, which is told the bytes that making the plan takes. What is computed
// meanwhile ends as steps do.
std::unique_ptr<Plan> make_plan(const Program& program, std::span<const TensorType> inputs, int threads,
                                const Limits& limits, const std::function<void(int64_t)>& reserve, Watch& watch);

Work work_of(const Program& program, const Plan& plan, const Plan::Step& step);

// Runs one step of a plan whose tensors are bound. Throws Error(input) that names the node; Error(limit), or
// Error(interrupt), where the watch says that the call is to end.
void run_step(const Plan& plan, const Plan::Step& step, std::byte* arena, int threads, std::span<const int64_t> symbols,
              Watch& watch);

}  // namespace lowbit::graph
