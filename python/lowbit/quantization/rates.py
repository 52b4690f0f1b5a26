"""What layers take on each instruction set: what a layer does is counted, and each count has a factor in nanoseconds.

The factors are those of one core of a Zen 4, fitted to 450 to 800 random layers a set (`bench/fit_costs.py`): a single
layer is off by a factor of 1.1 to 1.25, a depthwise one by up to 1.45, hence `MARGIN`. "scalar" was fitted to 110
layers, "avxvnni" was not measured: it has AVX2's figures, but for the products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MARGIN = 1.15
"""How many times faster than in float32 a layer in int8 must be by these figures."""
CACHE = 2**20
"""Bytes; what a layer moves beyond has a factor of its own."""
PAIRED = 128
"""Products of a sum from which on weights may be matched in pairs: shorter ones rarely are."""
CHEAP = frozenset(
    ("clip", "relu", "abs", "neg", "square", "hardsigmoid", "hardswish", "leaky_relu", "reciprocal", "sign")
)
"""The unary functions that are few operations in float32."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Nanoseconds, by instruction set.

    Layers: by form (int8, dynamic: int8 whose outputs are float32, float32), the factors of `counts`. All else: for
    each element; `node`: for each node more.
    """

    dense: Mapping[str, tuple[float, ...]]
    paired: Mapping[str, tuple[float, ...]]
    """Of `counts`, where weights are matched in pairs, `PAIRED` of a sum or more; without a form: they are not."""
    filtered: Mapping[str, tuple[float, ...]]
    """Of `tile_counts`, where 3x3 windows are filtered by fewer products; without a form: they are not."""
    depthwise: Mapping[str, tuple[float, ...]]
    joined: bool = False
    """Whether rows of several taps are copied, so that only whole sums are padded."""
    quantize: float
    find_range: float
    """Of a dynamic quantization, beside its quantize."""
    dequantize: float
    table: float
    """Of a layer's codes, as its epilogue looks them up."""
    slope: float
    """Of a layer's codes below zero."""
    cheap: float
    """One of `CHEAP` on float32, or arithmetic with a constant."""
    costly: float
    """Any other one."""
    add: float
    """Of float32."""
    steps: Mapping[str, tuple[float, float, float]]
    """Of recurrent layers, by form (int8, float32): each weight that a step reads, its product for each sample, and
    what is found of each state to make it codes."""
    node: float = 100.0

    def layer(
        self,
        x: Sequence[int],
        w: Sequence[int],
        y: Sequence[int],
        attrs: Mapping[str, Any],
        *,
        pixels: int,
        form: str,
        direct: bool = False,
    ) -> float:
        """Nanoseconds of a layer, for what `counts` takes: of the fastest kernel where there are several.

        direct: of the one that sums all products, which alone reads weights of few bits.
        """
        counted = counts(x, w, y, attrs, pixels=pixels, form=form, joined=self.joined)
        if is_depthwise(w, int(attrs.get("groups", 1))):
            return _total(counted, self.depthwise[form])
        found = [_total(counted, self.dense[form])]
        if form in self.paired and not direct and math.prod(w[1:]) >= PAIRED:
            found.append(_total(counted, self.paired[form]))
        if form in self.filtered and not direct and is_window(w, attrs):
            found.append(_total(tile_counts(x, w, y, form=form), self.filtered[form]))
        return min(found)

    def step(self, form: str, batch: int, rows: int, outputs: int) -> float:
        """Nanoseconds of a recurrent layer's step, its cells aside: they are the same in both forms."""
        read, product, state = self.steps[form]
        return rows * outputs * max(read, batch * product) + batch * outputs * state + self.node

    def sparse(self, pattern: str, sparsity: float) -> float:
        """What is left of a layer's time on codes when that share of its blocks is zero; a session takes the faster."""
        fixed, each = SPARSE.get(pattern, (1.0, 0.0))
        return min(1.0, fixed + each * (1 - sparsity)) if pattern else 1.0


SPARSE = {"4x4": (0.08, 1.2), "1x4": (0.1, 2.0)}
"""By pattern: of the dense layer's time, what takes a layer that is all zero, and what one without zeros takes more."""


def _total(counted: Sequence[float], factors: Sequence[float]) -> float:
    return sum(count * factor for count, factor in zip(counted, factors, strict=True))


def is_depthwise(w: Sequence[int], groups: int) -> bool:
    """Whether a layer with such weights has one filter a channel."""
    return groups == w[0] != 1 and w[1] == 1


def counts(
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    attrs: Mapping[str, Any],
    *,
    pixels: int,
    form: str,
    joined: bool = False,
) -> list[float]:
    """What a layer does, for the shapes of its input, weight [O, I / groups, kernel ...] and output.

    pixels: rows of the product: output pixels, or those of the input of a transposed convolution. joined: `Rates`'.

    Dense: groups; products, padded as kernels do; what rows read; weights; rows times taps, and rows, by channels of
    whole vectors; rows; rows whose last vector is not full; bytes beyond `CACHE`; rows times taps if there are several.
    Depthwise: one; products of windows up to 5 x 5, and of larger ones; pixels by channels of whole vectors; pixels
    whose last vector is not full; products of large windows with a stride; what few channels meet in large windows, in
    all, and with a stride; inputs; weights; bytes beyond `CACHE`; rows of the output by blocks of channels; products
    where channels are no multiple of 8, and with a stride.
    """
    groups, window = int(attrs.get("groups", 1)), w[2:]
    width = 1 if form == "int8" else 4
    coded = form != "float32"
    moved = (1 if coded else 4) * (math.prod(x) + math.prod(w)) + width * math.prod(y)
    far = max(0, moved - CACHE)
    if is_depthwise(w, groups):
        channels, area, lanes = w[0], math.prod(window), _up(w[0], 16)
        is_large, is_narrow, is_strided = max(window) > 5, channels <= 16, max(_tuple(attrs.get("stride", 1))) > 1
        products = pixels * lanes * area
        return [
            1,
            0 if is_large else products,
            products if is_large else 0,
            pixels * lanes,
            pixels * (channels % 16 != 0),
            pixels * _up(channels, 64) * area * (is_large and is_strided),
            pixels * area * (is_large and is_narrow),
            pixels * area * is_narrow,
            pixels * area * is_narrow * is_strided,
            math.prod(x),
            lanes * area,
            far,
            pixels // max(1, y[-1]) * -(-channels // 64),
            products * (channels % 8 != 0),
            products * is_strided,
        ]
    outputs = w[0] // groups
    is_joined = groups == 1 and _tuple(attrs.get("dilation", 1))[-1] == 1
    taps = math.prod(window[:-1] if is_joined else window)
    run = w[1] * (math.prod(window[-1:]) if is_joined else 1)
    depth, lanes = taps * run, groups * _up(outputs, 16)
    if coded:
        depth = _up(depth, 4) if joined else taps * _up(run, 4)
    return [
        groups,
        pixels * lanes * depth,
        groups * pixels * depth,
        math.prod(w),
        pixels * lanes * taps,
        pixels * lanes,
        groups * pixels,
        groups * pixels * (outputs % 16 != 0),
        far,
        groups * pixels * taps * (taps > 1),
    ]


def is_window(w: Sequence[int], attrs: Mapping[str, Any]) -> bool:
    """Whether a layer's windows are 3x3 adjacent pixels, one pixel apart."""
    ones = (_tuple(attrs.get("stride", 1)), _tuple(attrs.get("dilation", 1)), _tuple(attrs.get("groups", 1)))
    return tuple(w[2:]) == (3, 3) and "output_padding" not in attrs and {*ones[0], *ones[1], *ones[2]} == {1}


def tile_counts(x: Sequence[int], w: Sequence[int], y: Sequence[int], *, form: str) -> list[float]:
    """What a layer of `is_window` does that is filtered in tiles of 4x4 outputs.

    One; products; tiles by inputs; tiles by outputs of whole vectors; weights; bytes beyond `CACHE`.
    """
    tiles, outputs = y[0] * -(-y[2] // 4) * -(-y[3] // 4), _up(w[0], 16)
    moved = math.prod(x) + 8 * math.prod(w) + (1 if form == "int8" else 4) * math.prod(y)
    products = 36 * tiles * _up(w[1], 2) * outputs
    return [1, products, tiles * w[1], tiles * outputs, math.prod(w), max(0, moved - CACHE)]


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _tuple(attribute: Any) -> tuple[int, ...]:
    return tuple(attribute) if isinstance(attribute, tuple | list) else (attribute,)


AVX2 = Rates(
    joined=True,
    dense={
        "int8": (138, 0.0108, 0.0361, 0.00442, 0, 0.101, 3.55, 0.936, 0, 1.24),
        "dynamic": (127, 0.0108, 0.0386, 0.00416, 0, 0.121, 2.84, 1.32, 0.00611, 1.26),
        "float32": (103, 0.0171, 0.0228, 0.0236, 0.00167, 0.161, 0.564, 4.05, 0.00837, 0.0751),
    },
    paired={
        "int8": (119, 0.00652, 0, 0.0269, 0.101, 0.162, 0, 0, 0, 1.17),
        "dynamic": (117, 0.00667, 0, 0.0244, 0.0952, 0.224, 0, 0, 0, 1.16),
    },
    filtered={
        "int8": (100, 0.0111, 0.0428, 11.6, 0.127, 0.004),
        "dynamic": (100, 0.0111, 0.0428, 15, 0.127, 0.005),
    },
    depthwise={
        "int8": (126, 0.00815, 0.0107, 0.0717, 0, 0, 0, 0, 0, 0.0751, 0.203, 0.0579, 0, 0.00249, 0),
        "dynamic": (
            265,
            0.0288,
            0.0262,
            0.346,
            0,
            0,
            0.0455,
            0.0656,
            0.381,
            0.0282,
            0.536,
            0.0561,
            44.1,
            0.0016,
            0.0069,
        ),
        "float32": (111, 0.00443, 0.0138, 0.223, 0, 0.000943, 0, 0, 0, 0.105, 0.382, 0.0207, 0, 0.0145, 0.00293),
    },
    quantize=0.13,
    find_range=0.05,
    dequantize=0.055,
    table=0.25,
    slope=0.15,
    cheap=0.09,
    costly=0.8,
    add=0.15,
    steps={"int8": (0.0155, 0.015, 0.15), "float32": (0.072, 0.023, 0)},
)
RATES: dict[str, Rates] = {
    "scalar": Rates(
        dense={
            "int8": (0, 0.059, 0, 0.564, 0, 3.77, 0, 0, 0, 0),
            "dynamic": (0, 0.0599, 0, 0.516, 0, 3.08, 0, 0, 0, 0),
            "float32": (0, 0.496, 0, 1.76, 0, 0.755, 0, 0, 0, 0),
        },
        paired={},
        filtered={},
        depthwise={
            "int8": (0, 0.465, 0.481, 0, 0.18, 0, 0, 0, 0, 4.03, 0, 0, 0, 0, 0),
            "dynamic": (0, 0.484, 0.484, 0, 0, 0, 0, 0, 0, 3.35, 0, 0, 0, 0, 0),
            "float32": (0, 0.497, 0.667, 0, 0, 0, 0, 0, 0, 4.16, 0.149, 0, 0, 0, 0),
        },
        quantize=3.4,
        find_range=0.3,
        dequantize=0.11,
        table=0.3,
        slope=4.0,
        cheap=0.6,
        costly=20.0,
        add=0.5,
        steps={"int8": (0.5, 0.5, 4.0), "float32": (0.5, 0.5, 0)},
    ),
    "avx2": AVX2,
    "avxvnni": replace(
        AVX2,
        joined=False,
        paired={},
        dense={
            "int8": (109, 0.0055, 0.01, 0.00637, 0.0365, 0.153, 3.39, 0.847, 0.00205, 0),
            "dynamic": (109, 0.0055, 0.01, 0.00622, 0.0358, 0.384, 3.56, 2.1, 0, 0),
            "float32": AVX2.dense["float32"],
        },
    ),
    "avx512vnni": Rates(
        dense={
            "int8": (112, 0.004, 0.00822, 0.00717, 0.00987, 0.0399, 1.94, 0.542, 0, 0),
            "dynamic": (105, 0.00408, 0.00582, 0.00676, 0.0116, 0.236, 1.42, 0.335, 0, 0),
            "float32": (83.9, 0.0168, 0.0365, 0.0202, 0.0101, 0.0845, 1.05, 0.09, 0.00275, 0),
        },
        paired={},
        filtered={
            "int8": (100, 0.00927, 0, 8.03, 0.0791, 0),
            "dynamic": (100, 0.00927, 0, 10, 0.0791, 0),
        },
        depthwise={
            "int8": (152, 0.0068, 0.0114, 0.0412, 0.359, 0.00778, 0.308, 0.0691, 0, 0.014, 0.125, 0.00816, 7.44, 0, 0),
            "dynamic": (
                328,
                0.0172,
                0.0131,
                0.157,
                0.12,
                0.00498,
                0.00222,
                0.293,
                0.271,
                0.0406,
                0.024,
                0.0259,
                81,
                0,
                0,
            ),
            "float32": (282, 0.0193, 0.0201, 0.182, 0, 0.00682, 0.00292, 0, 0, 0, 0.217, 0.0252, 0, 0.000151, 0.00502),
        },
        quantize=0.1,
        find_range=0.04,
        dequantize=0.05,
        table=0.15,
        slope=0.12,
        cheap=0.08,
        costly=0.4,
        add=0.12,
        steps={"int8": (0.011, 0.008, 0.1), "float32": (0.055, 0.021, 0)},
    ),
}
"""By target: the instruction sets of `LOWBIT_ISA`, lower ones first."""
