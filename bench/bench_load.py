"""What a fresh process takes to answer once: time to import, to load and to run ResNet-50 in int8, and its memory.

    python bench/bench_load.py [--model resnet50] [--threads 1] [--rounds 5]

Each engine starts in processes of its own, in turn; files are warm. Times are the lowest of the rounds, memory is what
the system says of the process (Python, NumPy, the engine and the model): resident after the run, and the most it ever
was. Below: what a call of a graph without nodes takes, all in all, from Python. Exits with 1 where lowbit exceeds
`BOUNDS`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, float]
"""import, load, run: seconds. now, peak: bytes resident."""
BOUNDS = {"load and run": 0.6, "resident": 128 << 20, "call": 12e-6}
"""What lowbit's figures should stay below: seconds, bytes, seconds."""


# ------------------------------------------------------------------------------- in a process of its own: nothing else


def nothing(path: str, threads: int) -> Callable[..., Any]:
    """Python with NumPy, to compare with."""
    return lambda: lambda image: image


def lowbit(path: str, threads: int) -> Callable[..., Any]:
    """A .lowbit file."""
    import lowbit

    return partial(lowbit.load, path, threads=threads)


def onnxruntime(path: str, threads: int) -> Callable[..., Any]:
    """An ONNX file."""
    import onnxruntime as ort

    def load() -> Callable[..., Any]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {"input": image})[0]

    return load


def openvino(path: str, threads: int) -> Callable[..., Any]:
    """An OpenVINO model."""
    import openvino as ov

    def load() -> Callable[..., Any]:
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
        return lambda image: request.infer([image], share_inputs=True)[0]

    return load


ENGINES: dict[str, tuple[Callable[..., Any], str]] = {
    "Python with NumPy": (nothing, ""),
    "lowbit int8": (lowbit, "model.lowbit"),
    "ONNX Runtime int8": (onnxruntime, "onnxruntime-qdq.onnx"),
    "OpenVINO int8": (openvino, "openvino.xml"),
}
"""Each with the file that `peers` leaves in the cache."""


def answer(engine: str, path: str, image: str, threads: int) -> None:
    """Print a `Record`."""
    x = np.load(image)
    times = [time.perf_counter()]
    load = ENGINES[engine][0](path, threads)
    times.append(time.perf_counter())
    run = load()
    times.append(time.perf_counter())
    run(x)
    times.append(time.perf_counter())
    seconds = dict(zip(("import", "load", "run"), np.diff(times).tolist(), strict=True))
    print(json.dumps({**seconds, "now": resident("VmRSS"), "peak": resident("VmHWM")}))


def resident(field: str) -> int:
    """Bytes, of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(field))


# ----------------------------------------------------------------------------------------------------------- comparison


def fresh(engine: str, folder: Path, image: str, threads: int) -> Record:
    """One process. Raises CalledProcessError."""
    arguments = ["--engine", engine, "--path", str(folder / ENGINES[engine][1]), "--image", image]
    command = [sys.executable, __file__, *arguments, "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


def compare(model: str, *, threads: int, rounds: int) -> dict[str, Record]:
    """Each engine's lowest figures."""
    import bench_peers
    from peers import ENGINES as KNOWN
    from zoo import MODELS

    subject = MODELS[model]()
    chosen = {name: engine for name, engine in KNOWN.items() if name in ENGINES}
    there = ["Python with NumPy", *bench_peers.prepare(subject, threads=threads, engines=chosen)]
    records: dict[str, list[Record]] = {engine: [] for engine in there}
    with tempfile.TemporaryDirectory() as folder:
        image = f"{folder}/image.npy"
        np.save(image, subject.image)
        for _ in range(rounds):
            for engine, taken in records.items():
                taken.append(fresh(engine, bench_peers.CACHE / model, image, threads))
    return {
        engine: {figure: min(record[figure] for record in taken) for figure in taken[0]}
        for engine, taken in records.items()
    }


def table(results: dict[str, Record]) -> list[str]:
    """Markdown rows."""
    rows = ["| engine | import s | load s | first run s | load + run s | resident MB | peak MB |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    for engine, record in results.items():
        times = [record["import"], record["load"], record["run"], record["load"] + record["run"]]
        sizes = [record["now"] / 2**20, record["peak"] / 2**20]
        cells = [*(f"{seconds:.3f}" for seconds in times), *(f"{size:.0f}" for size in sizes)]
        rows.append(f"| {engine} | {' | '.join(cells)} |")
    return rows


def overheads(rounds: int) -> dict[str, float]:
    """Seconds of a call that does nothing, by the way it is made; the lowest of the rounds' medians."""
    from lowbit.graph.ir import Graph, Value
    from lowbit.runtime.session import Session
    from lowbit.runtime.timing import interleave

    value = Value(dtype="f32", shape=(1,))
    session = Session(Graph(inputs=("x",), outputs=("x",), values={"x": value}, nodes=(), constants={}), threads=1)
    x, y = np.zeros(1, np.float32), np.zeros(1, np.float32)
    calls: dict[str, Callable[[], object]] = {
        "run": partial(session.run, x),
        "run_into": partial(session.run_into, [x], [y]),
    }
    return {name: taken.lowest for name, taken in interleave(calls, rounds=rounds, seconds=0.05).items()}


def main() -> None:
    """Print the table and the overheads; exit with 1 if lowbit's exceed the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    for name in ("engine", "path", "image"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        answer(options.engine, options.path, options.image, options.threads)
        return
    results = compare(options.model, threads=options.threads, rounds=options.rounds)
    print(f"{options.model}, threads: {options.threads}, lowest of {options.rounds} processes each\n")
    print(*table(results), "", sep="\n")
    taken = overheads(options.rounds)
    print("a graph without nodes:", ", ".join(f"session.{name} {1e6 * t:.2f} us" for name, t in taken.items()))
    own = results["lowbit int8"]
    found = {"load and run": own["load"] + own["run"], "resident": own["peak"], "call": taken["run"]}
    beyond = [
        f"{name}: {found[name]:.3g}, not below {bound:.3g}" for name, bound in BOUNDS.items() if found[name] >= bound
    ]
    sys.exit("; ".join(beyond) or 0)


if __name__ == "__main__":
    main()
