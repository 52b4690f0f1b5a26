"""`lowbit repository`: Triton can read the files, and its model answers as the session does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import lowbit
from lowbit.cli.commands import app
from lowbit.errors import InputError, UnsupportedError
from lowbit.runtime import repository

config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")


class Mixed(nn.Module):
    """Several of each, of several types, one of them a number, one an array without axes."""

    def forward(self, x: torch.Tensor, more: dict[str, torch.Tensor]) -> dict[str, Any]:
        high = {"est": x > more["least"]}
        return {"half": x * 2, 'it\'s "ids"': more["ids"][:, 0], "high": high, "size": x.shape[0] + 1}


BATCH = {
    "x": np.arange(6, dtype=np.float16).reshape(2, 3) - 2,
    "more.ids": np.arange(10).reshape(2, 5),
    "more.least": np.float16([1]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("files")
    lowbit.convert(nn.Linear(8, 4).eval(), torch.randn(1, 8)).save(directory / "net.lowbit")
    ids = torch.ones(2, 5, dtype=torch.int64)
    lowbit.convert(Mixed().eval(), (torch.ones(2, 3).half(), {"ids": ids, "least": torch.tensor(1.0).half()})).save(
        directory / "mixed.lowbit"
    )
    return directory


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["repository", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def config(model: Path) -> Any:
    """Triton's own reading of it."""
    return text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), config_pb2.ModelConfig())


def test_the_files_are_those_of_a_repository(files: Path, tmp_path: Path) -> None:
    where = tmp_path / "a" / "repository"
    printed = run(files / "net.lowbit", f"other={files / 'mixed.lowbit'}", where, "--threads", 2, "--instances", 3)
    assert printed.split() == ["net:", f"{where}/net/1", "other:", f"{where}/other/1"]
    found = {str(path.relative_to(where)) for path in where.rglob("*") if path.is_file()}
    assert found == {
        f"{name}/{file}" for name in ("net", "other") for file in ("config.pbtxt", "1/model.py", "1/model.lowbit")
    }
    assert (where / "net/1/model.lowbit").read_bytes() == (files / "net.lowbit").read_bytes()
    net, other = config(where / "net"), config(where / "other")
    for name, made in (("net", net), ("other", other)):
        assert (made.name, made.backend, made.max_batch_size) == (name, "python", 0)
        (group,) = made.instance_group
        assert (group.count, group.kind) == (3, config_pb2.ModelInstanceGroup.KIND_CPU)
        assert made.parameters["threads"].string_value == "2"
        assert str(Path(lowbit.__file__).parent.parent) in made.parameters["python_path"].string_value.split(":")

    def tensors(of: Any) -> list[tuple[str, str, list[int]]]:
        return [(each.name, config_pb2.DataType.Name(each.data_type), list(each.dims)) for each in of]

    assert tensors(net.input) == [("input", "TYPE_FP32", [-1, 8])]
    assert tensors(net.output) == [("output", "TYPE_FP32", [-1, 4])]
    assert tensors(other.input) == [
        ("x", "TYPE_FP16", [-1, 3]),
        ("more.ids", "TYPE_INT64", [-1, -1]),
        ("more.least", "TYPE_FP16", [1]),
    ]
    assert tensors(other.output) == [
        ("half", "TYPE_FP16", [-1, 3]),
        ('it\'s "ids"', "TYPE_INT64", [-1]),
        ("high.est", "TYPE_BOOL", [-1, 3]),
        ("size", "TYPE_INT64", [1]),
    ]


def test_names_are_those_of_a_predictor(files: Path, tmp_path: Path) -> None:
    run(files / "mixed.lowbit", tmp_path)
    predict = lowbit.Predictor(files / "mixed.lowbit")
    made = config(tmp_path / "mixed")
    assert tuple(each.name for each in made.input) == predict.inputs
    assert tuple(each.name for each in made.output) == predict.outputs


def test_a_model_that_is_there_gets_a_further_version(files: Path, tmp_path: Path) -> None:
    run(files / "net.lowbit", tmp_path)
    (tmp_path / "net" / "7").mkdir()
    (tmp_path / "net" / "labels.txt").touch()
    assert run(f"net={files / 'mixed.lowbit'}", tmp_path).split() == ["net:", f"{tmp_path}/net/8"]
    assert {each.name for each in (tmp_path / "net").iterdir()} == {"1", "7", "8", "labels.txt", "config.pbtxt"}
    assert len(config(tmp_path / "net").output) == 4
    assert [each.name for each in tmp_path.iterdir()] == ["net"]


class Complex(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.complex(x, x)


def test_what_cannot_be_is_told_and_nothing_is_written(files: Path, tmp_path: Path) -> None:
    lowbit.convert(Complex(), torch.ones(2, 3)).save(tmp_path / "complex.lowbit")
    (tmp_path / "broken.lowbit").write_bytes((files / "net.lowbit").read_bytes()[:500])
    net, where = files / "net.lowbit", tmp_path / "repository"
    for names, error, message in (
        ([f"complex={tmp_path / 'complex.lowbit'}"], UnsupportedError, "'output' is complex64, which the Open Infer"),
        ([str(tmp_path / "broken.lowbit")], lowbit.FormatError, "broken"),
        ([str(tmp_path / "no.lowbit")], InputError, r"there is no file .*no\.lowbit"),
        ([str(net), str(net)], InputError, "would both be the model 'net': write NAME="),
        ([f"../net={net}"], InputError, r"'\.\./net' is no name for a model"),
        ([f"={net}"], InputError, "'' is no name for a model"),
    ):
        with pytest.raises(error, match=message):
            run(net, *names, where) if names != [str(net)] * 2 else run(*names, where)
    assert not where.exists()
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="taken/more cannot be written to: "):
        run(net, tmp_path / "taken" / "more")
    with pytest.raises(InputError, match="is no name"):
        repository.named([str(tmp_path / "a name.lowbit")])


class Tensor(NamedTuple):
    called: str
    array: Any

    def name(self) -> str:
        return self.called

    def as_numpy(self) -> Any:
        return self.array


class TritonError(Exception):
    INVALID_ARG = 3

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def utilities() -> ModuleType:
    """As much of what Triton brings as a model needs."""
    made: Any = ModuleType("triton_python_backend_utils")
    made.Tensor, made.TritonError = Tensor, TritonError
    made.InferenceResponse = lambda tensors=(), error=None: SimpleNamespace(tensors=tensors, error=error)
    made.get_input_tensor_by_name = lambda request, name: request.inputs[name]
    return made


def request(batch: dict[str, Any], *wanted: str) -> SimpleNamespace:
    inputs = {name: Tensor(name, array) for name, array in batch.items()}
    return SimpleNamespace(inputs=inputs, requested_output_names=lambda: wanted)


def loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Triton's side of `model.py`."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities())
    spec = importlib.util.spec_from_file_location("model", model / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.TritonPythonModel()
    read = config(model)
    described = {"parameters": {key: {"string_value": each.string_value} for key, each in read.parameters.items()}}
    made.initialize({"model_config": json.dumps(described), "model_repository": str(model), "model_version": "1"})
    return made


def test_its_model_answers_each_request(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(files / "mixed.lowbit", tmp_path)
    model = loaded(tmp_path / "mixed", monkeypatch)
    names = ["half", 'it\'s "ids"', "high.est", "size"]
    wrong = {**BATCH, "more.ids": BATCH["more.ids"].astype(np.int32)}
    first, second, third = model.execute([request(BATCH, *names), request(wrong, *names), request(BATCH, "size")])
    expected = lowbit.Predictor(files / "mixed.lowbit")({**BATCH, "more.least": np.array(1, np.float16)})
    assert [tensor.called for tensor in first.tensors] == names
    for tensor in first.tensors:
        np.testing.assert_array_equal(tensor.array, np.atleast_1d(expected[tensor.called]))
        assert tensor.array.dtype == np.asarray(expected[tensor.called]).dtype
    assert second.error.args == ("input 'more.ids' must be int64, is int32: use x.astype(np.int64)",)
    assert second.error.code == TritonError.INVALID_ARG
    assert [tensor.called for tensor in third.tensors] == ["size"]


ELSEWHERE = """
import sys
sys.path.append(sys.argv[1])
from types import ModuleType
sys.modules["triton_python_backend_utils"] = ModuleType("triton_python_backend_utils")
import json, runpy
model = runpy.run_path(sys.argv[2] + "/1/model.py")["TritonPythonModel"]()
assert "lowbit" not in sys.modules
config = {"parameters": {"threads": {"string_value": "1"}, "python_path": {"string_value": sys.argv[3]}}}
model.initialize({"model_config": json.dumps(config), "model_repository": sys.argv[2], "model_version": "1"})
import lowbit
print(lowbit.__file__, *model.outputs)
"""


def test_it_finds_lowbit_where_its_python_does_not(files: Path, tmp_path: Path) -> None:
    """A Python without its site-packages, that has NumPy alone, as Triton's has."""
    run(files / "net.lowbit", tmp_path / "repository")
    packages = Path(np.__file__).parent.parent
    bare = tmp_path / "bare"
    bare.mkdir()
    for each in packages.glob("numpy*"):
        (bare / each.name).symlink_to(each)
    path = config(tmp_path / "repository" / "net").parameters["python_path"].string_value
    command = [sys.executable, "-I", "-S", "-c", ELSEWHERE, str(bare), str(tmp_path / "repository" / "net"), path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={"PATH": os.defpath})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [lowbit.__file__, "output"]
