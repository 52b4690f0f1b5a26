"""Clients that cost little, for servers of the Open Inference Protocol v2, and what a server's processes use.

A request is made once with tritonclient, as bytes; a client sends them over one connection again and again.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import serving

Array = np.ndarray[Any, Any]
Ask = Callable[[], bytes]
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_TYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8"}
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Served:
    """A server that listens on the loopback."""

    http: int
    grpc: int
    process: int


def rest_request(model: str, inputs: Mapping[str, Array], output: str = "output") -> bytes:
    """A binary REST request, as tritonclient makes it, headers included."""
    body, json_bytes = triton_http.InferenceServerClient.generate_request_body(
        _inputs(triton_http, inputs), outputs=[triton_http.InferRequestedOutput(output)]
    )
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Inference-Header-Content-Length: {json_bytes}\r\n\r\n".encode() + bytes(body)


def grpc_request(model: str, inputs: Mapping[str, Array]) -> bytes:
    """A message with raw contents, as tritonclient makes it."""
    made: Any = triton_grpc.service_pb2.ModelInferRequest(model_name=model)
    for each in _inputs(triton_grpc, inputs):
        made.inputs.append(each._get_tensor())
        made.raw_input_contents.append(each._get_content())
    return bytes(made.SerializeToString())


def _inputs(module: Any, inputs: Mapping[str, Array]) -> list[Any]:
    made = []
    for name, array in inputs.items():
        made.append(module.InferInput(name, [*array.shape], _TYPES[str(array.dtype)]))
        made[-1].set_data_from_numpy(array)
    return made


class Rest:
    """A connection over which the same request is sent."""

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request

    def __call__(self) -> bytes:
        """The binary part of the answer, all of it if it has no JSON before. Raises RuntimeError for a refusal."""
        self._socket.sendall(self.request)
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._receive()
        lines = got[:end].decode().split("\r\n")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        body = got[end + 4 :]
        while len(body) < int(headers["content-length"]):
            body += self._receive()
        if " 200" not in lines[0]:
            raise RuntimeError(f"{lines[0]}: {body[:200]!r}")
        return body[int(headers.get("inference-header-content-length", 0)) :]

    def _receive(self) -> bytes:
        got = self._socket.recv(1 << 20)
        if not got:
            raise RuntimeError("the server closed the connection")
        return got

    def close(self) -> None:
        self._socket.close()


class Grpc:
    """A channel over which the same message is sent."""

    def __init__(self, port: int, request: bytes) -> None:
        options = [*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self._call = self._channel.unary_unary(_METHOD, None, triton_grpc.service_pb2.ModelInferResponse.FromString)
        self.request = request

    def __call__(self) -> bytes:
        """The first output's bytes. Raises grpc.RpcError for a refusal."""
        return bytes(self._call(self.request, timeout=60).raw_output_contents[0])

    def close(self) -> None:
        self._channel.close()


def client(protocol: str, served: Served, model: str, inputs: Mapping[str, Array]) -> Rest | Grpc:
    """A client of "rest" or "grpc"."""
    if protocol == "rest":
        return Rest(served.http, rest_request(model, inputs))
    return Grpc(served.grpc, grpc_request(model, inputs))


def processes(root: int) -> list[int]:
    """A process and those below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for each in found:
        found += children.get(each, [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of a process's threads and of those below it; threads that ended do not count."""
    total = 0
    for process in processes(root):
        for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
            total += int(path.read_text().split()[0])
    return total * 1e-9


def resident_bytes(root: int) -> int:
    """Of a process."""
    return int(Path(f"/proc/{root}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def lowbit_server(files: Mapping[str, Path], options: Sequence[str] = (), cpus: str | None = None) -> Iterator[Served]:
    """`lowbit serve` of these files in a process of its own; cpus: of taskset."""
    named = [f"{name}={path}" for name, path in files.items()]
    pinned = ["taskset", "-c", cpus] if cpus else []
    with (
        tempfile.NamedTemporaryFile() as log,
        serving.running(Path(log.name), *named, *options, under=pinned) as server,
    ):
        yield Served(server.http, server.grpc, server.process.pid)


def at_once(asks: Sequence[Ask], seconds: float, expected: Sequence[bytes]) -> float:
    """Answers a second of clients that each ask again and again. Raises AssertionError for a wrong bit."""
    start = time.perf_counter()

    def count(ask: Ask, answer: bytes) -> int:
        asked = 0
        while time.perf_counter() < start + seconds:
            assert ask() == answer
            asked += 1
        return asked

    with ThreadPoolExecutor(len(asks)) as pool:
        total = sum(pool.map(count, asks, expected))
    return total / (time.perf_counter() - start)
