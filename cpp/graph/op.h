// What an operator is to the graph: a shape rule, the layouts that it takes, and a run over views. One instance is one
// prepared node: immutable, shared by all contexts. To add an op: one class in ops/, one line in its file's table.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/buffer.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/shared.h"
#include "base/types.h"
#include "graph/packings.h"
#include "graph/weight.h"

namespace lowbit::graph {

// A dimension: a number, or an expression over the graph's symbols in reverse Polish notation.
// scale: a * factor in float64, rounded down; b holds the factor's bits less those of 1.0.
enum class DimOp : int64_t { constant, symbol, add, sub, mul, floordiv, mod, max, min, scale };
struct Dim {
  std::vector<int64_t> rpn;  // pairs (opcode, operand); the operand of an arithmetic opcode is ignored

  static Dim constant(int64_t value) { return {{static_cast<int64_t>(DimOp::constant), value}}; }
  friend bool operator==(const Dim&, const Dim&) = default;
};

// The symbol that the dimension is, if it is one and no more.
std::optional<size_t> symbol_of(const Dim& dim);
// Why `dim` is no expression over `symbols` symbols; empty if it is one.
std::string problem_of(const Dim& dim, size_t symbols);
// Division rounds down, as in Python. Allocates nothing. Throws Error(input) where it overflows or divides by zero.
int64_t evaluate(const Dim& dim, std::span<const int64_t> symbols);

using Attribute =
    std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<Dim>>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

// A constant of the graph: owned until every node that uses it is prepared, and beyond only if a node reads it at run
// time.
struct Constant {
  TensorType type;                       // of a quantized weight f32, which it stands for
  std::shared_ptr<Buffer> buffer;        // row-major; null for a quantized weight
  std::shared_ptr<const Weight> weight;  // null for an array

  template <class T>
  std::span<const T> values() const {
    return {buffer->as<const T>(), buffer->as<const T>() + type.shape.elements()};
  }
  const void* identity() const { return weight ? static_cast<const void*>(weight.get()) : buffer.get(); }
};

// What a node gives its operator at prepare.
struct NodeInfo {
  std::string op, name;
  Attributes attributes;
  std::vector<const Constant*> constants;  // by input position; null: a run-time value (or an absent optional input)
  std::vector<bool> present;               // by input position
  std::vector<TensorType> types;           // of all inputs at typical sizes, a hint for kernel choice; empty: unknown
  size_t outputs = 1;
  size_t symbols = 0;                                // how many the graph has
  Isa isa = Isa::scalar;                             // cap for kernel choice
  Packings* packings = nullptr;                      // of all nodes
  mutable std::set<std::string, std::less<>> known;  // attributes asked for; prepare refuses all others
  mutable std::set<size_t> weights;                  // quantized weights asked for; prepare refuses all others

  bool has(size_t input) const { return input < present.size() && present[input]; }
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // Checked access: each throws Error(graph) that names the node, the attribute and what was expected. Numbers are
  // finite.
  int64_t integer(std::string_view key, int64_t low, int64_t high) const;
  int64_t integer(std::string_view key, int64_t low, int64_t high, int64_t fallback) const;
  double number(std::string_view key) const;
  double number(std::string_view key, double fallback) const;
  const std::string& text(std::string_view key) const;
  std::string text(std::string_view key, std::string_view fallback) const;
  std::vector<int64_t> integers(std::string_view key, size_t count, int64_t low,
                                int64_t high) const;  // count 0: any number
  std::vector<int64_t> integers(std::string_view key, int64_t low, int64_t high, std::vector<int64_t> fallback) const;
  std::vector<double> numbers(std::string_view key, size_t count) const;  // finite float32
  Dim dim(std::string_view key) const;
  std::vector<Dim> dims(std::string_view key) const;

  void expect_inputs(size_t least, size_t most) const;  // the first `least` present, no more than `most`
  void expect_outputs(size_t count) const;
  const Constant& constant(size_t input, DType dtype, int rank) const;  // of that type and rank (-1: any rank)
  const std::shared_ptr<const Weight>& weight(size_t input, int rank = -1) const;  // quantized, of that rank
  // What `make` (void(T&)) makes of a constant input. Nodes that ask for the same T of the same constant, with the same
  // key, share it: the key holds all else that it depends on.
  template <class T, class Make>
  std::shared_ptr<const T> shared(size_t input, std::vector<int64_t> key, Make make) const {
    return packings->get<T>(constants[input]->identity(), std::move(key), make);
  }
  [[noreturn]] void fail(const std::string& reason) const;

 private:
  const Attribute* find(std::string_view key) const;
  const Attribute& need(std::string_view key, std::string_view kind) const;
  Dim checked(std::string_view key, Dim dim) const;
};

// Of images and volumes (rank 4 and 5); all others are contiguous.
enum class Layout {
  contiguous,     // row-major in logical order (NCHW, NCDHW)
  channels_last,  // NHWC or NDHWC in memory, dense
  same,           // either, but all of the node's `same` inputs and outputs alike
  any,            // inputs only: the op reads through the strides, whichever they are
};

// Whether a value of this shape may lie in either layout.
constexpr bool has_layouts(const Shape& shape) { return shape.rank() == 4 || shape.rank() == 5; }

struct RunArgs {
  std::span<const Tensor> inputs;  // one a declared input, constants included; absent optional or packed: data null
  std::span<const Tensor> outputs;
  std::byte* scratch = nullptr;  // scratch_bytes() of it, 64-byte aligned, 64 readable bytes of slack
  int threads = 1;
  std::span<const int64_t> symbols;  // their values in this call
};

// Work of one call, for the roofline: multiply-adds count two.
struct Work {
  double operations = 0;
  double bytes = 0;
};

class Op {
 public:
  using Types = std::span<const TensorType>;  // absent optional inputs: rank 0
  virtual ~Op() = default;
  // Whether what other nodes make of this constant input may serve this one, too; then it is told of that once all are
  // prepared, and need not hold the constant any more.
  virtual bool shares(size_t input) const { return (void)input, false; }
  virtual void share(const void* constant, const Packings& packings) { (void)constant, (void)packings; }
  // Output types for concrete input types. Throws Error(input) with the reason if they do not fit.
  virtual std::vector<TensorType> infer(Types inputs, std::span<const int64_t> symbols) const = 0;
  virtual Layout input_layout(size_t input) const { return (void)input, Layout::contiguous; }
  virtual Layout output_layout(size_t output) const { return (void)output, Layout::contiguous; }
  // Whether run() looks at this input, if it is a constant: one that was packed or copied at prepare is not needed any
  // more.
  virtual bool reads(size_t input) const { return (void)input, true; }
  // Whether run() may read up to Buffer::kSlack bytes past this input's last element, or past a pixel's last channel.
  virtual bool reads_slack(size_t input) const { return (void)input, false; }
  virtual size_t scratch_bytes(Types inputs, Types outputs, int threads) const {
    return (void)inputs, (void)outputs, (void)threads, 0;
  }
  // Allocates nothing; never called when all outputs are empty. Throws (outside of parallel tasks) only Error(input),
  // for elements that are out of range, such as an index.
  virtual void run(const RunArgs&) const = 0;
  virtual std::string kernel() const { return "scalar"; }  // the table row chosen, for profile
  // Inputs that are absent or were packed at prepare have rank 0. Default: one operation an output element, every
  // operand once.
  virtual Work work(Types inputs, Types outputs) const;
  // Output 0 may use the memory of input `i` (same shape and layout, element of the same size): -1 for none.
  virtual int in_place() const { return -1; }
  // The input that this output is an update of, in the same memory where that is the caller's state (state.h); else
  // run() copies what it does not change. -1: none.
  virtual int updates(size_t output) const { return (void)output, -1; }
  // A view op (reshape): output 0 is input 0's memory under another shape; run is never called.
  virtual bool is_view() const { return false; }
  // Whether run() reads this input, or writes this output, through its strides, so that it may be a part of a larger
  // value: elements along the innermost axis of its layout are adjacent, all other axes may step over something.
  virtual bool reads_parts(size_t input) const { return (void)input, false; }
  virtual bool writes_parts(size_t output) const { return (void)output, false; }
  // Whether run() takes this input, or output, with its axes in any order in memory, but for the last, along which
  // elements are adjacent.
  virtual bool reads_orders(size_t input) const { return (void)input, false; }
  virtual bool writes_orders(size_t output) const { return (void)output, false; }
  // A change of order (transpose): axis i of output 0 is axis order()[i] of input 0. Empty: none.
  virtual std::span<const int64_t> order() const { return {}; }
  // A join (concat): along this axis of the output, the inputs lie one behind the other, as they are.
  virtual std::optional<int> join_axis(const Shape& output) const { return (void)output, std::nullopt; }
  // A part (slice): output 0 is the elements start, start + step, ... of input 0 along an axis.
  struct Part {
    int axis;
    int64_t start, step;
  };
  virtual std::optional<Part> part(const Shape& input, std::span<const int64_t> symbols) const {
    return (void)input, (void)symbols, std::nullopt;
  }
};

using Factory = std::unique_ptr<Op> (*)(const NodeInfo&);
Factory find_factory(std::string_view op);  // null: unknown op
LOWBIT_SHARED std::vector<std::string> registered_ops();

// Words for messages.
LOWBIT_SHARED std::string_view name_of(DType type);
std::string to_string(const Shape& shape);
std::string to_string(const TensorType& type);

// The product of the sizes, with 1 for 0, if the type has at most kMaxRank axes, no negative size, and fits kMaxBytes;
// else -1.
constexpr int64_t kMaxBytes = int64_t{1} << 40;
LOWBIT_SHARED int64_t checked_elements(const TensorType& type);

}  // namespace lowbit::graph
