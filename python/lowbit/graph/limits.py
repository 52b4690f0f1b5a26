"""Which sizes a graph can run at: what its operators need of an expression becomes a limit of the symbols in it.

`(h // 2) * 2` must be `h`: h is a multiple of 2. `(h - 3) // 2 + 1` must be 3 or more: h is at least 7. Both are found
by trying, from sizes at which the model is known to run. What no symbol can say by itself, such as that `h * w` is a
multiple of 4, stays a `Condition`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from . import dims
from .ir import Condition, Dim, Graph, Symbol
from .polynomials import spend

MAX_PERIOD = 4096
"""Sizes: a condition that repeats itself only beyond so many is kept as it is."""
MAX_STEPS = 4096
"""Sizes that are tried one by one for the smallest possible one."""
FAR = (16, 255, 4095, 2**16 + 1)
"""Periods from the example's size at which a condition is tried, too."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The symbols and conditions of a graph; `example`: sizes that are possible."""

    symbols: Mapping[str, Symbol]
    example: Mapping[str, int]
    conditions: tuple[Condition, ...] = field(default=())

    def certain(self, condition: Condition) -> bool:
        """Whether all possible sizes fulfil it, as far as a sample says."""
        if condition in self.conditions:
            return True
        low, high = dims.bounds(condition.size, self.symbols)
        if (condition.kind == "natural" and low >= 0) or (condition.kind == "nonzero" and (low > 0 or high < 0)):
            return True
        if not isinstance(condition.size, int) and condition.kind == "zero" and low > 0:
            return False
        if condition.kind == "nonzero":
            return False
        least = smallest(self.symbols, self.conditions)
        found = [*dims.samples(self.symbols, self.conditions), *([least] if least else [])]
        return bool(found) and all(dims.holds(condition, sample) for sample in found)

    def learn(self, condition: Condition) -> Limits:
        """The limits with a condition that the example fulfils."""
        condition = (
            replace(condition, size=dims.primitive(condition.size)) if condition.kind != "natural" else condition
        )
        symbols = dict(self.symbols)
        for name in sorted(dims.symbols_of(condition.size)):
            found = self._solve(condition, name)
            if found is None:
                break
            symbols[name] = found
        else:
            if self._says_all(condition, symbols):
                return replace(self, symbols=symbols)
        return replace(self, conditions=(*self.conditions, condition))

    def _says_all(self, condition: Condition, symbols: Mapping[str, Symbol]) -> bool:
        """Whether the symbols' new limits mean the condition, no less and (beyond small sizes) no more."""
        if not all(dims.holds(condition, sample) for sample in dims.samples(symbols, (), 72)):
            return False
        few = len(dims.symbols_of(condition.size)) == 1
        before = {
            name: replace(old, minimum=max(old.minimum, symbols[name].minimum)) if condition.kind == "zero" else old
            for name, old in self.symbols.items()
        }
        return few or all(
            all(allowed(symbols[name], size) for name, size in sample.items())
            for sample in dims.samples(before, (), 72)
            if dims.holds(condition, sample)
        )

    def _solve(self, condition: Condition, name: str) -> Symbol | None:
        """The limits of one symbol by a condition, all others as in the example; None where it has none such."""
        symbol, start = self.symbols[name], self.example[name]
        period = math.lcm(symbol.multiple, *dims.divisors(condition.size))
        if period > MAX_PERIOD:
            return None

        def fulfils(size: int) -> bool:
            return dims.holds(condition, {**self.example, name: size})

        rest = {size % period for size in range(start, start + period) if allowed(symbol, size) and fulfils(size)}
        found = _class_of(rest, period)
        if found is None:
            return None
        multiple, remainder = found
        known = replace(symbol, multiple=multiple, remainder=remainder)

        def as_expected(size: int) -> bool:
            return not allowed(symbol, size) or fulfils(size) == (size % multiple == remainder)

        below = range(start - (start - remainder) % multiple, max(symbol.minimum, start - MAX_STEPS) - 1, -multiple)
        low = max(symbol.minimum, next((size + 1 for size in below if not as_expected(size)), symbol.minimum))
        if condition.kind == "nonzero" and any(fulfils(size) for size in range(max(low - period, symbol.minimum), low)):
            return None
        high = symbol.maximum
        for far in FAR:
            probes = range(start + far * period, start + far * period + min(period, 64))
            wrong = next((size for size in probes if size <= high and not as_expected(size)), None)
            if wrong is not None:
                high = _last(as_expected, start, wrong)
                break
        return replace(known, minimum=low + (remainder - low) % multiple, maximum=high)


def _class_of(rest: set[int], period: int) -> tuple[int, int] | None:
    """The remainders as those of one number: {0, 4} of 8 are (4, 0); None for what is no such class."""
    for multiple in (number for number in range(1, period + 1) if period % number == 0):
        classes = {size % multiple for size in rest}
        if len(classes) == 1 and len(rest) == period // multiple:
            return multiple, classes.pop()
    return None


def _last(good: object, low: int, high: int) -> int:
    """The last of what is good at `low` and no more at `high`."""
    assert callable(good)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def allowed(symbol: Symbol, size: int) -> bool:
    """Whether the symbol may be of that size."""
    return symbol.minimum <= size <= symbol.maximum and size % symbol.multiple == symbol.remainder


def of_calls(graph: Graph) -> dict[str, Symbol]:
    """The symbols as a call may have them: a batch, the first axis of an input, may also be 0.

    A batch that needs two samples or more, but for a multiple of some number, may not. A graph itself is reasoned about
    with samples in it, so its symbols say nothing of this.
    """
    batches = {graph.values[name].shape[0] for name in graph.inputs if graph.values[name].shape}
    return {
        name: replace(symbol, minimum=0)
        if name in batches and symbol.minimum <= symbol.multiple and symbol.remainder == 0
        else symbol
        for name, symbol in graph.symbols.items()
    }


def nearest(symbol: Symbol, size: int) -> int:
    """The possible size next to a wanted size, rather above it."""
    low = symbol.minimum + (symbol.remainder - symbol.minimum) % symbol.multiple
    high = symbol.maximum - (symbol.maximum - symbol.remainder) % symbol.multiple
    wanted = size + (symbol.remainder - size) % symbol.multiple
    return min(max(wanted, low), max(high, low))


def smallest(symbols: Mapping[str, Symbol], conditions: Iterable[Condition]) -> dict[str, int] | None:
    """Small sizes above 0 that are possible together; None if none are found."""
    tests = tuple(conditions)
    first = {name: nearest(symbol, max(symbol.minimum, min(1, symbol.maximum))) for name, symbol in symbols.items()}
    if all(dims.holds(test, first) for test in tests):
        return first
    used = sorted({name for test in tests for name in dims.symbols_of(test.size)} & first.keys())
    reach = 10 if len(used) > 2 else 65
    known = {name: first[name] for name in used}
    for steps in sorted(itertools.product(range(reach), repeat=min(len(used), 3)), key=sum):
        moved = {name: first[name] + step * symbols[name].multiple for name, step in zip(used, steps, strict=False)}
        sizes = known | moved
        spend(len(sizes))
        if all(allowed(symbols[name], size) for name, size in moved.items()) and all(
            dims.holds(test, sizes) for test in tests
        ):
            return first | moved
    return next(map(dict, dims.samples(symbols, tests, 1)), None)


# ------------------------------------------------------------------------------------------------------------- in words


def describe(symbol: Symbol) -> str:
    """What a size may be: `a multiple of 8, at least 8`, `from 1 to 40`."""
    parts = []
    if symbol.multiple > 1:
        more = f"{symbol.remainder} more than " if symbol.remainder else ""
        odd = (symbol.multiple, symbol.remainder) == (2, 1)
        parts.append("odd" if odd else f"{more}a multiple of {symbol.multiple}")
    if symbol.maximum < 2**31 - 1:
        parts.append(f"from {symbol.minimum} to {symbol.maximum}")
    elif symbol.minimum > 0 or not parts:
        parts.append(f"at least {symbol.minimum}")
    return ", ".join(parts)


def sentence(condition: Condition) -> str:
    """What a condition asks for: `h*w must be a multiple of 4`."""
    be = "must not be" if condition.kind == "nonzero" else "must be"
    whole = dims.remainder_of(condition.size)
    if whole is not None and condition.kind != "natural":
        return f"{_bare(whole[0])} {be} a multiple of {whole[1]}"
    left, right = map(_bare, dims.sides(condition.size))
    return f"{left} {be}{' at least' if condition.kind == 'natural' else ''} {right}"


def _bare(dim: Dim) -> str:
    """The expression without brackets around all of it."""
    text = str(dim)
    inner = text[1:-1]
    depths = itertools.accumulate((char == "(") - (char == ")") for char in inner)
    return inner if text.startswith("(") and min(depths, default=0) >= 0 else text
