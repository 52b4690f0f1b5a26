"""Means and second moments of what weights meet; and the bias correction that is made of the means."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import BATCH, Maker
from lowbit.graph.ir import Graph, Quant
from lowbit.ops.interpreter import run
from lowbit.quantization import layer_inputs as module
from lowbit.quantization.calibrate import quantized
from lowbit.quantization.correct_bias import correct_bias
from lowbit.quantization.layer_inputs import UNKNOWN, layer_inputs, patches
from lowbit.quantization.round_weights import round_nearest


def net() -> Graph:
    m = Maker(1, BATCH)
    x = m.input("x", "batch", 4, 7, 6)
    a = m.node(
        "conv2d", x, m.floats(6, 2, 3, 2), m.floats(6), groups=2, padding=(1, 0, 2, 1), stride=(2, 1), dilation=(1, 2)
    )
    b = m.node("conv2d", a, m.floats(6, 1, 2, 2), m.floats(6), groups=6)
    c = m.node("reshape", b, shape=("batch", 72))
    return m.graph(m.node("linear", c, m.floats(5, 72), m.floats(5)))


QUANTS = {name: Quant(scale=0.05, zero_point=100) for name in ("x", "v0", "v2")}


def test_patches_times_weights_are_the_layer() -> None:
    graph = net()
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4, 7, 6)).astype(np.float32)}
    found = run(graph, feeds, keep=["v0", "v1", "v2"]) | feeds
    for node in graph:
        if node.op == "reshape":
            continue
        weight, bias = (np.asarray(graph.constants[name]) for name in node.inputs[1:3])
        rows = patches(node, found[node.inputs[0]], weight.shape, 1000)
        product = np.einsum("grk,gnk->rgn", rows, weight.reshape(len(rows), -1, rows.shape[2])).reshape(
            rows.shape[1], -1
        )
        y = found[node.outputs[0]]
        flat = y if y.ndim == 2 else y.transpose(0, 2, 3, 1).reshape(-1, y.shape[1])
        np.testing.assert_allclose(product + bias, flat, rtol=1e-4, atol=1e-4)


def test_sums_do_not_depend_on_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net()
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((n, 4, 7, 6)).astype(np.float32)} for n in (2, 3)]
    layers = [node for node in graph if node.op != "reshape"]
    whole = {node.name: seen for node, seen in layer_inputs(graph, data, layers, QUANTS)}
    monkeypatch.setattr(module, "BUDGET", 100)
    monkeypatch.setattr(module, "DEEPEST", 20)
    parts = {node.name: seen for node, seen in layer_inputs(graph, data, layers, QUANTS)}
    for name, seen in whole.items():
        np.testing.assert_array_equal(parts[name].mean, seen.mean)
        np.testing.assert_array_equal(parts[name].coded_mean, seen.coded_mean)
        assert seen.moments is not None
        assert (parts[name].moments is None) == (name == "n3_linear")
    x = run(graph, data[0], keep=["v2"])["v2"], run(graph, data[1], keep=["v2"])["v2"]
    rows = np.concatenate(x).astype(np.float64)
    np.testing.assert_allclose(whole["n3_linear"].moments, (rows.T @ rows / 5)[None], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole["n3_linear"].mean[0], rows.mean(axis=0), rtol=1e-4, atol=1e-5)
    coded = quantized(rows, QUANTS["v2"]).mean(axis=0)
    np.testing.assert_allclose(whole["n3_linear"].coded_mean[0], coded, rtol=1e-4, atol=1e-5)


def test_moments_are_optional() -> None:
    graph = net()
    data = [{"x": np.ones((2, 4, 7, 6), np.float32)}]
    layers = [node for node in graph if node.op != "reshape"]
    assert all(seen.moments is None for _, seen in layer_inputs(graph, data, layers, QUANTS, moments=False))


def test_corrected_biases_have_no_mean_error() -> None:
    graph = net()
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((4, 4, 7, 6)).astype(np.float32) + 1}]
    node = graph.nodes[0]
    weight, bias = (np.asarray(graph.constants[name]) for name in node.inputs[1:3])
    ((_, seen),) = layer_inputs(graph, data, [node], QUANTS)
    rounded = round_nearest(weight).weight
    rows = patches(node, data[0]["x"], weight.shape, 1000).astype(np.float64)

    def mean(w: np.ndarray, x: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("grk,gnk->gn", x, w.reshape(len(x), -1, x.shape[2])).reshape(-1) / x.shape[1] + b

    corrected = correct_bias(bias.astype(np.float64), weight, rounded, seen)
    exact = mean(weight, rows, bias)
    assert np.abs(mean(rounded, quantized(rows, QUANTS["x"]), bias) - exact).max() > 1e-4
    weighed = bias + (corrected - bias) * (1 + UNKNOWN / seen.rows)  # what few rows show counts less
    np.testing.assert_allclose(mean(rounded, quantized(rows, QUANTS["x"]), weighed), exact, atol=1e-5)
