"""A weight format takes what docs/extending.md says: here one of one bit, from the scheme to the file and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphs import BATCH, Maker
from lowbit import Scheme
from lowbit.graph import weights
from lowbit.graph.ir import Weight, replace
from lowbit.graph.weights import stored
from lowbit.ops import interpreter, quantized
from lowbit.quantization.known_weights import codes_of
from lowbit.quantization.quantize import quantize
from lowbit.runtime import format


@pytest.fixture(autouse=True)
def one_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the format: what it is, and an operator that reads it, whose reference is that of four bits."""
    monkeypatch.setitem(weights.FORMATS, "int1", replace(weights.FORMATS["int4"], name="int1", bits=1, packed=""))
    four = quantized.KERNELS["quantized_linear", "int4"]
    monkeypatch.setitem(quantized.KERNELS, ("quantized_linear", "int1"), four)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_one_bit_reaches_the_file(static: bool, symmetric: bool, tmp_path: Path) -> None:
    m = Maker(5, BATCH)
    hidden = m.node(
        "linear", m.input("x", "batch", 256), m.floats(384, 256, scale=0.1), m.floats(384), activation_min=0.0
    )
    graph = m.graph(m.node("linear", hidden, m.floats(160, 384, scale=0.1), m.floats(160)))
    feeds = {"x": np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32)}
    scheme = Scheme(name="one", weight_bits=1, granularity="group", group_size=32, symmetric=symmetric)
    scheme = replace(scheme, activations="static" if static else "auto")
    made = quantize(graph, scheme=scheme, calibration=[feeds] if static else None)
    assert [row.scheme for row in made.decisions] == ["int1", "int1"]
    format.save(tmp_path / "net.lowbit", made.graph)
    loaded, _ = format.load(tmp_path / "net.lowbit")
    held = [constant for constant in loaded.constants.values() if isinstance(constant, Weight)]
    assert [(w.bits, stored(w).bytes) for w in held] == [
        (1, n * k // 8 + n * k // 32 * (2 if symmetric else 3)) for n, k in ((384, 256), (160, 384))
    ]
    (name,) = graph.outputs
    y, expected = (interpreter.run(each, feeds)[name] for each in (loaded, made.graph))
    np.testing.assert_array_equal(y, expected)
    again = codes_of(held[0], held[0].shape).as_weight()
    assert again.bits == 1
    np.testing.assert_array_equal(again.codes, held[0].codes)
