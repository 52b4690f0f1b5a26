"""Batches of a data set as calls of a module, while it is looked at: in eval mode, with its state as it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import CalibrationError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One call of a module; `target` is what the loader yields beside the inputs, of a dict the dict, else None."""

    index: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any

    def through(self, net: nn.Module) -> Any:
        """What the net gives for it."""
        with self.blamed():
            return net(*self.args, **self.kwargs)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What torch cannot do with the batch is told by its number."""
        try:
            yield
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise CalibrationError(f"calibration batch {self.index}: {error}") from error


def repeatable(data: Iterable[Any]) -> Iterable[Any]:
    """What can be read several times: an iterator becomes a list."""
    if isinstance(data, torch.Tensor | Mapping | str) or not hasattr(data, "__iter__"):
        raise CalibrationError(
            f"calibration must be an iterable of batches, such as a DataLoader or a list, not a {type(data).__name__}"
        )
    return list(data) if iter(data) is data else data


def batches(net: nn.Module, data: Iterable[Any]) -> Iterator[Batch]:
    """The calls, by the rules of `lowbit.convert`: of a tuple as many positional inputs as `forward` must have."""
    parameters = inspect.signature(net.forward).parameters.values()
    names = {parameter.name for parameter in parameters}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    places = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    required = [p.name for p in parameters if p.kind in places and p.default is p.empty]
    index = -1
    for index, item in enumerate(data):
        inputs, target = _parts(item, required)
        if isinstance(inputs, Mapping):
            known = {key: value for key, value in inputs.items() if takes_all or key in names}
            yield Batch(index=index, args=(), kwargs=known, target=inputs if target is None else target)
        else:
            yield Batch(index=index, args=inputs, kwargs={}, target=target)
    if index < 0:
        raise CalibrationError("calibration holds no batch; pass at least one batch of representative inputs")


def _parts(item: Any, required: list[str]) -> tuple[tuple[Any, ...] | Mapping[str, Any], Any]:
    """Inputs and target."""
    if isinstance(item, Mapping):
        return item, None
    if not isinstance(item, tuple | list):
        return (item,), None
    count, first = max(len(required), 1), item[0] if item else None
    if isinstance(first, Mapping) and set(required) <= set(first):
        return first, _single(item[1:])
    if isinstance(first, tuple | list) and len(first) >= count and len(item) > 1:
        return tuple(first[:count]), _single(item[1:])
    return tuple(item[:count]), _single(item[count:])


def _single(rest: tuple[Any, ...] | list[Any]) -> Any:
    return None if not rest else rest[0] if len(rest) == 1 else tuple(rest)


@contextmanager
def watched(*nets: nn.Module) -> Iterator[None]:
    """In eval mode, with each module called as it is written, so that hooks see all calls; after that as before."""
    modes = [(module, module.training) for net in nets for module in net.modules()]
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for net in nets:
            net.eval()
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
        for module, mode in modes:
            module.training = mode
