"""The whole job on real digits: train a small network, convert it, save it, run it where torch cannot be imported.

`run` does it and returns the figures as a `Summary`; `show` prints one. The command `lowbit demo` is the two together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import lowbit
from lowbit.cli.tables import heading, profile_table
from lowbit.converted_model import ConvertedModel
from lowbit.data import Digits, load_digits
from lowbit.runtime.timing import Timing, interleave

Array = npt.NDArray[np.float32]
Tick = Callable[[], object]

FILE = "digits.lowbit"
"""The name of the saved model."""
BATCHES = (1, 64)
"""The batch sizes whose latency is measured."""

RUN_WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None  # from here on `import torch` raises ImportError
import time
import numpy as np
start = time.perf_counter()
import lowbit
model = lowbit.load(sys.argv[1])
loaded = time.perf_counter() - start
from lowbit.data import load_digits
_, held_out = load_digits()
logits = np.concatenate([model(held_out.images[i : i + 100]) for i in range(0, len(held_out.images), 100)])
np.save(sys.argv[2], logits)
print(json.dumps({"seconds": loaded, "torch": sys.modules["torch"] is not None}))
"""
"""What a deployment does: load, run. It runs in a process of its own."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the demo found. Accuracies are shares of the held-out digits in 0..1, sizes bytes, times seconds."""

    float_accuracy: float
    int8_accuracy: float
    float_bytes: int
    int8_bytes: int
    load_seconds: float
    latency: dict[int, tuple[Timing, Timing]]
    """Per batch size: (torch, lowbit), one thread each."""
    images: Array
    labels: npt.NDArray[np.int64]
    float_predictions: npt.NDArray[np.int64]
    int8_predictions: npt.NDArray[np.int64]
    model: ConvertedModel


def build_net(seed: int = 0) -> nn.Module:
    """The digit network: conv 32 - pool - conv 64 - pool - conv 128 - dense 128 - dense 10, with batch norm."""
    torch.manual_seed(seed)

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, 128),
        nn.Flatten(),
        nn.Linear(128 * 7 * 7, 128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, 10),
    )


def train(net: nn.Module, digits: Digits, *, epochs: int, batch: int = 64, tick: Tick = lambda: None) -> None:
    """Train `net` in place, the same way each time (order, shifts and dropout are seeded); leave it in eval mode."""
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    torch.manual_seed(1)
    net.train()
    with one_thread():
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for i in range(0, len(images) - batch + 1, batch):
                rows = order[i : i + batch]
                shift = torch.randint(-2, 3, (2,)).tolist()
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images[rows].roll(shift, (2, 3))), labels[rows]).backward()
                optimizer.step()
                schedule.step()
                tick()
    net.eval()


def run(directory: str | os.PathLike[str] | None = None, *, epochs: int = 4, console: Console | None = None) -> Summary:
    """Do the whole job; `FILE` stays in `directory` (absent: a temporary one that is removed).

    `console` shows the progress bars; absent, nothing is printed. Raises what `lowbit.convert` and `lowbit.load` raise.
    """
    with tempfile.TemporaryDirectory() as temporary:
        return _run(Path(directory or temporary), epochs, console or Console(quiet=True))


def _run(directory: Path, epochs: int, console: Console) -> Summary:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE
    training, held_out = load_digits()
    net = build_net()
    with _progress(console) as bar:
        with bar("train in torch", epochs * (len(training.images) // 64)) as tick:
            train(net, training, epochs=epochs, tick=tick)
        with bar("convert to int8", 1) as tick:
            model = convert(net, training)
            model.save(path)
            tick()
        with bar("run without torch", 1) as tick:
            logits, seconds = run_without_torch(path)
            tick()
        with bar("measure", len(BATCHES) * 15) as tick:
            latency = {batch: measure(net, path, held_out.images[:batch], tick=tick) for batch in BATCHES}
    with torch.inference_mode():
        reference = np.concatenate([net(torch.from_numpy(part)).numpy() for part in np.split(held_out.images, 20)])
    predictions = reference.argmax(1), logits.argmax(1)
    return Summary(
        float_accuracy=float((predictions[0] == held_out.labels).mean()),
        int8_accuracy=float((predictions[1] == held_out.labels).mean()),
        float_bytes=sum(value.numel() * value.element_size() for value in net.state_dict().values()),
        int8_bytes=path.stat().st_size,
        load_seconds=seconds,
        latency=latency,
        images=held_out.images,
        labels=held_out.labels,
        float_predictions=predictions[0],
        int8_predictions=predictions[1],
        model=model,
    )


def convert(net: nn.Module, training: Digits) -> ConvertedModel:
    """`net` with int8 weights and activations; 512 of the training digits set the ranges."""
    images = torch.from_numpy(training.images)
    return lowbit.convert(net, (images[:1],), calibration=list(images[:512].split(64)), progress=False)


def run_without_torch(path: Path) -> tuple[Array, float]:
    """The logits of the held-out digits, and the seconds it took to import lowbit and load, without torch."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "logits.npy"
        command = [sys.executable, "-c", RUN_WITHOUT_TORCH, str(path), str(output)]
        answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        logits: Array = np.load(output)
    return logits, float(answer["seconds"])


def measure(net: nn.Module, path: Path, images: Array, *, tick: Tick = lambda: None) -> tuple[Timing, Timing]:
    """The latency of (torch, lowbit) on `images`, one thread each, in interleaved rounds."""
    model = lowbit.load(path, threads=1)
    tensor = torch.from_numpy(images)
    calls = {"torch": lambda: net(tensor), "lowbit": lambda: model(images)}
    with one_thread(), torch.inference_mode():
        times = interleave(calls, rounds=15, seconds=0.05, on_round=tick)
    return times["torch"], times["lowbit"]


def show(summary: Summary, console: Console) -> None:
    """Print what the demo found."""
    table = heading("2,000 held-out digits, one thread", ("",), ("torch float32", "lowbit int8", ""))
    table.add_row("accuracy", f"{summary.float_accuracy:.2%}", f"{summary.int8_accuracy:.2%}", _points(summary))
    smaller = f"{summary.float_bytes / summary.int8_bytes:.1f} x smaller"
    table.add_row("size", f"{summary.float_bytes / 1e3:,.0f} kB", f"{summary.int8_bytes / 1e3:,.0f} kB", smaller)
    for batch, (torch_time, lowbit_time) in summary.latency.items():
        faster = f"{torch_time.median / lowbit_time.median:.1f} x faster"
        row = (f"{torch_time.median * 1e3:.3f} ms", f"{lowbit_time.median * 1e3:.3f} ms", faster)
        table.add_row(f"latency, batch {batch}", *row)
    console.print(table)
    console.print(f"Loaded in a process where torch cannot be imported, in {summary.load_seconds * 1e3:.0f} ms.\n")
    sqnr = {row.node: row.sqnr for row in summary.model.compare(summary.images[:100])}
    console.print(profile_table(summary.model.profile(summary.images[:1], repeats=100), sqnr))
    console.print(_drawn(summary))


def _points(summary: Summary) -> str:
    return f"{(summary.int8_accuracy - summary.float_accuracy) * 100:+.2f} points"


def _drawn(summary: Summary, count: int = 5) -> Table:
    """`count` digits with what each network says, those that it says differently or wrongly first."""
    wrong = (summary.float_predictions != summary.labels) | (summary.int8_predictions != summary.labels)
    differ = summary.float_predictions != summary.int8_predictions
    order = np.argsort(-(2 * differ + wrong).astype(int), kind="stable")
    chosen = np.concatenate([order[: count // 2], np.flatnonzero(~wrong)[: count - count // 2]])
    table = Table.grid(padding=(0, 2))
    table.add_row(*(draw(summary.images[i, 0]) for i in chosen))
    said = zip(summary.labels, summary.float_predictions, summary.int8_predictions, strict=True)
    captions = [f"label {label}\nfloat {a}\nint8  {b}" for label, a, b in said]
    table.add_row(*(captions[i] for i in chosen))
    return table


def draw(image: Array) -> str:
    """A 28 x 28 image as 7 lines of 14 Braille characters, a dot a pixel."""
    bits = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    cells = (image > 0.4).reshape(7, 4, 14, 2).transpose(0, 2, 1, 3)
    return "\n".join("".join(chr(0x2800 + int((cell * bits).sum())) for cell in row) for row in cells)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch with one thread: sums in the same order on every machine, and no waiting for cores that others use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int], _Bar]]:
    columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield lambda name, total: _Bar(progress, name, total)


class _Bar:
    """One line of the progress display: a context that gives the function to call at each step."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self.progress, self.task = progress, progress.add_task(name, total=total)

    def __enter__(self) -> Tick:
        return lambda: self.progress.advance(self.task)

    def __exit__(self, *error: object) -> None:
        self.progress.stop_task(self.task)
