"""What free sizes cost: one conversion for all lengths against one made for each length alone, in interleaved rounds.

    python bench/bench_dynamic.py [--lengths 1,2,8,64,512] [--threads 1] [--scheme int8] [--rounds 9]

The network is a small BERT (transformers, random weights; torch's own encoder without transformers). Both conversions
must give the same numbers (in int8, but for roundings that fall the other way). A ratio of 1.10 means: the length costs
10 % more in the conversion for all lengths.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

import lowbit
from lowbit.runtime.profile import table
from lowbit.runtime.timing import interleave

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
BOUND = 1.15
"""No length may cost more than this times what its own conversion costs."""
Inputs = dict[str, np.ndarray]


class Encoder(nn.Module):
    """Embeddings and torch's encoder layers, for where transformers is not installed."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(1000, width), nn.Embedding(512, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        y: torch.Tensor = self.layers(x, src_key_padding_mask=attention_mask == 0)
        return y


def network(width: int, layers: int) -> nn.Module:
    """An encoder with random weights."""
    torch.manual_seed(0)
    try:
        from transformers import BertConfig, BertModel
    except ImportError:
        return Encoder(width, layers).eval()
    config = BertConfig(
        vocab_size=1000,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
    )
    net: nn.Module = BertModel(config, add_pooling_layer=False).eval()
    return net


def inputs(batch: int, length: int) -> Inputs:
    """Token numbers, and a mask that leaves none out."""
    ids = np.random.default_rng(length).integers(0, 1000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones((batch, length), np.int64)}


def runner(model: lowbit.Model, given: Inputs) -> Callable[[], object]:
    """A call without Python around it, into buffers that are there already."""
    session = model.session
    arrays = [given[name] for name in session.graph.inputs]
    outputs = session.run_list(arrays)
    return lambda: session.run_into(arrays, outputs)


def largest_difference(a: lowbit.Model, b: lowbit.Model, given: Inputs) -> float:
    """Between the two models' outputs, relative to the largest number in them."""
    arrays = [given[name] for name in a.session.graph.inputs]
    pairs = zip(a.session.run_list(arrays), b.session.run_list(arrays), strict=True)
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)


def measure(
    net: nn.Module, lengths: Sequence[int], *, batch: int, scheme: str, threads: int, rounds: int, seconds: float
) -> dict[int, tuple[float, float]]:
    """By length: seconds a call of the conversion for all lengths, and of the one for this length."""

    def convert(length: int, dynamic: str | None) -> lowbit.Model:
        example = {name: torch.from_numpy(array) for name, array in inputs(batch, length).items()}
        model: lowbit.Model = lowbit.convert(
            net, example, scheme=scheme, dynamic=dynamic, threads=threads, progress=False
        )
        return model

    free = convert(max(2, min(lengths)), "auto")
    times: dict[int, tuple[float, float]] = {}
    for length in lengths:
        given, fixed = inputs(batch, length), convert(length, None)
        difference = largest_difference(free, fixed, given)
        if difference > (1e-4 if scheme == "float32" else 1e-2):
            raise AssertionError(f"length {length}: the conversions differ by {difference:.2g}")
        calls = {"free": runner(free, given), "fixed": runner(fixed, given)}
        found = interleave(calls, rounds=rounds, seconds=seconds)
        times[length] = found["free"].lowest, found["fixed"].lowest
    return times


def main() -> None:
    """Print the ratio for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--scheme", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each slice of a round")
    options = parser.parse_args()
    times = measure(
        network(options.width, options.layers),
        [int(length) for length in options.lengths.split(",")],
        batch=options.batch,
        scheme=options.scheme,
        threads=options.threads,
        rounds=options.rounds,
        seconds=options.seconds,
    )
    rows: list[tuple[str, ...]] = [("length", "free ms", "fixed ms", "ratio")]
    rows += [(str(n), f"{free * 1e3:.4f}", f"{own * 1e3:.4f}", f"{free / own:.3f}") for n, (free, own) in times.items()]
    print(table(rows, right=(0, 1, 2, 3)))
    worst = max(free / fixed for free, fixed in times.values())
    print(f"largest ratio {worst:.3f}; the bound is {BOUND}")


if __name__ == "__main__":
    main()
