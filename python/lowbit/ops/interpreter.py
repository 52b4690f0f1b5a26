"""Runs and checks an `ir.Graph` with NumPy alone: plain, and the specification that a compiled session must equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from ..errors import GraphError, InputError
from ..graph import dims, limits, weights
from ..graph.ir import DTYPES, RESERVED, Array, Graph, Node, Quant, State, Value, Weight, replace
from . import OPS, constant_value, describe
from .integer import MAX_BIAS, MAX_MULTIPLIER
from .quantized import unreadable
from .spec import MAX_ELEMENTS, MAX_RANK

MAX_NODES = 100_000
MAX_SYMBOLS = 1000
MAX_CONDITIONS = 200
MAX_PROBLEMS = 20
"""That are told; then a graph is not looked at further."""
MAX_TEXT = 1000
"""Characters of a problem that are told."""
LIMITS = {"multiplier": MAX_MULTIPLIER, "bias": MAX_BIAS}
"""In magnitude, of the constants that requantize."""


def bind(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, int]:
    """The size of each symbol, from inputs that must have the graph's names, dtypes and shapes. Raises InputError."""
    missing = [name for name in graph.inputs if name not in feeds]
    surplus = sorted(feeds.keys() - set(graph.inputs))
    if missing or surplus:
        raise InputError(f"the inputs are {list(graph.inputs)}: missing {missing}, unexpected {surplus}")
    sizes: dict[str, int] = {}
    for name in graph.inputs:
        value, array = graph.values[name], feeds[name]
        if array.dtype != DTYPES[value.dtype]:
            raise InputError(f"input {name!r} must be {DTYPES[value.dtype]}, is {array.dtype}")
        if array.ndim != len(value.shape):
            remedy = ": add the batch axis with x[None]" if array.ndim == len(value.shape) - 1 else ""
            raise InputError(_shape_message(name, value, array) + remedy)
        for dim, size in zip(value.shape, array.shape, strict=True):
            if isinstance(dim, str) and dim in graph.symbols:
                sizes.setdefault(dim, size)
    for name in graph.inputs:
        value, array = graph.values[name], feeds[name]
        if any(dims.evaluate(dim, sizes) != size for dim, size in zip(value.shape, array.shape, strict=True)):
            raise InputError(_shape_message(name, value, array, sizes))
    symbols = limits.of_calls(graph)
    for symbol, size in sizes.items():
        if not limits.allowed(symbols[symbol], size):
            where = _axis_of(graph, symbol)
            raise InputError(f"{where} must be {limits.describe(graph.symbols[symbol])}; it is {size}")
    for condition in graph.conditions:
        if not dims.holds(condition, sizes):
            used = sorted(dims.symbols_of(condition.size))
            given = ", ".join(f"{_axis_of(graph, symbol)} is {sizes.get(symbol)}" for symbol in used)
            raise InputError(f"{limits.sentence(condition)}: {given}")
    return sizes


def _axis_of(graph: Graph, symbol: str) -> str:
    """How messages name a free size: where an input shows it."""
    places = (
        (name, axis) for name in graph.inputs for axis, dim in enumerate(graph.values[name].shape) if dim == symbol
    )
    name, axis = next(places, ("", 0))
    return f"axis {axis} of input {name!r} ({symbol})"


def _shape_message(name: str, value: Value, array: Array, sizes: Mapping[str, int] | None = None) -> str:
    free = {symbol: size for symbol, size in (sizes or {}).items() if any(dim == symbol for dim in value.shape)}
    known = f" with {', '.join(f'{symbol} = {size}' for symbol, size in free.items())}" if free else ""
    return f"input {name!r} must have shape [{', '.join(map(str, value.shape))}]{known}, has {list(array.shape)}"


def with_sizes(node: Node, sizes: Mapping[str, int]) -> Node:
    """The node with the size expressions in its attributes replaced by numbers."""
    attrs: dict[str, Any] = dict(node.attrs)
    for name, attr in OPS[node.op].attrs.items():
        if name in attrs and attr.kind == "dims":
            attrs[name] = tuple(dims.evaluate(dim, sizes) for dim in attrs[name])
        elif name in attrs and attr.kind == "dim":
            attrs[name] = dims.evaluate(attrs[name], sizes)
    return replace(node, attrs=attrs)


def without_states(graph: Graph) -> Graph:
    """The graph as a caller sees it: with the inputs and outputs that are no states."""
    kept = {name for state in graph.states for name in (state.input, state.output)}
    return replace(
        graph,
        inputs=tuple(name for name in graph.inputs if name not in kept),
        outputs=tuple(name for name in graph.outputs if name not in kept),
        states=(),
    )


def _but_states(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    kept = {state.input for state in graph.states}
    return {name: array for name, array in feeds.items() if name not in kept}


def run(graph: Graph, feeds: Mapping[str, Array], keep: Iterable[str] = ()) -> dict[str, Array]:
    """The outputs of a valid graph, and the values named in `keep`, by name.

    feeds: one array a graph input, of its dtype and shape; states that are not given begin anew. Raises InputError for
    other feeds.
    """
    if graph.states and not all(state.input in feeds for state in graph.states):
        feeds = {**begin(graph, bind(without_states(graph), _but_states(graph, feeds))), **feeds}
    sizes = bind(graph, feeds)
    keep = dict.fromkeys((*graph.outputs, *keep))
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    known: dict[str, Any] = {**feeds, **graph.constants}
    for index, node in enumerate(graph.nodes):
        arrays = [known[name] if name else None for name in node.inputs]
        known |= zip(node.outputs, OPS[node.op].reference(with_sizes(node, sizes), arrays), strict=True)
        for name in (*node.inputs, *node.outputs):
            if last.get(name, -1) <= index and name not in keep:
                known.pop(name, None)
    return {name: np.asarray(known[name]) for name in keep}


# ---------------------------------------------------------------------------------------------------------- validation


def validate(graph: Graph) -> Graph:
    """The graph itself, if it is valid. Raises GraphError that lists the problems, `MAX_PROBLEMS` of them at most."""
    with dims.bounded_steps():
        problems = list(islice(_problems(graph), MAX_PROBLEMS + 1))
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        if len(problems) > MAX_PROBLEMS:
            count, problems[-1] = f"more than {MAX_PROBLEMS} problems", "and more"
        lines = (problem[:MAX_TEXT] + "..." * (len(problem) > MAX_TEXT) for problem in problems)
        raise GraphError(f"the graph has {count}:\n" + "\n".join(f"  - {line}" for line in lines))
    return graph


def _problems(graph: Graph) -> Iterator[str]:
    for what, found, most in (
        ("nodes", graph.nodes, MAX_NODES),
        ("symbols", graph.symbols, MAX_SYMBOLS),
        ("conditions", graph.conditions, MAX_CONDITIONS),
    ):
        if len(found) > most:
            yield f"{len(found)} {what} are more than {most}"
            return
    free = list(_symbol_problems(graph)) or list(_condition_problems(graph))
    yield from free
    sound: set[str] = set()
    for name, value in graph.values.items():
        reasons = list(_value_problems(graph, value))
        yield from (f"value {name!r}: {reason}" for reason in reasons)
        if not reasons:
            sound.add(name)
    yield from _constant_problems(graph)
    if not free:  # else nothing can be said of sizes
        yield from _node_problems(graph, sound)
    if not graph.outputs:
        yield "there are no outputs"
    defined = {*graph.inputs, *graph.constants, *(name for node in graph.nodes for name in node.outputs)}
    for name in graph.outputs:
        if name not in defined or name not in graph.values:
            yield f"output {name!r} is not defined"
    if len(set(graph.inputs)) != len(graph.inputs):
        yield f"input names repeat: {list(graph.inputs)[:20]}"
    yield from _state_problems(graph)


def _state_problems(graph: Graph) -> Iterator[str]:
    seen: set[str] = set()
    for state in graph.states:
        what, values = f"state {state.input!r}", graph.values
        if state.input not in graph.inputs or graph.outputs.count(state.output) != 1:
            yield f"{what} is not a pair of an input and an output ({state.output!r})"
            continue
        if state.input not in values or state.output not in values:
            continue  # that is told elsewhere
        if seen & {state.input, state.output}:
            yield f"{what}: it, or its output {state.output!r}, is another state's, too"
        seen |= {state.input, state.output}
        value, given = values[state.input], values[state.output]
        if (value.dtype, value.shape) != (given.dtype, given.shape):
            yield f"{what} is {_type(value)}, and its output {state.output!r} is {_type(given)}"
        yield from _initial_problems(graph, state, value)
        if state.count:
            yield from _count_problems(graph, state, value)
        elif state.axis:
            yield f"{what} has an axis of positions, and no count of them"
    if graph.states and len(seen) == 2 * len(graph.states) == 2 * len(graph.outputs):
        yield "all outputs are states"


def _initial_problems(graph: Graph, state: State, value: Value) -> Iterator[str]:
    if not state.initial:
        return
    constant = graph.constants.get(state.initial)
    if constant is None or isinstance(constant, Weight):
        yield f"state {state.input!r} begins with {state.initial!r}, which is no constant array"
        return
    actual = constant_value(constant)
    fits = len(actual.shape) == len(value.shape) and all(
        a in (1, b) for a, b in zip(actual.shape, value.shape, strict=True)
    )
    if actual.dtype != value.dtype or not fits:
        yield f"state {state.input!r} is {_type(value)}, and cannot begin with {state.initial!r}, {_type(actual)}"


def _count_problems(graph: Graph, state: State, value: Value) -> Iterator[str]:
    what = f"state {state.input!r}"
    counter = next((each for each in graph.states if each.input == state.count), None)
    counts = graph.values.get(state.count)
    if counter is None or counter.count or counts is None or counts.dtype != "i64" or len(counts.shape) != 1:
        yield f"{what} is counted by {state.count!r}, which is no state i64 [batch]"
    elif not 0 < state.axis < len(value.shape) or value.shape[:1] != counts.shape:
        yield f"{what} is {_type(value)}: it has no axis {state.axis} of positions for {state.count!r}, {_type(counts)}"


def begin(graph: Graph, sizes: Mapping[str, int]) -> dict[str, Array]:
    """What the states of a graph begin with.

    sizes: of the symbols in their shapes.
    """
    states: dict[str, Array] = {}
    for state in graph.states:
        value = graph.values[state.input]
        states[state.input] = np.zeros([dims.evaluate(dim, sizes) for dim in value.shape], DTYPES[value.dtype])
        if state.initial:
            states[state.input][:] = graph.constants[state.initial]
    return states


def _symbol_problems(graph: Graph) -> Iterator[str]:
    bare = {dim for name in graph.inputs if name in graph.values for dim in graph.values[name].shape}
    for name, symbol in graph.symbols.items():
        if not dims.is_symbol_name(name):
            yield f"{name!r} is no name for a symbol"
        elif not 0 <= symbol.minimum <= symbol.maximum <= 2**31 - 1:
            yield f"symbol {name!r} has bounds [{symbol.minimum}, {symbol.maximum}]"
        elif not 0 <= symbol.remainder < symbol.multiple <= 2**31 - 1:
            yield f"symbol {name!r} is {symbol.remainder} more than a multiple of {symbol.multiple}"
        elif not limits.allowed(symbol, limits.nearest(symbol, symbol.minimum)):
            yield f"symbol {name!r} has no size: {limits.describe(symbol)}"
        elif name not in bare:
            yield f"symbol {name!r} is not the size of any input"


def _condition_problems(graph: Graph) -> Iterator[str]:
    for condition in graph.conditions:
        try:
            unknown = dims.symbols_of(condition.size) - graph.symbols.keys()
        except GraphError as error:
            yield f"a condition: {error}"
            return
        if unknown or condition.kind not in ("zero", "nonzero", "natural"):
            yield f"condition {condition.kind!r} of {condition.size}: unknown kind or symbols {sorted(unknown)}"
            return
    if graph.conditions and limits.smallest(graph.symbols, graph.conditions) is None:
        yield f"no sizes are possible: {'; '.join(map(limits.sentence, graph.conditions[:MAX_PROBLEMS]))}"


def _value_problems(graph: Graph, value: Value) -> Iterator[str]:
    if value.dtype in RESERVED:
        yield f"dtype {value.dtype!r} ({RESERVED[value.dtype]}) has no operators yet"
    elif value.dtype not in DTYPES:
        yield f"dtype {value.dtype!r} is not one of {', '.join(DTYPES)}"
    if len(value.shape) > MAX_RANK:
        yield f"rank {len(value.shape)} is more than {MAX_RANK}"
        return
    try:
        elements = 1
        for dim in value.shape:
            low, high = dims.bounds(dim, graph.symbols)
            if high < 0:
                yield f"size {dim} is negative"
            elements *= max(low, 1)
        if elements > MAX_ELEMENTS:
            yield f"shape {list(value.shape)} has more than 2^40 elements"
    except GraphError as error:
        yield str(error)
    if value.quant is not None:
        yield from _quant_problems(graph, value.quant, value.dtype)


def _quant_problems(graph: Graph, quant: Quant, dtype: str) -> Iterator[str]:
    for reference, expected in ((quant.scale, "f32"), (quant.zero_point, "u8")):
        if isinstance(reference, str) and (reference not in graph.values or graph.values[reference].dtype != expected):
            yield f"its quantization refers to {reference!r}, which is no {expected} value"
    if not isinstance(quant.scale, str) and not 0 < quant.scale <= float(np.finfo(np.float32).max):
        yield f"its scale {quant.scale} is not a positive float32"
    if dtype not in ("u8", "s8"):
        yield f"it is {dtype} but has a quantization"
    elif (
        not isinstance(quant.zero_point, str)
        and not np.iinfo(DTYPES[dtype]).min <= quant.zero_point <= np.iinfo(DTYPES[dtype]).max
    ):
        yield f"its zero point {quant.zero_point} is not a {dtype} code"


def _constant_problems(graph: Graph) -> Iterator[str]:
    inputs = set(graph.inputs)
    for name, constant in graph.constants.items():
        if name in inputs:
            yield f"constant {name!r} is also an input"
        value = graph.values.get(name)
        if value is None:
            yield f"constant {name!r} has no entry in values"
            continue
        try:
            actual = constant_value(constant)
        except GraphError as error:
            yield f"constant {name!r}: {error}"
            continue
        if (actual.dtype, actual.shape) != (value.dtype, value.shape):
            yield f"constant {name!r} is {_type(actual)}, its value says {_type(value)}"
        if isinstance(constant, Weight):
            yield from (f"weight {name!r}: {reason}" for reason in weights.problems(constant))


def _node_problems(graph: Graph, sound: set[str]) -> Iterator[str]:
    defined = {*graph.inputs, *graph.constants}
    names: set[str] = set()
    for name in graph.inputs:
        if name not in graph.values:
            yield f"input {name!r} has no entry in values"
    for node in graph.nodes:
        where = describe(node)
        if node.name in names:
            yield f"{where}: another node has that name"
        names.add(node.name)
        unknown = [name for name in node.inputs if name and name not in defined]
        if unknown:
            yield f"{where}: inputs {unknown[:20]} are not defined before it"
        for name in node.outputs:
            if not name or name in defined:
                yield f"{where}: output {name!r} is already defined" if name else f"{where}: an output has no name"
            elif name not in graph.values:
                yield f"{where}: output {name!r} has no entry in values"
        defined.update(node.outputs)
        if node.op not in OPS:
            yield f"{where}: there is no such operator"
        elif all(name in sound for name in node.inputs if name) and not unknown:
            yield from _typed_problems(graph, node, where)


def _typed_problems(graph: Graph, node: Node, where: str) -> Iterator[str]:
    op = OPS[node.op]
    try:
        outputs = op.infer(node, [graph.values[name] if name else None for name in node.inputs], graph)
    except GraphError as error:
        yield str(error)
        return
    for name, inferred in zip(node.outputs, outputs, strict=True):
        stated = graph.values.get(name)
        try:
            same = stated is None or _same_type(graph, stated, inferred)
        except GraphError as error:
            yield f"{where}: {error}"
            return
        if stated is not None and not same:
            yield f"{where}: output {name!r} is {_type(inferred)}, its value says {_type(stated)}"
    yield from _operand_problems(graph, node, where)


def _type(value: Value) -> str:
    return f"{value.dtype} {list(value.shape)}"


def _same_type(graph: Graph, a: Value, b: Value) -> bool:
    same = a.dtype == b.dtype and len(a.shape) == len(b.shape)
    try:
        pairs = zip(a.shape, b.shape, strict=True) if same else ()
        return same and all(dims.equal(x, y, graph.symbols, graph.conditions) for x, y in pairs)
    except dims.TooManySteps:
        raise
    except GraphError:
        return False


def _operand_problems(graph: Graph, node: Node, where: str) -> Iterator[str]:
    """Inputs that must be constants, weights, finite."""
    op = OPS[node.op]
    for position, name in enumerate(node.inputs):
        spec, constant = op.input(position), graph.constants.get(name)
        if not name:
            continue
        if spec.constant and constant is None:
            yield f"{where}: input {position} ({spec.name}) must be a constant, {name!r} is not"
        elif spec.weight and not isinstance(constant, Weight):
            yield f"{where}: input {position} ({spec.name}) must be a quantized weight"
        elif spec.weight and isinstance(constant, Weight):
            reason = unreadable(node, constant)
            if reason:
                yield f"{where}: input {position} ({spec.name}): {reason}"
        elif spec.name in LIMITS and not (np.abs(np.asarray(constant)) <= LIMITS[spec.name]).all():
            yield f"{where}: input {position} ({spec.name}) has a value that is not finite or too large"
