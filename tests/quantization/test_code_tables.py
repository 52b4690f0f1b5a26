"""Weights rounded to sixteen values: what is nearest, what scales and learned values lose, and what a file holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowbit
from graphs import BATCH, PAD1, Maker
from lowbit.graph.ir import Array, Graph, Weight
from lowbit.graph.weights import as_read, stored
from lowbit.ops.interpreter import run
from lowbit.quantization import schemes
from lowbit.quantization.code_tables import TABLES, best_scales, round_to_values
from lowbit.quantization.kmeans import learned
from lowbit.quantization.quantize import quantize
from lowbit.quantization.round_groups import round_groups
from lowbit.quantization.round_weights import cells_of, factored, nearest_values
from lowbit.runtime import format
from lowbit.runtime.session import Session


def error(made: Array, weight: Array) -> float:
    return float(np.square(made - weight).sum())


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(-128, 127), min_size=2, max_size=16), st.integers(0, 2**32 - 1))
def test_the_nearest_value_of_a_table(values: set[int], seed: int) -> None:
    table, scaled = np.array(sorted(values), np.int8), np.random.default_rng(seed).uniform(-140, 140, 200)
    scaled[:40] = np.rint(2 * scaled[:40]) / 2
    found = nearest_values(scaled, cells_of(table)).astype(float)
    np.testing.assert_array_equal(np.abs(found - scaled), np.abs(table.astype(float) - scaled[:, None]).min(axis=1))


@pytest.mark.parametrize("kind", ["pow2", "nf4"])
def test_scales_lose_about_the_least(kind: str) -> None:
    rows = np.random.default_rng(0).standard_t(5, (40, 300)).astype(np.float32)
    rows[3] = 0
    values = TABLES[kind]
    scales, cells = best_scales(rows, values), cells_of(values)

    def errors(scale: Array) -> Array:
        q = nearest_values(rows / scale[:, None], cells)
        return np.asarray(np.square(q * scale[:, None] - rows).sum(axis=1))

    widest = np.abs(rows).max(axis=1) / np.abs(values.astype(int)).max() + 1e-9
    least = np.min([errors(widest * share) for share in np.geomspace(0.2, 1.6, 300)], axis=0)
    assert errors(scales).sum() < 1.02 * least.sum()


def test_learned_values_are_found_again() -> None:
    """Weights of sixteen values are these; zeros stay, and few, equal or no weights have values, too."""
    rng = np.random.default_rng(1)
    values = np.array([-127, -90, -66, -50, -37, -25, -12, 0, 8, 19, 31, 44, 58, 75, 97, 120], np.int8)
    rows = np.stack([rng.permutation(values.repeat(7)) for _ in range(60)])
    weight = rows * rng.uniform(0.01, 0.1, (60, 1)).astype(np.float32)
    made = round_to_values(weight, "kmeans")
    np.testing.assert_allclose(made.weight, weight, atol=1e-3 * np.abs(weight).max())
    pruned = rng.standard_normal((20, 400)).astype(np.float32) * (rng.random((20, 400)) < 0.1)
    made = round_to_values(pruned, "kmeans")
    assert (made.codes[pruned == 0] == 0).all()
    assert error(made.weight, pruned) < error(round_to_values(pruned, "nf4").weight, pruned)
    for few in (np.zeros((3, 8)), np.ones((3, 8)), np.full((2, 5), -1e30), np.full((1, 1), 1e-30), np.zeros((0, 4))):
        values = learned(few.astype(np.float32))
        assert len(set(values.tolist())) == 16
        assert (np.diff(values.astype(int)) > 0).all()
        assert 0 in values
        np.testing.assert_allclose(round_to_values(few.astype(np.float32), "kmeans").weight, few, rtol=1e-5)


def test_a_bell_curve_loses_less_than_by_steps() -> None:
    weight = np.random.default_rng(2).standard_normal((64, 512)).astype(np.float32)
    steps = error(round_groups(weight, 512, symmetric=True).weight, weight)
    nf4, learnt, logs = (error(round_to_values(weight, kind).weight, weight) for kind in ("nf4", "kmeans", "pow2"))
    assert learnt < nf4 < 0.85 * steps
    assert logs < 0.04 * float(np.square(weight).sum())


@pytest.mark.parametrize("kind", schemes.VALUES)
def test_data_make_up_for_errors(kind: str) -> None:
    """With second moments, the error of the outputs is less than that of the nearest values."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 64)) @ rng.standard_normal((64, 64))
    weight = rng.standard_normal((24, 64)).astype(np.float32)
    moments = factored((x.T @ x / len(x))[None])
    plain, made = round_to_values(weight, kind), round_to_values(weight, kind, moments=moments)
    assert error(x @ made.weight.T, x @ weight.T) < 0.6 * error(x @ plain.weight.T, x @ weight.T)
    assert np.isin(made.codes, made.values).all()


def net() -> Graph:
    m = Maker(5, BATCH)
    x = m.input("x", "batch", 32, 8, 8)
    for depth in (32, 64):
        weight = m.floats(64, depth, 3, 3, scale=(9 * depth) ** -0.5)
        x = m.node("conv2d", x, weight, m.floats(64), padding=PAD1, activation_min=0.0)
    x = m.node("reshape", m.node("avg_pool2d", x, kernel=(8, 8), stride=(1, 1)), shape=("batch", 64))
    for depth in (64, 512, 512):
        x = m.node("linear", x, m.floats(512, depth, scale=depth**-0.5), m.floats(512), activation_min=0.0)
    rows = m.node("take", m.floats(5000, 64), m.input("tokens", "batch", dtype="i64"), axis=0)
    return m.graph(x, rows)


@pytest.mark.parametrize(("kind", "static"), [("pow2", False), ("nf4", True), ("kmeans", False)])
def test_the_whole_way(kind: str, static: bool, tmp_path: Path) -> None:
    """Codes of four bits and their values in the file; a session gives the bits of the same weights in eight bits."""
    graph, rng = net(), np.random.default_rng(4)
    feeds = {"x": rng.standard_normal((4, 32, 8, 8)).astype(np.float32), "tokens": np.arange(4) * 1000}
    made = quantize(graph, scheme=kind, calibration=[feeds] if static else None)
    shown = [row.scheme for row in made.decisions if row.op in ("conv2d", "linear", "take")]
    assert shown == ["int8", "int4", "int4", "int4", "int8", "int4"]
    assert sum("16 values of a table" in row.reason for row in made.decisions) == 4
    format.save(tmp_path / "net.lowbit", made.graph)
    loaded, _ = format.load(tmp_path / "net.lowbit")
    tabled = {name: w for name, w in loaded.constants.items() if isinstance(w, Weight) and w.values is not None}
    assert len(tabled) == 4
    for weight in tabled.values():
        assert stored(weight).bytes == weight.codes.size // 2 + 4 * weight.shape[0] + 64
    eight = dataclasses.replace(loaded, constants={**loaded.constants, **{n: as_read(w) for n, w in tabled.items()}})
    first, *others = (Session(each).run(**feeds) for each in (made.graph, loaded, eight))
    for place, exact in enumerate(run(graph, feeds).values()):
        for other in others:
            np.testing.assert_array_equal(other[place], first[place])
        assert error(first[place], exact) < 0.15 * float(np.square(exact).sum())


def test_schemes_of_values_are_checked() -> None:
    with pytest.raises(lowbit.errors.InputError, match="values are one of pow2, nf4, kmeans"):
        lowbit.Scheme(name="wrong", weight_bits=4, values="nf5")
    with pytest.raises(lowbit.errors.InputError, match="with four bits a channel"):
        lowbit.Scheme(name="wrong", weight_bits=8, values="nf4")
