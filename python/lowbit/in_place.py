"""`lowbit.quantize_`: the linear layers of a module, swapped in place for such as run on lowbit's kernels.

For programs that are not captured as one graph: transformers' `generate()`, which calls a model again and again with a
cache, keeps its loop in torch and runs its products here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from . import schemes
from .compress.set_codes import codes_given
from .dequantize import arrays, weight_of
from .errors import InputError, UnsupportedError
from .ir import Node, Weight
from .modules import QuantizedLinear
from .passes.four_bits import FEW, group_size
from .passes.round_groups import round_groups
from .passes.round_weights import round_nearest

_LINEAR = (nn.Linear, QuantizedLinear)
_LAYERS = (*_LINEAR, nn.modules.conv._ConvNd, nn.RNNBase)
Filter = Callable[[nn.Module, str], bool]


def quantize_(
    net: nn.Module,
    scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme] = "int4",
    *,
    filter_fn: Filter | None = None,
    threads: int | None = None,
) -> None:
    """Swap the linear layers of `net` (nn.Linear, transformers' Conv1D), in place, for `modules.QuantizedLinear`.

    scheme: "int4" (groups of 128), "int4-g64", "int4-g32", "int4-channel", "int8", a `Scheme`, or {pattern: one of
    these}: the first glob that matches a layer's path decides about it; "float32" leaves it alone, and what none
    matches is int8. Groups are chosen, and ends keep eight bits (`keep_ends`), as in `lowbit.convert`; the module's
    order stands for the order of calls: the first layer is an end unless an embedding comes before it, the last is one,
    such as a language model's head. filter_fn: fn(module, path) -> whether to swap the layer; torchao's convention.
    threads: of one call of a layer, at most.

    Weights are rounded to the nearest code, as `lowbit.convert` does without calibration data; codes that a weight was
    given (`lowbit.compress.set_codes`) stay as they are. Activations find a range for each row at run time. Everything
    else stays in torch, as it is. A weight that several layers share, such as that of an embedding and a head, gets
    codes in the linear layers; the embedding keeps its numbers.

    A `state_dict` of the module holds the codes: to load it, quantize a module of the same shapes with the same scheme
    first. Raises InputError and UnsupportedError that name all layers which cannot be swapped, before any is.
    """
    if not isinstance(net, nn.Module):
        raise InputError(f"lowbit.quantize_ takes a torch.nn.Module, not a {type(net).__name__}")
    chosen = _chosen(net, schemes.rules(scheme), filter_fn)
    problems = [f"{layer.path}: {problem}" for layer in chosen for problem in _problems(layer)]
    if problems:
        raise UnsupportedError("these layers cannot be quantized so; give them another scheme: " + "; ".join(problems))
    for layer in chosen:
        _replace(net, layer.module, QuantizedLinear(_rounded(layer), layer.bias, threads=threads))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chosen:
    """A layer that is to be swapped."""

    path: str
    module: nn.Module
    weight: Tensor
    """[N, K]."""
    bias: Tensor | None
    scheme: schemes.Scheme
    group_size: int
    """0: eight bits."""


def _chosen(net: nn.Module, rules: schemes.Rules, filter_fn: Filter | None) -> list[_Chosen]:
    """The layers and their schemes, in the module's order. Raises InputError if there are none."""
    layers = {path: module for path, module in net.named_modules() if isinstance(module, _LINEAR) or _is_conv1d(module)}
    nodes = {path: Node(op="linear", name=path, inputs=(), outputs=()) for path in layers}
    for note in rules.check(nodes.values(), (path for path, _ in net.named_modules() if path)):
        warnings.warn(note, stacklevel=3)
    ends = _ends(net)
    found, swapped = [], []
    for path, module in layers.items():
        scheme = rules.of(nodes[path])
        if scheme.is_float or (filter_fn is not None and not filter_fn(module, path)):
            continue
        if isinstance(module, QuantizedLinear):
            swapped.append(path)
        elif _is_plain(module):
            found.append(_choice(path, module, scheme, wide=scheme.keep_ends and module in ends))
    if swapped:
        raise InputError(f"quantized already: {', '.join(swapped)}. Quantize the float module, once")
    if not found:
        raise InputError(
            f"no layer to quantize: of {len(layers)} linear layers in {type(net).__name__} none was chosen"
        )
    return found


def _choice(path: str, module: Any, scheme: schemes.Scheme, *, wide: bool) -> _Chosen:
    """One layer with what it gets; wide: eight bits, whatever the scheme says."""
    weight = module.weight.T if _is_conv1d(module) else module.weight
    size = 0 if wide or scheme.weight_bits == 8 else group_size(weight.shape[1], scheme.group_size)
    return _Chosen(path=path, module=module, weight=weight, bias=module.bias, scheme=scheme, group_size=size)


def _ends(net: nn.Module) -> set[nn.Module]:
    """The first and the last layer of more than a few, where no embedding stands in their place."""
    tables = (nn.Embedding, nn.EmbeddingBag)
    order = [module for module in net.modules() if isinstance(module, (*_LAYERS, *tables)) or _is_conv1d(module)]
    layers = [module for module in order if not isinstance(module, tables)]
    return {layers[-1], order[0]} if len(layers) > FEW else set()


def _is_plain(module: nn.Module) -> bool:
    """Whether the module computes what nn.Linear or Conv1D does, and nobody reads its weight past it."""
    reads_past = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return _is_conv1d(module) or (type(module).forward is nn.Linear.forward and not reads_past)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' linear layer with a weight [K, N], as in GPT-2."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _problems(layer: _Chosen) -> Iterator[str]:
    """Why a layer cannot have its scheme."""
    weight, bias = layer.weight, layer.bias
    if not layer.path:
        yield "it is the module itself, which cannot be swapped in place: wrap it, nn.Sequential(layer)"
    if weight.device.type != "cpu" or not weight.is_floating_point():
        yield f"its weight is {weight.dtype} on {weight.device}, must be floats on the CPU"
    elif not (weight.isfinite().all() and (bias is None or bias.isfinite().all())):
        yield "its weight or bias holds NaN or infinity"
    if layer.scheme.activations == "static":
        yield "static activations need calibration data, hence a captured graph (lowbit.convert)"


def _rounded(layer: _Chosen) -> Weight:
    """The weight's codes: those it was given, else the nearest."""
    given = codes_given(layer.module)
    if given is not None:
        return weight_of(*arrays(given.codes, given.scale, given.zero_point, None), given.format)
    numbers = np.ascontiguousarray(layer.weight.detach().float().numpy())
    if layer.group_size:
        return round_groups(numbers, layer.group_size, symmetric=layer.scheme.symmetric).as_weight()
    codes = round_nearest(numbers)
    return Weight(codes=codes.codes, scales=codes.scales.astype(np.float32))


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """In every place of the module."""
    new.train(old.training)
    for parent in net.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
