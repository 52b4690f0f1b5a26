"""What a layer costs in int8 and in float32: by default a roofline with fixed figures, which is reproducible.

    time = OVERHEAD + max(multiply-adds / rate, bytes moved / bandwidth)

The figures are those of one core with AVX512-VNNI, with the efficiency that the kernels reach. What decides is their
ratios, which differ little between CPUs. `MeasuredCosts` times sessions of one node on this machine instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .. import dims, limits
from ..ir import Array, Attribute, Graph, Node, Weight, replace
from ..ops import OPS, attributes, constant_value, infer
from ..packings import OF_BITS
from ..session import Session
from .layers import CONVOLUTIONS

OVERHEAD = 0.5
"""Microseconds for each node of a plan."""
BANDWIDTH = 20e3
"""Bytes a microsecond, read or written."""
RATES = {"float32": 55e3, "int8": 250e3}
"""Multiply-adds a microsecond in dense layers."""
DEPTHWISE_RATES = {"float32": 12e3, "int8": 45e3}
"""Multiply-adds a microsecond in depthwise convolutions."""
NOMINAL = 64
"""Of a free sequence length, where no calibration data show a typical one."""
GEOMETRY = ("stride", "padding", "dilation", "groups", "output_padding")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Microseconds of one layer in both forms, and of the conversions between it and float32 neighbours."""

    int8: float
    float32: float
    to_codes: float
    """Quantizing its input."""
    to_float: float
    """Dequantizing its output, where it makes codes."""


class Costs:
    """The deterministic costs of a graph's layers, at given sizes of its symbols, else at `nominal_sizes`."""

    verb = "by the cost model"

    def __init__(self, graph: Graph, sizes: Mapping[str, int] | None = None) -> None:
        self.graph, self.sizes = graph, {**nominal_sizes(graph), **(sizes or {})}

    def shape(self, value: str) -> tuple[int, ...]:
        """The numbers behind a value's shape."""
        return tuple(dims.evaluate(dim, self.sizes) for dim in self.graph.values[value].shape)

    def layer(self, node: Node, *, dynamic: bool, group_size: int = 0, bits: int = 4) -> Cost:
        """The costs of a layer; `dynamic`: its input's range is found at run time, its output is float.

        group_size: of weights that have `bits` bits as codes, a half-float scale a group; 0: eight bits.
        """
        x, weight, y = (math.prod(self.shape(name)) for name in (*node.inputs[:2], node.outputs[0]))
        residual = y if len(node.inputs) > 3 and node.inputs[3] else 0
        # Every weight is met once by each output pixel, or input pixel of a transposed convolution.
        transposed = "output_padding" in node.attrs
        pixels = x // self.shape(node.inputs[0])[1] if transposed else y // self.shape(node.inputs[1])[0]
        work = weight * pixels
        rates = DEPTHWISE_RATES if self._is_depthwise(node) else RATES

        coded = weight * (bits / 8 + 2 / group_size if group_size else 1.0)

        def total(kind: str, width: int, width_y: int) -> float:
            # To floats whose range is found at run time, the residual is added in a pass of its own.
            added = residual * (12 if dynamic and kind == "int8" else width)
            moved = x * width + (coded if kind == "int8" else 4 * weight) + added + y * width_y
            return OVERHEAD + max(work / rates[kind], moved / BANDWIDTH)

        return Cost(
            int8=total("int8", 1, 4 if dynamic else 1),
            float32=total("float32", 4, 4),
            to_codes=OVERHEAD + x * (9 if dynamic else 5) / BANDWIDTH,
            to_float=OVERHEAD + y * 5 / BANDWIDTH,
        )

    def _is_depthwise(self, node: Node) -> bool:
        filters = self.shape(node.inputs[1])[0]
        return node.op in CONVOLUTIONS and node.attrs.get("groups", 1) == filters != 1


def nominal_sizes(graph: Graph) -> dict[str, int]:
    """Sizes to price a graph at: one sample, `NOMINAL` for any other free size, within their bounds.

    A size is of samples if it leads the shape of an input.
    """
    leading = {graph.values[name].shape[0] for name in graph.inputs if graph.values[name].shape}
    return {name: limits.nearest(symbol, 1 if name in leading else NOMINAL) for name, symbol in graph.symbols.items()}


class MeasuredCosts(Costs):
    """Costs by timing sessions of one node on this machine; equal layers are timed once."""

    verb = "measured here"

    def __init__(self, graph: Graph, sizes: Mapping[str, int] | None = None, threads: int | None = None) -> None:
        super().__init__(graph, sizes)
        self._threads = threads
        self._known: dict[object, Cost] = {}

    def layer(self, node: Node, *, dynamic: bool, group_size: int = 0, bits: int = 4) -> Cost:
        """The costs of a layer, in microseconds of the fastest of several runs."""
        given = attributes(OPS[node.op], node)
        geometry = {key: given[key] for key in GEOMETRY if key in given}
        shapes = tuple(self.shape(name) for name in (*node.inputs[:2], node.outputs[0]))
        key = (node.op, shapes, tuple(geometry.items()), dynamic, group_size, bits)
        if key not in self._known:
            self._known[key] = self._time(node.op, shapes, geometry, dynamic, group_size, bits)
        return self._known[key]

    def _time(
        self,
        op: str,
        shapes: tuple[tuple[int, ...], ...],
        geometry: Mapping[str, Attribute],
        dynamic: bool,
        group_size: int,
        bits: int,
    ) -> Cost:
        shape_x, shape_w, shape_y = shapes
        rng = np.random.default_rng(0)
        floats, codes = rng.standard_normal(shape_x).astype(np.float32), rng.integers(0, 256, shape_x).astype(np.uint8)
        weight = _made_up(rng, shape_w, group_size, bits)
        channels = np.full(shape_w[0], 1e-3, np.float32)
        affine: dict[str, Attribute] = {"scale": 0.1, "zero_point": 9}
        granularity = "row" if op == "linear" else "sample"
        output = "f32" if dynamic else "u8"
        return Cost(
            int8=self._run(
                f"{op}_i{bits if group_size else 8}",
                {**geometry, "zero_point_x": 128, "zero_point_y": 128, "output": output},
                codes,
                weight,
                channels,
                channels,
            ),
            float32=self._run(op, geometry, floats, rng.standard_normal(shape_w).astype(np.float32), channels),
            to_codes=self._run("dynamic_quantize", {"granularity": granularity}, floats)
            if dynamic
            else self._run("quantize", affine, floats),
            to_float=self._run("dequantize", affine, rng.integers(0, 256, shape_y).astype(np.uint8)),
        )

    def _run(self, op: str, attrs: Mapping[str, Attribute], x: Array, *constants: Array | Weight) -> float:
        given: dict[str, Array | Weight] = {f"c{index}": constant for index, constant in enumerate(constants)}
        values = {"x": constant_value(x), **{name: constant_value(constant) for name, constant in given.items()}}
        outputs = tuple(f"y{index}" for index in range(OPS[op].outputs))
        node = Node(op=op, name="probe", inputs=("x", *given), outputs=outputs, attrs=dict(attrs))
        graph = Graph(inputs=("x",), outputs=outputs, values=values, nodes=(node,), constants=given)
        graph = replace(graph, values={**values, **dict(zip(outputs, infer(node, graph), strict=True))})
        session = Session(graph, threads=self._threads)
        return fastest(lambda: session.run(x))


def _made_up(rng: np.random.Generator, shape: tuple[int, ...], group_size: int, bits: int) -> Weight:
    """A weight of random codes, packed ones in groups."""
    if not group_size:
        return Weight(codes=rng.integers(-127, 128, shape).astype(np.int8), scales=np.ones(shape[0], np.float32))
    packing = OF_BITS[bits]
    filters, channels, *window = shape
    groups = math.prod(shape[1:]) // group_size
    return Weight(
        codes=rng.integers(-packing.middle, packing.middle, (filters, *window, channels)).astype(np.int8),
        scales=np.ones((shape[0], groups), np.float16),
        bits=packing.bits,
        group_size=group_size,
        packing=packing.name,
    )


def fastest(call: Callable[[], object], budget: float = 0.02) -> float:
    """Microseconds of the fastest run within about `budget` seconds, after a warm-up."""
    call()
    best, begin, runs = math.inf, time.perf_counter(), 0
    while runs < 5 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        call()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best * 1e6
