// What each operator takes, as python/lowbit/ops says it: its inputs, its attributes with ranges and defaults.
#pragma once

#include "graph/op.h"
#include "reader/json.h"
#include "reader/sizes.h"

namespace lowbit::reader {

struct Operator {
  enum class Kind { int_, float_, text, ints, floats, texts, dim, dims };
  struct Input {
    std::string_view name, dtypes;  // dtypes: `f32|u8`
    bool optional, constant, weight;

    bool takes(std::string_view dtype) const;
  };
  struct Attribute {
    std::string_view name;
    Kind kind;
    const char* fallback;  // JSON; null: it is required, unless optional
    bool optional;
    double minimum, maximum;
    int count, longest;        // items of a list; -1: any number
    std::string_view choices;  // `relu|relu6`
  };

  std::string_view name;
  bool variadic;  // its last input may be repeated
  int outputs;    // 0: as many as there are
  std::vector<Input> inputs;
  std::vector<Attribute> attributes;

  const Input& input(size_t place) const { return inputs[std::min(place, inputs.size() - 1)]; }
};

constexpr std::string_view kSigns = "sign_";  // operators of this prefix read one-bit weights as they are

const Operator* find_operator(std::string_view name);
double most_of(std::string_view input);  // in magnitude, of a constant input of that name; 0: any

// What is wrong with a node's attributes. given: an object, or null for none.
std::vector<std::string> attribute_problems(const Operator& op, const Json* given, Sizes& sizes);
// Sound attributes with their defaults, as the core takes them.
graph::Attributes attributes_of(const Operator& op, const Json* given, Sizes& sizes);

}  // namespace lowbit::reader
