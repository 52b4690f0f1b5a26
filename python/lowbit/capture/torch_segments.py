"""What torch runs: operations that become a node of the graph, with their program."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node as TorchNode

from ..errors import LowbitError
from ..graph.ir import Node
from .builder import REMEDY, Ref, Unlowerable, is_held
from .fallback import Unit, Writer, between
from .lowering import Lowering
from .places import Problem, node_name, source_of


def segment(c: Lowering, unit: Unit, live: set[TorchNode]) -> None:
    """Append a node that runs operations in torch; `env` gets what others read of them."""
    c.node = unit[0]
    shown = [node for node in unit if any(user in live and user not in unit for user in node.users)]
    writer = Writer(c.env)
    try:
        values = [c.declared(node.meta.get("val")) for node in shown]
        for node in unit:
            c.refuse_foreign(node)
            writer.add(node)
    except (Unlowerable, LowbitError) as error:
        c.env.update({node: c.refuse(str(error), getattr(error, "remedy", REMEDY), node) for node in unit})
        _join(c, unit, shown, live)
        return
    name = c.unique(node_name(unit[0], "torch") + (f"+{len(unit) - 1}" if len(unit) > 1 else ""))
    c.node_names.add(name)
    outputs = [name] if len(shown) == 1 else [c.unique(f"{name}.{place}") for place in range(len(shown))]
    program = c.constant(np.frombuffer(writer.finish(shown), np.uint8), f"{name}.program")
    sizes = [size for value in values for size in value.shape]
    c.nodes.append(
        Node(
            op="torch",
            name=name,
            inputs=(program.name, *(ref.name for ref in writer.inputs)),
            outputs=tuple(outputs),
            attrs={
                "sizes": tuple(writer.sizes),
                "dtypes": tuple(value.dtype for value in values),
                "ranks": tuple(len(value.shape) for value in values),
                "dims": tuple(sizes),
            },
            source=source_of(unit[0]),
        )
    )
    c.values.update(zip(outputs, values, strict=True))
    for node, item, value in zip(shown, outputs, values, strict=True):
        ref = Ref(item, value.dtype, value.shape)
        c.env[node] = c.paired(ref) if node.meta["val"].is_complex() else ref
    reasons = dict.fromkeys(f"{p.target}: {p.reason}" for node in unit if (p := c.in_torch.get(node)))
    c.notes.append(f"{name} ({source_of(unit[0])}) runs in torch ({'; '.join(reasons)})")


def _join(c: Lowering, unit: Unit, shown: list[TorchNode], live: set[TorchNode]) -> None:
    """Have torch run, in the same segment, what reads values of a type that a graph cannot hold."""
    for node in shown:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or is_held(value.dtype):
            continue
        readers = [user for user in node.users if user in live and user not in unit]
        if all(reader.op == "call_function" for reader in readers):
            reason = f"it reads {value.dtype}, which stays in torch"
            found = {inner for reader in readers for inner in between(unit, reader)} & live
            c.joining |= {
                inner: Problem(str(inner.target), reason, REMEDY, source_of(inner))
                for inner in found
                if inner not in c.in_torch
            }
