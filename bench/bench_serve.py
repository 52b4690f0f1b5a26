"""What serving costs: `lowbit serve` beside a genuine Triton that runs lowbit, with the same models and clients.

    python bench/bench_serve.py [--rounds 7] [--seconds 2] [--soak MINUTES]

CPU a request: user and system time of the server's processes over the requests, of requests that follow each other,
the lowest of rounds in which servers and protocols take turns; of a model that takes next to nothing. Throughput: the
server alone on a CPU, its clients on another, as many calls in one process alone on the same CPU beside it, in turn.
Batching: 16 clients of one row each, with batches and without (`--max-batch 1`).

LOWBIT_TRITON names a Python that has nvidia-pytriton (`tests/triton_server.py`); without it, there is no Triton.

--soak: 16 clients of both protocols for so many minutes, while files are replaced and reloaded, and malformed requests
come between. Exits with 1 for an error that was not asked for, a differing bit, or memory that grows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from torch import nn

import lowbit
from lowbit.runtime import repository
from serving_load import Array, Grpc, Rest, Served, at_once, client, cpu_seconds, lowbit_server, resident_bytes

SIZES = {"12 KB": (1, 3, 32, 32), "600 KB": (1, 3, 224, 224)}
REQUESTS = {"12 KB": 300, "600 KB": 60}
ROWS = {"12 KB": 3 * 32 * 32, "600 KB": 3 * 224 * 224}
GROWTH = 24 << 20
"""Bytes that a server's memory may grow by between the first and the last third of a soak."""


def light(pixels: int) -> nn.Module:
    """Reads an image and computes next to nothing of it."""
    return nn.Sequential(nn.AvgPool2d(pixels // 4), nn.Flatten(), nn.Linear(48, 10)).eval()


def mlp() -> nn.Module:
    """1024 - 4096 - 4096 - 1024."""
    layers = [nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1024)]
    return nn.Sequential(*layers).eval()


def made(folder: Path) -> dict[str, Path]:
    """The light models and the MLP, as files by name."""
    torch.manual_seed(0)
    nets = {"small": (light(32), SIZES["12 KB"]), "large": (light(224), SIZES["600 KB"]), "mlp": (mlp(), (1, 1024))}
    for name, (net, shape) in nets.items():
        lowbit.convert(net, torch.randn(shape), progress=False).save(folder / f"{name}.lowbit")
    return {name: folder / f"{name}.lowbit" for name in nets}


def mobilenet(folder: Path) -> Path:
    """MobileNetV2 in int8."""
    from zoo import mobilenetv2

    subject, file = mobilenetv2(), folder / "mobilenetv2.lowbit"
    calibration = torch.from_numpy(subject.images(8))
    lowbit.convert(subject.net, calibration[:1], calibration=[calibration], progress=False).save(file)
    return file


def image(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@contextmanager
def triton_server(files: Mapping[str, Path], folder: Path) -> Iterator[Served | None]:
    """Triton of these files, if there is one."""
    if not os.environ.get("LOWBIT_TRITON"):
        print("no Triton: LOWBIT_TRITON names no Python that has nvidia-pytriton")
        yield None
        return
    from triton_server import triton

    repository.write(files, folder / "repository")
    with triton(folder / "repository", folder) as served:
        yield Served(served.http, served.grpc, served.process)


# ---------------------------------------------------------------------------------------------------- CPU a request


def cpu_a_request(files: Mapping[str, Path], folder: Path, rounds: int) -> None:
    """Of each size, protocol and server."""
    both = {"12 KB": "small", "600 KB": "large"}
    used = {name: files[name] for name in both.values()}
    with lowbit_server(used) as own, triton_server(used, folder) as other:
        servers = {"lowbit": own} | ({"Triton": other} if other else {})
        found: dict[tuple[str, str, str], list[float]] = {}
        for size, name in both.items():
            x = image(SIZES[size])
            expected = lowbit.Predictor(files[name], threads=1)({"input": x})["output"].tobytes()
            clients = {
                (protocol, server): client(protocol, served, name, {"input": x})
                for protocol, (server, served) in itertools.product(("rest", "grpc"), servers.items())
            }
            for ask in clients.values():
                assert ask() == expected
                for _ in range(20):
                    ask()
            for _ in range(rounds):
                for (protocol, server), ask in clients.items():
                    before = cpu_seconds(servers[server].process)
                    for _ in range(REQUESTS[size]):
                        ask()
                    spent = cpu_seconds(servers[server].process) - before
                    found.setdefault((size, protocol, server), []).append(spent / REQUESTS[size])
            for ask in clients.values():
                ask.close()
    print("\n| CPU a request, ms | " + " | ".join(servers) + " | ratio |\n| --- | " + "--- | " * (len(servers) + 1))
    for size, protocol in itertools.product(both, ("rest", "grpc")):
        least = {server: min(found[size, protocol, server]) * 1e3 for server in servers}
        ratio = f"{least['lowbit'] / least['Triton']:.2f}" if "Triton" in least else ""
        cells = " | ".join(f"{value:.3f}" for value in least.values())
        print(f"| {size}, {protocol} | {cells} | {ratio} |")


# -------------------------------------------------------------------------------------------------------- throughput


def in_process(file: Path, x: Array, seconds: float, cpu: int) -> float:
    """Calls a second of one thread, alone on a CPU."""
    predict = lowbit.Predictor(file, threads=1)
    (name,) = predict.inputs
    before, count = os.sched_getaffinity(0), 0
    os.sched_setaffinity(0, {cpu})
    try:
        predict({name: x})
        start = time.perf_counter()
        while time.perf_counter() < start + seconds:
            predict({name: x})
            count += 1
        return count / (time.perf_counter() - start)
    finally:
        os.sched_setaffinity(0, before)


def throughput(name: str, file: Path, shape: tuple[int, ...], rounds: int, seconds: float) -> None:
    """A model served, beside the same calls in one process."""
    x, predict = image(shape), lowbit.Predictor(file, threads=1)
    given = dict.fromkeys(predict.inputs, x)
    expected = predict(given)["output"].tobytes()
    cpus = sorted(os.sched_getaffinity(0))
    for where, pinned in (("one CPU", str(cpus[-1])), ("all CPUs, one call at once", None)):
        with lowbit_server({name: file}, ["--concurrency=1"], pinned) as served:
            asks = {
                protocol: [client(protocol, served, name, given) for _ in range(4)] for protocol in ("rest", "grpc")
            }
            alone, found = [], {protocol: list[float]() for protocol in asks}
            for _ in range(rounds):
                alone.append(in_process(file, x, seconds, cpus[-1]))
                for protocol, some in asks.items():
                    with on_cpus({cpus[0]}) if pinned else nullcontext():
                        found[protocol].append(at_once(some, seconds, [expected] * 4))
        best = max(alone)
        told = ", ".join(f"{p} {max(f):.0f}/s ({max(f) / best:.2f})" for p, f in found.items())
        print(f"{name}, the server on {where}: in process {best:.0f}/s, served {told}")


@contextmanager
def on_cpus(cpus: set[int]) -> Iterator[None]:
    """Threads that start within it run on these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def batching(name: str, file: Path, shape: tuple[int, ...], rounds: int, seconds: float) -> None:
    """16 clients of a row each: batches as the server has them, and none."""
    predict = lowbit.Predictor(file, threads=1)
    inputs = [dict.fromkeys(predict.inputs, image(shape, seed)) for seed in range(16)]
    expected = [predict(given)["output"].tobytes() for given in inputs]
    cpus = sorted(os.sched_getaffinity(0))
    one = str(cpus[-1])
    options = {"batches": ["--concurrency=1"], "none": ["--concurrency=1", "--max-batch=1"]}
    with (
        lowbit_server({name: file}, options["batches"], one) as on,
        lowbit_server({name: file}, options["none"], one) as off,
    ):
        found: dict[str, list[float]] = {"batches": [], "none": []}
        asks = {
            kind: [client("grpc", served, name, given) for given in inputs]
            for kind, served in (("batches", on), ("none", off))
        }
        for _ in range(rounds):
            for kind, some in asks.items():
                with on_cpus({cpus[0]}):
                    found[kind].append(at_once(some, seconds, expected))
    best = {kind: max(rates) for kind, rates in found.items()}
    print(
        f"{name}, 16 clients, one CPU: {best['batches']:.0f}/s in batches, {best['none']:.0f}/s without: "
        f"{best['batches'] / best['none']:.2f} times"
    )


# -------------------------------------------------------------------------------------------------------------- soak


def document(name: str, shape: list[int], data: list[float]) -> bytes:
    return json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": "FP32", "data": data}]}).encode()


MALFORMED = {
    "no JSON": (b"{", 400),
    "no inputs": (b"{}", 400),
    "deep JSON": (b"[" * 100_000, 400),
    "other size": (document("input", [1, 3], [1, 2]), 400),
    "unknown input": (document("z", [1], [1]), 400),
    "huge shape": (document("input", [1 << 40, 3], [1]), 400),
    "unknown model": (b"{}", 404),
}


def malformed(served: Served, chosen: random.Random) -> None:
    """One request that must be refused, or a connection that sends half of one. Raises AssertionError."""
    if chosen.random() < 0.2:
        with socket.create_connection(("127.0.0.1", served.http), timeout=60) as half:
            half.sendall(b"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        return
    if chosen.random() < 0.2:
        call = Grpc(served.grpc, chosen.choice([b"", b"\xff" * 20, b"\x0a\x05small"]))
        try:
            call()
            raise AssertionError("a malformed message was answered")
        except grpc.RpcError as error:
            known = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL)
            if error.code() not in known:
                raise AssertionError(f"a malformed message: {error}") from None
        finally:
            call.close()
        return
    kind = chosen.choice([*MALFORMED])
    data, status = MALFORMED[kind]
    path = "nothing" if kind == "unknown model" else "small"
    head = f"POST /v2/models/{path}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    ask = Rest(served.http, head + data)
    try:
        ask()
        raise AssertionError(f"{kind}: was answered")
    except RuntimeError as error:
        if f" {status}" not in str(error).split(":")[0]:
            raise AssertionError(f"{kind}: {error}") from None
    finally:
        ask.close()


def soak(files: Mapping[str, Path], folder: Path, minutes: float) -> bool:
    """Whether all went well."""
    used = {name: folder / f"soak_{name}.lowbit" for name in ("small", "mlp")}
    for name, path in used.items():
        shutil.copy(files[name], path)
    shapes = {"small": (1, *SIZES["12 KB"][1:]), "mlp": (1, 1024)}
    until, problems, memory, counts = time.monotonic() + 60 * minutes, list[str](), list[int](), [0] * 18
    with lowbit_server(used) as served:

        def work(index: int) -> None:
            name, protocol = ("small", "mlp")[index % 2], ("rest", "grpc")[index // 2 % 2]
            rows = 1 + index % 3
            x = image((rows, *shapes[name][1:]), index)
            expected = lowbit.Predictor(files[name], threads=1)({"input": x})["output"].tobytes()
            ask = client(protocol, served, name, {"input": x})
            while time.monotonic() < until:
                if ask() != expected:
                    problems.append(f"client {index}: a bit differs")
                counts[index] += 1
            ask.close()

        def reload(index: int) -> None:
            while time.monotonic() < until:
                for name, path in used.items():
                    shutil.copy(files[name], path.with_suffix(".new"))
                    path.with_suffix(".new").replace(path)
                os.kill(served.process, signal.SIGHUP)
                counts[index] += 1
                time.sleep(1)

        def disturb(index: int) -> None:
            chosen = random.Random(index)
            while time.monotonic() < until:
                malformed(served, chosen)
                counts[index] += 1
                time.sleep(0.02)

        def guarded(job: Any, index: int) -> None:
            try:
                job(index)
            except Exception as error:  # whatever a job meets is a problem of the soak, and is printed
                problems.append(f"{job.__name__} {index}: {type(error).__name__}: {error}")

        jobs = [work] * 16 + [reload, disturb]
        threads = [threading.Thread(target=guarded, args=(job, index)) for index, job in enumerate(jobs)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(2.0, minutes * 2))
            memory.append(resident_bytes(served.process))
    third = len(memory) // 3
    first, last = (statistics.median(part) for part in (memory[third : 2 * third], memory[2 * third :]))
    print(
        f"{minutes:g} minutes: {sum(counts[:16]):,} answers, {counts[16]} reloads, {counts[17]:,} malformed requests; "
        f"resident {first / 2**20:.1f} MiB in the second third, {last / 2**20:.1f} in the last, at most "
        f"{max(memory) / 2**20:.1f}; {len(problems)} problems"
    )
    for problem in problems[:10]:
        print(problem)
    return not problems and last < first + GROWTH


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--images", type=Path, help="a file of a model of images of 224 x 224; None: MobileNetV2")
    parser.add_argument("--only", choices=["cpu", "throughput", "batching"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = made(folder)
        if given.soak:
            raise SystemExit(0 if soak(files, folder, given.soak) else 1)
        if given.only in (None, "cpu"):
            cpu_a_request(files, folder, given.rounds)
        if given.only in (None, "throughput", "batching"):
            file = given.images or mobilenet(folder)
            if given.only != "batching":
                throughput(file.stem, file, SIZES["600 KB"], given.rounds, given.seconds)
            if given.only != "throughput":
                batching("mlp", files["mlp"], (1, 1024), given.rounds, given.seconds)
                batching(file.stem, file, SIZES["600 KB"], given.rounds, given.seconds)


if __name__ == "__main__":
    main()
