"""Graphs compiled for this CPU: `Session` runs arrays, `Model` is called as the original was, `load` reads one."""

from __future__ import annotations

import copy
import math
import os
import re
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import calls, dims, format, limits, segments
from .errors import InputError, LowbitError, UnsupportedError
from .interpreter import bind, validate
from .ir import DTYPES, Array, Dim, Graph, Node, Value, Weight, replace
from .ops import OPS, attributes
from .packings import PACKINGS
from .roofline import Limit, Roofline, measure, total

if TYPE_CHECKING:
    from . import _core
    from .report import Facts


REPEATS = 10
"""Calls of which a step's time is the median."""
FEW = 16
"""The size of a made-up input along a free axis that is no batch."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step of a profile: median seconds; operations (a multiply-add counts two) and bytes of one call."""

    node: str
    op: str
    kernel: str
    seconds: float
    operations: float
    bytes: float

    @property
    def gops(self) -> float:
        """Billions of operations a second."""
        return self.operations / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def limit(self, roof: Roofline) -> Limit:
        """The least time it can take on a machine, and what binds it."""
        return roof.limit(self.operations, self.bytes, "int8" if re.search(r"_i\d$", self.op) else "float32")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time of a call goes, step by step; prints as a table, with each step's share of what limits it."""

    rows: tuple[Row, ...]
    isa: str
    threads: int

    @property
    def seconds(self) -> float:
        """The sum over all steps."""
        return sum(row.seconds for row in self.rows)

    @property
    def roofline(self) -> Roofline:
        """The machine's limits for these threads and instructions; the first use in a process measures for 0.3 s."""
        return measure(threads=self.threads, isa=self.isa if self.isa != "torch" else None)

    @property
    def limit(self) -> Limit:
        """The sum of the steps' limits, named after what binds most of it."""
        roof = self.roofline
        return total([row.limit(roof) for row in self.rows])

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        seconds, roof = self.seconds or 1.0, self.roofline
        lines = [("node", "op", "kernel", "ms", "GOP/s", "of limit", "share")]
        for row in self.rows:
            rate = f"{row.gops:.1f}" if row.operations else ""
            share = f"{100 * row.seconds / seconds:.1f} %"
            near = row.limit(roof).of(row.seconds)
            lines.append((row.node, row.op, row.kernel, f"{row.seconds * 1e3:.4f}", rate, near, share))
        machine, near = f"{self.isa}, threads: {self.threads}", self.limit.of(self.seconds)
        lines.append(("total", "", machine, f"{self.seconds * 1e3:.4f}", "", near, "100.0 %"))
        return table(lines, right=(3, 4, 5, 6))

    def __rich__(self) -> str:
        return str(self)


def table(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Text in aligned columns, a rule under the first line; columns in `right` are flushed right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    out = []
    for line in lines:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        out.append("  ".join(cells).rstrip())
    out.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(out)


# -------------------------------------------------------------------------------------------------------------- session


class Session:
    """A valid graph, compiled: immutable, and safe to run from many threads at once.

    threads: of one call, at most (None: LOWBIT_THREADS, else what the process may use). isa: caps the instruction set
    (None: LOWBIT_ISA, else the best). Raises GraphError, UnsupportedError, InputError, EnvironmentVariableError.

    A pickle holds the bytes of the graph's file, and is compiled where it is loaded; it needs the graph to be alive
    still. A copy, deep or not, is the session itself.
    """

    def __init__(self, graph: Graph, *, threads: int | None = None, isa: str | None = None) -> None:
        if not isinstance(graph, Graph):
            raise InputError(f"a session is of a lowbit.ir.Graph, not of a {type(graph).__name__}")
        self._start(replace(graph, constants={}), _compile(validate(graph), threads, isa), _weight_bytes(graph))
        self._options: dict[str, Any] = {"threads": threads, "isa": isa}
        self._file = _of_graph(weakref.ref(graph))

    @classmethod
    def _finished(
        cls,
        graph: Graph,
        core: _core.Session | segments.Chain,
        weight_bytes: Mapping[str, int],
        threads: int | None,
        file: Callable[[], bytes],
    ) -> Session:
        """From what is compiled already, so that the caller can let go of the constants before they are packed."""
        session = cls.__new__(cls)
        session._start(graph, core, weight_bytes)
        session._options, session._file = {"threads": threads, "isa": None}, file
        return session

    def __reduce__(self) -> tuple[Any, ...]:
        return _session_of, (self._file(), self._options)

    def __copy__(self) -> Session:
        return self

    def __deepcopy__(self, memo: Any) -> Session:
        return self

    def _start(self, graph: Graph, core: _core.Session | segments.Chain, weight_bytes: Mapping[str, int]) -> None:
        self.graph = graph
        """The graph without its constants."""
        self.weight_bytes = weight_bytes
        """What each quantized weight takes in a file, by name."""
        self._core = core
        self._dtypes = {name: graph.values[name].dtype for name in graph.inputs}

    @property
    def inputs(self) -> tuple[tuple[str, Value], ...]:
        """Names and types, in the order of a positional call."""
        return tuple((name, self.graph.values[name]) for name in self.graph.inputs)

    @property
    def outputs(self) -> tuple[tuple[str, Value], ...]:
        """Names and types, in the order of the result."""
        return tuple((name, self.graph.values[name]) for name in self.graph.outputs)

    @property
    def isa(self) -> str:
        """The instruction set that kernels were chosen for."""
        return self._core.isa

    @property
    def threads(self) -> int:
        """How many threads a call uses at most."""
        return self._core.threads

    def _feeds(self, args: Sequence[Array], kwargs: Mapping[str, Array]) -> list[Array]:
        names = self.graph.inputs
        feeds = dict(zip(names, args, strict=False)) | dict(kwargs)
        if (
            len(args) + len(kwargs) != len(names)
            or len(feeds) != len(names)
            or any(name not in feeds for name in names)
        ):
            given = [*(f"#{index}" for index in range(len(args))), *kwargs]
            raise InputError(f"the inputs are {list(names)}, in this order or by name; got {given}")
        return [self._input(name, feeds[name]) for name in names]

    def _input(self, name: str, array: Array) -> Array:
        dtype = self._dtypes[name]
        if type(array) is np.ndarray and array.dtype == DTYPES[dtype]:
            return array
        return calls.read_array(calls.Leaf(input=name, dtype="", path=repr(name), value=array), dtype)

    def run(self, *args: Array, check_finite: Any = False, **kwargs: Array) -> list[Array]:
        """The outputs, in order, for inputs in order or by name. Raises InputError for any that do not fit.

        check_finite: nor may any hold NaN or infinity.
        """
        arrays = self._feeds(args, kwargs)
        if check_finite:
            calls.require_finite({repr(name): array for name, array in zip(self.graph.inputs, arrays, strict=True)})
        return self.run_list(arrays)

    def run_list(self, arrays: list[Array]) -> list[Array]:
        """`run` for arrays of the right dtypes, in order: nothing is done in Python."""
        try:
            return self._core.run(arrays)
        except (InputError, TypeError) as error:
            self._explain(arrays, str(error))
            raise
        except MemoryError:
            raise InputError(
                f"there is not enough memory to run inputs of shapes {[a.shape for a in arrays]}"
            ) from None

    def _explain(self, arrays: Any, reason: str) -> None:
        """Raises InputError for what the core, which gave a reason, says less well."""
        if not isinstance(arrays, list) or not all(isinstance(array, np.ndarray) for array in arrays):
            raise InputError(f"the inputs are a list of NumPy arrays, not {calls.kind_of(arrays)}")
        if len(arrays) != len(self.graph.inputs):
            raise InputError(f"the inputs are {list(self.graph.inputs)}; got {len(arrays)} arrays")
        sizes = bind(self.graph, dict(zip(self.graph.inputs, arrays, strict=True)))
        empty = [name for name, size in sizes.items() if size < self.graph.symbols[name].minimum]
        if empty:
            node = next((node for node in self.graph if reason.startswith(f"node {node.name!r} (")), None)
            place = f"{node.source}: " if node is not None and node.source else ""
            raise InputError(
                f"there is no answer where {empty[0]} is 0: {place}{reason}; call it with a sample or more"
            )

    def run_into(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """`run` that writes into the caller's C-contiguous arrays; allocates nothing once these shapes were run."""
        try:
            self._core.run_into(list(inputs), list(outputs))
        except TypeError:
            kinds = f"{calls.kind_of(inputs)} and {calls.kind_of(outputs)}"
            raise InputError(f"run_into takes lists of NumPy arrays, not {kinds}") from None

    def made_up(self, sizes: Mapping[str, int] | None = None) -> list[Array]:
        """Inputs that fit, of no meaning: normal floats, small integers.

        sizes: of free dimensions, else 1 or a few; what is not possible becomes the next size that is.
        """
        if sizes is not None and not isinstance(sizes, Mapping):
            raise InputError(f"sizes are {{name: size}}, not {calls.kind_of(sizes)}")
        symbols = self.graph.symbols
        wishes = {name: 1 if "batch" in name else FEW for name in symbols} | dict(sizes or {})
        free = {name: limits.nearest(symbol, wishes[name]) for name, symbol in symbols.items()}
        if not all(dims.holds(condition, free) for condition in self.graph.conditions):
            free = limits.smallest(symbols, self.graph.conditions) or free
        return [_made_up(self.graph.values[name], free) for name in self.graph.inputs]

    def profile(self, *args: Array, repeats: int = REPEATS, **kwargs: Array) -> Profile:
        """The median time of each step over `repeats` calls. Raises InputError."""
        return self.profile_list(self._feeds(args, kwargs), repeats)

    def profile_list(self, arrays: list[Array], repeats: int) -> Profile:
        """`profile` for arrays as `run_list` takes them."""
        if not isinstance(repeats, int) or not 1 <= repeats < 2**31:
            raise InputError(f"repeats must be a positive integer, is {repeats!r}")
        keys = ("node", "op", "kernel", "seconds", "operations", "bytes")
        steps = self._core.profile(arrays, repeats)
        rows = tuple(Row(**{key: step[key] for key in keys}) for step in steps)
        return Profile(rows=rows, isa=self.isa, threads=self.threads)

    def nodes(self) -> list[dict[str, Any]]:
        """node, op and kernel of each step."""
        return self._core.nodes()


def _weight_bytes(graph: Graph) -> dict[str, int]:
    return {name: format.stored_bytes(it) for name, it in graph.constants.items() if isinstance(it, Weight)}


def _compile(graph: Graph, threads: int | None, isa: str | None) -> _core.Session | segments.Chain:
    """A valid graph, compiled; with segments that torch runs where it has such."""
    if segments.has_segments(graph):
        return segments.Chain(graph, lambda piece: _finish(_fill(piece), threads, isa))
    return _finish(_fill(graph), threads, isa)


def _finish(builder: _core.GraphBuilder, threads: int | None, isa: str | None) -> _core.Session:
    if threads is not None and (type(threads) is not int or not 1 <= threads < 2**31):
        raise InputError(f"threads must be a positive integer or None, is {threads!r}")
    return builder.finish(isa=isa or "", threads=threads or 0)


def _fill(graph: Graph) -> _core.GraphBuilder:
    """A builder that holds the graph, with a copy of every constant that a node reads."""
    from . import _core

    if graph.states:
        raise UnsupportedError("graphs that keep states between calls are not available yet")
    builder = _core.GraphBuilder()
    trial = limits.smallest(graph.symbols, graph.conditions) or {}
    index = {
        name: builder.symbol(name, s.minimum, s.maximum, s.multiple, s.remainder, trial.get(name, 0))
        for name, s in limits.of_calls(graph).items()
    }
    for condition in graph.conditions:
        builder.condition(condition.kind, dims.to_rpn(condition.size, index))
    for name in graph.inputs:
        value = graph.values[name]
        builder.input(name, value.dtype, [_dim(dim, index) for dim in value.shape])
    read = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
    parts: dict[str, list[str]] = {}
    for name, constant in graph.constants.items():
        if name not in read:
            continue
        if isinstance(constant, Weight) and constant.packing in PACKINGS:
            parts[name] = _put_parts(builder, graph, name, constant)
        else:
            builder.constant(name, constant.codes if isinstance(constant, Weight) else constant)
    for node in graph.nodes:
        inputs, more = _with_parts(graph, node, parts)
        builder.node(node.op, node.name, inputs, list(node.outputs), {**_attributes(node, index), **more})
    for name in graph.outputs:
        builder.output(name)
    return builder


def _put_parts(builder: _core.GraphBuilder, graph: Graph, name: str, weight: Weight) -> list[str]:
    """A weight in groups: its packed codes under its own name; the names of its scales and zero points."""
    builder.constant(name, PACKINGS[weight.packing].pack(weight))
    names = []
    for part, array in (("scales", weight.scales), ("zero_points", weight.zero_points)):
        names.append(_unused(graph, f"{name}/{part}") if array is not None else "")
        if array is not None:
            builder.constant(names[-1], array)
    return names


def _unused(graph: Graph, name: str) -> str:
    while name in graph.values:
        name += "_"
    return name


def _with_parts(graph: Graph, node: Node, parts: Mapping[str, list[str]]) -> tuple[list[str], dict[str, Any]]:
    """A node's inputs and, of one with a weight in groups, the weight's parts behind them and its sizes."""
    inputs = list(node.inputs)
    weight = graph.constants.get(inputs[1]) if len(inputs) > 1 and inputs[1] in parts else None
    if not isinstance(weight, Weight):
        return inputs, {}
    inputs += [""] * (len(OPS[node.op].inputs) - len(inputs)) + parts[node.inputs[1]]
    sizes: dict[str, Any] = {"depth": math.prod(weight.shape[1:]), "group_size": weight.group_size}
    return inputs, sizes | ({"kernel": list(weight.shape[1:3])} if len(weight.shape) == 4 else {})


def _type(value: Value) -> str:
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def _made_up(value: Value, sizes: Mapping[str, int]) -> Array:
    if value.dtype not in DTYPES:
        raise InputError(f"an input of dtype {value.dtype} cannot be made up")
    shape = [dims.evaluate(dim, sizes) for dim in value.shape]
    dtype, random = DTYPES[value.dtype], np.random.default_rng(0)
    drawn: Any = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
    return np.asarray(drawn, dtype)


def _dim(dim: Dim, index: Mapping[str, int]) -> int | list[int]:
    return dims.to_rpn(dim, index) if isinstance(dim, str) else dim


def _attributes(node: Node, index: Mapping[str, int]) -> dict[str, Any]:
    """Every attribute with its default, in the types the runtime takes."""
    op = OPS[node.op]
    return {name: _attribute(op.attrs[name].kind, value, index) for name, value in attributes(op, node).items()}


def _attribute(kind: str, value: Any, index: Mapping[str, int]) -> Any:
    if kind == "dims":
        return [dims.to_rpn(dim, index) for dim in value]
    if kind == "dim":
        return [dims.to_rpn(value, index)]
    convert: Any = {"int": int, "ints": int, "float": float, "floats": float}.get(kind, str)
    return [convert(item) for item in value] if kind in ("ints", "floats") else convert(value)


# ---------------------------------------------------------------------------------------------------------------- model


class Model:
    """A session that is called as the original module was: same parameters, same structure of outputs, NumPy arrays.

    meta: "signature" and "output" (calls.py), "producer", "decisions". Raises FormatError for metadata that do not
    fit the graph. Subclasses may read and write other tensors than NumPy's.

    A pickle holds the file's bytes: of a model that was loaded, its file must be there, unchanged. Unpickling trusts
    what it reads, and so takes segments that run in torch. Copies share the session.
    """

    def __init__(self, session: Session, meta: Mapping[str, Any]) -> None:
        self.session = session
        self.meta = meta
        self._convention = calls.convention(meta, session.graph.inputs, len(session.graph.outputs))
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
        """Run the model. Raises InputError for inputs that do not fit, before anything is run.

        check_finite (a truth value; untyped, so that a checker takes `model(**tensors)`): also for inputs that hold NaN
        or infinity, which int8 codes with ranges from calibration do not carry on (docs/numerics.md).
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
        """Where the time of this call goes: the median of each step over `repeats` calls. Raises InputError."""
        return self.session.profile_list(self._arrays(args, kwargs), repeats)

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """node, op and kernel of each step."""
        return self.session.nodes()

    @property
    def decisions(self) -> list[Any]:
        """What convert decided for each layer, and why."""
        decisions = self.meta.get("decisions", [])
        return list(decisions) if isinstance(decisions, list) else []

    def report(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write one page of HTML that needs no network: size, speed, error against float32, and each layer with why.

        args, kwargs: a call to measure on; without one, the example of the conversion, else made-up inputs. Raises
        InputError, OSError.
        """
        from .report import render

        Path(path).write_text(render(self._facts(args, kwargs)), encoding="utf-8")

    def _facts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Facts:
        """What a report shows, measured now."""
        from .report import steps_of, timed

        given = bool(args or kwargs)
        arrays = self._arrays(args, kwargs) if given else self.session.made_up()
        return self._known(
            "the given inputs" if given else "made-up inputs",
            arrays,
            steps=steps_of(
                self.session.graph,
                self.session.profile_list(arrays, REPEATS),
                self.session.weight_bytes,
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
        from . import _core
        from .report import Facts, constants_of, rows_of

        meta, sizes = self.meta, list(constants_of(self.session.graph, self.session.weight_bytes).values())
        shapes = ", ".join(" x ".join(map(str, array.shape)) or "a scalar" for array in arrays)
        known: dict[str, Any] = {
            "name": str(meta.get("name") or "A lowbit model"),
            "producer": str(meta.get("producer", "lowbit")),
            "scheme": str(meta.get("scheme", "")),
            "cpu": str(_core.cpu()["model"]),
            "isa": self.session.isa,
            "threads": self.session.threads,
            "inputs": tuple(f"{name}: {_type(value)}" for name, value in self.session.inputs),
            "outputs": tuple(f"{name}: {_type(value)}" for name, value in self.session.outputs),
            "measured_on": f"{what} ({shapes})",
            "weight_bytes": sum(size for size, _ in sizes),
            "float_bytes": sum(size for _, size in sizes),
            "decisions": rows_of(meta.get("decisions"), node=str, scheme=str, reason=str),
            "sparsity": rows_of(meta.get("sparsity"), node=str, pattern=str, density=float),
            "evaluations": rows_of(
                meta.get("evaluations"),
                model=str,
                score=int | float,
                drop=int | float,
                int8_layers=int,
                float_layers=list | tuple,
            ),
            "max_drop": meta["max_drop"] if isinstance(meta.get("max_drop"), int | float) else None,
            "notes": tuple(map(str, meta.get("notes") or ())),
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
        return f"<lowbit.{type(self).__name__}({self._convention.describe()}), {self.session.isa}>"


def _of_graph(held: Callable[[], Graph | None], meta: Mapping[str, Any] | None = None) -> Callable[[], bytes]:
    """Makes the bytes of a graph's file, as long as the graph lives."""

    def file() -> bytes:
        graph = held()
        if graph is None:
            raise LowbitError("the graph of this session is gone, so it cannot be pickled: keep the graph, or its file")
        return format.dumps(graph, meta)

    return file


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


def _session_of(data: bytes, options: Mapping[str, Any]) -> Session:
    """From a pickle, which is trusted as any pickle must be: segments that run in torch are taken."""
    session = Session(format.loads(data)[0], **options)
    session._file = lambda: data
    return session


def _model_of(data: bytes, options: Mapping[str, Any]) -> Model:
    graph, meta = format.loads(data)
    model = Model(Session(graph, **options), meta)
    model.session._file = model._file = lambda: data
    return model


LEVELS = ("scalar", "avx2", "avxvnni", "avx512vnni")
"""The instruction sets that a model may be converted for, lower ones first."""


def _level() -> str:
    """The highest instruction set that sessions use here."""
    from . import _core

    return str(_core.cpu()["default_isa"])


def _warn_of_target(path: str | os.PathLike[str], meta: Mapping[str, Any]) -> None:
    """Say that a file was made for a CPU above this one: which layers are int8 was decided for that."""
    target, level = meta.get("target"), _level()
    if target in LEVELS and LEVELS.index(target) > LEVELS.index(level):
        warnings.warn(
            f"{path} was converted for {target}, and this CPU runs {level}: layers may be slower in int8 than in "
            f"float32 here. `lowbit bench` names them; lowbit.convert(..., target={level!r}) chooses for this CPU",
            stacklevel=3,
        )


def load(path: str | os.PathLike[str], *, threads: int | None = None, allow_torch: bool = False) -> Model:
    """The model of a `.lowbit` file, compiled for this CPU, without torch.

    threads: of one call, at most. allow_torch: whether a file may hold segments that run in torch (convert's
    `fallback="torch"`): their programs come from the file, so only for files that you trust. Warns where the file was
    converted for a higher instruction set than this CPU's. Raises FormatError,
    GraphError, EnvironmentVariableError, OSError, and UnsupportedError that names the segments.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"lowbit.load takes the path of a file, not a {type(path).__name__}")
    graph, meta = format.load(path)
    _warn_of_target(path, meta)
    file = _of_path(Path(path))
    if segments.has_segments(graph):
        if not allow_torch:
            raise UnsupportedError(
                f"{path} holds segments that run in torch: {segments.describe(graph)}. If you trust the file, load it "
                "with allow_torch=True; torch must then be installed"
            )
        model = Model(Session(graph, threads=threads), meta)
        model._file = file
        return model
    builder, sizes = _fill(graph), _weight_bytes(graph)
    graph = replace(graph, constants={})
    return Model(Session._finished(graph, _finish(builder, threads, None), sizes, threads, file), meta)
