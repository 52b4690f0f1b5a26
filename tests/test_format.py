"""Files: what is saved is what is loaded, safetensors opens it, and nothing malformed gets past the reader."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphs import GRAPHS, Maker, feeds, float_net, integer_net
from lowbit.errors import FormatError, GraphError, LowbitError
from lowbit.graph import blocks
from lowbit.graph.ir import Graph, Weight, replace
from lowbit.graph.weights import highest, middle, pack, unpack
from lowbit.ops import OPS, interpreter
from lowbit.runtime import format

META = {"producer": "lowbit 0", "signature": None, "decisions": [{"node": "a", "reason": "ñ ≠ n"}]}


def same(a: Graph, b: Graph) -> bool:
    """Equal in everything, constants bit for bit."""

    def parts(constant: Any) -> list[Any]:
        if isinstance(constant, Weight):
            beside = [part for part in (constant.zero_points, constant.offsets, constant.values) if part is not None]
            facts = repr((constant.bits, constant.group_size, constant.sparsity))
            return [constant.codes, constant.scales, *beside, np.array(facts)]
        return [constant]

    plain = replace(a, constants={}), replace(b, constants={})
    fields = ("inputs", "outputs", "values", "nodes", "symbols", "states")
    return all(getattr(plain[0], f) == getattr(plain[1], f) for f in fields) and all(
        type(a.constants[name]) is type(b.constants[name])
        and all(
            p.dtype == q.dtype and p.shape == q.shape and p.tobytes() == q.tobytes()
            for p, q in zip(parts(a.constants[name]), parts(b.constants[name]), strict=True)
        )
        for name in {*a.constants, *b.constants}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.lowbit"


@pytest.mark.parametrize("name", GRAPHS)
def test_round_trip(name: str, path: Path) -> None:
    graph = GRAPHS[name]()
    format.save(path, graph, META)
    loaded, meta = format.load(path)
    assert same(loaded, graph)
    assert meta == META
    results = interpreter.run(graph, feeds(graph))
    assert all((interpreter.run(loaded, feeds(graph))[key] == value).all() for key, value in results.items())


@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_graph_gives_the_same_bytes(name: str, path: Path) -> None:
    format.save(path, GRAPHS[name](), META)
    once = path.read_bytes()
    format.save(path, GRAPHS[name](), META)
    assert path.read_bytes() == once
    format.save(path, *format.load(path))
    assert path.read_bytes() == once


def test_safetensors_opens_it(path: Path) -> None:
    graph = integer_net()
    format.save(path, graph, META)
    tensors = safetensors.numpy.load_file(path)
    weight = next(name for name, constant in graph.constants.items() if isinstance(constant, Weight))
    assert (tensors[f"{weight}/codes"] == graph.constants[weight].codes).all()  # type: ignore[union-attr]
    with safetensors.safe_open(path, "numpy") as file:
        document = json.loads(file.metadata()["lowbit"])
    assert document["version"] == format.VERSION
    assert format.read_document(path) == document


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["float32", "float16", "int64", "int32", "bool", "uint8", "int8"]),
    shape=st.lists(st.integers(0, 3), max_size=4),
    name=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    seed=st.integers(0, 99),
)
def test_any_constant(path: Path, dtype: str, shape: list[int], name: str, seed: int) -> None:
    m = Maker()
    array = np.asarray(100 * np.random.default_rng(seed).random(shape)).astype(dtype)
    m.constant(array, name + "~")
    m.constant(np.asarray(array.T if array.ndim < 2 else array.swapaxes(0, 1)), name + "~ transposed")
    graph = m.graph(m.node("clip", m.input("x", 3)))
    format.save(path, graph)
    assert same(format.load(path)[0], graph)


def test_names_of_tensors_that_would_collide(path: Path) -> None:
    m = Maker(1)
    m.constant(np.zeros(3, np.float32), "w/codes")
    m.constant(np.ones(2, np.float32), "__metadata__")
    m.constant(Weight(codes=np.ones((2, 2), np.int8), scales=np.ones(2, np.float32)), "w")
    graph = m.graph(m.node("clip", m.input("x", 3)))
    format.save(path, graph)
    assert same(format.load(path)[0], graph)


def test_a_failed_save_leaves_what_was_there(path: Path) -> None:
    format.save(path, float_net(), META)
    before = path.read_bytes()
    with pytest.raises(GraphError):
        format.save(path, replace(float_net(), outputs=("nothing",)))
    for bad in ({"a": object()}, {"a": float("nan")}, {"a": "\ud800"}):
        with pytest.raises(FormatError):
            format.save(path, float_net(), bad)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ----------------------------------------------------------------------------------------------------- malformed files


def parts_of(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, graph document and tensor bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["lowbit"]), data[8 + length :]


def assemble(header: dict[str, Any], document: Any, tensors: bytes) -> bytes:
    text = document if isinstance(document, str) else json.dumps(document)
    raw = json.dumps({**header, "__metadata__": {"lowbit": text}}).encode()
    return struct.pack("<Q", len(raw)) + raw + tensors


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "net.lowbit"
    format.save(path, integer_net(), {})
    return path.read_bytes()


def refuse(path: Path, data: bytes, message: str = ".") -> None:
    path.write_bytes(data)
    with pytest.raises(LowbitError, match=message):
        format.load(path)


def test_every_truncation_is_refused(path: Path, sound: bytes) -> None:
    for length in {*range(64), *range(64, len(sound), 97), len(sound) - 1}:
        refuse(path, sound[:length])
    refuse(path, sound + b"\0", "tensors end at")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a lowbit file"),
        (b"PK\x03\x04" + b"\0" * 200, "not a lowbit file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a lowbit file"),
        (struct.pack("<Q", 100_000_001) + b"{}", "not a lowbit file"),
        (struct.pack("<Q", 2) + b"[]", "does not start"),
        (struct.pack("<Q", 2) + b"{}", "holds no graph"),
        (struct.pack("<Q", 4) + b"{\xff\xff}", "UTF-8"),
        (struct.pack("<Q", 22) + b'{"__metadata__": 1234}', "holds no graph"),
        (struct.pack("<Q", 16) + b'{"a": 1, "a": 2}', "repeats a key"),
    ],
)
def test_foreign_files(path: Path, data: bytes, message: str) -> None:
    refuse(path, data, message)


def test_other_safetensors_files(path: Path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, path, metadata={"format": "np"})
    with pytest.raises(FormatError, match="not one that lowbit wrote"):
        format.load(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a regular file"):
        format.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        format.load(tmp_path / "absent.lowbit")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="not a regular file"):
        format.load(tmp_path / "pipe")


@pytest.mark.parametrize("version", [3, 10**9])
def test_newer_versions_ask_for_an_upgrade(path: Path, sound: bytes, version: int) -> None:
    header, document, tensors = parts_of(sound)
    refuse(path, assemble(header, {**document, "version": version, "extra": 1}, tensors), "upgrade lowbit")


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_versions_that_are_none(path: Path, sound: bytes, version: object) -> None:
    header, document, tensors = parts_of(sound)
    refuse(path, assemble(header, {**document, "version": version}, tensors), "version")


def set_in(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


DOCUMENT_EDITS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda d: d.pop("nodes"), "lacks"),
    (set_in("surplus", to=1), "unknown"),
    (set_in("nodes", to={}), "not a list"),
    (set_in("nodes", 0, to=3), "not an object"),
    (set_in("nodes", 0, "name", to=7), "text"),
    (set_in("nodes", 0, "name", to="x" * 5000), "text"),
    (set_in("nodes", 0, "inputs", to="x"), "not a list"),
    (set_in("nodes", 0, "exec", to="import os"), "unknown"),
    (set_in("nodes", 0, "op", to="__import__"), "no such operator"),
    (set_in("nodes", 0, "attrs", to={"scale": None, "zero_point": 1}), "integer"),
    (set_in("nodes", 0, "attrs", to={"scale": 2**70, "zero_point": 1}), "integer"),
    (set_in("nodes", 0, "attrs", to={"scale": [[[[[[1]]]]]], "zero_point": 1}), "integer"),
    (set_in("nodes", 1, "attrs", "stride", to=[0, 2]), "stride"),
    (set_in("nodes", 1, "attrs", "padding", to=[2**31] * 4), "padding"),
    (set_in("nodes", 1, "attrs", "padding", to=[1] * 100_000), "items"),
    (set_in("nodes", 1, "inputs", to=["v0"]), "takes 4 to 9 inputs"),
    (set_in("values", "x", "shape", to=["batch", 2**60, 2**60, 4]), "elements"),
    (set_in("values", "x", "shape", to=["batch", -4, 9, 11]), "no size"),
    (set_in("values", "x", "shape", to=["batch", True, 9, 11]), "no size"),
    (set_in("values", "x", "shape", to=["__import__('os').system('id')", 4, 9, 11]), "size expression"),
    (set_in("values", "x", "shape", to=["(" * 400 + "batch" + ")" * 400, 4, 9, 11]), "deep"),
    (set_in("values", "x", "dtype", to="object"), "dtype"),
    (set_in("values", "v0", "quant", to=[0.1]), "pair"),
    (set_in("values", "v0", "quant", to=[None, 3]), "scale"),
    (set_in("values", "v0", "quant", to=[0.1, 1e3]), "integer"),
    (set_in("symbols", "batch", to=[1]), "bounds"),
    (set_in("symbols", "batch", to=[1, 2**40]), "bounds"),
    (set_in("states", to=[["x"]]), "a state"),
    (set_in("meta", to=[]), "not an object"),
    (set_in("constants", "c0", to={"tensor": "/etc/passwd"}), "not in the file"),
    (set_in("constants", "c0", to={"pickle": "x"}), "neither"),
    (lambda d: d["constants"]["c0"]["weight"].update(codes="c0/scales", scales="c0/codes"), "must be int8"),
    (set_in("constants", "c0", "weight", "bits", to=3), "packed codes are int8"),
    (set_in("constants", "c0", "weight", "bits", to=5), "bits 5"),
    (set_in("constants", "c0", "weight", "packing", to="zip"), "unknown"),
    (set_in("constants", "c0", "weight", "values", to="c0/scales"), "values are float32"),
    (set_in("constants", "c0", "weight", "offsets", to="c0/codes"), "offsets are int8"),
    (lambda d: d["constants"].pop("c1"), "belong to no constant"),
]


@pytest.mark.parametrize("index", range(len(DOCUMENT_EDITS)))
def test_malformed_graphs(path: Path, sound: bytes, index: int) -> None:
    change, message = DOCUMENT_EDITS[index]
    header, document, tensors = parts_of(sound)
    change(document)
    refuse(path, assemble(header, document, tensors), message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"scale": 0.03', '"scale": NaN', "NaN"),
        ('"scale": 0.03', '"scale": -Infinity', "Infinity"),
        ('"scale": 0.03', '"scale": 1e999', "1e999"),
        ('"scale": 0.03', '"scale": 1' + "0" * 5000, "not valid JSON"),
        ('"scale": 0.03', '"scale": 0.03, "scale": 0.03', "repeats a key"),
        ('"scale": 0.03', '"scale": ' + "[" * 100_000 + "]" * 100_000, "not valid JSON"),
        ('"net.layer0"', '"net.\\ud800layer0"', "surrogate"),
        ('"net.layer0"', '"net.\x00layer0"', "not valid JSON"),
    ],
)
def test_json_that_is_not_strict(path: Path, sound: bytes, old: str, new: str, message: str) -> None:
    header, document, tensors = parts_of(sound)
    text = json.dumps(document)
    assert old in text
    refuse(path, assemble(header, text.replace(old, new), tensors), message)


TENSOR_EDITS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (set_in("c1", to=[]), "not an object"),
    (set_in("c1", "dtype", to="F64"), "does not read"),
    (set_in("c1", "dtype", to="F16"), "does not take"),
    (set_in("c1", "dtype", to=["F32"]), "does not read"),
    (set_in("c1", "shape", to=[9]), "does not take"),
    (set_in("c1", "shape", to=[2**61, 2**61]), "does not take"),
    (set_in("c1", "shape", to=[8.0]), "no size"),
    (set_in("c1", "shape", to=[1] * 9), "9 axes"),
    (set_in("c1", "data_offsets", to=[0, 2**50]), "outside"),
    (set_in("c1", "data_offsets", to=[-32, 0]), "no size"),
    (set_in("c1", "data_offsets", to=[32, 0]), "outside"),
    (set_in("c1", "data_offsets", to=[0]), "outside"),
    (lambda h: h["c1"].update(h["c2"]), "was expected"),
    (lambda h: h["c1"].update(path="/etc/passwd"), "unknown"),
    (lambda h: h.pop("c1"), "was expected|not in the file"),
]


@pytest.mark.parametrize("index", range(len(TENSOR_EDITS)))
def test_malformed_tensor_tables(path: Path, sound: bytes, index: int) -> None:
    change, message = TENSOR_EDITS[index]
    header, document, tensors = parts_of(sound)
    change(header)
    refuse(path, assemble(header, document, tensors), message)


NAN = b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("tensor", "code", "message"),
    [("c0/scales", NAN, "not finite"), ("c1", NAN, "not finite")],
)
def test_hostile_numbers(path: Path, sound: bytes, tensor: str, code: bytes, message: str) -> None:
    header, document, tensors = parts_of(sound)
    begin = header[tensor]["data_offsets"][0]
    refuse(path, assemble(header, document, tensors[:begin] + code + tensors[begin + len(code) :]), message)


def test_the_page_about_the_format_names_every_operator_and_attribute() -> None:
    page = (Path(__file__).parents[1] / "docs" / "file-format.md").read_text()
    rows = {line.split("|")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for op in OPS.values():
        assert any(f"`{op.name}`" in key for key in rows), op.name
        for name in op.attrs:
            assert name in page, f"{op.name}: {name}"


def test_no_trace_of_the_machine(path: Path) -> None:
    format.save(path, integer_net(), {})
    data = path.read_bytes().lower()
    for word in (b"avx", b"vnni", b"isa", b"thread", str(Path.cwd()).lower().encode()):
        assert word not in data


@pytest.mark.parametrize("affine", [False, True])
def test_four_bit_weights_take_little_room_and_come_back(tmp_path: Path, affine: bool) -> None:
    """4.125 bits a weight with groups of 128, 4.1875 with zero points, and the same graph."""
    m = Maker()
    x = m.input("x", 1, 1024, dtype="u8")
    w, ones = m.grouped(512, 1024, 128, affine=affine), m.constant(np.ones(512, np.float32))
    graph = m.graph(m.node("quantized_linear", x, w, ones, ones, output="f32"))
    path = tmp_path / "four.lowbit"
    format.save(path, graph)
    weight, loaded = graph.constants[w], format.load(path)[0].constants[w]
    assert isinstance(weight, Weight)
    assert isinstance(loaded, Weight)
    np.testing.assert_array_equal(loaded.codes, weight.codes, strict=True)
    np.testing.assert_array_equal(loaded.scales, weight.scales, strict=True)
    bits = 8 * (path.stat().st_size - ones_bytes(graph)) / weight.codes.size
    assert bits <= (4.29 if affine else 4.16)


def ones_bytes(graph: Graph) -> int:
    """Of the constants that are no weights."""
    return sum(c.nbytes for c in graph.constants.values() if not isinstance(c, Weight))


def test_codes_of_odd_depth_are_packed_row_by_row() -> None:
    shape = (3, 5)
    codes = np.arange(15, dtype=np.int8).reshape(shape) - 8
    packed = pack(Weight(codes=codes, scales=np.ones((3, 1), np.float16), bits=4, group_size=5))
    np.testing.assert_array_equal(packed[0], [0x10, 0x32, 0x04])
    np.testing.assert_array_equal(unpack(packed, shape, 4, signed=True), codes)
    packed[1, 2] |= 0x10
    with pytest.raises(GraphError, match="beyond its depth"):
        unpack(packed, shape, 4, signed=True)
    with pytest.raises(GraphError, match="packed codes are"):
        unpack(packed[:, :2], shape, 4, signed=True)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codes_are_packed_from_the_lowest_bits_on(bits: int) -> None:
    """code n of a channel is in byte n * bits // 8, from bit n * bits % 8 on, with zero points as it is."""
    depth = 13
    codes = np.random.default_rng(bits).integers(0, highest(bits) + 1, (3, depth)).astype(np.int8)
    ones = np.ones((3, 1), np.float16)
    affine = Weight(codes=codes, scales=ones, zero_points=ones.astype(np.uint8), bits=bits)
    packed = pack(affine)
    rows = [sum(int(code) << (n * bits) for n, code in enumerate(row)) for row in codes]
    assert [int.from_bytes(row.tobytes(), "little") for row in packed] == rows
    np.testing.assert_array_equal(unpack(packed, codes.shape, bits, signed=False), codes)
    centred = replace(affine, codes=codes - np.int8(middle(bits)), zero_points=None)
    np.testing.assert_array_equal(pack(centred), packed)
    np.testing.assert_array_equal(unpack(packed, codes.shape, bits, signed=True), centred.codes)


# --------------------------------------------------------------------------------------------------------------- sparse


def sparse_graph(shape: tuple[int, ...], pattern: str, density: float, seed: int = 0) -> Graph:
    """One sparse weight, `w`, that no node reads."""
    m = Maker(seed)
    w = m.sparse(pattern, density, *shape)
    graph = m.graph(m.node("clip", m.input("x", 3)))
    return replace(graph, constants={"w": graph.constants[w]}, values=graph.values | {"w": graph.values[w]})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pattern=st.sampled_from(list(blocks.PATTERNS)),
    rows=st.integers(1, 3),
    columns=st.integers(1, 5),
    kernel=st.sampled_from([(), (1, 1), (3, 3), (2, 1, 3)]),
    density=st.sampled_from([0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_sparse_weights_come_back(
    path: Path, pattern: str, rows: int, columns: int, kernel: tuple[int, ...], density: float, seed: int
) -> None:
    """Bit for bit, at a bit a block and a byte for each weight that is kept."""
    size = blocks.PATTERNS[pattern]
    graph = sparse_graph((size[0] * rows, size[1] * columns, *kernel), pattern, density, seed)
    weight = graph.constants["w"]
    assert isinstance(weight, Weight)
    format.save(path, graph)
    loaded = format.load(path)[0]
    assert same(loaded, graph)
    kept = safetensors.numpy.load_file(path)["w/codes"]
    assert kept.shape[0] == int(blocks.blocks_of(weight.codes, pattern).any(axis=(2, 3)).sum())


@pytest.mark.parametrize("pattern", ["4x4", "1x4", "unstructured"])
def test_a_layer_with_a_tenth_of_its_weights_takes_a_quarter_of_its_bytes(path: Path, pattern: str) -> None:
    graph = sparse_graph((256, 64, 3, 3), pattern, 0.1)
    format.save(path, graph)
    assert path.stat().st_size <= 0.26 * 256 * 64 * 9


SPARSE_EDITS: list[tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = [
    (lambda zeros, tensors: zeros.update(pattern="2x4"), "none of 32x4"),
    (lambda zeros, tensors: zeros.update(pattern="x" * 5000), "text"),
    (lambda zeros, tensors: zeros.update(pattern="16x4"), "does not consist of"),
    (lambda zeros, tensors: zeros.update(pattern="1x4"), "the mask is"),
    (lambda zeros, tensors: zeros.pop("pattern"), "lacks"),
    (lambda zeros, tensors: zeros.update(mask="none"), "not in the file"),
    (lambda zeros, tensors: zeros.update(mask="w/codes"), "shares the codes"),
    (lambda zeros, tensors: zeros.update(mask=["w/mask"]), "not in the file"),
    (lambda zeros, tensors: tensors["w/mask"].__setitem__(-1, 0x80), "beyond its 60 blocks"),
    (lambda zeros, tensors: tensors["w/mask"].__setitem__(0, 0), "the mask keeps int8"),
    (lambda zeros, tensors: tensors.update({"w/mask": tensors["w/mask"][:-1]}), "the mask is"),
    (lambda zeros, tensors: tensors.update({"w/mask": tensors["w/mask"].view(np.int8)}), "the mask is"),
    (lambda zeros, tensors: tensors.update({"w/codes": tensors["w/codes"][:-1]}), "the mask keeps int8"),
    (lambda zeros, tensors: tensors.update({"w/codes": tensors["w/codes"].view(np.uint8)}), "the mask keeps int8"),
    (lambda zeros, tensors: tensors["w/codes"].__setitem__(0, 0), "values are all zero"),
]


@pytest.mark.parametrize("index", range(len(SPARSE_EDITS)))
def test_hostile_sparse_weights(path: Path, index: int) -> None:
    format.save(path, sparse_graph((24, 40), "4x4", 0.5))
    tensors = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
    document = format.read_document(path)
    change, message = SPARSE_EDITS[index]
    change(document["constants"]["w"]["weight"]["sparsity"], tensors)
    safetensors.numpy.save_file(tensors, path, metadata={"lowbit": json.dumps(document)})
    with pytest.raises(LowbitError, match=message):
        format.load(path)


@pytest.mark.parametrize("pattern", ["", "4x4"])
def test_weights_of_very_many_axes_are_refused(path: Path, pattern: str) -> None:
    """Before sizes are multiplied, whose product no message could print."""
    m = Maker()
    w, ones = m.grouped(24, 40, 40), m.constant(np.ones(24, np.float32))
    dense = m.graph(m.node("quantized_linear", m.input("x", 1, 40, dtype="u8"), w, ones, ones, output="f32"))
    format.save(path, sparse_graph((24, 40), pattern, 0.5) if pattern else dense)
    header, document, raw = parts_of(path.read_bytes())
    document["values"]["w" if pattern else w]["shape"] += [1] * 6 + [2**40] * 400
    refuse(path, assemble(header, document, raw), "axes, more than 8")


def test_a_small_file_cannot_ask_for_a_large_memory(path: Path) -> None:
    """Blocks of 32 x 4 without values: 1024 codes a byte of mask; and one mask for many weights."""
    format.save(path, sparse_graph((4096, 1024), "32x4", 0.9))
    tensors, document = safetensors.numpy.load_file(path), format.read_document(path)
    tensors |= {"w/mask": np.zeros_like(tensors["w/mask"]), "w/codes": np.zeros((0, 128), np.int8)}
    safetensors.numpy.save_file(tensors, path, metadata={"lowbit": json.dumps(document)})
    with pytest.raises(FormatError, match="stand for more than 128 codes"):
        format.load(path)
    format.save(path, sparse_graph((64, 64), "4x4", 0.1))
    header, document, raw = parts_of(path.read_bytes())
    weight = document["constants"]["w"]["weight"]
    document["constants"]["again"] = {"weight": {**weight, "group_size": 64}}
    document["values"]["again"] = document["values"]["w"]
    refuse(path, assemble(header, document, raw), "shares the codes")


@pytest.mark.parametrize("bits", [4, 8])
def test_constants_of_one_tensor_are_one_object(path: Path, bits: int) -> None:
    m = Maker(3)
    y = m.node("linear", m.input("x", 2, 64), m.floats(64, 64))
    m.constant(Weight(codes=np.ones((4, 64), np.int8), scales=np.ones(4, np.float32), bits=bits), "w")
    format.save(path, m.graph(y))
    header, document, raw = parts_of(path.read_bytes())
    for name in ("w", *(name for name, entry in document["constants"].items() if "tensor" in entry)):
        document["constants"][f"{name}_again"] = document["constants"][name]
        document["values"][f"{name}_again"] = document["values"][name]
    path.write_bytes(assemble(header, document, raw))
    graph = format.load(path)[0]
    assert len(graph.constants) == 4
    for name in graph.constants:
        assert graph.constants[name] is graph.constants[name.removesuffix("_again")]


def test_every_truncation_of_a_sparse_file_is_refused(path: Path) -> None:
    format.save(path, sparse_graph((32, 32), "4x4", 0.3))
    data = path.read_bytes()
    for length in range(0, len(data), 31):
        refuse(path, data[:length])
