"""Decides which layers get weights of few bits, and how many of these share a scale.

The first and the last layers of a network lose most by few bits and weigh little: they keep eight (`keep_ends`). An
operator's groups lie along the products that it sums, and must divide them evenly: a layer whose depth has no fit
divisor keeps eight bits, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..graph.ir import Graph, Node
from ..graph.weights import MAX_GROUPS, few_bits
from ..ops.quantized import MAX_GROUP_SIZE, reads
from ..passes.layers import LAYERS, TABLES
from .known_weights import KnownWeights
from .round_groups import GroupCodes
from .round_weights import Codes
from .schemes import Rules, Scheme

STEP, SMALLEST = 8, 16
"""A group is a multiple of STEP weights, SMALLEST of them at least."""
LARGEST_GROUP = 128
"""Of adjacent values of an input, where nothing is said of them."""
LARGEST, LEAST = 65504.0 * 7, 2.0**-14 * 7
"""Of the largest weight of a layer with half-float scales: more has no scale, less has few codes."""
SMALL = "8-bit weights, for it is among the smallest layers, which lose most and weigh next to nothing"
FEW = 2
"""Networks of so many layers or fewer have no ends."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """Of a layer's weights, or a table's. group_size: of few bits; 0: there are eight. note: why, for people.

    shared: of a table, the layer that reads the same numbers, and whose codes it can have. values: the code table
    (`code_tables.py`) from which its values are, with a scale a channel; "": it has none. entropy: of eight bits, how
    many of information a code holds (`wide_steps`); 0: as many as it may.
    """

    group_size: int
    note: str
    bits: int = 8
    shared: str = ""
    values: str = ""
    entropy: float = 0.0


EIGHT = Width(group_size=0, note="")


def widths(graph: Graph, rules: Rules, known: KnownWeights) -> dict[str, Width]:
    """What each layer gets whose scheme has four-bit weights, or whose weights came so; other layers are not in it."""
    ends = _ends(graph)
    found: dict[str, Width] = {}
    sizes: dict[str, int] = {}
    for node in graph:
        codes = known.of(graph, node.inputs[1]) if node.op in LAYERS else None
        if node.op not in LAYERS or rules.of(node).is_float:
            continue
        if isinstance(codes, GroupCodes):
            size, bits = codes.group_size, codes.bits
            note = f"its weights came with {bits}-bit codes in groups of {size}"
            reason = _formless(node, bits)
            found[node.name] = (
                Width(group_size=0, note=f"{reason}; {note}, which are rounded anew")
                if reason
                else Width(group_size=size, note=note, bits=bits)
            )
        elif isinstance(codes, Codes):
            note = "its weights came with 8-bit codes"
            found[node.name] = Width(group_size=0, note=note, entropy=rules.of(node).entropy)
        elif rules.of(node).weight_bits in few_bits():
            found[node.name] = _width(graph, node, rules.of(node), ends)
            size = math.prod(graph.constants[node.inputs[1]].shape)
            sizes[node.name] = size if found[node.name].bits < 8 else 0
        elif rules.of(node).entropy:
            found[node.name] = _width(graph, node, rules.of(node), ends)
    shares = {node.name: rules.of(node).keep_small for node in graph if node.name in sizes}
    return {**found, **{name: Width(group_size=0, note=SMALL) for name in _smallest(sizes, shares)}}


def _smallest(sizes: Mapping[str, int], shares: Mapping[str, float]) -> Iterator[str]:
    """Of layers with weights of few bits, by size, the smallest that together are no larger share than theirs."""
    total, seen = sum(sizes.values()), 0
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        seen += size
        if seen > shares[name] * total:
            return
        if size:
            yield name


def group_size(depth: int, wanted: int) -> int:
    """The largest divisor of `depth` that a group may have and that is not above `wanted`; 0: there is none.

    wanted 0: one group a channel, of whatever depth.
    """
    if wanted == 0:
        return depth
    for size in range(min(wanted, depth) // STEP * STEP, SMALLEST - 1, -STEP):
        if depth % size == 0:
            return size if depth // size <= MAX_GROUPS else 0
    return 0


def activation_group_size(depth: int, of_weights: int, wanted: int) -> int:
    """How many adjacent values of a layer's input share a scale, `wanted` if it can be; 0: all of a row.

    of_weights: the group of its weights, which those of the input divide; 0: a channel. wanted -1: the same, 128 at
    most: finer ones would cost a third of the time of a product of many rows, these a twelfth.
    """
    wanted = wanted if wanted >= 0 else min(of_weights, LARGEST_GROUP)
    if wanted == 0:
        return 0
    shared = math.gcd(of_weights, wanted)
    size = wanted if of_weights in (0, depth) else shared if shared >= SMALLEST else of_weights
    while -(-depth // size) > MAX_GROUPS and of_weights in (0, depth):
        size *= 2
    return size if -(-depth // size) <= MAX_GROUPS and size % STEP == 0 and size <= MAX_GROUP_SIZE else 0


def unfit(ends: tuple[float, float]) -> str:
    """Why half-float scales are not fit for weights with that least and largest number, or ""."""
    largest = max(-ends[0], ends[1])
    if largest > LARGEST:
        return f"its weights, up to {largest:.3g}, are beyond half-float scales"
    if 0 < largest < LEAST:
        return f"its weights, {largest:.3g} at most, are too small for half-float scales"
    return ""


def has_form(op: str, bits: int) -> bool:
    """Whether a layer has kernels for weights of so few bits."""
    return bits in few_bits() and reads(f"quantized_{op}", bits)


def _width(graph: Graph, node: Node, scheme: Scheme, ends: Mapping[str, str]) -> Width:
    if scheme.keep_ends and node.name in ends:
        return Width(group_size=0, note=f"8-bit weights, for {ends[node.name]}")
    if scheme.entropy:
        note = f"8-bit codes of {scheme.entropy:g} bits of information"
        return Width(group_size=0, note=note, entropy=scheme.entropy)
    reason = _formless(node, scheme.weight_bits, scheme.values)
    if reason:
        return Width(group_size=0, note=reason)
    if scheme.values:
        return Width(group_size=0, note=f"16 values of a table ({scheme.values})", bits=4, values=scheme.values)
    weight = graph.constants[node.inputs[1]]
    reason = unfit((float(weight.min()), float(weight.max()))) if isinstance(weight, np.ndarray) and weight.size else ""
    if reason:
        return Width(group_size=0, note=f"8-bit weights, for {reason}")
    depth = math.prod(weight.shape[1:])
    size = group_size(depth, scheme.group_size)
    if size == 0:
        return Width(
            group_size=0, note=f"8-bit weights, for no groups of {SMALLEST} to {scheme.group_size} divide {depth}"
        )
    bits = scheme.weight_bits
    return Width(group_size=size, note=f"{bits}-bit weights in groups of {size}", bits=bits)


def _formless(node: Node, bits: int, values: str = "") -> str:
    """Why a layer has no form with so few bits, or ""; what is from a table, all kernels of eight bits read."""
    if not values and not reads(f"quantized_{node.op}", bits):
        return f"8-bit weights, for {node.op} has no form with {bits}"
    return "" if node.attrs.get("groups", 1) == 1 else "8-bit weights, for grouped convolutions have no form with fewer"


def _ends(graph: Graph) -> dict[str, str]:
    """The layers that no layer (nor embedding) comes before, and those that none comes after; not of small networks."""
    if sum(node.op in LAYERS for node in graph) <= FEW:
        return {}
    last = dict.fromkeys(_foremost(graph, backward=True), "it is a last layer")
    return last | dict.fromkeys(_foremost(graph, backward=False), "it is a first layer")


def _foremost(graph: Graph, *, backward: bool) -> Iterator[str]:
    """The layers that the walk meets before any other on their way."""
    behind: set[str] = set()
    for node in reversed(graph.nodes) if backward else graph.nodes:
        met, next_ = (node.outputs, node.inputs) if backward else (node.inputs, node.outputs)
        is_behind = not behind.isdisjoint(met)
        if node.op in LAYERS and not is_behind:
            yield node.name
        if is_behind or node.op in LAYERS or _is_embedding(graph, node):
            behind.update(name for name in next_ if name)


def _is_embedding(graph: Graph, node: Node) -> bool:
    """Whether rows of a table stand for indices."""
    return node.op in TABLES and node.inputs[0] in graph.constants
