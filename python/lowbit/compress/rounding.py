"""Weights and activations that are rounded while they are trained, with steps that are learned.

Of x = step * code, the gradient of the loss by a code goes straight to x where x is within the codes, and what is left
of it, code - x / step or the end that x is beyond, to the step: Esser et al. 2020, "Learned Step Size Quantization"
(arXiv:1902.08153), equations 2 and 3. A step is held as base * 2^step, so it stays positive and an optimizer changes it
by a share of itself whatever its size. In the place of their factor, which lets few weights that are clipped move steps
of eight bits by more than themselves, a weight's gradient is divided by what makes plain gradient descent change a step
by no larger a share than it changes weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.weights import middle
from ..quantization.calibrate import Histogram, choose
from ..quantization.code_tables import round_to_values
from ..quantization.few_bits import Width
from ..quantization.round_groups import code_range, round_by
from ..quantization.round_weights import round_nearest, wide_scales
from ..quantization.schemes import Scheme
from ..rounding import round_rows, round_values
from .chain import Link
from .set_codes import Recoded, set_codes

SMALLEST = float(np.finfo(np.float16).tiny)
"""The least step in groups, whose steps are half-floats."""
LIMIT = 127
LEAST = 1e-30
"""Of squares that something is divided by."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """What the codes of a weight are: whole numbers from `low` to `high`, of these `values` alone if there are some.

    bits: of a code. group_size: of adjacent weights that share a step; 0: a channel's do, and steps are float32.
    affine: with an offset for each group, codes from 0 on.
    """

    bits: int = 8
    group_size: int = 0
    low: int = -LIMIT
    high: int = LIMIT
    values: tuple[int, ...] = ()
    affine: bool = False

    @property
    def keeps_zeros(self) -> bool:
        """Whether zero has a code."""
        return not self.affine and (not self.values or 0 in self.values)


def start(weight: Tensor, width: Width, scheme: Scheme) -> tuple[Form, Tensor, Tensor | None]:
    """The form of a layer's weight, and the steps and offsets with least squared error: [N, 1] or [N, groups].

    Zeros do not count: they have a code of their own, whatever the steps.
    """
    array = weight.detach().float().numpy()
    if width.values:
        made = round_to_values(array, width.values)
        assert made.values is not None
        table = tuple(int(value) for value in np.unique(made.values))
        form = Form(bits=4, low=table[0], high=table[-1], values=table)
        return form, _column(made.scales), None
    if not width.group_size:
        scales = wide_scales(array, width.entropy, alike=False) if width.entropy else round_nearest(array).scales
        return Form(), _column(scales), None
    codes = round_by(scheme, array, width.group_size)
    if width.bits == 1 and scheme.symmetric:
        form = Form(bits=1, group_size=width.group_size, low=-1, high=1, values=(-1, 1))
        return form, torch.from_numpy(codes.scales / 2).float(), None
    low, high = code_range(width.bits, scheme.levels)
    if scheme.symmetric:
        centre = middle(width.bits)
        form = Form(bits=width.bits, group_size=width.group_size, low=low - centre, high=high - centre)
        return form, torch.from_numpy(codes.scales).float(), None
    form = Form(bits=width.bits, group_size=width.group_size, low=low, high=high, affine=True)
    offsets = -codes.zeros * codes.scales
    return form, torch.from_numpy(codes.scales).float(), torch.from_numpy(offsets).float()


def _column(scales: Any) -> Tensor:
    return torch.from_numpy(scales[:, None]).float()


class RoundedWeight(Link):
    """The link after the mask: a weight that is a step times a code.

    step: the logarithm of steps to base 2, from where they began. rows: the layer rounds its input row by row.
    """

    place = 1
    base: Tensor
    values: Tensor | None
    halves: Tensor | None

    def __init__(self, form: Form, steps: Tensor, offsets: Tensor | None, *, rows: bool = False) -> None:
        super().__init__()
        self.form, self.rows, self.keeps_zeros = form, rows, form.keeps_zeros
        self.register_buffer("base", steps)
        self.step = nn.Parameter(torch.zeros_like(steps))
        self.offset = None if offsets is None else nn.Parameter(offsets)
        self.register_buffer("values", torch.tensor(form.values).float() if form.values else None, persistent=False)
        self.register_buffer("halves", _by_halves(form.values) if form.values else None, persistent=False)

    def steps(self) -> Tensor:
        """[N, groups], of the numbers that a file can hold."""
        steps = self.base * self.step.exp2()
        return _as_half(steps.clamp(min=SMALLEST)) if self.form.group_size else steps

    def offsets(self) -> Tensor | None:
        """Of codes in groups that begin at 0."""
        return None if self.offset is None else _as_half(self.offset)

    def forward(self, weight: Tensor) -> Tensor:
        steps, offsets = self.steps()[..., None], self.offsets()
        rows = self._grouped(weight)
        shifted = rows if offsets is None else rows - offsets[..., None]
        rounded = _round(shifted, steps, self.form.low, self.form.high, self.halves)
        return self._shaped(rounded if offsets is None else rounded + offsets[..., None], weight)

    def lattice(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The step and the offset of each weight of a layer's [N, ...]."""
        steps, offsets = self.steps().detach(), self.offsets()
        like = torch.empty(shape, device=steps.device)
        spread = [
            self._shaped(each.detach()[..., None].expand_as(self._grouped(like)), like)
            for each in (steps, torch.zeros_like(steps) if offsets is None else offsets)
        ]
        return spread[0], spread[1]

    def nearest(self, weight: Tensor, steps: Tensor, offsets: Tensor) -> Tensor:
        """What `forward` rounds weights to that have these steps and offsets."""
        return _nearest(weight - offsets, steps, self.form.low, self.form.high, self.halves) + offsets

    def codes(self, weight: Tensor) -> Tensor:
        """The codes of what `forward` gave, int8 of its shape: of a table, their places in it."""
        rows, offsets = self._grouped(weight), self.offsets()
        shifted = rows if offsets is None else rows - offsets[..., None]
        codes = (shifted / self.steps()[..., None]).round()
        if self.values is not None:
            codes = torch.searchsorted(self.values, codes.contiguous())
        return self._shaped(codes.to(torch.int8), weight).contiguous()

    def facts(self) -> dict[str, Any]:
        form = self.form
        kind = {"kind": "quantization", "bits": form.bits, "group_size": form.group_size}
        return {**kind, "values": list(form.values)} if form.values else kind

    def finalize(self, module: nn.Module, weight: Tensor) -> None:
        """Give the layer its codes."""
        form, steps, offsets = self.form, self.steps().detach(), self.offsets()
        if not form.group_size:
            steps = steps[:, 0]
        values = (
            None
            if self.values is None
            else nn.functional.pad(self.values, (0, 2**form.bits - len(self.values)), value=float(self.values[-1]))
        )
        offset = None if offsets is None else offsets.detach()
        set_codes(module, self.codes(weight), steps, offset=offset, values=values, format=f"int{form.bits}")
        given = module.get_submodule("parametrizations.weight.0")
        assert isinstance(given, Recoded)
        given.rows = self.rows

    def _grouped(self, weight: Tensor) -> Tensor:
        """[N, groups, weights of a group]; of several groups, input channels innermost."""
        ordered = weight.movedim(1, -1) if self._is_reordered(weight) else weight
        return ordered.reshape(*self.base.shape, -1)

    def _is_reordered(self, weight: Tensor) -> bool:
        """As `lowbit::dequantize` does it; of a single group where that costs nothing, for strides that are its own."""
        return weight.dim() > 2 and self.form.group_size > 0 and (self.base.shape[1] > 1 or weight[0, 0].numel() == 1)

    def _shaped(self, rows: Tensor, weight: Tensor) -> Tensor:
        if self._is_reordered(weight):
            return rows.reshape(weight.shape[0], *weight.shape[2:], weight.shape[1]).movedim(-1, 1).contiguous()
        return rows.reshape(weight.shape)


class RoundedValue(nn.Module):
    """Rounds a value to 256 codes of one range, which is first observed, then learned, at last fixed.

    base, zero_point: as the range was observed; base 0: it was not yet. step: the logarithm to base 2 of what the step
    has become, over `base`; None: it is not learned, as that of the module's inputs, through which gradients would have
    to go for nothing else.
    """

    base: Tensor
    zero_point: Tensor
    step: nn.Parameter | None

    def __init__(self, scheme: Scheme, *, learns: bool = True) -> None:
        super().__init__()
        self.scheme, self.is_fixed, self.seen = scheme, False, Histogram()
        self.register_buffer("base", torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.register_parameter("step", nn.Parameter(torch.zeros(())) if learns else None)

    @property
    def is_ready(self) -> bool:
        """Whether it has a range."""
        return float(self.base) > 0

    def settle(self) -> bool:
        """Take the range of what was seen; whether anything was."""
        if not self.is_ready and self.seen.minimum <= self.seen.maximum:
            quant = choose(self.seen, self.scheme)
            self.base.fill_(float(quant.scale))
            self.zero_point.fill_(int(quant.zero_point))
            self.seen = Histogram()
        return self.is_ready

    def scale(self) -> Tensor:
        """float32, the step now."""
        return self.base if self.step is None else self.base * self.step.exp2()

    def fix(self) -> None:
        """Keep the step for good."""
        self.base.copy_(self.scale().detach())
        self.step, self.is_fixed = None, True

    def forward(self, x: Tensor) -> Tensor:
        if self.is_fixed:
            fixed: Tensor = round_values(x, self.base, self.zero_point)
            return fixed
        if not self.is_ready:
            self.seen.add(x.detach().float().cpu().numpy())
            return x
        zero = int(self.zero_point)
        return _round(x, self.scale(), -zero, 255 - zero)


def round_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The hook before a layer whose rows have ranges of their own."""
    return (round_rows(args[0]), *args[1:]) if args else args


def _as_half(x: Tensor) -> Tensor:
    """The nearest half-floats; gradients go through."""
    return x + (x.half().float() - x).detach()


def _by_halves(values: tuple[int, ...]) -> Tensor:
    """The nearest of whole numbers from -128 to 127 for what begins at -128, -127.5 ..., the upper one of two."""
    table = torch.tensor(values).float()
    return table[torch.bucketize(torch.arange(-256, 256) / 2, (table[1:] + table[:-1]) / 2, right=True)]


def _round(x: Tensor, steps: Tensor, low: int, high: int, halves: Tensor | None = None) -> Tensor:
    apply: Callable[..., Tensor] = _Round.apply
    return apply(x.float(), steps, low, high, halves)  # codes times a step are no numbers of 16 bits


class _Round(torch.autograd.Function):
    """x [...] by steps that broadcast to it, [..., 1] or one alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Tensor, low: int, high: int, halves: Tensor | None) -> Tensor:
        y = _nearest(x, steps, low, high, halves)
        ctx.save_for_backward(x, steps, None if steps.dim() == 0 else y)
        ctx.ends = low, high
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, steps, y = ctx.saved_tensors
        low, high = ctx.ends
        if y is None:  # who reads an activation may write to it, too, so it is computed again
            y = _nearest(x, steps, low, high, None)
            scale = float(steps)
            inner = torch.ops.aten.hardtanh_backward(gradient, x, low * scale, high * scale)
            share = _dot(gradient, y) - _dot(inner, x)
        else:
            inner = torch.where(x.clamp(low * steps, high * steps) == x, gradient, 0)
            share = (torch.linalg.vecdot(gradient, y) - torch.linalg.vecdot(inner, x))[..., None]
            squares = torch.linalg.vecdot(x, x)[..., None]
            share = share * (math.sqrt(x.shape[-1]) / squares.clamp(min=LEAST))
        return inner, share / steps, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of products, in the order in which `b` lies in memory: no copy where channels are last."""
    order = sorted(range(b.dim()), key=b.stride, reverse=True)
    return torch.dot(a.permute(order).flatten(), b.permute(order).flatten())


def _nearest(x: Tensor, steps: Tensor, low: int, high: int, halves: Tensor | None) -> Tensor:
    """What x is rounded to."""
    y = x * (1 / steps)
    if halves is None:
        y = y.round_().clamp_(low, high)
    else:
        places = y.mul_(2).floor_().clamp_(-256, 255).add_(256).int()
        y = halves.index_select(0, places.flatten()).view_as(x)
    return y.mul_(steps)
