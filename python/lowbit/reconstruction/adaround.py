"""Learns, block by block, which way each weight of few bits is rounded: what a block makes shall stay float32's.

A weight is s * (floor(w / s) + h(v)), h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1), and v is learned by gradients of the
error behind the block, when what goes in is what the integer graph gives it, blocks before it as they were learned. A
regularizer, the mean of 1 - |2 h - 1|^b with a falling b, drives each h to 0 or 1. Scales and biases are learned, too,
at last with the codes fixed. A block that is no better in the end than it was keeps what it had.

Sources: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization" (arXiv:2004.10568); Li
et al. 2021, "BRECQ" (arXiv:2102.05426), of blocks; Wei et al. 2022, "QDrop" (arXiv:2203.05740), of mixed inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..graph.ir import Array, Graph, Node, Quant
from ..passes.layers import LAYERS
from ..quantization.calibrate import Feeds, Progress
from ..quantization.emit import integer_graph
from ..quantization.fuse_requantize import IntegerLayer
from ..quantization.plan import Plan
from ..quantization.round_groups import GroupCodes
from ..quantization.round_weights import Codes
from .blocks import Block, blocks
from .examples import Examples, examples
from .torch_nodes import can_compute, compute, finished, product

Ends = tuple[int, int]
"""The lowest and the highest code."""

STEPS = 200
BATCH = 8
RATE, BIAS_RATE, SCALE_RATE = 0.1, 0.003, 0.001
"""Of v; of biases, in standard deviations of what a layer makes; of the logarithms of scales."""
WARM, FIXED = 0.15, 0.8
"""The share of the steps from which on codes are driven to whole numbers, and from which on they are whole."""
PULL = 5.0
"""Of the regularizer, where nearest codes' error is 1."""
POWERS = 20.0, 2.0
"""b, first and last."""
CODED = 0.5
"""The share of input elements that are what codes stand for; the others are floats."""
AT_ONCE = 32


def reconstruct(
    plan: Plan,
    quants: Mapping[str, Quant],
    layers: Mapping[str, IntegerLayer],
    learned: Mapping[str, Ends],
    calibration: Iterable[Feeds],
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, IntegerLayer]:
    """The layers of a plan with codes, scales and biases as they were learned.

    quants: of all values that are stored as codes. learned: the layers whose rounding is to be learned, from what they
    have. seed: of what is drawn; the same seed gives the same layers.
    """
    graph, found = plan.graph, dict(layers)
    random = np.random.default_rng(seed)
    chosen = [
        block
        for block in blocks(graph)
        if any(node.name in learned for node in block.layers) and all(can_compute(graph, node) for node in block.nodes)
    ]
    for place, block in enumerate(chosen):
        integer = integer_graph(plan, quants, found, {})
        data = examples(graph, integer, block, quants, calibration, random, threads)
        if data is not None:
            with torch.inference_mode(False), torch.enable_grad():
                found |= _Learner(graph, block, quants, found, learned, data, int(random.integers(2**31))).learn()
        if progress is not None:
            progress("reconstruct", place + 1, len(chosen))
    return found


# -------------------------------------------------------------------------------------------------------------- weights


class _Rounding:
    """A weight of few bits whose rounding is learned, in rows of groups."""

    def __init__(self, weight: Array, start: GroupCodes, ends: Ends) -> None:
        self._start, self._ends = start, ends
        moved = np.moveaxis(weight, 1, -1)
        self._shape = moved.shape
        groups = moved.reshape(*start.scales.shape, -1).astype(np.float64)
        codes = groups / start.scales[..., None] + start.zeros[..., None]
        floor = np.clip(np.floor(codes), *ends)
        given = np.clip(start.codes.reshape(groups.shape) - floor, 0, 1)
        share = (0.5 * np.clip(codes - floor, 0, 1) + 0.5 * given).clip(0.02, 0.98) / 1.2 + 0.1 / 1.2
        self.v = _tensor(np.log(share / (1 - share))).requires_grad_()
        self.width = torch.zeros(start.scales[..., None].shape, requires_grad=True)
        self._floor, self._scales, self._zeros = map(_tensor, (floor, start.scales[..., None], start.zeros[..., None]))
        self._kept = _tensor(groups) == 0 if start.offsets is None else None

    def shares(self) -> Tensor:
        """h."""
        return torch.clamp(1.2 * torch.sigmoid(self.v) - 0.1, 0, 1)

    def weight(self, *, whole: bool) -> Tensor:
        """The numbers, in the weight's shape; whole: of codes as they would be now."""
        real = (self._codes(whole=whole) - self._zeros) * self._scales * torch.exp(self.width)
        return real.reshape(self._shape).movedim(-1, 1)

    def _codes(self, *, whole: bool) -> Tensor:
        shares = (self.shares() >= 0.5).float() if whole else self.shares()
        codes = torch.clamp(self._floor + shares, *self._ends)
        return codes if self._kept is None else torch.where(self._kept, self._zeros, codes)  # pruned weights stay zero

    def finish(self) -> GroupCodes:
        """As codes."""
        codes = self._codes(whole=True).detach().numpy().astype(np.int8).reshape(self._start.codes.shape)
        wider = torch.exp(self.width.detach()).numpy()[..., 0].astype(np.float64)
        scales, offsets = _half(self._start.scales * wider), self._start.offsets
        offsets = None if offsets is None else _half(offsets * wider)
        return dataclasses.replace(self._start, codes=codes, scales=scales, offsets=offsets)


def _half(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float64)


def _tensor(x: Array) -> Tensor:
    return torch.tensor(np.asarray(x, np.float32))


# --------------------------------------------------------------------------------------------------------------- layers


class _Layer:
    """A layer on codes: of its weight the rounding is learned, or nothing; its bias in any case."""

    def __init__(self, weight: Array, start: IntegerLayer, ends: Ends | None, deviation: float) -> None:
        self._start, self._deviation = start, deviation
        factors = None if start.factors is None else np.asarray(start.factors, np.float64)
        self._factors = None if factors is None else _tensor(factors)
        self._fixed = self._scaled(_tensor(start.codes.weight))
        self._bias = _tensor(start.bias)
        self.shift = torch.zeros_like(self._bias).requires_grad_()
        self.rounding = None
        if ends is not None and isinstance(start.codes, GroupCodes):
            even = weight if factors is None else weight / factors
            self.rounding = _Rounding(even, start.codes, ends)

    def _scaled(self, weight: Tensor) -> Tensor:
        return weight if self._factors is None else weight * self._factors

    def constants(self, state: str) -> tuple[Tensor, Tensor]:
        """Weight and bias: at the "start", "soft" as they are learned, or "whole"."""
        if state == "start":
            return self._fixed, self._bias
        weight = self._fixed
        if self.rounding is not None:
            weight = self._scaled(self.rounding.weight(whole=state == "whole"))
        return weight, self._bias + self.shift * self._deviation

    def finish(self) -> IntegerLayer:
        """As codes."""
        bias = self._start.bias + self.shift.detach().numpy().astype(np.float64) * self._deviation
        codes: Codes | GroupCodes = self._start.codes if self.rounding is None else self.rounding.finish()
        return dataclasses.replace(self._start, codes=codes, bias=bias)


def _rounded(x: Tensor, quant: Quant) -> Tensor:
    """What the codes of x stand for; gradients pass where x is in range."""
    scale, zero = float(quant.scale), int(quant.zero_point)
    inside = torch.clamp(x, -zero * scale, (255 - zero) * scale)
    return inside + (torch.round(inside / scale) * scale - inside).detach()


# --------------------------------------------------------------------------------------------------------------- blocks


class _Learner:
    """A block, what it meets and what it shall make."""

    def __init__(
        self,
        graph: Graph,
        block: Block,
        quants: Mapping[str, Quant],
        layers: Mapping[str, IntegerLayer],
        learned: Mapping[str, Ends],
        data: Examples,
        seed: int,
    ) -> None:
        self._block, self._quants, self._data = block, quants, data
        self._random = torch.Generator().manual_seed(seed)
        read = dict.fromkeys(name for node in block.nodes for name in node.inputs if name in graph.constants)
        self._constants = {name: _tensor(np.asarray(graph.constants[name])) for name in read}
        self._deviations: dict[str, float] = {}
        self._layers: dict[str, _Layer] = {}
        with torch.no_grad():
            self._target = torch.cat([self._run(part, "float") for part in _parts(data.floats, data.count)])
        self._layers = {
            node.name: _Layer(
                np.asarray(graph.constants[node.inputs[1]]),
                layers[node.name],
                learned.get(node.name),
                self._deviations[node.name],
            )
            for node in block.layers
            if node.name in layers
        }

    def learn(self) -> dict[str, IntegerLayer]:
        """The block's layers as learned; none if they were better before."""
        before = self.loss("start")
        if not before > 0:
            return {}
        roundings = [layer.rounding for layer in self._layers.values() if layer.rounding is not None]
        groups = [
            {"params": [each.v for each in roundings], "lr": RATE},
            {"params": [each.width for each in roundings], "lr": SCALE_RATE},
            {"params": [layer.shift for layer in self._layers.values()], "lr": BIAS_RATE},
        ]
        optimizer = torch.optim.Adam(groups)
        for step in range(STEPS):
            done = step / STEPS
            is_whole = done >= FIXED
            chosen = torch.randint(self._data.count, (BATCH,), generator=self._random)
            made = self._run(self._mixed(chosen), "whole" if is_whole else "soft")
            loss = torch.square(made - self._target[chosen]).mean() / before
            if WARM <= done < FIXED:
                power = POWERS[0] + (POWERS[1] - POWERS[0]) * (done - WARM) / (FIXED - WARM)
                loss = loss + PULL * _undecided(roundings, power)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for group, rate in zip(optimizer.param_groups[1:], (SCALE_RATE, BIAS_RATE), strict=True):
                group["lr"] = rate * (1 - done)
        if not self.loss("whole") < before:
            return {}
        return {name: layer.finish() for name, layer in self._layers.items()}

    def loss(self, state: str) -> float:
        """The mean squared error of what the block makes of codes."""
        parts = zip(_parts(self._data.coded, self._data.count), self._target.split(AT_ONCE), strict=True)
        with torch.no_grad():
            errors = [float(torch.square(self._run(part, state) - target).sum()) for part, target in parts]
        return sum(errors) / self._target.numel()

    def _mixed(self, chosen: Tensor) -> dict[str, Tensor]:
        """Some samples, their elements as codes or as floats."""
        made = {}
        for name, coded in self._data.coded.items():
            part = coded[chosen]
            if part.is_floating_point():
                is_coded = torch.rand(part.shape, generator=self._random) < CODED
                part = torch.where(is_coded, part, self._data.floats[name][chosen])
            made[name] = part
        return made

    def _run(self, inputs: Mapping[str, Tensor], state: str) -> Tensor:
        """What the block makes in a state of its layers; "float": as in the float graph."""
        values = {**self._constants, **inputs}
        for node in self._block.nodes:
            if node.op in LAYERS:
                made = self._layer(node, values, state)
            else:
                made = compute(node, [values[name] for name in node.inputs if name])
            out = node.outputs[0]
            if state != "float" and out in self._quants and out != self._block.output:
                made = _rounded(made, self._quants[out])
            values[out] = made
        return values[self._block.output]

    def _layer(self, node: Node, values: Mapping[str, Tensor], state: str) -> Tensor:
        x, name, bias, residual, *_ = (*node.inputs, "", "", "")
        weight, added = values[name], values[bias] if bias else None
        if node.name in self._layers:
            weight, added = self._layers[node.name].constants(state)
        made = product(node, values[x], weight, added)
        self._deviations.setdefault(node.name, float(made.detach().std()) or 1.0)
        return finished(node, made, values[residual] if residual else None)


def _undecided(roundings: Sequence[_Rounding], power: float) -> Tensor:
    """The mean of 1 - |2 h - 1|^b."""
    shares = [each.shares() for each in roundings]
    total = torch.stack([(1 - torch.abs(2 * part - 1) ** power).sum() for part in shares]).sum()
    return total / sum(part.numel() for part in shares)


def _parts(values: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The samples, `AT_ONCE` at a time."""
    return [
        {name: each[begin : begin + AT_ONCE] for name, each in values.items()} for begin in range(0, count, AT_ONCE)
    ]
