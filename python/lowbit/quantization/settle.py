"""Which layers give up the form that the cost model likes best with calibration data, because the outputs pay for it.

Data make static ranges possible, and with them more layers are worth int8. What that costs shows at the outputs alone.
So forms of the whole graph are rehearsed beside that which it would have without data: the fastest is taken whose
outputs are hardly noisier, or which is so much faster that speed decides. Where data cost accuracy, layers that read
the model's input are tried in float32, too: noise that comes first is amplified most, and such layers gain little. And
where some layers must have ranges of their own for each sample, they are as few as the outputs bear, from the first on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..graph.ir import Array
from ..passes.functions import operands
from ..passes.layers import CONVOLUTIONS, LAYERS
from .fuse_requantize import MOVES_CODES
from .plan import Plan
from .row_ranges import decibels

WORSE = 0.12
"""How much noisier than without data outputs may be, as a share: 0.5 dB."""
LOST = 2.0
"""How many times as noisy as without data a rehearsed graph is that compensated rounding does not make good again."""
FASTER = 1.2
"""How many times faster than in the forms without data the model must be, by its costs, for speed to decide."""
GAINS = 1.02
"""How many times faster static ranges must be to be worth what samples unlike the calibration data may lose by them."""
SPARED = 0.1
"""What layers that read the model's input may take more in float32, at most, as a share of the whole time."""
WORTH = 20.0
"""Decibels of the outputs' noise that this must save for each such share: 1 dB for 5 %."""
LEAST = 0.5
"""Decibels that it must save at least."""


@dataclass(frozen=True, kw_only=True)
class Forms:
    """Layers that stay float32 and layers whose samples have ranges of their own, and why; a note on the others.

    without_data: whether the graph is better off as if there were no calibration data.
    """

    floats: Mapping[str, str] = field(default_factory=dict)
    dynamic: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    without_data: bool = False


Noise = Callable[[Forms], Array]
Time = Callable[[Forms], float]


def forms(plan: Plan, without: Plan) -> list[Forms]:
    """The forms to choose from, the fastest first: a plan with data, and two steps towards the one without."""
    layers = [node for node in plan.graph if node.op in LAYERS]
    coded, plain = plan.int8, without.int8
    floats = {
        node.name: "float32 as without data: in int8 it costs the outputs' accuracy more than it gains"
        for node in layers
        if node.name not in plain
    }
    dynamic = {
        node.name: "each sample has its own range as without data: one for all costs more accuracy than it gains"
        for node in layers
        if node.op in CONVOLUTIONS
    }
    found = [Forms()]
    if any(node.name in coded and node.name not in plain for node in layers):
        found.append(Forms(floats=floats))
    if any(node.name in coded - plan.dynamic for node in layers if node.op in CONVOLUTIONS):
        found.append(Forms(floats=floats, dynamic=dynamic))
    return found


def settle(
    candidates: Sequence[Forms], first: Sequence[str], without: Array, noise: Noise, microseconds: Time
) -> Forms:
    """The fastest of `candidates` that the outputs bear, or that speed is worth their noise; else the last.

    first: the int8 layers that read the model's input. without: the outputs' noise without data. noise, microseconds:
    of the outputs, and of the model, in these forms.
    """
    slowest = microseconds(candidates[-1])
    if slowest < GAINS * microseconds(candidates[0]):
        candidates = candidates[-1:]
    worse = ~(noise(candidates[0]) <= (1 + WORSE) * without)
    if not worse.any():
        return candidates[0]
    spared = _spared(candidates[0], first, lambda given: noise(given)[worse], microseconds)
    for each in candidates:
        tried = replace(each, floats={**spared, **each.floats})
        if each.dynamic:
            tried = _fewest_ranges(tried, lambda given: bool((noise(given) <= (1 + WORSE) * without).all()))
            if slowest < GAINS * microseconds(tried):
                tried = replace(each, floats={**spared, **each.floats})
        found = noise(tried)
        gain = slowest / max(microseconds(tried), 1e-9)
        if gain >= FASTER:
            note = f"the model is {gain:.1f} times faster so than in its forms without data, and the outputs' noise is "
            return replace(tried, note=f"{note}{decibels(float(found.max()))}, not {decibels(float(without.max()))}")
        if (found <= (1 + WORSE) * without).all():
            return tried
    return replace(candidates[-1], without_data=bool((noise(candidates[-1]) > LOST * without).any()))


def _fewest_ranges(forms: Forms, bears: Callable[[Forms], bool]) -> Forms:
    """`forms` with ranges of their own for as few layers as the outputs bear: those that come first, whose noise counts
    most and whose inputs are largest; all, if nothing less is borne."""
    names = list(forms.dynamic)

    def front(count: int) -> Forms:
        return replace(forms, dynamic={name: forms.dynamic[name] for name in names[:count]})

    low, high = 0, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bears(front(middle)) else (middle, high)
    return front(high)


def spare(first: Sequence[str], noise: Noise, microseconds: Time) -> Forms:
    """The only form there is, but for those of its `first` layers whose noise is worth their time in float32."""
    return Forms(floats=_spared(Forms(), first, noise, microseconds))


def _spared(forms: Forms, first: Sequence[str], noise: Noise, microseconds: Time) -> dict[str, str]:
    """`first` as layers that stay float32, where that costs little time and takes enough of the outputs' noise."""
    if not first:
        return {}
    tried = replace(forms, floats={**forms.floats, **dict.fromkeys(first, "float32")})
    cost = max(microseconds(tried) / max(microseconds(forms), 1e-9) - 1, 0.0)
    if cost > SPARED:
        return {}
    less = -10 * float(np.log10(np.maximum(noise(tried), 1e-30) / np.maximum(noise(forms), 1e-30)).max())
    if not less >= max(LEAST, WORTH * cost):
        return {}
    gains = f"makes the model {cost:.0%} faster, the outputs {less:.1f} dB worse"
    return dict.fromkeys(first, f"reads the model's input, where int8 {gains}")


def first_layers(plan: Plan) -> list[str]:
    """The int8 layers whose input is the model's, as it is or moved."""
    moved = set(plan.graph.inputs)
    for node in plan.graph:
        if node.op in MOVES_CODES and moved.issuperset(operands(plan.graph, node)):
            moved.update(node.outputs)
    return [
        node.name for node in plan.graph if node.name in plan.int8 and node.op in LAYERS and node.inputs[0] in moved
    ]
