"""A predictor is a model by names, loaded once a process, and as small as its arguments wherever it is sent."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import InputError
from lowbit.runtime import predictor


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Nested(nn.Module):
    """Structures of tensors on both sides."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(8, 4), kind

    def forward(self, x: torch.Tensor, more: dict[str, Any]) -> Any:
        a = self.layer(x) + more["by"][1]
        b = a * more["by"][0]
        return {
            "one": a,
            "tuple": (a, b),
            "list": [a, (b, a)],
            "dict": {"logits": a, "states": {"last": b}},
            "named": Pair(a, b),
        }[self.kind]


NAMES = {
    "one": ("output",),
    "tuple": ("output.0", "output.1"),
    "list": ("output.0", "output.1.0", "output.1.1"),
    "dict": ("logits", "states.last"),
    "named": ("first", "second"),
}


@pytest.fixture(scope="module", params=[*NAMES])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / f"{request.param}.lowbit"
    by = [torch.ones(2, 4), torch.ones(2, 4)]
    lowbit.convert(Nested(request.param).eval(), (torch.randn(2, 8), {"by": by})).save(path)
    return request.param, path


def flat(output: Any) -> list[Any]:
    items = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else None
    return [output] if items is None else [leaf for item in items for leaf in flat(item)]


def test_names_are_the_ways_to_tensors(file: tuple[str, Path]) -> None:
    kind, path = file
    predict, rng = lowbit.Predictor(path, threads=1), np.random.default_rng(0)
    assert predict.inputs == ("x", "more.by.0", "more.by.1")
    assert predict.outputs == NAMES[kind]
    x, p, q = (rng.standard_normal((3, size)).astype(np.float32) for size in (8, 4, 4))
    found = predict({"more.by.1": q, "x": x, "more.by.0": p, "id": np.arange(3)})
    expected = flat(lowbit.load(path, threads=1)(x, {"by": [p, q]}))
    assert tuple(found) == NAMES[kind]
    assert all(np.array_equal(a, b) for a, b in zip(found.values(), expected, strict=True))


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("linear") / "net.lowbit"
    lowbit.convert(nn.Linear(8, 4), torch.randn(1, 8)).save(path)
    return path


X = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)


def test_other_names_for_inputs_and_outputs(linear: Path) -> None:
    predict = lowbit.Predictor(linear, threads=1, inputs={"input": "pixels"}, outputs={"output": "logits"})
    assert (predict.inputs, predict.outputs) == (("pixels",), ("logits",))
    assert np.array_equal(predict({"pixels": X})["logits"], lowbit.load(linear)(X))
    assert lowbit.Predictor(linear, threads=1, outputs=[])({"input": X}) == {}


class Mixed(nn.Module):
    """Half floats, integers, truth values, complex numbers, and a size that is a number."""

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[Any, ...]:
        return x * 2, ids[:, 0], x > 0, torch.complex(x.float(), x.float()), x.shape[0]


def test_types_are_those_of_the_caller(tmp_path: Path, linear: Path) -> None:
    path = tmp_path / "mixed.lowbit"
    lowbit.convert(Mixed(), (torch.ones(2, 3).half(), torch.ones(2, 5, dtype=torch.int64))).save(path)
    reads, gives = lowbit.Predictor(path, threads=1).types()
    assert reads == {"x": ("float16", ("batch", 3)), "ids": ("int64", ("batch", "sequence"))}
    batch = {"x": np.ones((4, 3), np.float16), "ids": np.ones((4, 5), np.int64)}
    for name, given in lowbit.Predictor(path, threads=1)(batch).items():
        array = np.asarray(given)
        assert gives[name].dtype == str(array.dtype)
        assert tuple(4 if size == "batch" else size for size in gives[name].shape) == array.shape
    renamed = lowbit.Predictor(linear, inputs={"input": "pixels"}, outputs={"output": "logits"}).types()
    assert renamed == ({"pixels": ("float32", ("batch", 8))}, {"logits": ("float32", ("batch", 4))})


WORKER = """
import pickle, sys
predictors, batch = pickle.load(sys.stdin.buffer)
answers = {predict(batch)["output"].tobytes() for predict in predictors for _ in range(3)}
from lowbit.runtime import predictor
sys.stdout.buffer.write(pickle.dumps((answers, len(predictor._loaded), "torch" in sys.modules)))
"""


def test_it_is_sent_as_its_arguments_and_loaded_once_a_process(linear: Path) -> None:
    predict = lowbit.Predictor(linear, threads=1)
    expected = predict({"input": X})["output"].tobytes()
    assert len(pickle.dumps(predict)) < 400
    again = pickle.loads(pickle.dumps(predict))
    assert again.model is predict.model
    sent = pickle.dumps(([predict, again, lowbit.Predictor(str(linear), threads=1)], {"input": X}))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = subprocess.run([sys.executable, "-c", WORKER], input=sent, env=env, capture_output=True, timeout=120)
    assert worker.returncode == 0, worker.stderr.decode()
    assert pickle.loads(worker.stdout) == ({expected}, 1, False)


def test_threads_load_it_once(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Path] = []

    def load(path: Path, **options: Any) -> Any:
        loads.append(path)
        return lowbit.load(path, **options)

    monkeypatch.setattr(predictor, "load", load)
    monkeypatch.setattr(predictor, "_loaded", {})
    predict, found = lowbit.Predictor(linear, threads=1), list[bytes]()
    workers = [
        threading.Thread(target=lambda: found.append(predict({"input": X})["output"].tobytes())) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(loads) == 1
    assert len(set(found)) == 1
    assert len(found) == 8


def test_a_file_that_is_replaced_is_loaded_anew(tmp_path: Path) -> None:
    path, answers = tmp_path / "net.lowbit", []
    predict = lowbit.Predictor(path, threads=1)
    for seed in range(2):
        torch.manual_seed(seed)
        lowbit.convert(nn.Linear(8, 4), torch.randn(1, 8)).save(path)
        os.utime(path, ns=(seed, seed))
        answers.append(predict({"input": X})["output"])
        assert sum(key[0] == str(path.resolve()) for key in predictor._loaded) == 1
    assert not np.array_equal(*answers)


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({}, {"x": X}, "missing: 'input'; the batch holds 'x'"),
        ({}, {}, "the batch holds nothing"),
        ({"inputs": {"image": "input"}}, {"input": X}, "the model has no input 'image'; it has 'input'"),
        ({"outputs": ["logits"]}, {"input": X}, "the model has no output 'logits'; it has 'output'"),
        ({}, {"input": X.astype(np.float64)}, r"'input' must be float32, is float64"),
        ({"inputs": {"input": "pixels"}}, {"pixels": X[:, :3]}, "input"),
        ({}, {"input": [1.0]}, "must be a NumPy array"),
    ],
)
def test_what_does_not_fit_is_told(linear: Path, options: Any, batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lowbit.Predictor(linear, threads=1, **options)(batch)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lowbit.Predictor(tmp_path / "no.lowbit")({"input": X})
