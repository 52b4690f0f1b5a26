"""Reads the text of a size straight into a polynomial.

    expression := term (("+" | "-") term)*        term   := factor (("*" | "//" | "%") factor)*
    factor     := integer | symbol | "-" factor | "(" expression ")" | ("max" | "min") "(" expression "," expression ")"

The parser knows nothing else, and its input is bounded, so an expression from a file is safe to read.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..errors import GraphError
from .polynomials import MAX_LENGTH, Atom, Monomial, Poly, apply, bits_of, collect, constant, spend

MAX_DEPTH = 40
"""Parentheses within each other."""
_TOKEN = re.compile(
    r"\s*(?:(?P<real>[0-9]+\.[0-9]*(?:e[-+]?[0-9]+)?|[0-9]+e[-+]?[0-9]+)|(?P<int>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<op>//|[-+*%(),]))",
    re.ASCII,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def is_symbol_name(text: str) -> bool:
    """Whether `text` may name a symbol."""
    return bool(_NAME.fullmatch(text)) and text not in ("max", "min") and len(text) <= 100


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
        terms: list[tuple[Monomial, int]] = list(self.term())
        first = len(terms)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            terms += ((monomial, sign * coefficient) for monomial, coefficient in self.term())
        self.depth -= 1
        return collect(terms) if len(terms) > first else tuple(terms)

    def term(self) -> Poly:
        result = self.factor()
        while self.peek() in ("*", "//", "%"):
            operator = self.take()
            result = apply(operator, result, self.factor())
        return result

    def factor(self) -> Poly:
        negative = False
        while self.peek() == "-":
            self.take()
            negative = not negative
        result = self.primary()
        return apply("-", (), result) if negative else result

    def primary(self) -> Poly:
        token = self.take()
        if token.isdigit():
            if len(token) > 19:
                raise self.error("a number is too large")
            return constant(int(token))
        if token in ("max", "min") or (token == "scale" and self.peek() == "("):
            self.take("(")
            a = self.expression()
            self.take(",")
            b = self.expression() if token != "scale" else self.decimal()
            self.take(")")
            return apply(token, a, b)
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
        return constant(bits_of(factor))


@lru_cache(maxsize=1024)
def parse(text: str) -> Poly:
    """The polynomial of a text. Raises GraphError."""
    spend(1 + len(text))
    return _Parser(text).parse()
