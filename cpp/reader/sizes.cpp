#include "reader/sizes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <numeric>

#include "reader/json.h"

namespace lowbit::reader {
namespace {

using graph::DimOp;

constexpr size_t kMostLength = 1000, kMostTerms = 64;
constexpr int kMostDepth = 40;
constexpr Wide kLimit = kSizeLimit, kHuge = Wide{1} << 120;
constexpr int64_t kOne = int64_t{0x3ff} << 52;  // the bits of 1.0, less which those of a factor are an operand of scale

[[noreturn]] void fail(const std::string& reason) { throw Error(ErrorKind::graph, reason); }
[[noreturn]] void fail_large() { fail("a size expression grows too large"); }

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

Wide magnitude(Wide value) { return value < 0 ? -value : value; }
Wide floor_div(Wide a, Wide b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0)); }
Wide floor_mod(Wide a, Wide b) { return a - floor_div(a, b) * b; }
Wide gcd(Wide a, Wide b) { return b == 0 ? magnitude(a) : gcd(b, a % b); }
// Beyond kHuge they stay there: such numbers are only compared.
Wide clamped(Wide value) { return std::clamp(value, -kHuge, kHuge); }
Wide product(Wide a, Wide b) {
  Wide result;
  return __builtin_mul_overflow(a, b, &result) ? ((a < 0) != (b < 0) ? -kHuge : kHuge) : clamped(result);
}
Wide sum(Wide a, Wide b) { return clamped(a + b); }
double factor_of(int64_t bits) { return std::bit_cast<double>(bits + kOne); }
Wide scaled(Wide a, int64_t bits) {
  const double value = std::floor(static_cast<double>(a) * factor_of(bits));
  return std::abs(value) < 1e36 ? static_cast<Wide>(value) : value < 0 ? -kHuge : kHuge;
}

std::string number(Wide value) {
  if (magnitude(value) < kHuge / 2 && magnitude(value) < (Wide{1} << 63)) return std::to_string(int64_t(value));
  return value < 0 ? "-2^63 or less" : "2^63 or more";
}

struct WideTerm {
  std::vector<std::shared_ptr<const Atom>> atoms;
  Wide coefficient;
};
using WideTerms = std::vector<WideTerm>;

bool same_atoms(const auto& a, const auto& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) { return x == y || x->text == y->text; });
}
bool comes_before(const auto& a, const auto& b) {
  if (a.size() != b.size()) return a.size() > b.size();
  return std::ranges::lexicographical_compare(a, b, [](const auto& x, const auto& y) { return x->text < y->text; });
}

// The arithmetic itself; steps are counted by who owns it.
class Algebra {
 public:
  explicit Algebra(Sizes& sizes) : sizes_(sizes) {}

  static Poly constant(Wide value) {
    if (magnitude(value) >= kLimit) fail("a size of " + number(value) + " is too large");
    return value == 0 ? Poly() : Poly{{{}, static_cast<int64_t>(value)}};
  }
  static Poly symbol(std::string_view name) {
    auto atom = std::make_shared<Atom>();
    atom->text = name;
    return {{{std::move(atom)}, 1}};
  }
  static std::optional<int64_t> as_int(const Poly& poly) {
    if (poly.empty()) return 0;
    if (poly.size() == 1 && poly[0].atoms.empty()) return poly[0].coefficient;
    return std::nullopt;
  }

  Poly collect(WideTerms terms) {
    int64_t steps = 1;
    for (const WideTerm& term : terms) steps += 1 + std::ssize(term.atoms);
    sizes_.spend(steps);
    std::ranges::stable_sort(terms, [](const auto& a, const auto& b) { return comes_before(a.atoms, b.atoms); });
    Poly result;
    for (size_t i = 0; i < terms.size();) {
      Wide total = 0;
      const size_t first = i;
      for (; i < terms.size() && same_atoms(terms[i].atoms, terms[first].atoms); ++i)
        total = sum(total, terms[i].coefficient);
      if (total == 0) continue;
      if (magnitude(total) >= kLimit) fail_large();
      result.push_back({std::move(terms[first].atoms), static_cast<int64_t>(total)});
    }
    if (result.size() > kMostTerms) fail_large();
    return result;
  }
  static void append(WideTerms& terms, const Poly& poly, Wide factor) {
    for (const Term& term : poly) terms.push_back({term.atoms, product(term.coefficient, factor)});
  }
  Poly plus(const Poly& a, const Poly& b, int sign = 1) {
    WideTerms terms;
    append(terms, a, 1), append(terms, b, sign);
    return collect(std::move(terms));
  }
  Poly times(const Poly& a, const Poly& b) {
    if (a.size() * b.size() > kMostTerms * 4) fail_large();
    WideTerms terms;
    for (const Term& left : a)
      for (const Term& right : b) {
        WideTerm term{left.atoms, product(left.coefficient, right.coefficient)};
        term.atoms.insert(term.atoms.end(), right.atoms.begin(), right.atoms.end());
        std::ranges::stable_sort(term.atoms, [](const auto& x, const auto& y) { return x->text < y->text; });
        terms.push_back(std::move(term));
      }
    return collect(std::move(terms));
  }

  Poly atom(DimOp op, Poly a, Poly b) {
    auto made = std::make_shared<Atom>();
    if (op == DimOp::scale) {
      std::array<char, 40> digits{};
      std::to_chars(digits.data(), digits.data() + digits.size() - 1, factor_of(as_int(b).value_or(0)));
      made->text = "scale(" + text(a) + ", " + digits.data() + ")";
    } else if (op == DimOp::max || op == DimOp::min) {
      made->text = std::string(op == DimOp::max ? "max(" : "min(") + text(a) + ", " + text(b) + ")";
    } else {
      made->text = "(" + operand(a) + (op == DimOp::floordiv ? " // " : " % ") + operand(b) + ")";
    }
    if (made->text.size() > kMostLength) fail_large();
    sizes_.spend(1 + std::ssize(made->text) / 8);
    made->op = op, made->a = std::move(a), made->b = std::move(b);
    return {{{std::move(made)}, 1}};
  }

  Poly divide(DimOp op, const Poly& a, const Poly& b) {
    const std::optional<int64_t> divisor = as_int(b), dividend = as_int(a);
    if (divisor == 0) fail("a size expression divides by zero");
    if (dividend && divisor)
      return constant(op == DimOp::floordiv ? floor_div(*dividend, *divisor) : floor_mod(*dividend, *divisor));
    if (divisor && *divisor > 0) return divide_by_number(op, a, *divisor);
    if (const std::optional<Poly> exact = exact_quotient(a, b)) return op == DimOp::floordiv ? *exact : Poly();
    if (op == DimOp::floordiv && b.size() == 1)
      if (const auto less = cancelled(a, b)) return divide(op, less->first, less->second);
    return atom(op, a, b);
  }

  Poly extreme(DimOp op, const Poly& a, const Poly& b) {
    if (const std::optional<int64_t> difference = as_int(plus(a, b, -1)))
      return (*difference >= 0) == (op == DimOp::max) ? a : b;
    const bool in_order = text(a) <= text(b);
    return atom(op, in_order ? a : b, in_order ? b : a);
  }

  Poly apply(DimOp op, const Poly& a, const Poly& b) {
    switch (op) {
      case DimOp::add:
        return plus(a, b);
      case DimOp::sub:
        return plus(a, b, -1);
      case DimOp::mul:
        return times(a, b);
      case DimOp::scale:
        if (const std::optional<int64_t> value = as_int(a)) return constant(scaled(*value, as_int(b).value_or(0)));
        return atom(op, a, b);
      case DimOp::max:
      case DimOp::min:
        return extreme(op, a, b);
      default:
        return divide(op, a, b);
    }
  }

  static std::string text(const Poly& poly) {
    std::string result;
    for (const Term& term : poly) {
      const bool negative = term.coefficient < 0;
      result += result.empty() ? (negative ? "-" : "") : (negative ? " - " : " + ");
      const int64_t factor = std::abs(term.coefficient);
      if (factor != 1 || term.atoms.empty()) result += std::to_string(factor) + (term.atoms.empty() ? "" : "*");
      for (size_t i = 0; i < term.atoms.size(); ++i) result += (i ? "*" : "") + term.atoms[i]->text;
    }
    return result.empty() ? "0" : result;
  }

 private:
  static std::string operand(const Poly& poly) {
    const std::optional<int64_t> value = as_int(poly);
    const bool bare = value ? *value >= 0 : poly.size() == 1 && poly[0].atoms.size() == 1 && poly[0].coefficient == 1;
    return bare ? text(poly) : "(" + text(poly) + ")";
  }

  // (d q + r) // d = q + r // d and (d q + r) % d = r % d, with q and r taken coefficient by coefficient.
  Poly divide_by_number(DimOp op, const Poly& a, int64_t divisor) {
    WideTerms quotients, rests;
    for (const Term& term : a) {
      quotients.push_back({term.atoms, floor_div(term.coefficient, divisor)});
      rests.push_back({term.atoms, floor_mod(term.coefficient, divisor)});
    }
    const Poly quotient = collect(std::move(quotients)), rest = collect(std::move(rests));
    const std::optional<int64_t> value = as_int(rest);
    if (op == DimOp::mod) return value ? constant(*value) : atom(op, rest, constant(divisor));
    if (value) return quotient;
    // ((x // m) + c) // d = (x + c m) // (m d)
    if (rest[0].atoms.size() == 1 && rest[0].coefficient == 1 &&
        (rest.size() == 1 || (rest.size() == 2 && rest[1].atoms.empty()))) {
      const Atom& inner = *rest[0].atoms[0];
      const std::optional<int64_t> scale = inner.op == DimOp::floordiv ? as_int(inner.b) : std::nullopt;
      if (scale && *scale > 0 && Wide{*scale} * divisor < kLimit) {
        const Wide offset = rest.size() == 2 ? rest[1].coefficient : 0;
        return plus(quotient, divide_by_number(op, plus(inner.a, constant(offset * *scale)), *scale * divisor));
      }
    }
    return plus(quotient, atom(op, rest, constant(divisor)));
  }

  static bool remove(std::vector<std::shared_ptr<const Atom>>& atoms, const Atom& atom) {
    const auto found = std::ranges::find_if(atoms, [&](const auto& each) { return each->text == atom.text; });
    if (found == atoms.end()) return false;
    atoms.erase(found);
    return true;
  }

  // a / b where b is a single term that divides every term of a.
  std::optional<Poly> exact_quotient(const Poly& a, const Poly& b) {
    if (b.size() != 1) return text(a) == text(b) ? std::optional(constant(1)) : std::nullopt;
    WideTerms terms;
    for (const Term& term : a) {
      WideTerm left{term.atoms, term.coefficient / b[0].coefficient};
      for (const auto& atom : b[0].atoms)
        if (!remove(left.atoms, *atom)) return std::nullopt;
      if (term.coefficient % b[0].coefficient != 0) return std::nullopt;
      terms.push_back(std::move(left));
    }
    return collect(std::move(terms));
  }

  // a and a single term b without their common factors, which change no quotient.
  std::optional<std::pair<Poly, Poly>> cancelled(const Poly& a, const Poly& b) {
    Poly left = a, rest = b;
    Wide common = b[0].coefficient;
    for (const Term& term : a) common = gcd(common, term.coefficient);
    bool found = common != 1;
    for (const auto& atom : b[0].atoms) {
      const auto has = [&](const Term& term) {
        return std::ranges::any_of(term.atoms, [&](const auto& each) { return each->text == atom->text; });
      };
      if (!std::ranges::all_of(left, has)) continue;
      found = true;
      for (Term& term : left) remove(term.atoms, *atom);
      remove(rest[0].atoms, *atom);
    }
    if (a.empty() || !found) return std::nullopt;
    for (Poly* poly : {&left, &rest})
      for (Term& term : *poly) term.coefficient = static_cast<int64_t>(floor_div(term.coefficient, common));
    return std::pair(plus(left, {}), plus(rest, {}));
  }

  Sizes& sizes_;
};

// Recursive descent straight into sums of products:
//
//   expression := term (("+" | "-") term)*        term := factor (("*" | "//" | "%") factor)*
//   factor     := integer | symbol | "-" factor | "(" expression ")" | ("max" | "min") "(" expression "," expression
//   ")"
//               | "scale" "(" expression "," decimal ")"
class Parser {
 public:
  Parser(std::string_view text, Sizes& sizes) : text_(text), algebra_(sizes) {
    if (text.size() > kMostLength)
      fail("a size expression of " + std::to_string(text.size()) + " characters is too long (limit 1000): '" +
           std::string(text.substr(0, 40)) + "'...");
    split();
  }

  Poly parse() {
    Poly result = expression();
    if (!peek().empty()) fail_at("unexpected '" + std::string(peek()) + "'");
    return result;
  }

 private:
  [[noreturn]] void fail_at(const std::string& reason) const {
    fail("size expression '" + std::string(text_) + "': " + reason);
  }

  void split() {
    constexpr std::string_view spaces = " \t\n\r\f\v";
    size_t at = 0, end = text_.find_last_not_of(spaces) + 1;
    const auto digits = [&](size_t from) {
      while (from < end && is_digit(text_[from])) ++from;
      return from;
    };
    const auto exponent = [&](size_t from) {  // past an `e+1`, or where it was
      size_t to = from + 1;
      if (from >= end || text_[from] != 'e') return from;
      if (to < end && (text_[to] == '-' || text_[to] == '+')) ++to;
      return digits(to) > to ? digits(to) : from;
    };
    while ((at = text_.find_first_not_of(spaces, at)) < end) {
      size_t to = at + 1;
      if (is_digit(text_[at])) {
        to = digits(at);
        to = exponent(to < end && text_[to] == '.' ? digits(to + 1) : to);
      } else if (is_letter(text_[at])) {
        while (to < end && (is_letter(text_[to]) || is_digit(text_[to]))) ++to;
      } else if (text_.substr(at, 2) == "//") {
        to = at + 2;
      } else if (std::string_view("-+*%(),").find(text_[at]) == std::string_view::npos) {
        fail_at("cannot read '" + std::string(text_.substr(at, 20)) + "'");
      }
      tokens_.push_back(text_.substr(at, to - at));
      at = to;
    }
  }

  std::string_view peek() const { return position_ < tokens_.size() ? tokens_[position_] : std::string_view(); }
  std::string_view take(std::string_view expected = {}) {
    const std::string_view token = peek();
    if (token.empty() || (!expected.empty() && token != expected))
      fail_at("expected " + std::string(expected.empty() ? "a size" : expected) + ", found " +
              std::string(token.empty() ? "the end" : token));
    ++position_;
    return token;
  }

  Poly expression() {
    if (++depth_ > kMostDepth) fail_at("nested too deeply");
    Poly first = term();
    WideTerms terms;
    Algebra::append(terms, first, 1);
    bool more = false;
    while (peek() == "+" || peek() == "-") {
      const int sign = take() == "+" ? 1 : -1;
      const size_t before = terms.size();
      Algebra::append(terms, term(), sign);
      more = more || terms.size() > before;
    }
    --depth_;
    return more ? algebra_.collect(std::move(terms)) : first;
  }

  Poly term() {
    Poly result = factor();
    while (peek() == "*" || peek() == "//" || peek() == "%") {
      const std::string_view sign = take();
      result = algebra_.apply(sign == "*" ? DimOp::mul : sign == "%" ? DimOp::mod : DimOp::floordiv, result, factor());
    }
    return result;
  }

  Poly factor() {
    bool negative = false;
    for (; peek() == "-"; negative = !negative) take();
    Poly result = primary();
    return negative ? algebra_.plus({}, result, -1) : result;
  }

  Poly primary() {
    const std::string_view token = take();
    if (std::ranges::all_of(token, is_digit)) {
      if (token.size() > 19) fail_at("a number is too large");
      uint64_t value = 0;
      std::from_chars(token.data(), token.data() + token.size(), value);
      return Algebra::constant(value);
    }
    if (token == "max" || token == "min" || (token == "scale" && peek() == "(")) {
      take("(");
      const Poly a = expression();
      take(",");
      const Poly b = token == "scale" ? decimal() : expression();
      take(")");
      return algebra_.apply(token == "scale" ? DimOp::scale : token == "max" ? DimOp::max : DimOp::min, a, b);
    }
    if (token == "(") {
      Poly result = expression();
      take(")");
      return result;
    }
    if (!is_symbol_name(token)) fail_at("unexpected '" + std::string(token) + "'");
    return Algebra::symbol(token);
  }

  Poly decimal() {
    const std::string_view token = take();
    double factor = 0;
    const auto [end, problem] = std::from_chars(token.data(), token.data() + token.size(), factor);
    if (problem != std::errc() || end != token.data() + token.size() || !(factor > 0 && factor < 1e9))
      fail_at("'" + std::string(token) + "' is no factor");
    return Algebra::constant(std::bit_cast<int64_t>(factor) - kOne);
  }

  std::string_view text_;
  Algebra algebra_;
  std::vector<std::string_view> tokens_;
  size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace

bool is_symbol_name(std::string_view text) {
  return !text.empty() && text.size() <= 100 && is_letter(text[0]) && text != "max" && text != "min" &&
         std::ranges::all_of(text, [](char c) { return is_letter(c) || is_digit(c); });
}

void Sizes::add(const std::string& name, const graph::Symbol& symbol) {
  index_.emplace(name, symbols_.size());
  symbols_.push_back(symbol);
}

std::optional<size_t> Sizes::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? std::nullopt : std::optional(found->second);
}

void Sizes::spend(int64_t steps) {
  left_ -= steps;
  if (left_ < 0) fail("the graph's size expressions are too many and too complicated");
}

const Poly& Sizes::parse(const std::string& text) {
  const auto found = parsed_.find(text);
  if (found != parsed_.end()) return found->second;
  spend(1 + std::ssize(text));
  return parsed_.emplace(text, Parser(text, *this).parse()).first->second;
}

std::pair<int64_t, std::string> Sizes::simplified(const std::string& text) {
  const Poly& poly = parse(text);
  if (const std::optional<int64_t> value = Algebra::as_int(poly)) return {*value, ""};
  std::string canonical = Algebra::text(poly);
  if (canonical.size() > kMostLength) fail_large();
  return {0, std::move(canonical)};
}

graph::Dim Sizes::rpn(const std::string& text) {
  graph::Dim dim;
  emit(parse(text), dim.rpn);
  return dim;
}

void Sizes::emit(const Poly& poly, std::vector<int64_t>& out) const {
  const auto put = [&](DimOp op, int64_t operand) { out.push_back(static_cast<int64_t>(op)), out.push_back(operand); };
  if (poly.empty()) put(DimOp::constant, 0);
  for (size_t i = 0; i < poly.size(); ++i) {
    const auto& [atoms, coefficient] = poly[i];
    if (coefficient != 1 || atoms.empty()) put(DimOp::constant, coefficient);
    for (size_t place = 0; place < atoms.size(); ++place) {
      const Atom& atom = *atoms[place];
      if (atom.op == DimOp::symbol) {
        const std::optional<size_t> index = find(atom.text);
        if (!index) fail("the symbol '" + atom.text + "' of a size expression is not known");
        put(DimOp::symbol, static_cast<int64_t>(*index));
      } else {
        emit(atom.a, out), emit(atom.b, out);
        put(atom.op, 0);
      }
      if (place > 0 || coefficient != 1) put(DimOp::mul, 0);
    }
    if (i > 0) put(DimOp::add, 0);
  }
}

std::pair<Wide, Wide> Sizes::bounds(const std::string& text) { return bounds(parse(text), bounded_); }

std::pair<Wide, Wide> Sizes::bounds(const Poly& poly,
                                    std::map<std::string, std::pair<Wide, Wide>, std::less<>>& known) {
  spend(1 + std::ssize(poly));
  Wide low = 0, high = 0;
  for (const Term& term : poly) {
    Wide least = term.coefficient, most = term.coefficient;
    for (const auto& atom : term.atoms) {
      auto found = known.find(atom->text);
      if (found == known.end()) found = known.emplace(atom->text, bounds(*atom, known)).first;
      const auto [a, b] = found->second;
      const std::array<Wide, 4> corners = {product(least, a), product(least, b), product(most, a), product(most, b)};
      least = *std::ranges::min_element(corners), most = *std::ranges::max_element(corners);
    }
    low = sum(low, least), high = sum(high, most);
  }
  return {low, high};
}

std::pair<Wide, Wide> Sizes::bounds(const Atom& atom,
                                    std::map<std::string, std::pair<Wide, Wide>, std::less<>>& known) {
  if (atom.op == DimOp::symbol) {
    const std::optional<size_t> index = find(atom.text);
    if (!index) fail("the symbol '" + atom.text + "' of a size expression is not known");
    return {symbols_[*index].minimum, symbols_[*index].maximum};
  }
  const auto a = bounds(atom.a, known), b = bounds(atom.b, known);
  if (atom.op == DimOp::max) return {std::max(a.first, b.first), std::max(a.second, b.second)};
  if (atom.op == DimOp::min) return {std::min(a.first, b.first), std::min(a.second, b.second)};
  if (atom.op == DimOp::scale) {
    const auto bits = static_cast<int64_t>(b.first);
    return {scaled(a.first, bits), scaled(a.second, bits)};
  }
  if (b.first > 0 && atom.op == DimOp::floordiv) {
    const std::array<Wide, 4> corners = {floor_div(a.first, b.first), floor_div(a.first, b.second),
                                         floor_div(a.second, b.first), floor_div(a.second, b.second)};
    return {*std::ranges::min_element(corners), *std::ranges::max_element(corners)};
  }
  const auto& of = atom.op == DimOp::floordiv ? a : b;
  const Wide size = std::max(magnitude(of.first), magnitude(of.second));
  if (atom.op == DimOp::mod && b.first > 0) return {0, size};
  return {-size - 1, size + 1};
}

bool Sizes::knows_symbols(const std::string& text) {
  const auto known = [this](const auto& self, const Poly& poly) -> bool {
    return std::ranges::all_of(poly, [&](const Term& term) {
      return std::ranges::all_of(term.atoms, [&](const auto& atom) {
        if (atom->op == DimOp::symbol) return find(atom->text).has_value();
        return self(self, atom->a) && self(self, atom->b);
      });
    });
  };
  const Poly& poly = parse(text);
  spend(1 + std::ssize(text));
  return known(known, poly);
}

int64_t Sizes::evaluate(const std::string& text, const Sample& sample) {
  spend(1 + std::ssize(text) / 4);
  return static_cast<int64_t>(evaluate(parse(text), sample));
}

Wide Sizes::evaluate(const Poly& poly, const Sample& sample) {
  const auto value_of = [&](const Atom& atom) -> Wide {
    if (atom.op == DimOp::symbol) {
      const std::optional<size_t> index = find(atom.text);
      if (!index || *index >= sample.size()) fail("the symbol '" + atom.text + "' of a size expression is not known");
      return sample[*index];
    }
    const Wide a = evaluate(atom.a, sample), b = evaluate(atom.b, sample);
    if (atom.op == DimOp::max) return std::max(a, b);
    if (atom.op == DimOp::min) return std::min(a, b);
    if (atom.op == DimOp::scale) return scaled(a, static_cast<int64_t>(b));
    if (b == 0) fail("the size expression '" + atom.text + "' divides by zero");
    return atom.op == DimOp::floordiv ? floor_div(a, b) : floor_mod(a, b);
  };
  Wide total = 0;
  for (const Term& term : poly) {
    Wide value = term.coefficient;
    for (const auto& atom : term.atoms) value = product(value, value_of(*atom));
    total = sum(total, value);
  }
  if (magnitude(total) >= kLimit) fail("a size of " + number(total) + " is too large");
  return total;
}

bool Sizes::holds(graph::Condition::Kind kind, const std::string& text, const Sample& sample) {
  spend(1 + std::ssize(text) / 4);
  Wide value = 0;
  try {
    value = evaluate(parse(text), sample);
  } catch (const Error&) {
    spend(0);  // too many steps stay an error
    return false;
  }
  if (kind == graph::Condition::Kind::natural) return value >= 0;
  return (value == 0) == (kind == graph::Condition::Kind::zero);
}

std::vector<Sample> Sizes::samples(const Conditions& conditions, int count, bool far_too) {
  std::vector<size_t> order(symbols_.size());  // by name
  std::transform(index_.begin(), index_.end(), order.begin(), [](const auto& each) { return each.second; });
  std::vector<Sample> found;
  for (int index = 0; index < (conditions.empty() ? count : 50 * count) && std::ssize(found) < count; ++index) {
    spend(1 + std::ssize(symbols_));
    const bool far = index % 24 == 23;
    if (far && !far_too) continue;
    Sample sample(symbols_.size());
    for (size_t place = 0; place < order.size(); ++place) {
      const graph::Symbol& symbol = symbols_[order[place]];
      int64_t low = std::max<int64_t>(symbol.minimum, 1);
      low += static_cast<int64_t>(floor_mod(symbol.remainder - low, symbol.multiple));
      const int64_t reach = (far ? 1 << 13 : 1000) * symbol.multiple, at = static_cast<int64_t>(place);
      const int64_t most =
          std::max<int64_t>(static_cast<int64_t>(floor_div(std::min(symbol.maximum - low, reach), symbol.multiple)), 0);
      const int64_t step = index == 0        ? 0
                           : far             ? most - at
                           : index % 24 < 16 ? index * (2 * at + 7) + at
                                             : index * 97 * (at + 1);
      sample[order[place]] = low + symbol.multiple * static_cast<int64_t>(floor_mod(step, most + 1));
    }
    if (std::ranges::all_of(conditions, [&](const auto& each) { return holds(each.first, each.second, sample); }))
      found.push_back(std::move(sample));
  }
  return found;
}

std::optional<Sample> Sizes::smallest(const Conditions& conditions) {
  const auto possible = [&](const Sample& sample) {
    return std::ranges::all_of(conditions, [&](const auto& each) { return holds(each.first, each.second, sample); });
  };
  Sample first;
  for (const graph::Symbol& symbol : symbols_)
    first.push_back(symbol.allowed_from(std::max(symbol.minimum, std::min<int64_t>(1, symbol.maximum))));
  if (possible(first)) return first;
  std::vector<size_t> used;  // those that conditions speak of, by name
  for (const auto& [name, index] : index_) {
    const auto speaks = [&, &name = name](const auto& self, const Poly& poly) -> bool {
      return std::ranges::any_of(poly, [&](const Term& term) {
        return std::ranges::any_of(term.atoms, [&](const auto& atom) {
          return atom->op == DimOp::symbol ? atom->text == name : self(self, atom->a) || self(self, atom->b);
        });
      });
    };
    if (std::ranges::any_of(conditions, [&](const auto& each) { return speaks(speaks, parse(each.second)); }))
      used.push_back(index);
  }
  const int reach = used.size() > 2 ? 10 : 65;
  const size_t moved = std::min<size_t>(used.size(), 3);
  std::vector<std::array<int, 3>> steps;
  for (int a = 0; a < (moved > 0 ? reach : 1); ++a)
    for (int b = 0; b < (moved > 1 ? reach : 1); ++b)
      for (int c = 0; c < (moved > 2 ? reach : 1); ++c) steps.push_back({a, b, c});
  std::ranges::stable_sort(steps, [](const auto& x, const auto& y) {
    return std::accumulate(x.begin(), x.end(), 0) < std::accumulate(y.begin(), y.end(), 0);
  });
  for (const auto& each : steps) {
    Sample sizes = first;
    bool allowed = true;
    for (size_t i = 0; i < moved; ++i) {
      const graph::Symbol& symbol = symbols_[used[i]];
      sizes[used[i]] += each[i] * symbol.multiple;
      allowed = allowed && symbol.allows(sizes[used[i]]);
    }
    spend(std::ssize(used));
    if (allowed && possible(sizes)) return sizes;
  }
  std::vector<Sample> others = samples(conditions, 1);
  return others.empty() ? std::nullopt : std::optional(std::move(others[0]));
}

}  // namespace lowbit::reader
