"""Polynomials over atoms, in which sizes are compared and computed: equal sizes have one canonical text.

An atom is a symbol, a quotient, a remainder, a maximum, a minimum, or a size times a real factor, rounded down.
"""

from __future__ import annotations

import itertools
import math
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import GraphError
from .ir import Dim

MAX_LENGTH = 1000
"""Characters of an expression."""
MAX_TERMS = 64
"""Of a sum."""
MAX_STEPS = 1_000_000
"""Of arithmetic on the expressions of one graph, a microsecond or so each; models need some thousands."""
LIMIT = 2**62
"""No literal, coefficient or result may reach this: the runtime computes in 64 bits."""
_ONE = 0x3FF << 52
"""The bits of 1.0. The second operand of "scale" is a factor's bits less these, so that it stays within `LIMIT`."""


class TooManySteps(GraphError):
    """A graph's size expressions take more than `MAX_STEPS`."""


class _Steps(threading.local):
    left: int | None = None


_steps = _Steps()


@contextmanager
def bounded_steps() -> Iterator[None]:
    """Within the outermost one, all arithmetic on sizes together may take `MAX_STEPS`. Raises TooManySteps."""
    before = _steps.left
    _steps.left = MAX_STEPS if before is None else before
    try:
        yield
    finally:
        _steps.left = None if before is None else _steps.left


def spend(steps: int) -> None:
    """Counts steps against the bound, if there is one. Raises TooManySteps."""
    if _steps.left is None:
        return
    _steps.left -= steps
    if _steps.left < 0:
        raise TooManySteps("the graph's size expressions are too many and too complicated")


class Atom(NamedTuple):
    """What a polynomial does not look into: a symbol (`op` "", `text` its name), or op(a, b)."""

    text: str
    op: str = ""
    a: Poly = ()
    b: Poly = ()

    def __hash__(self) -> int:  # the text says all, and remembers its own hash
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Atom) and self.text == other.text)

    def __ne__(self, other: object) -> bool:
        return not self == other


Monomial = tuple[Atom, ...]
Poly = tuple[tuple[Monomial, int], ...]
"""Sum of coefficient * product of atoms, sorted; the constant has the empty product; zero is the empty sum."""


def bits_of(factor: float) -> int:
    """The second operand of "scale" for a factor."""
    return int(struct.unpack("<q", struct.pack("<d", factor))[0]) - _ONE


def factor_of(bits: int) -> float:
    """The factor of such bits."""
    return float(struct.unpack("<d", struct.pack("<q", bits + _ONE))[0])


def constant(value: int) -> Poly:
    """A number. Raises GraphError for one past `LIMIT`."""
    if abs(value) >= LIMIT:
        raise GraphError(f"a size of {value} is too large")
    return (((), value),) if value else ()


def as_int(poly: Poly) -> int | None:
    """The number that it is, or None."""
    if not poly:
        return 0
    return poly[0][1] if len(poly) == 1 and poly[0][0] == () else None


def collect(terms: Iterable[tuple[Monomial, int]]) -> Poly:
    """The sum of these terms. Raises GraphError for too many."""
    total: dict[Monomial, int] = {}
    steps = 1
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
        steps += 1 + len(monomial)
    spend(steps)
    result = [(monomial, coefficient) for monomial, coefficient in total.items() if coefficient]
    if len(result) > MAX_TERMS or any(abs(coefficient) >= LIMIT for _, coefficient in result):
        raise GraphError("a size expression grows too large")
    return tuple(sorted(result, key=lambda term: (-len(term[0]), [atom.text for atom in term[0]])))


def plus(a: Poly, b: Poly, sign: int = 1) -> Poly:
    """a + sign * b."""
    return collect((*a, *((monomial, sign * coefficient) for monomial, coefficient in b)))


def times(a: Poly, b: Poly) -> Poly:
    """a * b."""
    if len(a) * len(b) > MAX_TERMS * 4:
        raise GraphError("a size expression grows too large")
    return collect(
        (tuple(sorted((*left, *right), key=lambda atom: atom.text)), x * y)
        for (left, x), (right, y) in itertools.product(a, b)
    )


def _atom(op: str, a: Poly, b: Poly) -> Poly:
    if op == "scale":
        text = f"scale({_text(a)}, {factor_of(as_int(b) or 0)!r})"
    else:
        text = f"{op}({_text(a)}, {_text(b)})" if op in ("max", "min") else f"({_operand(a)} {op} {_operand(b)})"
    if len(text) > MAX_LENGTH:
        raise GraphError("a size expression grows too large")
    spend(1 + len(text) // 8)
    return (((Atom(text, op, a, b),), 1),)


def divide(op: str, a: Poly, b: Poly) -> Poly:
    """a // b or a % b, as simple as it can be."""
    divisor = as_int(b)
    if divisor == 0:
        raise GraphError("a size expression divides by zero")
    dividend = as_int(a)
    if dividend is not None and divisor is not None:
        return constant(dividend // divisor if op == "//" else dividend % divisor)
    if divisor is not None and divisor > 0:
        return _divide_by_number(op, a, divisor)
    exact = _exact_quotient(a, b)
    if exact is not None:
        return exact if op == "//" else ()
    if op == "//" and len(b) == 1:
        cancelled = _cancelled(a, b)
        if cancelled is not None:
            return divide(op, *cancelled)
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
    top = collect((tuple(left), factor // number) for left, (_, factor) in zip(terms, a, strict=True))
    return top, collect([(tuple(rest), coefficient // number)])


def _divide_by_number(op: str, a: Poly, divisor: int) -> Poly:
    """(d*q + r) // d = q + r // d and (d*q + r) % d = r % d, with q and r taken coefficient by coefficient."""
    quotient = collect((monomial, coefficient // divisor) for monomial, coefficient in a)
    rest = collect((monomial, coefficient % divisor) for monomial, coefficient in a)
    number = as_int(rest)
    if op == "%":
        return constant(number) if number is not None else _atom(op, rest, constant(divisor))
    if number is not None:
        return quotient
    # ((x // m) + c) // d = (x + c*m) // (m*d)
    if len(rest[0][0]) == 1 and rest[0][1] == 1 and (len(rest) == 1 or (len(rest) == 2 and rest[1][0] == ())):
        inner = rest[0][0][0]
        scale = as_int(inner.b) if inner.op == "//" else None
        if scale is not None and scale > 0 and scale * divisor < LIMIT:
            offset = rest[1][1] if len(rest) == 2 else 0
            return plus(quotient, _divide_by_number(op, plus(inner.a, constant(offset * scale)), scale * divisor))
    return plus(quotient, _atom(op, rest, constant(divisor)))


def _exact_quotient(a: Poly, b: Poly) -> Poly | None:
    """a / b where b is a single term that divides every term of a."""
    if len(b) != 1:
        return constant(1) if a == b else None
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
    return collect(terms)


def extreme(op: str, a: Poly, b: Poly) -> Poly:
    """The larger or the smaller (`op`: "max", "min")."""
    difference = as_int(plus(a, b, -1))
    if difference is not None:
        return a if (difference >= 0) == (op == "max") else b
    return _atom(op, *sorted((a, b), key=_text))


def apply(op: str, a: Poly, b: Poly) -> Poly:
    """op(a, b)."""
    if op == "+":
        return plus(a, b)
    if op == "-":
        return plus(a, b, -1)
    if op == "*":
        return times(a, b)
    if op == "scale":
        number, factor = as_int(a), factor_of(as_int(b) or 0)
        return _atom(op, a, b) if number is None else constant(math.floor(number * factor))
    return extreme(op, a, b) if op in ("max", "min") else divide(op, a, b)


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
    number = as_int(poly)
    bare = number >= 0 if number is not None else len(poly) == 1 and len(poly[0][0]) == 1 and poly[0][1] == 1
    return _text(poly) if bare else f"({_text(poly)})"


def as_dim(poly: Poly) -> Dim:
    """An int, or the canonical text."""
    number = as_int(poly)
    if number is not None:
        return number
    text = _text(poly)
    if len(text) > MAX_LENGTH:
        raise GraphError("a size expression grows too large")
    return text
