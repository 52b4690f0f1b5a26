"""Decides which tables of embeddings have codes, and whose.

A table is rounded on its own, in groups along its rows or with a scale a row. Where a linear layer reads the same
numbers (a language model's head is often tied so), the table has the layer's codes, and a file holds them once.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

import numpy as np

from ..graph.ir import Array, Graph, Node
from ..graph.weights import few_bits
from ..passes.layers import TABLES
from .few_bits import Width, group_size, unfit
from .known_weights import KnownWeights
from .round_groups import GroupCodes
from .round_weights import Codes
from .schemes import Rules, Scheme

SMALL_TABLE = 1 << 18
"""Weights of a table, positions mostly, that are not worth what its error costs, where small ones are kept at all."""


def tables(graph: Graph, rules: Rules, known: KnownWeights) -> dict[str, Width]:
    """The embeddings whose tables came with codes, or get them by their schemes: all but small ones."""
    found: dict[str, Width] = {}
    for node in graph:
        table, scheme = _table(graph, node), rules.of(node)
        if table is None or scheme.is_float:
            continue
        codes = given(graph, node.inputs[0], known)
        if isinstance(codes, GroupCodes):
            note = f"its table came with {codes.bits}-bit codes in groups of {codes.group_size}"
            width = Width(group_size=codes.group_size, note=note, bits=codes.bits)
        elif codes is not None:
            width = Width(group_size=0, note="its table came with 8-bit codes", entropy=scheme.entropy)
        elif (table.size >= SMALL_TABLE or not scheme.keep_small) and np.isfinite(table).all():
            width = _width(table, scheme)
        else:
            continue
        layer = _tied(graph, node.inputs[0], known)
        found[node.name] = width if layer is None else replace(width, shared=layer.name)
    return found


def given(graph: Graph, table: str, known: KnownWeights) -> Codes | GroupCodes | None:
    """The codes that a table came with, if they alone say its numbers."""
    codes = known.of(graph, table)
    return codes if codes is not None and np.all(codes.factors == 1.0) else None


def settled(graph: Graph, tables: Mapping[str, Width], layers: Mapping[str, Width]) -> dict[str, Width]:
    """The tables as they become beside these layers on codes: their own, a layer's, or none.

    A table whose numbers another node reads in float32 has none: they are in the file anyway.
    """
    found: dict[str, Width] = {}
    by_name = {node.name: node for node in graph}
    for name, width in tables.items():
        table = by_name[name].inputs[0]
        if any(not _reads_codes(node, table, tables, layers) for node in graph.consumers(table)):
            continue
        layer = layers.get(width.shared)
        if layer is not None:
            note = f"a table of {layer.bits}-bit codes, those of {width.shared}, which has the same weight"
            found[name] = replace(layer, note=note, shared=width.shared)
        else:
            found[name] = replace(width, shared="")
    return found


def why_float(graph: Graph, node: Node, tables: Container[str]) -> str:
    """Why an embedding without codes has none, or ""; tables: those that could have some."""
    if node.name in tables:
        return "its table stays in float32 for another reader, and is not kept twice"
    table = _table(graph, node)
    if table is not None and table.size < SMALL_TABLE:
        return f"codes of its {table.size:,} numbers would save too little for what they lose"
    return ""


def _table(graph: Graph, node: Node) -> Array | None:
    """The numbers of which a node reads rows by computed indices, where it has a form on codes."""
    table = graph.constants.get(node.inputs[0]) if node.op in TABLES else None
    is_table = isinstance(table, np.ndarray) and table.ndim == 2 and table.dtype == np.float32 and table.size > 0
    if not is_table or node.inputs[1] in graph.constants:
        return None
    assert isinstance(table, np.ndarray)
    is_formless = node.attrs.get("axis", 0) != 0 or node.attrs.get("mode") == "max"
    return None if is_formless else table


def _width(table: Array, scheme: Scheme) -> Width:
    bits = scheme.weight_bits
    if scheme.values:
        return Width(group_size=0, note=f"16 values of a table ({scheme.values})", bits=4, values=scheme.values)
    if bits in few_bits():
        size = group_size(table.shape[1], scheme.group_size)
        if size and not unfit((float(table.min()), float(table.max()))):
            return Width(group_size=size, note=f"a table of {bits}-bit codes in groups of {size}", bits=bits)
    if scheme.entropy:
        note = f"a table of 8-bit codes of {scheme.entropy:g} bits of information"
        return Width(group_size=0, note=note, entropy=scheme.entropy)
    return Width(group_size=0, note="a table of 8-bit codes, a scale a row")


def _tied(graph: Graph, table: str, known: KnownWeights) -> Node | None:
    """The linear layer that has a table as its weight, and codes that say its numbers."""
    if known.of(graph, table) is not None and given(graph, table, known) is None:
        return None
    return next((node for node in graph.consumers(table) if node.op == "linear" and node.inputs[1] == table), None)


def _reads_codes(node: Node, table: str, tables: Mapping[str, Width], layers: Mapping[str, Width]) -> bool:
    """Whether a node that reads a table reads its codes alone."""
    if node.inputs.count(table) != 1:
        return False
    return node.name in tables or (node.name in layers and node.inputs[1] == table)
