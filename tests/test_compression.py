"""Files with compressed tensors: the same model, fewer bytes; and streams that lie are refused before they grow."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import lowbit
from graphs import GRAPHS
from lowbit.cli.commands import app
from lowbit.errors import FormatError
from lowbit.graph.ir import Graph, Value
from lowbit.runtime import compression, format
from test_format import META, assemble, parts_of, same


@pytest.mark.parametrize("name", GRAPHS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    graph, path = GRAPHS[name](), tmp_path / "net.lowbit"
    format.save(path, graph, META, compress=True)
    loaded, meta = format.load(path)
    assert same(loaded, graph)
    assert meta == META


@pytest.mark.parametrize(("scheme", "share"), [("int8", 0.92), ("int4-g32", 0.93), ("int4", 0.91)])
def test_weights_of_a_bell_curve_shrink(tmp_path: Path, scheme: str, share: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).eval()
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.weight)
    x = torch.randn(4, 512)
    model = lowbit.convert(net, (x,), scheme=scheme, progress=False)
    model.save(tmp_path / "plain.lowbit")
    model.save(tmp_path / "small.lowbit", compress=True)
    plain, small = ((tmp_path / f"{name}.lowbit").stat().st_size for name in ("plain", "small"))
    assert small <= share * plain
    assert abs(small + compression.left_out(tmp_path / "small.lowbit") - plain) < 2000  # what describes the streams
    results = [lowbit.load(tmp_path / f"{name}.lowbit")(x.numpy()) for name in ("plain", "small")]
    np.testing.assert_array_equal(*results)
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "small.lowbit")]).output
    assert "uncompressed" in shown


def graph_of(array: np.ndarray[Any, Any], dtype: str) -> Graph:
    """A graph that returns a constant."""
    values = {"c": Value(dtype=dtype, shape=array.shape)}
    return Graph(inputs=(), outputs=("c",), values=values, nodes=(), constants={"c": array})


@pytest.fixture
def sound(tmp_path: Path) -> bytes:
    codes = np.random.default_rng(0).normal(0, 20, 4000).astype(np.int8)
    format.save(tmp_path / "sound.lowbit", graph_of(codes, "s8"), compress=True)
    return (tmp_path / "sound.lowbit").read_bytes()


def stream(data: bytes) -> bytes:
    job = zlib.compressobj(9, zlib.DEFLATED, -15)
    return job.compress(data) + job.flush()


@pytest.mark.parametrize(
    ("size", "data", "message"),
    [
        (4000, stream(np.random.default_rng(0).bytes(3999)), "does not end with"),
        (4000, stream(np.random.default_rng(0).bytes(4001)), "does not end with"),
        (4000, stream(np.random.default_rng(0).bytes(4000)) + b"\0", "does not end with"),
        (4000, stream(np.random.default_rng(0).bytes(4000))[:-9], "does not end with"),
        (4000, b"\xff" * 300, "damaged"),
        (10**7, stream(bytes(10**7)), "is no stream of"),
        (2**50, stream(bytes(1000)), "is no stream of"),
    ],
)
def test_streams_that_lie_are_refused(tmp_path: Path, sound: bytes, size: int, data: bytes, message: str) -> None:
    header, document, _ = parts_of(sound)
    document["compressed"]["c"]["shape"] = document["values"]["c"]["shape"] = [size]
    header["c"].update(shape=[len(data)], data_offsets=[0, len(data)])
    (tmp_path / "bad.lowbit").write_bytes(assemble(header, document, data))
    with pytest.raises(FormatError, match=message):
        format.load(tmp_path / "bad.lowbit")


@pytest.mark.parametrize(
    "described",
    [
        7,
        {"c": 7},
        {"c": {"dtype": "I8"}},
        {"c": {"dtype": "C64", "shape": [4000]}},
        {"c": {"dtype": "I8", "shape": [-1]}},
        {"c": {"dtype": "I8", "shape": [1] * 9}},
        {"nothing": {"dtype": "I8", "shape": [4000]}},
        {"c": {"dtype": "BOOL", "shape": [4000]}},
        {"c": {"dtype": "I64", "shape": [500]}},
    ],
)
def test_malformed_descriptions(tmp_path: Path, sound: bytes, described: Any) -> None:
    header, document, tensors = parts_of(sound)
    document["compressed"] = described
    (tmp_path / "bad.lowbit").write_bytes(assemble(header, document, tensors))
    with pytest.raises((FormatError, lowbit.errors.GraphError)):
        format.load(tmp_path / "bad.lowbit")


def test_every_type_comes_back() -> None:
    rng = np.random.default_rng(0)
    dtypes = (np.float32, np.float16, np.int64, np.int32, np.bool_, np.uint8, np.int8)
    arrays = {np.dtype(dtype).name: rng.integers(0, 100, (40, 30)).astype(dtype) for dtype in dtypes}
    arrays["bool"] = rng.random((40, 30)) < 0.1
    streams, described = compression.compress(arrays)
    assert described.keys() == arrays.keys()
    assert sum(one.nbytes for one in streams.values()) < sum(array.nbytes for array in arrays.values()) / 2
    again = compression.expand(streams, json.loads(json.dumps(described)))
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, strict=True)


def test_noise_and_little_things_stay_as_they_are(tmp_path: Path) -> None:
    noise = np.frombuffer(np.random.default_rng(0).bytes(5000), np.int8)
    format.save(tmp_path / "a.lowbit", graph_of(noise, "s8"), compress=True)
    format.save(tmp_path / "b.lowbit", graph_of(noise, "s8"))
    assert (tmp_path / "a.lowbit").read_bytes() == (tmp_path / "b.lowbit").read_bytes()
    assert struct.unpack("<Q", (tmp_path / "a.lowbit").read_bytes()[:8])[0] < 1000
