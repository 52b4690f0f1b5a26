"""A session that is called as the original module was, and the file that it comes from."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, LowbitError, UnsupportedError
from ..graph.ir import Array, Graph, Value, replace
from ..graph.weights import Stored
from . import calls, format, segments
from .build import fill, finish
from .limits import Limits, checked, memory_for
from .meta import Meta
from .profile import REPEATS, Profile, Row
from .roofline import measure
from .session import Session, weights_of
from .targets import LEVELS, this_level
from .timing import timed

if TYPE_CHECKING:
    from .. import _core
    from ..report import Facts


class Model:
    """A session that is called as the original module was: same parameters, same structure of outputs, NumPy arrays.

    `lowbit.load` makes it. Any number of threads may call it at once. A pickle holds the file's bytes: of a model that
    was loaded, its file must be there, unchanged. Unpickling trusts what it reads, and so takes segments that run in
    torch. Copies share the session.

    Args:
        session: The compiled graph.
        meta: What a file says beyond the graph: "signature" and "output" (how it is called), "producer", "decisions".

    Raises:
        FormatError: Metadata that do not fit the graph.

    Examples:
        >>> import numpy as np, torch
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8)).save("net.lowbit")
        >>> lowbit.load("net.lowbit", threads=1).session.inputs[0][1].shape
        ('batch', 8)
    """

    def __init__(self, session: Session, meta: Meta | Mapping[str, Any]) -> None:
        self.session = session
        self.meta = meta if isinstance(meta, Meta) else Meta.read(meta)
        self._convention = calls.convention(self.meta, session.graph.inputs, len(session.graph.outputs))
        self._file = session._file

    def __reduce__(self) -> tuple[Any, ...]:
        return _model_of, (self._file(), self.session._options)

    def __deepcopy__(self, memo: Any) -> Model:
        return copy.copy(self)

    def __copy__(self) -> Model:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __call__(self, *args: Any, check_finite: Any = False, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            args: The inputs, as the original module takes them: arrays in its structure.
            check_finite: Also refuse inputs that hold NaN or infinity, which int8 codes with ranges from calibration do
                not carry on. (Untyped, so that a type checker takes `model(**tensors)`.)
            kwargs: Inputs by name.

        Returns:
            The outputs, in the module's structure. Classes that cannot be imported here are records with the same
            fields.

        Raises:
            InputError: Inputs that do not fit, before anything is run.
            LimitError: They take more than the session may.
        """
        arrays = self._arrays(args, kwargs)
        if check_finite:
            self._require_finite(args, kwargs, arrays)
        return self._rebuild(self.session.run_list(arrays))

    def _require_finite(self, args: Sequence[Any], kwargs: Mapping[str, Any], arrays: Sequence[Array]) -> None:
        """Says which argument it is, as the caller knows it."""
        paths = {leaf.input: leaf.path for leaf in self._convention.bind(args, kwargs)}
        calls.require_finite({paths[name]: it for name, it in zip(self.session.graph.inputs, arrays, strict=True)})

    def profile(self, *args: Any, repeats: int = REPEATS, **kwargs: Any) -> Profile:
        """Measure where the time of a call goes.

        Args:
            args: The inputs of a call.
            repeats: How many calls to measure; a step's time is their median.
            kwargs: Inputs by name.

        Returns:
            Seconds, operations and bytes of each step; it prints as a table.

        Raises:
            InputError: Inputs that do not fit, or repeats below 1.
            LimitError: They take more than the session may.
        """
        return self.session.profile_list(self._arrays(args, kwargs), repeats)

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """node, op and kernel of each step."""
        return self.session.nodes()

    @property
    def decisions(self) -> list[Any]:
        """What convert decided for each layer, and why."""
        return [asdict(decision) for decision in self.meta.decisions]

    def report(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write one page of HTML that needs no network: size, speed, error against float32, and each layer's reason.

        Args:
            path: Where to write it.
            args: The inputs of a call to measure on; without any, the example of the conversion, else made-up inputs.
            kwargs: Inputs by name.

        Raises:
            InputError: Inputs that do not fit.
            OSError: The file cannot be written.
        """
        from ..report import render

        Path(path).write_text(render(self._facts(args, kwargs)), encoding="utf-8")

    def _facts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Facts:
        """What a report shows, measured now."""
        from ..report import steps_of

        given = bool(args or kwargs)
        arrays = self._arrays(args, kwargs) if given else self.session.made_up()
        return self._known(
            "the given inputs" if given else "made-up inputs",
            arrays,
            steps=steps_of(
                self.session.graph,
                self.session.profile_list(arrays, REPEATS),
                self.session.weights,
                near=self._near(),
            ),
            times=timed({"this model": lambda: self.session.run_list(arrays)}),
        )

    def _near(self) -> Callable[[Row], str]:
        """Says of a step how near it comes to the machine's limit: `84 % int8`."""
        roof = measure(threads=self.session.threads, isa=self.session.isa if self.session.isa != "torch" else None)
        return lambda row: row.limit(roof).of(row.seconds)

    def _known(self, what: str, arrays: list[Array], **measured: Any) -> Facts:
        """What a report shows, but for what was measured on `arrays`."""
        from .. import _core
        from ..report import Facts, constants_of

        meta, sizes = self.meta, list(constants_of(self.session.graph, self.session.weights).values())
        shapes = ", ".join(" x ".join(map(str, array.shape)) or "a scalar" for array in arrays)
        known: dict[str, Any] = {
            "name": meta.name or "A lowbit model",
            "producer": meta.producer,
            "scheme": meta.scheme,
            "target": meta.target or "",
            "cpu": str(_core.cpu()["model"]),
            "isa": self.session.isa,
            "threads": self.session.threads,
            "inputs": tuple(f"{name}: {_type(value)}" for name, value in self.session.inputs),
            "outputs": tuple(f"{name}: {_type(value)}" for name, value in self.session.outputs),
            "measured_on": f"{what} ({shapes})",
            "weight_bytes": sum(size for size, _ in sizes),
            "float_bytes": sum(size for _, size in sizes),
            "decisions": tuple(map(asdict, meta.decisions)),
            "sparsity": tuple(map(asdict, meta.sparsity)),
            "evaluations": tuple(map(asdict, meta.evaluations)),
            "max_drop": meta.max_drop,
            "training": tuple((each.kind, each.facts) for each in meta.training),
            "goal": dict(meta.goal or {}),
            "trials": tuple(map(asdict, meta.trials)),
            "choices": tuple(map(asdict, meta.choices)),
            "sizes": tuple(map(asdict, meta.sizes)),
            "notes": meta.notes,
        }
        return Facts(**{**known, **measured})

    def _arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Array]:
        arrays = {leaf.input: self._read(leaf) for leaf in self._convention.bind(args, kwargs)}
        return [arrays[name] for name in self.session.graph.inputs]

    def _read(self, leaf: calls.Leaf) -> Array:
        return calls.read_array(leaf, self.session.graph.values[leaf.input].dtype)

    def _rebuild(self, outputs: Sequence[Array]) -> Any:
        return calls.rebuild(self._convention.output, outputs, calls.write_array)

    def __repr__(self) -> str:
        return f"<lowbit.Model({self._convention.describe()}), {self.session.isa}>"


def _type(value: Value) -> str:
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def _of_path(path: Path) -> Callable[[], bytes]:
    """Reads the bytes of a file that was loaded, unless it has changed since."""
    found, known = path.absolute(), path.stat()

    def file() -> bytes:
        try:
            now = found.stat()
            if (now.st_size, now.st_mtime_ns) == (known.st_size, known.st_mtime_ns):
                return found.read_bytes()
        except OSError:
            pass
        raise LowbitError(f"{found}, from which this model was loaded, is gone or has changed: it cannot be pickled")

    return file


def _model(session: Session, meta: Meta) -> Model:
    """A model; one that says what it needs to generate is a language model."""
    if meta.generation is None:
        return Model(session, meta)
    kinds = import_module(".language_model", __package__)  # which makes a kind of what is defined here
    made: Model = kinds.LanguageModel(session, meta)
    return made


def _model_of(data: bytes, options: Mapping[str, Any]) -> Model:
    graph, meta = format.loads(data)
    model = _model(Session(graph, allow_torch=True, **options), Meta.read(meta))
    model.session._file = model._file = lambda: data
    return model


def _warn_of_target(path: str | os.PathLike[str], meta: Meta) -> None:
    """Say that a file was made for a CPU above this one: which layers are int8 was decided for that."""
    target, level = meta.target, this_level()
    if target in LEVELS and LEVELS.index(target) > LEVELS.index(level):
        warnings.warn(
            f"{path} was converted for {target}, and this CPU runs {level}: layers may be slower in int8 than in "
            f"float32 here. `lowbit bench` names them; lowbit.convert(..., target={level!r}) chooses for this CPU",
            stacklevel=3,
        )


def _by_core(
    path: str | os.PathLike[str], threads: int | None, limits: Limits
) -> tuple[Graph, _core.Session, Mapping[str, Stored], Meta] | None:
    """What the reader in C++ makes of a file. None: it refuses it; Python's reader, the specification, says why."""
    from .. import _core

    if threads is not None and (type(threads) is not int or not 1 <= threads < 2**31):
        return None
    try:
        core, text, stored = _core.load_file(os.fsencode(path), threads=threads or 0, **vars(limits))
    except (LowbitError, MemoryError, UnicodeError):
        return None
    with memory_for(f"load {path}"):
        graph, document = format.outline(text, Path(path).stat().st_size)
        sizes = {name: Stored(bits=bits, bytes=size) for name, (bits, size) in stored.items()}
        return graph, core, sizes, Meta.read(document)


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    allow_torch: bool = False,
    limits: Limits | None = None,
) -> Model:
    """Load the model of a `.lowbit` file, compiled for this CPU, without torch.

    It warns where the file was converted for a higher instruction set than this CPU's.

    Args:
        path: The file.
        threads: Of one call, at most; None: LOWBIT_THREADS, else as many as the process may use (OMP_NUM_THREADS
            heeded).
        allow_torch: Whether the file may hold segments that run in torch (`fallback="torch"` of `lowbit.convert`).
            Their programs come from the file, so only for files that you trust.
        limits: What the model may take of memory, work and time; None: `Limits()`, for files that you do not know.

    Returns:
        The model, which takes and returns NumPy arrays, in the structure of the original module's calls.

    Raises:
        FormatError: What is no sound lowbit file, or is of a newer version.
        GraphError: A graph that is not valid.
        LimitError: It takes more memory than it may.
        UnsupportedError: Segments that run in torch, without `allow_torch`; the message names them.
        EnvironmentVariableError: LOWBIT_ISA or LOWBIT_THREADS asks for what this machine cannot do.
        OSError: The file cannot be read.

    Examples:
        >>> import numpy as np, torch
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8)).save("net.lowbit")
        >>> model = lowbit.load("net.lowbit", threads=1)
        >>> model(np.zeros((2, 8), np.float32)).shape
        (2, 4)
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"lowbit.load takes the path of a file, not a {type(path).__name__}")
    limits = checked(limits, Limits())
    read = _by_core(path, threads, limits)
    if read is not None:
        graph, core, sizes, meta = read
        _warn_of_target(path, meta)
        return _model(Session._finished(graph, core, sizes, threads, limits, _of_path(Path(path))), meta)
    graph, document, most = format.load_within(path, limits.memory)
    meta = Meta.read(document)
    _warn_of_target(path, meta)
    file = _of_path(Path(path))
    if segments.has_segments(graph):
        if not allow_torch:
            raise UnsupportedError(
                f"{path} holds segments that run in torch: {segments.describe(graph)}. If you trust the file, load it "
                "with allow_torch=True; torch must then be installed"
            )
        model = Model(Session(graph, threads=threads, limits=limits, allow_torch=True), meta)
        model._file = file
        return model
    with memory_for(f"load {path}"):
        sizes, constants = weights_of(graph), dict(graph.constants)
        graph = replace(graph, constants={})
        core = finish(fill(graph, constants), threads, None, limits, most)
    return _model(Session._finished(graph, core, sizes, threads, limits, file), meta)
