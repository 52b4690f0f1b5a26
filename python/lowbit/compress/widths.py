"""Takes channels out of layers: what a cut is, that it can be undone, and that widths alone say how to repeat it.

A cut names modules by path and says which of their outputs, inputs or heads stay. Parameters are replaced by smaller
ones; sizes that modules keep beside them (`out_features`, `num_heads`) follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..torch_internals import parameters
from .records import record, recorded

Widths = dict[str, dict[str, int]]
"""By the path of a module: "out", "in" and "heads", what is left."""
KIND = "shrinking"
QUERY, KEY, VALUE = ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")
HEAD = ("head_dim", "attention_head_size")
"""How transformers' attention modules call their projections, and the features of a head."""
SCALED = ("num_heads", "num_attention_heads", "n_heads", "num_key_value_heads", "all_head_size")
"""Attributes of such modules that are in proportion to the heads that stay."""
CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def can_cut(module: nn.Module) -> bool:
    """Whether channels of a module can be taken out."""
    if isinstance(module, CONVOLUTIONS):
        return module.groups == 1 or is_depthwise(module)
    return isinstance(module, nn.Linear | NORMS) or (isinstance(module, nn.PReLU) and module.num_parameters > 1)


def is_depthwise(module: nn.Module) -> bool:
    """A convolution of each channel by itself."""
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels == module.out_channels > 1


def cut(net: nn.Module, keep: Mapping[str, Mapping[str, Tensor]]) -> ExitStack:
    """Keep these places, ascending, of modules' "out", "in" or "heads"; closing what is returned undoes it."""
    undo = ExitStack()
    for name, sides in keep.items():
        module = net.get_submodule(name)
        for side, places in sides.items():
            if side == "heads":
                _scale(module, len(places), undo)
            elif isinstance(module, nn.Linear | CONVOLUTIONS) and not is_depthwise(module):
                _cut_matrix(module, side, places, undo)
            else:
                _cut_channels(module, places, undo)
    return undo


def _cut_matrix(module: nn.Module, side: str, places: Tensor, undo: ExitStack) -> None:
    _replace(module, "weight", places, 0 if side == "out" else 1, undo)
    if side == "out":
        _replace(module, "bias", places, 0, undo)
    _set(module, f"{side}_features" if isinstance(module, nn.Linear) else f"{side}_channels", len(places), undo)


def _cut_channels(module: nn.Module, places: Tensor, undo: ExitStack) -> None:
    """Of what works channel by channel."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        _replace(module, name, places, 0, undo)
    for name in ("num_features", "num_parameters", "in_channels", "out_channels", "groups"):
        if hasattr(module, name):
            _set(module, name, len(places), undo)


def _replace(module: nn.Module, name: str, places: Tensor, axis: int, undo: ExitStack) -> None:
    tensor = getattr(module, name, None)
    if not isinstance(tensor, Tensor):
        return
    kept = tensor.detach().index_select(axis, places.to(tensor.device)).clone()
    smaller = nn.Parameter(kept, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else kept
    setattr(module, name, smaller)
    undo.callback(setattr, module, name, tensor)


def _set(module: nn.Module, name: str, value: int, undo: ExitStack) -> None:
    undo.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)


def heads(module: nn.Module) -> int:
    """Groups of heads that share keys and values, of an attention module by its names; 0: it is none."""
    found = [projection(module, names) for names in (QUERY, KEY, VALUE)]
    size = head_size(module)
    if not size or any(each is None or each.out_features % size for each in found):
        return 0
    query, key, value = (each.out_features // size for each in found if each is not None)
    return key if key == value and query % key == 0 else 0


def head_size(module: nn.Module) -> int:
    """Features of a head, or 0."""
    found = next((size for name in HEAD if isinstance(size := getattr(module, name, None), int)), 0)
    return found if isinstance(found, int) else 0


def projection(module: nn.Module, names: tuple[str, ...]) -> nn.Linear | None:
    """The child of one of these names."""
    children = dict(module.named_children())
    return next((child for name in names if isinstance(child := children.get(name), nn.Linear)), None)


def _scale(module: nn.Module, left: int, undo: ExitStack) -> None:
    """What an attention module counts, in proportion; its projections are cut before."""
    value, query = projection(module, VALUE), projection(module, QUERY)
    assert value is not None
    assert query is not None
    size = head_size(module)
    counts = {
        "num_key_value_heads": left,
        "all_head_size": query.out_features,
        **dict.fromkeys(("num_heads", "num_attention_heads", "n_heads"), query.out_features // size),
    }
    for name in SCALED:
        if isinstance(getattr(module, name, None), int):
            _set(module, name, counts[name], undo)


# --------------------------------------------------------------------------------------------------------------- public


def note(net: nn.Module, keep: Mapping[str, Mapping[str, Tensor]], stayed: Mapping[str, str] | None = None) -> None:
    """Record the widths that a cut left, and what stayed as wide, with the reason."""
    left = {name: {side: len(at) for side, at in sides.items()} for name, sides in keep.items()}
    record(net, KIND, widths=left, stayed=dict(stayed or {}))


def widths(net: nn.Module) -> Widths:
    """The widths of a net that `shrink` made smaller, to be saved beside its state dict.

    Args:
        net: The module.

    Returns:
        What `resize` takes: plain numbers by the path of each layer that is smaller now.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
        >>> net = lowbit.compress.shrink(net, torch.randn(1, 8), 0.5)
        >>> lowbit.compress.widths(net)
        {'0': {'out': 32}, '2': {'in': 32}}
    """
    found: Widths = {}
    for each in recorded(net):
        if each["kind"] == KIND:
            for name, sides in each["widths"].items():
                found.setdefault(name, {}).update(sides)
    return found


def resize(net: nn.Module, widths: Mapping[str, Mapping[str, int]]) -> nn.Module:
    """Make a fresh net as small as one that was shrunk, in place, so that it takes that one's state dict.

    Args:
        net: The module, as its class makes it.
        widths: What `widths` gave for the smaller net.

    Returns:
        The module; its numbers mean nothing until `load_state_dict`.

    Raises:
        InputError: A net that has no such layers, or smaller ones.

    Examples:
        >>> import torch
        >>> def build():
        ...     return torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
        >>> small = lowbit.compress.shrink(build(), torch.randn(1, 8), 0.5)
        >>> torch.save([lowbit.compress.widths(small), small.state_dict()], "small.pt")
        >>> saved, state = torch.load("small.pt", weights_only=True)
        >>> again = lowbit.compress.resize(build(), saved)
        >>> again.load_state_dict(state)
        <All keys matched successfully>
    """
    modules = dict(net.named_modules()) if isinstance(net, nn.Module) else {}
    problems = [text for name, sides in widths.items() if (text := _misfit(modules.get(name), sides))]
    if problems or not modules:
        raise InputError(f"the widths are of another net: {'; '.join(problems) or 'there is no module'}")
    keep = {name: {side: torch.arange(size) for side, size in sides.items()} for name, sides in widths.items()}
    cut(net, keep).pop_all()
    note(net, keep)
    return net


def _misfit(module: nn.Module | None, sides: Mapping[str, int]) -> str:
    if module is None:
        return f"a layer is missing that has {dict(sides)}"
    for side, size in sides.items():
        has = size_of(module, side)
        if type(size) is not int or not 0 < size <= has:
            return f"a {type(module).__name__} has {has} {side}, cannot have {size!r}"
    return ""


def size_of(module: nn.Module, side: str) -> int:
    """How many places a module has at a side; 0: it has no such side."""
    if side == "heads":
        return heads(module)
    weight: Any = parameters(module).get("weight") if can_cut(module) else None
    axis = 0 if side == "out" else 1
    return int(weight.shape[axis]) if isinstance(weight, Tensor) and weight.dim() > axis else 0


def complement(net: nn.Module, gone: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """What `cut` takes, by what leaves: the other places of these modules' sides."""
    keep: dict[str, dict[str, Tensor]] = {}
    for name, sides in gone.items():
        for side, places in sides.items():
            stays = torch.ones(size_of(net.get_submodule(name), side), dtype=torch.bool)
            stays[places] = False
            keep.setdefault(name, {})[side] = stays.nonzero()[:, 0]
    return keep
