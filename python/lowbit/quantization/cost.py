"""What a layer costs in int8 and in float32: by default estimated for a target, which is reproducible.

A target is an instruction set; its figures are in `rates.py`. `MeasuredCosts` times sessions of one node on this
machine instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..graph import dims, limits
from ..graph.ir import Array, Attribute, Graph, Node, Value, Weight, replace
from ..graph.weights import middle
from ..ops import OPS, attributes, constant_value, infer
from ..passes.layers import LAYERS
from ..runtime.limits import OWN
from ..runtime.session import Session
from ..runtime.targets import this_level
from . import rates

NOMINAL = 64
"""Of a free sequence length, where no calibration data show a typical one."""
NOISE = 1.05
"""How many times as long a layer must take to be called slower."""
GEOMETRY = ("stride", "padding", "dilation", "groups", "output_padding")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Microseconds of one layer in both forms, and of the conversions between it and float32 neighbours."""

    int8: float
    """With the output that is usual: codes, or floats where its input's range is found at run time."""
    int8_floats: float
    """With floats as output."""
    float32: float
    to_codes: float
    """Quantizing its input."""
    to_float: float
    """Dequantizing its output, where it makes codes."""


def target_of(name: str | None = None) -> str:
    """The target of that name; None: this CPU's instruction set, as LOWBIT_ISA caps it. Raises InputError."""
    if name is None:
        return this_level()
    if name not in rates.RATES:
        raise InputError(f"target must be one of {', '.join(rates.RATES)}, or None for this CPU's own, is {name!r}")
    return name


class Costs:
    """The deterministic costs of a graph's layers on a target, at given sizes of its symbols, else `nominal_sizes`."""

    verb = "by the cost model"
    margin = rates.MARGIN
    """How many times faster than in float32 a layer must be in int8."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int] | None = None, target: str | None = None) -> None:
        self.graph, self.sizes = graph, {**nominal_sizes(graph), **(sizes or {})}
        self._rates = rates.RATES[target_of(target)]

    def shape(self, value: str) -> tuple[int, ...]:
        """The numbers behind a value's shape."""
        return tuple(dims.evaluate(dim, self.sizes) for dim in self.graph.values[value].shape)

    def layer(self, node: Node, *, dynamic: bool, group_size: int = 0, bits: int = 4) -> Cost:
        """The costs of a layer; `dynamic`: its input's range is found at run time, its output is float.

        group_size: of weights that have `bits` bits as codes, a half-float scale a group; 0: eight bits.
        """
        shape_x, shape_w, shape_y = (self.shape(name) for name in (*node.inputs[:2], node.outputs[0]))
        size_x, size_w, size_y = math.prod(shape_x), math.prod(shape_w), math.prod(shape_y)
        residual = size_y if len(node.inputs) > 3 and node.inputs[3] else 0
        transposed = "output_padding" in node.attrs
        pixels = size_x // shape_x[1] if transposed else size_y // shape_w[0]

        def total(form: str) -> float:
            shapes = (shape_x, shape_w, shape_y)
            return self._rates.layer(*shapes, node.attrs, pixels=pixels, form=form, direct=group_size > 0)

        form, added = "int8", residual * self._rates.add / 4
        if dynamic:  # the residual is added to floats, in a pass of its own
            form, added = "dynamic", residual and residual * self._rates.add + self._rates.node
        saved = (1 - bits / 8 - 2 / group_size) * size_w * self._rates.dense[form][3] if group_size else 0.0
        range_ = self._rates.find_range if dynamic else 0.0
        return Cost(
            int8=(total(form) - saved + added) / 1e3,
            int8_floats=(total("dynamic") - saved + added) / 1e3,
            float32=(total("float32") + residual * self._rates.add / 2) / 1e3,
            to_codes=(self._rates.node + size_x * (self._rates.quantize + range_)) / 1e3,
            to_float=(self._rates.node + size_y * self._rates.dequantize) / 1e3,
        )

    def scan(self, node: Node) -> Cost:
        """The costs of a recurrent layer, with its weight as codes and as floats; it reads and makes floats."""
        (steps, batch, _), (rows, outputs) = self.shape(node.inputs[0]), self.shape(node.inputs[1])
        int8, float32 = (steps * self._rates.step(form, batch, rows, outputs) / 1e3 for form in ("int8", "float32"))
        return Cost(int8=int8, int8_floats=int8, float32=float32, to_codes=0.0, to_float=0.0)

    def sparse_share(self, pattern: str, sparsity: float) -> float:
        """What a layer of int8 takes whose weights are zero in blocks, as a share of the dense one; at most all."""
        return self._rates.sparse(pattern, sparsity)

    def function(self, node: Node, *, is_slope: bool) -> tuple[float, float]:
        """Microseconds of a function of one value: on a layer's codes, in its epilogue, and on float32."""
        size = math.prod(self.shape(node.outputs[0]))
        is_cheap = node.op != "unary" or node.attrs["kind"] in rates.CHEAP
        each = self._rates.cheap if is_cheap else self._rates.costly
        coded = self._rates.slope if is_slope else self._rates.table
        return size * coded / 1e3, (self._rates.node + size * each) / 1e3

    def other(self, node: Node, is_coded: bool) -> float:
        """Microseconds of a node that is no layer, about: what its output takes to write, as codes or floats."""
        size = math.prod(self.shape(node.outputs[0]))
        return (self._rates.node + size * self._rates.add / (4 if is_coded else 1)) / 1e3


def nominal_sizes(graph: Graph) -> dict[str, int]:
    """Sizes to price a graph at: one sample, `NOMINAL` for any other free size, within their bounds.

    A size is of samples if it leads the shape of an input.
    """
    leading = {graph.values[name].shape[0] for name in graph.inputs if graph.values[name].shape}
    return {name: limits.nearest(symbol, 1 if name in leading else NOMINAL) for name, symbol in graph.symbols.items()}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a layer computes, whoever it is: the shapes of its input, float32 weight and output, and its codes."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    geometry: tuple[tuple[str, Attribute], ...]
    dynamic: bool
    group_size: int
    bits: int


def _geometry(node: Node) -> tuple[tuple[str, Attribute], ...]:
    given = attributes(OPS[node.op], node)
    return tuple((key, given[key]) for key in GEOMETRY if key in given)


class MeasuredCosts(Costs):
    """Costs by timing sessions of one node on this machine; equal layers are timed once."""

    verb = "measured here"
    margin = 1.0

    def __init__(self, graph: Graph, sizes: Mapping[str, int] | None = None, threads: int | None = None) -> None:
        super().__init__(graph, sizes)
        self._threads = threads
        self._known: dict[Work, Cost] = {}

    def layer(self, node: Node, *, dynamic: bool, group_size: int = 0, bits: int = 4) -> Cost:
        """The costs of a layer, in microseconds of the fastest of several runs."""
        x, w, y = (self.shape(name) for name in (*node.inputs[:2], node.outputs[0]))
        work = Work(
            op=node.op, x=x, w=w, y=y, geometry=_geometry(node), dynamic=dynamic, group_size=group_size, bits=bits
        )
        if work not in self._known:
            self._known[work] = self._time(work)
        return self._known[work]

    def _time(self, work: Work) -> Cost:
        int8, float32 = self.both(work)
        int8_floats = int8 if work.dynamic else self.both(replace(work, dynamic=True))[0]
        floats = np.random.default_rng(0).standard_normal(work.x).astype(np.float32)
        affine: dict[str, Attribute] = {"scale": 0.1, "zero_point": 9}
        granularity = "row" if work.op == "linear" else "sample"
        return Cost(
            int8=int8,
            int8_floats=int8_floats,
            float32=float32,
            to_codes=self._run("dynamic_quantize", {"granularity": granularity}, floats)
            if work.dynamic
            else self._run("quantize", affine, floats),
            to_float=self._run("dequantize", affine, _made_up_codes(work.y)),
        )

    def scan(self, node: Node) -> Cost:
        """The costs of a recurrent layer of as many steps and samples."""
        gates, shape = self.shape(node.inputs[0]), self.shape(node.inputs[1])
        kind = tuple((key, value) for key, value in node.attrs.items() if key == "kind")
        key = Work(op=node.op, x=gates, w=shape, y=(), geometry=kind, dynamic=True, group_size=0, bits=8)
        if key not in self._known:
            rng = np.random.default_rng(0)
            x, w = rng.standard_normal(gates).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
            int8 = self._run(f"quantized_{node.op}", dict(kind), x, made_up(rng, shape, 0, 8))
            float32 = self._run(node.op, dict(kind), x, w)
            self._known[key] = Cost(int8=int8, int8_floats=int8, float32=float32, to_codes=0.0, to_float=0.0)
        return self._known[key]

    def both(self, work: Work) -> tuple[float, float]:
        """Microseconds of a layer on codes and in float32, without residual and activation."""
        rng = np.random.default_rng(0)
        floats, w = (rng.standard_normal(shape).astype(np.float32) for shape in (work.x, work.w))
        channels = np.full(work.w[0], 1e-3, np.float32)
        weight = made_up(rng, work.w, work.group_size, work.bits)
        geometry, output = dict(work.geometry), "f32" if work.dynamic else "u8"
        attrs: dict[str, Attribute] = {**geometry, "zero_point_x": 128, "zero_point_y": 128, "output": output}
        coded = self._run(f"quantized_{work.op}", attrs, _made_up_codes(work.x), weight, channels, channels)
        return coded, self._run(work.op, geometry, floats, w, channels)

    def coded(self, node: Node, weight: Weight, *, dynamic: bool) -> float:
        """Microseconds of a layer on codes with that weight, without residual and activation."""
        channels = np.full(weight.shape[0], 1e-3, np.float32)
        output: dict[str, Attribute] = {"zero_point_x": 128, "zero_point_y": 128, "output": "f32" if dynamic else "u8"}
        attrs = {**dict(_geometry(node)), **output}
        return self._run(f"quantized_{node.op}", attrs, _made_up_codes(self.shape(node.inputs[0])), weight, channels,
                         channels)  # fmt: skip

    def _run(self, op: str, attrs: Mapping[str, Attribute], x: Array, *constants: Array | Weight) -> float:
        session = Session(alone(op, attrs, x, *constants), threads=self._threads, limits=OWN)
        return fastest(lambda: next(row.seconds for row in session.profile(x, repeats=3) if row.node == "probe"))


def slower_here(
    graph: Graph, sizes: Mapping[str, int] | None = None, threads: int | None = None
) -> dict[str, tuple[float, float]]:
    """The layers on codes that take longer on this machine than in float32: microseconds in both forms.

    Each is timed alone, without its activation, its residual, and conversions around it.
    """
    costs = MeasuredCosts(graph, sizes, threads)
    timed: dict[Work, tuple[float, float]] = {}
    found: dict[str, tuple[float, float]] = {}
    for node in graph:
        op = node.op.removeprefix("quantized_")
        weight = graph.constants.get(node.inputs[1]) if op != node.op and op in LAYERS else None
        if not isinstance(weight, Weight):
            continue
        work = Work(
            op=op,
            x=costs.shape(node.inputs[0]),
            w=weight.shape,
            y=costs.shape(node.outputs[0]),
            geometry=_geometry(node),
            dynamic=len(node.inputs) > 6 and node.inputs[6] != "",
            group_size=weight.group_size,
            bits=weight.bits,
        )
        if work not in timed:
            timed[work] = costs.both(work)
        if timed[work][0] > NOISE * timed[work][1]:
            found[node.name] = timed[work]
    return found


def alone(op: str, attrs: Mapping[str, Attribute], x: Array, *constants: Array | Weight) -> Graph:
    """A graph whose node "probe" reads what a pool makes of an input like x: images lie as layers leave them."""
    given: dict[str, Array | Weight] = {f"c{index}": constant for index, constant in enumerate(constants)}
    values: dict[str, Value] = {
        "x": constant_value(x),
        **{name: constant_value(constant) for name, constant in given.items()},
    }
    ones: dict[str, Attribute] = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0, 0, 0)}
    pool = Node(op="max_pool2d", name="pool", inputs=("x",), outputs=("pooled",), attrs=ones)
    outputs = tuple(f"y{index}" for index in range(OPS[op].outputs))
    first = "pooled" if x.ndim == 4 else "x"
    probe = Node(op=op, name="probe", inputs=(first, *given), outputs=outputs, attrs=dict(attrs))
    graph = Graph(inputs=("x",), outputs=outputs, values=values, nodes=(), constants=given)
    for node in (pool, probe) if x.ndim == 4 else (probe,):
        made = dict(zip(node.outputs, infer(node, graph), strict=True))
        graph = replace(graph, nodes=(*graph.nodes, node), values={**graph.values, **made})
    return graph


def _made_up_codes(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def usual_codes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Codes of weights with a normal distribution, int8, the largest of each output 127: kernels may depend on that."""
    w = rng.standard_normal(shape)
    codes: Array = np.rint(w * (127 / np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True))).astype(np.int8)
    return codes


def made_up(rng: np.random.Generator, shape: tuple[int, ...], group_size: int, bits: int) -> Weight:
    """A weight of random codes, those of few bits in groups."""
    if not group_size:
        return Weight(codes=usual_codes(rng, shape), scales=np.ones(shape[0], np.float32))
    groups = math.prod(shape[1:]) // group_size
    return Weight(
        codes=rng.integers(-middle(bits), middle(bits), shape).astype(np.int8),
        scales=np.ones((shape[0], groups), np.float16),
        bits=bits,
        group_size=group_size,
    )


def fastest(seconds: Callable[[], float], budget: float = 0.02) -> float:
    """Microseconds: the least that `seconds` gives within about `budget` seconds, after a warm-up."""
    seconds()
    best, begin, runs = math.inf, time.perf_counter(), 0
    while runs < 5 or time.perf_counter() - begin < budget:
        best, runs = min(best, seconds()), runs + 1
    return best * 1e6
