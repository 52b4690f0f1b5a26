"""In-place operations in torch's graphs: what they write to, and who would see it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx import Node as TorchNode


def writes(node: TorchNode) -> bool:
    """Whether an operation writes to its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and isinstance(next(iter(node.args), None), TorchNode)


def live_nodes(module: GraphModule) -> set[TorchNode]:
    """The nodes whose results or writes count."""
    live: set[TorchNode] = set()
    for node in reversed(module.graph.nodes):
        if node.op == "output" or writes(node) or not live.isdisjoint(node.users):
            live.add(node)
    return live


def _storage(node: TorchNode) -> int | None:
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None


def has_writes(module: GraphModule) -> bool:
    """Whether there is any in-place operation."""
    graphs = [item.graph for item in module.modules() if isinstance(item, GraphModule)]
    return any(writes(node) for graph in graphs for node in graph.nodes)


def has_hidden_writes(module: GraphModule) -> bool:
    """Whether an in-place write is seen through another view of the tensor, so that renaming would not show it."""
    graphs = [item.graph for item in module.modules() if isinstance(item, GraphModule)]
    return any(_is_hidden(node, graph.nodes) for graph in graphs for node in graph.nodes if writes(node))


def _is_hidden(write: TorchNode, nodes: Any) -> bool:
    order = {node: position for position, node in enumerate(nodes)}
    same = {write.args[0], write}
    grown = True
    while grown:  # results of writes to the same tensor are the same tensor
        more = {node for node in order if writes(node) and (node in same or node.args[0] in same)}
        more |= {node.args[0] for node in more}
        grown, same = not more <= same, same | more
    return any(
        _storage(node) == _storage(write)
        and node not in same
        and any(order[user] > order[write] for user in node.users)
        for node in order
        if order[node] < order[write]
    )
