"""What `lowbit repository` writes runs in a genuine Triton, where there is one, and answers with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
import serving
import serving_calls
from lowbit.runtime import repository
from test_repository import BATCH, Mixed
from triton_server import Server, bundle, triton

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")


def files(directory: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    made = {name: directory / f"{name}.lowbit" for name in ("net", "mixed")}
    lowbit.convert(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).eval(), torch.randn(1, 8)).save(
        made["net"]
    )
    ids = torch.ones(2, 5, dtype=torch.int64)
    lowbit.convert(Mixed().eval(), (torch.ones(2, 3).half(), {"ids": ids, "least": torch.tensor(1.0).half()})).save(
        made["mixed"]
    )
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    bundle()
    return files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("triton")
    repository.write(models, work / "repository", instances=2)
    with triton(work / "repository", work) as running:
        yield running


def batches(name: str, rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(rows)
    if name == "net":
        return {"input": rng.standard_normal((rows, 8)).astype(np.float32)}
    return {
        "x": rng.standard_normal((rows, 3)).astype(np.float16),
        "more.ids": rng.integers(0, 9, (rows, 5)),
        "more.least": BATCH["more.least"],
    }


@pytest.mark.parametrize("name", ["net", "mixed"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_it_answers_as_a_predictor(server: Server, models: dict[str, Path], name: str, protocol: str) -> None:
    module: Any = {"http": http, "grpc": grpc}[protocol]
    predict = lowbit.Predictor(models[name], threads=1)
    with module.InferenceServerClient(f"127.0.0.1:{getattr(server, protocol)}") as client:
        for rows in (1, 2, 7):
            batch = batches(name, rows)
            expected = predict(
                {key: array if key != "more.least" else array.reshape(()) for key, array in batch.items()}
            )
            inputs = []
            for key, array in batch.items():
                kind = repository.DTYPES[str(array.dtype)]
                inputs.append(module.InferInput(key, list(array.shape), kind))
                inputs[-1].set_data_from_numpy(array)
            answer = client.infer(name, inputs)
            for key, found in expected.items():
                np.testing.assert_array_equal(answer.as_numpy(key), np.atleast_1d(found), err_msg=key, strict=True)


def test_a_refusal_is_lowbits_text(server: Server) -> None:
    array = np.zeros((65_537, 8), np.float32)
    with http.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
        wrong = http.InferInput("input", [65_537, 8], "FP32")
        wrong.set_data_from_numpy(array)
        with pytest.raises(
            http.InferenceServerException, match="batch is 65537, and this session's limit is 65536"
        ) as refused:
            client.infer("net", [wrong])
        assert refused.value.status() == "400"
        assert "Traceback" not in refused.value.message()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, serving.Server]]:
    """Triton and `lowbit serve` of the same files."""
    bundle()
    work = tmp_path_factory.mktemp("both")
    made = serving_calls.models(work)
    repository.write(made, work / "repository")
    with triton(work / "repository", work) as one, serving.running(work / "log", *map(str, made.values())) as other:
        yield one, other


def without_platform(found: Any) -> Any:
    """It names what runs a model: `python` there, `lowbit` here."""
    return {key: value for key, value in found.items() if key != "platform"} if isinstance(found, dict) else found


DIFFERENT = {
    "statistics of an unknown model": "an unknown model is 404 in each of the calls here, 400 in this one there",
}


@pytest.mark.parametrize("client", serving_calls.CLIENTS)
def test_it_and_lowbit_serve_answer_alike(both: tuple[Server, serving.Server], client: str) -> None:
    """Values as bits, statuses, metadata, of each call of the table."""
    one, other = both
    address = f"127.0.0.1:{one.http if 'rest' in client else one.grpc}"
    found = {
        name: tuple(
            without_platform(serving_calls.ask(client, where, call)) for where in (address, other.address(client))
        )
        for name, call in serving_calls.CALLS.items()
    }
    assert {name for name, (there, here) in found.items() if there != here} == set(DIFFERENT)
