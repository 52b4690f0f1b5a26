"""The one operator that lowbit does not run itself: `torch`, a segment of the model that torch runs.

To the passes it is opaque. Its program (`torch_program.py`) is a constant, its outputs' types are attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ..graph.ir import Array, Graph, Node, Value
from . import torch_program
from .call import Call
from .spec import MAX_RANK, Attr, Input, Op

DTYPES = ("f32", "i64", "i32", "bool", "u8", "s8")
LONGEST = 4096
_DIMS = Attr(kind="dims", longest=LONGEST)


def outputs(attrs: Mapping[str, Any]) -> list[Value]:
    """The types of a segment's outputs."""
    ends = pairwise(accumulate(attrs["ranks"], initial=0))
    shapes = [tuple(attrs["dims"][start:end]) for start, end in ends]
    return [Value(dtype=dtype, shape=shape) for dtype, shape in zip(attrs["dtypes"], shapes, strict=True)]


def _infer(call: Call) -> Sequence[Value]:
    dtypes, ranks, sizes = (call.attrs[name] for name in ("dtypes", "ranks", "dims"))
    call.need(len(dtypes) == len(ranks) == len(call.node.outputs), "dtypes and ranks must be given for each output")
    call.need(sum(ranks) == len(sizes), f"the ranks add up to {sum(ranks)}, there are {len(sizes)} dims")
    call.shape(0, rank=1)
    return outputs(call.attrs)


def _reference(call: Call) -> Sequence[Array]:
    inputs = [call.array(position) for position in range(1, len(call.arrays))]
    return torch_program.Segment(call.array(0).tobytes()).run(inputs, call.attrs["sizes"])


def operations(graph: Graph, node: Node) -> list[str]:
    """The names of the torch operators that a segment runs."""
    return torch_program.operations(np.asarray(graph.constants[node.inputs[0]]).tobytes())


OPS = (
    Op(
        name="torch",
        note=(
            'a part that torch runs: sizes are what {"size": i} means in the program; dtypes, ranks and dims (shapes, '
            "one after the other) are the outputs'"
        ),
        inputs=(
            Input(name="program", dtypes=("u8",), constant=True),
            Input(name="x", dtypes=DTYPES, optional=True),
        ),
        attrs={
            "sizes": _DIMS,
            "dtypes": Attr(kind="texts", choices=DTYPES, longest=LONGEST),
            "ranks": Attr(kind="ints", minimum=0, maximum=MAX_RANK, longest=LONGEST),
            "dims": _DIMS,
        },
        variadic=True,
        outputs=0,
        infer_rule=_infer,
        reference_rule=_reference,
    ),
)
