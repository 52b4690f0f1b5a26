"""Servers for tests: `lowbit serve` in a process of its own, or gRPC in this one, at free ports; raw requests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import lowbit


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass
class Server:
    """A running server: the ports of REST and gRPC, and where it writes."""

    http: int
    grpc: int
    process: subprocess.Popen[bytes]
    log: Path

    def address(self, client: str = "rest") -> str:
        """Of REST or gRPC."""
        return f"127.0.0.1:{self.http if 'rest' in client else self.grpc}"

    def request(
        self, method: str, path: str, body: bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON or bytes, headers in lower case."""
        connection = HTTPConnection("127.0.0.1", self.http, timeout=30)
        try:
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, sent, dict(headers or {}))
            answer = connection.getresponse()
            data, found = answer.read(), {key.lower(): value for key, value in answer.getheaders()}
            is_json = found.get("content-type") == "application/json" and data
            return answer.status, json.loads(data) if is_json else data, found
        finally:
            connection.close()

    def send(self, data: bytes, timeout: float = 30) -> socket.socket:
        """A connection that has sent some bytes."""
        connection = socket.create_connection(("127.0.0.1", self.http), timeout=timeout)
        connection.sendall(data)
        return connection

    @property
    def resident(self) -> int:
        """Bytes in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """What the server wrote, once it holds a text."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            written = self.log.read_text()
            if text in written:
                return written
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not write {text!r}: {self.log.read_text()}")

    def end(self, sign: int = signal.SIGTERM, seconds: float = 30) -> int:
        """The exit status after a signal."""
        self.process.send_signal(sign)
        return self.process.wait(seconds)


@contextmanager
def running(
    log: Path, *arguments: str, drain: float = 0, last: str = "", under: Sequence[str] = ()
) -> Iterator[Server]:
    """A server that listens, until the block ends.

    log: the file that it writes to; last: an option that wins; under: a command that starts it, such as taskset.
    """
    http, rpc = free_ports(2)
    ports = [f"--http-port={http}", f"--grpc-port={rpc}"]
    command = [*under, sys.executable, "-m", "lowbit", "serve", *arguments, *ports, f"--drain={drain}", *last.split()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        server = Server(http, rpc, process, log)
        server.wait_for("listening on")
        yield server
    finally:
        process.kill()
        process.wait()


@contextmanager
def grpc_service(models: Any) -> Iterator[str]:
    """The address of a gRPC server in this process, which serves what `lowbit.serve.models` made."""
    import grpc  # not all that take ports from here have it

    (port,) = free_ports(1)
    server = grpc.server(ThreadPoolExecutor(4))
    lowbit.serve.add_to_server(models, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
