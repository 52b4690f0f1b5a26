"""One table of calls of the Open Inference Protocol v2, made with tritonclient: over REST and gRPC, sync and aio.

`models` makes what they ask, `ask` and `ask_aio` make a call of a server at an address, and what they give is the same
for servers that agree: values as bits, statuses, metadata.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import lowbit

CLIENTS = {
    "rest": "tritonclient.http",
    "grpc": "tritonclient.grpc",
    "rest aio": "tritonclient.http.aio",
    "grpc aio": "tritonclient.grpc.aio",
}


WIDTH_TYPES = (torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool)


class Two(torch.nn.Module):
    """Two inputs of different types, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        found = (self.table(ids) * weights[..., None]).sum(1)
        return {"logits": self.layer(found), "is_large": found > 0}


class Half(torch.nn.Module):
    """Half precision outside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 4).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Widths(torch.nn.Module):
    """Every width of integers, and truth values."""

    def forward(
        self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        total = a.to(torch.int64) + b.to(torch.int64) + c.to(torch.int64) + d
        return torch.where(keep, total, d), a, b, c, ~keep


def models(folder: Path) -> dict[str, Path]:
    """The files that the table asks, by name."""
    torch.manual_seed(0)
    made = {
        "linear": (torch.nn.Linear(8, 4).eval(), (torch.randn(2, 8),)),
        "two": (Two().eval(), (torch.randint(0, 50, (2, 6)), torch.randn(2, 6))),
        "half": (Half().eval(), (torch.randn(2, 8).half(),)),
        "widths": (
            Widths().eval(),
            tuple(torch.ones(2, 3, dtype=each) for each in WIDTH_TYPES),
        ),
    }
    for name, (module, example) in made.items():
        lowbit.convert(module, example, scheme="float32", progress=False).save(folder / f"{name}.lowbit")
    return {name: folder / f"{name}.lowbit" for name in made}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A method of tritonclient's, with what it takes."""

    method: str = "infer"
    model: str = ""
    version: str = ""
    inputs: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    shapes: Mapping[str, list[int]] = field(default_factory=dict)
    datatypes: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    binary: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    only: str = ""


_random = np.random.default_rng(0)
ROW = _random.standard_normal((1, 8)).astype(np.float32)
ROWS = _random.standard_normal((5, 8)).astype(np.float32)
HALF = _random.standard_normal((3, 8)).astype(np.float16)
IDS = _random.integers(0, 50, (2, 6))
WEIGHTS = _random.standard_normal((2, 6)).astype(np.float32)
WIDTHS = {
    "a": np.array([[0, 200, 255]], np.uint8),
    "b": np.array([[-128, 0, 127]], np.int8),
    "c": np.array([[-(2**31), 5, 2**31 - 1]], np.int32),
    "d": np.array([[-(2**62), 5, 2**62]], np.int64),
    "keep": np.array([[True, False, True]]),
}
TWO = {"ids": IDS, "weights": WEIGHTS}

CALLS = {
    "live": Call(method="is_server_live"),
    "ready": Call(method="is_server_ready"),
    "model ready": Call(method="is_model_ready", model="linear"),
    "model ready, version": Call(method="is_model_ready", model="linear", version="1"),
    "metadata": Call(method="get_model_metadata", model="two"),
    "metadata, version": Call(method="get_model_metadata", model="widths", version="1"),
    "metadata, half": Call(method="get_model_metadata", model="half"),
    "metadata, unknown model": Call(method="get_model_metadata", model="nothing"),
    "metadata, unknown version": Call(method="get_model_metadata", model="linear", version="7"),
    "row": Call(model="linear", inputs={"input": ROW}),
    "rows": Call(model="linear", inputs={"input": ROWS}),
    "rows, version": Call(model="linear", version="1", inputs={"input": ROWS}),
    "rows, id": Call(model="linear", inputs={"input": ROWS}, options={"request_id": "a request"}),
    "rows, named output": Call(model="linear", inputs={"input": ROWS}, outputs=("output",)),
    "rows, JSON": Call(model="linear", inputs={"input": ROWS}, outputs=("output",), binary=False),
    "two": Call(model="two", inputs=TWO),
    "two, one output": Call(model="two", inputs=TWO, outputs=("is_large",)),
    "two, outputs in another order": Call(model="two", inputs=TWO, outputs=("logits", "is_large")),
    "two, JSON": Call(model="two", inputs=TWO, outputs=("is_large", "logits"), binary=False),
    "half": Call(model="half", inputs={"x": HALF}),
    "widths": Call(model="widths", inputs=WIDTHS),
    "widths, JSON": Call(model="widths", inputs=WIDTHS, outputs=("output.0", "output.1", "output.4"), binary=False),
    "unknown model": Call(model="nothing", inputs={"input": ROW}),
    "unknown version": Call(model="linear", version="2", inputs={"input": ROW}),
    "unknown input": Call(model="linear", inputs={"pixels": ROW}),
    "unknown output": Call(model="linear", inputs={"input": ROW}, outputs=("logits",)),
    "missing input": Call(model="two", inputs={"ids": IDS}),
    "other datatype": Call(model="linear", inputs={"input": ROW.astype(np.float64)}),
    "other size": Call(model="linear", inputs={"input": np.zeros((1, 9), np.float32)}),
    "other rank": Call(model="linear", inputs={"input": np.zeros(8, np.float32)}),
    "statistics of an unknown model": Call(method="get_inference_statistics", model="nothing"),
    "configuration of an unknown model": Call(method="get_model_config", model="nothing"),
}


def _prepared(client: str, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a client's method."""
    if call.method != "infer":
        given = tuple(each for each in (call.model, call.version) if each)
        as_json = {"as_json": True} if "grpc" in client and call.method.startswith("get_") else {}
        return given, {**as_json, **call.options}
    own = importlib.import_module(CLIENTS[client].removesuffix(".aio"))
    inputs = []
    for name, array in call.inputs.items():
        entry = own.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        if "rest" in client:
            entry.set_data_from_numpy(array, binary_data=call.binary)
        else:
            entry.set_data_from_numpy(array)
        inputs.append(entry)
    outputs = None
    if call.outputs is not None:
        kind = {"binary_data": call.binary} if "rest" in client else {}
        outputs = [own.InferRequestedOutput(name, **kind) for name in call.outputs]
    options = {"model_version": call.version, "outputs": outputs, **call.options}
    return (call.model, inputs), options


def _digest(call: Call, found: Any) -> Any:
    """What servers that agree have in common."""
    if call.method != "infer":
        return _plain(found)
    told = found.get_response()
    told = told if isinstance(told, dict) else {
        "id": told.id, "model_name": told.model_name, "model_version": told.model_version,
        "outputs": [{"name": each.name, "datatype": each.datatype, "shape": [*each.shape]} for each in told.outputs],
    }  # fmt: skip
    answer = {key: told.get(key, "") for key in ("id", "model_name", "model_version")}
    return answer | {
        each["name"]: (each["datatype"], each["shape"], found.as_numpy(each["name"]).tobytes())
        for each in told["outputs"]
    }


def _plain(found: Any) -> Any:
    """JSON of both protocols alike: gRPC's has texts for 64-bit integers."""
    if isinstance(found, Mapping):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_plain(value) for value in found]
    return int(found) if isinstance(found, str) and found.lstrip("-").isdecimal() and len(found) < 20 else found


def _status(error: InferenceServerException) -> str:
    """One word for the same status of both protocols."""
    known = {"400": "invalid", "INVALID_ARGUMENT": "invalid", "404": "not found", "NOT_FOUND": "not found"}
    word = str(error.status()).removeprefix("StatusCode.")
    return known.get(word, word)


def ask(client: str, address: str, call: Call, headers: Mapping[str, str] | None = None) -> Any:
    """What a call gives, or ("error", status)."""
    if "aio" in client:
        return asyncio.run(ask_aio(client, address, call, headers))
    made = importlib.import_module(CLIENTS[client]).InferenceServerClient(address)
    given, options = _prepared(client, call)
    try:
        return _digest(call, getattr(made, call.method)(*given, **options, headers=headers))
    except InferenceServerException as error:
        return "error", _status(error)
    finally:
        made.close()


async def ask_aio(client: str, address: str, call: Call, headers: Mapping[str, str] | None = None) -> Any:
    """The same, with an asynchronous client."""
    made = importlib.import_module(CLIENTS[client]).InferenceServerClient(address)
    given, options = _prepared(client, call)
    try:
        return _digest(call, await getattr(made, call.method)(*given, **options, headers=headers))
    except InferenceServerException as error:
        return "error", _status(error)
    finally:
        await made.close()
