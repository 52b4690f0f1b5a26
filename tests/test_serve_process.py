"""`lowbit serve` as a process: it reloads, is guarded, told of, and ends cleanly whatever clients do."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from torch import nn

import lowbit
import serving
from lowbit.errors import InputError, LowbitError
from lowbit.serve import command
from lowbit.serve.served import named
from serving_calls import CLIENTS, Call, ask

ROW = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
BODY = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 8], "data": ROW.ravel().tolist()}]}
ASK = "/v2/models/net/infer"


def save(path: Path, seed: int) -> bytes:
    """A model in the place of another; the answer that it gives to `ROW`."""
    torch.manual_seed(seed)
    made = path.with_suffix(".new")
    lowbit.convert(nn.Linear(8, 4).eval(), torch.randn(2, 8), scheme="float32", progress=False).save(made)
    made.replace(path)
    return lowbit.load(path)(ROW).tobytes()


def answer(server: serving.Server) -> bytes:
    status, found, _ = server.request("POST", ASK, BODY)
    assert status == 200, found
    return np.array(found["outputs"][0]["data"], np.float32).tobytes()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.lowbit"
    save(path, 0)
    return path


def test_reloads(tmp_path: Path) -> None:
    """By SIGHUP and by the repository's methods, while requests are answered; what does not load changes nothing."""
    path = tmp_path / "net.lowbit"
    right = [save(path, 0)]
    with serving.running(tmp_path / "log", str(path), "--admin") as server:
        assert answer(server) == right[0]
        stop, wrong, asked = threading.Event(), list[Any](), [0]

        def keep_asking() -> None:
            while not stop.is_set():
                found = answer(server)
                asked[0] += 1
                if found not in right:
                    wrong.append(found)

        caller = threading.Thread(target=keep_asking)
        right.append(save(tmp_path / "other.lowbit", 1))
        first, other = path.read_bytes(), (tmp_path / "other.lowbit").read_bytes()
        caller.start()
        for turn in range(3):
            (tmp_path / "net.new").write_bytes(first if turn % 2 else other)
            (tmp_path / "net.new").replace(path)
            server.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 30
            while server.log.read_text().count("reloaded net") <= turn:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        stop.set()
        caller.join()
        assert asked[0] > 0
        assert wrong == []
        assert answer(server) == right[1]

        path.write_bytes(b"not a model")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("net was not reloaded, the model before it stays: ")
        assert answer(server) == right[1]
        for client in CLIENTS:
            address = server.address(client)
            refused = ask(client, address, Call(method="load_model", model="net"))
            assert refused == ("error", "invalid"), client
            assert answer(server) == right[1]
        path.write_bytes(first)
        for what in ("unload", "load"):
            assert server.request("POST", f"/v2/repository/models/net/{what}")[:2] == (200, b"")
        for client in CLIENTS:
            address = server.address(client)
            assert ask(client, address, Call(method="unload_model", model="net")) is None
            assert ask(client, address, Call(method="is_model_ready", model="net")) in (False, ("error", "not found"))
            assert server.request("POST", ASK, BODY)[0] == 404
            index = ask(client, address, Call(method="get_model_repository_index"))
            rows = index["models"] if isinstance(index, dict) else index
            assert [(row["name"], row["state"]) for row in rows] == [("net", "UNAVAILABLE")]
            assert ask(client, address, Call(method="load_model", model="other")) == ("error", "not found")
            assert ask(client, address, Call(method="load_model", model="net")) is None
            assert answer(server) == right[0]
        status, found, _ = server.request(
            "POST", "/v2/repository/models/net/load", {"parameters": {"config": "{}", "file:1/model.lowbit": "eA=="}}
        )
        assert (status, "parameters" in found["error"]) == (400, True)
        for headers in ({"Origin": "http://elsewhere"}, {"Origin": "http://["}, {"Host": "elsewhere"}, {"Host": "a:1"}):
            assert server.request("POST", "/v2/repository/models/net/unload", {}, headers)[0] == 403


HALF = b"POST %s HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n{" % ASK.encode()


def test_it_ends_with_what_runs_answered(file: Path, tmp_path: Path) -> None:
    """On SIGTERM it is not ready, but answers; then it stops listening, and is gone when the grace is over."""
    with serving.running(tmp_path / "log", str(file), "--grace=1", drain=1.5) as server:
        half = server.send(HALF)
        header = server.send(b"POST /v2")
        with grpc.insecure_channel(server.address("grpc")) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("not ready any more")
            status, found, headers = server.request("GET", "/v2/health/ready")
            assert (status, found["ready"], headers.get("retry-after")) == (503, False, None)
            assert server.request("GET", "/v2/health/live")[0] == 200
            assert ask("grpc", server.address("grpc"), Call(method="is_server_ready")) is False
            assert answer(server) == lowbit.load(file)(ROW).tobytes()
            assert server.process.wait(30) == 0
        half.close()
        header.close()
        with pytest.raises(ConnectionRefusedError):
            server.send(b"")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_does_not_wait(file: Path, tmp_path: Path, sign: int) -> None:
    """Nor does a second SIGTERM wait for the drain, whatever it is."""
    with serving.running(tmp_path / "log", str(file), "--grace=1", drain=1000) as server:
        if sign == signal.SIGTERM:
            server.process.send_signal(sign)
            server.wait_for("not ready any more")
        assert server.end(sign) == 0


@pytest.fixture(scope="module")
def guarded(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    """With short times and small limits."""
    log = tmp_path_factory.mktemp("guarded") / "log"
    with serving.running(log, str(file), "--timeout=2", "--max-bytes=2000000", "--queue=4", "--grace=1") as server:
        yield server


def closed(connection: socket.socket) -> bytes:
    """What comes until the server closes a connection; a test fails that waits for more than 20 s."""
    connection.settimeout(20)
    found = b""
    with connection:
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                return found
            if not piece:
                return found
            found += piece


@pytest.mark.parametrize("data", [b"", b"POST", HALF.split(b"\r\n\r\n")[0], b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nGET"])
def test_who_sends_nothing_more_is_hung_up_on(guarded: serving.Server, data: bytes) -> None:
    """Before a request, in its header, and in the header of a second one."""
    start = time.monotonic()
    closed(guarded.send(data))
    assert 1.9 < time.monotonic() - start < 18


def test_a_slow_body(guarded: serving.Server) -> None:
    """It has the time of a request, which drops of bytes do not lengthen."""
    connection = guarded.send(HALF)
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.1):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        found = closed(connection)
    finally:
        stop.set()
        dripping.join()
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not come within 2 s" in found


def test_ten_gigabytes_that_are_announced(guarded: serving.Server) -> None:
    """And a body without a length that does not end: both are refused, and neither is kept."""
    before = guarded.resident
    head = b"POST %s HTTP/1.1\r\nHost: x\r\n" % ASK.encode()
    found = closed(guarded.send(head + b"Content-Length: 10000000000\r\nExpect: 100-continue\r\n\r\n"))
    assert found.startswith(b"HTTP/1.1 413 ")
    connection = guarded.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    sent = 0
    while sent < 1 << 28:
        try:
            connection.sendall(chunk)
        except OSError:
            break
        sent += len(chunk)
    found = closed(connection)
    assert not found or found.startswith(b"HTTP/1.1 413 ")
    assert guarded.resident - before < 30_000_000


def test_a_header_of_64_megabytes(guarded: serving.Server) -> None:
    """It is cut off where the limit is."""
    before = guarded.resident
    connection = guarded.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Long: ")
    piece, sent = b"x" * (1 << 16), 0
    while sent < 64 << 20:
        try:
            connection.sendall(piece)
        except OSError:
            break
        sent += len(piece)
    assert sent < 32 << 20  # what the sockets hold, and no more
    assert not closed(connection).startswith(b"HTTP/1.1 200")
    assert guarded.resident - before < 20_000_000


def test_what_is_no_http(guarded: serving.Server) -> None:
    for data in (b"\x16\x03\x01\x02\x00", b"\r\n\r\n\0\0\0\0\r\n\r\n", b"A" * 1000 + b"\r\n\r\n"):
        assert not closed(guarded.send(data)).startswith(b"HTTP/1.1 200")
    assert guarded.request("GET", "/v2/health/live")[0] == 200


def test_deadlines(guarded: serving.Server) -> None:
    """A request's own time limit is kept, over both protocols; a call's deadline, too."""
    status, found, _ = guarded.request("POST", ASK, {**BODY, "parameters": {"timeout": 1}})
    assert status == 504, found
    inputs = {"input": ROW}
    for client in CLIENTS:
        found = ask(client, guarded.address(client), Call(model="net", inputs=inputs, options={"timeout": 1}))
        assert found in (("error", "504"), ("error", "DEADLINE_EXCEEDED"))
        good = ask(client, guarded.address(client), Call(model="net", inputs=inputs, options={"timeout": 1_900_000}))
        assert isinstance(good, dict)


def test_large_messages_of_grpc(guarded: serving.Server) -> None:
    big = Call(model="net", inputs={"input": np.zeros((80_000, 8), np.float32)})
    assert ask("grpc", guarded.address("grpc"), big) == ("error", "RESOURCE_EXHAUSTED")


def test_metrics_and_the_access_log(guarded: serving.Server) -> None:
    """Figures of each model in Prometheus' text, a line of JSON a request, and in neither what the input held."""
    secret = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 8], "data": [12345.678] * 8}]}

    def figures() -> dict[str, float]:
        status, text, headers = guarded.request("GET", "/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        rows = re.findall(r"^(\w+(?:\{.*?\})?) ([\d.e+-]+)$", text.decode(), re.M)
        return {name: float(value) for name, value in rows}

    before = figures()
    assert guarded.request("POST", ASK, secret)[0] == 200
    assert guarded.request("POST", ASK, b"{")[0] == 400
    assert guarded.request("POST", "/v2/models/" + "x" * 50 + "/infer", b"{")[0] == 404
    after = figures()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more('lowbit_requests_total{model="net",protocol="rest",status="ok"}') == 1
    assert more('lowbit_requests_total{model="net",protocol="rest",status="invalid"}') == 1
    for stage in ("queue", "compute", "total"):
        assert more(f'lowbit_request_seconds_count{{model="net",stage="{stage}"}}') == 1
        assert more(f'lowbit_request_seconds_bucket{{le="+Inf",model="net",stage="{stage}"}}') == 1
    assert more('lowbit_batch_rows_sum{model="net"}') == 1
    assert (after["lowbit_queue_limit"], after["lowbit_ready"], after["lowbit_models"]) == (4, 1, 1)
    assert not any("xxx" in name for name in after)
    written = guarded.log.read_text()
    rows = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    good = next(row for row in reversed(rows) if row.get("rows") == 1)
    assert {
        "time",
        "protocol",
        "path",
        "status",
        "ms",
        "method",
        "peer",
        "bytes_in",
        "bytes_out",
        "model",
        "batch",
    } <= set(good)
    assert "12345" not in written
    assert "Traceback" not in written


def certificate(folder: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl, which makes the certificate")
    chain, key = folder / "chain.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            *subject,
            "-keyout",
            key,
            "-out",
            chain,
        ],
        check=True,
        capture_output=True,
    )
    return chain, key


def test_tokens_and_tls(file: Path, tmp_path: Path) -> None:
    """Without the token there is health and an empty page; both protocols are encrypted."""
    chain, key = certificate(tmp_path)
    (tmp_path / "token").write_text("a-secret\n")
    options = [f"--token-file={tmp_path / 'token'}", f"--tls-cert={chain}", f"--tls-key={key}"]
    with serving.running(tmp_path / "log", str(file), *options) as server:
        context = ssl.create_default_context(cafile=chain)

        def get(path: str, **headers: str) -> tuple[int, bytes]:
            from http.client import HTTPSConnection

            connection = HTTPSConnection("localhost", server.http, context=context, timeout=30)
            connection.request("GET", path, headers=headers)
            found = connection.getresponse()
            return found.status, found.read()

        for path in ("/v2/health/live", "/v2/health/ready", "/"):
            assert get(path)[0] == 200
        for path in ("/v2", "/v2/models/net", "/v2/models/stats", "/metrics", "/status", "/v2/nothing"):
            for header in ({}, {"Authorization": "Bearer another"}, {"Authorization": "a-secret"}):
                status, found = get(path, **header)
                assert (status, json.loads(found).keys()) == (401, {"error"})
        assert get("/v2/models/net", Authorization="Bearer a-secret")[0] == 200
        assert b"net" not in get("/")[1].split(b"<body>")[0]
        credentials = grpc.ssl_channel_credentials(chain.read_bytes())
        with grpc.secure_channel(f"localhost:{server.grpc}", credentials) as channel:
            for method, needs in (("ServerLive", False), ("ServerReady", False), ("ServerMetadata", True)):
                call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
                call(b"", metadata=[("authorization", "Bearer a-secret")])
                if needs:
                    with pytest.raises(grpc.RpcError) as refused:
                        call(b"")
                    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
                else:
                    call(b"")
        with pytest.raises((ConnectionError, OSError)):
            server.request("GET", "/v2/health/live")


WRONG = {
    "no.lowbit": "a file cannot be read: [Errno 2] No such file or directory: 'no.lowbit'",
    ".": "'' is no name",
    "x=.": "is not a regular file",
    "foreign": "is not a lowbit file",
    "net.lowbit --threads=0": "threads is a positive integer, not 0",
    "net.lowbit --timeout=nan": "timeout is a positive number, not nan",
    "net.lowbit --grace=-1": "--grace is a number of seconds",
    "net.lowbit --http-port=0 --grpc-port=0": "nothing to listen on",
    "net.lowbit --http-port=99999": "--http-port is a port",
    "net.lowbit --grpc-port=-1": "--grpc-port is a port",
    "net.lowbit --host=nowhere.invalid": "cannot listen on nowhere.invalid",
    "net.lowbit --token-file=none": "--token-file",
    "net.lowbit --token-file=empty": "no token",
    "net.lowbit --tls-cert=foreign": "belong together",
    "net.lowbit --tls-cert=foreign --tls-key=foreign": "--tls-cert, --tls-key",
    "net.lowbit other=net.lowbit net.lowbit": "would both be the model 'net'",
    "a/b=net.lowbit": "is no name for a model",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    """Each is one line that says what is wrong, before anything listens."""
    shutil.copy(file, tmp_path / "net.lowbit")
    (tmp_path / "foreign").write_text("foreign" * 10)
    (tmp_path / "empty").write_text("\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("lowbit.serve"), "handlers", [])
    http, rpc = serving.free_ports(2)
    with pytest.raises(LowbitError, match=re.escape(WRONG[arguments])):
        command.main([f"--http-port={http}", f"--grpc-port={rpc}", *arguments.split()])


def test_a_port_that_is_taken(guarded: serving.Server, file: Path) -> None:
    """Of either protocol."""
    other = serving.free_ports(1)[0]
    for http, rpc in ((guarded.http, other), (other, guarded.grpc)):
        with pytest.raises(InputError, match="cannot listen on"):
            command.main([str(file), f"--http-port={http}", f"--grpc-port={rpc}"])


def test_names() -> None:
    """Of a file's own, of `NAME=FILE`, and of a mapping."""
    assert named("a/net.lowbit") == {"net": Path("a/net.lowbit")}
    assert named(["x=a/net.lowbit", Path("b.lowbit")]) == {"x": Path("a/net.lowbit"), "b": Path("b.lowbit")}
    assert named({"y": Path("b.lowbit")}) == {"y": Path("b.lowbit")}
    for wrong in ([], {}, {"": "net"}, {"a b": "net"}, {"a": 3}, {"../a": "net"}, ["a=x", "a=y"], [3], "ä.lowbit"):
        with pytest.raises(InputError):
            named(wrong)  # type: ignore[arg-type] # wrong on purpose


def test_a_host_that_others_reach_without_a_token_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for host, token, admin, warns in (
        ("127.0.0.1", None, True, False),
        ("::1", None, False, False),
        ("localhost", None, False, False),
        ("0.0.0.0", "secret", True, False),
        ("0.0.0.0", None, False, True),
        ("::", None, True, True),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lowbit.serve"):
            logging.getLogger("lowbit.serve").propagate = True
            command._warn(host, token, admin)
        assert bool(caplog.records) is warns
        assert ("load and unload" in caplog.text) is (warns and admin)


@pytest.mark.parametrize("name", ["uvicorn", "grpc", "google", "prometheus_client"])
def test_without_the_extra(file: Path, name: str) -> None:
    """The command and the functions say what to install; `import lowbit.serve` needs none of it."""
    code = (
        f"import sys; sys.modules[{name!r}] = None; import lowbit; lowbit.serve.app\n"
        f"from lowbit.__main__ import main; sys.argv = ['lowbit', 'serve', {str(file)!r}]; main()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=environment())
    assert found.returncode == 1
    assert found.stderr.startswith("lowbit: serving needs ")
    assert 'pip install "lowbit[serve]"' in found.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_one_protocol_alone(file: Path, tmp_path: Path) -> None:
    """Each may be off."""
    for off in ("--http-port=0", "--grpc-port=0"):
        with serving.running(tmp_path / "log", str(file), last=off) as server:
            ports = {"rest": server.http, "grpc": server.grpc}
            gone = "rest" if "http" in off else "grpc"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", ports.pop(gone)))
            (client,) = ports
            assert ask(client, server.address(client), Call(method="is_server_ready")) is True
            assert server.end() == 0
