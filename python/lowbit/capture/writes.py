"""In-place operations in torch's graphs: what they write to, and who would see it."""

from __future__ import annotations

from collections.abc import Collection
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
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    return int(value.untyped_storage()._cdata)


def writes_state(exported: torch.export.ExportedProgram) -> bool:
    """Whether forward() writes to parameters or buffers, or to parts of them."""
    signature = exported.graph_signature
    held = {spec.arg.name for spec in signature.input_specs if spec.kind.name != "USER_INPUT"}
    storages = {_storage(node) for node in exported.graph.nodes if node.op == "placeholder" and node.name in held}
    graphs = [item.graph for item in exported.graph_module.modules() if isinstance(item, GraphModule)]
    written = (node.args[0] for graph in graphs for node in graph.nodes if writes(node))
    return bool(signature.buffers_to_mutate) or any(
        isinstance(base, TorchNode) and _storage(base) in storages - {None} for base in written
    )


def written_state(exported: torch.export.ExportedProgram) -> dict[str, tuple[TorchNode, TorchNode | None]]:
    """Of a program without in-place operations, the buffers and parameters that it writes to.

    For each the node that makes its new value, and the one that reads the value it had, if a result depends on that:
    then each call would see what the last one left.
    """
    specs, results = exported.graph_signature.output_specs, list(exported.graph.nodes)[-1].args[0]
    held = {str(spec.target): spec.arg.name for spec in exported.graph_signature.input_specs if spec.target}
    pairs = list(zip(specs, results, strict=True))
    wanted = _sources([node for spec, node in pairs if spec.kind.name == "USER_OUTPUT"])
    found: dict[str, tuple[TorchNode, TorchNode | None]] = {}
    for spec, node in pairs:
        if spec.kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION") and isinstance(node, TorchNode):
            found[str(spec.target)] = node, wanted.get(held[str(spec.target)])
    return found


_SHAPE_ALONE = ("copy", "full_like", "zeros_like", "ones_like", "empty_like", "zero", "fill", "sym_size")
"""Operations that take no value of their first argument."""


def _sources(results: list[Any]) -> dict[str, TorchNode]:
    """The names of all nodes whose values some results depend on, each with a node that reads it."""
    found: dict[str, TorchNode] = {}
    waiting = [(node, node) for node in results if isinstance(node, TorchNode)]
    while waiting:
        node, reader = waiting.pop()
        if node.name in found:
            continue
        found[node.name] = reader
        blind = str(node.target).removeprefix("aten.").partition(".")[0] in _SHAPE_ALONE
        first = node.args[0] if blind and node.args else None
        waiting += [(source, node) for source in node.all_input_nodes if source is not first]
    return found


def drop_writes(exported: torch.export.ExportedProgram, names: Collection[str]) -> None:
    """Drop the new values of these buffers from a program's results."""
    signature, output = exported.graph_signature, list(exported.graph.nodes)[-1]
    pairs = list(zip(signature.output_specs, output.args[0], strict=True))
    kept = [(spec, node) for spec, node in pairs if spec.kind.name == "USER_OUTPUT" or str(spec.target) not in names]
    signature.output_specs[:] = [spec for spec, _ in kept]
    output.args = (tuple(node for _, node in kept),)


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
