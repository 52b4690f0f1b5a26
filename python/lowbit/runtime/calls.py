"""What a call of a model looks like, kept as plain JSON: which parameters it takes, and the structure it returns.

    signature = {"parameters": [{"name": text, "kind": "positional" | "positional_only" | "keyword", "tree": tree}]}
    tree      = {"tensor": graph input (in a signature) or output index (in an output), "dtype"?: the caller's dtype; of
                 an output, "int" or "float" for a Python number; "c64" and "c128" are f32 [..., 2] in the graph}
              | {"constant": number, text, truth value or null}
              | {"tuple": [trees]} | {"list": [trees]} | {"dict": {key: tree}}
              | {"namedtuple": {key: tree}, "class": text} | {"object": {key: tree}, "class": text}

A class is only a name here. It is never imported on behalf of a file: `Record` and `TupleRecord` stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import FormatError, InputError
from ..graph.ir import DTYPES, Array
from .meta import Meta

MAX_DEPTH = 50
NUMBERS = {"int": int, "float": float}
"""Outputs that are numbers, not tensors: sizes, and what is computed from them."""
_KINDS = ("positional", "positional_only", "keyword")
_CALLER_DTYPES = {**DTYPES, "f64": np.dtype(np.float64)}
COMPLEX: dict[str, np.dtype[Any]] = {"c64": np.dtype(np.complex64), "c128": np.dtype(np.complex128)}
"""Complex numbers of the caller's: a graph has them as f32 with an axis of two at the end."""


def caller_dtype(dtype: str, own: str) -> np.dtype[Any]:
    """What the caller has for a tensor that is of dtype `own` in the graph; `dtype` as in a tree, or ""."""
    return COMPLEX.get(dtype) or _CALLER_DTYPES.get(dtype) or DTYPES[own]


class Record(dict[str, Any]):
    """A dict with attribute access and access by position: stands in for dataclasses and transformers' ModelOutput."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no field {name!r}; there are {', '.join(self)}")

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields in order, those that are None left out."""
        return tuple(value for value in self.values() if value is not None)


class TupleRecord(tuple[Any, ...]):
    """A tuple whose items also have names: stands in for a named tuple."""

    _fields: tuple[str, ...]

    def __new__(cls, fields: Mapping[str, Any]) -> TupleRecord:
        made = super().__new__(cls, tuple(fields.values()))
        made._fields = tuple(fields)
        return made

    def __getattr__(self, name: str) -> Any:
        if name != "_fields" and name in self._fields:
            return self[self._fields.index(name)]
        raise AttributeError(f"no field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return TupleRecord, (dict(zip(self._fields, self, strict=True)),)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a call."""

    name: str
    kind: str
    tree: Mapping[str, Any]


class Leaf(NamedTuple):
    """One tensor of a call: the graph input it feeds, the caller's dtype, and what messages call it."""

    input: str
    dtype: str
    path: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How a model is called and what it returns."""

    parameters: tuple[Parameter, ...]
    output: Mapping[str, Any]

    @cached_property
    def _plain(self) -> list[tuple[str, str, str]] | None:
        """Input, dtype and path of each parameter, if every one is a single tensor that may be positional."""
        if any(p.kind == "keyword" or "tensor" not in p.tree for p in self.parameters):
            return None
        return [(p.tree["tensor"], p.tree.get("dtype", ""), repr(p.name)) for p in self.parameters]

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Leaf]:
        """The tensors of a call. Raises InputError that names everything missing, surplus or of another structure."""
        if not kwargs and self._plain is not None and len(args) == len(self._plain):  # nearly every call
            return [Leaf(*leaf, value) for leaf, value in zip(self._plain, args, strict=True)]
        given = self._by_name(args, kwargs)
        leaves: list[Leaf] = []
        problems: list[str] = []
        for parameter in self.parameters:
            if parameter.name in given:
                _match(parameter.tree, given[parameter.name], repr(parameter.name), leaves, problems)
        if problems:
            raise InputError("; ".join(problems) + f". The call is ({self.describe()}).")
        return leaves

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        positional = [parameter.name for parameter in self.parameters if parameter.kind != "keyword"]
        by_keyword = {parameter.name for parameter in self.parameters if parameter.kind != "positional_only"}
        given = dict(zip(positional, args, strict=False))
        problems = []
        if len(args) > len(positional):
            problems.append(f"{len(args)} positional inputs were given, {len(positional)} are taken")
        for name, value in kwargs.items():
            if name not in by_keyword:
                problems.append(f"there is no input {name!r}")
            elif name in given:
                problems.append(f"input {name!r} was given twice")
            given[name] = value
        missing = [p.name for p in self.parameters if p.name not in given and not is_constant(p.tree)]
        if missing:
            problems.append(f"missing: {', '.join(map(repr, missing))}")
        if problems:
            raise InputError("; ".join(problems) + f". The call is ({self.describe()}).")
        return given

    def describe(self) -> str:
        """The parameters, as a person would write them."""
        return ", ".join(
            f"{p.name}={p.tree['constant']!r}" if "constant" in p.tree else p.name for p in self.parameters
        )


def convention(meta: Meta, inputs: Sequence[str], outputs: int) -> Convention:
    """The convention in a file's metadata ("signature" and "output"); without one, one tensor an input and output.

    inputs: the graph's, by name. outputs: how many the graph has. Raises FormatError.
    """
    signature = meta.signature
    if signature is None:
        parameters = tuple(Parameter(name=name, kind="positional", tree={"tensor": name}) for name in inputs)
    else:
        entries = signature.get("parameters")
        if not isinstance(entries, list):
            raise FormatError("the signature is not a list of parameters")
        known = set(inputs)
        parameters = tuple(_parameter(entry, known) for entry in entries)
    output = meta.output
    if output is None:
        output = {"tensor": 0} if outputs == 1 else {"tuple": [{"tensor": index} for index in range(outputs)]}
    _check_tree(output, lambda key: isinstance(key, int) and not isinstance(key, bool) and 0 <= key < outputs)
    _check_parameters(parameters, inputs)
    return Convention(parameters=parameters, output=output)


def _parameter(entry: Any, inputs: set[str]) -> Parameter:
    if not isinstance(entry, dict) or set(entry) != {"name", "kind", "tree"} or not isinstance(entry["name"], str):
        raise FormatError("a parameter of the signature is not {name, kind, tree}")
    if entry["kind"] not in _KINDS:
        raise FormatError(f"parameter {entry['name']!r} is of no kind that lowbit knows")
    _check_tree(entry["tree"], lambda key: isinstance(key, str) and key in inputs)
    return Parameter(name=entry["name"], kind=entry["kind"], tree=entry["tree"])


def _check_parameters(parameters: Sequence[Parameter], inputs: Sequence[str]) -> None:
    names = [parameter.name for parameter in parameters]
    fed = [tree["tensor"] for parameter in parameters for tree in _leaves(parameter.tree) if "tensor" in tree]
    if len(set(names)) < len(names) or sorted(fed) != sorted(inputs):
        raise FormatError(f"the signature feeds {fed[:20]}, the graph takes {list(inputs)[:20]}")


def _items(tree: Mapping[str, Any]) -> tuple[str, list[Any]]:
    kind = next((kind for kind in ("tuple", "list", "dict", "namedtuple", "object") if kind in tree), "")
    return kind, list(tree[kind].values() if isinstance(tree[kind], Mapping) else tree[kind]) if kind else []


def _leaves(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    kind, items = _items(tree)
    if not kind:
        yield tree
    for item in items:
        yield from _leaves(item)


def _check_tree(tree: Any, is_tensor: Callable[[Any], bool], depth: int = 0) -> None:
    """Raises FormatError for what the grammar at the head of this file does not make."""
    if not isinstance(tree, dict) or depth > MAX_DEPTH:
        raise FormatError("a structure of inputs or outputs is not sound")
    keys = set(tree)
    if keys == {"constant"} and (tree["constant"] is None or isinstance(tree["constant"], (bool, int, float, str))):
        return
    if keys <= {"tensor", "dtype"} and "tensor" in keys and is_tensor(tree["tensor"]):
        if tree.get("dtype", "f32") not in (*_CALLER_DTYPES, *COMPLEX, *NUMBERS, "bf16"):
            raise FormatError(f"an input or output has dtype {str(tree['dtype'])[:40]!r}")
        return
    kind = next(iter(keys - {"class"}), "")
    shape = list if kind in ("tuple", "list") else dict
    named = kind in ("namedtuple", "object")
    if (
        kind not in ("tuple", "list", "dict", "namedtuple", "object")
        or keys != ({kind, "class"} if named else {kind})
        or not isinstance(tree[kind], shape)
        or (named and not isinstance(tree["class"], str))
    ):
        raise FormatError("a structure of inputs or outputs is not sound")
    for item in tree[kind].values() if shape is dict else tree[kind]:
        _check_tree(item, is_tensor, depth + 1)


def is_constant(tree: Mapping[str, Any]) -> bool:
    """Whether the tree holds no tensor, so that the argument may be left out."""
    return all("constant" in leaf for leaf in _leaves(tree))


def _match(tree: Mapping[str, Any], value: Any, path: str, leaves: list[Leaf], problems: list[str]) -> None:
    """Collects the tensors of `value`, which must have the tree's structure."""
    if "tensor" in tree:
        leaves.append(Leaf(input=tree["tensor"], dtype=tree.get("dtype", ""), path=path, value=value))
    elif "constant" in tree:
        if type(value) is not type(tree["constant"]) or value != tree["constant"]:
            problems.append(
                f"{path} was {tree['constant']!r} when the model was converted and cannot change to {value!r}"
            )
    elif "dict" in tree:
        keys = list(value) if isinstance(value, Mapping) else None
        if keys is None or set(keys) != set(tree["dict"]):
            problems.append(
                f"{path} must be a dict of {list(tree['dict'])}, is {kind_of(value) if keys is None else keys}"
            )
            return
        for key, item in tree["dict"].items():
            _match(item, value[key], f"{path}[{key!r}]", leaves, problems)
    else:
        kind, items = _items(tree)
        if not isinstance(value, (tuple, list)) or len(value) != len(items):
            problems.append(f"{path} must be a {kind} of {len(items)}, is {kind_of(value)}")
            return
        for index, item in enumerate(items):
            _match(item, value[index], f"{path}[{index}]", leaves, problems)


def kind_of(value: Any) -> str:
    """What messages call a value."""
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")


def read_array(leaf: Leaf, expected: str) -> Array:
    """The array of dtype `expected` that a leaf feeds; a session takes any strides.

    Casts only from the dtype that the caller's model takes (`leaf.dtype`), such as float16. Raises InputError.
    """
    target = DTYPES[expected]
    if not isinstance(leaf.value, np.ndarray):
        got = kind_of(leaf.value)
        raise InputError(f"input {leaf.path} must be a NumPy array, is {got}: use np.asarray(x, np.{target})")
    array: Array = leaf.value
    if leaf.dtype in COMPLEX:
        if array.dtype != COMPLEX[leaf.dtype]:
            wanted = COMPLEX[leaf.dtype]
            raise InputError(f"input {leaf.path} must be {wanted}, is {array.dtype}: use x.astype(np.{wanted})")
        return np.stack([array.real, array.imag], axis=-1).astype(target)
    if array.dtype != target:
        if not leaf.dtype or array.dtype != _CALLER_DTYPES.get(leaf.dtype, target):
            wanted = _CALLER_DTYPES.get(leaf.dtype, target)
            raise InputError(f"input {leaf.path} must be {wanted}, is {array.dtype}: use x.astype(np.{wanted})")
        array = array.astype(target)
    return array


def require_finite(arrays: Mapping[str, Array]) -> None:
    """Raises InputError that names every array of floats with NaN or infinity in it, and how many values those are."""
    problems = []
    for path, array in arrays.items():
        finite = np.isfinite(array) if array.dtype.kind == "f" else None
        if finite is not None and not finite.all():
            nans, bad = int(np.isnan(array).sum()), int(array.size - np.count_nonzero(finite))
            problems.append(f"input {path} has {nans} NaN and {bad - nans} infinite of {array.size} values")
    if problems:
        raise InputError("; ".join(problems) + ": find out where they come from, or call without check_finite")


def rebuild(
    tree: Mapping[str, Any],
    outputs: Sequence[Any],
    write: Callable[[Any, str], Any],
    make: Callable[[str, dict[str, Any]], Any] | None = None,
) -> Any:
    """The structure a call returns. write(output, dtype) makes a tensor; make(class, fields) may make an object."""
    if "tensor" in tree:
        return write(outputs[tree["tensor"]], tree.get("dtype", ""))
    if "constant" in tree:
        return tree["constant"]
    kind, items = _items(tree)
    values = [rebuild(item, outputs, write, make) for item in items]
    if kind in ("tuple", "list"):
        return tuple(values) if kind == "tuple" else values
    fields = dict(zip(tree[kind], values, strict=True))
    if kind == "dict":
        return fields
    if make is not None:
        return make(tree["class"], fields)
    return TupleRecord(fields) if kind == "namedtuple" else Record(fields)


def write_array(output: Array, dtype: str) -> Any:
    """An output as the caller's model would return it; bfloat16, which NumPy lacks, stays float32."""
    if dtype in NUMBERS and output.size == 1:
        return NUMBERS[dtype](output.item())
    if dtype in COMPLEX:
        return np.ascontiguousarray(output).view(np.complex64)[..., 0].astype(COMPLEX[dtype], copy=False)
    return output.astype(_CALLER_DTYPES[dtype], copy=False) if dtype in _CALLER_DTYPES else output
