"""The reader in C++ and the C ABI: what Python's reader takes it takes, with the same bits; what Python refuses it
refuses."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import safetensors.numpy

import lowbit
from c_library import ERRORS, CModel, Tensor, api, check, library
from graphs import GRAPHS, Maker, feeds
from lowbit.errors import LowbitError
from lowbit.graph.ir import Array, Symbol
from lowbit.runtime import format, meta, model
from mutations import File, joined
from test_fuzz import LIMITS, MAX_INPUT, case, elements, originals

ROOT = Path(__file__).parent.parent
GOLDEN = sorted((ROOT / "tests" / "golden").glob("v*/*.lowbit"))
MEMORY = {"threads": 1, "memory": LIMITS.memory, "operations": LIMITS.operations}


def same(made: list[Array], expected: list[Array]) -> None:
    for a, b in zip(made, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.mark.parametrize("isa", ["scalar", None])
@pytest.mark.parametrize("name", GRAPHS)
def test_each_graph_gives_the_same_bits(name: str, isa: str | None, saved: Path) -> None:
    graph, path = GRAPHS[name](), saved / f"{name}.lowbit"
    format.save(path, graph, compress=isa is None)
    sizes = {symbol: each.minimum for symbol, each in graph.symbols.items()}
    model = CModel(path, threads=1, isa=None if isa is None else isa.encode())
    session = lowbit.Session(format.load(path)[0], threads=1, isa=isa)
    assert (model.isa, model.threads) == (session.isa, 1)
    assert [port.sizes for port in model.inputs] == [f"[{', '.join(map(str, v.shape))}]" for _, v in session.inputs]
    shapes = [tuple(-1 if isinstance(size, str) else size for size in value.shape) for _, value in session.outputs]
    assert [port.shape for port in model.outputs] == shapes
    for more in (0, 2):
        larger = {symbol: size + more * graph.symbols[symbol].multiple for symbol, size in sizes.items()}
        arrays = [*feeds(graph, larger).values()]
        try:
            expected = session.run(*arrays)
        except LowbitError as error:
            with pytest.raises(type(error)):
                model.run(arrays)
        else:
            same(model.run(arrays), expected)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_files_of_long_ago_give_the_same_bits(path: Path) -> None:
    if "segments" in path.stem:
        with pytest.raises(lowbit.UnsupportedError, match="segments that run in torch"):
            CModel(path)
        return
    arrays = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
    graph = format.load(path)[0]
    outputs = [arrays[f"out/{place}"] for place in range(len(graph.outputs))]
    same(CModel(path).run([arrays[f"in/{name}"] for name in graph.inputs]), outputs)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_model_is_the_same_by_either_reader(name: str, saved: Path) -> None:
    """lowbit.load takes the one in C++ for files that it takes."""
    path = saved / f"{name}.either.lowbit"
    format.save(path, GRAPHS[name](), {"name": "net", "notes": ["a"], "team": 3}, compress=len(name) % 2 == 1)
    read = model._by_core(path, 1, LIMITS)
    assert read is not None
    expected = by_python(path)
    graph, _, sizes, said = read
    assert (sizes, said) == (expected.session.weights, expected.meta)
    for part in ("inputs", "outputs", "values", "nodes", "constants", "symbols", "conditions", "states"):
        assert getattr(graph, part) == getattr(expected.session.graph, part)


def test_names_are_those_of_the_call(tmp_path: Path) -> None:
    graph = GRAPHS["number_net"]()
    count = len(graph.outputs)
    tree = {"dict": {"a": {"tensor": 0}, "b": {"tuple": [{"tensor": index} for index in range(1, count)]}}}
    parameters = [
        {"name": "batch", "kind": "keyword", "tree": {"dict": {each: {"tensor": each} for each in graph.inputs}}},
        {"name": "flag", "kind": "keyword", "tree": {"constant": None}},
    ]
    path = tmp_path / "net.lowbit"
    format.save(path, graph, {"signature": {"parameters": parameters}, "output": tree})
    model, predictor = CModel(path), lowbit.Predictor(path)
    assert [port.name for port in model.inputs] == [f"batch.{name}" for name in graph.inputs] == [*predictor.inputs]
    assert [port.name for port in model.outputs] == ["a", *(f"b.{index}" for index in range(count - 1))]
    assert [port.name for port in model.outputs] == [*predictor.outputs]


# ------------------------------------------------------------------------------------------------------- hostile files


def verdict(load: Callable[[], Any]) -> tuple[str, str]:
    try:
        load()
    except LowbitError as error:
        return type(error).__name__, str(error)
    return "", ""


def by_python(path: Path) -> lowbit.Model:
    """lowbit.load without the reader in C++."""
    with mock.patch.object(model, "_by_core", return_value=None):
        return lowbit.load(path, threads=1, limits=LIMITS)


def compare(path: Path) -> tuple[str, str, bool]:
    """What both readers say of a file, in order; whether both loaded it, and gave the same bits."""
    python, loaded = verdict(lambda: by_python(path)), None
    c = verdict(lambda: CModel(path, **MEMORY))
    assert bool(python[0]) == bool(c[0]), f"Python: {python}\nC: {c}"
    if not python[0]:
        loaded = by_python(path)
        graph = loaded.session.graph
        sizes = {name: symbol.minimum for name, symbol in graph.symbols.items()}
        if sum(elements(graph, name, sizes) for name in graph.inputs) <= MAX_INPUT / 100:
            arrays = [*feeds(graph, sizes).values()]
            try:
                expected = loaded.session.run_list(arrays)
            except LowbitError as error:
                with pytest.raises(type(error)):
                    CModel(path, **MEMORY).run(arrays)
            else:
                same(CModel(path, **MEMORY).run(arrays), expected)
    return python[0], c[0], loaded is not None


def tried(directory: Path, seed: int, first: int, count: int, most: int = 1 << 14) -> dict[str, int]:
    files, path, counts = originals(directory), directory / "case.lowbit", {"refused": 0, "same": 0}
    for index in range(first, first + count):
        path.unlink(missing_ok=True)
        path.write_bytes(case(files, random.Random(f"{seed}:{index}"), most))
        try:
            counts["same" if compare(path)[2] else "refused"] += 1
        except BaseException:
            print(f"failed: seed {seed}, first {index}")
            raise
    return counts


@pytest.mark.parametrize("seed", [7])
def test_both_readers_take_the_same_of_mutated_files(seed: int, tmp_path: Path) -> None:
    counts = tried(tmp_path, seed, 0, 400)
    assert counts["refused"] > 50
    assert counts["same"] > 20


def written(tmp_path: Path, change: Callable[[File], bytes | None], name: str = "dynamic_net") -> Path:
    path = tmp_path / "net.lowbit"
    format.save(path, GRAPHS[name](), {})
    file = File.read(path.read_bytes())
    path.write_bytes(change(file) or file.bytes())
    return path


def raw(header: str) -> Callable[[File], bytes]:
    return lambda file: struct.pack("<Q", len(header.encode())) + header.encode() + bytes(file.tensors)


def text_of(change: Callable[[str], str]) -> Callable[[File], bytes]:
    """Another text of the document."""
    return lambda file: joined(file.header, change(json.dumps(file.document)), file.tensors)


JSON = {
    "repeated key": lambda text: text.replace('"version"', '"version": 2, "version"', 1),
    "repeated name of a value": lambda text: text.replace('"values": {', '"values": {"x": {}, ', 1),
    "byte order mark": lambda text: "\ufeff" + text,
    "trailing text": lambda text: text + "x",
    "trailing document": lambda text: text + text,
    "zero byte at the end": lambda text: text + "\0",
    "zero byte, then more": lambda text: text + "\0 more",
    "NaN": lambda text: text.replace('"version": 2', '"version": NaN', 1),
    "too large a number": lambda text: text.replace('"meta": {}', '"meta": {"a": 1e999}'),
    "integer beyond 64 bits": lambda text: text.replace('"meta": {}', '"meta": {"a": 18446744073709551616}'),
    "integer beyond int64": lambda text: text.replace('"meta": {}', '"meta": {"a": 9223372036854775808}'),
    "lone surrogate": lambda text: text.replace('"meta": {}', '"meta": {"a": "\\ud800"}'),
    "control character": lambda text: text.replace('"meta": {}', '"meta": {"a": "\n"}'),
    "comment": lambda text: text + "/* */",
    "single quotes": lambda text: text.replace('"meta"', "'meta'"),
    "deep": lambda text: text.replace('"meta": {}', '"meta": {"a": ' + "[" * 9000 + "]" * 9000 + "}"),
    "cut off": lambda text: text[:-1],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
}


@pytest.mark.parametrize("what", JSON)
def test_json_is_strict(what: str, tmp_path: Path) -> None:
    path = written(tmp_path, text_of(JSON[what]))
    with pytest.raises(lowbit.FormatError):
        CModel(path)
    if not what.startswith("integer beyond"):
        with pytest.raises(lowbit.FormatError):
            by_python(path)


@pytest.mark.parametrize(
    "header",
    ['{"a": 1, "a": 1}', "{} {}", "{}x", '{"__metadata__": {"lowbit": 3}}', '{"__metadata__": {}}', "{", "[]", "{\0}",
     '{"\ud83d": 1}'.encode("utf-16", "surrogatepass").decode("utf-16", "replace")],
)  # fmt: skip
def test_a_bad_header_is_refused(header: str, tmp_path: Path) -> None:
    path = written(tmp_path, raw(header))
    assert compare(path)[:2] == ("FormatError", "FormatError")


SAFETENSORS: dict[str, Callable[[dict[str, Any]], object]] = {
    "beyond the end": lambda entry: entry.update(data_offsets=[0, 2**40]),
    "backwards": lambda entry: entry.update(data_offsets=entry["data_offsets"][::-1]),
    "negative": lambda entry: entry.update(data_offsets=[-1, entry["data_offsets"][1]]),
    "three offsets": lambda entry: entry["data_offsets"].append(0),
    "another size": lambda entry: entry["shape"].append(2),
    "overflow": lambda entry: entry.update(shape=[2**33, 2**33]),
    "zero of many": lambda entry: entry.update(shape=[0, 2**39, 2**39], data_offsets=[0, 0]),
    "many axes": lambda entry: entry.update(shape=[1] * 9),
    "no known type": lambda entry: entry.update(dtype="F64"),
    "type that is no text": lambda entry: entry.update(dtype=3),
    "more keys": lambda entry: entry.update(more=1),
    "size that is a float": lambda entry: entry.update(shape=[2.0]),
    "size that is a truth": lambda entry: entry.update(shape=[True]),
}


@pytest.mark.parametrize("what", SAFETENSORS)
def test_a_bad_tensor_is_refused(what: str, tmp_path: Path) -> None:
    def change(file: File) -> None:
        SAFETENSORS[what](next(iter(file.header.values())))

    assert compare(written(tmp_path, change))[:2] == ("FormatError", "FormatError")


@pytest.mark.parametrize("where", range(12))
def test_gaps_and_cuts_are_refused(where: int, tmp_path: Path) -> None:
    path = written(tmp_path, lambda file: None)
    data = path.read_bytes()
    path.write_bytes([data[:where], data[: -where - 1], data + b"\0" * (where + 1)][where % 3])
    assert compare(path)[:2] == ("FormatError", "FormatError")


VALUES: list[Any] = ["x", 1, 1.5, True, None, [], {}, ["x"], [1], [{}], {"x": 1}, {"x": "y"}, [None]]


@pytest.mark.parametrize("key", meta._READERS)
def test_metadata_of_the_wrong_kind_are_refused(key: str, tmp_path: Path) -> None:
    """Of each key: what Python's table of readers refuses, and no more."""
    graph = GRAPHS["dynamic_net"]()
    rows: list[Any] = [*VALUES]
    for reader in meta.ROWS:
        names = list(reader.__dataclass_fields__)
        whole = dict.fromkeys(names, "x") | {name: 1 for name in names if name in ("score", "drop", "density", "bytes")}
        rows += [[dict.fromkeys(names, value)] for value in ("x", 1, True, None, {}, [])] + [[whole]]
    for value in rows:
        path = tmp_path / "net.lowbit"
        format.save(path, graph, {key: value})
        compare(path)


SIZES = [
    "batch*1", "0 + batch", "2*batch - batch", "batch // 0", "batch % 0", "batch // 1", "max(batch, 1)", "(batch)",
    "((batch", "batch)", "", " ", "x", "-batch", "batch batch", "4611686018427387904", "99999999999999999999",
    "4611686018427387903 + batch", "(" * 41 + "batch" + ")" * 41, "(" * 39 + "batch" + ")" * 39, "batch +" * 200,
    "scale(batch, 1.0)", "scale(batch, 0)", "scale(batch, 1e10)", "scale(batch)", "min(batch)", "max(1, 2, 3)",
    "2*(batch // 2)", "batch*batch // batch", "+batch", "1e3", "0x10", "batch/2", "batch\n", "bátch", "max", "3",
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_read_as_in_python(size: str, tmp_path: Path) -> None:
    """Of an output, where it must be `batch`, and of an input, where other texts are the same size."""

    def output(file: File) -> None:
        file.document["values"][file.document["outputs"][0]]["shape"][0] = size

    def everywhere(file: File) -> None:
        for value in file.document["values"].values():
            value["shape"] = [size if each == "batch" else each for each in value["shape"]]

    for change in (output, everywhere):
        compare(written(tmp_path, change))


@pytest.mark.parametrize("seed", range(3))
def test_streams_are_what_zlib_reads(seed: int, tmp_path: Path) -> None:
    """Of each kind of block, sound and damaged."""
    rng = random.Random(seed)
    for _ in range(60):
        bytes_ = rng.choice([rng.randbytes(300), bytes(300), bytes(rng.choice([0, 1, 255]) for _ in range(300))])
        how = rng.choice([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED, zlib.Z_RLE])
        job = zlib.compressobj(rng.choice([0, 1, 9]), zlib.DEFLATED, -15, 9, how)
        stream = bytearray(job.compress(bytes_[:200]) + job.flush(zlib.Z_FULL_FLUSH))
        stream += job.compress(bytes_[200:]) + job.flush()
        if rng.random() < 0.7:
            for _ in range(rng.choice([1, 2])):
                stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            stream = stream[: rng.randrange(1, len(stream))] + rng.randbytes(rng.randrange(2))
        value = {"dtype": "u8", "shape": [300]}
        document = {
            "version": 2, "symbols": {}, "inputs": [], "outputs": ["c"], "values": {"c": value}, "nodes": [],
            "constants": {"c": {"tensor": "c"}}, "states": [], "meta": {},
            "compressed": {"c": {"dtype": "U8", "shape": [300]}},
        }  # fmt: skip
        header = {"c": {"dtype": "U8", "shape": [len(stream)], "data_offsets": [0, len(stream)]}}
        path = tmp_path / "net.lowbit"
        path.write_bytes(joined(header, json.dumps(document), stream))
        if not compare(path)[0]:
            same(CModel(path).run([]), [np.frombuffer(zlib.decompress(bytes(stream), -15), np.uint8)])


# ------------------------------------------------------------------------------------------------------------- the ABI


@pytest.fixture(scope="module")
def small(saved: Path) -> Path:
    path = saved / "small.lowbit"
    format.save(path, GRAPHS["dynamic_net"]())
    return path


def test_it_exports_one_function_to_others() -> None:
    """And, under a version of its own, what the Python bindings take."""
    data = library().read_bytes()
    names = set(re.findall(rb"lowbit_[a-z_]+", data)) & {b"lowbit_get_api"}
    assert names == {b"lowbit_get_api"}
    assert b"LOWBIT_1\0" in data
    assert b"liblowbit.so\0" in data


def test_from_memory_and_from_many_threads(small: Path) -> None:
    model = CModel(small.read_bytes(), threads=1)
    x = np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32)
    expected = lowbit.load(small, threads=1)(x)
    found: list[Array] = []

    def work() -> None:
        for _ in range(20):
            found.extend(model.run([x]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(each.tobytes() == np.asarray(expected).tobytes() for each in found)


def test_errors_have_a_status_and_a_text(small: Path, tmp_path: Path) -> None:
    model = CModel(small)
    good = np.zeros((2, 3, 6, 6), np.float32)
    with pytest.raises(lowbit.InputError, match="expected 1 inputs, got 2"):
        model.run([good, good])
    with pytest.raises(lowbit.InputError, match=r"'x': expected f32 \[batch, 3, 6, 6\], got f32 \[2, 3, 6, 7\]"):
        model.run([np.zeros((2, 3, 6, 7), np.float32)])
    with pytest.raises(lowbit.InputError, match="expected f32"):
        model.run([good.astype(np.int32)])
    with pytest.raises(lowbit.LimitError, match="operations"):
        CModel(small, operations=1.0).run([good])
    with pytest.raises(lowbit.EnvironmentVariableError, match="none"):
        CModel(small, isa=b"none")
    with pytest.raises(OSError, match="No such file"):
        CModel(tmp_path / "missing.lowbit")
    with pytest.raises(lowbit.FormatError, match="not a regular file"):
        CModel(tmp_path)
    for options in ({"threads": -1}, {"memory": -1}, {"seconds": float("nan")}, {"operations": float("inf")}):
        with pytest.raises(lowbit.InputError, match="lowbit_options"):
            CModel(small, **options)
    with pytest.raises(lowbit.InputError, match="NULL"):
        check(api().load_file(None, None, None))
    assert set(ERRORS) == set(range(1, 8))


def test_a_batch_has_a_bound_that_a_caller_may_raise(saved: Path) -> None:
    maker, path = Maker(0, {"batch": Symbol(minimum=1)}), saved / "batch.lowbit"
    format.save(path, maker.graph(maker.node("reduce", maker.input("x", "batch", 2), kind="max", axes=(1,))))
    x = np.zeros((65_537, 2), np.float32)
    with pytest.raises(lowbit.LimitError, match="batch is 65537, and this session's limit is 65536"):
        CModel(path).run([x])
    with pytest.raises(lowbit.LimitError, match="batch is 3, and this session's limit is 2"):
        CModel(path, batch=2).run([x[:3]])
    assert {len(CModel(path, batch=batch).run([x])[0]) for batch in (65_537, -1)} == {65_537}


def test_the_code_of_its_threads_stays_after_it_is_closed() -> None:
    """They look after memory that no call uses any more, and may sleep meanwhile."""
    program = f"import _ctypes; handle = _ctypes.dlopen({str(library())!r}, 2); _ctypes.dlclose(handle)"
    program += "; assert 'liblowbit.so' in open('/proc/self/maps').read()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_outputs_that_are_too_small_are_told_how_large(small: Path) -> None:
    model, x = CModel(small), np.zeros((3, 3, 6, 6), np.float32)
    few = np.full(8, 7, np.uint8)
    outputs = (Tensor * 1)(Tensor.of(few))
    with pytest.raises(lowbit.InputError, match=r"output 'output' f32 \[3, 4, 4, 3\] takes 576 bytes, has 8"):
        model.call(api().run, [x], outputs)
    assert (outputs[0].bytes, outputs[0].rank, [*outputs[0].shape[:4]]) == (576, 4, [3, 4, 4, 3])
    assert (few == 7).all()
    enough = np.empty(150, np.float32)
    outputs[0].data, outputs[0].bytes = enough.ctypes.data, enough.nbytes
    model.call(api().run, [x], outputs)
    np.testing.assert_array_equal(enough[:144].reshape(3, 4, 4, 3), np.asarray(lowbit.load(small)(x)))
    outputs[0].data = x.ctypes.data
    with pytest.raises(lowbit.InputError, match="shares memory"):
        model.call(api().run, [x], outputs)


def test_the_table_of_operators_is_up_to_date() -> None:
    """`python cpp/reader/operators.py` has nothing to write."""
    namespace: dict[str, Any] = {"__file__": str(ROOT / "cpp/reader/operators.py"), "__name__": "operators"}
    exec(compile((ROOT / "cpp/reader/operators.py").read_text(), "operators.py", "exec"), namespace)
    assert namespace["table"]() == (ROOT / "cpp/reader/operators.inc").read_text(), (
        "run: python cpp/reader/operators.py"
    )


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        print(tried(Path(folder), *map(int, sys.argv[1:])))
