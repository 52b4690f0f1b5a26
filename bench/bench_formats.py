"""What a weight format costs in error, bits and time: the table and the plot of docs/quantization.md.

    python bench/bench_formats.py [--layers 12] [--plot docs/formats.svg]

Error: of the weights of linear layers of all-MiniLM-L6-v2 after nearest rounding, sqrt(sum (w' - w)^2 / sum w^2),
without calibration data. Bits: of a weight in the file, scales included. Time: one row times 4096 x 4096 weights, one
thread, the range of the row found before, symmetric groups; what zero points take is not timed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from bench_minilm import encoder
from lowbit.graph.ir import Array, Graph, Node, Value, Weight
from lowbit.graph.weights import stored as as_stored
from lowbit.quantization.cost import MeasuredCosts
from lowbit.quantization.few_bits import group_size
from lowbit.quantization.round_groups import round_groups
from lowbit.quantization.round_weights import round_nearest

SIZE = 4096
FORMATS = {"int8": -1, "int4-channel": 0, "int4": 128, "int4-g64": 64, "int4-g32": 32}
"""The group size of each: -1 of eight bits, 0 for whole channels."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A format: its error, its bits a weight, and microseconds of a row."""

    name: str
    error: float
    bits: float
    time: float


def weights(count: int) -> list[Array]:
    """Of linear layers, evenly taken from the first to the last."""
    net, _ = encoder()
    found = [p.detach().numpy() for name, p in net.named_parameters() if p.ndim == 2 and "encoder" in name]
    return [found[i] for i in np.linspace(0, len(found) - 1, count).round().astype(int)]


def error_and_bits(layers: list[Array], group: int, symmetric: bool) -> tuple[float, float]:
    """After rounding all layers."""
    noise = signal = size = 0.0
    for weight in layers:
        if group < 0:
            codes = round_nearest(weight)
            rounded, stored = codes.weight, Weight(codes=codes.codes, scales=codes.scales.astype(np.float32))
        else:
            made = round_groups(weight, group_size(weight.shape[1], group), symmetric=symmetric)
            rounded, stored = made.weight, made.as_weight()
        noise += float(np.square(rounded - weight).sum())
        signal += float(np.square(weight, dtype=np.float64).sum())
        size += 8.0 * as_stored(stored).bytes
    return (noise / signal) ** 0.5, size / sum(weight.size for weight in layers)


def times() -> dict[int, float]:
    """By group size, microseconds of a row."""
    weight = np.zeros((SIZE, SIZE), np.float32)
    node = Node(op="linear", name="layer", inputs=("x", "w"), outputs=("y",))
    values = {name: Value(dtype="f32", shape=shape) for name, shape in (("x", (1, SIZE)), ("y", (1, SIZE)))}
    values["w"] = Value(dtype="f32", shape=weight.shape)
    graph = Graph(inputs=("x",), outputs=("y",), values=values, nodes=(node,), constants={"w": weight})
    costs = MeasuredCosts(graph, threads=1)
    sizes = {group: 0 if group < 0 else group_size(SIZE, group) for group in FORMATS.values()}
    return {group: costs.layer(node, dynamic=True, group_size=size).int8 for group, size in sizes.items()}


def points(layers: int) -> list[Point]:
    """All formats, symmetric and affine."""
    chosen, each = weights(layers), times()
    found = []
    for name, group in FORMATS.items():
        for symmetric in (True, False) if group >= 0 else (True,):
            error, bits = error_and_bits(chosen, group, symmetric)
            label = name if symmetric else f"{name}, affine"
            found.append(Point(name=label, error=error, bits=bits, time=each[group]))
    return found


def plot(found: list[Point]) -> str:
    """The four-bit formats: error over bits, their times beside them; of int8, which is far away, a line of text."""
    four = [point for point in found if point.bits < 8]
    low, high = 3.8, 4.9
    bottom, top = 0.9 * min(point.error for point in four), 1.08 * max(point.error for point in four)

    def x(bits: float) -> float:
        return 70 + 560 * (bits - low) / (high - low)

    def y(error: float) -> float:
        return 330 - 290 * (error - bottom) / (top - bottom)

    parts = ['<rect width="700" height="400" fill="#fff"/>']
    for step in range(5):
        value = bottom + (top - bottom) * step / 4
        parts.append(f'<line x1="70" x2="650" y1="{y(value):.0f}" y2="{y(value):.0f}" stroke="#d8dde3"/>')
        parts.append(f'<text x="62" y="{y(value) + 4:.0f}" text-anchor="end">{value:.1%}</text>')
    for bits in (4.0, 4.25, 4.5, 4.75):
        parts.append(f'<text x="{x(bits):.0f}" y="350" text-anchor="middle">{bits:g}</text>')
    for point in four:
        is_affine = "affine" in point.name
        colour, anchor, dx, dy = ("#c2671b", "end", -10, 16) if is_affine else ("#1f6feb", "start", 10, -6)
        parts.append(f'<circle cx="{x(point.bits):.0f}" cy="{y(point.error):.0f}" r="6" fill="{colour}"/>')
        label = f"{point.name.removesuffix(', affine')}: {point.time:.0f} us"
        place = f'x="{x(point.bits) + dx:.0f}" y="{y(point.error) + dy:.0f}" text-anchor="{anchor}"'
        parts.append(f"<text {place}>{escape(label)}</text>")
    eight = next(point for point in found if point.bits >= 8)
    note = f"int8: {eight.bits:.2f} bits, {eight.error:.1%}, {eight.time:.0f} us"
    parts.append(f'<text x="640" y="24" text-anchor="end">{escape(note)}</text>')
    parts.append('<circle cx="80" cy="20" r="6" fill="#1f6feb"/><text x="92" y="24">symmetric</text>')
    parts.append('<circle cx="180" cy="20" r="6" fill="#c2671b"/><text x="192" y="24">with zero points</text>')
    parts.append('<text x="360" y="380" text-anchor="middle">bits a weight in the file</text>')
    parts.append('<text x="18" y="190" text-anchor="middle" transform="rotate(-90 18 190)">error of the weights</text>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 400" font-family="sans-serif" font-size="13">'
    return f"{head}{''.join(parts)}</svg>\n"


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
