"""A genuine Triton with its python backend: of nvidia-pytriton, whose bundle holds the server for a few Pythons.

It runs where LOWBIT_TRITON names a Python that has nvidia-pytriton (an environment of Debian's Python 3.11 does), and
this Python is of the same version: its python backend loads the lowbit that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving import free_ports

READY_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """Where one listens, on the loopback, and its process; those that run models are children of it."""

    http: int
    grpc: int
    process: int


def bundle() -> Path:
    """The directory of the package `pytriton`. Skips the test where there is none that could run."""
    python = os.environ.get("LOWBIT_TRITON", "")
    if not python:
        pytest.skip("Triton: LOWBIT_TRITON names no Python that has nvidia-pytriton")
    look = "import sys, pytriton; print(pytriton.__path__[0], *sys.version_info[:2])"
    found = subprocess.run([python, "-c", look], capture_output=True, text=True, timeout=120, check=False)
    if found.returncode:
        pytest.skip(f"Triton: {python} has no nvidia-pytriton")
    directory, *version = found.stdout.split()
    if tuple(map(int, version)) != sys.version_info[:2]:
        pytest.skip(f"Triton: {python} is no Python {sys.version_info[0]}.{sys.version_info[1]}, as this one is")
    return Path(directory)


@contextmanager
def triton(repository: Path, work: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """Runs one that is ready, and ends it. work: a directory of its own."""
    package = bundle()
    server, backends = package / "tritonserver", work / "backends"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copytree(server / "backends" / "python", backends / "python")
    shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    http, grpc = free_ports(2)
    python = Path(os.environ["LOWBIT_TRITON"])
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),
    }
    environment.pop("PYTHONPATH", None)
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--allow-metrics=false", "--disable-auto-complete-config", *options),
    ]
    log = work / "triton.log"
    with log.open("w") as written:
        process = subprocess.Popen(command, env=environment, stdout=written, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(http, process, log)
        yield Server(http, grpc, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(f"Triton is not ready:\n{log.read_text()[-4000:]}")
