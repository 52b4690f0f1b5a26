"""`lowbit.quantize_`: linear layers and embeddings of a module, swapped in place for such as run on lowbit's kernels.

For programs that are not captured as one graph: transformers' `generate()`, which calls a model again and again with a
cache, keeps its loop in torch and runs its products here.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..compress.set_codes import codes_given
from ..dequantize import arrays, weight_of
from ..errors import InputError, UnsupportedError
from ..foreign import torchao
from ..graph.ir import Node, Weight, replace
from ..graph.weights import as_read, few_bits, problems
from ..ops.integer import MAX_BIAS, MAX_MULTIPLIER
from ..progress import reporter
from ..quantization import schemes
from ..quantization.code_tables import round_to_values
from ..quantization.few_bits import FEW, group_size, has_form, unfit
from ..quantization.round_groups import round_by
from ..quantization.round_weights import round_nearest, wide_scales
from ..quantization.tables import SMALL_TABLE
from ..torch_internals import children, parameters
from .modules import QuantizedEmbedding, QuantizedLayer, QuantizedLinear

_OTHERS = (nn.modules.conv._ConvNd, nn.RNNBase, nn.EmbeddingBag)
"""Layers that are not swapped, but may be a network's first or last."""
AT_ONCE = 2**20
"""Weights that are rounded together."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
"""What is called around a layer's `forward`; it follows the layer."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEEP = 2**31 // (255 * 128)
"""Sums of so many products may pass 32 bits."""
Filter = Callable[[nn.Module, str], bool]


def quantize_(
    net: nn.Module,
    scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme] = "int4",
    *,
    filter_fn: Filter | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> None:
    """Replace linear layers and embeddings of a module by such as run on low-bit kernels, in place.

    It is for programs that are not captured as one graph, such as transformers' `generate()`: everything else stays in
    torch, as it is. Linear layers are nn.Linear and transformers' Conv1D. Weights are rounded to the nearest code, as
    `lowbit.convert` does without calibration data; codes that a weight was given (`lowbit.compress.set_codes`) stay as
    they are. Activations find their ranges at run time: in groups where weights are in groups, else each row
    (`Scheme.activation_group_size`). Tables of embeddings get eight bits from 2^18 weights on, four whatever their
    size.

    A weight that an embedding and a head share gets codes in each. Forward hooks stay with their layers. Layers without
    weights (a size of 0) and those whose `forward` is not their class's stay as they are. A `state_dict` of the module
    holds the codes: to load it, quantize a module of the same shapes with the same scheme first.

    Args:
        net: The module.
        scheme: "int4" (groups of 128), "int4-g64", "int4-g32", "int4-channel", "int8", a `Scheme`, or `{pattern: one of
            these}`: the first glob that matches a layer's path decides about it; "float32" leaves it alone, and what
            none matches is int8. Groups are chosen, and ends keep eight bits (`Scheme.keep_ends`), as in
            `lowbit.convert`; the module's order stands for the order of calls.
        filter_fn: `fn(module, path)` says whether to replace the layer; torchao's convention.
        threads: Of one call of a layer, at most; None: as many as the process may use.
        progress: Show a progress bar on a terminal.

    Raises:
        InputError: Arguments that do not fit.
        UnsupportedError: Layers that cannot be replaced; all are named, before any is replaced.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        >>> lowbit.quantize_(net, {"1": "int4-g32", "*": "int8"})
        >>> with torch.no_grad():
        ...     net(torch.randn(2, 64)).shape
        torch.Size([2, 64])
        >>> net[1]
        QuantizedLinear(64, 64, bias=True, int4, group_size=32)
    """
    if not isinstance(net, nn.Module):
        raise InputError(f"lowbit.quantize_ takes a torch.nn.Module, not a {type(net).__name__}")
    picked = _picked(net, schemes.rules(scheme), filter_fn)
    problems = [f"{layer.path}: {problem}" for layer in picked for problem in _problems(layer)]
    if problems:
        raise UnsupportedError("these layers cannot be quantized so; give them another scheme: " + "; ".join(problems))
    chosen = [layer for layer in picked if layer.is_worth_it]
    with reporter(progress) as report:
        made: list[QuantizedLayer] = []
        for weight, layer in zip(_codes(chosen), chosen, strict=True):
            report("quantize", len(made), len(chosen))
            made.append(_made(layer, weight, threads))
    for layer, new in zip(chosen, made, strict=True):
        _replace(net, layer.module, new)


def pick(net: nn.Module, scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme]) -> list[Codable]:
    """The layers that a scheme is for, of a module whose weights may not be there yet. Raises InputError."""
    return [dataclasses.replace(layer) for layer in _picked(net, schemes.rules(scheme), None)]


def replace_layer(net: nn.Module, path: str, weight: Weight, threads: int | None = None) -> None:
    """Put a layer on these codes in the place of one that had, or was to have, float weights."""
    module = net.get_submodule(path)
    layer = Codable(path=path, module=module, scheme=schemes.SCHEMES[schemes.DEFAULT], is_wide=False)
    _replace(net, module, _made(layer, weight, threads))


@dataclass(frozen=True, kw_only=True, eq=False)
class Codable:
    """A layer that is to be swapped; what it holds is looked at when it is known that it can be read."""

    path: str
    module: Any
    scheme: schemes.Scheme
    is_wide: bool
    """Eight bits, whatever the scheme says."""

    @cached_property
    def weight(self) -> Tensor:
        """[N, K]."""
        weight: Tensor = self.module.weight.detach()
        weight = weight.dequantize() if torchao.is_torchao(weight) else weight
        return weight.T if _is_conv1d(self.module) else weight

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.module, "bias", None)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Its least and its largest weight."""
        return _ends_of(self.weight)

    @cached_property
    def group_size(self) -> int:
        """0: eight bits."""
        op = "embedding" if isinstance(self.module, nn.Embedding) else "linear"
        is_coded = not (self.is_wide or self.scheme.values or unfit(self.ends)) and has_form(
            op, self.scheme.weight_bits
        )
        return group_size(self.weight.shape[1], self.scheme.group_size) if is_coded else 0

    def problems(self) -> list[str]:
        """Why it cannot have its scheme."""
        return list(_problems(self))

    def codes(self) -> Weight:
        """Those it was given, else the nearest."""
        (weight,) = _codes([self])
        return weight

    @property
    def is_worth_it(self) -> bool:
        """Whether there is anything to round, and more than a small table in eight bits."""
        is_small = isinstance(self.module, nn.Embedding) and self.weight.numel() < SMALL_TABLE
        is_coded = self.group_size > 0 or _given(self.module) is not None
        return self.weight.numel() > 0 and (is_coded or not is_small)


def _picked(net: nn.Module, rules: schemes.Rules, filter_fn: Filter | None) -> list[Codable]:
    """The layers and their schemes, in the module's order. Raises InputError if there are none."""
    layers = {path: module for path, module in net.named_modules() if _is_layer(module)}
    nodes = {path: Node(op="linear", name=path, inputs=(), outputs=()) for path in layers}
    for note in rules.check(nodes.values(), (path for path, _ in net.named_modules() if path)):
        warnings.warn(note, stacklevel=3)
    ends = _ends(net)
    found, swapped = [], []
    for path, module in layers.items():
        scheme = rules.of(nodes[path])
        if scheme.computes_floats or (filter_fn is not None and not filter_fn(module, path)):
            continue
        if isinstance(module, QuantizedLayer):
            swapped.append(path)
        elif _is_plain(module):
            is_wide = scheme.keep_ends and module in ends
            layer = Codable(path=path, module=module, scheme=scheme, is_wide=is_wide)
            if scheme.weight_bits in few_bits() or not isinstance(module, nn.Embedding) or layer.is_worth_it:
                found.append(layer)
    if swapped:
        raise InputError(f"quantized already: {', '.join(swapped)}. Quantize the float module, once")
    if not found:
        raise InputError(f"no layer to quantize: of {len(layers)} layers of {type(net).__name__} none was chosen")
    return found


def _ends(net: nn.Module) -> set[nn.Module]:
    """The first and the last layer of more than a few, where no embedding stands in their place."""
    order = [module for module in net.modules() if _is_layer(module) or isinstance(module, _OTHERS)]
    tables = (nn.Embedding, nn.EmbeddingBag, QuantizedEmbedding)
    layers = [module for module in order if not isinstance(module, tables)]
    return {layers[-1], *(layers[:1] if order[0] is layers[0] else ())} if len(layers) > FEW else set()


def _is_layer(module: nn.Module) -> bool:
    """Whether it is, or is derived from, what can be swapped, or was swapped."""
    return isinstance(module, (nn.Linear, nn.Embedding, QuantizedLayer)) or _is_conv1d(module)


def _is_plain(module: nn.Module) -> bool:
    """Whether the layer computes what the class does that it is derived from, and nobody reads its weight past it."""
    forward = type(module).forward
    if "forward" in vars(module):
        return False
    if isinstance(module, nn.Embedding):
        return forward is nn.Embedding.forward and module.max_norm is None
    reads_past = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return _is_conv1d(module) or (forward is nn.Linear.forward and not reads_past)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' linear layer with a weight [K, N], as in GPT-2."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _unread(module: Any) -> str:
    """Why the layer's weight cannot be read, or ""."""
    if isinstance(module.weight, nn.parameter.UninitializedParameter):
        return "its weight has no size yet: call the module once"
    if "weight" not in parameters(module) and not parametrize.is_parametrized(module, "weight"):
        return (
            "its weight is no parameter, a hook (weight_norm's, or torch.nn.utils.prune's) computes it: make it one "
            "first, by torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove"
        )
    weight = module.weight
    if weight.device.type != "cpu" or weight.dtype not in FLOATS:
        return f"its weight is {weight.dtype} on {weight.device}, must be float16, 32, 64 or bfloat16 on the CPU"
    if (type(weight.data) is not Tensor and _given(module) is None) or weight.layout != torch.strided:
        return f"its weight is a {type(weight).__name__} of layout {weight.layout}, must be a plain tensor"
    return ""


def _problems(layer: Codable) -> Iterator[str]:
    """Why a layer cannot have its scheme."""
    unread = _unread(layer.module)
    if unread or not layer.is_worth_it:
        yield from filter(None, [unread])
        return
    if not layer.path:
        yield "it is the module itself, which cannot be swapped in place: wrap it, nn.Sequential(layer)"
    if layer.scheme.activations == "static":
        yield "static activations need calibration data, hence a captured graph (lowbit.convert)"
    if layer.scheme.method in schemes.FROM_DATA:
        yield f"method {layer.scheme.method!r} needs calibration data, hence a captured graph (lowbit.convert)"
    bias = (0.0, 0.0) if layer.bias is None or layer.bias.is_meta else _ends_of(layer.bias)
    if not all(map(math.isfinite, (*layer.ends, *bias))):
        yield "its weight or bias holds NaN or infinity, or what float32 cannot hold"
    elif max(map(abs, layer.ends)) > MAX_MULTIPLIER or max(map(abs, bias)) > MAX_BIAS:
        yield f"its weight holds numbers beyond {MAX_MULTIPLIER:g}, or its bias beyond {MAX_BIAS:g}"
    elif layer.weight.shape[1] >= DEEP:
        (weight,) = _codes([layer])
        yield from (f"{problem}: leave it in float32" for problem in problems(weight))


def _ends_of(tensor: Tensor) -> tuple[float, float]:
    """The least and the largest number, as float32 has them; NaN if one is."""
    if tensor.numel() == 0:
        return 0.0, 0.0
    low, high = tensor.detach().aminmax()
    return float(low.float()), float(high.float())


# ---------------------------------------------------------------------------------------------------------------- codes


def _codes(layers: Sequence[Codable]) -> Iterator[Weight]:
    """The codes of each layer's weight, in this order: those it was given, else the nearest.

    One thread: NumPy's calls on blocks that fit the cache are so short that two spend their time on Python's lock.
    """
    for layer in layers:
        given = _given(layer.module)
        if given is not None:
            yield given
            continue
        rows = max(1, AT_ONCE // layer.weight.shape[1])
        yield _joined([_nearest(layer, part) for part in layer.weight.detach().split(rows)])


def _given(module: nn.Module) -> Weight | None:
    """The codes that a weight came with, from `set_codes` or torchao."""
    weight = parameters(module).get("weight")
    if weight is not None and torchao.is_torchao(weight):
        return torchao.weight(weight)
    given = codes_given(module)
    if given is None:
        return None
    beside = (None if part is None else part.detach().float().numpy() for part in (given.offset, given.values))
    made = weight_of(*arrays(given.codes, given.scale, given.zero_point, None), given.format, *beside)
    return made if made.values is None else as_read(made)


def _nearest(layer: Codable, part: Tensor) -> Weight:
    """The nearest codes of some of a layer's rows: each row's depend on that row alone."""
    rows = np.ascontiguousarray(part.float().numpy())
    if layer.group_size:
        made = round_by(layer.scheme, rows, layer.group_size).as_weight()
        return made if made.values is None else as_read(made)
    values = "" if layer.is_wide else layer.scheme.values
    entropy = 0.0 if layer.is_wide else layer.scheme.entropy
    scales = wide_scales(rows, entropy, alike=False) if entropy else None
    codes = round_to_values(rows, values) if values else round_nearest(rows, scales=scales)
    return Weight(codes=codes.codes, scales=codes.scales.astype(np.float32))


def _joined(parts: Sequence[Weight]) -> Weight:
    """The rows of all parts."""
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    offsets = [part.offsets for part in parts if part.offsets is not None]
    return replace(
        parts[0],
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zeros) if zeros else None,
        offsets=np.concatenate(offsets) if offsets else None,
    )


def _made(layer: Codable, weight: Weight, threads: int | None) -> QuantizedLayer:
    """What takes the layer's place."""
    if isinstance(layer.module, nn.Embedding):
        return QuantizedEmbedding(weight, layer.weight.dtype, threads=threads)
    size = layer.scheme.activation_group_size
    return QuantizedLinear(weight, layer.bias, activation_group_size=size, threads=threads)


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """In every place of the module."""
    new.train(old.training)
    new.__dict__.update({name: old.__dict__[name] for name in _HOOKS})
    for parent in net.modules():
        for name, child in children(parent).items():
            if child is old:
                children(parent)[name] = new
