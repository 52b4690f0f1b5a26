"""Writes golden files of the file version that the code at hand writes: `python -m golden.make`, in tests/.

For each net `v<version>/<name>.lowbit` and, beside it, `<name>.safetensors` with the inputs of a call ("in/<name>") and
its exact outputs ("out/<place>"). Nets come from `lowbit.convert`, and from the graphs of tests/graphs.py, which hold
every operator. Files that exist are left alone: they are older than the code, which is the point of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn
from torch.nn import functional as F

import graphs
import lowbit
from lowbit import Scheme, Session, compress
from lowbit.quantization import tables
from lowbit.runtime import format
from passes.cheap import cheap_conversions

HERE = Path(__file__).resolve().parent


class Images(nn.Module):
    """Convolutions k x k, strided, depthwise and 1 x 1, a residual, pools, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.SiLU())
        self.point = nn.Conv2d(16, 16, 1)
        self.wide = nn.Conv2d(16, 32, (3, 2), padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = F.relu(y + self.point(self.depthwise(y)))
        y = self.wide(F.max_pool2d(y, 2)).relu()
        return self.head(y.mean((2, 3)))


class Words(nn.Module):
    """An embedding, an LSTM, attention, norms, linear layers; any number of sentences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scan = nn.Embedding(100, 16), nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.mix = nn.MultiheadAttention(32, 2, batch_first=True)
        self.norm, self.wide, self.narrow = nn.LayerNorm(32), nn.Linear(32, 48), nn.Linear(48, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y, _ = self.scan(self.table(tokens))
        y = self.norm(y + self.mix(y, y, y, need_weights=False)[0])
        return self.narrow(F.gelu(self.wide(y)))


class Divisors(nn.Module):
    """Layers around an operation that torch runs; whole numbers, so that every torch gives the same."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(16, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = (self.before(x) * 9).round().long()
        return self.after(torch.gcd(a, a + 6).float())


INT4 = Scheme(name="int4-g16", weight_bits=4, granularity="group", group_size=16, keep_ends=False)
INT4_AFFINE = Scheme(
    name="int4-affine", weight_bits=4, granularity="group", group_size=16, symmetric=False, keep_ends=False
)
INT4_CHANNEL = Scheme(name="int4-channel", weight_bits=4, keep_ends=False)

SIZES = {"batch": 2, "sequence": 7, "height": 14, "width": 13}


def images(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 3, 14, 12)


def words(rows: int = 4) -> torch.Tensor:
    return torch.randint(0, 100, (rows, 7))


def pruned(net: nn.Module) -> nn.Module:
    compress.prune(net, 0.8, pattern="4x4").finalize()
    return net


def converted(net: nn.Module, inputs: torch.Tensor, **options: Any) -> tuple[Any, Any]:
    model = lowbit.convert(net.eval(), inputs, progress=False, target="avx512vnni", **options)
    return model.graph, model.meta.document()


def nets() -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Name -> a graph and its metadata."""
    made: dict[str, Callable[[], tuple[Any, Any]]] = {
        "images_float32": lambda: converted(Images(), images(), scheme="float32"),
        "images_int8": lambda: converted(Images(), images(), calibration=[images(16)]),
        "images_int8_dynamic": lambda: converted(Images(), images()),
        "images_int4_channel": lambda: converted(Images(), images(), calibration=[images(16)], scheme=INT4_CHANNEL),
        "images_int4_group": lambda: converted(Images(), images(), calibration=[images(16)], scheme=INT4),
        "images_int4_affine": lambda: converted(Images(), images(), calibration=[images(16)], scheme=INT4_AFFINE),
        "images_int4_dynamic": lambda: converted(Images(), images(), scheme=INT4),
        "images_sizes": lambda: converted(
            Images(), images(), scheme="float32", dynamic={"x": {0: "batch", 2: "height", 3: "width"}}
        ),
        "words_float32": lambda: converted(Words(), words(), scheme="float32"),
        "words_int8": lambda: converted(Words(), words(), calibration=[words(16)]),
        "words_int8_dynamic": lambda: converted(Words(), words()),
        "words_int4_channel": lambda: converted(Words(), words(), scheme=INT4_CHANNEL),
        "words_int4_group": lambda: converted(Words(), words(), calibration=[words(16)], scheme=INT4),
        "words_int4_affine": lambda: converted(Words(), words(), scheme=INT4_AFFINE),
        "images_sparse": lambda: converted(pruned(Images()), images(), calibration=[images(16)]),
        "divisors_segments": lambda: converted(Divisors(), torch.randn(4, 16), fallback="torch"),
    }
    return made | {name: lambda make=make: (make(), {}) for name, make in graphs.GRAPHS.items()}


def write(folder: Path, name: str, graph: Any, meta: Mapping[str, Any]) -> None:
    """Both files of a net. Raises AssertionError where instruction sets differ."""
    format.save(folder / f"{name}.lowbit", graph, meta)
    inputs = graphs.feeds(graph, {key: size for key, size in SIZES.items() if key in graph.symbols}, seed=7)
    outputs = Session(graph).run(**inputs)
    for isa in ("scalar", "avx2"):
        for one, other in zip(outputs, Session(graph, isa=isa).run(**inputs), strict=True):
            assert one.tobytes() == other.tobytes(), f"{name}: {isa} differs"
    arrays = {f"in/{key}": array for key, array in inputs.items()}
    arrays |= {f"out/{place}": np.ascontiguousarray(array) for place, array in enumerate(outputs)}
    safetensors.numpy.save_file(arrays, folder / f"{name}.safetensors")


def main() -> None:
    """Write what is missing."""
    folder = HERE / f"v{format.VERSION}"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        cheap_conversions(patch)
        patch.setattr(tables, "SMALL_TABLE", 1)
        for name, make in nets().items():
            if not (folder / f"{name}.lowbit").exists():
                torch.manual_seed(len(name))
                write(folder, name, *make())
                print(name)


if __name__ == "__main__":
    main()
