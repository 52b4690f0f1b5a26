"""Which linear layers find the range of each input row at run time although calibration data could fix one for all.

What a transformer's layers read has rows of unlike size and a few channels far wider than the rest: one range for all
wastes most codes. A range of its own for each row costs a pass over the row, which is little beside the product. And
since rows are touched anyway, channel k is multiplied by factor[k] first, and the weights for it are divided by it:

    x W^T = (x f) (W / f)^T

which moves the unlikeness of channels into the weights, where it harms less: these have a scale per output channel and
are rounded with compensation. The factors of least noise (`row_factors.py`) are made from a sample of rows, for all
layers that read a value together, and taken to the power that loses least on others. Where codes or weights share
scales in groups, the powers are those of the channels' root mean squares.

What factors leave of the widest channels still sets the range of all. So a few of them have several codes, each with
the channel's weights again: what the first code, which saturates, leaves of a value is the second one's, and the row's
range is that of the values over the number of their codes. This takes as much longer as there are more columns.

Sources: Xiao et al. 2023, "SmoothQuant" (arXiv:2211.10438), with measured strengths, and the root mean square instead
of the maximum where scales are shared in groups; Yao et al. 2022, "ZeroQuant" (arXiv:2206.01861) for ranges per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from ..graph.ir import Array, Graph, Node, Quant
from ..graph.weights import few_bits
from ..passes.functions import operands
from ..passes.layers import CONVOLUTIONS, SCANS
from .calibrate import quantized
from .layer_inputs import ROWS, UNKNOWN, coded_rows, spread_rows
from .plan import Plan
from .round_groups import round_groups
from .round_weights import LIMIT
from .row_factors import least_noise
from .schemes import Scheme

STRENGTHS = tuple(i / 8 for i in range(9))
SAMPLE = 1024
"""Rows of a value that strengths are measured on, at most."""
OUTPUTS = 768
"""Output channels that they are measured on, at most: an even share of all layers that read the value."""
COMPENSATED = 0.4
"""What compensated rounding leaves of the noise of nearest rounding, about, where it has seen many rows."""
GAINS = 1.02
"""How many times less noise factors must leave to be taken: what few rows show may be chance."""
FAINT = 0.1
"""Rows with less than this share of the median row's energy are taken to have it."""
LOUDNESS = 0.5
"""The power of a row's energy that its noise is weighed against: 1 would leave out rows of great norm, which the other
rows attend to, and 0 all others."""
COPIES = (64, 32, 16)
"""Of so many values of a row, one has a further code, if that pays."""
WORTH = 4.0
"""What the codes of a row grow by must be worth, as a share, so many times in the noise."""
WIDEST = 1e3
"""Channels narrower than the widest by more than this are treated as if by this."""


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """How rows of a value are quantized. noise: of its readers' outputs with these codes, static: with a fixed range.

    factors: float32 [K] that rows are multiplied by first, or None. copies: values that have one more code each. Noises
    are shares of the outputs' energy, row
    by row, so that the few rows of great norm that transformers make of separators do not decide.
    """

    factors: Array | None
    copies: tuple[int, ...] = ()
    noise: float = 0.0
    static: float = 0.0
    elements: int = 0
    """That a static range is from."""

    @property
    def reason(self) -> str:
        """For the report."""
        apart, together = decibels(self.noise), decibels(self.static)
        return f"each input row has its own range: noise {apart}, with one range for all {together}"


def candidates(plan: Plan) -> dict[str, list[Node]]:
    """The values whose int8 readers are linear layers with a choice, and these readers.

    What comes as codes from a convolution has none: a static range is needed on the way already.
    """
    found: dict[str, list[Node]] = {}
    for node in plan.graph:
        if node.op == "linear" and node.name in plan.int8 and _is_open(plan, node.inputs[0]):
            found.setdefault(node.inputs[0], []).append(node)
    return found


def _is_open(plan: Plan, value: str) -> bool:
    producer = plan.graph.producer(value)
    if producer is None or producer.name not in plan.int8 or producer.op in ("linear", *SCANS):
        return True
    return producer.op not in CONVOLUTIONS and all(_is_open(plan, name) for name in operands(plan.graph, producer))


def adds_floats(plan: Plan, layer: Node) -> bool:
    """Whether a layer's residual comes as floats: a static layer would round it to codes, which nobody else needs."""
    if len(layer.inputs) < 4 or not layer.inputs[3]:
        return False
    producer = plan.graph.producer(layer.inputs[3])
    return producer is None or producer.name not in plan.int8 or producer.op in SCANS


def survey(
    graph: Graph,
    samples: RowSamples,
    readers: Mapping[str, Sequence[Node]],
    quants: Mapping[str, Quant],
    schemes: Mapping[str, Scheme],
    *,
    groups: Mapping[str, int],
    activation_groups: Mapping[str, int],
) -> dict[str, RowRange]:
    """How the rows of each value in `readers` are best quantized, and how much better than by its range in `quants`.

    samples: of these values. schemes: of each value's readers. groups: the group sizes of four-bit weights, by reader.
    activation_groups: those of what readers read.
    """
    made: dict[str, RowRange] = {}
    for name, nodes in readers.items():
        sample = samples.of.pop(name)
        x, seen, weights, scheme = sample.rows(), sample.seen, _stack(graph, nodes), schemes[name]
        strengths = STRENGTHS if scheme.smooth and seen >= UNKNOWN else (0.0,)
        size = max(groups.get(node.name, 0) for node in nodes)
        group = max(activation_groups.get(node.name, 0) for node in nodes)
        search = _Search(
            x=x,
            weights=weights,
            share=_left(seen, x.shape[1]) if scheme.compensate else 1.0,
            rounded=partial(_nearest_of_groups, size=size, scheme=scheme) if size else _nearest,
            coded=partial(coded_rows, group_size=group),
            is_plain=not size and not group,
        )
        counts = [x.shape[1] // each for each in COPIES] if len(strengths) > 1 and search.is_plain else []
        found = search.best(strengths, sorted({0, *counts}))
        static = search.share_of((quantized(x, quants[name]).astype(np.float32) - x) @ weights.T)
        made[name] = replace(found, static=static, elements=seen * x.shape[1])
    return made


def decibels(noise: float) -> str:
    """A noise, as a share of the signal, for people."""
    return f"{10 * np.log10(max(noise, 1e-20)):.0f} dB"


class RowSamples:
    """Rows of some values."""

    def __init__(self, names: Iterable[str]) -> None:
        self.of = {name: _Sample() for name in names}

    def needs(self) -> Sequence[str]:
        """The values."""
        return list(self.of)

    def add(self, found: Mapping[str, Array]) -> None:
        """Take in one piece."""
        for name, sample in self.of.items():
            sample.add(found[name])


class _Sample:
    """An even share of the rows of all batches, `SAMPLE` at most; the same for the same batches."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._places, self._count = ROWS, 0
        self.seen = 0
        """Rows of all batches."""

    def add(self, x: Array) -> None:
        whole = x.reshape(-1, x.shape[-1])
        rows = spread_rows(whole, self._places)
        self.seen += len(whole)
        self._parts.append(rows)
        self._count += len(rows)
        while self._count > SAMPLE:  # from here on half as many of each batch
            self._places = max(self._places // 2, 1)
            self._parts = [spread_rows(part, -(-len(part) // 2)) for part in self._parts]
            if sum(map(len, self._parts)) == self._count:
                self._parts = self._parts[::2]
            self._count = sum(map(len, self._parts))

    def rows(self) -> Array:
        return np.concatenate(self._parts)


def _stack(graph: Graph, nodes: Sequence[Node]) -> Array:
    """Rows of the readers' weights, float32 [outputs, K]."""
    whole = np.concatenate([np.asarray(graph.constants[node.inputs[1]], np.float32) for node in nodes])
    return spread_rows(whole, OUTPUTS)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """Looks for the codes of rows x [rows, K] that leave least noise in what `weights` [outputs, K] make of them.

    share: of nearest rounding's noise that weights keep. rounded: what weights become. coded: what rows become.
    is_plain: whether all of a row, and all of an output's weights, have one scale.
    """

    x: Array
    weights: Array
    share: float
    rounded: Callable[[Array], Array]
    coded: Callable[..., Array]
    is_plain: bool

    def best(self, strengths: Sequence[float], counts: Sequence[int]) -> RowRange:
        """Of these strengths and numbers of further codes."""
        # Rows that factors were made from flatter them: each half of the rows judges the factors of the other.
        odd, even, everywhere = slice(1, None, 2), slice(0, None, 2), slice(None)
        costs: dict[tuple[int, float], float] = {}
        for count in counts:
            for made, judges in ((even, odd), (odd, even)):
                copies = copies_of(self.x[made], count)
                logs = self._logs(made, copies) if any(strengths) else np.zeros(self.x.shape[1])
                for strength in strengths:
                    cost = self._cost(_factors(logs, strength), copies, judges)
                    costs[count, strength] = costs.get((count, strength), 0.0) + cost
        least = {key: cost * (1 + WORTH * key[0] / self.x.shape[1]) for key, cost in costs.items()}
        least[0, 0.0] /= GAINS
        count, strength = min(least, key=least.__getitem__)
        copies = copies_of(self.x, count)
        factors = _factors(self._logs(everywhere, copies), strength) if strength else None
        noise = self.share_of(self._noise(factors, copies, everywhere))
        return RowRange(factors=factors, copies=copies, noise=noise)

    def share_of(self, error: Array, rows: slice = slice(None)) -> float:
        """Of the outputs' energy, row by row."""
        return float((np.square(error, dtype=np.float64).sum(axis=1) / self._signals[rows]).mean())

    def _weighed(self, error: Array, rows: slice) -> float:
        """The noise of the outputs as each row's is worth."""
        return float((np.square(error, dtype=np.float64).sum(axis=1) * self._worth[rows]).mean())

    @cached_property
    def _worth(self) -> Array:
        worth: Array = self._signals**-LOUDNESS
        return worth

    @cached_property
    def _signals(self) -> Array:
        energies = np.square(self.x @ self.weights.T, dtype=np.float64).sum(axis=1)
        signals: Array = np.maximum(energies, FAINT * float(np.median(energies)) + 1e-30)
        return signals

    def _logs(self, rows: slice, copies: Sequence[int]) -> Array:
        """Of the factors of strength 1 that these rows ask for: as far as so few may be believed."""
        x = self.x[rows]
        if self.is_plain:
            codes = 1 + np.bincount(np.array(copies, np.int64), minlength=x.shape[1])
            logs = least_noise(x, self.weights, self._worth[rows], self.share, codes)
        else:
            logs = flat_channels(x)
        made: Array = logs * (len(self.x) / (len(self.x) + UNKNOWN))
        return made

    def _noise(self, factors: Array | None, copies: Sequence[int], rows: slice) -> Array:
        """In the outputs, of the rows' codes."""
        x = self.x[rows]
        noise: Array = (self.coded(x, factors, copies=copies) - x) @ self.weights.T
        return noise

    def _cost(self, factors: Array | None, copies: Sequence[int], rows: slice) -> float:
        scaled = self.weights if factors is None else self.weights / factors
        error = ((self.rounded(scaled) - scaled) * (1.0 if factors is None else factors)).astype(np.float32)
        of_weights = self._weighed(self.x[rows] @ error.T, rows)
        return self._weighed(self._noise(factors, copies, rows), rows) + self.share * of_weights


def _factors(logs: Array, strength: float) -> Array | None:
    """exp(strength * logs), float32 with a geometric mean of 1; None if it is 1 everywhere."""
    if not (strength * logs).any():
        return None
    factors: Array = np.exp(strength * (logs - logs.mean())).astype(np.float32)
    return factors


def copies_of(x: Array, count: int) -> tuple[int, ...]:
    """So many values of the rows x [rows, K], one after another those that set most rows' ranges as it stands."""
    scaled = np.abs(x)
    shares = scaled / np.maximum(scaled.max(axis=1, keepdims=True, initial=0.0), np.finfo(np.float32).tiny)
    wide = np.argsort(-shares.max(axis=0, initial=0.0), kind="stable")[: 2 * count]
    left, codes = scaled[:, wide], np.ones(len(wide), np.float32)
    copies: list[int] = []
    bounds = left.copy()
    for _ in range(count):
        chosen = int(np.bincount(bounds.argmax(axis=1), minlength=len(wide)).argmax())
        codes[chosen] += 1
        bounds[:, chosen] = left[:, chosen] / codes[chosen]
        copies.append(int(wide[chosen]))
    return tuple(sorted(copies))


def _left(rows: int, depth: int) -> float:
    """The share of nearest rounding's noise that compensation leaves, which knows little if it has seen few rows."""
    return (COMPENSATED * rows + depth) / (rows + depth)


def _nearest(weights: Array) -> Array:
    scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / LIMIT
    rounded: Array = np.rint(weights / scales) * scales
    return rounded


def _nearest_of_groups(weights: Array, size: int, scheme: Scheme) -> Array:
    bits = scheme.weight_bits if scheme.weight_bits in few_bits() else 4  # codes that came are of no scheme
    return round_groups(weights, size, symmetric=scheme.symmetric, bits=bits, levels=scheme.levels).weight


def flat_channels(x: Array) -> Array:
    """log f of the factors f that make the channels of rows x [rows, K] alike: 1 / rms."""
    rms = np.sqrt(np.square(x, dtype=np.float64).mean(axis=0))
    widest = float(rms.max(initial=0.0))
    logs: Array = -np.log(np.maximum(rms, widest / WIDEST)) if widest > 0 else np.zeros(len(rms))
    return logs
