"""Which layers get four-bit weights, in what groups, and what an integer graph makes of them."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from graphs import BATCH, PAD1, Maker
from lowbit.errors import InputError, UnsupportedError
from lowbit.graph.ir import Array, Graph, Weight
from lowbit.ops.interpreter import run, validate
from lowbit.quantization.few_bits import SMALL, Width, activation_group_size, group_size, widths
from lowbit.quantization.known_weights import KnownWeights
from lowbit.quantization.quantize import quantize
from lowbit.quantization.schemes import SCHEMES, Scheme, rules
from lowbit.runtime import format as lowbit_format
from passes.cheap import cheap_conversions

INT4 = SCHEMES["int4-g32"]
EVERYWHERE = dataclasses.replace(INT4, keep_ends=False)


def mlp(*sizes: int) -> Graph:
    m = Maker(3, BATCH)
    x = m.input("x", "batch", sizes[0])
    for inputs, outputs in itertools.pairwise(sizes):
        weight = m.floats(outputs, inputs, scale=inputs**-0.5)
        x = m.node("linear", x, weight, m.floats(outputs), activation_min=0.0)
    return m.graph(x)


def found(graph: Graph, scheme: Scheme | dict[str, Scheme | str]) -> list[Width | None]:
    made = widths(graph, rules(scheme), KnownWeights(()))
    return [made.get(node.name) for node in graph]


def sizes(graph: Graph, scheme: Scheme | dict[str, Scheme | str]) -> list[int | None]:
    return [None if width is None else width.group_size for width in found(graph, scheme)]


def batches(count: int, width: int, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((width, width)) / width**0.5
    return [{"x": (rng.standard_normal((32, width)) @ mix).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("depth", "wanted", "size"),
    [(512, 128, 128), (384, 128, 128), (520, 128, 104), (96, 128, 96), (48, 32, 24), (8, 128, 0), (20, 128, 0),
     (520, 32, 0), (16, 16, 16), (37, 0, 37), (2**17, 32, 0)],
)  # fmt: skip
def test_groups_divide_the_depth(depth: int, wanted: int, size: int) -> None:
    assert group_size(depth, wanted) == size


@pytest.mark.parametrize(
    ("depth", "of_weights", "wanted", "size"),
    [(512, 128, 32, 32), (512, 128, -1, 128), (512, 256, -1, 128), (512, 32, 128, 32), (512, 512, -1, 128),
     (520, 104, 32, 104), (96, 48, 32, 16), (96, 24, 32, 24), (96, 96, 32, 32), (100, 0, 32, 32), (100, 0, -1, 0),
     (37, 37, -1, 0), (512, 128, 0, 0), (2**17, 0, 32, 64), (2**28, 0, 32, 0), (2**17, 64, 32, 0)],
)  # fmt: skip
def test_groups_of_the_input_divide_those_of_the_weight(depth: int, of_weights: int, wanted: int, size: int) -> None:
    assert activation_group_size(depth, of_weights, wanted) == size


@pytest.mark.parametrize("is_calibrated", [False, True])
@pytest.mark.parametrize("name", ["int4-g32", "int8"])
def test_activations_in_groups_are_nearer_where_values_differ(
    name: str, is_calibrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that read a value share its codes; the file has all it needs."""
    m = Maker(3, BATCH)
    x = m.input("x", "batch", 96)
    parts = [m.node("linear", x, m.floats(64, 96, scale=0.1), m.floats(64)) for _ in range(2)]
    graph = validate(m.graph(m.node("linear", m.node("mul", *parts), m.floats(16, 64, scale=0.1), m.floats(16))))
    cheap_conversions(monkeypatch)
    data = batches(4, 96)
    for feeds in data:
        feeds["x"][:, :32] *= 30
    noise = {}
    for size in (0, 32):
        scheme = dataclasses.replace(
            SCHEMES[name], activation_group_size=size, activations="dynamic", smooth=False, keep_ends=False
        )
        made = quantize(graph, scheme=scheme, calibration=data if is_calibrated else None).graph
        ops = [node.op for node in made]
        assert ops.count("quantize_groups" if size else "dynamic_quantize") == 2
        assert [node.attrs.get("x_group_size", 0) for node in made if node.op == "quantized_linear"] == [size] * 3
        given = batches(1, 96, seed=9)[0]
        given["x"][:, :32] *= 30
        (y,), (expected,) = run(made, given).values(), run(graph, given).values()
        noise[size] = float(np.linalg.norm(y - expected))
    assert noise[32] < (0.95 if name == "int8" else 1.05) * noise[0]


def test_ends_and_odd_depths_keep_eight_bits() -> None:
    graph = mlp(64, 96, 40, 20, 64, 10)
    assert sizes(graph, INT4) == [0, 32, 0, 0, 0]
    assert sizes(graph, EVERYWHERE) == [32, 32, 0, 0, 32]
    notes = [width.note for width in found(graph, INT4) if width is not None]
    assert "first layer" in notes[0]
    assert notes[1] == "4-bit weights in groups of 32"
    assert "no groups of 16 to 32 divide 40" in notes[2]
    assert "last layer" in notes[4]
    assert sizes(mlp(64, 64, 64), INT4) == [32, 32], "two layers have no ends"


def test_a_scheme_for_each_layer() -> None:
    graph = mlp(64, 64, 64, 64, 64)
    names = [node.name for node in graph]
    mixed: dict[str, Scheme | str] = {names[0]: EVERYWHERE, names[1]: "float32", names[2]: "int4-channel"}
    assert sizes(graph, mixed) == [32, None, 64, None]


def test_what_an_embedding_feeds_is_no_first_layer() -> None:
    m = Maker(0, BATCH)
    rows = m.node("take", m.floats(9, 64), m.input("ids", "batch", dtype="i64"), axis=0)
    q, k = (m.node("linear", rows, m.floats(64, 64)) for _ in range(2))
    graph = m.graph(m.node("linear", m.node("add", q, k), m.floats(8, 64)))
    assert sizes(graph, INT4)[1:3] == [32, 32]
    assert sizes(graph, INT4)[-1] == 0


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_layers_take_four_bits(symmetric: bool, calibrated: bool, tmp_path: Path) -> None:
    session = pytest.importorskip("lowbit.runtime.session")
    graph = validate(mlp(128, 256, 256, 64))
    scheme = dataclasses.replace(INT4, symmetric=symmetric)
    made = quantize(graph, scheme=scheme, calibration=batches(8, 128) if calibrated else None)
    ops = [node.op for node in made.graph if node.op.endswith("linear")]
    assert ops == ["quantized_linear", "quantized_linear", "quantized_linear"]
    assert [row.scheme for row in made.decisions] == ["int8", "int4", "int8"]
    assert made.decisions[1].reason.startswith("4-bit weights in groups of 32; ")
    (weight,) = [it for it in made.graph.constants.values() if isinstance(it, Weight) and it.bits == 4]
    kinds = weight.zero_points is not None, weight.offsets is not None
    assert weight.group_size == 32
    assert kinds == (False, not symmetric)
    feeds = batches(1, 128)[0]
    expected, exact = run(made.graph, feeds), run(graph, feeds)
    (y,) = graph.outputs
    noise = np.square(expected[y] - exact[y]).sum() / np.square(exact[y]).sum()
    assert noise < (0.003 if calibrated else 0.01)
    lowbit_format.save(tmp_path / "net.lowbit", made.graph, {})
    loaded, _ = lowbit_format.load(tmp_path / "net.lowbit")
    np.testing.assert_array_equal(session.Session(loaded).run(feeds["x"])[0], expected[y])


def images(graph: Graph, count: int, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    shape = (4, *map(int, graph.values["x"].shape[1:]))
    smooth = [rng.standard_normal(shape).cumsum(axis=2).cumsum(axis=3) / 4 for _ in range(count)]
    return [{"x": x.astype(np.float32)} for x in smooth]


@pytest.mark.parametrize("calibrated", [False, True])
def test_convolutions_take_four_bits(calibrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytest.importorskip("lowbit.runtime.session")
    cheap_conversions(monkeypatch)
    m = Maker(0, BATCH)
    x = m.input("x", "batch", 8, 9, 9)
    x = m.node("conv2d", x, m.floats(16, 8, 3, 3, scale=0.1), m.floats(16), padding=PAD1, activation_min=0.0)
    y = m.node("conv2d", x, m.floats(16, 16, 3, 3, scale=0.1), m.floats(16), padding=PAD1, stride=(2, 1))
    y = m.node("conv2d", y, m.floats(16, 8, 1, 1, scale=0.3), m.floats(16), groups=2)
    y = m.node("conv2d", y, m.floats(24, 16, 2, 1, scale=0.2), m.floats(24), activation_min=0.0)
    graph = validate(m.graph(m.node("conv2d", y, m.floats(8, 24, 1, 1), m.floats(8))))
    made = quantize(graph, scheme=INT4, calibration=images(graph, 3) if calibrated else None)
    assert [row.scheme for row in made.decisions] == ["int8", "int4", "int8", "int4", "int8"]
    assert "grouped convolutions" in made.decisions[2].reason
    assert [node.op for node in made.graph if node.op.endswith("conv2d")] == ["quantized_conv2d"] * 5
    feeds = images(graph, 1, seed=1)[0]
    (expected,), (exact,) = run(made.graph, feeds).values(), run(graph, feeds).values()
    assert np.square(expected - exact).sum() / np.square(exact).sum() < 0.02
    (found,) = session.Session(made.graph).run(feeds["x"])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("symmetric", "most"), [(True, 4.16), (False, 4.29)])
def test_bits_a_weight_in_a_file(symmetric: bool, most: float, tmp_path: Path) -> None:
    scheme = dataclasses.replace(SCHEMES["int4"], symmetric=symmetric)
    made = quantize(mlp(4096, 256), scheme=scheme)
    lowbit_format.save(tmp_path / "net.lowbit", made.graph, {})
    assert 8 * (tmp_path / "net.lowbit").stat().st_size / (4096 * 256) <= most


def test_known_schemes_are_what_their_names_say() -> None:
    assert [SCHEMES[name].group_size for name in ("int4", "int4-g64", "int4-g32", "int4-channel")] == [128, 64, 32, 0]
    for wrong in ({"group_size": 128}, {"granularity": "group", "group_size": 12}, {"granularity": "group"},
                  {"activation_bits": 4}):  # fmt: skip
        with pytest.raises(UnsupportedError, match="available are"):
            Scheme(name="wrong", weight_bits=4, **wrong)


def test_methods_differ_and_those_that_need_data_say_so() -> None:
    graph = validate(mlp(128, 256, 256, 64))
    data, codes = batches(8, 128), {}
    for method in ("nearest", "hqq", "gptq"):
        scheme = dataclasses.replace(INT4, symmetric=False, method=method)
        made = [quantize(graph, scheme=scheme, calibration=data).graph for _ in range(2)]
        (codes[method], again) = (
            next(it for it in graph.constants.values() if isinstance(it, Weight) and it.bits == 4) for graph in made
        )
        np.testing.assert_array_equal(codes[method].codes, again.codes)
    assert codes["hqq"].offsets is not None
    assert codes["nearest"].zero_points is not None
    assert (codes["nearest"].codes != codes["gptq"].codes).any()
    with pytest.raises(InputError, match=r"method 'gptq' of scheme 'int4-g32' needs calibration data"):
        quantize(graph, scheme=dataclasses.replace(INT4, method="gptq"))


def test_the_smallest_layers_keep_eight_bits() -> None:
    graph = mlp(64, 64, 64, 512, 1024, 512, 64)
    assert sizes(graph, INT4) == [0, 0, 32, 32, 32, 0]
    assert found(graph, INT4)[1] == Width(group_size=0, note=SMALL)
    assert sizes(graph, dataclasses.replace(INT4, keep_small=0.0)) == [0, 32, 32, 32, 32, 0]
    assert sizes(graph, dataclasses.replace(INT4, keep_small=0.04)) == [0, 0, 0, 32, 32, 0]
    assert sizes(graph, dataclasses.replace(INT4, keep_small=1.0)) == [0] * 6
    with pytest.raises(InputError, match=r"keep_small must be in \[0, 1\]"):
        dataclasses.replace(INT4, keep_small=1.5)
