"""What layers cost here, in int8 and float32: measures random ones, and fits the figures of `quantization/rates.py`.

    python bench/fit_costs.py [--isa avx2] [--count 300] [--save costs.json]

A layer alone is timed as a step of a profile, so without changes of memory layout. Weights are drawn from a normal
distribution, for kernels may depend on how many are large. Times are sums over what a layer
does (`rates.counts`), each with a factor that is not negative; factors minimise the squared relative error. Printed are
the factors, as nanoseconds, how far the model is from what was measured (one standard deviation), and how the rule that
decides about int8 does on these layers.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowbit import _core
from lowbit.graph.ir import Graph, Weight
from lowbit.quantization import rates
from lowbit.quantization.cost import alone, usual_codes
from lowbit.runtime.session import Session

SECONDS = 0.012
"""Of one layer in one form, about."""
FORMS = ("int8", "dynamic", "float32")
KINDS = "first,pointwise,pointwise,window,window,depthwise,depthwise,grouped,linear"
"""Of layers, as often as they are drawn: a first one, 1x1, 3x3 to 7x7, depthwise or grouped convolution, a product."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A float layer's operator, the shapes of its input and weight, and its geometry."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    attrs: dict[str, Any]

    def graph(self, form: str) -> Graph:
        """The layer alone, in one of `FORMS`."""
        rng = np.random.default_rng(0)
        channels = rng.uniform(5e-4, 2e-3, self.w[0]).astype(np.float32)
        if form == "float32":
            w = rng.standard_normal(self.w).astype(np.float32)
            return alone(self.op, self.attrs, np.zeros(self.x, np.float32), w, channels)
        codes = Weight(codes=usual_codes(rng, self.w), scales=np.ones(self.w[0], np.float32))
        attrs = {**self.attrs, "zero_point_x": 128, "zero_point_y": 128, "output": "u8" if form == "int8" else "f32"}
        return alone(f"quantized_{self.op}", attrs, np.zeros(self.x, np.uint8), codes, channels, channels)


def seconds(graph: Graph, isa: str) -> tuple[float, str]:
    """The least median of the step's time in three profiles, and its kernel."""
    session = Session(graph, threads=1, isa=isa)
    value = graph.values["x"]
    rng, shape = np.random.default_rng(1), tuple(int(dim) for dim in value.shape)
    drawn = rng.standard_normal(shape).astype(np.float32)
    x = drawn if value.dtype == "f32" else np.clip(128 + 40 * drawn, 0, 255).astype(np.uint8)

    def once(repeats: int) -> tuple[float, str]:
        return next((row.seconds, row.kernel) for row in session.profile(x, repeats=repeats) if row.node == "probe")

    repeats = max(3, min(300, round(SECONDS / 3 / max(once(2)[0], 1e-7))))
    return min(once(repeats) for _ in range(3))


def draw(rng: np.random.Generator, most: float, kinds: Sequence[str]) -> Layer:
    """One of `KINDS`: a convolution or a product of less than `most` multiply-adds."""
    while True:
        kind = rng.choice(kinds)
        if kind == "linear":
            rows, depth, outputs = (int(2 ** rng.uniform(*limits)) for limits in ((0, 9), (3, 11), (2, 11)))
            layer = Layer(op="linear", x=(rows, depth), w=(outputs, depth), attrs={})
        else:
            size, stride = int(2 ** rng.uniform(2.5, 7)), int(rng.integers(1, 3))
            channels, outputs = (int(2 ** rng.uniform(2, 9)) // 4 * 4 for _ in range(2))
            kernel, groups = (1 if kind == "pointwise" else int(rng.choice([3, 3, 3, 5, 7]))), 1
            if kind == "first":
                channels, size, kernel = int(rng.choice([1, 3, 3, 3, 4])), size * 3, int(rng.integers(3, 8))
                outputs = int(rng.choice([8, 12, 16, 24, 32, 48, 64]))
            if kind == "depthwise":
                groups = outputs = channels
            if kind == "grouped":
                groups = int(rng.choice([2, 4]))
            attrs = {
                "stride": (stride,) * 2,
                "padding": (kernel // 2,) * 4,
                "dilation": (1, 1),
                "groups": groups,
            }
            w = (outputs, channels // groups, kernel, kernel)
            layer = Layer(op="conv2d", x=(1, channels, size, size), w=w, attrs=attrs)
        if work(layer) < most:
            return layer


def outputs(layer: Layer) -> tuple[int, ...]:
    """The shape of what a layer makes."""
    graph = layer.graph("float32")
    return tuple(int(dim) for dim in graph.values[graph.outputs[0]].shape)


def work(layer: Layer) -> int:
    """Multiply-adds."""
    y = layer.x[:-1] if layer.op == "linear" else (1, *(-(-size // layer.attrs["stride"][0]) for size in layer.x[2:]))
    return math.prod(layer.w) * math.prod(y)


def counts(layer: Layer, form: str, kind: str, isa: str) -> npt.NDArray[np.float64]:
    """What the layer does, as the model counts it."""
    y = outputs(layer)
    if kind == "filtered":
        return np.array(rates.tile_counts(layer.x, layer.w, y, form=form), float)
    pixels, joined = math.prod(y) // layer.w[0], rates.RATES[isa].joined
    return np.array(rates.counts(layer.x, layer.w, y, layer.attrs, pixels=pixels, form=form, joined=joined), float)


def family(layer: Layer, kernel: str) -> str:
    """Which factors hold for the layer where that kernel runs it."""
    if "winograd" in kernel:
        return "filtered"
    if kernel == "avx2_8x8":
        return "paired"
    return "depthwise" if rates.is_depthwise(layer.w, layer.attrs.get("groups", 1)) else "dense"


def measure(isa: str, count: int, seed: int, most: float, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Random layers, with their times in every form."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        layer = draw(rng, most, kinds)
        taken = {form: seconds(layer.graph(form), isa) for form in FORMS}
        found.append({"op": layer.op, "x": layer.x, "w": layer.w, "attrs": layer.attrs, "taken": taken})
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {count}", end="", file=sys.stderr)
    return found


def fit(rows: npt.NDArray[np.float64], taken: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Factors >= 0 of the counts' columns, for the least squared relative error: one after another, in turn."""
    scale = np.maximum(rows.max(axis=0), 1e-12)
    relative = rows / scale / taken[:, None]
    products, aims = relative.T @ relative, relative.sum(axis=0)
    factors = np.zeros(len(aims))
    for _ in range(20_000):
        for j in np.flatnonzero(products.diagonal()):
            factors[j] = max(0.0, factors[j] - (products[j] @ factors - aims[j]) / products[j, j])
    return np.asarray(factors / scale)


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default=_core.cpu()["default_isa"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--most", type=float, default=40e6, help="multiply-adds of a layer")
    parser.add_argument("--kinds", default=KINDS, help="of layers, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="write what was measured there")
    parser.add_argument("--load", type=Path, nargs="*", default=[], help="read what was measured before instead")
    options = parser.parse_args()
    rows = [row for path in options.load for row in json.loads(path.read_text())]
    if not rows:
        rows = measure(options.isa, options.count, options.seed, options.most, options.kinds.split(","))
    if options.save:
        options.save.write_text(json.dumps(rows))
    layers = [Layer(op=row["op"], x=tuple(row["x"]), w=tuple(row["w"]), attrs=row["attrs"]) for row in rows]
    estimates: dict[str, npt.NDArray[np.float64]] = {form: np.zeros(len(rows)) for form in FORMS}
    times = {form: np.array([row["taken"][form][0] * 1e9 for row in rows]) for form in FORMS}
    for name in ("dense", "paired", "filtered", "depthwise"):
        for form in FORMS:
            kinds = [family(layer, row["taken"][form][1]) for layer, row in zip(layers, rows, strict=True)]
            chosen = np.array([kind == name for kind in kinds])
            if not chosen.any():
                continue
            table = np.array([counts(layer, form, name, options.isa) for layer in np.array(layers, object)[chosen]])
            factors = fit(table, times[form][chosen])
            estimates[form][chosen] = table @ factors
            off = np.log2(estimates[form][chosen] / times[form][chosen]).std()
            near = ", ".join(f"{factor:.3g}" for factor in factors)
            print(f'"{form}": ({near}),  # {options.isa}, {chosen.sum()} {name} layers, off by 2^{off:.2f}')
    for form in FORMS[:-1]:
        print(judge(times[form], times["float32"], estimates[form], estimates["float32"]), form)


def judge(coded: Any, floats: Any, coded_estimate: Any, float_estimate: Any) -> str:
    """How the rule does: what it takes for faster, how often and how far that is wrong, and what it leaves unused."""
    taken = coded_estimate * rates.MARGIN < float_estimate
    wrong = taken & (coded > floats)
    worst = (coded / floats)[wrong].max(initial=1.0)
    gains = np.maximum(floats - coded, 0)
    missed = gains[~taken].sum() / max(gains.sum(), 1e-9)
    slower = coded[taken].sum() / max(floats[taken].sum(), 1e-9)
    return (
        f"{taken.sum()} of {len(taken)} taken, {slower:.2f} of their float32's time; {wrong.sum()} are slower, at most "
        f"{worst:.2f} times; {missed:.1%} of what int8 could gain is not taken:"
    )


if __name__ == "__main__":
    main()
