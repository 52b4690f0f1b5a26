"""torch's symbolic sizes as lowbit's: readable names, bounds, and expressions over them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy
import torch
from torch.fx import Node

from .. import dims
from ..errors import UnsupportedError
from ..ir import Dim, Symbol

MAXIMUM = 2**31 - 1

Axes = Mapping[tuple[str, int], str]
"""The name wished for the size of (input, axis). Sizes of one name are one symbol, whether torch saw that or not."""


def user_inputs(exported: torch.export.ExportedProgram) -> list[Node]:
    """The placeholders of the caller's inputs, in the order of the flattened (args, kwargs)."""
    names = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    return [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]


def symbol_of(size: Any) -> sympy.Symbol | None:
    """The symbol that a free size is, or None for a number or an expression."""
    expr = size.node.expr if isinstance(size, torch.SymInt) else None
    return expr if isinstance(expr, sympy.Symbol) else None


def symbol_names(exported: torch.export.ExportedProgram, axes: Axes) -> dict[sympy.Symbol, str]:
    """A readable name for each free size: the wish in `axes`, else "batch" for a first axis, else input_axis."""
    names: dict[sympy.Symbol, str] = {}
    wished: dict[str, str] = {}
    for node in user_inputs(exported):
        tensor = node.meta.get("val")
        for axis, size in enumerate(tensor.shape if isinstance(tensor, torch.Tensor) else ()):
            symbol, wish = symbol_of(size), axes.get((node.name, axis))
            if symbol is None:
                continue
            if symbol not in names:
                given = wished.get(wish) if wish else None
                names[symbol] = given or _free(wish or ("batch" if axis == 0 else f"{node.name}_{axis}"), names)
            if wish:
                wished.setdefault(wish, names[symbol])
    return names


def _free(wish: str, names: Mapping[sympy.Symbol, str]) -> str:
    taken = set(names.values())
    return next(name for name in (wish, *(f"{wish}_{i}" for i in range(2, 999))) if name not in taken)


def symbol_bounds(exported: torch.export.ExportedProgram, names: Mapping[sympy.Symbol, str]) -> dict[str, Symbol]:
    """Inclusive bounds of each name, by torch's constraints and by the tables that positions are looked up in."""
    bounds: dict[str, Symbol] = {}
    for symbol, name in names.items():
        low, high = _constraint(exported.range_constraints.get(symbol))
        known = bounds.get(name, Symbol(minimum=low, maximum=high))
        bounds[name] = Symbol(minimum=max(low, known.minimum), maximum=min(high, known.maximum))
    for symbol, rows in _table_rows(exported):
        if symbol in names and bounds[names[symbol]].minimum <= rows:
            known = bounds[names[symbol]]
            bounds[names[symbol]] = Symbol(minimum=known.minimum, maximum=min(known.maximum, rows))
    return bounds


def _constraint(constraint: Any) -> tuple[int, int]:
    """Inclusive bounds; torch's lower bound of 2 only says that 0 and 1 were not traced apart."""
    lower, upper = getattr(constraint, "lower", 0), getattr(constraint, "upper", None)
    minimum = int(lower) if isinstance(lower, int | sympy.Integer) else 1
    maximum = int(upper) if isinstance(upper, int | sympy.Integer) else MAXIMUM
    return (1 if minimum <= 2 else minimum), min(maximum, MAXIMUM)


_MOVES = ("view", "reshape", "unsqueeze", "expand", "to", "_to_copy", "contiguous", "clone", "alias")


def _table_rows(exported: torch.export.ExportedProgram) -> list[tuple[sympy.Symbol, int]]:
    """Sizes whose arange is looked up in an embedding, and how large its table lets them be."""
    found = []
    for node in exported.graph.nodes:
        if node.op != "call_function" or _stem(node) != "embedding":
            continue
        table, indices, offset = node.args[0], node.args[1], 0
        while isinstance(indices, Node) and (_stem(indices) in _MOVES or _shift(indices) is not None):
            offset += _shift(indices) or 0
            indices = indices.args[0]
        if not isinstance(indices, Node) or _stem(indices) != "arange" or not isinstance(table, Node):
            continue
        symbol, tensor = symbol_of(indices.meta["val"].shape[0]), table.meta.get("val")
        starts_at_0 = "start" not in str(indices.target) or indices.args[0] == 0
        if symbol is not None and starts_at_0 and isinstance(tensor, torch.Tensor) and isinstance(tensor.shape[0], int):
            found.append((symbol, tensor.shape[0] - offset))
    return found


def _stem(node: Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _shift(node: Node) -> int | None:
    """The whole number that a node adds, if it does no more."""
    number = node.args[1] if _stem(node) == "add" and len(node.args) == 2 else None
    return number if isinstance(number, int) else None


def dim_of(size: Any, names: Mapping[sympy.Symbol, str]) -> Dim:
    """A torch size (int, SymInt or sympy expression) as a Dim. Raises UnsupportedError for what a Dim cannot say."""
    if isinstance(size, int):
        return size
    return dims.simplify(_text(size.node.expr if isinstance(size, torch.SymInt) else size, names))


def _text(expr: Any, names: Mapping[sympy.Symbol, str]) -> str:
    if isinstance(expr, sympy.Symbol) and expr in names:
        return names[expr]
    if isinstance(expr, sympy.Integer):
        return f"({int(expr)})"
    if type(expr).__name__ in ("TruncToInt", "FloorToInt") and (text := _scaled(expr.args[0], names)):
        return text
    args = [_text(arg, names) for arg in expr.args]
    match type(expr).__name__:
        case "Add":
            return f"({' + '.join(args)})"
        case "Mul" if all(not isinstance(arg, sympy.Rational) or isinstance(arg, sympy.Integer) for arg in expr.args):
            return f"({' * '.join(args)})"
        case "FloorDiv" | "CleanDiv":
            return f"({args[0]} // {args[1]})"
        case "Mod" | "PythonMod":
            return f"({args[0]} % {args[1]})"
        case "CeilDiv":
            return f"(-((-{args[0]}) // {args[1]}))"
        case "Max":
            return functools.reduce("max({}, {})".format, args)
        case "Min":
            return functools.reduce("min({}, {})".format, args)
        case "Pow" | "PowByNatural" if isinstance(expr.args[1], sympy.Integer) and 0 < int(expr.args[1]) < 9:
            return f"({' * '.join([args[0]] * int(expr.args[1]))})"
    raise UnsupportedError(f"the size {expr} depends on more than the input's sizes by whole-number arithmetic")


def _scaled(expr: Any, names: Mapping[sympy.Symbol, str]) -> str | None:
    """floor(1.5 * size) as (3 * size) // 2; None for what is no number times a size, or rounds otherwise."""
    kind = type(expr).__name__
    if kind == "ToFloat":
        return _text(expr.args[0], names)
    if kind == "IntTrueDiv":
        return f"({_text(expr.args[0], names)} // {_text(expr.args[1], names)})"
    factors = [arg for arg in expr.args if isinstance(arg, sympy.Float)]
    sizes = [arg for arg in expr.args if type(arg).__name__ == "ToFloat"]
    if kind != "Mul" or len(factors) != 1 or len(sizes) != 1 or len(expr.args) != 2:
        return None
    factor = float(factors[0])
    ratio = Fraction(factor).limit_denominator(1000)
    if factor <= 0 or any(int(factor * n) != n * ratio.numerator // ratio.denominator for n in range(4096)):
        return None
    return f"(({ratio.numerator} * {_text(sizes[0].args[0], names)}) // {ratio.denominator})"


def named_sizes(arguments: Mapping[str, Any], shapes: Any) -> dict[tuple[str, int], str]:
    """The names a person gave in `dynamic_shapes`, by (parameter, axis), for tensors that are parameters themselves."""
    if isinstance(shapes, Sequence):
        shapes = dict(zip(arguments, shapes, strict=False))
    found: dict[tuple[str, int], str] = {}
    for name, spec in shapes.items() if isinstance(shapes, Mapping) else ():
        axes = spec.items() if isinstance(spec, Mapping) else enumerate(spec) if isinstance(spec, Sequence) else ()
        for axis, dim in axes:
            text = getattr(dim, "__name__", "")
            if isinstance(axis, int) and isinstance(text, str) and dims.is_symbol_name(text):
                found[name, axis] = text
    return found
