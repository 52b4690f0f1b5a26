"""Operators between elements, with NumPy's broadcasting: arithmetic of floats and integers, comparison, logic, choice.

Integers wrap around; `floor_div` and `remainder` round towards minus infinity, `trunc_div` and `fmod` towards zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError
from ..graph.ir import DTYPES, Array, Value
from .call import Call, broadcast
from .spec import Input, Op, choice, describe

NUMBERS = ("f32", "i64", "i32")
BITS = ("bool", "i64", "i32", "u8", "s8")
COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
LOGIC: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def _infer(call: Call) -> Sequence[Value]:
    a, b = call.value(0), call.value(1)
    call.need(a.dtype == b.dtype, f"input 0 is {a.dtype}, input 1 {b.dtype}")
    return [Value(dtype=a.dtype, shape=broadcast(call, a.shape, b.shape))]


def _infer_compare(call: Call) -> Sequence[Value]:
    return [Value(dtype="bool", shape=_infer(call)[0].shape)]


def _infer_where(call: Call) -> Sequence[Value]:
    a, b = call.value(1), call.value(2)
    call.need(a.dtype == b.dtype, f"inputs 1 and 2 differ in type: {a.dtype} and {b.dtype}")
    return [Value(dtype=a.dtype, shape=broadcast(call, call.shape(0), broadcast(call, a.shape, b.shape)))]


def _pow(a: Array, b: Array) -> Array:
    """Of floats in float64, rounded once; of integers exact, a negative exponent truncates the fraction."""
    if a.dtype.kind == "f":
        return np.power(a.astype(np.float64), b.astype(np.float64)).astype(np.float32)
    base, exponent = np.broadcast_arrays(a, b)
    odd = np.where(exponent % 2 != 0, base, base * base)
    fraction = np.where((base == 1) | (base == -1), odd, np.zeros_like(base))
    return np.where(exponent < 0, fraction, np.power(base, np.maximum(exponent, 0))).astype(a.dtype)


def _trunc_div(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(np.trunc(a / b))
    quotient = a // b
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)))


def _remainder(a: Array, b: Array) -> Array:
    if a.dtype.kind == "i":
        return np.asarray(np.remainder(a, b))
    rest = np.fmod(a, b)  # a zero keeps the sign of a, as in torch
    return np.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)


_DIVISIONS = ("floor_div", "trunc_div", "remainder", "fmod")


def _arithmetic(
    name: str, function: Callable[[Array, Array], Array], dtypes: tuple[str, ...] = NUMBERS, *, note: str = ""
) -> Op:
    def reference(call: Call) -> Sequence[Array]:
        a, b = call.array(0), call.array(1)
        if name in _DIVISIONS and a.dtype.kind == "i" and not b.all():
            raise InputError(f"{describe(call.node)}: an integer is divided by zero")
        return [np.asarray(function(a, b))]

    inputs = (Input(name="a", dtypes=dtypes), Input(name="b", dtypes=dtypes))
    return Op(name=name, note=note, inputs=inputs, infer_rule=_infer, reference_rule=reference)


_BIT_INPUTS = (Input(name="a", dtypes=BITS), Input(name="b", dtypes=BITS))
_ANY = tuple(DTYPES)

OPS = (
    _arithmetic("add", np.add, note="integers wrap around"),
    _arithmetic("sub", np.subtract, note="integers wrap around"),
    _arithmetic("mul", np.multiply, note="integers wrap around"),
    _arithmetic("div", np.divide, ("f32",)),
    _arithmetic("minimum", np.minimum, note="a NaN stays"),
    _arithmetic("maximum", np.maximum, note="a NaN stays"),
    _arithmetic("prelu", lambda a, b: np.where(a > 0, a, a * b), ("f32",), note="a > 0 ? a : a * b"),
    _arithmetic("pow", _pow, note="integers wrap around"),
    _arithmetic("floor_div", np.floor_divide, note="rounded down"),
    _arithmetic("trunc_div", _trunc_div, note="rounded towards zero"),
    _arithmetic("remainder", _remainder, note="of the quotient that is rounded down"),
    _arithmetic("fmod", np.fmod, note="of the quotient that is rounded towards zero"),
    Op(
        name="compare",
        note="a and b of one type; gives bool",
        inputs=(Input(name="a", dtypes=("f32", *BITS)), Input(name="b", dtypes=("f32", *BITS))),
        attrs={"kind": choice(*COMPARISONS)},
        infer_rule=_infer_compare,
        reference_rule=lambda call: [np.asarray(COMPARISONS[call.attrs["kind"]](call.array(0), call.array(1)))],
    ),
    Op(
        name="logical",
        note="a and b of one type; bit by bit",
        inputs=_BIT_INPUTS,
        attrs={"kind": choice(*LOGIC)},
        infer_rule=_infer,
        reference_rule=lambda call: [np.asarray(LOGIC[call.attrs["kind"]](call.array(0), call.array(1)))],
    ),
    Op(
        name="logical_not",
        inputs=(Input(name="x", dtypes=("bool",)),),
        infer_rule=lambda call: [Value(dtype="bool", shape=call.shape(0))],
        reference_rule=lambda call: [np.asarray(np.logical_not(call.array(0)))],
    ),
    Op(
        name="where",
        note="a where the condition holds, else b; a and b of one type",
        inputs=(Input(name="condition", dtypes=("bool",)), Input(name="a", dtypes=_ANY), Input(name="b", dtypes=_ANY)),
        infer_rule=_infer_where,
        reference_rule=lambda call: [np.where(call.array(0), call.array(1), call.array(2))],
    ),
)
