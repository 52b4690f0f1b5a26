"""What depends on constants alone is computed at capture, by torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.fx import Node as TorchNode

from ..graph.ir import Weight
from ..torch_internals import OpOverload, schema
from .builder import Complex, Ref
from .lowering import Lowering
from .places import node_name

FOLD_LIMIT = 2**24
"""Elements: a constant larger than this, and larger than what it is computed from, is not computed at capture."""


def fold(c: Lowering, node: TorchNode) -> Any:
    """The result as constants, if the operation depends on constants alone."""
    if not isinstance(node.target, OpOverload) or torch.Tag.nondeterministic_seeded in node.target.tags:
        return None
    if "empty" in schema(node.target).name:  # what is in it would differ from time to time
        return None
    if schema(node.target).name == "lowbit::dequantize":  # its codes are kept
        return None
    inputs = [c.env[item] for item in node.all_input_nodes]
    if not all(map(c.is_constant, inputs)):
        return None
    value = node.meta.get("val")
    results = [item for item in (value if isinstance(value, tuple | list) else (value,)) if item is not None]
    if not all(isinstance(item, torch.Tensor) and all(isinstance(n, int) for n in item.shape) for item in results):
        return None
    parts = [part for item in inputs for part in ((item.real, item.imag) if isinstance(item, Complex) else (item,))]
    available = sum(math.prod(map(int, item.shape)) for item in parts if isinstance(item, Ref))
    if sum(item.numel() for item in results) > max(FOLD_LIMIT, available):
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda item: c.tensor(c.env[item]))
    with torch.no_grad():
        computed = node.target(*args, **kwargs)
    name = f"{node_name(node, 'value')}.constant"
    if isinstance(computed, torch.Tensor):
        return c.held(computed, name)
    return tuple(c.held(item, name) for item in computed)


def keep_codes(c: Lowering, node: TorchNode, numbers: Any) -> None:
    """Note the codes of a constant that the program dequantizes, if they are such as `Weight` can say."""
    codes, scales, zero_points, *rest = c.resolve(node.args)
    array = np.asarray(c.constants[codes.name])
    axis = int(rest[0]) if "per_channel" in str(node.target) else 0
    step, zero = (np.asarray(c.constants[v.name] if isinstance(v, Ref) else v) for v in (scales, zero_points))
    if array.dtype != np.int8 or array.ndim < 2 or axis != 0 or np.any(zero != 0):
        return
    weight = Weight(codes=array, scales=np.broadcast_to(step.reshape(-1), array.shape[:1]).astype(np.float32))
    c.note_codes(numbers, weight, codes.name)
