"""Sizes that are expressions over a graph's symbols: `"batch"`, `"2*s1 + 1"`, `"(s1 + 1) // 2"`.

    expression := term (("+" | "-") term)*        term   := factor (("*" | "//" | "%") factor)*
    factor     := integer | symbol | "-" factor | "(" expression ")" | ("max" | "min") "(" expression "," expression ")"

Division and remainder round towards minus infinity, as in Python. The parser knows nothing else, and its input is
bounded, so an expression from a file is safe to read. Every function takes and returns a `Dim`: an int, or the
canonical text of a polynomial over atoms (symbols, quotients, remainders, maxima, minima); equal texts are equal sizes.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from ..errors import GraphError
from .ir import Condition, Dim, Symbol

MAX_LENGTH = 1000
MAX_DEPTH = 40
MAX_TERMS = 64
LIMIT = 2**62
"""No literal, coefficient or result may reach this: the runtime computes in 64 bits."""

_TOKEN = re.compile(
    r"\s*(?:(?P<real>[0-9]+\.[0-9]*(?:e[-+]?[0-9]+)?|[0-9]+e[-+]?[0-9]+)|(?P<int>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<op>//|[-+*%(),]))",
    re.ASCII,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPCODES = {"constant": 0, "symbol": 1, "+": 2, "-": 3, "*": 4, "//": 5, "%": 6, "max": 7, "min": 8, "scale": 9}
_ONE = 0x3FF << 52
"""The bits of 1.0. The second operand of "scale" is a factor's bits less these, so that it stays within `LIMIT`."""


class Atom(NamedTuple):
    """What a polynomial does not look into: a symbol (`op` "", `text` its name), or op(a, b)."""

    text: str
    op: str = ""
    a: Poly = ()
    b: Poly = ()


Monomial = tuple[Atom, ...]
Poly = tuple[tuple[Monomial, int], ...]
"""Sum of coefficient * product of atoms, sorted; the constant has the empty product; zero is the empty sum."""


def is_symbol_name(text: str) -> bool:
    """Whether `text` may name a symbol."""
    return bool(_NAME.fullmatch(text)) and text not in ("max", "min") and len(text) <= 100


# ---------------------------------------------------------------------------------------------------------------- parse


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_LENGTH:
        raise GraphError(
            f"a size expression of {len(text)} characters is too long (limit {MAX_LENGTH}): {text[:40]!r}..."
        )
    tokens, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise GraphError(f"size expression {text!r}: cannot read {text[position : position + 20]!r}")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent straight into polynomials."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.position, self.depth = text, _tokens(text), 0, 0

    def parse(self) -> Poly:
        result = self.expression()
        if self.peek():
            raise self.error(f"unexpected {self.peek()!r}")
        return result

    def error(self, reason: str) -> GraphError:
        return GraphError(f"size expression {self.text!r}: {reason}")

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise self.error(f"expected {expected or 'a size'}, found {token or 'the end'}")
        self.position += 1
        return token

    def expression(self) -> Poly:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error("nested too deeply")
        result = self.chain(("+", "-"), lambda: self.chain(("*", "//", "%"), self.factor))
        self.depth -= 1
        return result

    def chain(self, operators: tuple[str, ...], operand: Callable[[], Poly]) -> Poly:
        result = operand()
        while self.peek() in operators:
            operator = self.take()
            result = _apply(operator, result, operand())
        return result

    def factor(self) -> Poly:
        negative = False
        while self.peek() == "-":
            self.take()
            negative = not negative
        result = self.primary()
        return _apply("-", (), result) if negative else result

    def primary(self) -> Poly:
        token = self.take()
        if token.isdigit():
            if len(token) > 19:
                raise self.error("a number is too large")
            return _constant(int(token))
        if token in ("max", "min") or (token == "scale" and self.peek() == "("):
            self.take("(")
            a = self.expression()
            self.take(",")
            b = self.expression() if token != "scale" else self.decimal()
            self.take(")")
            return _apply(token, a, b)
        if token == "(":
            result = self.expression()
            self.take(")")
            return result
        if not is_symbol_name(token):
            raise self.error(f"unexpected {token!r}")
        return (((Atom(token),), 1),)

    def decimal(self) -> Poly:
        token = self.take()
        factor = float(token) if re.fullmatch(r"[0-9.]+(e[-+]?[0-9]+)?", token) else 0.0
        if not 0 < factor < 1e9:
            raise self.error(f"{token!r} is no factor")
        return _constant(_bits(factor))


def _bits(factor: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", factor))[0]) - _ONE


def _factor(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits + _ONE))[0])


@lru_cache(maxsize=4096)
def _parse(text: str) -> Poly:
    return _Parser(text).parse()


def _poly(dim: Dim) -> Poly:
    if isinstance(dim, str):
        return _parse(dim)
    return _constant(int(dim))


# ---------------------------------------------------------------------------------------------------------- polynomials


def _constant(value: int) -> Poly:
    if abs(value) >= LIMIT:
        raise GraphError(f"a size of {value} is too large")
    return (((), value),) if value else ()


def _as_int(poly: Poly) -> int | None:
    if not poly:
        return 0
    return poly[0][1] if len(poly) == 1 and poly[0][0] == () else None


def _collect(terms: Iterable[tuple[Monomial, int]]) -> Poly:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    result = [(monomial, coefficient) for monomial, coefficient in total.items() if coefficient]
    if len(result) > MAX_TERMS or any(abs(coefficient) >= LIMIT for _, coefficient in result):
        raise GraphError("a size expression grows too large")
    return tuple(sorted(result, key=lambda term: (-len(term[0]), [atom.text for atom in term[0]])))


def _add(a: Poly, b: Poly, sign: int = 1) -> Poly:
    return _collect((*a, *((monomial, sign * coefficient) for monomial, coefficient in b)))


def _mul(a: Poly, b: Poly) -> Poly:
    if len(a) * len(b) > MAX_TERMS * 4:
        raise GraphError("a size expression grows too large")
    return _collect(
        (tuple(sorted((*left, *right), key=lambda atom: atom.text)), x * y)
        for (left, x), (right, y) in itertools.product(a, b)
    )


def _atom(op: str, a: Poly, b: Poly) -> Poly:
    if op == "scale":
        text = f"scale({_text(a)}, {_factor(_as_int(b) or 0)!r})"
    else:
        text = f"{op}({_text(a)}, {_text(b)})" if op in ("max", "min") else f"({_operand(a)} {op} {_operand(b)})"
    if len(text) > MAX_LENGTH:
        raise GraphError("a size expression grows too large")
    return (((Atom(text, op, a, b),), 1),)


def _divide(op: str, a: Poly, b: Poly) -> Poly:
    divisor = _as_int(b)
    if divisor == 0:
        raise GraphError("a size expression divides by zero")
    dividend = _as_int(a)
    if dividend is not None and divisor is not None:
        return _constant(dividend // divisor if op == "//" else dividend % divisor)
    if divisor is not None and divisor > 0:
        return _divide_by_number(op, a, divisor)
    exact = _exact_quotient(a, b)
    if exact is not None:
        return exact if op == "//" else ()
    if op == "//" and len(b) == 1:
        cancelled = _cancelled(a, b)
        if cancelled is not None:
            return _divide(op, *cancelled)
    return _atom(op, a, b)


def _cancelled(a: Poly, b: Poly) -> tuple[Poly, Poly] | None:
    """a and a single term b without their common factors, which change no quotient; None if they have none."""
    (monomial, coefficient), terms = b[0], [list(atoms) for atoms, _ in a]
    number = math.gcd(coefficient, *(factor for _, factor in a))
    common: list[Atom] = []
    for atom in monomial:
        if all(atom in left for left in terms):
            common.append(atom)
            for left in terms:
                left.remove(atom)
    if not a or (not common and number == 1):
        return None
    rest = list(monomial)
    for atom in common:
        rest.remove(atom)
    top = _collect((tuple(left), factor // number) for left, (_, factor) in zip(terms, a, strict=True))
    return top, _collect([(tuple(rest), coefficient // number)])


def _divide_by_number(op: str, a: Poly, divisor: int) -> Poly:
    """(d*q + r) // d = q + r // d and (d*q + r) % d = r % d, with q and r taken coefficient by coefficient."""
    quotient = _collect((monomial, coefficient // divisor) for monomial, coefficient in a)
    rest = _collect((monomial, coefficient % divisor) for monomial, coefficient in a)
    number = _as_int(rest)
    if op == "%":
        return _constant(number) if number is not None else _atom(op, rest, _constant(divisor))
    if number is not None:
        return quotient
    # ((x // m) + c) // d = (x + c*m) // (m*d)
    if len(rest[0][0]) == 1 and rest[0][1] == 1 and (len(rest) == 1 or (len(rest) == 2 and rest[1][0] == ())):
        inner = rest[0][0][0]
        scale = _as_int(inner.b) if inner.op == "//" else None
        if scale is not None and scale > 0 and scale * divisor < LIMIT:
            offset = rest[1][1] if len(rest) == 2 else 0
            return _add(quotient, _divide_by_number(op, _add(inner.a, _constant(offset * scale)), scale * divisor))
    return _add(quotient, _atom(op, rest, _constant(divisor)))


def _exact_quotient(a: Poly, b: Poly) -> Poly | None:
    """a / b where b is a single term that divides every term of a."""
    if len(b) != 1:
        return _constant(1) if a == b else None
    (monomial, coefficient), terms = b[0], []
    for atoms, factor in a:
        left = list(atoms)
        for atom in monomial:
            if atom not in left:
                return None
            left.remove(atom)
        if factor % coefficient:
            return None
        terms.append((tuple(left), factor // coefficient))
    return _collect(terms)


def _extreme(op: str, a: Poly, b: Poly) -> Poly:
    difference = _as_int(_add(a, b, -1))
    if difference is not None:
        return a if (difference >= 0) == (op == "max") else b
    return _atom(op, *sorted((a, b), key=_text))


def _apply(op: str, a: Poly, b: Poly) -> Poly:
    if op == "+":
        return _add(a, b)
    if op == "-":
        return _add(a, b, -1)
    if op == "*":
        return _mul(a, b)
    if op == "scale":
        number, factor = _as_int(a), _factor(_as_int(b) or 0)
        return _atom(op, a, b) if number is None else _constant(math.floor(number * factor))
    return _extreme(op, a, b) if op in ("max", "min") else _divide(op, a, b)


def _text(poly: Poly) -> str:
    parts: list[str] = []
    for monomial, coefficient in poly:
        factors = [atom.text for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        sign = ("-" if coefficient < 0 else "") if not parts else (" - " if coefficient < 0 else " + ")
        parts.append(sign + "*".join(factors))
    return "".join(parts) or "0"


def _operand(poly: Poly) -> str:
    number = _as_int(poly)
    bare = number >= 0 if number is not None else len(poly) == 1 and len(poly[0][0]) == 1 and poly[0][1] == 1
    return _text(poly) if bare else f"({_text(poly)})"


def _dim(poly: Poly) -> Dim:
    number = _as_int(poly)
    if number is not None:
        return number
    text = _text(poly)
    if len(text) > MAX_LENGTH:
        raise GraphError("a size expression grows too large")
    return text


# ---------------------------------------------------------------------------------------------------- public functions


def simplify(dim: Dim, symbols: Mapping[str, Symbol] | None = None) -> Dim:
    """The canonical form; with `symbols`, what their bounds and multiples decide disappears. Raises GraphError."""
    poly = _poly(dim)
    if symbols is not None and any(atom.op for monomial, _ in poly for atom in monomial):
        units = {name: symbol for name, symbol in symbols.items() if symbol.multiple > 1}
        known = {**symbols, **{_unit(name): _unit_bounds(symbol) for name, symbol in units.items()}}
        poly = _decide(_in_units(poly, units) if units else poly, known)
        poly = _from_units(poly, units) if units else poly
    return _dim(poly)


def _unit(name: str) -> str:
    """Stands for how many times its multiple a size is; no name of a symbol."""
    return f"{name}/"


def _unit_bounds(symbol: Symbol) -> Symbol:
    low = -((symbol.remainder - symbol.minimum) // symbol.multiple)
    return Symbol(minimum=low, maximum=max(low, (symbol.maximum - symbol.remainder) // symbol.multiple))


def _mapped(poly: Poly, atom: Callable[[Atom], Poly]) -> Poly:
    """The sum of products with every atom replaced."""
    result: Poly = ()
    for monomial, coefficient in poly:
        term = _constant(coefficient)
        for each in monomial:
            term = _mul(term, atom(each))
        result = _add(result, term)
    return result


def _in_units(poly: Poly, units: Mapping[str, Symbol]) -> Poly:
    """s = multiple * (s/) + remainder, so that quotients by what divides the multiple come out even."""

    def replaced(atom: Atom) -> Poly:
        if atom.op:
            return _apply(atom.op, _in_units(atom.a, units), _in_units(atom.b, units))
        if atom.text not in units:
            return (((atom,), 1),)
        symbol = units[atom.text]
        return _collect([((Atom(_unit(atom.text)),), symbol.multiple), ((), symbol.remainder)])

    return _mapped(poly, replaced)


def _from_units(poly: Poly, units: Mapping[str, Symbol]) -> Poly:
    """Back: as much of a coefficient as there is makes a quotient of s, or s itself: 4 * (s/) is s // 2 for 8."""
    names = {_unit(name): name for name in units}
    result: Poly = ()
    for monomial, coefficient in poly:
        term: Poly = _constant(1)
        for atom in monomial:
            if atom.op:
                term = _mul(term, _apply(atom.op, _from_units(atom.a, units), _from_units(atom.b, units)))
            elif atom.text in names:
                symbol = units[names[atom.text]]
                common = math.gcd(coefficient, symbol.multiple)
                coefficient //= common
                whole = _add((((Atom(names[atom.text]),), 1),), _constant(-symbol.remainder))
                term = _mul(term, _divide("//", whole, _constant(symbol.multiple // common)))
            else:
                term = _mul(term, (((atom,), 1),))
        result = _add(result, _mul(term, _constant(coefficient)))
    return result


def _decide(poly: Poly, symbols: Mapping[str, Symbol]) -> Poly:
    return _mapped(poly, lambda atom: _decide_atom(atom, symbols))


def _decide_atom(atom: Atom, symbols: Mapping[str, Symbol]) -> Poly:
    if not atom.op:
        return (((atom,), 1),)
    a, b = _decide(atom.a, symbols), _decide(atom.b, symbols)
    if atom.op in ("max", "min"):
        low, high = _bounds(_add(a, b, -1), symbols)
        if low >= 0:
            return a if atom.op == "max" else b
        if high <= 0:
            return b if atom.op == "max" else a
    return _apply(atom.op, a, b)


def add(*dims: Dim) -> Dim:
    """The sum."""
    if all(isinstance(dim, int) for dim in dims):
        return sum(int(dim) for dim in dims)
    result: Poly = ()
    for dim in dims:
        result = _add(result, _poly(dim))
    return _dim(result)


def sub(a: Dim, b: Dim) -> Dim:
    """a - b."""
    return _dim(_add(_poly(a), _poly(b), -1))


def mul(*dims: Dim) -> Dim:
    """The product; 1 of nothing."""
    result = _constant(1)
    for dim in dims:
        result = _mul(result, _poly(dim))
    return _dim(result)


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b. Raises GraphError if b is 0."""
    return _dim(_divide("//", _poly(a), _poly(b)))


def mod(a: Dim, b: Dim) -> Dim:
    """a % b. Raises GraphError if b is 0."""
    return _dim(_divide("%", _poly(a), _poly(b)))


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger."""
    return _dim(_extreme("max", _poly(a), _poly(b)))


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller."""
    return _dim(_extreme("min", _poly(a), _poly(b)))


def symbols_of(dim: Dim) -> set[str]:
    """The names of the symbols in the expression."""
    return set() if isinstance(dim, int) else _symbols(_poly(dim))


def _symbols(poly: Poly) -> set[str]:
    names: set[str] = set()
    for monomial, _ in poly:
        for atom in monomial:
            names |= {atom.text} if not atom.op else _symbols(atom.a) | _symbols(atom.b)
    return names


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The number, given each symbol's. Raises GraphError for an unknown symbol, a zero divisor, a result past 2^62."""
    return dim if isinstance(dim, int) else _evaluate(_poly(dim), values)


def _evaluate(poly: Poly, values: Mapping[str, int]) -> int:
    total = 0
    for monomial, coefficient in poly:
        product = coefficient
        for atom in monomial:
            product *= _evaluate_atom(atom, values)
        total += product
    if abs(total) >= LIMIT:
        raise GraphError(f"a size of {total} is too large")
    return total


def _evaluate_atom(atom: Atom, values: Mapping[str, int]) -> int:
    if not atom.op:
        if atom.text not in values:
            raise GraphError(f"the symbol {atom.text!r} of a size expression is not known")
        return values[atom.text]
    a, b = _evaluate(atom.a, values), _evaluate(atom.b, values)
    if atom.op in ("max", "min"):
        return max(a, b) if atom.op == "max" else min(a, b)
    if atom.op == "scale":
        return math.floor(a * _factor(b))
    if b == 0:
        raise GraphError(f"the size expression {atom.text!r} divides by zero")
    return a // b if atom.op == "//" else a % b


def bounds(dim: Dim, symbols: Mapping[str, Symbol]) -> tuple[int, int]:
    """An interval that holds every value the expression can take (not always the tightest). Raises GraphError."""
    return (dim, dim) if isinstance(dim, int) else _bounds(_poly(dim), symbols)


def _bounds(poly: Poly, symbols: Mapping[str, Symbol]) -> tuple[int, int]:
    low = high = 0
    for monomial, coefficient in poly:
        interval = (coefficient, coefficient)
        for atom in monomial:
            interval = _hull(interval, _atom_bounds(atom, symbols), lambda x, y: x * y)
        low, high = low + interval[0], high + interval[1]
    return low, high


def _hull(a: tuple[int, int], b: tuple[int, int], op: Callable[[int, int], int]) -> tuple[int, int]:
    corners = [op(x, y) for x in a for y in b]
    return min(corners), max(corners)


def _atom_bounds(atom: Atom, symbols: Mapping[str, Symbol]) -> tuple[int, int]:
    if not atom.op:
        if atom.text not in symbols:
            raise GraphError(f"the symbol {atom.text!r} of a size expression is not known")
        return symbols[atom.text].minimum, symbols[atom.text].maximum
    a, b = _bounds(atom.a, symbols), _bounds(atom.b, symbols)
    if atom.op == "max":
        return max(a[0], b[0]), max(a[1], b[1])
    if atom.op == "min":
        return min(a[0], b[0]), min(a[1], b[1])
    if atom.op == "scale":
        factor = _factor(b[0])
        return math.floor(a[0] * factor), math.floor(a[1] * factor)
    if b[0] > 0 and atom.op == "//":
        return _hull(a, b, lambda x, y: x // y)
    size = max(abs(x) for x in (a if atom.op == "//" else b))
    return (0, size) if atom.op == "%" and b[0] > 0 else (-size - 1, size + 1)


def equal(a: Dim, b: Dim, symbols: Mapping[str, Symbol] | None = None, conditions: Iterable[Condition] = ()) -> bool:
    """Whether two sizes are the same: by canonical form, else (with `symbols`) by agreeing on a fixed sample of sizes.

    The sample covers what no normal form decides, such as `max(s, 3) - 3` against `max(s - 3, 0)`; the runtime
    checks real sizes at every call anyway.
    """
    if simplify(a) == simplify(b):
        return True
    names = sorted(symbols_of(a) | symbols_of(b))
    if symbols is None or not names or any(name not in symbols for name in names):
        return False
    difference = sub(a, b)
    if simplify(difference, symbols) == 0:
        return True
    found = samples(symbols, conditions)
    return bool(found) and all(holds(Condition(kind="zero", size=difference), sample) for sample in found)


def holds(condition: Condition, sizes: Mapping[str, int]) -> bool:
    """Whether sizes fulfil a condition; where the expression has no value, they do not."""
    try:
        value = evaluate(condition.size, sizes)
    except GraphError:
        return False
    return value >= 0 if condition.kind == "natural" else (value == 0) == (condition.kind == "zero")


def samples(
    symbols: Mapping[str, Symbol], conditions: Iterable[Condition] = (), count: int = 24
) -> list[dict[str, int]]:
    """So many possible assignments, if there are: the smallest, small sizes, sizes of many remainders; never 0."""
    tests, found = tuple(conditions), []
    for index in range(count if not tests else 50 * count):
        sample = {}
        for place, name in enumerate(sorted(symbols)):
            symbol = symbols[name]
            low, far = _first(symbol), index % 24 == 23
            most = max(min(symbol.maximum - low, (2**13 if far else 1000) * symbol.multiple) // symbol.multiple, 0)
            step = (index * (2 * place + 7) + place) if index % 24 < 16 else index * 97 * (place + 1)
            step = most - place if far else step
            sample[name] = low + symbol.multiple * ((step if index else 0) % (most + 1))
        if all(holds(test, sample) for test in tests):
            found.append(sample)
        if len(found) == count:
            break
    return found


def _first(symbol: Symbol) -> int:
    """The smallest possible size above 0."""
    low = max(symbol.minimum, 1)
    return low + (symbol.remainder - low) % symbol.multiple


def sides(dim: Dim) -> tuple[Dim, Dim]:
    """Two sizes of which the expression is the difference, neither with a minus in its sum."""
    poly = _poly(dim)
    left = _collect((monomial, coefficient) for monomial, coefficient in poly if coefficient > 0)
    return _dim(left), _dim(_add(left, poly, -1))


def primitive(dim: Dim) -> Dim:
    """The expression without numbers and symbols that are factors of all its terms; a - (a // m) * m becomes a % m.

    It is 0 where the expression is, sizes of 0 apart.
    """
    poly = _poly(dim)
    if not poly:
        return 0
    number = math.gcd(*(coefficient for _, coefficient in poly))
    common = [atom for atom in poly[0][0] if not atom.op and all(atom in monomial for monomial, _ in poly)]
    rest = _collect((_less(monomial, common), coefficient // number) for monomial, coefficient in poly)
    for sign in (1, -1):
        for monomial, coefficient in _mul(rest, _constant(sign)):
            divisor = _as_int(monomial[0].b) if len(monomial) == 1 and monomial[0].op == "//" else None
            if divisor and coefficient == -divisor:
                dividend = _add(_mul(rest, _constant(sign)), ((monomial, divisor),))
                if _divide("//", dividend, _constant(divisor)) == ((monomial, 1),):
                    return _dim(_divide("%", dividend, _constant(divisor)))
    return _dim(rest)


def _less(monomial: Monomial, common: Iterable[Atom]) -> Monomial:
    left = list(monomial)
    for atom in common:
        if atom in left:
            left.remove(atom)
    return tuple(left)


def remainder_of(dim: Dim) -> tuple[Dim, int] | None:
    """a and m of an expression that is a % m."""
    poly = _poly(dim)
    if len(poly) != 1 or len(poly[0][0]) != 1 or poly[0][0][0].op != "%":
        return None
    atom, divisor = poly[0][0][0], _as_int(poly[0][0][0].b)
    return (_dim(atom.a), divisor) if divisor else None


def divisors(dim: Dim) -> set[int]:
    """The numbers that the expression divides by."""
    return set() if isinstance(dim, int) else _divisors(_poly(dim))


def _divisors(poly: Poly) -> set[int]:
    found: set[int] = set()
    for atom in {atom for monomial, _ in poly for atom in monomial if atom.op}:
        number = _as_int(atom.b)
        found |= _divisors(atom.a) | (set() if atom.op == "scale" else _divisors(atom.b))
        if atom.op in ("//", "%") and number:
            found.add(abs(number))
    return found


def to_rpn(dim: Dim, index: Mapping[str, int]) -> list[int]:
    """Reverse Polish notation for the runtime: flattened (opcode, operand) pairs (cpp/graph/op.h, DimOp).

    index: each symbol's number. Raises GraphError for a symbol that has none.
    """
    out: list[int] = []
    _emit(_poly(dim), index, out)
    return out


def _emit(poly: Poly, index: Mapping[str, int], out: list[int]) -> None:
    if not poly:
        out += [_OPCODES["constant"], 0]
    for position, (monomial, coefficient) in enumerate(poly):
        if coefficient != 1 or not monomial:
            out += [_OPCODES["constant"], coefficient]
        for place, atom in enumerate(monomial):
            _emit_atom(atom, index, out)
            if place or coefficient != 1:
                out += [_OPCODES["*"], 0]
        if position:
            out += [_OPCODES["+"], 0]


def _emit_atom(atom: Atom, index: Mapping[str, int], out: list[int]) -> None:
    if atom.op:
        _emit(atom.a, index, out)
        _emit(atom.b, index, out)
        out += [_OPCODES[atom.op], 0]
    elif atom.text in index:
        out += [_OPCODES["symbol"], index[atom.text]]
    else:
        raise GraphError(f"the symbol {atom.text!r} of a size expression is not known")
