"""torch's symbolic sizes as lowbit's: readable names, bounds, and expressions over them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import sympy
import torch
from torch.fx import Node

from ..errors import LowbitError, UnsupportedError
from ..graph import dims
from ..graph.ir import Condition, Dim, Symbol

MAXIMUM = 2**31 - 1

Axes = Mapping[tuple[str, int], str]
"""The name preferred for the size of (input, axis). Sizes of one name are one symbol, whether torch saw that or not."""


def user_inputs(exported: torch.export.ExportedProgram) -> list[Node]:
    """The placeholders of the caller's inputs, in the order of the flattened (args, kwargs)."""
    names = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    return [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]


def symbol_of(size: Any) -> sympy.Symbol | None:
    """The symbol that a free size is, or None for a number or an expression."""
    expr = size.node.expr if isinstance(size, torch.SymInt) else None
    return expr if isinstance(expr, sympy.Symbol) else None


def symbol_names(exported: torch.export.ExportedProgram, axes: Axes) -> dict[sympy.Symbol, str]:
    """A readable name for each free size: the one in `axes`, else "batch" for a first axis, else input_axis."""
    names: dict[sympy.Symbol, str] = {}
    given_to: dict[str, str] = {}
    for node in user_inputs(exported):
        tensor = node.meta.get("val")
        for axis, size in enumerate(tensor.shape if isinstance(tensor, torch.Tensor) else ()):
            symbol, preferred = symbol_of(size), axes.get((node.name, axis))
            if symbol is None:
                continue
            if symbol not in names:
                given = given_to.get(preferred) if preferred else None
                names[symbol] = given or _free(preferred or ("batch" if axis == 0 else f"{node.name}_{axis}"), names)
            if preferred:
                given_to.setdefault(preferred, names[symbol])
    return names


def _free(preferred: str, names: Mapping[sympy.Symbol, str]) -> str:
    taken = set(names.values())
    return next(name for name in (preferred, *(f"{preferred}_{i}" for i in range(2, 999))) if name not in taken)


def symbol_bounds(
    exported: torch.export.ExportedProgram, names: Mapping[sympy.Symbol, str], dynamic: Any = None
) -> dict[str, Symbol]:
    """Inclusive bounds of each name, by torch's constraints and by the tables that positions are looked up in.

    The least size is what a person states in `dynamic`: torch's own says where its tracing would take another way.
    """
    bounds: dict[str, Symbol] = {}
    stated = _stated_minima(dynamic)
    for symbol, name in names.items():
        low, high = stated.get(name, 1), _maximum(exported.range_constraints.get(symbol))
        known = bounds.get(name, Symbol(minimum=low, maximum=high))
        bounds[name] = Symbol(minimum=max(low, known.minimum), maximum=min(high, known.maximum))
    for symbol, rows in _table_rows(exported):
        if symbol in names and bounds[names[symbol]].minimum <= rows:
            known = bounds[names[symbol]]
            bounds[names[symbol]] = Symbol(minimum=known.minimum, maximum=min(known.maximum, rows))
    return bounds


def _maximum(constraint: Any) -> int:
    upper = getattr(constraint, "upper", None)
    return min(int(upper), MAXIMUM) if isinstance(upper, int | sympy.Integer) else MAXIMUM


def _stated_minima(dynamic: Any) -> dict[str, int]:
    """The minimum of each torch.export.Dim in `dynamic_shapes`, by its name; 2 says no more than 1 does."""
    if isinstance(dynamic, Mapping | tuple | list):
        parts = dynamic.values() if isinstance(dynamic, Mapping) else dynamic
        return {name: low for part in parts for name, low in _stated_minima(part).items()}
    low, name = getattr(dynamic, "min", None), getattr(dynamic, "__name__", "")
    return {name: low} if isinstance(low, int) and low > 2 else {}


# ------------------------------------------------------------------------------------------------ what a trace rests on

Need = tuple[Condition, str]
"""What sizes must fulfil, and the line of code that says so."""

_TORCH = Path(torch.__file__).parent
_RELATIONS = {
    "Equality": ("zero", 0),
    "Unequality": ("nonzero", 0),
    "GreaterThan": ("natural", 0),
    "StrictGreaterThan": ("natural", 1),
    "LessThan": ("natural", 0),
    "StrictLessThan": ("natural", 1),
}
"""By sympy's class: the kind of condition for a - b (b - a of the last two), and what is taken off it."""


def example_sizes(exported: torch.export.ExportedProgram, names: Mapping[sympy.Symbol, str]) -> dict[str, int]:
    """Each free size in the example that was exported."""
    found: dict[str, int] = {}
    for node in user_inputs(exported):
        tensor = node.meta.get("val")
        for size in tensor.shape if isinstance(tensor, torch.Tensor) else ():
            symbol = symbol_of(size)
            if symbol in names:
                found.setdefault(names[symbol], int(cast(Any, size).node.hint))
    return found


def decisions(exported: torch.export.ExportedProgram, names: Mapping[sympy.Symbol, str]) -> Iterator[Need]:
    """What Python code (no operator of torch) found true of sizes, so that the trace took this way and no other.

    That something is not 0 or 1 is no decision worth keeping: torch tells these sizes apart everywhere.
    """
    sizes = [size for node in user_inputs(exported) for size in getattr(node.meta.get("val"), "shape", ())]
    shape_env = next((size.node.shape_env for size in sizes if isinstance(size, torch.SymInt)), None)
    for guard in getattr(shape_env, "guards", ()):
        frame = getattr(getattr(guard, "sloc", None), "framework_loc", None)
        place = Path(getattr(frame, "filename", None) or _TORCH)
        if place.is_relative_to(_TORCH) and not place.is_relative_to(_TORCH / "nn") and not _is_fixed(guard.expr):
            continue
        kind, off = _RELATIONS.get(type(guard.expr).__name__, ("", 0))
        try:
            a, b = (dim_of(side, names) for side in (guard.expr.args if kind else ()))
            left, right = (b, a) if type(guard.expr).__name__.endswith("LessThan") else (a, b)
            size = dims.sub(dims.sub(left, right), off)
        except (LowbitError, ValueError):
            continue
        if not (dims.symbols_of(size) and _is_small(kind, a, b, off)):
            yield Condition(kind=kind, size=size), f"{place.name}:{getattr(frame, 'lineno', 0)}"


def _is_fixed(expr: Any) -> bool:
    """Whether a rounded size, such as a resized image's, is a number: torch then says so wherever it occurs."""
    rounded = any(type(side).__name__ in ("TruncToInt", "FloorToInt", "CeilToInt") for side in expr.args)
    return type(expr).__name__ == "Equality" and rounded and any(isinstance(side, sympy.Integer) for side in expr.args)


def _is_small(kind: str, a: Dim, b: Dim, off: int) -> bool:
    """Whether a relation only says that a size is not 0 or 1."""
    number = a if isinstance(a, int) else b
    limit = {"nonzero": 1, "natural": 2 - off}.get(kind, -1)
    return isinstance(number, int) and number <= limit


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
    if type(expr).__name__ == "CeilToInt" and (text := _scaled(expr.args[0], names, "-")):
        return f"(-{text})"
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


def _scaled(expr: Any, names: Mapping[sympy.Symbol, str], sign: str = "") -> str | None:
    """floor(1.5 * size) as (3 * size) // 2; None for what is no number times a size. sign "-": of -size."""
    kind = type(expr).__name__
    if kind == "ToFloat":
        return f"({sign}{_text(expr.args[0], names)})"
    if kind == "IntTrueDiv":
        return f"(({sign}{_text(expr.args[0], names)}) // {_text(expr.args[1], names)})"
    factors = [arg for arg in expr.args if isinstance(arg, sympy.Float)]
    sizes = [arg for arg in expr.args if type(arg).__name__ == "ToFloat"]
    if kind != "Mul" or len(factors) != 1 or len(sizes) != 1 or len(expr.args) != 2:
        return None
    factor = float(factors[0])
    ratio = Fraction(factor).limit_denominator(1000)
    if not 0 < factor < 1e9:
        return None
    if any(int(factor * n) != n * ratio.numerator // ratio.denominator for n in range(4096)):
        return f"scale({sign}{_text(sizes[0].args[0], names)}, {factor!r})"
    return f"(({sign}{ratio.numerator} * {_text(sizes[0].args[0], names)}) // {ratio.denominator})"


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
