// Sizes that are expressions over a graph's symbols, read from text: the same canonical sums of products as
// python/lowbit/graph/polynomials.py, within the same bounds, and handed on in reverse Polish notation.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "graph/graph.h"

namespace lowbit::reader {

using Wide = __int128;  // of two numbers below kSizeLimit, a product

struct Atom;
struct Term {
  std::vector<std::shared_ptr<const Atom>> atoms;  // by text
  int64_t coefficient = 0;
};
// A sum of products; longer products first, the number last; zero is empty.
using Poly = std::vector<Term>;
// What a sum does not look into: a symbol (its text), or op(a, b).
struct Atom {
  std::string text;
  graph::DimOp op = graph::DimOp::symbol;
  Poly a, b;
};

// Sizes of a graph's symbols, by index.
using Sample = std::vector<int64_t>;

// The arithmetic on all sizes of one graph, which together takes a bounded number of steps.
class Sizes {
 public:
  // Of names that are symbols' (is_symbol_name), each once.
  void add(const std::string& name, const graph::Symbol& symbol);
  const std::vector<graph::Symbol>& symbols() const { return symbols_; }

  // All of these throw Error(graph).
  const Poly& parse(const std::string& text);
  // Its canonical form: a number, or else a text.
  std::pair<int64_t, std::string> simplified(const std::string& text);
  graph::Dim rpn(const std::string& text);
  std::pair<Wide, Wide> bounds(const std::string& text);  // an interval that holds every value of it
  bool knows_symbols(const std::string& text);
  int64_t evaluate(const std::string& text, const Sample& sample);

  // Whether it is so; it is not where the expression has no value.
  bool holds(graph::Condition::Kind kind, const std::string& text, const Sample& sample);
  using Conditions = std::vector<std::pair<graph::Condition::Kind, std::string>>;
  // Small sizes above 0 that are possible together.
  std::optional<Sample> smallest(const Conditions& conditions);
  // So many possible ones at most: the smallest, small ones, sizes of many remainders, and every 24th of large ones.
  std::vector<Sample> samples(const Conditions& conditions, int count, bool far_too = true);

  void spend(int64_t steps);
  std::optional<size_t> find(std::string_view name) const;

 private:
  Wide evaluate(const Poly& poly, const Sample& sample);
  std::pair<Wide, Wide> bounds(const Poly& poly, std::map<std::string, std::pair<Wide, Wide>, std::less<>>& known);
  std::pair<Wide, Wide> bounds(const Atom& atom, std::map<std::string, std::pair<Wide, Wide>, std::less<>>& known);
  void emit(const Poly& poly, std::vector<int64_t>& out) const;

  std::vector<graph::Symbol> symbols_;
  std::map<std::string, size_t, std::less<>> index_;
  std::unordered_map<std::string, Poly> parsed_;
  std::map<std::string, std::pair<Wide, Wide>, std::less<>> bounded_;
  int64_t left_ = 1'000'000;
};

bool is_symbol_name(std::string_view text);

}  // namespace lowbit::reader
