"""A weight format takes what docs/extending.md says: here three bits, as if there were none, up to the file."""

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
def three_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the format: what it is, and an operator that reads it, whose reference is that of four bits."""
    others = {key: sums for key, sums in quantized.KERNELS.items() if key[1] != "int3"}
    monkeypatch.setitem(weights.FORMATS, "int3", replace(weights.FORMATS["int4"], name="int3", bits=3, packed=""))
    four = quantized.KERNELS["quantized_linear", "int4"]
    monkeypatch.setattr(quantized, "KERNELS", {**others, ("quantized_linear", "int3"): four})


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_three_bits_reach_the_file(static: bool, symmetric: bool, tmp_path: Path) -> None:
    m = Maker(5, BATCH)
    hidden = m.node(
        "linear", m.input("x", "batch", 256), m.floats(384, 256, scale=0.1), m.floats(384), activation_min=0.0
    )
    graph = m.graph(m.node("linear", hidden, m.floats(160, 384, scale=0.1), m.floats(160)))
    feeds = {"x": np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32)}
    scheme = Scheme(name="three", weight_bits=3, granularity="group", group_size=32, symmetric=symmetric)
    scheme = replace(scheme, activations="static" if static else "auto")
    made = quantize(graph, scheme=scheme, calibration=[feeds] if static else None)
    assert [row.scheme for row in made.decisions] == ["int3", "int3"]
    format.save(tmp_path / "net.lowbit", made.graph)
    loaded, _ = format.load(tmp_path / "net.lowbit")
    held = [constant for constant in loaded.constants.values() if isinstance(constant, Weight)]
    parts = [2 + sum(part.itemsize for part in (w.zero_points, w.offsets) if part is not None) for w in held]
    assert {part > 2 for part in parts} == {not symmetric}
    assert [(w.bits, stored(w).bytes) for w in held] == [
        (3, n * k * 3 // 8 + n * k // 32 * part) for (n, k), part in zip(((384, 256), (160, 384)), parts, strict=True)
    ]
    (name,) = graph.outputs
    y, expected = (interpreter.run(each, feeds)[name] for each in (loaded, made.graph))
    np.testing.assert_array_equal(y, expected)
    again = codes_of(held[0], held[0].shape).as_weight()
    assert again.bits == 3
    np.testing.assert_array_equal(again.codes, held[0].codes)
