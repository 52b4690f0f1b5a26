"""A model as a function from arrays by name to arrays by name, for programs that send it to other processes.

A name is the way to a tensor in a call: `x`, `batch.mask`, `pair.0`. The only tensor of an output is `output`, those of
a tuple are `output.0` and so on, those of a dict or record are called by their keys.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..graph.ir import Array, Dim, Value
from . import calls
from .model import Model, load

ONLY = "output"
"""What the output of a model is called that has no name for it."""


class Tensor(NamedTuple):
    """What a tensor of a call is to the caller: who stores half floats, gives and gets half floats."""

    dtype: str
    """Of a NumPy array: `float32`, `float16`, `int64`, `bool`, `complex64`, ..."""
    shape: tuple[Dim, ...]
    """Sizes; those that are free until run time are text."""


_Key = tuple[str, int, int, int | None]
_loaded: dict[_Key, Model] = {}
_loading = threading.Lock()


class Predictor:
    """Runs a file's model on dicts of arrays: in Ray Data's `map_batches`, in a pool of processes, in a server.

    It is pickled as its arguments, loads the file when it is first needed, and a process holds a file's model once,
    however many predictors there are. Any number of threads may call it at once.

    Args:
        path: The file, which is to be found by every process under this name.
        threads: Of one call, at most; as `lowbit.load` has it.
        inputs: `{model's name: caller's name}`, where they differ.
        outputs: The names of the outputs that are wanted, or `{model's name: caller's name}` of them. None: all.

    Raises:
        InputError: When it is called: inputs that do not fit, or names that the model does not have.
        FormatError, LimitError: When it is first called: as `lowbit.load`.

    Examples:
        >>> import numpy as np, torch
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8)).save("net.lowbit")
        >>> predict = lowbit.Predictor("net.lowbit", threads=1, inputs={"input": "features"})
        >>> predict.inputs, predict.outputs
        (('features',), ('output',))
        >>> predict({"features": np.zeros((3, 8), np.float32), "label": np.zeros(3)})["output"].shape
        (3, 4)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | Sequence[str] | None = None,
    ) -> None:
        self._path, self._threads = os.fspath(path), threads
        self._renamed = dict(inputs or {})
        self._wanted = outputs if outputs is None or isinstance(outputs, Mapping) else {name: name for name in outputs}

    def __reduce__(self) -> tuple[Any, ...]:
        return _predictor, (self._path, self._threads, self._renamed, self._wanted)

    @property
    def model(self) -> Model:
        """The model, which is loaded now if it was not before."""
        found = Path(self._path)
        state = found.stat()
        key = (str(found.resolve()), state.st_mtime_ns, state.st_size, self._threads)
        with _loading:  # a second thread waits, and finds it
            if key not in _loaded:
                made = load(found, threads=self._threads)
                for other in [each for each in _loaded if (each[0], each[3]) == (key[0], key[3])]:
                    del _loaded[other]  # the file was replaced
                _loaded[key] = made
            return _loaded[key]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names that a call reads."""
        return tuple(self._called(self.model))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names that a call gives."""
        return tuple(self._given(self.model).values())

    def types(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What a call reads and gives.

        Returns:
            The inputs and the outputs by name. A number that is no tensor in the model's own output is one of no axes.
        """
        model, trees = self.model, outputs_of(self.model)
        values, outputs = model.session.graph.values, model.session.graph.outputs
        reads = {name: _tensor(leaf.dtype, values[leaf.input]) for name, leaf in self._called(model).items()}
        gives = {
            name: _tensor(trees[own].get("dtype", ""), values[outputs[trees[own]["tensor"]]])
            for own, name in self._given(model).items()
        }
        return reads, gives

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Any]:
        """Run the model.

        Args:
            batch: The inputs by name, samples along the first axis; what else it holds is left alone.

        Returns:
            The outputs by name.

        Raises:
            InputError: Inputs that are missing, or do not fit.
        """
        model = self.model
        called, given = self._called(model), self._given(model)
        missing = [name for name in called if name not in batch]
        if missing:
            raise InputError(
                f"missing: {', '.join(map(repr, missing))}; the batch holds {', '.join(map(repr, batch)) or 'nothing'}"
            )
        leaves = [calls.Leaf(leaf.input, leaf.dtype, repr(name), batch[name]) for name, leaf in called.items()]
        arrays = {leaf.input: model._read(leaf) for leaf in leaves}
        made = model.session.run_list([arrays[name] for name in model.session.graph.inputs])
        trees = outputs_of(model)
        return {name: calls.rebuild(trees[own], made, calls.write_array) for own, name in given.items()}

    def _called(self, model: Model) -> dict[str, calls.Leaf]:
        """What each of the caller's names feeds."""
        leaves = inputs_of(model)
        _check("input", self._renamed, leaves)
        return {self._renamed.get(name, name): leaf for name, leaf in leaves.items()}

    def _given(self, model: Model) -> dict[str, str]:
        """The caller's name of each output that is wanted, by the model's."""
        names = [*outputs_of(model)]
        wanted = {name: name for name in names} if self._wanted is None else dict(self._wanted)
        _check("output", wanted, names)
        return wanted

    def __repr__(self) -> str:
        return f"lowbit.Predictor({self._path!r}, threads={self._threads!r})"


def _tensor(dtype: str, value: Value) -> Tensor:
    """Of the caller's dtype, if it is not the graph's."""
    if dtype in calls.NUMBERS:
        return Tensor({"int": "int64", "float": "float64"}[dtype], ())
    shape = value.shape[:-1] if dtype in calls.COMPLEX else value.shape
    return Tensor(str(calls.caller_dtype(dtype, value.dtype)), shape)


def _predictor(path: str, threads: int | None, inputs: Any, outputs: Any) -> Predictor:
    return Predictor(path, threads=threads, inputs=inputs, outputs=outputs)


def inputs_of(model: Model) -> dict[str, calls.Leaf]:
    """What each name of a model's inputs feeds."""
    return {
        name: calls.Leaf(tree["tensor"], tree.get("dtype", ""), repr(name), None)
        for parameter in model._convention.parameters
        for name, tree in _tensors(parameter.tree, parameter.name)
    }


def outputs_of(model: Model) -> dict[str, Mapping[str, Any]]:
    """The tensors that a model gives, by name, as trees of the calling convention."""
    tree = model._convention.output
    return dict(_tensors(tree, "" if isinstance(_items(tree), Mapping) else ONLY))


def _tensors(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tensors of a structure, by name."""
    if "tensor" in tree:
        yield path, tree
        return
    items = _items(tree)
    for key, item in items.items() if isinstance(items, Mapping) else enumerate(items):
        yield from _tensors(item, f"{path}.{key}" if path else str(key))


def _items(tree: Mapping[str, Any]) -> Mapping[str, Any] | Sequence[Any]:
    """What a structure holds; of a tensor or constant, nothing."""
    kind = next((kind for kind in ("tuple", "list", "dict", "namedtuple", "object") if kind in tree), None)
    found: Mapping[str, Any] | Sequence[Any] = () if kind is None else tree[kind]
    return found


def _check(what: str, asked: Mapping[str, str], known: Any) -> None:
    wrong = [name for name in asked if name not in known]
    if wrong:
        raise InputError(
            f"the model has no {what} {', '.join(map(repr, wrong))}; it has {', '.join(map(repr, known)) or 'none'}"
        )
    if len(set(asked.values())) < len(asked):
        raise InputError(f"two {what}s have one name: {sorted(asked.values())}")
