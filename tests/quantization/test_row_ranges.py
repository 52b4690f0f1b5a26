"""Ranges for each row: which layers get them, the factors of channels, and what comes out."""

from __future__ import annotations

from dataclasses import replace as change
from typing import Any

import numpy as np
import pytest

from graphs import BATCH, PAD1, Maker
from lowbit.errors import InputError
from lowbit.graph.ir import Array, Graph, Symbol
from lowbit.ops.interpreter import run, validate
from lowbit.quantization import rehearse, settle
from lowbit.quantization.cost import Costs
from lowbit.quantization.layer_inputs import coded_rows
from lowbit.quantization.plan import decide
from lowbit.quantization.quantize import quantize
from lowbit.quantization.quantizer import Quantized
from lowbit.quantization.row_ranges import SAMPLE, _Sample, candidates, copies_of, flat_channels
from lowbit.quantization.schemes import Scheme
from passes.cheap import cheap_conversions
from passes.same import ops

INT8 = Scheme(name="int8")
SYMBOLS = {**BATCH, "length": Symbol(minimum=1, maximum=64)}


@pytest.fixture(autouse=True)
def _cheap_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small graphs are worth quantizing here, additions of their own included."""
    cheap_conversions(monkeypatch)


def block(seed: int = 0) -> Graph:
    """A norm whose output has two wide channels, read by three layers and, around a fourth, by an addition."""
    m = Maker(seed, SYMBOLS)
    gain = np.ones(64, np.float32)
    gain[[3, 17]] = 30.0
    x = m.input("x", "batch", "length", 64)
    normed = m.node("layer_norm", x, m.constant(gain), m.floats(64), axes=1, eps=1e-5)
    q, k, v = (m.node("linear", normed, m.floats(64, 64, scale=0.1), m.floats(64)) for _ in range(3))
    mixed = m.node("mul", m.node("mul", q, k), v)
    back = m.node("linear", mixed, m.floats(64, 64, scale=0.1), m.floats(64))
    return m.graph(m.node("clip", m.node("add", back, normed), max=60.0))


def data(seed: int, batches: int = 3, rows: int = 6) -> list[dict[str, Array]]:
    """Rows of very unlike norm; the norm makes them alike, the product of layers does not."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((4, rows, 64)).astype(np.float32)} for _ in range(batches)]


def made(graph: Graph, **options: Any) -> Quantized:
    return quantize(validate(graph), scheme=change(INT8, **options), calibration=data(1))


def noise(graph: Graph, result: Quantized) -> float:
    feeds = data(2, 1, 9)[0]
    name = graph.outputs[0]
    expected = run(graph, feeds)[name].astype(np.float64)
    return float(np.square(run(result.graph, feeds)[name] - expected).sum() / np.square(expected).sum())


def test_wide_channels_get_ranges_per_row_and_factors() -> None:
    graph = block()
    result = made(graph)
    counts = ops(result.graph)
    assert counts["dynamic_quantize"] == 2, "three layers share the codes of the norm"
    assert counts["quantized_linear"] == 4
    assert "quantize" not in counts, "nor does the residual get a static range"
    quantized = [node for node in result.graph if node.op == "dynamic_quantize"]
    factors, copies = (np.asarray(result.graph.constants[name]) for name in quantized[0].inputs[1:])
    assert set(np.argsort(factors)[:2]) == {3, 17}, "wide channels are made narrow"
    assert set(copies) <= {3, 17}, "and what is left of them has further codes"
    reasons = [decision.reason for decision in result.decisions if decision.op == "linear"]
    assert all("each input row has its own range" in reason for reason in reasons)
    plain, static = noise(graph, made(graph, smooth=False)), noise(graph, made(graph, activations="static"))
    assert noise(graph, result) < 0.8 * plain
    assert plain < 0.1 * static


def test_copies_are_of_what_sets_the_ranges() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 32)).astype(np.float32)
    rows[:, 5] *= 40
    assert copies_of(rows, 2) == (5, 5)
    wide = rows.copy()
    wide[:, 9] *= 30
    assert copies_of(wide, 2) == (5, 9)
    whole, further = (np.square(coded_rows(rows, None, copies=each) - rows).sum() for each in ((), (5, 5)))
    assert further < 0.2 * whole, "a third of the range, a ninth of the noise"


def test_a_residual_is_added_in_float() -> None:
    """Its codes would need a static range; the addition and the bounds follow as nodes of their own."""
    result = made(block())
    last = [node.op for node in result.graph.nodes[-3:]]
    assert last == ["quantized_linear", "add", "clip"]
    assert result.graph.nodes[-1].outputs == result.graph.outputs
    assert {"product", "sum"} == {node.outputs[0].rpartition(".")[2] for node in result.graph.nodes[-3:-1]}


def test_activations_can_be_prescribed() -> None:
    graph = block()
    assert "dynamic_quantize" not in ops(made(graph, activations="static").graph)
    assert "quantize" not in ops(made(graph, activations="dynamic").graph)
    with pytest.raises(InputError, match="activations"):
        change(INT8, activations="never")


def test_ranges_that_the_outputs_bear_stay_static(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows alike and channels alike: a range for all rows costs little, and no pass over them, if many are known."""
    m = Maker(4, BATCH)
    x = m.input("x", "batch", 32)
    hidden = m.node("linear", x, m.floats(64, 32, scale=0.2), m.floats(64), activation_min=0.0)
    graph = validate(m.graph(m.node("linear", hidden, m.floats(8, 64, scale=0.2), m.floats(8))))
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.uniform(-1, 1, (256, 32)).astype(np.float32)} for _ in range(4)]
    monkeypatch.setattr(rehearse, "EXTRA", 0.0)
    assert ops(quantize(graph, calibration=feeds).graph) == {"dynamic_quantize": 2, "quantized_linear": 2}
    monkeypatch.setattr(rehearse, "EXTRA", 3.0)
    monkeypatch.setattr(settle, "WORSE", 3.0)
    result = quantize(graph, calibration=feeds)
    assert ops(result.graph) == {"quantize": 1, "quantized_linear": 2}
    assert all("one range for all rows" in decision.reason for decision in result.decisions)
    assert ops(quantize(graph, calibration=feeds[:1]).graph)["quantize"] == 0, "16,384 elements show too little"
    few = [{"x": feeds[0]["x"][:9]}]
    assert ops(quantize(graph, calibration=few).graph)["quantize"] == 0, "there are no others to try the ranges on"


def test_who_has_a_choice() -> None:
    """Not who reads the codes of a convolution or a pool: a range for these is needed anyway."""
    m = Maker(5, BATCH)
    x = m.input("x", "batch", 4, 6, 6)
    pixels = m.node("conv2d", x, m.floats(16, 4, 3, 3), m.floats(16), padding=PAD1, activation_min=0.0)
    pooled = m.node("reshape", m.node("adaptive_avg_pool2d", pixels, output_size=(1, 1)), shape=("batch", 16))
    hidden = m.node("unary", m.node("linear", pooled, m.floats(16, 16), m.floats(16)), kind="gelu")
    y = m.node("linear", hidden, m.floats(16, 16), m.floats(16))
    graph = validate(m.graph(m.node("linear", m.node("softmax", y, axis=-1), m.floats(4, 16))))
    found = candidates(decide(graph, Costs(graph), static=True, floats={}))
    softmax = next(node.outputs[0] for node in graph if node.op == "softmax")
    assert set(found) == {hidden, softmax}


def test_factors_that_flatten() -> None:
    assert not flat_channels(np.zeros((2, 3), np.float32)).any()
    factors = np.exp(flat_channels(np.float32([[1, -4, 16, 0], [-1, 4, 16, 0]])))
    np.testing.assert_allclose(factors / factors[2], [16, 4, 1, 1000], rtol=1e-5)


def test_a_sample_is_an_even_share_of_any_number_of_batches() -> None:
    sample = _Sample()
    for index in range(50):
        sample.add(np.full((8, 100, 3), index, np.float32))
    rows = sample.rows()
    counts = np.unique(rows[:, 0], return_counts=True)[1]
    assert SAMPLE // 4 < len(rows) <= SAMPLE
    assert counts.max() <= 2 * counts.min()


def test_coded_rows_are_the_rows_within_half_a_step() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((20, 40)) * np.geomspace(0.1, 100, 40)).astype(np.float32)
    factors = np.exp(flat_channels(x)).astype(np.float32)
    steps = (np.fmax(x * factors, 0).max(axis=1) - np.fmin(x * factors, 0).min(axis=1)) / 255
    assert (np.abs(coded_rows(x, factors) - x) <= 0.501 * steps[:, None] / factors).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    graph = block()
    result, feeds = made(graph), data(2, 1, 9)[0]
    name = graph.outputs[0]
    whole = run(result.graph, feeds)[name]
    for sample in range(4):
        alone = run(result.graph, {"x": feeds["x"][sample : sample + 1]})[name]
        np.testing.assert_allclose(alone[0], whole[sample], rtol=1e-6, atol=1e-6)


def test_sessions_give_the_interpreters_answer() -> None:
    session = pytest.importorskip("lowbit.runtime.session")
    graph = block()
    result, feeds = made(graph), data(2, 1, 9)[0]
    got = session.Session(result.graph, threads=1).run(**feeds)
    np.testing.assert_allclose(got[0], run(result.graph, feeds)[graph.outputs[0]], rtol=1e-4, atol=1e-4)
