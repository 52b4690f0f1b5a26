"""Keeps equal constants once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import fields

import numpy as np

from ..graph.ir import Array, Graph, Weight, replace
from .remove_dead import remove_dead


def share_constants(graph: Graph) -> Graph:
    """Let nodes that read equal constants read the same one.

    before: x -> mul(a = [2.0]), y -> mul(b = [2.0])
    after:  x -> mul(a),         y -> mul(a)
    """
    first: dict[Hashable, str] = {}
    renamed: dict[str, str] = {}
    for name, constant in graph.constants.items():
        renamed[name] = first.setdefault(_key(constant), name)
    nodes = tuple(
        replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if any(renamed.get(name, name) != name for name in node.inputs)
        else node
        for node in graph
    )
    origins = {**graph.origins, **{renamed[name]: origin for name, origin in graph.origins.items()}}
    states = tuple(replace(state, initial=renamed.get(state.initial, "")) for state in graph.states)
    return remove_dead(replace(graph, nodes=nodes, states=states, origins=origins))


def _key(constant: Array | Weight) -> Hashable:
    """Equal for constants of the same type and bits."""
    if isinstance(constant, Weight):
        return tuple(_part(getattr(constant, field.name)) for field in fields(constant))
    return _part(constant)


def _part(value: object) -> Hashable:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.sha256(np.ascontiguousarray(value).data).digest()
    return repr(value)
