"""Sequence operators: references against plain loops, sessions against references, a sample alone and among others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import Maker
from lowbit.graph.ir import Array, Symbol
from lowbit.ops import interpreter
from lowbit.runtime.session import Session
from test_ops import run
from test_session import check, same

F = np.float32
SEEDS = st.integers(0, 2**31)


def floats(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(F)


# ----------------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("transpose_b", [0, 1])
def test_matmul_reference(transpose_b: int) -> None:
    rng = np.random.default_rng(0)
    a, b = floats(rng, 2, 1, 3, 4), floats(rng, 5, 4, 6)
    (y,) = run("matmul", a, b.swapaxes(1, 2).copy() if transpose_b else b, transpose_b=transpose_b)
    for place in np.ndindex(2, 5, 3, 6):
        i, j, r, s = place
        expected = sum(float(p) * float(q) for p, q in zip(a[i, 0, r], b[j, :, s], strict=True))
        assert math.isclose(y[place], expected, rel_tol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["none", "bool", "f32"]), st.booleans(), st.integers(1, 3), SEEDS)
def test_attention_reference(kind: str, causal: bool, sharing: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = floats(rng, 2, 2 * sharing, 4, 3), floats(rng, 2, 2, 5, 3), floats(rng, 2, 2, 5, 2)
    mask: Any = {"none": None, "bool": rng.random((4, 5)) > 0.6, "f32": floats(rng, 2, 1, 4, 5)}[kind]
    (y,) = run("attention", q, k, v, mask, scale=0.7, causal=int(causal))
    for b, h, i in np.ndindex(2, 2 * sharing, 4):
        weights = []
        for j in range(5):
            score = 0.7 * sum(float(p) * float(r) for p, r in zip(q[b, h, i], k[b, h // sharing, j], strict=True))
            if kind == "f32":
                score += float(mask[b, 0, i, j])
            dropped = (causal and j > i) or (kind == "bool" and not mask[i, j])
            weights.append(0.0 if dropped else math.exp(score))
        total = sum(weights) or 1.0
        expected = sum(w / total * v[b, h // sharing, j].astype(float) for j, w in enumerate(weights))
        np.testing.assert_allclose(y[b, h, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("centered", [True, False])
def test_norm_reference(centered: bool) -> None:
    rng = np.random.default_rng(0)
    x, w, b = floats(rng, 3, 2, 4), floats(rng, 2, 4), floats(rng, 2, 4)
    operands = (x, w, b) if centered else (x, w)
    (y,) = run("layer_norm" if centered else "rms_norm", *operands, axes=2, eps=0.25)
    for sample in range(3):
        values = [float(value) for value in x[sample].ravel()]
        mean = sum(values) / 8 if centered else 0.0
        root = math.sqrt(sum((value - mean) ** 2 for value in values) / 8 + 0.25)
        for place, value in enumerate(values):
            expected = (value - mean) / root * w.flat[place] + (b.flat[place] if centered else 0)
            assert math.isclose(y[sample].flat[place], expected, rel_tol=1e-5, abs_tol=1e-6)


def test_group_norm_reference() -> None:
    rng = np.random.default_rng(0)
    x, w, b = floats(rng, 2, 6, 3, 2), floats(rng, 6), floats(rng, 6)
    (y,) = run("group_norm", x, w, b, groups=3, eps=0.1)
    for n, c in np.ndindex(2, 6):
        group = x[n, c // 2 * 2 : c // 2 * 2 + 2].astype(float)
        expected = (x[n, c] - group.mean()) / math.sqrt(group.var() + F(0.1)) * w[c] + b[c]
        np.testing.assert_allclose(y[n, c], expected, rtol=1e-5, atol=1e-6)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("reverse", [0, 1])
def test_lstm_reference(reverse: int) -> None:
    rng = np.random.default_rng(0)
    gates, w, r, h0, c0 = (
        floats(rng, 3, 2, 8),
        floats(rng, 8, 3),
        floats(rng, 3, 2),
        floats(rng, 2, 3),
        floats(rng, 2, 2),
    )
    y, h_last, c_last = run("lstm", gates, w, h0, c0, r, reverse=reverse)
    for b in range(2):
        h, c = h0[b].tolist(), c0[b].tolist()
        for t in (2, 1, 0) if reverse else (0, 1, 2):
            g = [float(gates[t, b, j]) + sum(float(w[j, k]) * h[k] for k in range(3)) for j in range(8)]
            c = [sigmoid(g[2 + u]) * c[u] + sigmoid(g[u]) * math.tanh(g[4 + u]) for u in range(2)]
            full = [sigmoid(g[6 + u]) * math.tanh(c[u]) for u in range(2)]
            h = [sum(float(r[j, u]) * full[u] for u in range(2)) for j in range(3)]
            np.testing.assert_allclose(y[t, b], h, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(h_last[b], h, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c_last[b], c, rtol=1e-5, atol=1e-6)


def test_gru_and_rnn_references() -> None:
    rng = np.random.default_rng(0)
    gates, w, bias, h0 = floats(rng, 3, 1, 6), floats(rng, 6, 2), floats(rng, 6), floats(rng, 1, 2)
    y, _ = run("gru", gates, w, bias, h0)
    h = h0[0].tolist()
    for t in range(3):
        s = [float(bias[j]) + sum(float(w[j, k]) * h[k] for k in range(2)) for j in range(6)]
        r, z = ([sigmoid(float(gates[t, 0, 2 * gate + u]) + s[2 * gate + u]) for u in range(2)] for gate in (0, 1))
        n = [math.tanh(float(gates[t, 0, 4 + u]) + r[u] * s[4 + u]) for u in range(2)]
        h = [(1 - z[u]) * n[u] + z[u] * h[u] for u in range(2)]
        np.testing.assert_allclose(y[t, 0], h, rtol=1e-5, atol=1e-6)
    for kind, function in (("tanh", math.tanh), ("relu", lambda x: max(x, 0.0))):
        y, _ = run("rnn", gates[..., :2].copy(), w[:2].copy(), h0, kind=kind)
        h = h0[0].tolist()
        for t in range(3):
            h = [function(float(gates[t, 0, u]) + sum(float(w[u, k]) * h[k] for k in range(2))) for u in range(2)]
            np.testing.assert_allclose(y[t, 0], h, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- sessions

SIZES = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100])


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, SIZES, st.integers(0, 1), st.sampled_from(["same", "one left", "one right", "rows"]), SEEDS)
def test_matmul(m: int, n: int, k: int, transpose_b: int, leading: str, seed: int) -> None:
    maker = Maker(seed)
    left = {"same": (2, 3), "one left": (2, 1), "one right": (2, 3), "rows": (2, 3)}[leading]
    right = {"same": (2, 3), "one left": (3,), "one right": (2, 1), "rows": ()}[leading]
    a = maker.input("a", *left, m, k)
    b = maker.input("b", *right, *((n, k) if transpose_b else (k, n)))
    check(maker.graph(maker.node("matmul", a, b, transpose_b=transpose_b)), seed=seed)


@pytest.mark.parametrize("shape", [(1, 3000, 700), (700, 64, 300), (300, 5, 900)], ids=str)
def test_large_matmuls_are_split(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    maker = Maker()
    a, b, c = maker.input("a", m, k), maker.input("b", k, n), maker.input("c", n, k)
    check(maker.graph(maker.node("matmul", a, b), maker.node("matmul", a, c, transpose_b=1)))


@settings(max_examples=60, deadline=None)
@given(st.data(), SIZES, SIZES, SEEDS)
def test_attention(data: st.DataObject, length: int, keys: int, seed: int) -> None:
    draw = data.draw
    batch, heads, sharing = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    depth, value_depth = draw(st.sampled_from([1, 8, 20, 33])), draw(st.sampled_from([1, 8, 16, 70]))
    maker = Maker(seed)
    q = maker.input("q", batch, heads * sharing, length, depth)
    k, v = maker.input("k", batch, heads, keys, depth), maker.input("v", batch, heads, keys, value_depth)
    full = (batch, heads * sharing, length, keys)
    shape = tuple(size if draw(st.booleans()) else 1 for size in full)[draw(st.integers(0, 4)) :]
    kind = draw(st.sampled_from(["none", "bool", "f32"]))
    mask = ""
    if kind == "bool":
        mask = maker.constant(np.asarray(maker.rng.random(shape) > 0.4))
    elif kind == "f32":
        values = maker.rng.standard_normal(shape).astype(F)
        mask = maker.constant(np.asarray(np.where(maker.rng.random(shape) > 0.7, F(-np.inf), values)))
    flags = {"causal": draw(st.integers(0, 1)), "nan_if_empty": draw(st.integers(0, 1))}
    check(maker.graph(maker.node("attention", q, k, v, mask, scale=depth**-0.5, **flags)), seed=seed)


@pytest.mark.parametrize("heads", [1, 5])
@pytest.mark.parametrize("causal", [0, 1])
def test_long_attention_is_split(heads: int, causal: int) -> None:
    maker = Maker()
    q, k = maker.input("q", heads, 200, 32), maker.input("k", heads, 700, 32)
    check(maker.graph(maker.node("attention", q, k, k, scale=0.125, causal=causal)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.sampled_from([1, 5, 16, 63, 64, 65, 255, 4097, 9000]), st.integers(0, 3), SEEDS)
def test_norms(rows: int, row: int, given_: int, seed: int) -> None:
    m = Maker(seed)
    x = m.node("add", m.input("x", rows, row), m.constant(np.full(1, 100 * (seed % 3), F)))
    w, b = m.floats(row) if given_ & 1 else "", m.floats(row) if given_ & 2 else ""
    outputs = [m.node("layer_norm", x, w, b, eps=1e-5), m.node("rms_norm", x, *([w] if w else []), eps=1e-5)]
    check(m.graph(*outputs), seed=seed, tolerance=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.sampled_from([(), (1,), (7,), (40, 30)]), SEEDS)
def test_group_norms(batch: int, groups: int, depth: int, pixels: tuple[int, ...], seed: int) -> None:
    m = Maker(seed)
    channels = groups * depth
    x = m.input("x", batch, channels, *pixels)
    outputs = [
        m.node("group_norm", x, m.floats(channels), m.floats(channels), groups=groups, eps=1e-5),
        m.node("group_norm", x, "", m.floats(channels), groups=channels, eps=0.5),
    ]
    check(m.graph(*outputs), seed=seed, tolerance=1e-4)


def test_a_sample_does_not_depend_on_the_others() -> None:
    m = Maker(0, {"batch": Symbol(minimum=1, maximum=64)})
    x = m.input("x", "batch", 4, 50, 32)
    y = m.node("attention", m.node("layer_norm", x, eps=1e-5), x, x, scale=0.2)
    graph = m.graph(m.node("matmul", y, x, transpose_b=1), m.node("group_norm", y, groups=2, eps=1e-5))
    rng = np.random.default_rng(1)
    batch = floats(rng, 9, 4, 50, 32)
    session = Session(graph, threads=2)
    whole = session.run(x=batch)
    for index in range(9):
        assert same(session.run(x=batch[index : index + 1]), [y[index : index + 1] for y in whole])


def test_no_keys_give_nothing() -> None:
    m = Maker(0, {"keys": Symbol(minimum=0, maximum=9)})
    q, k = m.input("q", 2, 3, 4), m.input("k", 2, "keys", 4)
    graph = m.graph(
        m.node("attention", q, k, k, scale=1.0), m.node("matmul", q, m.node("transpose", k, perm=(0, 2, 1)))
    )
    feeds = {"q": np.ones((2, 3, 4), F), "k": np.ones((2, 0, 4), F)}
    (y, _) = Session(graph).run(**feeds)
    assert not y.any()
    assert not interpreter.run(graph, feeds)[graph.outputs[0]].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.sampled_from([1, 2, 3, 8, 13, 30]), st.sampled_from([1, 3, 16, 17, 40]), st.data(), SEEDS)
def test_recurrent_layers(steps: int, batch: int, hidden: int, data: st.DataObject, seed: int) -> None:
    m = Maker(seed)
    scale, reverse = hidden**-0.5, data.draw(st.integers(0, 1))
    outputs = data.draw(st.sampled_from([hidden, 1, 9]))
    w_hr = m.floats(outputs, hidden, scale=scale) if data.draw(st.booleans()) else ""
    outputs = outputs if w_hr else hidden
    x, h0, p0 = m.input("x", steps, batch, 4 * hidden), m.input("h0", batch, hidden), m.input("p0", batch, outputs)
    h0, p0 = (h0, p0) if data.draw(st.booleans()) else ("", "")
    ends = steps > 0 and data.draw(st.booleans())
    n = m.constant(np.random.default_rng(seed).integers(1, steps, batch, endpoint=True)) if ends else ""
    gates = {n: m.node("slice", x, axis=2, start=0, stop=n * hidden) for n in (1, 3)}
    made = [
        *m.node("lstm", x, m.floats(4 * hidden, outputs, scale=scale), p0, h0, w_hr, n, outputs=3, reverse=reverse),
        *m.node("gru", gates[3], m.floats(3 * hidden, hidden, scale=scale), "", h0, n, outputs=2, reverse=reverse),
        *m.node("gru", gates[3], m.floats(3 * hidden, hidden, scale=scale), m.floats(3 * hidden), outputs=2),
        *m.node("rnn", gates[1], m.floats(hidden, hidden, scale=scale), h0, n, outputs=2, kind="tanh", reverse=reverse),
        *m.node("rnn", gates[1], m.floats(hidden, hidden, scale=scale), outputs=2, kind="relu"),
    ]
    check(m.graph(*made), seed=seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.sampled_from([1, 2, 3, 8, 13, 30]), st.sampled_from([1, 3, 16, 17, 40]), st.data(), SEEDS)
def test_recurrent_layers_on_codes(steps: int, batch: int, hidden: int, data: st.DataObject, seed: int) -> None:
    """Near the reference, whose codes of states are those of its own states; the same bits on all instruction sets."""
    m = Maker(seed)
    scale, reverse = 0.2 * hidden**-0.5, data.draw(st.integers(0, 1))
    outputs = data.draw(st.sampled_from([hidden, 1, 9]))
    w_hr = m.floats(outputs, hidden, scale=scale) if data.draw(st.booleans()) else ""
    outputs = outputs if w_hr else hidden
    x, h0, p0 = m.input("x", steps, batch, 4 * hidden), m.input("h0", batch, hidden), m.input("p0", batch, outputs)
    h0, p0 = (h0, p0) if data.draw(st.booleans()) else ("", "")
    ends = steps > 0 and data.draw(st.booleans())
    n = m.constant(np.random.default_rng(seed).integers(1, steps, batch, endpoint=True)) if ends else ""
    gates = {n: m.node("slice", x, axis=2, start=0, stop=n * hidden) for n in (1, 3)}
    wide, tall, square = (m.weight(g * hidden, k, scale=scale) for g, k in ((4, outputs), (3, hidden), (1, hidden)))
    made = [
        *m.node("quantized_lstm", x, wide, p0, h0, w_hr, n, outputs=3, reverse=reverse),
        *m.node("quantized_gru", gates[3], tall, "", h0, n, outputs=2, reverse=reverse),
        *m.node("quantized_gru", gates[3], tall, m.floats(3 * hidden), outputs=2),
        *m.node("quantized_rnn", gates[1], square, h0, n, outputs=2, kind="tanh", reverse=reverse),
        *m.node("quantized_rnn", gates[1], square, outputs=2, kind="relu"),
    ]
    check(m.graph(*made), seed=seed, tolerance=3e-2)  # a code that falls the other way


@pytest.mark.parametrize("batch", [1, 2, 40])
@pytest.mark.parametrize("coded", [False, True])
def test_large_recurrent_layers_are_split(batch: int, coded: bool) -> None:
    """Over the batch, or over the units of each step."""
    m = Maker()
    weight = m.weight(2800, 700, scale=0.01) if coded else m.floats(2800, 700, scale=0.04)
    y, h, c = m.node("quantized_lstm" if coded else "lstm", m.input("x", 2, batch, 2800), weight, outputs=3)
    check(m.graph(y, h, c))


@pytest.mark.parametrize("op", ["lstm", "gru", "rnn", "quantized_lstm", "quantized_gru", "quantized_rnn"])
@pytest.mark.parametrize("batch", [1, 5])
def test_steps_in_pieces_give_the_bits_of_all_at_once(op: str, batch: int) -> None:
    """A state that goes out comes in again as it was."""
    kind = op.removeprefix("quantized_")
    gates, states = {"lstm": (4, 2), "gru": (3, 1), "rnn": (1, 1)}[kind]
    m = Maker(2, {"steps": Symbol(minimum=1, maximum=64)})
    names = [m.input(f"state{index}", batch, 33) for index in range(states)]
    weight = m.weight(gates * 33, 33, scale=0.05) if op != kind else m.floats(gates * 33, 33, scale=0.2)
    operands = ["", *names] if kind == "gru" else names
    attrs = {"kind": "tanh"} if kind == "rnn" else {}
    made = m.node(op, m.input("x", "steps", batch, gates * 33), weight, *operands, outputs=1 + states, **attrs)
    session = Session(m.graph(*made))
    x = floats(np.random.default_rng(3), 17, batch, gates * 33)
    zeros = {name: np.zeros((batch, 33), F) for name in names}
    whole = session.run(x=x, **zeros)
    held, pieces = zeros, []
    for piece in np.split(x, [1, 2, 9]):
        y, *after = session.run(x=np.ascontiguousarray(piece), **held)
        held = dict(zip(names, after, strict=True))
        pieces.append(y)
    assert same([np.concatenate(pieces), *held.values()], whole)


def test_states_beyond_one_are_codes_too() -> None:
    """A first state of any size has a range of its own, in each row; one of NaN stays in its row."""
    m = Maker(4)
    weight = m.weight(64, 16, scale=0.02)
    y, *_ = m.node("quantized_lstm", m.input("x", 3, 4, 64), weight, m.input("h", 4, 16), outputs=3)
    graph, rng = m.graph(y), np.random.default_rng(0)
    x, h = floats(rng, 3, 4, 64), floats(rng, 4, 16) * np.float32([[1], [1e3], [1e-6], [np.nan]])
    (got,) = Session(graph).run(x=x, h=h)
    expected = interpreter.run(graph, {"x": x, "h": h})[graph.outputs[0]]
    np.testing.assert_allclose(got[:, :3], expected[:, :3], rtol=1e-3, atol=1e-4)
    assert np.isnan(got[:, 3]).all()
    assert np.isnan(expected[:, 3]).all()


def test_a_sequence_does_not_depend_on_the_others() -> None:
    m = Maker(0, {"batch": Symbol(minimum=1, maximum=64)})
    x = m.input("x", 5, "batch", 4 * 20)
    y, h, c = m.node("lstm", x, m.floats(80, 20, scale=0.2), outputs=3)
    batch = floats(np.random.default_rng(1), 5, 30, 80)
    session = Session(m.graph(y, h, c), threads=2)
    whole = session.run(x=batch)
    for index in range(30):
        part = slice(index, index + 1)
        assert same(session.run(x=batch[:, part]), [whole[0][:, part], whole[1][part], whole[2][part]])
