"""Writes the integer graph that a plan, ranges and rounded weights say."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph.ir import Graph, Node, Quant, replace
from ..passes.functions import is_channel_function, is_function
from ..passes.layers import LAYERS, SCANS
from . import fuse_requantize as emit_
from .fuse_requantize import AVERAGES, PAIRS, Emitter, IntegerLayer
from .plan import Plan, layer_slope
from .round_groups import GroupCodes
from .round_weights import Codes


def integer_graph(
    plan: Plan,
    quants: Mapping[str, Quant],
    layers: Mapping[str, IntegerLayer],
    tables: Mapping[str, Codes | GroupCodes],
    copies: Mapping[str, tuple[int, ...]] | None = None,
) -> Graph:
    """The integer graph with these ranges, weights and tables of embeddings.

    copies: of values whose rows have ranges of their own, what has one more code each.
    """
    emit = Emitter(plan.graph, quants)
    taken = {node.name for node in plan.activations.values()}
    for node in plan.graph:
        if node.name in taken:
            continue
        if node.name in tables:
            emit.put_floats(_on_codes(emit, node, tables[node.name]))
        elif node.name in plan.int8:
            _emit_int8(emit, plan, node, layers, copies or {})
        else:
            emit.put_floats(_with_floats(emit, node))
    return emit.finish()


def _emit_int8(
    emit: Emitter,
    plan: Plan,
    node: Node,
    layers: Mapping[str, IntegerLayer],
    copies: Mapping[str, tuple[int, ...]],
) -> None:
    activation = plan.activations.get(node.name)
    if node.op in SCANS:
        emit.put_floats(_scan_on_codes(emit, node, layers[node.name].codes))
    elif node.name in plan.dynamic:
        emit_.put_dynamic_layer(emit, node, layers[node.name], copies.get(node.inputs[0], ()))
    elif node.op in LAYERS:
        as_codes = plan.wants_codes(plan.output(node))
        slope = None if activation is None else layer_slope(plan.graph, node, activation)
        emit_.put_layer(emit, node, layers[node.name], as_codes=as_codes, activation=activation, slope=slope)
    else:
        put_other(emit, node, activation)


def put_other(emit: Emitter, node: Node, activation: Node | None = None) -> None:
    """A node that is no layer, on codes; a sum or product with the function or clip after it."""
    if is_function(emit.graph, node) or is_channel_function(emit.graph, node):
        emit_.put_function(emit, node)
    elif node.op in PAIRS:
        emit_.put_pair(emit, node, activation)
    elif node.op in AVERAGES:
        emit_.put_average(emit, node)
    else:
        emit_.put_carrier(emit, node)


def _on_codes(emit: Emitter, node: Node, table: Codes | GroupCodes) -> Node:
    """Rows of a table in codes, alone or in bags: the axis of the first is always 0."""
    op, attrs = ("quantized_embedding", {}) if node.op == "take" else ("quantized_embedding_bag", node.attrs)
    indices, *rest = (emit.floats(name) if name else "" for name in node.inputs[1:])
    codes = emit.constant(f"{node.inputs[0]}.codes", table.as_weight())
    return replace(node, op=op, inputs=(indices, codes, *rest), attrs=attrs)


def _scan_on_codes(emit: Emitter, node: Node, weight: Codes | GroupCodes) -> Node:
    """A recurrent layer that reads its weight's codes; all else are floats."""
    gates, _, *rest = _with_floats(emit, node).inputs
    codes = emit.constant(f"{node.inputs[1]}.codes", weight.as_weight())
    return replace(node, op=f"quantized_{node.op}", inputs=(gates, codes, *rest))


def _with_floats(emit: Emitter, node: Node) -> Node:
    return replace(node, inputs=tuple(emit.floats(name) if name else "" for name in node.inputs))
