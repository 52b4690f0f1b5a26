"""What a report is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..graph.ir import DTYPES, Graph, Node
from ..graph.weights import BITS, Stored
from ..ops.quantized import QUANTIZED, SIGNS

CODED = tuple(f"int{bits}" for bits in BITS)
"""What layers on codes are, by the bits of their weights."""
CONVERSIONS = ("quantize", "dequantize", "dynamic_quantize", "quantize_groups")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a call.

    Args:
        node: The node.
        op: Its operator.
        kind: What it computes on: see `kind_of`.
        kernel: The compiled function that ran.
        seconds: The median of the calls.
        operations: Of one call; a multiply-add counts two.
        bytes: Of its constants.
        float_seconds: In the float graph, if that was measured.
        sqnr: Of its output against the float graph, in dB, if that was measured.
        near: How near it comes to the machine's limit, and to which, such as `84 % int8`.
    """

    node: str
    op: str
    kind: str
    kernel: str
    seconds: float
    operations: float
    bytes: int
    float_seconds: float | None = None
    sqnr: float | None = None
    near: str = ""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one call of one contestant takes.

    Args:
        name: The contestant.
        lowest: Seconds, the lowest of the interleaved rounds' medians.
        median: Seconds, their median.
    """

    name: str
    lowest: float
    median: float


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """How far an output is from the float graph's.

    Args:
        name: The output.
        sqnr: In dB.
        largest: The largest difference of an element.
        scale: The largest float value.
    """

    name: str
    sqnr: float
    largest: float
    scale: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a report shows.

    Args:
        name: The model's class.
        producer: The release that converted it.
        scheme: The scheme's name.
        cpu: The CPU that it was measured on.
        isa: The instruction set that kernels were chosen for.
        threads: How many a call uses at most.
        inputs: Names and types, as texts.
        outputs: Names and types, as texts.
        measured_on: Which inputs, as a text.
        steps: Where the time of a call goes.
        times: Of whole calls, the model itself first.
        weight_bytes: Of all constants.
        float_bytes: Of all constants, as floats.
        target: The instruction set that layers were chosen for.
        errors: Of each output.
        decisions: What became of each layer, and why.
        sparsity: "node", "pattern" and "density" of layers with sparse weights.
        evaluations: Each score that the caller's function gave.
        max_drop: How far the score was allowed to fall.
        training: What was done to the module in training: kinds and facts, as a file tells them.
        goal: What `lowbit.optimize` was asked for: "milliseconds" and "bytes", at most.
        trials: Each model that it made and scored, as `runtime.meta.Trial` says it.
        choices: What it made of each layer, as `runtime.meta.Chosen` says it.
        sizes: "step" and "bytes": what the model took after each step.
        notes: What the user should know.
    """

    name: str
    producer: str
    scheme: str
    cpu: str
    isa: str
    threads: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    measured_on: str
    steps: tuple[Step, ...]
    times: tuple[Timed, ...]
    weight_bytes: int
    float_bytes: int
    target: str = ""
    errors: tuple[OutputError, ...] = ()
    decisions: tuple[Mapping[str, Any], ...] = ()
    sparsity: tuple[Mapping[str, Any], ...] = ()
    evaluations: tuple[Mapping[str, Any], ...] = ()
    max_drop: float | None = None
    training: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    goal: Mapping[str, float] = field(default_factory=dict)
    trials: tuple[Mapping[str, Any], ...] = ()
    choices: tuple[Mapping[str, Any], ...] = ()
    sizes: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        """The part of all operations that runs on codes, by their kind: "int4", "int8"; {} where nothing counts any."""
        total = sum(step.operations for step in self.steps)
        counts = {kind: sum(step.operations for step in self.steps if step.kind == kind) for kind in CODED}
        return {kind: count / total for kind, count in counts.items() if count or kind == "int8"} if total else {}

    @property
    def segments(self) -> tuple[Step, ...]:
        """The steps that run in torch."""
        return tuple(step for step in self.steps if step.kind == "torch")


def steps_of(
    graph: Graph,
    rows: Iterable[Any],
    weights: Mapping[str, Stored],
    floats: Mapping[str, float] | None = None,
    sqnr: Mapping[str, float] | None = None,
    near: Callable[[Any], str] | None = None,
) -> tuple[Step, ...]:
    """The steps of a profile's rows.

    Args:
        graph: The graph that was measured.
        rows: Of its profile.
        weights: What quantized weights take, by name.
        floats: Seconds in the float graph, by node.
        sqnr: dB against the float graph, by node.
        near: Says of a row how near it comes to the machine's limit.

    Returns:
        A step for each row.
    """
    nodes = {node.name: node for node in graph}
    sizes = constants_of(graph, weights)
    steps = []
    for row in rows:
        node = nodes.get(row.node)
        step = Step(
            node=row.node,
            op=row.op,
            kind=kind_of(node, graph, weights),
            kernel=row.kernel,
            seconds=row.seconds,
            operations=row.operations,
            bytes=sum(sizes[name][0] for name in set(node.inputs) if name in sizes) if node is not None else 0,
            float_seconds=(floats or {}).get(row.node),
            sqnr=(sqnr or {}).get(row.node),
            near=near(row) if near is not None else "",
        )
        steps.append(step)
    return tuple(steps)


def kind_of(node: Node | None, graph: Graph, weights: Mapping[str, Stored]) -> str:
    """What a step computes on: "int8" codes or with "int4" weights, "float32", "conversion", "torch" for a segment."""
    if node is None:
        return "float32"
    if node.op == "torch":
        return "torch"
    if node.op in CONVERSIONS:
        return "conversion"
    coded = next((weights[name] for name in node.inputs if name in weights), None)
    if coded is not None and node.op.startswith((QUANTIZED, SIGNS)):
        return f"int{coded.bits}"
    names = [name for name in (*node.inputs[:1], *node.outputs) if name]
    return "int8" if any(graph.values[name].dtype == "u8" for name in names) else "float32"


def constants_of(graph: Graph, weights: Mapping[str, Stored]) -> dict[str, tuple[int, int]]:
    """Bytes of each constant, known without its content.

    Args:
        graph: The graph.
        weights: What quantized weights take, by name.

    Returns:
        By name, the bytes of the constant as it is, and as floats where it is a quantized weight.
    """
    made = {name for node in graph for name in node.outputs} | set(graph.inputs)
    read = {name for node in graph for name in node.inputs if name}
    found: dict[str, tuple[int, int]] = {}
    for name in read - made:
        value = graph.values[name]
        if value.dtype in DTYPES and all(isinstance(dim, int) for dim in value.shape):
            count = math.prod(int(dim) for dim in value.shape)
            width = DTYPES[value.dtype].itemsize
            found[name] = (weights[name].bytes if name in weights else count * width, count * width)
    return found
