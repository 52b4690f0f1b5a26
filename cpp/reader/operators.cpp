#include "reader/operators.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace lowbit::reader {
namespace {

using Kind = Operator::Kind;

#include "reader/operators.inc"

// Whether a word is one of `a|b|c`.
bool is_among(std::string_view words, std::string_view word) {
  for (size_t at = 0; at <= words.size();) {
    const size_t end = std::min(words.find('|', at), words.size());
    if (words.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

std::string listed(std::string_view words) {
  std::string text;
  for (const char c : words) text += c == '|' ? std::string(", ") : std::string(1, c);
  return text;
}

std::string general(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

double number_of(const Json& value) {
  return value.integer() ? static_cast<double>(*value.integer())
         : value.real()  ? *value.real()
                         : static_cast<double>(*value.boolean());
}

std::string item_problem(const Operator::Attribute& attribute, const Json& value, Sizes& sizes) {
  const Kind kind = attribute.kind;
  if ((kind == Kind::dim || kind == Kind::dims) && value.text()) {
    try {
      sizes.simplified(*value.text());
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  if (kind == Kind::texts)
    return value.text() && is_among(attribute.choices, *value.text()) ? "" : "holds " + value.shown();
  const bool real = kind == Kind::float_ || kind == Kind::floats;
  const bool is_flag = value.boolean() && attribute.minimum == 0 && attribute.maximum == 1;
  if (!value.integer() && !(real && value.real()) && !is_flag)
    return std::string("must be ") + (real ? "a number" : "an integer") + ", is " + value.shown();
  const double number = number_of(value);
  if (!(number >= attribute.minimum && number <= attribute.maximum))
    return "must be in [" + general(attribute.minimum) + ", " + general(attribute.maximum) + "], is " + value.shown();
  return "";
}

std::string problem_of(const Operator::Attribute& attribute, const Json& value, Sizes& sizes) {
  constexpr const char* words[] = {"int", "float", "text", "ints", "floats", "texts", "dim", "dims"};
  if (attribute.kind == Kind::text)
    return value.text() && is_among(attribute.choices, *value.text()) ? ""
                                                                      : "must be one of " + listed(attribute.choices);
  if (attribute.kind == Kind::int_ || attribute.kind == Kind::float_ || attribute.kind == Kind::dim)
    return item_problem(attribute, value, sizes);
  if (!value.list()) return std::string("must be a sequence of ") + words[static_cast<size_t>(attribute.kind)];
  const auto count = std::ssize(*value.list());
  if (attribute.count >= 0 && count != attribute.count)
    return "must have " + std::to_string(attribute.count) + " items, has " + std::to_string(count);
  if (count > attribute.longest) return "has " + std::to_string(count) + " items, more than any operator takes";
  for (const Json& item : *value.list())
    if (std::string problem = item_problem(attribute, item, sizes); !problem.empty()) return problem;
  return "";
}

graph::Dim dim_of(const Json& value, Sizes& sizes) {
  return value.text() ? sizes.rpn(*value.text()) : graph::Dim::constant(*value.integer());
}

int64_t integer_of(const Json& value) { return value.boolean() ? *value.boolean() : *value.integer(); }

graph::Attribute attribute_of(Kind kind, const Json& value, Sizes& sizes) {
  if (kind == Kind::int_) return integer_of(value);
  if (kind == Kind::float_) return number_of(value);
  if (kind == Kind::text) return *value.text();
  if (kind == Kind::dim) return std::vector<graph::Dim>{dim_of(value, sizes)};
  const Json::List& items = *value.list();
  if (kind == Kind::dims && !items.empty()) {
    std::vector<graph::Dim> dims;
    for (const Json& item : items) dims.push_back(dim_of(item, sizes));
    return dims;
  }
  if (kind == Kind::floats && !items.empty()) {
    std::vector<double> numbers;
    for (const Json& item : items) numbers.push_back(number_of(item));
    return numbers;
  }
  std::vector<int64_t> integers;
  for (const Json& item : items) integers.push_back(integer_of(item));
  return integers;
}

// Attributes that are absent, each as its default.
const graph::Attributes& defaults_of(const Operator& op) {
  static const std::map<std::string_view, graph::Attributes> all = [] {
    std::map<std::string_view, graph::Attributes> made;
    Sizes sizes;
    for (const Operator& each : kOperators) {
      graph::Attributes& values = made[each.name];
      for (const Operator::Attribute& attribute : each.attributes)
        if (attribute.fallback)
          values.emplace(attribute.name,
                         attribute_of(attribute.kind, parse_json(attribute.fallback, "a default", 0), sizes));
    }
    return made;
  }();
  return all.at(op.name);
}

}  // namespace

bool Operator::Input::takes(std::string_view dtype) const { return is_among(dtypes, dtype); }

const Operator* find_operator(std::string_view name) {
  const auto found = std::ranges::lower_bound(kOperators, name, {}, &Operator::name);
  return found != kOperators.end() && found->name == name ? &*found : nullptr;
}

double most_of(std::string_view input) {
  return input == "multiplier" ? kMostMultiplier : input == "bias" ? kMostBias : 0;
}

std::vector<std::string> attribute_problems(const Operator& op, const Json* given, Sizes& sizes) {
  std::vector<std::string> problems;
  if (given)
    for (const auto& [key, value] : *given->object())
      if (std::ranges::find(op.attributes, key, &Operator::Attribute::name) == op.attributes.end())
        problems.push_back("unknown attribute " + quoted(key));
  for (const Operator::Attribute& attribute : op.attributes) {
    const Json* value = given ? given->find(attribute.name) : nullptr;
    const std::string what = "attribute '" + std::string(attribute.name) + "' ";
    if (!value) {
      if (!attribute.fallback && !attribute.optional) problems.push_back(what + "is missing");
    } else if (const std::string reason = problem_of(attribute, *value, sizes); !reason.empty()) {
      problems.push_back(what + reason);
    }
  }
  return problems;
}

graph::Attributes attributes_of(const Operator& op, const Json* given, Sizes& sizes) {
  graph::Attributes values = defaults_of(op);
  for (const Operator::Attribute& attribute : op.attributes)
    if (const Json* value = given ? given->find(attribute.name) : nullptr)
      values.insert_or_assign(std::string(attribute.name), attribute_of(attribute.kind, *value, sizes));
  return values;
}

}  // namespace lowbit::reader
