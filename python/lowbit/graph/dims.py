"""Sizes that are expressions over a graph's symbols: `"batch"`, `"2*s1 + 1"`, `"(s1 + 1) // 2"`.

Division and remainder round towards minus infinity, as in Python. Every function takes and returns a `Dim`: an int, or
the canonical text of a polynomial over atoms (symbols, quotients, remainders, maxima, minima); equal texts are equal
sizes. `size_parser.py` has the grammar, `polynomials.py` the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from ..errors import GraphError
from .ir import Condition, Dim, Symbol
from .polynomials import LIMIT as LIMIT
from .polynomials import (
    Atom,
    Monomial,
    Poly,
    apply,
    as_dim,
    as_int,
    collect,
    constant,
    divide,
    extreme,
    factor_of,
    plus,
    spend,
    times,
)
from .polynomials import TooManySteps as TooManySteps
from .polynomials import bounded_steps as bounded_steps
from .size_parser import is_symbol_name as is_symbol_name
from .size_parser import parse

_OPCODES = {"constant": 0, "symbol": 1, "+": 2, "-": 3, "*": 4, "//": 5, "%": 6, "max": 7, "min": 8, "scale": 9}


def _poly(dim: Dim) -> Poly:
    if isinstance(dim, str):
        return parse(dim)
    return constant(int(dim))


def simplify(dim: Dim, symbols: Mapping[str, Symbol] | None = None) -> Dim:
    """The canonical form; with `symbols`, what their bounds and multiples decide disappears. Raises GraphError."""
    if not isinstance(dim, str):
        return as_dim(_poly(dim))
    return _canonical(dim) if symbols is None else _simplified(dim, _used(dim, symbols))


Used = tuple[tuple[str, Symbol], ...]
"""The symbols in an expression that are known, with their limits."""


@lru_cache(maxsize=1024)
def _canonical(text: str) -> Dim:
    return as_dim(parse(text))


@lru_cache(maxsize=1024)
def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted(_symbols(parse(text), set())))


def _used(text: str, symbols: Mapping[str, Symbol]) -> Used:
    return tuple((name, symbols[name]) for name in _names(text) if name in symbols)


@lru_cache(maxsize=1024)
def _simplified(text: str, used: Used) -> Dim:
    poly = parse(text)
    if any(atom.op for monomial, _ in poly for atom in monomial):
        units = {name: symbol for name, symbol in used if symbol.multiple > 1}
        known = {**dict(used), **{_unit(name): _unit_bounds(symbol) for name, symbol in units.items()}}
        poly = _Within(known).decide(_in_units(poly, units) if units else poly)
        poly = _from_units(poly, units) if units else poly
    return as_dim(poly)


@lru_cache(maxsize=1024)
def _bounded(text: str, used: Used) -> tuple[int, int]:
    return _Within(dict(used)).bounds(parse(text))


def _unit(name: str) -> str:
    """Stands for how many times its multiple a size is; no name of a symbol."""
    return f"{name}/"


def _unit_bounds(symbol: Symbol) -> Symbol:
    low = -((symbol.remainder - symbol.minimum) // symbol.multiple)
    return Symbol(minimum=low, maximum=max(low, (symbol.maximum - symbol.remainder) // symbol.multiple))


def _mapped(poly: Poly, atom: Callable[[Atom], Poly]) -> Poly:
    """The sum of products with every atom replaced."""
    result: list[tuple[Monomial, int]] = []
    for monomial, coefficient in poly:
        term = constant(coefficient)
        for each in monomial:
            term = times(term, atom(each))
        result += term
    return collect(result)


def _in_units(poly: Poly, units: Mapping[str, Symbol]) -> Poly:
    """s = multiple * (s/) + remainder, so that quotients by what divides the multiple come out even."""

    def replaced(atom: Atom) -> Poly:
        if atom.op:
            return apply(atom.op, _in_units(atom.a, units), _in_units(atom.b, units))
        if atom.text not in units:
            return (((atom,), 1),)
        symbol = units[atom.text]
        return collect([((Atom(_unit(atom.text)),), symbol.multiple), ((), symbol.remainder)])

    return _mapped(poly, replaced)


def _from_units(poly: Poly, units: Mapping[str, Symbol]) -> Poly:
    """Back: as much of a coefficient as there is makes a quotient of s, or s itself: 4 * (s/) is s // 2 for 8."""
    names = {_unit(name): name for name in units}
    result: list[tuple[Monomial, int]] = []
    for monomial, coefficient in poly:
        term: Poly = constant(1)
        for atom in monomial:
            if atom.op:
                term = times(term, apply(atom.op, _from_units(atom.a, units), _from_units(atom.b, units)))
            elif atom.text in names:
                symbol = units[names[atom.text]]
                common = math.gcd(coefficient, symbol.multiple)
                coefficient //= common
                whole = plus((((Atom(names[atom.text]),), 1),), constant(-symbol.remainder))
                term = times(term, divide("//", whole, constant(symbol.multiple // common)))
            else:
                term = times(term, (((atom,), 1),))
        result += times(term, constant(coefficient))
    return collect(result)


class _Within:
    """What the symbols' limits say of an expression: the bounds of each of its atoms, and which maxima they decide."""

    def __init__(self, symbols: Mapping[str, Symbol]) -> None:
        self.symbols = symbols
        self.known: dict[Atom, tuple[int, int]] = {}
        self.decided: dict[Atom, Poly] = {}

    def decide(self, poly: Poly) -> Poly:
        return _mapped(poly, self._decide_atom)

    def _decide_atom(self, atom: Atom) -> Poly:
        if not atom.op:
            return (((atom,), 1),)
        if atom not in self.decided:
            self.decided[atom] = self._choose(atom.op, self.decide(atom.a), self.decide(atom.b))
        return self.decided[atom]

    def _choose(self, op: str, a: Poly, b: Poly) -> Poly:
        if op in ("max", "min"):
            low, high = self.bounds(plus(a, b, -1))
            if low >= 0:
                return a if op == "max" else b
            if high <= 0:
                return b if op == "max" else a
        return apply(op, a, b)

    def bounds(self, poly: Poly) -> tuple[int, int]:
        spend(1 + len(poly))
        low = high = 0
        for monomial, coefficient in poly:
            interval = (coefficient, coefficient)
            for atom in monomial:
                if atom not in self.known:
                    self.known[atom] = self._atom_bounds(atom)
                interval = _hull(interval, self.known[atom], lambda x, y: x * y)
            low, high = low + interval[0], high + interval[1]
        return low, high

    def _atom_bounds(self, atom: Atom) -> tuple[int, int]:
        if not atom.op:
            if atom.text not in self.symbols:
                raise GraphError(f"the symbol {atom.text!r} of a size expression is not known")
            return self.symbols[atom.text].minimum, self.symbols[atom.text].maximum
        a, b = self.bounds(atom.a), self.bounds(atom.b)
        if atom.op == "max":
            return max(a[0], b[0]), max(a[1], b[1])
        if atom.op == "min":
            return min(a[0], b[0]), min(a[1], b[1])
        if atom.op == "scale":
            factor = factor_of(b[0])
            return math.floor(a[0] * factor), math.floor(a[1] * factor)
        if b[0] > 0 and atom.op == "//":
            return _hull(a, b, lambda x, y: x // y)
        size = max(abs(x) for x in (a if atom.op == "//" else b))
        return (0, size) if atom.op == "%" and b[0] > 0 else (-size - 1, size + 1)


def _hull(a: tuple[int, int], b: tuple[int, int], op: Callable[[int, int], int]) -> tuple[int, int]:
    corners = [op(x, y) for x in a for y in b]
    return min(corners), max(corners)


def add(*dims: Dim) -> Dim:
    """The sum."""
    if all(isinstance(dim, int) for dim in dims):
        return sum(int(dim) for dim in dims)
    return as_dim(collect(term for dim in dims for term in _poly(dim)))


def sub(a: Dim, b: Dim) -> Dim:
    """a - b."""
    return as_dim(plus(_poly(a), _poly(b), -1))


def mul(*dims: Dim) -> Dim:
    """The product; 1 of nothing."""
    result = constant(1)
    for dim in dims:
        result = times(result, _poly(dim))
    return as_dim(result)


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b. Raises GraphError if b is 0."""
    return as_dim(divide("//", _poly(a), _poly(b)))


def mod(a: Dim, b: Dim) -> Dim:
    """a % b. Raises GraphError if b is 0."""
    return as_dim(divide("%", _poly(a), _poly(b)))


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger."""
    return as_dim(extreme("max", _poly(a), _poly(b)))


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller."""
    return as_dim(extreme("min", _poly(a), _poly(b)))


def symbols_of(dim: Dim) -> set[str]:
    """The names of the symbols in the expression."""
    return set() if isinstance(dim, int) else set(_names(dim))


def _symbols(poly: Poly, seen: set[Atom]) -> set[str]:
    names: set[str] = set()
    for atom in {atom for monomial, _ in poly for atom in monomial} - seen:
        seen.add(atom)
        names |= {atom.text} if not atom.op else _symbols(atom.a, seen) | _symbols(atom.b, seen)
    return names


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The number, given each symbol's. Raises GraphError for an unknown symbol, a zero divisor, a result past 2^62."""
    if isinstance(dim, int):
        return dim
    spend(1 + len(dim) // 4)
    return _evaluate(_poly(dim), values)


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
        return math.floor(a * factor_of(b))
    if b == 0:
        raise GraphError(f"the size expression {atom.text!r} divides by zero")
    return a // b if atom.op == "//" else a % b


def bounds(dim: Dim, symbols: Mapping[str, Symbol]) -> tuple[int, int]:
    """An interval that holds every value the expression can take (not always the tightest). Raises GraphError."""
    return (dim, dim) if isinstance(dim, int) else _bounded(dim, _used(dim, symbols))


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
    except TooManySteps:
        raise
    except GraphError:
        return False
    return value >= 0 if condition.kind == "natural" else (value == 0) == (condition.kind == "zero")


def samples(
    symbols: Mapping[str, Symbol], conditions: Iterable[Condition] = (), count: int = 24
) -> Sequence[Mapping[str, int]]:
    """So many possible assignments, if there are: the smallest, small sizes, sizes of many remainders; never 0."""
    spend(1 + len(symbols))
    return _samples(tuple(sorted(symbols.items())), tuple(conditions), count)


@lru_cache(maxsize=64)
def _samples(symbols: Used, tests: tuple[Condition, ...], count: int) -> tuple[Mapping[str, int], ...]:
    found: list[Mapping[str, int]] = []
    for index in range(count if not tests else 50 * count):
        spend(1 + len(symbols))
        sample = {}
        for place, (name, symbol) in enumerate(symbols):
            low, far = _first(symbol), index % 24 == 23
            most = max(min(symbol.maximum - low, (2**13 if far else 1000) * symbol.multiple) // symbol.multiple, 0)
            step = (index * (2 * place + 7) + place) if index % 24 < 16 else index * 97 * (place + 1)
            step = most - place if far else step
            sample[name] = low + symbol.multiple * ((step if index else 0) % (most + 1))
        if all(holds(test, sample) for test in tests):
            found.append(sample)
        if len(found) == count:
            break
    return tuple(found)


def _first(symbol: Symbol) -> int:
    """The smallest possible size above 0."""
    low = max(symbol.minimum, 1)
    return low + (symbol.remainder - low) % symbol.multiple


def sides(dim: Dim) -> tuple[Dim, Dim]:
    """Two sizes of which the expression is the difference, neither with a minus in its sum."""
    poly = _poly(dim)
    left = collect((monomial, coefficient) for monomial, coefficient in poly if coefficient > 0)
    return as_dim(left), as_dim(plus(left, poly, -1))


def primitive(dim: Dim) -> Dim:
    """The expression without numbers and symbols that are factors of all its terms; a - (a // m) * m becomes a % m.

    It is 0 where the expression is, sizes of 0 apart.
    """
    poly = _poly(dim)
    if not poly:
        return 0
    number = math.gcd(*(coefficient for _, coefficient in poly))
    common = [atom for atom in poly[0][0] if not atom.op and all(atom in monomial for monomial, _ in poly)]
    rest = collect((_less(monomial, common), coefficient // number) for monomial, coefficient in poly)
    for sign in (1, -1):
        for monomial, coefficient in times(rest, constant(sign)):
            divisor = as_int(monomial[0].b) if len(monomial) == 1 and monomial[0].op == "//" else None
            if divisor and coefficient == -divisor:
                dividend = plus(times(rest, constant(sign)), ((monomial, divisor),))
                if divide("//", dividend, constant(divisor)) == ((monomial, 1),):
                    return as_dim(divide("%", dividend, constant(divisor)))
    return as_dim(rest)


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
    atom, divisor = poly[0][0][0], as_int(poly[0][0][0].b)
    return (as_dim(atom.a), divisor) if divisor else None


def divisors(dim: Dim) -> set[int]:
    """The numbers that the expression divides by."""
    return set() if isinstance(dim, int) else _divisors(_poly(dim))


def _divisors(poly: Poly) -> set[int]:
    found: set[int] = set()
    for atom in {atom for monomial, _ in poly for atom in monomial if atom.op}:
        number = as_int(atom.b)
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
