"""Which arguments of a module are what its last call returned: named by paths, `{"h0": "h_n"}` or `{"hx": "1"}`.

A path is a parameter, or a key or position of the result, and what leads from there to a tensor: `"cache[0]['keys']"`,
`"cache.0.keys"`. One that ends at a structure of tensors stands for all of them, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..errors import InputError

Path = tuple[str, ...]


def paired(signature: Mapping[str, Any], output: Mapping[str, Any], states: Mapping[str, str]) -> dict[str, int]:
    """For each graph input that is a state, which of the returned tensors it is in the next call.

    signature, output: as `export.Program` has them. Raises InputError for paths that lead nowhere, or do not agree.
    """
    given = {(each["name"], *path): leaf for each in signature["parameters"] for path, leaf in _leaves(each["tree"])}
    returned = dict(_leaves(output))
    found: dict[str, int] = {}
    for argument, result in states.items():
        inputs, outputs = _at(given, argument, "argument"), _at(returned, result, "output")
        if len(inputs) != len(outputs):
            raise InputError(f"state {argument!r} holds {len(inputs)} tensors, and output {result!r} {len(outputs)}")
        found |= {name: int(index) for name, index in zip(inputs, outputs, strict=True)}
    if len(set(found.values())) < len(found):
        raise InputError(f"an output is the next value of two states: {dict(states)}")
    for path, name in given.items():
        if name not in found and any(other[0] == path[0] and given[other] in found for other in given):
            raise InputError(f"argument {path[0]!r} is a state but for {_written(path)}; name all of it")
    return found


def _at(leaves: Mapping[Path, Any], path: Any, what: str) -> list[Any]:
    """The tensors that a path leads to."""
    keys = tuple(re.findall(r"[^\[\].'\"]+", str(path)))
    found = [leaf for place, leaf in leaves.items() if place[: len(keys)] == keys]
    if not keys or not found:
        there = ", ".join(map(_written, leaves))
        raise InputError(f"there is no {what} {path!r} that is a tensor; there are {there}")
    return found


def _written(path: Path) -> str:
    return path[0] + "".join(f"[{key}]" for key in path[1:]) if path else "the only one"


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each tensor of a tree of `runtime.calls`, by the keys that lead to it."""
    if "tensor" in tree:
        yield path, tree["tensor"]
    for key, item in _items(tree)[1]:
        yield from _leaves(item, (*path, str(key)))


def _items(tree: Mapping[str, Any]) -> tuple[str, list[tuple[Any, Any]]]:
    """The kind of a structure ("": it is none), and its parts by key or position."""
    kind = next((key for key, value in tree.items() if isinstance(value, list | Mapping)), "")
    parts = tree.get(kind, [])
    return kind, list(parts.items()) if isinstance(parts, Mapping) else list(enumerate(parts))


def without_inputs(signature: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The parameters of a call that does not pass these inputs, which are all of some parameters."""
    is_state = [any(leaf in names for _, leaf in _leaves(each["tree"])) for each in signature["parameters"]]
    return {"parameters": [each for each, gone in zip(signature["parameters"], is_state, strict=True) if not gone]}


def without_outputs(tree: Mapping[str, Any], positions: Collection[int]) -> dict[str, Any] | None:
    """What a call returns but these tensors, and structures of nothing else; None: all of it goes.

    A tuple or list of which one thing is left is that thing.
    """
    if "tensor" in tree:
        return None if tree["tensor"] in positions else dict(tree)
    kind, items = _items(tree)
    kept = {key: left for key, item in items if (left := without_outputs(item, positions)) is not None}
    if not items:
        return dict(tree)
    if not kept:
        return None
    if kind in ("tuple", "list") and len(kept) == 1 < len(items):
        return next(iter(kept.values()))
    return {**tree, kind: kept if isinstance(tree[kind], Mapping) else list(kept.values())}
