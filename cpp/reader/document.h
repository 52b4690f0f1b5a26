// The graph document of a file, of any version: what it says, in the types that a graph has. Nothing is checked yet
// beyond kinds and keys.
#pragma once

#include <map>
#include <optional>
#include <unordered_map>
#include <variant>

#include "reader/json.h"
#include "reader/sizes.h"

namespace lowbit::reader {

struct Size {
  int64_t number = 0;
  std::string text;  // canonical; empty: the size is the number
  friend bool operator==(const Size&, const Size&) = default;
};
std::string to_string(const std::vector<Size>& shape);

struct Quant {
  std::variant<double, std::string> scale;
  std::variant<int64_t, std::string> zero_point;
};

struct Value {
  std::string dtype;
  std::vector<Size> shape;
  std::optional<Quant> quant;
};

struct Node {
  std::string op, name, source;
  std::vector<std::string> inputs, outputs;
  const Json* attributes = nullptr;  // an object, or null: it has none
};

struct Symbol {
  int64_t minimum, maximum, multiple, remainder;
};

struct State {
  std::string input, output, initial, count;
  int64_t axis = 0;
};

// The document must outlive it.
struct Document {
  std::vector<std::pair<std::string, Symbol>> symbols;
  std::vector<std::pair<std::string, std::string>> conditions;  // kind, size
  std::vector<std::string> inputs, outputs;
  std::vector<std::pair<std::string, Value>> values;
  std::unordered_map<std::string_view, const Value*> values_by_name;
  std::vector<Node> nodes;
  const Json::Object* constants = nullptr;  // read by whom it is built
  std::vector<State> states;
  const Json* meta = nullptr;

  const Value* find(std::string_view name) const;
};

// The document of a file of any version becomes one of this version. Throws Error(format).
void upgrade(Json& document, const std::string& path);

// sizes: those of the texts in it; it has no symbols yet. Throws Error(format).
Document read_document(const Json& document, Sizes& sizes);

}  // namespace lowbit::reader
