"""The objects of a file's JSON: which keys each has, and what they hold. The reader takes these and no others.

docs/tables.py writes them into docs/file-format.md, which says what the values mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..graph.blocks import PATTERNS
from ..graph.ir import DTYPES
from .container import as_object

OBJECTS: Mapping[str, Mapping[str, str]] = {
    "graph": {
        "version": "2. A reader refuses a greater number and asks for an upgrade, and takes lower ones (below)",
        "compressed?": '`{tensor: {"dtype": type, "shape": [size, ...]}}` for those that are streams of zlib (below)',
        "symbols": "`{name: [minimum, maximum]}`: sizes that are free until run time, inclusive bounds below 2^31; or "
        "`[minimum, maximum, multiple, remainder]`: a size is the remainder more than a multiple of `multiple`",
        "conditions?": "`[[kind, size], ...]`, what sizes must fulfil together. kind: the size expression is `zero`, "
        "`nonzero`, or `natural` (0 or more)",
        "inputs": "value names, in the order of a call",
        "outputs": "value names, in the order of the result",
        "values": "`{name: value}` for every input, constant and node output",
        "constants": '`{name: {"tensor": tensor}}` or `{name: {"weight": weight}}`; a tensor is the name of one',
        "nodes": "operations in topological order: a list of nodes",
        "states": "what a caller keeps from one call to the next: a list of states",
        "meta": "what a call looks like, and what was decided (below)",
    },
    "value": {
        "dtype": f"{', '.join(f'`{dtype}`' for dtype in DTYPES)}",
        "shape": "sizes in torch's order (NCHW)",
        "quant?": "`[scale, zero_point]`: real = (code - zero_point) * scale; each is a number, or the name of the "
        "value that holds it where it is computed at run time",
    },
    "node": {
        "op": "one of the operators below",
        "name": "its own, for messages",
        "inputs": 'value names, `""` where an optional input is absent',
        "outputs": "value names",
        "attrs?": "`{name: value}`: numbers, texts, and lists of them; the operator's defaults where absent",
        "source?": "the module path and line that it came from, for messages",
    },
    "state": {
        "input": "the input that takes it; of free sizes it has those of the batch alone",
        "output": "the output that gives it, of the input's type",
        "initial?": "the constant that it begins with; zeros where absent",
        "count?": "the input of another state, i64 [batch]: how many positions of it are used",
        "axis?": "the axis along which positions lie, in blocks of 16, where they are counted",
    },
    "weight": {
        "codes": "tensor",
        "scales": "tensor",
        "bits": "number",
        "group_size": "number",
        "zero_points?": "tensor",
        "offsets?": "tensor",
        "values?": "tensor",
        "sparsity?": "sparsity",
        "packing?": "`ternary`: codes of two bits that are -1, 0 and 1 alone, five a byte",
    },
    "sparsity": {"pattern": ", ".join(f"`{pattern}`" for pattern in PATTERNS), "mask": "tensor"},
}
"""By the object's name; `?` marks a key that may be absent."""


def checked(kind: str, value: Any, what: str) -> dict[str, Any]:
    """The object, if it has the keys of its kind. Raises FormatError, which names `what`."""
    required = tuple(key for key in OBJECTS[kind] if not key.endswith("?"))
    optional = tuple(key[:-1] for key in OBJECTS[kind] if key.endswith("?"))
    return as_object(value, what, required, optional)
