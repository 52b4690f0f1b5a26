"""Files of version 1, read as such of version 2: old operators, which held bits in their names, become new ones.

In version 1, a weight was a tensor of s8 with an axis and a packing, a convolution's of four bits with its input
channels last; and each format had operators of its own. The bytes of codes and scales are the same.
"""

from __future__ import annotations

from typing import Any

from ..errors import FormatError
from .container import as_integer, as_list, as_object, as_text

OPERATORS = {
    "conv2d_i8": "quantized_conv2d",
    "conv3d_i8": "quantized_conv3d",
    "conv_transpose2d_i8": "quantized_conv_transpose2d",
    "conv_transpose3d_i8": "quantized_conv_transpose3d",
    "linear_i8": "quantized_linear",
    "conv2d_i4": "quantized_conv2d",
    "linear_i4": "quantized_linear",
    "embedding_i4": "quantized_embedding",
    "add_i8": "quantized_add",
    "mul_i8": "quantized_mul",
    "avg_pool2d_i8": "quantized_avg_pool2d",
    "adaptive_avg_pool2d_i8": "quantized_adaptive_avg_pool2d",
}
"""What operators of version 1 are called now; all others have kept their names."""
PACKINGS = {"plain": 8, "nibbles": 4}
_WEIGHT = ("codes", "scales", "bits", "axis", "group_size", "packing")


def upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a file of version 1 as one of version 2. Raises FormatError for what is none."""
    constants = dict(as_object(document.get("constants"), "constants"))
    values = dict(as_object(document.get("values"), "values"))
    for name, entry in constants.items():
        if isinstance(entry, dict) and set(entry) == {"weight"}:
            weight = _weight(entry["weight"], f"constant {name!r}")
            constants[name] = {"weight": weight}
            if name in values:
                values[name] = _value(values[name], f"value {name!r}", weight["bits"])
    nodes = [*as_list(document.get("nodes"), "nodes", _node)]
    return {**document, "version": 2, "constants": constants, "values": values, "nodes": nodes}


def _weight(entry: Any, what: str) -> dict[str, Any]:
    fields = as_object(entry, what, _WEIGHT, ("zero_points", "g_idx", "sparsity"))
    bits, packing, axis = as_integer(fields["bits"], what), as_text(fields["packing"], what), fields["axis"]
    if PACKINGS.get(packing) != bits or axis != 0 or isinstance(axis, bool) or "g_idx" in fields:
        raise FormatError(
            f"{what}: {bits} bits, packing {packing[:40]!r}, axis {str(axis)[:40]} is no weight of version 1"
        )
    return {key: value for key, value in fields.items() if key not in ("axis", "packing")}


def _value(entry: Any, what: str, bits: int) -> dict[str, Any]:
    """A weight's type: what its codes stand for, in the order of a float weight."""
    fields = as_object(entry, what, ("dtype", "shape"), ("quant",))
    shape = as_list(fields["shape"], f"the shape of {what}", lambda size, _: size)
    if fields["dtype"] != "s8" or "quant" in fields:
        raise FormatError(f"{what} is a weight, but its type is no s8")
    if bits == 4 and len(shape) > 2:
        shape = (shape[0], shape[-1], *shape[1:-1])
    return {"dtype": "f32", "shape": [*shape]}


def _node(entry: Any, what: str) -> Any:
    if isinstance(entry, dict) and isinstance(entry.get("op"), str):
        if entry["op"] in OPERATORS.values():
            raise FormatError(f"version 1 has no operator {entry['op']!r}")
        return {**entry, "op": OPERATORS.get(entry["op"], entry["op"])}
    return entry
