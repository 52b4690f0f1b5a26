// What an operator is to the graph: a shape rule, a layout wish, and a run over views. One instance is one prepared node:
// immutable, shared by all contexts. To add an op: one file in ops/, one line in ops/registry.cpp.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/buffer.h"
#include "base/cpu.h"
#include "base/types.h"

namespace lowbit::graph {

// A dimension: a number, or an expression over the graph's symbols in reverse Polish notation (graph.h).
struct Dim {
  std::vector<int64_t> rpn;  // pairs (opcode, operand); see DimOp
};
enum class DimOp : int64_t { constant, symbol, add, sub, mul, floordiv, mod, max, min };

using Attribute = std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<Dim>>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

// A constant of the graph: owned until every node that uses it is prepared, and beyond only if a node reads it at run time.
struct Constant {
  TensorType type;
  std::shared_ptr<Buffer> buffer;  // row-major
};

// What a node gives its operator at prepare.
struct NodeInfo {
  std::string op, name;
  Attributes attributes;
  std::vector<const Constant*> constants;  // by input position; null: a run-time value (or an absent optional input)
  std::vector<bool> present;               // by input position
  int outputs = 1;
  Isa isa = Isa::scalar;                   // cap for kernel choice

  // Checked access: each throws Error(graph) that names the node, the attribute and what was expected.
  int64_t integer(std::string_view key) const;
  int64_t integer(std::string_view key, int64_t fallback) const;
  double number(std::string_view key) const;
  double number(std::string_view key, double fallback) const;
  const std::string& text(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key, size_t count) const;  // exactly `count` of them; 0: any
  const Constant& constant(size_t input, DType dtype, int rank) const;      // must be a constant of that type and rank (-1: any rank)
  [[noreturn]] void fail(const std::string& reason) const;
};

// Of values of rank 4; all others are contiguous.
enum class Layout {
  contiguous,     // row-major in logical order (NCHW)
  channels_last,  // NHWC in memory, dense
  same,           // either, but all of the node's `same` inputs and outputs alike
  any,            // inputs only: the op reads through the strides, whichever they are
};

struct RunArgs {
  std::span<const Tensor> inputs;  // one a declared input, constants included; absent optional or packed: data null
  std::span<const Tensor> outputs;
  std::byte* scratch = nullptr;    // scratch_bytes() of it, 64-byte aligned, 64 readable bytes of slack
  int threads = 1;
};

// Work of one call, for the roofline: multiply-adds count two.
struct Work {
  double operations = 0;
  double bytes = 0;
};

class Op {
 public:
  virtual ~Op() = default;
  // Output types for concrete input types. Throws Error(input) with the reason if they do not fit.
  virtual std::vector<TensorType> infer(std::span<const TensorType> inputs) const = 0;
  virtual Layout input_layout(size_t input) const { return (void)input, Layout::contiguous; }
  virtual Layout output_layout(size_t output) const { return (void)output, Layout::contiguous; }
  virtual size_t scratch_bytes(std::span<const TensorType> inputs, int threads) const { return (void)inputs, (void)threads, 0; }
  virtual void run(const RunArgs&) const = 0;  // allocates nothing, throws nothing
  virtual std::string kernel() const { return "scalar"; }  // the table row chosen, for profile
  virtual Work work(std::span<const TensorType> inputs) const { return (void)inputs, Work{}; }
  // Output 0 may use the memory of input `i` (same size): -1 for none.
  virtual int in_place() const { return -1; }
  // A view op (reshape): output 0 is input 0's memory under another shape; run is never called.
  virtual bool is_view() const { return false; }
};

using Factory = std::unique_ptr<Op> (*)(const NodeInfo&);
Factory find_factory(std::string_view op);     // null: unknown op
std::vector<std::string> registered_ops();

}  // namespace lowbit::graph
