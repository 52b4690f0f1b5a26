"""Makes layers whose inputs and weights are signs compare and count bits: XNOR nets (https://arxiv.org/abs/1603.05279)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..graph.ir import Array, Graph, Node, Weight
from .rewrite import Rewriter, rewrite

LEAST_DEPTH = 32
"""Inputs of a channel that make it worth while: they fill a word."""
_MOST = 4
"""Numbers of a value that are kept track of."""
_MOVES = {
    "reshape", "transpose", "slice", "expand", "concat", "max_pool2d", "adaptive_max_pool2d", "gather", "index", "take",
}  # fmt: skip
"""Operators whose results are among the numbers of their first input, or of all for a concat."""
_PAIRS: dict[str, Callable[[np.float32, np.float32], np.float32]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "minimum": np.minimum, "maximum": np.maximum,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sign": lambda x: float(np.sign(x)), "neg": lambda x: -x, "abs": abs, "relu": lambda x: max(x, 0.0),
}  # fmt: skip
Numbers = frozenset[float]
_SIGNS: Numbers = frozenset({-1.0, 0.0, 1.0})


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A value that a comparison with zero decides: `high` where x >= 0 (zero 1) or x > 0 (zero -1), else `low`."""

    x: str
    zero: int
    low: float
    high: float


def count_signs(graph: Graph) -> Graph:
    """Let linear layers and convolutions without groups, of signs times signs, count bits.

    before: conv2d(sign(x), w)                with weights -a and a, a number for each output channel
    after:  sign_conv2d(pack_signs(x), w)     with the same weights in one bit each

    Inputs are signs where only -s, 0 and s can come from what makes them: sign, a choice by a comparison, arithmetic
    with constants, pools, and what only moves numbers. A zero adds nothing, as in torch. What a straight-through
    estimator writes, (s - x) + x, is s. Weights may differ from one another by what a sum of so many may be rounded.
    """
    return rewrite(graph, _Signs())


class _Signs:
    """The rule, with what is known of the values so far."""

    def __init__(self) -> None:
        self._numbers: dict[str, Numbers] = {}
        self._steps: dict[str, _Step] = {}
        self._packed: dict[tuple[str, int, int], str] = {}

    def __call__(self, r: Rewriter, node: Node) -> Node:
        if node.op in ("linear", "conv2d"):
            return self._layer(r, node) or node
        through = self._straight_through(r, node)
        if through is not None:
            self._know(node.outputs[0], through)
            return Node(
                op="reshape",
                name=node.name,
                inputs=(through,),
                outputs=node.outputs,
                source=node.source,
                attrs={"shape": r.values[node.outputs[0]].shape},
            )
        self._note(r, node)
        return node

    # ---------------------------------------------------------------------------------------------- which numbers

    def _know(self, value: str, like: str) -> None:
        if like in self._numbers:
            self._numbers[value] = self._numbers[like]
        if like in self._steps:
            self._steps[value] = self._steps[like]

    def numbers(self, r: Rewriter, value: str) -> Numbers | None:
        """What a value can hold, if that is little."""
        if value not in self._numbers:
            array = r.array(value)
            if array is None or array.dtype.kind not in "fb" or array.size == 0:
                return None
            some = np.unique(array.reshape(-1)[:64])
            every = some if some.size > _MOST else np.unique(array)
            if every.size > _MOST or not np.isfinite(every.astype(np.float64)).all():
                return None
            self._numbers[value] = frozenset(map(float, every))
        return self._numbers[value]

    def _note(self, r: Rewriter, node: Node) -> None:
        """What is known of a node's output."""
        found, step = self._of(r, node), self._step_of(r, node)
        if found is not None and len(found) <= _MOST and all(map(np.isfinite, found)):
            self._numbers[node.outputs[0]] = found
        if step is not None:
            self._steps[node.outputs[0]] = step

    def _of(self, r: Rewriter, node: Node) -> Numbers | None:
        kind = str(node.attrs.get("kind", ""))
        if node.op == "unary" and kind == "sign":
            return frozenset(map(_FUNCTIONS[kind], self.numbers(r, node.inputs[0]) or _SIGNS))
        if node.op in ("compare", "logical", "logical_not"):
            return frozenset({0.0, 1.0})
        count = {"where": 3, "concat": len(node.inputs), **dict.fromkeys(_PAIRS, 2)}.get(node.op, 1)
        inputs = [self.numbers(r, name) for name in node.inputs[node.op == "where" : count]]
        known = [numbers for numbers in inputs if numbers is not None]
        if len(known) < len(inputs) or not known:
            return None
        if node.op in _PAIRS:
            return frozenset(float(_PAIRS[node.op](np.float32(a), np.float32(b))) for a, b in itertools.product(*known))
        if node.op == "unary":
            return frozenset(map(_FUNCTIONS[kind], known[0])) if kind in _FUNCTIONS else None
        if node.op == "clip":
            low, high = node.number("min", -np.inf), node.number("max", np.inf)
            return frozenset(min(max(x, low), high) for x in known[0])
        if node.op == "pad":
            return known[0] | {node.number("value")}
        if node.op == "cast":
            return known[0] if r.values[node.outputs[0]].dtype == "f32" else None
        return known[0].union(*known) if node.op in _MOVES or node.op == "where" else None

    def _step_of(self, r: Rewriter, node: Node) -> _Step | None:
        """Of a comparison with zero, and what is made of it."""
        name = node.inputs[0] if node.inputs else ""
        if node.op == "compare" and r.scalar(node.inputs[1]) == 0 and r.values[name].dtype == "f32":
            zero = {"ge": 1, "gt": -1}.get(str(node.attrs.get("kind")))
            same = r.values[node.outputs[0]].shape == r.values[name].shape
            return _Step(x=name, zero=zero, low=0.0, high=1.0) if zero is not None and same else None
        place = next((i for i, each in enumerate(node.inputs) if each in self._steps), None)
        if place is None:
            return None
        step = self._steps[node.inputs[place]]
        if r.values[node.outputs[0]].shape != r.values[step.x].shape:
            return None
        if node.op == "cast":
            return step
        if node.op == "where" and place == 0:
            high, low = (self._only(r, each) for each in node.inputs[1:])
            return None if high is None or low is None else _Step(x=step.x, zero=step.zero, low=low, high=high)
        other = self._only(r, node.inputs[1 - place]) if node.op in _PAIRS else None
        if other is None:
            return None
        ends = [
            float(_PAIRS[node.op](*map(np.float32, (end, other) if place == 0 else (other, end))))
            for end in (step.low, step.high)
        ]
        return _Step(x=step.x, zero=step.zero, low=ends[0], high=ends[1])

    def _only(self, r: Rewriter, value: str) -> float | None:
        numbers = self.numbers(r, value)
        return next(iter(numbers)) if numbers is not None and len(numbers) == 1 else None

    def _straight_through(self, r: Rewriter, node: Node) -> str | None:
        """s, where the node is (s - x) + x and s are signs."""
        for place in (0, 1) if node.op == "add" else ():
            difference = r.producer(node.inputs[place])
            if difference is None or difference.op != "sub" or difference.inputs[1] != node.inputs[1 - place]:
                continue
            s = difference.inputs[0]
            numbers = self.numbers(r, s)
            if numbers is not None and _size(numbers) and r.values[s].shape == r.values[node.outputs[0]].shape:
                return s
        return None

    # ------------------------------------------------------------------------------------------------------ layers

    def _layer(self, r: Rewriter, node: Node) -> Node | None:
        numbers = self.numbers(r, node.inputs[0])
        weight = r.array(node.inputs[1])
        if numbers is None or weight is None or node.integer("groups", 1) != 1 or weight.shape[1] < LEAST_DEPTH:
            return None
        size = _size(numbers)
        if size == 0 or len(node.inputs) > 3:
            return None
        sizes = _sizes(weight)
        bias = r.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(len(weight), np.float32)
        multiplier = np.float32(size) * sizes if sizes is not None else None
        if sizes is None or multiplier is None or bias is None or not _small(multiplier, bias):
            return None
        packed = self._pack(r, node, size)
        coded = _coded(weight, sizes)
        name = r.constant(coded, f"{node.name}.signs")
        inputs = (
            packed,
            name,
            r.constant(multiplier, f"{node.name}.multiplier"),
            r.constant(bias, f"{node.name}.bias"),
        )
        attrs = {key: value for key, value in node.attrs.items() if not key.startswith("activation_")}
        bounds = {key[-3:]: value for key, value in node.attrs.items() if key.startswith("activation_")}
        return Node(
            op=f"sign_{node.op}",
            name=node.name,
            inputs=inputs,
            outputs=node.outputs,
            source=node.source,
            attrs={**attrs, "output": "f32", **bounds},
        )

    def _pack(self, r: Rewriter, node: Node, size: float) -> str:
        """The layer's input in bits: of what a sign is taken of, where that is near."""
        axis = 1 if node.op == "conv2d" else -1
        value, zero = self._before(r, node.inputs[0], size)
        view = r.producer(value)
        if view is not None and view.op == "reshape" and r.is_private(value):
            inner, zero = self._before(r, view.inputs[0], size)
            if inner != view.inputs[0]:
                value = r.insert("reshape", inner, like=node, **view.attrs)
        key = (value, zero, axis)
        if key not in self._packed:
            self._packed[key] = r.insert("pack_signs", value, like=node, axis=axis, zero=zero)
        return self._packed[key]

    def _before(self, r: Rewriter, value: str, size: float) -> tuple[str, int]:
        """What a sign is taken of, and what zeros count as; or the value itself."""
        step, maker = self._steps.get(value), r.producer(value)
        if step is not None and (step.low, step.high) == (-size, size):
            return step.x, step.zero
        if maker is not None and maker.op == "unary" and maker.attrs.get("kind") == "sign":
            return maker.inputs[0], 0
        return value, 0


def _size(numbers: Numbers) -> float:
    """s, if these are -s, 0 and s or some of them; else 0."""
    size = max(map(abs, numbers))
    return size if numbers <= {-size, 0.0, size} else 0.0


def _sizes(weight: Array) -> Array | None:
    """The magnitude of each output channel's weights, if they have one."""
    rows = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
    low, high = rows.min(axis=1), rows.max(axis=1)
    even = low + high
    rounding = rows.shape[1] * 2.0**-24
    return (even / 2).astype(np.float32) if (high - low <= rounding * even / 2).all() else None


def _coded(weight: Array, sizes: Array) -> Weight:
    """A channel of zeros has a scale, too, which nothing multiplies."""
    scales = np.where(sizes > 0, sizes, np.float32(1))
    return Weight(codes=(weight > 0).astype(np.int8), scales=scales, bits=1, values=np.array([-1, 1], np.float32))


def _small(multiplier: Array, bias: Array) -> bool:
    return bool((multiplier <= 1e27).all() and (np.abs(bias) <= 1e37).all())
