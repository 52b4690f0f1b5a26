"""What a weight format costs in error, bits and time: the table and the plot of docs/quantization.md.

    python bench/bench_formats.py [--layers 12] [--plot docs/formats.svg]

Error: of the weights of linear layers of all-MiniLM-L6-v2, sqrt(sum (w' - w)^2 / sum w^2), rounded as schemes round
without calibration data. Bits: of a weight in the file, scales included. Time: one row times 4096 x 4096 weights, one
thread, the range of the row found before, symmetric groups; formats of one family of kernels share it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench_minilm import encoder
from lowbit.graph.ir import Array, Graph, Node, Value, Weight
from lowbit.graph.weights import stored as as_stored
from lowbit.quantization.code_tables import round_to_values
from lowbit.quantization.cost import MeasuredCosts
from lowbit.quantization.few_bits import group_size
from lowbit.quantization.round_groups import round_by
from lowbit.quantization.round_weights import round_nearest
from lowbit.quantization.schemes import SCHEMES, Scheme
from plots import curves

SIZE = 4096
READ_AS = {1: 2, 3: 4}
"""Bits in memory of codes that have fewer in the file."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A format: its error, its bits a weight, and microseconds of a row."""

    name: str
    error: float
    bits: float
    time: float

    @property
    def family(self) -> str:
        """Its name without the size of groups."""
        return self.name.replace("-channel", "").replace("-g64", "").replace("-g32", "")


def formats() -> Iterator[Scheme]:
    """Those that schemes name, and four bits with offsets."""
    for scheme in SCHEMES.values():
        if not scheme.is_float:
            yield scheme
        if scheme.name.startswith("int4"):
            yield replace(scheme, name=f"{scheme.name} with offsets", symmetric=False)


def weights(count: int) -> list[Array]:
    """Of linear layers, evenly taken from the first to the last."""
    net, _ = encoder()
    found = [p.detach().numpy() for name, p in net.named_parameters() if p.ndim == 2 and "encoder" in name]
    return [found[i] for i in np.linspace(0, len(found) - 1, count).round().astype(int)]


def rounded(weight: Array, scheme: Scheme) -> tuple[Array, Weight]:
    """The numbers, and what the file holds."""
    if scheme.values or scheme.weight_bits == 8:
        codes = round_to_values(weight, scheme.values) if scheme.values else round_nearest(weight)
        return codes.weight, codes.as_weight()
    made = round_by(scheme, weight, group_size(weight.shape[1], scheme.group_size))
    return made.weight, made.as_weight()


def error_and_bits(layers: list[Array], scheme: Scheme) -> tuple[float, float]:
    """After rounding all layers."""
    noise = signal = size = 0.0
    for weight in layers:
        numbers, held = rounded(weight, scheme)
        noise += float(np.square(numbers - weight).sum())
        signal += float(np.square(weight, dtype=np.float64).sum())
        size += 8.0 * as_stored(held).bytes
    return (noise / signal) ** 0.5, size / sum(weight.size for weight in layers)


class Times:
    """Microseconds of a row, measured once for each kernel and size of groups."""

    def __init__(self) -> None:
        weight = np.zeros((SIZE, SIZE), np.float32)
        self._node = Node(op="linear", name="layer", inputs=("x", "w"), outputs=("y",))
        values = {name: Value(dtype="f32", shape=shape) for name, shape in (("x", (1, SIZE)), ("y", (1, SIZE)))}
        values["w"] = Value(dtype="f32", shape=weight.shape)
        nodes, constants = (self._node,), {"w": weight}
        graph = Graph(inputs=("x",), outputs=("y",), values=values, nodes=nodes, constants=constants)
        self._costs = MeasuredCosts(graph, threads=1)

    def of(self, scheme: Scheme) -> float:
        """With the weights that a scheme makes."""
        if scheme.values or scheme.weight_bits == 8:
            return self._costs.layer(self._node, dynamic=True).int8
        bits, size = scheme.weight_bits, group_size(SIZE, scheme.group_size)
        return self._costs.layer(self._node, dynamic=True, group_size=size, bits=READ_AS.get(bits, bits)).int8


def points(layers: int) -> list[Point]:
    """All formats."""
    chosen, times = weights(layers), Times()
    found = []
    for scheme in formats():
        error, bits = error_and_bits(chosen, scheme)
        found.append(Point(name=scheme.name, error=error, bits=bits, time=times.of(scheme)))
    return found


def plot(found: list[Point]) -> str:
    """Error over bits of all formats but int8, a line for each family; tables of values that do alike are one dot."""
    families: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for point in sorted(found, key=lambda point: point.bits):
        if point.bits < 8:
            families[point.family].append((point.bits, 100 * point.error))
    alike: dict[tuple[tuple[float, ...], ...], list[str]] = defaultdict(list)
    for name, values in families.items():
        alike[tuple((round(bits, 2), round(error)) for bits, error in values)].append(name)
    series = {", ".join(names): families[names[0]] for names in alike.values()}
    title = "Error of the weights in % over bits a weight in the file; along a line: one group a channel, 128, 64, 32"
    return curves(series, title, ticks=(5, 10, 20, 50, 100), marks=(1, 2, 3, 4, 5))


def main() -> None:
    """Print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args()
    found = points(options.layers)
    print("| format | bits a weight | error | us, a row of 4096 x 4096 |\n|---|---:|---:|---:|")
    for point in found:
        print(f"| {point.name} | {point.bits:.3f} | {point.error:.2%} | {point.time:.0f} |")
    if options.plot is not None:
        options.plot.write_text(plot(found), encoding="utf-8")


if __name__ == "__main__":
    main()
