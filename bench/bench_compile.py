"""torch.compile(net, backend="lowbit") on every architecture of the tests: where, how exactly, how often it compiles.

    python bench/bench_compile.py [NAME ...] [--batches 1,2,3,4,8,16]

share: of the operations of products, convolutions, attention and recurrence, what ran on lowbit's kernels. error: the
largest difference to the module itself, relative to its largest output (scheme float32). conversions: for all batches.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lowbit.dynamo import compile as backend
from lowbit.runtime.profile import table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from architectures import ARCHITECTURES, Architecture

SHARE, ERROR, CONVERSIONS = 0.95, 1e-4, 2
"""What each architecture must reach, or stay within."""


def tensors(output: Any) -> Iterator[torch.Tensor]:
    """The floating-point tensors of a module's result, whatever holds them."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping | tuple | list):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(item)


def check(architecture: Architecture, batches: Sequence[int]) -> tuple[float, float, int]:
    """Share, error and conversions of one architecture."""
    torch._dynamo.reset()
    conversions = 0
    convert = backend.Frame.convert

    def counted(self: backend.Frame, options: Mapping[str, Any]) -> Any:
        nonlocal conversions
        conversions += 1
        return convert(self, options)

    net, length = architecture.net(), architecture.shapes[0][1]
    fast: Any = torch.compile(net, backend="lowbit", options={"scheme": "float32"})
    error = 0.0
    backend.Frame.convert = counted  # type: ignore[method-assign]
    try:
        for batch in batches:
            given = architecture.example(batch, length)
            for result, expected in zip(tensors(fast(**given)), tensors(net(**given)), strict=True):
                error = max(error, float((result - expected).abs().max() / expected.abs().max()))
        with backend.counting() as count:
            fast(**architecture.example(batches[-1], length))
    finally:
        backend.Frame.convert = convert  # type: ignore[method-assign]
    return count.share, error, conversions


def main() -> None:
    """Print a line for each architecture, and fail if one misses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--batches", default="1,2,3,4,8,16")
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    rows: list[tuple[str, ...]] = [("architecture", "share", "error", "conversions", "seconds", "")]
    missed = []
    for name in options.names or ARCHITECTURES:
        start = time.perf_counter()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            share, error, conversions = check(ARCHITECTURES[name], batches)
        good = share >= SHARE and error <= ERROR and conversions <= CONVERSIONS
        missed += [] if good else [name]
        seconds = f"{time.perf_counter() - start:.1f}"
        rows.append((name, f"{share:.4f}", f"{error:.1e}", str(conversions), seconds, "" if good else "misses"))
        print(table([rows[0], rows[-1]], right=(1, 2, 3, 4)).splitlines()[-1], flush=True)
    print(table(rows, right=(1, 2, 3, 4)))
    if missed:
        raise SystemExit(f"{len(missed)} miss the bounds: {', '.join(missed)}")


if __name__ == "__main__":
    main()
