"""`lowbit.quantize_`: linear layers and embeddings of a module, swapped in place for such as run on lowbit's kernels.

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
from .ir import Array, Node, Weight, replace
from .modules import QuantizedEmbedding, QuantizedLayer, QuantizedLinear
from .packings import OF_BITS
from .passes.four_bits import FEW, group_size, has_form
from .passes.round_groups import round_groups
from .passes.round_weights import round_nearest

_OTHERS = (nn.modules.conv._ConvNd, nn.RNNBase, nn.EmbeddingBag)
"""Layers that are not swapped, but may be a network's first or last."""
AT_ONCE = 2**22
"""Weights that are rounded together, in float64."""
Filter = Callable[[nn.Module, str], bool]


def quantize_(
    net: nn.Module,
    scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme] = "int4",
    *,
    filter_fn: Filter | None = None,
    threads: int | None = None,
) -> None:
    """Swap linear layers (nn.Linear, transformers' Conv1D) and, with four bits, nn.Embedding, in place, for `modules`'.

    scheme: "int4" (groups of 128), "int4-g64", "int4-g32", "int4-channel", "int8", a `Scheme`, or {pattern: one of
    these}: the first glob that matches a layer's path decides about it; "float32" leaves it alone, and what none
    matches is int8. Groups are chosen, and ends keep eight bits (`keep_ends`), as in `lowbit.convert`; the module's
    order stands for the order of calls: the first layer is an end unless an embedding comes before it, the last is one,
    such as a language model's head. filter_fn: fn(module, path) -> whether to swap the layer; torchao's convention.
    threads: of one call of a layer, at most.

    Weights are rounded to the nearest code, as `lowbit.convert` does without calibration data; codes that a weight was
    given (`lowbit.compress.set_codes`) stay as they are. Activations find a range for each row at run time. Everything
    else stays in torch, as it is. A weight that an embedding and a head share gets codes in each: four bits there, and
    what the scheme says of ends here.

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
        _replace(net, layer.module, _made(layer, threads))


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
    layers = {path: module for path, module in net.named_modules() if _is_layer(module)}
    nodes = {path: Node(op="linear", name=path, inputs=(), outputs=()) for path in layers}
    for note in rules.check(nodes.values(), (path for path, _ in net.named_modules() if path)):
        warnings.warn(note, stacklevel=3)
    ends = _ends(net)
    found, swapped = [], []
    for path, module in layers.items():
        scheme = rules.of(nodes[path])
        if scheme.is_float or (filter_fn is not None and not filter_fn(module, path)):
            continue
        if isinstance(module, QuantizedLayer):
            swapped.append(path)
        elif _is_plain(module):
            choice = _choice(path, module, scheme, wide=scheme.keep_ends and module in ends)
            if choice.group_size or not isinstance(module, nn.Embedding):
                found.append(choice)
    if swapped:
        raise InputError(f"quantized already: {', '.join(swapped)}. Quantize the float module, once")
    if not found:
        raise InputError(f"no layer to quantize: of {len(layers)} layers of {type(net).__name__} none was chosen")
    return found


def _choice(path: str, module: Any, scheme: schemes.Scheme, *, wide: bool) -> _Chosen:
    """One layer with what it gets; wide: eight bits, whatever the scheme says."""
    weight, bias = module.weight.T if _is_conv1d(module) else module.weight, getattr(module, "bias", None)
    op = "embedding" if isinstance(module, nn.Embedding) else "linear"
    is_coded = not wide and has_form(op, scheme.weight_bits)
    size = group_size(weight.shape[1], scheme.group_size) if is_coded else 0
    return _Chosen(path=path, module=module, weight=weight, bias=bias, scheme=scheme, group_size=size)


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
    if isinstance(module, nn.Embedding):
        return forward is nn.Embedding.forward and module.max_norm is None
    reads_past = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return _is_conv1d(module) or (forward is nn.Linear.forward and not reads_past)


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
    rows = max(1, AT_ONCE // layer.weight.shape[1])
    parts = [_nearest(layer, part.float().numpy()) for part in layer.weight.detach().split(rows)]
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    return replace(
        parts[0],
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zeros) if zeros else None,
    )


def _nearest(layer: _Chosen, rows: Array) -> Weight:
    """The nearest codes of some of a layer's rows: each row's depend on that row alone."""
    if layer.group_size:
        packing = OF_BITS[layer.scheme.weight_bits]
        return round_groups(rows, layer.group_size, symmetric=layer.scheme.symmetric, packing=packing).as_weight()
    codes = round_nearest(np.ascontiguousarray(rows))
    return Weight(codes=codes.codes, scales=codes.scales.astype(np.float32))


def _made(layer: _Chosen, threads: int | None) -> QuantizedLayer:
    """What takes the layer's place."""
    if isinstance(layer.module, nn.Embedding):
        return QuantizedEmbedding(_rounded(layer), layer.weight.dtype, threads=threads)
    return QuantizedLinear(_rounded(layer), layer.bias, threads=threads)


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """In every place of the module."""
    new.train(old.training)
    for parent in net.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
