"""Models that are served, by name: loaded, replaced while they run, and dropped.

A served model never changes. A reload makes another one and puts it in the first one's place; requests that have the
first one keep it until they are answered.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from ..errors import InputError, LowbitError
from ..graph.ir import DTYPES, Array
from ..runtime import calls, predictor, repository
from ..runtime.limits import Limits
from ..runtime.model import Model, load
from .batching import ALONE, batches_that_pay
from .executor import Executor, Job
from .figures import Figures
from .refusals import Refused, Status
from .tensors import DATATYPES, NAMES, Tensor

VERSION = "1"
"""Of each model: a file has no versions, and a reload replaces it."""
log = logging.getLogger("lowbit.serve")

Source = str | os.PathLike[str] | Model
Sources = Source | Mapping[str, Source] | Sequence[Source]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much a server takes on.

    Args:
        threads: Of one call of a model.
        concurrency: Calls at once; None: as many as the process has threads for.
        queue: Requests that wait for one of these; those beyond are refused.
        max_batch: Rows of a request, and of a batch that is made of several.
        max_bytes: Of a request's body, and of a message.
        timeout: Seconds that a request may take in all.

    Raises:
        InputError: What is not positive.
    """

    threads: int = 1
    concurrency: int | None = None
    queue: int = 64
    max_batch: int = 256
    max_bytes: int = 64 << 20
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = name != "timeout"
            if (value is None and name == "concurrency") or (
                isinstance(value, int if whole else int | float) and not isinstance(value, bool) and 0 < value < 2**31
            ):
                continue
            raise InputError(f"{name} is a positive {'integer' if whole else 'number'}, not {value!r}")

    @property
    def workers(self) -> int:
        """Calls at once."""
        return self.concurrency or max(1, int(_core.cpu()["threads"]) // self.threads)


class Served:
    """One loaded model with the protocol's names.

    Args:
        name: What requests call it.
        model: What runs.
        settings: Of the server.
        figures: Where runs are counted.
    """

    def __init__(self, name: str, model: Model, settings: Settings, figures: Figures) -> None:
        self.name, self.model, self.executed = name, model, figures.executed
        graph = model.session.graph
        leaves = predictor.inputs_of(model)
        self.inputs = {own: _tensor(own, leaf.dtype, graph.values[leaf.input]) for own, leaf in leaves.items()}
        self._order = {leaf.input: own for own, leaf in leaves.items()}
        trees = predictor.outputs_of(model)
        self._given: dict[str, int] = {own: tree["tensor"] for own, tree in trees.items()}
        self.outputs = {
            own: _tensor(own, tree.get("dtype", ""), graph.values[graph.outputs[tree["tensor"]]])
            for own, tree in trees.items()
        }
        self._feeds = [
            (self._order[value], DTYPES[graph.values[value].dtype], not graph.values[value].shape)
            for value in graph.inputs
        ]
        self.row = _row_symbol([graph.values[value].shape for value in (*graph.inputs, *graph.outputs)], graph.symbols)
        self.most = settings.max_batch if self.row else 0
        self.batch, self.delay = batches_that_pay(model.session, self.row, self.most) if self.row else ALONE
        self.running = 0
        self.together = 1

    def feed(self, given: Mapping[str, Array]) -> tuple[list[Array], int]:
        """The graph's inputs of a request's tensors, and how many rows they have. Raises InputError."""
        if given.keys() != self.inputs.keys():
            missing = [repr(name) for name in self.inputs if name not in given]
            surplus = [repr(name) for name in given if name not in self.inputs]
            problems = [
                f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("unknown", surplus)) if names
            ]
            raise InputError(f"the inputs are {', '.join(map(repr, self.inputs)) or 'none'}; {'; '.join(problems)}")
        arrays = []
        for own, dtype, is_scalar in self._feeds:
            array = given[own].astype(dtype, copy=False)
            arrays.append(array.reshape(()) if is_scalar else array)
        rows = arrays[0].shape[0] if self.row else 1
        if self.row and any(len(array) != rows for array in arrays):  # in a batch, others might make up for it
            sizes = {own: len(given[own]) for own in self.inputs}
            raise InputError(f"the inputs have different numbers of rows: {sizes}")
        if self.row and rows > self.most:
            raise InputError(f"a request has at most {self.most} rows here (--max-batch), not {rows}")
        return arrays, rows

    def run(self, arrays: list[Array]) -> list[Array]:
        """The graph's outputs. Raises InputError, LimitError."""
        return self.model.session.run_list(arrays)

    def check_outputs(self, names: Iterable[str]) -> None:
        """Raises InputError for outputs that the model does not have."""
        if unknown := [repr(name[:80]) for name in names if name not in self.outputs]:
            raise InputError(
                f"the model has no output {', '.join(unknown)}; it has {', '.join(map(repr, self.outputs))}"
            )

    def give(self, made: Sequence[Array], wanted: Iterable[str] | None) -> list[tuple[Tensor, Array]]:
        """The outputs that a request asks for, as the module gives them."""
        found = []
        for name in self.outputs if wanted is None else wanted:
            tensor = self.outputs[name]
            found.append((tensor, np.atleast_1d(made[self._given[name]]).astype(tensor.dtype, copy=False)))
        return found

    def metadata(self) -> dict[str, Any]:
        """The protocol's model metadata."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "lowbit",
            "inputs": [tensor.describe() for tensor in self.inputs.values()],
            "outputs": [tensor.describe() for tensor in self.outputs.values()],
        }

    def config(self) -> dict[str, Any]:
        """The model configuration of the protocol's extension; of a model with rows, `dims` are those of one."""
        first = 1 if self.row else 0
        found: dict[str, Any] = {
            "name": self.name,
            "platform": "lowbit",
            "backend": "lowbit",
            "max_batch_size": self.most,
        }
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            found[kind] = [
                {
                    "name": tensor.name,
                    "data_type": f"TYPE_{tensor.datatype}",
                    "dims": list(tensor.shape[first:]),
                }
                for tensor in tensors.values()
            ]
        if self.batch > 1:
            found["dynamic_batching"] = {"preferred_batch_size": [self.batch], "max_queue_delay_microseconds": 0}
        return found


def _tensor(name: str, dtype: str, value: Any) -> Tensor:
    numbers = {"int": DATATYPES["INT64"], "float": DATATYPES["FP64"]}
    kind = numbers.get(dtype) or calls.caller_dtype("" if dtype in calls.COMPLEX else dtype, value.dtype)
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return Tensor(name, NAMES[kind], kind, shape or (1,))


def _row_symbol(shapes: Sequence[Sequence[Any]], symbols: Mapping[str, Any]) -> str:
    """The free size that is the first of every input and output; "" without one."""
    first = {str(shape[0]) if shape else "" for shape in shapes}
    name = first.pop() if len(first) == 1 else ""
    return name if name in symbols else ""


class Models:
    """What a server serves, over both protocols at once: models, those who run them, and the figures of all that.

    Args:
        sources: A file, several, or {name: file}; a name is a file's own without its ending. A `lowbit.Model` may
            stand in for a file.
        settings: How much is taken on.

    Raises:
        InputError: Names that are not possible, or given twice.
        LowbitError, OSError: A file that cannot be loaded.
    """

    def __init__(self, sources: Sources, settings: Settings) -> None:
        self.settings, self._given = settings, sources
        self.sources = named(sources)
        self.figures = {name: Figures() for name in self.sources}
        self.draining = False
        self._loading = threading.Lock()
        self._known: dict[str, tuple[int, ...]] = {}
        self._served: dict[str, Served] = {}
        for name in self.sources:
            self._load(name)
        self.executor = Executor(settings.workers, settings.queue)

    def __reduce__(self) -> tuple[Any, ...]:
        return Models, (self._given, self.settings)

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return not self.draining

    @property
    def served(self) -> Mapping[str, Served]:
        """What is loaded, by name."""
        return self._served

    def get(self, name: str, version: str = "") -> Served:
        """A model that is loaded. Raises Refused."""
        found = self._served.get(name)
        if found is None or version not in ("", VERSION):
            what = f"model {name[:128]!r}" + (f" version {version[:20]!r}" if version else "")
            raise Refused(Status.NOT_FOUND, f"{what} is not served here")
        return found

    def metadata(self, admin: bool) -> dict[str, Any]:
        """The protocol's server metadata."""
        from .. import __version__

        extensions = ["binary_tensor_data", "model_configuration", "statistics"]
        found = [*extensions, *(["model_repository"] if admin else [])]
        return {"name": "lowbit", "version": __version__, "extensions": found}

    def statistics(self, name: str) -> dict[str, Any]:
        """A model's, as the protocol's extension has them."""
        return {"name": name, "version": VERSION, **self.figures[name].statistics()}

    def index(self, ready: bool) -> list[dict[str, str]]:
        """The repository: each file that the server was given, and whether it is served; ready: only those that are."""
        states = [(name, name in self._served) for name in self.sources]
        return [
            {
                "name": name,
                "version": VERSION,
                "state": "READY" if served else "UNAVAILABLE",
                "reason": "" if served else "unloaded",
            }
            for name, served in states
            if served or not ready
        ]

    def job(self, served: Served, given: Mapping[str, Array], deadline: float) -> Job:
        """A request that the executor can take. Raises InputError."""
        arrays, rows = served.feed(given)
        return Job(served, arrays, rows, deadline)

    def load(self, name: str) -> None:
        """Load a file again, or after it was unloaded.

        Raises Refused, LowbitError, OSError; the model that was there then stays.
        """
        if name not in self.sources:
            raise Refused(Status.NOT_FOUND, f"model {name[:128]!r} is not served here")
        with self._loading:
            self._load(name)

    def unload(self, name: str) -> None:
        """Serve it no more. Raises Refused."""
        with self._loading:
            self.get(name)
            self._served = {key: value for key, value in self._served.items() if key != name}

    def reload(self) -> list[str]:
        """Load each file that has changed, and is served.

        Returns:
            What did not load, and why; the old models stay there.
        """
        problems = []
        for name in [*self._served]:
            source = self.sources[name]
            try:
                with self._loading:
                    if isinstance(source, Model) or _state(source) == self._known[name]:
                        continue
                    self._load(name)
                log.info("reloaded %s", name)
            except (LowbitError, OSError) as error:
                problems.append(f"{name} was not reloaded, the model before it stays: {error}")
        return problems

    def _load(self, name: str) -> None:
        source = self.sources[name]
        if isinstance(source, Model):
            model = source
        else:
            state = _state(source)
            limits = Limits(seconds=self.settings.timeout)
            model = load(source, threads=self.settings.threads, limits=limits)
            self._known[name] = state
        self._served = {**self._served, name: Served(name, model, self.settings, self.figures[name])}

    def close(self) -> None:
        """End what runs requests."""
        self.executor.close()


def _state(path: str | os.PathLike[str]) -> tuple[int, ...]:
    found = Path(path).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def named(sources: Sources) -> dict[str, Source]:
    """{name: source} of any form of sources. Raises InputError."""
    if isinstance(sources, Mapping):
        pairs = [*sources.items()]
    else:
        several = [sources] if isinstance(sources, str | os.PathLike | Model) else [*sources]
        pairs = [_pair(each) for each in several]
    if not pairs:
        raise InputError("there is no model to serve: give the path of a .lowbit file")
    for name, source in pairs:
        if not isinstance(source, str | os.PathLike | Model):
            raise InputError(f"model {name!r} is the path of a file or a lowbit.Model, not a {type(source).__name__}")
    return repository.by_name(pairs)


def _pair(source: Source) -> tuple[str, Source]:
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"a {type(source).__name__} has no name to be served by: give {{name: model}}")
    return repository.pair(source)
