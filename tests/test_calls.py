"""A loaded model is called as the original was: parameters, nested inputs and outputs, dtypes, and what is refused."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowbit
from graphs import GRAPHS, Maker, feeds, float_net, integer_net
from lowbit.errors import FormatError, InputError, LowbitError
from lowbit.graph.ir import Graph, Symbol, Weight, replace
from lowbit.ops import interpreter
from lowbit.runtime import calls, format
from lowbit.runtime.meta import Meta


def two_inputs() -> Graph:
    m = Maker(0, {"n": Symbol()})
    x, y = m.input("x", "n", 4), m.input("y", "n", 4)
    return m.graph(m.node("add", x, y), m.node("sub", x, y), m.node("mul", x, y))


SIGNATURE = {
    "parameters": [
        {
            "name": "pair",
            "kind": "positional",
            "tree": {"tuple": [{"tensor": "x", "dtype": "f32"}, {"constant": None}]},
        },
        {"name": "flag", "kind": "positional", "tree": {"constant": True}},
        {"name": "extra", "kind": "keyword", "tree": {"dict": {"y": {"tensor": "y", "dtype": "f16"}}}},
    ]
}
OUTPUT = {
    "object": {
        "logits": {"tensor": 0},
        "parts": {
            "namedtuple": {"sub": {"tensor": 1, "dtype": "f16"}, "none": {"constant": None}},
            "class": "net:Parts",
        },
        "list": {"list": [{"tensor": 2}, {"tuple": []}]},
    },
    "class": "transformers:ModelOutput",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "net.lowbit"
    format.save(path, two_inputs(), {"signature": SIGNATURE, "output": OUTPUT, "decisions": [{"node": "n0_add"}]})
    return path


def test_structures_in_and_out(path: Path) -> None:
    model = lowbit.load(path)
    x, y = np.ones((3, 4), np.float32), np.full((3, 4), 2, np.float16)
    result = model((x, None), True, extra={"y": y})
    assert (result.logits == 3).all()
    assert result["logits"] is result.logits is result[0]
    assert list(result) == ["logits", "parts", "list"]
    assert len(result.to_tuple()) == 3
    sub, none = result.parts
    assert sub is result.parts.sub
    assert none is None
    assert sub.dtype == np.float16
    assert (result.list[0] == 2).all()
    assert result.list[1] == ()
    assert isinstance(result.list, list)
    for twin in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert (twin.logits == 3).all()
        assert twin.parts.sub.shape == (3, 4)
    with pytest.raises(AttributeError, match="no field 'loss'"):
        _ = result.loss
    with pytest.raises(AttributeError):
        _ = result.parts.loss
    again = model([x, None], extra={"y": y})  # a list will do, and what is constant may be left out
    assert (again.logits == result.logits).all()
    assert [row["node"] for row in model.decisions] == ["n0_add"]
    assert "pair, flag=True, extra" in repr(model)


X, Y = np.ones((3, 4), np.float32), np.ones((3, 4), np.float16)
PAIR, EXTRA = (X, None), {"y": Y}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing: 'pair', 'extra'"),
        ((PAIR, True, EXTRA), {}, "3 positional inputs were given, 2 are taken; missing: 'extra'"),
        ((PAIR,), {"extra": EXTRA, "more": 1}, "no input 'more'"),
        ((PAIR,), {"extra": EXTRA, "pair": PAIR}, "'pair' was given twice"),
        ((PAIR, False), {"extra": EXTRA}, "'flag' was True when the model was converted"),
        ((PAIR, 1), {"extra": EXTRA}, "'flag' was True"),
        ((X,), {"extra": EXTRA}, "'pair' must be a tuple of 2, is a ndarray"),
        (((X,),), {"extra": EXTRA}, "'pair' must be a tuple of 2, is a tuple of 1"),
        ((PAIR,), {"extra": Y}, "'extra' must be a dict of \\['y'\\], is a ndarray"),
        ((PAIR,), {"extra": {"z": Y}}, "is \\['z'\\]"),
        (((X.astype(np.float64), None),), {"extra": EXTRA}, "'pair'\\[0\\] must be float32, is float64: use x.astype"),
        (((X.tolist(), None),), {"extra": EXTRA}, "must be a NumPy array, is a list of 3"),
        ((PAIR,), {"extra": {"y": Y.astype(np.int32)}}, "'extra'\\['y'\\] must be float16, is int32"),
        (((X[:2], None),), {"extra": EXTRA}, "'y' must have shape \\[n, 4\\] with n = 2, has \\[3, 4\\]"),
        (((X[0], None),), {"extra": EXTRA}, "add the batch axis with x\\[None\\]"),
    ],
)
def test_what_a_call_refuses(path: Path, args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lowbit.load(path)(*args, **kwargs)


def test_arrays_of_any_layout(path: Path) -> None:
    model = lowbit.load(path)
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = model((np.ascontiguousarray(x.T[:3]), None), extra=EXTRA).logits
    for view in (x.T[:3], np.asfortranarray(x.T[:3]), x.astype(">f4").astype(np.float32).T[:3]):
        assert (model((view, None), extra=EXTRA).logits == expected).all()
    readonly = np.ascontiguousarray(x.T[:3])
    readonly.flags.writeable = False
    assert (model((readonly, None), extra=EXTRA).logits == expected).all()
    with pytest.raises(InputError, match="must be float32, is >f4"):
        model((x.T[:3].astype(">f4"), None), extra=EXTRA)


def test_without_a_signature() -> None:
    graph = two_inputs()
    model = lowbit.Model(lowbit.Session(graph), {})
    x = np.ones((2, 4), np.float32)
    assert all((a == b).all() for a, b in zip(model(x, y=x), model.session.run(x, x), strict=True))
    assert model.decisions == []


TENSORS = {"tuple": [{"tensor": "x"}, {"tensor": "y"}]}


@pytest.mark.parametrize(
    "meta",
    [
        {"signature": []},
        {"signature": {"parameters": {}}},
        {"signature": {"parameters": [{"name": "a"}]}},
        {"signature": {"parameters": [{"name": "a", "kind": "magic", "tree": TENSORS}]}},
        {"signature": {"parameters": [{"name": "a", "kind": "keyword", "tree": {"tensor": "x"}}]}},
        {
            "signature": {
                "parameters": [{"name": "a", "kind": "keyword", "tree": {"tuple": [TENSORS, {"tensor": "x"}]}}]
            }
        },
        {"output": {"tensor": 3}},
        {"output": {"tensor": -1}},
        {"output": {"tensor": True}},
        {"output": {"tensor": 0, "dtype": "complex"}},
        {"output": {"constant": [1]}},
        {"output": {"tuple": {}}},
        {"output": {"dict": {"a": {}}}},
        {"output": {"object": {"a": {"tensor": 0}}}},
        {"output": {"object": {"a": {"tensor": 0}}, "class": 3}},
        {"output": {"set": []}},
        {"output": "x"},
    ],
)
def test_conventions_that_are_not_sound(meta: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        calls.convention(Meta.read(meta), ("x", "y"), 3)


def test_trees_that_are_too_deep() -> None:
    tree: Any = {"tensor": 0}
    for _ in range(60):
        tree = {"tuple": [tree]}
    with pytest.raises(FormatError):
        calls.convention(Meta(output=tree), (), 1)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("isa", ["scalar", None])
def test_sessions_do_what_the_interpreter_says(name: str, isa: str | None) -> None:
    graph = GRAPHS[name]()
    session = lowbit.Session(graph, threads=1, isa=isa)
    for batch in (1, 3):
        x = feeds(graph, {"batch": batch}, seed=batch)
        expected = interpreter.run(graph, x)
        for key, got in zip(graph.outputs, session.run(**x), strict=True):
            assert (got.dtype, got.shape) == (expected[key].dtype, expected[key].shape)
            if name in ("integer_net", "dynamic_net"):
                assert (got == expected[key]).all()
            else:
                scale = max(1.0, float(np.abs(expected[key], dtype=np.float64).max(initial=0)))  # sums may cancel
                np.testing.assert_allclose(got, expected[key], rtol=1e-4, atol=1e-5 * scale)


def test_session_face() -> None:
    graph = integer_net()
    session = lowbit.Session(graph, threads=1)
    x = feeds(graph)["x"]
    assert [name for name, _ in session.inputs] == ["x"]
    assert session.outputs[0][1].shape == ("batch", 5)
    assert session.threads == 1
    outputs = [np.empty_like(array) for array in session.run(x)]
    session.run_into([x], outputs)
    assert all((a == b).all() for a, b in zip(outputs, session.run(x), strict=True))
    assert {row["op"] for row in session.nodes()} >= {"quantized_conv2d", "quantized_linear"}
    assert not session.graph.constants
    for wrong in ((), (x, x)):
        with pytest.raises(InputError, match="in this order or by name"):
            session.run(*wrong)
    with pytest.raises(InputError, match="in this order or by name"):
        session.run(y=x)
    with pytest.raises(InputError, match="repeats"):
        session.profile(x, repeats=0)
    for threads in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="threads must be a positive integer"):
            lowbit.Session(graph, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(lowbit.EnvironmentVariableError):
        lowbit.Session(graph, isa="sse9")


def test_profile_prints_as_a_table() -> None:
    graph = integer_net()
    profile = lowbit.Session(graph, threads=1).profile(feeds(graph)["x"], repeats=2)
    lines = str(profile).splitlines()
    assert lines[0].split() == ["node", "op", "kernel", "ms", "GOP/s", "of", "limit", "share"]
    assert len(lines) == len(profile) + 3
    assert {row.op for row in profile} >= {"quantized_conv2d", "quantized_add"}
    assert sum(row.seconds for row in profile) == profile.seconds > 0
    assert all(row.gops >= 0 for row in profile)
    assert "100.0 %" in lines[-1]


def test_one_model_in_many_threads(path: Path) -> None:
    model = lowbit.load(path, threads=1)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((seed % 5 + 1, 4)).astype(np.float32)
        for _ in range(50):
            if not (model((x, None), extra={"y": x}).logits == x + x).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_saving_a_view_of_a_weight(tmp_path: Path) -> None:
    graph = float_net()
    constants = {n: c if isinstance(c, Weight) else np.asfortranarray(c) for n, c in graph.constants.items()}
    format.save(tmp_path / "a.lowbit", replace(graph, constants=constants))
    format.save(tmp_path / "b.lowbit", graph)
    assert (tmp_path / "a.lowbit").read_bytes() == (tmp_path / "b.lowbit").read_bytes()


def test_load_refuses_with_a_lowbit_error(tmp_path: Path) -> None:
    bad = {"signature": {"parameters": []}}
    format.save(tmp_path / "net.lowbit", two_inputs(), bad)
    with pytest.raises(LowbitError, match="the signature feeds"):
        lowbit.load(tmp_path / "net.lowbit")
