"""A target on which int8 always gains: small graphs are then worth quantizing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbit.quantization import rates
from lowbit.quantization.rates import RATES


def cheap_conversions(monkeypatch: pytest.MonkeyPatch, dynamic: float = 0.05) -> None:
    """Products count alone, on codes a twentieth of those of float32; `dynamic`: with ranges found at run time."""

    def products(factors: tuple[float, ...], each: float) -> tuple[float, ...]:
        return tuple(each if place in (1, 2) else 0.0 for place in range(len(factors)))

    usual = RATES["avx512vnni"]
    each = {"int8": 0.05, "dynamic": dynamic, "float32": 1.0}
    made = replace(
        usual,
        dense={form: products(factors, each[form]) for form, factors in usual.dense.items()},
        paired={},
        filtered={},
        depthwise={form: products(factors, each[form]) for form, factors in usual.depthwise.items()},
        quantize=0.0,
        find_range=0.0,
        dequantize=0.0,
        table=0.0,
        slope=0.0,
        add=0.0,
        node=0.0,
    )
    monkeypatch.setitem(rates.RATES, "avx512vnni", made)
