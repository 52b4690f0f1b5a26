#include "graph/op.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace lowbit::graph {
namespace {

constexpr uint64_t kOneBits = uint64_t{0x3FF} << 52;
constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxRpn = size_t{1} << 16;

[[noreturn]] void fail_size(const char* reason) {
  throw Error(ErrorKind::input, std::string("a size expression ") + reason);
}

int64_t apply(DimOp op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case DimOp::add:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case DimOp::sub:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case DimOp::mul:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case DimOp::max:
      result = std::max(a, b);
      break;
    case DimOp::min:
      result = std::min(a, b);
      break;
    case DimOp::scale: {
      const double product =
          std::floor(static_cast<double>(a) * std::bit_cast<double>(static_cast<uint64_t>(b) + kOneBits));
      overflow = !(std::fabs(product) < 4.6e18);
      result = overflow ? 0 : static_cast<int64_t>(product);
      break;
    }
    default:
      if (b == 0) fail_size("divides by zero");
      if (b == -1) {  // INT64_MIN / -1 traps
        overflow = op == DimOp::floordiv && __builtin_sub_overflow(int64_t{0}, a, &result);
        break;
      }
      result = a / b;
      if (a % b != 0 && (a < 0) != (b < 0)) --result;
      if (op == DimOp::mod) result = a - result * b;
  }
  if (overflow) fail_size("overflows");
  return result;
}

}  // namespace

std::optional<size_t> symbol_of(const Dim& dim) {
  if (dim.rpn.size() != 2 || dim.rpn[0] != static_cast<int64_t>(DimOp::symbol)) return std::nullopt;
  return static_cast<size_t>(dim.rpn[1]);
}

std::string problem_of(const Dim& dim, size_t symbols) {
  if (dim.rpn.empty() || dim.rpn.size() % 2 != 0 || dim.rpn.size() > kMaxRpn)
    return "a size expression has a wrong length";
  size_t depth = 0;
  for (size_t i = 0; i < dim.rpn.size(); i += 2) {
    const int64_t opcode = dim.rpn[i], operand = dim.rpn[i + 1];
    if (opcode < 0 || opcode > static_cast<int64_t>(DimOp::scale)) return "a size expression has an unknown operation";
    if (opcode == static_cast<int64_t>(DimOp::symbol) && (operand < 0 || operand >= static_cast<int64_t>(symbols)))
      return "a size expression uses a symbol that does not exist";
    if (opcode <= static_cast<int64_t>(DimOp::symbol)) {
      if (++depth > kMaxDepth) return "a size expression is nested too deeply";
    } else {
      if (depth < 2) return "a size expression lacks an operand";
      --depth;
    }
  }
  return depth == 1 ? "" : "a size expression has operands left over";
}

int64_t evaluate(const Dim& dim, std::span<const int64_t> symbols) {
  std::array<int64_t, kMaxDepth> stack;
  size_t depth = 0;
  for (size_t i = 0; i < dim.rpn.size(); i += 2) {
    const auto op = static_cast<DimOp>(dim.rpn[i]);
    const int64_t operand = dim.rpn[i + 1];
    if (op == DimOp::constant) {
      stack[depth++] = operand;
    } else if (op == DimOp::symbol) {
      stack[depth++] = symbols[operand];
    } else {
      --depth;
      stack[depth - 1] = apply(op, stack[depth - 1], stack[depth]);
    }
  }
  return stack[0];
}

// ---------------------------------------------------------------------------------------------------- attributes

void NodeInfo::fail(const std::string& reason) const {
  throw Error(ErrorKind::graph, "node '" + name + "' (" + op + "): " + reason);
}

const Attribute* NodeInfo::find(std::string_view key) const {
  known.emplace(key);
  const auto found = attributes.find(key);
  return found == attributes.end() ? nullptr : &found->second;
}

const Attribute& NodeInfo::need(std::string_view key, std::string_view kind) const {
  const Attribute* found = find(key);
  if (found == nullptr) fail("attribute '" + std::string(key) + "' (" + std::string(kind) + ") is missing");
  return *found;
}

int64_t NodeInfo::integer(std::string_view key, int64_t low, int64_t high) const {
  const auto* value = std::get_if<int64_t>(&need(key, "an integer"));
  if (value == nullptr || *value < low || *value > high) {
    fail("attribute '" + std::string(key) + "' must be an integer from " + std::to_string(low) + " to " +
         std::to_string(high) + (value != nullptr ? ", got " + std::to_string(*value) : ""));
  }
  return *value;
}

int64_t NodeInfo::integer(std::string_view key, int64_t low, int64_t high, int64_t fallback) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double NodeInfo::number(std::string_view key) const {
  const Attribute& attribute = need(key, "a number");
  double value = std::nan("");
  if (const auto* real = std::get_if<double>(&attribute)) value = *real;
  if (const auto* whole = std::get_if<int64_t>(&attribute)) value = static_cast<double>(*whole);
  if (!std::isfinite(static_cast<float>(value)))
    fail("attribute '" + std::string(key) + "' must be a finite float32 number");
  return value;
}

double NodeInfo::number(std::string_view key, double fallback) const { return has(key) ? number(key) : fallback; }

const std::string& NodeInfo::text(std::string_view key) const {
  const auto* value = std::get_if<std::string>(&need(key, "a text"));
  if (value == nullptr) fail("attribute '" + std::string(key) + "' must be a text");
  return *value;
}

std::string NodeInfo::text(std::string_view key, std::string_view fallback) const {
  return has(key) ? text(key) : std::string(fallback);
}

std::vector<int64_t> NodeInfo::integers(std::string_view key, size_t count, int64_t low, int64_t high) const {
  const auto* values = std::get_if<std::vector<int64_t>>(&need(key, "a list of integers"));
  if (values == nullptr || (count != 0 && values->size() != count) ||
      std::any_of(values->begin(), values->end(), [&](int64_t value) { return value < low || value > high; })) {
    fail("attribute '" + std::string(key) + "' must be a list of " + (count != 0 ? std::to_string(count) + " " : "") +
         "integers from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return *values;
}

std::vector<int64_t> NodeInfo::integers(std::string_view key, int64_t low, int64_t high,
                                        std::vector<int64_t> fallback) const {
  return has(key) ? integers(key, fallback.size(), low, high) : fallback;
}

std::vector<double> NodeInfo::numbers(std::string_view key, size_t count) const {
  const Attribute& attribute = need(key, "a list of numbers");
  std::vector<double> values;
  if (const auto* reals = std::get_if<std::vector<double>>(&attribute)) values = *reals;
  if (const auto* whole = std::get_if<std::vector<int64_t>>(&attribute)) values.assign(whole->begin(), whole->end());
  if (values.size() != count ||
      !std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(static_cast<float>(v)); }))
    fail("attribute '" + std::string(key) + "' must be a list of " + std::to_string(count) + " finite numbers");
  return values;
}

Dim NodeInfo::checked(std::string_view key, Dim dim) const {
  const std::string problem = problem_of(dim, symbols);
  if (!problem.empty()) fail("attribute '" + std::string(key) + "': " + problem);
  return dim;
}

Dim NodeInfo::dim(std::string_view key) const {
  const Attribute& attribute = need(key, "a size");
  if (const auto* value = std::get_if<int64_t>(&attribute)) return Dim::constant(*value);
  if (const auto* rpn = std::get_if<std::vector<int64_t>>(&attribute)) return checked(key, Dim{*rpn});
  const auto* values = std::get_if<std::vector<Dim>>(&attribute);
  if (values == nullptr || values->size() != 1) fail("attribute '" + std::string(key) + "' must be a size");
  return checked(key, values->front());
}

std::vector<Dim> NodeInfo::dims(std::string_view key) const {
  const Attribute& attribute = need(key, "a list of sizes");
  std::vector<Dim> result;
  if (const auto* values = std::get_if<std::vector<Dim>>(&attribute)) {
    for (const Dim& value : *values) result.push_back(checked(key, value));
  } else if (const auto* numbers = std::get_if<std::vector<int64_t>>(&attribute)) {
    for (int64_t number : *numbers) result.push_back(Dim::constant(number));
  } else {
    fail("attribute '" + std::string(key) + "' must be a list of sizes");
  }
  return result;
}

// ------------------------------------------------------------------------------------------------------ operands

void NodeInfo::expect_inputs(size_t least, size_t most) const {
  const size_t count = present.size();
  if (count < least || count > most) {
    fail("takes " + std::to_string(least) + (most != least ? " to " + std::to_string(most) : "") + " inputs, got " +
         std::to_string(count));
  }
  for (size_t i = 0; i < least; ++i)
    if (!present[i]) fail("input " + std::to_string(i) + " is required");
}

void NodeInfo::expect_outputs(size_t count) const {
  if (outputs != count) fail("gives " + std::to_string(count) + " outputs, got " + std::to_string(outputs));
}

const Constant& NodeInfo::constant(size_t input, DType dtype, int rank) const {
  const Constant* constant = input < constants.size() ? constants[input] : nullptr;
  if (constant == nullptr) fail("input " + std::to_string(input) + " must be a constant");
  if (constant->weight != nullptr) fail("input " + std::to_string(input) + " cannot be a quantized weight");
  if (constant->type.dtype != dtype || (rank >= 0 && constant->type.shape.rank() != rank)) {
    fail("input " + std::to_string(input) + " must be " + std::string(name_of(dtype)) +
         (rank >= 0 ? " of rank " + std::to_string(rank) : "") + ", got " + to_string(constant->type));
  }
  return *constant;
}

const std::shared_ptr<const Weight>& NodeInfo::weight(size_t input, int rank) const {
  const Constant* constant = input < constants.size() ? constants[input] : nullptr;
  if (constant == nullptr || constant->weight == nullptr)
    fail("input " + std::to_string(input) + " must be a quantized weight");
  weights.insert(input);
  if (rank >= 0 && constant->weight->shape.rank() != rank)
    fail("the weight must have " + std::to_string(rank) + " axes, has " + to_string(constant->weight->shape));
  return constant->weight;
}

Work Op::work(Types inputs, Types outputs) const {
  Work work;
  for (const TensorType& type : inputs)
    if (type.shape.rank() > 0) work.bytes += bytes_of(type);
  for (const TensorType& type : outputs) {
    work.bytes += bytes_of(type);
    work.operations += type.shape.elements();
  }
  return work;
}

// --------------------------------------------------------------------------------------------------------- words

std::string_view name_of(DType type) {
  switch (type) {
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::boolean:
      return "bool";
    case DType::u8:
      return "u8";
    case DType::s8:
      return "s8";
  }
  return "?";
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int64_t dim : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

std::string to_string(const TensorType& type) { return std::string(name_of(type.dtype)) + " " + to_string(type.shape); }

int64_t checked_elements(const TensorType& type) {
  int64_t product = size_of(type.dtype);
  for (int64_t dim : type.shape)
    if (dim < 0 || __builtin_mul_overflow(product, std::max<int64_t>(dim, 1), &product) || product > kMaxBytes)
      return -1;
  return product / size_of(type.dtype);
}

}  // namespace lowbit::graph
