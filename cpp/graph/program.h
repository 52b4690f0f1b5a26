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
    std::unique_ptr<const Op> impl;
  };
  std::vector<Symbol> symbols;
  std::vector<Condition> conditions;
  std::vector<Value> values;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  std::vector<Node> nodes;         // in topological order; those that no output needs are gone
  std::unique_ptr<const Op> copy;  // converts layouts
  size_t packed_bytes = 0;         // of weights, as operators keep them, and of constants
  int64_t memory_limit = 0;        // bytes that the session may hold in all
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
