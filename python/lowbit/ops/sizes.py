"""Operators without inputs: values that depend on the sizes alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import dims
from ..graph.ir import DTYPES, Value
from .call import Call
from .spec import SIZE_OR_NUMBER, Attr, Op, choice, integer


def _infer_arange(call: Call) -> Sequence[Value]:
    call.at_least(call.attrs["length"], 0, "its length is negative")
    return [Value(dtype=call.attrs["dtype"], shape=(call.attrs["length"],))]


OPS = (
    Op(
        name="arange",
        inputs=(),
        attrs={
            "start": SIZE_OR_NUMBER,
            "length": Attr(kind="dim", minimum=0, maximum=dims.LIMIT - 1),
            "step": integer(default=1),
            "dtype": choice("i64", "i32"),
        },
        infer_rule=_infer_arange,
        reference_rule=lambda call: [
            (call.attrs["start"] + call.attrs["step"] * np.arange(call.attrs["length"], dtype=np.int64)).astype(
                DTYPES[call.attrs["dtype"]]
            )
        ],
    ),
    Op(
        name="dim_value",
        note="a size as an i64 without axes",
        inputs=(),
        attrs={"value": SIZE_OR_NUMBER},
        infer_rule=lambda call: [Value(dtype="i64", shape=())],
        reference_rule=lambda call: [np.asarray(call.attrs["value"], dtype=np.int64)],
    ),
)
