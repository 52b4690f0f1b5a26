"""Results in classes that torch.export does not know, such as plain dataclasses: kept as their class and its parts.

torch would have each such class registered for good, in the whole process; here one class of lowbit's own is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from ..errors import UnsupportedError
from ..torch_internals import pytree
from .asked import replaced


@dataclass(frozen=True)
class Parts:
    """An object that a module returns: its class, and the values by field or key."""

    kind: type
    items: Mapping[str, Any]


def _flatten(parts: Parts) -> tuple[list[Any], tuple[type, tuple[str, ...]]]:
    return list(parts.items.values()), (parts.kind, tuple(parts.items))


def _flatten_with_keys(parts: Parts) -> tuple[list[tuple[Any, Any]], tuple[type, tuple[str, ...]]]:
    return [(pytree.MappingKey(name), item) for name, item in parts.items.items()], _flatten(parts)[1]


def _unflatten(values: Any, context: Any) -> Parts:
    return Parts(context[0], dict(zip(context[1], values, strict=True)))


pytree.register_pytree_node(Parts, _flatten, _unflatten, flatten_with_keys_fn=_flatten_with_keys)


@contextmanager
def known_results(net: torch.nn.Module) -> Iterator[None]:
    """For a while, `net` returns `Parts` for what torch does not know."""
    forward = net.forward

    @functools.wraps(forward)
    def with_parts(*args: Any, **kwargs: Any) -> Any:
        return _known(forward(*args, **kwargs))

    with replaced(net, "forward", with_parts):
        yield


_PLAIN = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, int, float, str, type(None))


def _known(value: Any) -> Any:
    return pytree.tree_map(
        _parts, value, is_leaf=lambda item: isinstance(item, PackedSequence) or _parts_of(item) is not None
    )


def _parts(value: Any) -> Any:
    items = _parts_of(value)
    if items is not None:
        return Parts(type(value), {name: _known(item) for name, item in items.items()})
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, PackedSequence):
        raise UnsupportedError("the model returns a packed sequence; return what pad_packed_sequence makes of it")
    of = f"{type(value).__module__}.{type(value).__qualname__}"
    raise UnsupportedError(f"the model returns a {of}; return tensors, numbers, tuples, lists, dicts or dataclasses")


def _parts_of(value: Any) -> Mapping[str, Any] | None:
    """The parts of an object of a class that torch does not know, if it has such."""
    if isinstance(value, type) or type(value) in pytree.SUPPORTED_NODES:
        return None
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    return None


def rebuilt(kind: Any, items: Mapping[str, Any]) -> Any:
    """An object of the class with these parts."""
    is_dataclass = hasattr(kind, "__dataclass_fields__")
    if issubclass(kind, Mapping):  # transformers' ModelOutput is a dataclass, too
        return kind(**items) if is_dataclass else _of_mapping(kind, items)
    if not is_dataclass:
        return kind(**items)
    return _of_dataclass(kind, items, {field.name: field for field in dataclasses.fields(kind)})


def _of_mapping(kind: Any, items: Mapping[str, Any]) -> Any:
    try:
        return kind(items)
    except TypeError:  # a defaultdict takes its factory first
        made = kind()
        made.update(items)
        return made


def _of_dataclass(kind: Any, items: Mapping[str, Any], fields: Mapping[str, Any]) -> Any:
    try:
        made = kind(**{name: item for name, item in items.items() if fields[name].init})
    except TypeError:  # an __init__ of its own, or one that takes more than the fields
        made = object.__new__(kind)
    for name, item in items.items():  # what __post_init__ makes of them was made already
        object.__setattr__(made, name, item)
    return made
