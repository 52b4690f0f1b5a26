// A graph as it is handed over: names, types, constants, nodes. The builder takes anything a file may say and notes
// what is wrong with it; prepare() goes on from there, so that one error lists every problem.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/shared.h"
#include "graph/op.h"

namespace lowbit::graph {

// A size is `remainder` more than a multiple of `multiple`. trial: the one at which the graph is validated.
struct Symbol {
  std::string name;
  int64_t minimum = 1, maximum = 1, multiple = 1, remainder = 0, trial = 1;

  bool allows(int64_t size) const { return size >= minimum && size <= maximum && size % multiple == remainder; }
  // The first that is allowed from there on, or the last one.
  int64_t allowed_from(int64_t size) const;
};

// What sizes must fulfil beyond their symbols' own limits: to be 0, not to be 0, to be 0 or more.
struct Condition {
  enum class Kind { zero, nonzero, natural };
  Kind kind;
  Dim size;
};

// What is wrong with a graph. After kMost, further ones are not looked for.
struct Problems {
  static constexpr size_t kMost = 20;
  std::vector<std::string> texts;

  void add(std::string text) {
    if (!full()) texts.push_back(std::move(text));
  }
  bool empty() const { return texts.empty(); }
  bool full() const { return texts.size() >= kMost; }
};

// A layer that became a part of another product: its name, and how many of the channels are its own.
struct MergedLayer {
  std::string name;
  int64_t channels;
};

struct Graph {
  struct Input {
    int value = -1;
    DType dtype = DType::f32;
    std::vector<Dim> shape;
  };
  struct Node {
    std::string op, name;
    std::vector<int> inputs;  // values; -1: absent
    std::vector<int> outputs;
    Attributes attributes;
    std::vector<MergedLayer> layers;  // that it is made of (merging.h), if it is
  };
  std::vector<Symbol> symbols;
  std::vector<Condition> conditions;
  std::vector<std::string> values;  // names; a value is an index
  std::vector<Input> inputs;
  std::map<int, Constant> constants;  // by value
  std::vector<Node> nodes;            // in topological order
  std::vector<int> outputs;
  // What a caller keeps from one call to the next.
  struct State {
    int input, output;  // values
    int initial = -1;   // the constant that it begins with; -1: zeros
    int count = -1;     // the input of the state that counts its positions; -1: all of it is used
    int axis = 0;       // along which positions lie, in blocks
  };
  std::vector<State> states;
  // What is said of values that nodes make, to be found true where the graph is validated: at the trial sizes, and at
  // these samples of sizes, as far as operators take them.
  struct Claim {
    std::string dtype;
    std::vector<Dim> shape;
  };
  std::map<int, Claim> claims;                // by value
  std::vector<std::vector<int64_t>> samples;  // of the symbols
  Problems problems;
};

// Nothing here throws for what it is told, except std::bad_alloc: problems are collected. Names are unique over all
// values; a node's inputs must have been defined before it; "" is an absent optional input.
class LOWBIT_SHARED GraphBuilder {
 public:
  // Its index in size expressions. trial 0: the smallest size there is, above 0.
  int64_t symbol(std::string name, int64_t minimum, int64_t maximum, int64_t multiple = 1, int64_t remainder = 0,
                 int64_t trial = 0);
  void condition(std::string_view kind, Dim size);  // zero, nonzero or natural; its symbols come before it
  void input(const std::string& name, std::string_view dtype, std::vector<Dim> shape);
  // Row-major. Where it is now, if there is nothing wrong with it.
  std::shared_ptr<Buffer> constant(const std::string& name, std::string_view dtype, const std::vector<int64_t>& shape,
                                   Buffer data);
  void weight(const std::string& name, Weight weight);
  void node(std::string op, std::string name, const std::vector<std::string>& inputs,
            const std::vector<std::string>& outputs, Attributes attributes);
  void output(const std::string& name);
  // An input and an output that are one state; initial and count "": none.
  void state(const std::string& input, const std::string& output, const std::string& initial, const std::string& count,
             int64_t axis);
  // What a node's output must turn out to be; and sizes, one for each symbol, at which it must do so, too.
  void claim(const std::string& name, std::string dtype, std::vector<Dim> shape);
  void sample(std::vector<int64_t> sizes) { graph_.samples.push_back(std::move(sizes)); }
  void problem(std::string text) { graph_.problems.add(std::move(text)); }

  Graph finish();  // the builder is empty afterwards

 private:
  int define(const std::string& name, const std::string& what);
  int find(const std::string& name, const std::string& what);

  Graph graph_;
  std::map<std::string, int, std::less<>> names_;
  std::set<std::string, std::less<>> symbol_names_, node_names_, undefined_;
};

// Throws Error(graph) with the problems, if there are any.
void throw_problems(const Problems& problems);

bool parse_dtype(std::string_view name, DType& type);
std::string to_string(const Dim& dim, const std::vector<Symbol>& symbols);

}  // namespace lowbit::graph
