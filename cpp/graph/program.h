// A graph made ready for one CPU: every node validated, its kernel chosen and its weights packed. Immutable.
#pragma once

#include <optional>

#include "graph/graph.h"
#include "graph/limits.h"

namespace lowbit::graph {

struct Program {
  struct Value {
    std::string name;
    Constant constant;  // buffer null: not a constant, or one that no node reads at run time
    bool is_constant = false;
  };
  struct Input {
    int value;
    DType dtype;
    std::vector<Dim> shape;
  };
  struct Output {
    int value;
    DType dtype;
    std::vector<int64_t> shape;  // -1: depends on a symbol
  };
  struct Node {
    std::string op, name;
    std::vector<int> inputs, outputs;
    std::unique_ptr<Op> impl;
    std::vector<MergedLayer> layers;  // that it is made of, if it is
  };
  // What a caller keeps between calls (state.h).
  struct State {
    TensorType initial;
    std::shared_ptr<const Buffer> begin;  // with what it begins, repeated along axes of one; null: zeros
    int count = -1;                       // the state, i64 [batch], that counts its positions; -1: all of it is used
    int axis = 0;                         // along which these lie, in blocks of kBlock
    bool in_place = false;                // its operator updates it where it is
    static constexpr int64_t kBlock = 16;
  };
  std::vector<Symbol> symbols;
  std::vector<Condition> conditions;
  std::vector<Value> values;
  std::vector<Input> inputs;    // the caller's, then the states
  std::vector<Output> outputs;  // likewise
  std::vector<State> states;
  std::vector<Node> nodes;         // in topological order; those that no output needs are gone
  std::unique_ptr<const Op> copy;  // converts layouts
  size_t packed_bytes = 0;         // of weights, as operators keep them, and of constants
  int64_t memory_limit = 0;        // bytes that the session may hold in all

  size_t given_inputs() const { return inputs.size() - states.size(); }
  size_t given_outputs() const { return outputs.size() - states.size(); }
};

// Validates by trial inference at the symbols' smallest sizes. Takes the graph's buffers and frees each constant with
// its last reader, so that weights exist about once. Of the limits, memory is what the session may hold, absent: what
// the process may use; and weights what is held here, absent: the same, and not far more than the constants take.
// Throws Error(graph) with every problem, Error(limit).
Program prepare(Graph&& graph, Isa isa, const Limits& limits = {});

// Values of the symbols in a call. Throws Error(input) for a wrong number, dtype, rank or size of inputs.
std::vector<int64_t> bind_symbols(const Program& program, std::span<const TensorType> inputs);

// The type of every value, given those of the inputs. Throws Error(input) that names the node.
std::vector<TensorType> infer_types(const Program& program, std::span<const TensorType> inputs,
                                    std::span<const int64_t> symbols);

// How messages name a node.
std::string describe(std::string_view name, std::string_view op);

}  // namespace lowbit::graph
