"""What int8 costs each kind of network: lowbit against the peers, on the small networks of `tests/architectures.py`.

    python bench/bench_architectures.py [--names bert,vit] [--engines lowbit,onnxruntime,openvino]

All engines get the same four calibration batches; then float32 torch is compared with on eight other samples. Reported
is the SQNR in dB of the worst of a network's outputs, 10 log10(sum float^2 / sum (float - int8)^2). A peer that
cannot run a network is named with the first line of its error. `bound` is what the tests ask of lowbit: 20 dB, or where
all are below, the best peer's figure less 1 dB. Weights are random: figures are for comparison, not for what
trained networks of that kind lose.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import lowbit
import peers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from architectures import ARCHITECTURES, Architecture

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[Feeds], list[Array]]

CACHE = Path(__file__).parent.parent / "build" / "bench" / "architectures"
SAMPLES = 8
GOOD = 20.0
"""Decibels that are enough whatever the peers reach."""
TRANSFORMERS = (
    "bert", "distilbert", "roberta", "vit", "swin", "mobilevit", "gpt2", "llama", "t5_encoder", "whisper_encoder",
    "wav2vec2", "clip", "torch_transformer",
)  # fmt: skip
"""Networks for which NNCF is told that they are transformers."""


def tensors(output: Any) -> Iterator[torch.Tensor]:
    """The tensors of a result, whatever holds them."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(item)


class Plain(nn.Module):
    """Positional tensors in, a tuple of float tensors out: what exporters like."""

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, list(names)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensors(self.net(**dict(zip(self.names, inputs, strict=True)))))


def with_torch(net: Plain, calibration: Sequence[Feeds], subject: Architecture) -> Run:
    """torch, float32."""

    def run(feeds: Feeds) -> list[Array]:
        with torch.no_grad():
            return [y.numpy() for y in net(*map(torch.from_numpy, feeds.values()))]

    return run


def with_lowbit(
    net: Plain, calibration: Sequence[Feeds], subject: Architecture, *, static: bool, **options: Any
) -> Run:
    """lowbit, with calibration data or without, and with the options of a `Scheme`."""
    batches = [{name: torch.from_numpy(array) for name, array in feeds.items()} for feeds in calibration]
    scheme = lowbit.Scheme(name="int8", **options)
    example = subject.example(*subject.shapes[0])
    model = lowbit.convert(
        net.net, example, calibration=batches if static else None, scheme=scheme, threads=1, progress=False
    )
    return lambda feeds: [np.asarray(y) for y in tensors(model(**{k: torch.from_numpy(v) for k, v in feeds.items()}))]


def with_onnxruntime(net: Plain, calibration: Sequence[Feeds], subject: Architecture) -> Run:
    """ONNX Runtime, static: QDQ by min-max ranges, u8 activations, s8 weights per channel."""
    folder = CACHE / subject.name
    with peers.needs("ONNX Runtime", "onnx", "onnxruntime", "onnxscript"):
        prepared = peers.export_onnx(net, calibration[0], folder / "prepared.onnx")
    path = peers.cached(folder / "onnxruntime.onnx", lambda path: peers.quantize_onnx(prepared, path, calibration))
    session = peers.onnx_session(path, threads=1)
    known = {put.name for put in session.get_inputs()}
    return lambda feeds: session.run(None, {name: array for name, array in feeds.items() if name in known})


def with_openvino(net: Plain, calibration: Sequence[Feeds], subject: Architecture) -> Run:
    """OpenVINO on NNCF's post-training quantization."""
    samples = [tuple(feeds.values()) for feeds in calibration]
    folder = CACHE / subject.name
    with peers.needs("OpenVINO with NNCF", "openvino", "nncf"):
        import nncf

        options = {"model_type": nncf.ModelType.TRANSFORMER} if subject.name in TRANSFORMERS else {}
        path = peers.cached(
            folder / "openvino.xml", lambda path: peers.quantize_openvino(net, samples, path, **options)
        )
    request = peers.openvino_request(path, threads=1)

    def run(feeds: Feeds) -> list[Array]:
        result = request.infer(list(feeds.values()))
        return [np.array(result[place]) for place in range(len(result))]

    return run


Engine = Callable[[Plain, Sequence[Feeds], Architecture], Run]
ENGINES: dict[str, Engine] = {
    "lowbit": partial(with_lowbit, static=True),
    "lowbit, dynamic": partial(with_lowbit, static=False),
    "lowbit, static ranges": partial(with_lowbit, static=True, activations="static"),
    "onnxruntime": with_onnxruntime,
    "openvino": with_openvino,
}
PEERS = ("onnxruntime", "openvino")
DEFAULT = ("lowbit", "lowbit, dynamic", *PEERS)


def sqnr(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """dB, of the worst of the float outputs."""
    worst = np.inf
    for x, y in zip(found, expected, strict=True):
        if x.shape != y.shape:
            raise ValueError(f"an output has shape {x.shape}, not {y.shape}")
        noise = float(np.square(x.astype(np.float64) - y).sum())
        signal = float(np.square(y.astype(np.float64)).sum())
        worst = min(worst, 10 * float(np.log10(signal / noise)) if noise else 200.0)
    return worst


def arrays(inputs: Mapping[str, torch.Tensor]) -> Feeds:
    """Inputs as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def compare(subject: Architecture, engines: Sequence[str]) -> Iterator[tuple[str, float | str, float]]:
    """(engine, SQNR in dB or why there is none, seconds) for each engine."""
    (CACHE / subject.name).mkdir(parents=True, exist_ok=True)
    feeds = arrays(subject.example(SAMPLES, subject.shapes[0][1], seed=4))
    net, calibration = Plain(subject.net(), list(feeds)).eval(), [arrays(batch) for batch in subject.calibration()]
    expected = with_torch(net, calibration, subject)(feeds)
    for name in engines:
        start = time.perf_counter()
        try:
            found: float | str = sqnr(ENGINES[name](net, calibration, subject)(feeds), expected)
        except Exception as error:  # whatever a peer throws is its row
            lines = [line for line in str(error).splitlines() if line.strip()]
            found = f"{type(error).__name__}: {lines[0][:100] if lines else ''}"
        yield name, found, time.perf_counter() - start


def bound(results: Mapping[str, float | str]) -> float:
    """What lowbit must reach."""
    best = max((value for name, value in results.items() if name in PEERS and isinstance(value, float)), default=GOOD)
    return min(GOOD, best - 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", default="", help="networks, separated by commas (default: all)")
    parser.add_argument("--engines", default="", help="parts of names, separated by commas; `all` for every variant")
    options = parser.parse_args()
    names = options.names.split(",") if options.names else list(ARCHITECTURES)
    parts = [part for part in options.engines.split(",") if part]
    engines = [name for name in ENGINES if any(part in name for part in parts)] if parts else list(DEFAULT)
    engines = list(ENGINES) if "all" in parts else engines
    if unknown := set(names) - set(ARCHITECTURES):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(ARCHITECTURES)}")
    failures: list[str] = []
    print(f"| network | {' | '.join(engines)} | bound | |\n|---|{'---:|' * (len(engines) + 1)}---|")
    for name in names:
        results: dict[str, float | str] = {}
        for engine, found, _ in compare(ARCHITECTURES[name], engines):
            results[engine] = found
            if isinstance(found, str):
                failures.append(f"{name}, {engine}: {found}")
        cells = [f"{found:.1f}" if isinstance(found, float) else "failed" for found in results.values()]
        least, own = bound(results), results.get("lowbit", "")
        verdict = "missed" if isinstance(own, str) or own < least else ""
        print(f"| {name} | {' | '.join(cells)} | {least:.1f} | {verdict} |", flush=True)
    print(*(["", "Failures:"] if failures else []), *failures, sep="\n")


if __name__ == "__main__":
    main()
