"""Recurrent nets and a recommender, which have few rows or none but one: lowbit beside int8 that finds ranges itself.

    python bench/bench_dynamic_int8.py [--nets lstm,recommender] [--batch 256] [--isa avx2] [--rounds 15]

All engines get the same weights and calibration data; dynamic ones need none. Their error against torch's float32 is
printed first: sqrt(sum |int8 - float|^2 / sum float^2) on inputs that no range is from. The best peer is the fastest
whose error is at most three times lowbit's; `--isa avx2` holds all engines to AVX2 (`cap.py`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import cap
import lowbit
import peers
from lowbit.runtime.timing import interleave

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[Feeds], Array]
CACHE = Path(__file__).parent.parent / "build" / "bench" / "dynamic"
OWN = "lowbit int8"
MUCH = 3.0
"""Times lowbit's error: beyond, a peer is much less accurate."""


class Recurrent(nn.Module):
    """Two layers of 512 units."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layers = kind(512, 512, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)[0]
        return y


class Recommender(nn.Module):
    """Eight tables of 10,000 rows of 32 and 13 numbers, the products of each two, and a wide MLP (as DLRM, Naumov et
    al. 2019, arXiv:1906.00091)."""

    pairs: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(10_000, 32) for _ in range(8))
        self.bottom = nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, 32), nn.ReLU())
        self.top = nn.Sequential(
            *(nn.Linear(32 + 36, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 1)),
        )
        self.register_buffer("pairs", torch.tril_indices(9, 9, -1), persistent=False)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        dense = self.bottom(x)
        rows = torch.stack([dense, *(table(ids[:, i]) for i, table in enumerate(self.tables))], dim=1)
        products = (rows @ rows.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        y: torch.Tensor = self.top(torch.cat([dense, products / 8], dim=1))
        return y


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, and what makes a batch of its inputs."""

    net: nn.Module
    inputs: Callable[[np.random.Generator, int], Feeds]


def sequences(rng: np.random.Generator, batch: int) -> Feeds:
    """64 steps."""
    return {"x": rng.standard_normal((batch, 64, 512)).astype(np.float32)}


def visits(rng: np.random.Generator, batch: int) -> Feeds:
    """Numbers, and a row of each table."""
    return {"x": rng.standard_normal((batch, 13)).astype(np.float32), "ids": rng.integers(0, 10_000, (batch, 8))}


NETS: dict[str, Callable[[], Subject]] = {
    "lstm": lambda: Subject(net=Recurrent(nn.LSTM), inputs=sequences),
    "gru": lambda: Subject(net=Recurrent(nn.GRU), inputs=sequences),
    "recommender": lambda: Subject(net=Recommender(), inputs=visits),
}


def with_lowbit(net: nn.Module, data: Sequence[Feeds], folder: Path, threads: int, *, scheme: str) -> Run:
    """lowbit, from a file."""
    calibration = [tuple(map(torch.from_numpy, feeds.values())) for feeds in data]
    path = folder / f"{scheme}.lowbit"
    given = calibration if scheme == "int8" else None
    lowbit.convert(net, calibration[0], calibration=given, scheme=scheme, threads=threads, progress=False).save(path)
    model = lowbit.load(path, threads=threads)
    return lambda feeds: np.asarray(model(*feeds.values()))


def with_torch(net: nn.Module, data: Sequence[Feeds], folder: Path, threads: int, *, dynamic: bool = False) -> Run:
    """torch, eager; dynamic: its int8, per tensor."""
    torch.set_num_threads(threads)
    if dynamic:
        with peers.quiet():
            net = torch.ao.quantization.quantize_dynamic(net, {nn.LSTM, nn.GRU, nn.Linear}, dtype=torch.qint8)

    def run(feeds: Feeds) -> Array:
        with torch.inference_mode():
            y: Array = net(*map(torch.from_numpy, feeds.values())).numpy()
        return y

    return run


def with_onnxruntime(net: nn.Module, data: Sequence[Feeds], folder: Path, threads: int, *, dynamic: bool) -> Run:
    """ONNX Runtime: static QDQ, or `quantize_dynamic` as it comes."""
    with peers.needs("ONNX Runtime", "onnx", "onnxruntime", "onnxscript"):
        prepared = peers.export_onnx(net, data[0], folder / "prepared.onnx")

    def make(path: Path) -> None:
        import onnx
        from onnxruntime.quantization import quantize_dynamic

        with peers.quiet():
            model = onnx.load(str(prepared))
            del model.graph.value_info[:]  # shapes that disagree with those of transposed weights
            quantize_dynamic(model, str(path))

    made = make if dynamic else partial(peers.quantize_onnx, prepared, samples=data)
    session = peers.onnx_session(peers.cached(folder / f"ort-{dynamic}.onnx", made), threads)

    def run(feeds: Feeds) -> Array:
        y: Array = session.run(None, feeds)[0]
        return y

    return run


def with_openvino(net: nn.Module, data: Sequence[Feeds], folder: Path, threads: int) -> Run:
    """OpenVINO on NNCF's post-training quantization."""
    samples = [tuple(feeds.values()) for feeds in data]
    with peers.needs("OpenVINO with NNCF", "openvino", "nncf"):
        path = peers.cached(folder / "ov.xml", lambda path: peers.quantize_openvino(net, samples, path))
    request = peers.openvino_request(path, threads)
    return lambda feeds: np.array(request.infer(list(feeds.values()), share_inputs=True)[0])


ENGINES: dict[str, Callable[..., Run]] = {
    OWN: partial(with_lowbit, scheme="int8"),
    "lowbit float32": partial(with_lowbit, scheme="float32"),
    "torch float32": with_torch,
    "torch dynamic": partial(with_torch, dynamic=True),
    "ONNX Runtime static": partial(with_onnxruntime, dynamic=False),
    "ONNX Runtime dynamic": partial(with_onnxruntime, dynamic=True),
    "OpenVINO int8": with_openvino,
}


def prepare(
    subject: Subject, folder: Path, *, batch: int, threads: int, engines: Sequence[str]
) -> Iterator[tuple[str, Run]]:
    """The engines that can run it; the others are named on standard error."""
    rng = np.random.default_rng(1)
    data = [subject.inputs(rng, batch) for _ in range(max(1, 64 // batch))]
    folder.mkdir(parents=True, exist_ok=True)
    for name in engines:
        try:
            yield name, ENGINES[name](subject.net, data, folder, threads)
        except Exception as error:  # whatever a peer throws is why it is left out
            print(f"skipped, {name}: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)


def error_of(found: Array, expected: Array) -> float:
    """Relative, as above."""
    return float(np.sqrt(np.square(found - expected, dtype=np.float64).sum() / np.square(expected).sum()))


def compare(name: str, runs: Mapping[str, Run], subject: Subject, *, batch: int, rounds: int) -> None:
    """Print errors and times."""
    feeds = subject.inputs(np.random.default_rng(0), batch)
    with torch.inference_mode():
        expected = subject.net(*map(torch.from_numpy, feeds.values())).numpy()
    errors = {engine: error_of(run(feeds), expected) for engine, run in runs.items()}
    times = interleave({engine: partial(run, feeds) for engine, run in runs.items()}, rounds=rounds, seconds=0.05)
    own = times[OWN]
    for engine, timing in times.items():
        ratio = f"{timing.lowest / own.lowest:.2f} | {timing.median / own.median:.2f}"
        print(f"| {name} | {engine} | {timing.lowest * 1e3:.3f} | {ratio} | {errors[engine]:.4f} |", flush=True)
    rivals = [e for e in runs if "float32" not in e and e != OWN and errors[e] <= MUCH * errors[OWN]]
    if rivals:
        best = min(rivals, key=lambda engine: times[engine].lowest)
        print(f"{name}: the best peer, {best}, takes {times[best].lowest / own.lowest:.2f} times as long", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS), help=f"any of {', '.join(NETS)}")
    parser.add_argument("--engines", default="", help="parts of names, separated by commas; lowbit's is always there")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    cap.add_option(parser)
    options = parser.parse_args()
    cap.hold(options.isa)
    parts = options.engines.split(",")
    engines = [name for name in ENGINES if name == OWN or any(part in name for part in parts)]
    print("| net | engine | lowest ms | time / lowbit's | by medians | error |\n|---|---|---:|---:|---:|---:|")
    for name in options.nets.split(","):
        torch.manual_seed(0)
        subject = NETS[name]()
        subject.net.eval()
        folder = CACHE / f"{name}-{options.batch}"
        runs = dict(prepare(subject, folder, batch=options.batch, threads=options.threads, engines=engines))
        compare(name, runs, subject, batch=options.batch, rounds=options.rounds)


if __name__ == "__main__":
    main()
