"""`lowbit.serve.app` and `add_to_server` in other servers: mounted, pickled, and with one queue for both protocols."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import lowbit
import serving
from lowbit.errors import InputError
from lowbit.serve import messages
from lowbit.serve.rest import App
from serving_calls import Call, ask

ROWS = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("app") / "net.lowbit"
    lowbit.convert(nn.Linear(8, 4).eval(), torch.randn(2, 8), scheme="float32", progress=False).save(path)
    return path


@pytest.fixture(scope="module")
def application(file: Path) -> App:
    return lowbit.serve.app(file)


class Exchange:
    """One request, as a server hands it to an application: its body comes in pieces."""

    def __init__(self, method: str, path: str, *pieces: bytes, root: str = "", **headers: str) -> None:
        given = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
        self.scope = {"type": "http", "method": method, "path": root + path, "root_path": root, "headers": given}
        self._pieces = [*pieces] or [b""]
        self.sent: list[MutableMapping[str, Any]] = []

    async def receive(self) -> MutableMapping[str, Any]:
        if not self._pieces:
            await asyncio.sleep(100)
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    def run(self, app: App) -> tuple[int, Any]:
        asyncio.run(app(self.scope, self.receive, self.send))
        start, *bodies = self.sent
        text = b"".join(each.get("body", b"") for each in bodies)
        headers = dict(start["headers"])
        assert int(headers[b"content-length"]) == len(text)
        assert [each.get("more_body", False) for each in bodies] == [True] * (len(bodies) - 1) + [False]
        return start["status"], json.loads(text) if headers[b"content-type"] == b"application/json" else text


def body(rows: np.ndarray[Any, Any] = ROWS) -> bytes:
    entry = {"name": "input", "datatype": "FP32", "shape": [*rows.shape], "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [entry]}).encode()


def test_a_mount_and_a_body_in_pieces(file: Path) -> None:
    """Below any path, in one event loop after the other."""
    app, text = lowbit.serve.app(file), body()
    right = lowbit.load(file)(ROWS)
    for root, pieces in (
        ("", [text]),
        ("/models", [text[:10], b"", text[10:]]),
        ("/a/b", [*(text[at : at + 1] for at in range(len(text)))]),
    ):
        status, found = Exchange("POST", "/v2/models/net/infer", *pieces, root=root).run(app)
        assert status == 200
        assert np.array_equal(np.array(found["outputs"][0]["data"], np.float32).reshape(3, 4), right)
        assert Exchange("GET", "/v2", root=root).run(app)[1]["name"] == "lowbit"
    assert Exchange("GET", "/", root="/models").run(app)[1].startswith(b"<!doctype html>")
    assert app._held == 0


def test_bodies_share_a_bound(file: Path) -> None:
    """So many that come slowly at once hold no more than a few of the largest would."""
    app = lowbit.serve.app(file, max_bytes=1000, timeout=60)

    async def all_at_once() -> list[int]:
        many = [Exchange("POST", "/v2/models/net/infer", b" " * 900, b"", content_length="1000") for _ in range(8)]
        ready = asyncio.Event()

        async def slow(exchange: Exchange) -> MutableMapping[str, Any]:
            if len(exchange._pieces) == 1:
                await ready.wait()
            return await Exchange.receive(exchange)

        tasks = [asyncio.ensure_future(app(each.scope, lambda each=each: slow(each), each.send)) for each in many]
        await asyncio.sleep(0.05)
        ready.set()
        await asyncio.gather(*tasks)
        return [each.sent[0]["status"] for each in many]

    statuses = asyncio.run(all_at_once())
    assert sorted(statuses) == [400] * 4 + [503] * 4
    assert app._held == 0


def test_a_full_queue(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes then is refused at once over both protocols, and told to come again; the others are answered."""
    models = lowbit.serve.models(file, concurrency=1, queue=1)
    app, served, may = lowbit.serve.app(models), models.get("net"), threading.Event()
    run = served.run
    monkeypatch.setattr(served, "run", lambda arrays: run(arrays) if may.wait(60) else [])
    asked = [Exchange("POST", "/v2/models/net/infer", body()) for _ in range(2)]
    callers = [threading.Thread(target=each.run, args=(app,)) for each in asked]
    with serving.grpc_service(models) as address:
        try:
            for caller, count in zip(callers, ((1, 0), (1, 1)), strict=True):
                caller.start()
                until = time.monotonic() + 30
                while (models.executor.running, models.executor.waiting) != count:
                    assert time.monotonic() < until
                    time.sleep(0.001)
            refused = Exchange("POST", "/v2/models/net/infer", body())
            status, found = refused.run(app)
            assert (status, found["error"]) == (503, "1 requests wait already (--queue): try again later")
            assert dict(refused.sent[0]["headers"])[b"retry-after"] == b"1"
            call = Call(model="net", inputs={"input": ROWS})
            assert ask("grpc", address, call) == ("error", "RESOURCE_EXHAUSTED")
        finally:
            may.set()
            for caller in callers:
                caller.join()
    assert [each.sent[0]["status"] for each in asked] == [200, 200]


def test_a_failure_of_the_servers_own_is_one_line(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client does not see it, the log does."""
    models = lowbit.serve.models(file)
    app = lowbit.serve.app(models)

    def fail(arrays: Any) -> Any:
        raise RuntimeError("the secret reason")

    models.get("net").run = fail  # type: ignore[method-assign] # no model of a file fails so
    status, found = Exchange("POST", "/v2/models/net/infer", body()).run(app)
    assert (status, found) == (500, {"error": "the server failed; its log says how"})
    assert "the secret reason" in caplog.text


def test_it_is_pickled_as_its_files(file: Path) -> None:
    app = lowbit.serve.app({"net": str(file)}, max_batch=2, token="secret")
    sent = pickle.dumps(app)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert Exchange("POST", "/v2/models/net/infer", body()).run(again)[0] == 401
    status, found = Exchange("POST", "/v2/models/net/infer", body(), authorization="Bearer secret").run(again)
    assert (status, found["error"]) == (400, "a request has at most 2 rows here (--max-batch), not 3")


def test_lifespan_and_websockets(file: Path) -> None:
    app, sent = lowbit.serve.app(file), list[Any]()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    def receive(*kinds: str) -> Any:
        waiting = [*kinds]

        async def one() -> Any:
            return {"type": waiting.pop(0)}

        return one

    asyncio.run(app({"type": "lifespan"}, receive("lifespan.startup", "lifespan.shutdown"), send))
    asyncio.run(app({"type": "websocket"}, receive("websocket.connect"), send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


def test_a_grpc_server_of_ones_own(file: Path) -> None:
    """Both protocols share models, queue and figures, and a model that is a `lowbit.Model`."""
    models = lowbit.serve.models({"net": lowbit.load(file, threads=1)})
    with serving.grpc_service(models) as address:
        found = ask("grpc", address, Call(model="net", inputs={"input": ROWS}))
    assert found["output"][2] == lowbit.load(file)(ROWS).tobytes()
    assert Exchange("POST", "/v2/models/net/infer", body()).run(lowbit.serve.app(models))[0] == 200
    assert models.statistics("net")["inference_count"] == 6
    assert {kind for kind, _ in models.figures["net"].requests} == {"grpc", "rest"}
    assert models.reload() == []


def test_limits_that_are_not_possible(file: Path) -> None:
    with pytest.raises(InputError, match="there is no limit speed"):
        lowbit.serve.app(file, speed=3)
    with pytest.raises(InputError, match="queue is a positive integer, not '3'"):
        lowbit.serve.app(file, queue="3")
    with pytest.raises(InputError, match="timeout is a positive number, not inf"):
        lowbit.serve.app(file, timeout=float("inf"))
    with pytest.raises(InputError, match="have their limits already"):
        lowbit.serve.app(lowbit.serve.models(file), queue=3)
    with pytest.raises(InputError, match="has no name"):
        lowbit.serve.app([lowbit.load(file)])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def places(document: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values of a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [way, *(found for key, item in items for found in places(item, (*way, key)))]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_requests_that_are_changed_anywhere(application: App, data: st.DataObject) -> None:
    """Are answered, or refused by a line that says why; the server has no failures of its own."""
    document = json.loads(body())
    document |= {"id": "a", "outputs": [{"name": "output", "parameters": {"binary_data": True}}], "parameters": {}}
    raw = b""
    if data.draw(st.booleans()):
        del document["inputs"][0]["data"]
        document["inputs"][0]["parameters"] = {"binary_data_size": ROWS.nbytes}
        raw = ROWS.tobytes()[: data.draw(st.sampled_from([96, 95, 0]))]
    for _ in range(data.draw(st.integers(0, 2))):
        *way, last = data.draw(st.sampled_from(places(document)[1:]))
        holder = document
        for key in way:
            holder = holder[key]
        holder[last] = data.draw(VALUES)
    text = json.dumps(document).encode()
    if data.draw(st.integers(0, 3)) == 0:
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.binary(max_size=3)) + text[at + 1 :]
    lengths = st.sampled_from([str(len(text)), str(len(text) - 1), "0", "-5", "", "x"])
    headers = {"inference_header_content_length": data.draw(lengths)} if raw or data.draw(st.booleans()) else {}
    status, _ = Exchange("POST", "/v2/models/net/infer", text + raw, **headers).run(application)
    assert status in (200, 400)


class Scalars(nn.Module):
    """What has no axes, complex numbers, doubles, a Python number, a constant."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, Any]:
        pair = torch.complex(x, -x)
        return {"sum": (x * scale).sum(), "pair": pair, "double": x.double() * 2, "rows": x.shape[0], "kind": "scaled"}


def test_what_the_protocol_has_no_word_for(tmp_path: Path) -> None:
    """Scalars are of one element, complex numbers are pairs, and constants are no outputs."""
    path = tmp_path / "odd.lowbit"
    lowbit.convert(Scalars().eval(), (torch.randn(2, 3), torch.tensor(2.0)), scheme="float32", progress=False).save(
        path
    )
    app = lowbit.serve.app(path)
    served = app.models.get("odd").metadata()
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in served["inputs"] + served["outputs"]}
    assert shapes["scale"] == ("FP32", [1])
    assert shapes["sum"] == ("FP32", [1])
    assert shapes["pair"] == ("FP32", [-1, 3, 2]) or shapes["pair"][1][-1] == 2
    assert shapes["rows"] == ("INT64", [1])
    assert "kind" not in shapes
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": x.tolist()},
        {"name": "scale", "datatype": "FP32", "shape": [1], "data": [3]},
    ]
    status, found = Exchange("POST", "/v2/models/odd/infer", json.dumps({"inputs": inputs}).encode()).run(app)
    assert status == 200, found
    outputs = {each["name"]: each["data"] for each in found["outputs"]}
    assert outputs["sum"] == [45]
    assert outputs["rows"] == [2]
    assert outputs["pair"] == np.stack([x, -x], -1).ravel().tolist()
    assert outputs["double"] == (2 * x).ravel().tolist()


def test_an_answer_that_json_has_not(tmp_path: Path) -> None:
    """NaN is refused in JSON, and sent as bytes."""

    class Log(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.log()

    path = tmp_path / "log.lowbit"
    lowbit.convert(Log().eval(), torch.ones(2, 3), scheme="float32", progress=False).save(path)
    app = lowbit.serve.app(path)
    rows = np.array([[-1, 0, 1]], np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": rows.ravel().tolist()}
    status, found = Exchange("POST", "/v2/models/log/infer", json.dumps({"inputs": [entry]}).encode()).run(app)
    assert (status, "ask for it as binary data" in found["error"]) == (400, True)
    binary = {"inputs": [entry], "parameters": {"binary_data_output": True}}
    status, found = Exchange("POST", "/v2/models/log/infer", json.dumps(binary).encode()).run(app)
    assert status == 200
    assert found.endswith(lowbit.load(path)(rows).tobytes())


def test_the_proto_file_is_read_whole() -> None:
    """Each method of the service has its classes."""
    assert set(messages.methods()) == {
        "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig",
        "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    }  # fmt: skip
