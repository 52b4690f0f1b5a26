"""What lowbit has no operator for, as segments that torch runs: which operations go together, and their program.

Operations that feed each other form one segment, as long as no path from one to the other leads through what lowbit
runs (the group is convex), so that a segment runs at once when its inputs are there.
"""

from __future__ import annotations

import heapq
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node as TorchNode

from ..errors import UnsupportedError
from ..ops.torch_program import FUNCTIONS
from ..torch_internals import OpOverload
from .builder import Complex, Ref
from .export import FLOAT_NAMES

Unit = list[TorchNode]
"""Operations to lower together: one that lowbit has, or all of a segment."""


def units(nodes: Sequence[TorchNode], in_torch: Iterable[TorchNode]) -> list[Unit]:
    """The nodes of a graph in an order in which each unit comes after what it reads."""
    order = {node: index for index, node in enumerate(nodes)}
    chosen = {node for node in in_torch if node in order}
    for node in nodes:  # parts of a result that torch makes
        if node.target is operator.getitem and node.args[0] in chosen:
            chosen.add(node)
    group: dict[TorchNode, TorchNode] = {node: node for node in nodes}
    members: dict[TorchNode, Unit] = {node: [node] for node in nodes}
    for node in nodes:
        for source in node.all_input_nodes if node in chosen else ():
            if source in chosen:
                _merge(group, members, group[source], group[node])
    return _sorted(order, group, members)


def between(unit: Sequence[TorchNode], reader: TorchNode) -> set[TorchNode]:
    """The reader of a unit, and what lies on the ways from the unit to it."""
    before, waiting = {reader}, [reader]
    while waiting:
        found = set(waiting.pop().all_input_nodes) - before
        before |= found
        waiting += found
    after, waiting = set(unit), list(unit)
    while waiting:
        users = set(waiting.pop().users) - after
        after |= users
        waiting += users
    return (before & after) - set(unit)


def _merge(group: dict[TorchNode, TorchNode], members: dict[TorchNode, Unit], a: TorchNode, b: TorchNode) -> None:
    """Make one group of `a` and `b`, which reads it, unless another way leads from one to the other."""
    if a is b or _leads_around(group, members, a, b):
        return
    members[a] += members.pop(b)
    group.update(dict.fromkeys(members[a], a))


def _leads_around(
    group: Mapping[TorchNode, TorchNode], members: Mapping[TorchNode, Unit], a: TorchNode, b: TorchNode
) -> bool:
    """Whether a path from group `a` to group `b` passes through a third."""

    def after(head: TorchNode) -> set[TorchNode]:
        return {group[user] for node in members[head] for user in node.users if user in group} - {head}

    waiting, seen = list(after(a) - {b}), set()
    while waiting:
        head = waiting.pop()
        if head is b:
            return True
        if head not in seen:
            seen.add(head)
            waiting += after(head)
    return False


def _sorted(
    order: Mapping[TorchNode, int], group: Mapping[TorchNode, TorchNode], members: Mapping[TorchNode, Unit]
) -> list[Unit]:
    """The groups in topological order, as near the original as can be."""
    sources = {
        head: {group[source] for node in unit for source in node.all_input_nodes if source in group} - {head}
        for head, unit in members.items()
    }
    waiting = {head: len(found) for head, found in sources.items()}
    readers: dict[TorchNode, list[TorchNode]] = {head: [] for head in members}
    for head, found in sources.items():
        for source in found:
            readers[source].append(head)
    ready = [(order[head], head.name, head) for head, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    found_units: list[Unit] = []
    while ready:
        head = heapq.heappop(ready)[2]
        found_units.append(sorted(members[head], key=order.__getitem__))
        for reader in readers[head]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, (order[reader], reader.name, reader))
    return found_units


# ------------------------------------------------------------------------------------------------------------- program


class Writer:
    """Writes a segment's program: inputs and sizes are numbered as they are met.

    A complex value comes in as its two parts, and goes out as torch.view_as_real of it.
    """

    def __init__(self, env: Mapping[TorchNode, Any]) -> None:
        self._env = env
        self._made: dict[TorchNode | Complex, int] = {}
        self._nodes: list[dict[str, Any]] = []
        self.inputs: list[Ref] = []
        self.sizes: list[str] = []

    def add(self, node: TorchNode) -> None:
        """Append an operation. Raises UnsupportedError for what a program cannot say."""
        entry: dict[str, Any] = {"op": _name(node), "args": [self._argument(item) for item in node.args]}
        if node.kwargs:
            entry["kwargs"] = {name: self._argument(item) for name, item in node.kwargs.items()}
        self._made[node] = self._append(entry)

    def _append(self, entry: dict[str, Any]) -> int:
        self._nodes.append(entry)
        return len(self._nodes) - 1

    def finish(self, outputs: Sequence[TorchNode]) -> bytes:
        """The program."""
        results = []
        for node in outputs:
            place = self._made[node]
            if node.meta["val"].is_complex():
                for name in ("resolve_conj", "view_as_real"):
                    place = self._append({"op": f"aten.{name}.default", "args": [{"node": place}]})
            results.append({"node": place})
        return json.dumps({"nodes": self._nodes, "outputs": results}, allow_nan=False).encode()

    def _argument(self, item: Any) -> Any:
        if isinstance(item, TorchNode):
            return {"node": self._made[item]} if item in self._made else self._value(self._env[item])
        if isinstance(item, tuple | list):
            return [self._argument(part) for part in item]
        if isinstance(item, bool | int | str | type(None)):
            return item
        if isinstance(item, float):
            return item if math.isfinite(item) else {"number": str(item)}
        if isinstance(item, torch.dtype):  # graphs compute in float32
            return {"dtype": "float32" if item in FLOAT_NAMES else str(item).removeprefix("torch.")}
        if isinstance(item, torch.device):
            return {"device": "cpu"}
        for kind in ("layout", "memory_format"):
            if isinstance(item, getattr(torch, kind)):
                return {kind: str(item).removeprefix("torch.")}
        raise UnsupportedError(f"its argument of type {type(item).__name__} cannot be kept in a torch segment")

    def _value(self, value: Any) -> Any:
        """What an operation outside of the segment gave."""
        if isinstance(value, Ref):
            return {"input": _place(self.inputs, value)}
        if isinstance(value, Complex):
            if value not in self._made:
                parts = [self._value(value.real), self._value(value.imag)]
                self._made[value] = self._append({"op": "aten.complex.default", "args": parts})
            return {"node": self._made[value]}
        if isinstance(value, str):  # a size that is an expression
            return {"size": _place(self.sizes, value)}
        if isinstance(value, tuple | list):
            return [self._value(part) for part in value]
        return self._argument(value)


def _place(items: list[Any], item: Any) -> int:
    if item not in items:
        items.append(item)
    return items.index(item)


def _name(node: TorchNode) -> str:
    """The operation's name in a program."""
    target: Any = node.target
    if isinstance(target, OpOverload):
        return str(target)
    if target is operator.getitem:
        return "getitem"
    found = next((name for name, function in FUNCTIONS.items() if function is target), None)
    if found is None:
        raise UnsupportedError(f"{target} cannot be kept in a torch segment")
    return found
