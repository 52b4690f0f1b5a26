"""A graph compiled for this CPU, which runs arrays."""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import InputError, LimitError, LowbitError
from ..graph import dims
from ..graph import limits as possible
from ..graph.ir import DTYPES, Array, Graph, Value, Weight, replace
from ..graph.weights import Stored, stored
from ..ops.interpreter import bind, validate, without_states
from . import calls, format, segments
from .build import compiled
from .limits import Limits, checked, memory_for
from .profile import REPEATS, Profile, Row
from .state import State, restored

if TYPE_CHECKING:
    from .. import _core

FEW = 16
"""The size of a made-up input along a free axis that is no batch."""
_DRAWN = 12
"""Bytes of an element that is made up: drawn in 64 bits, cast to 32."""


class Session:
    """A valid graph, compiled for this CPU: immutable, and safe to run from many threads at once.

    A pickle holds the bytes of the graph's file, and is compiled where it is loaded; it needs the graph to be alive
    still. A copy, deep or not, is the session itself.

    Args:
        graph: The graph.
        threads: Of one call, at most; None: LOWBIT_THREADS, else as many as the process may use (OMP_NUM_THREADS
            heeded).
        isa: Caps the instruction set: "scalar", "avx2", "avxvnni" or "avx512vnni"; None: LOWBIT_ISA, else the best.
        limits: What it may take of memory, work and time; None: `Limits()`.
        allow_torch: Whether the graph may hold segments that run in torch; only for graphs that you trust.

    Raises:
        GraphError: A graph that is not valid.
        UnsupportedError: Segments that run in torch, without `allow_torch` or in a graph that keeps states.
        InputError: Arguments of the wrong type, or out of range.
        EnvironmentVariableError: LOWBIT_ISA or LOWBIT_THREADS asks for what this machine cannot do.

    Examples:
        >>> import numpy as np, torch
        >>> graph = lowbit.convert(torch.nn.ReLU(), torch.randn(1, 3)).graph
        >>> session = lowbit.Session(graph, threads=1, isa="scalar")
        >>> session.run(np.array([[-1, 0, 2]], np.float32))
        [array([[0., 0., 2.]], dtype=float32)]
    """

    def __init__(
        self,
        graph: Graph,
        *,
        threads: int | None = None,
        isa: str | None = None,
        limits: Limits | None = None,
        allow_torch: bool = False,
    ) -> None:
        if not isinstance(graph, Graph):
            raise InputError(f"a session is of a lowbit.graph.ir.Graph, not of a {type(graph).__name__}")
        limits = checked(limits, Limits())
        with memory_for("compile the graph"):
            core = compiled(validate(graph), threads, isa, limits, allow_torch)
        self._start(replace(graph, constants={}), core, weights_of(graph))
        self._options: dict[str, Any] = {"threads": threads, "isa": isa, "limits": limits}
        self._file = _of_graph(weakref.ref(graph))

    @classmethod
    def _finished(
        cls,
        graph: Graph,
        core: _core.Session | segments.Chain,
        weights: Mapping[str, Stored],
        threads: int | None,
        limits: Limits,
        file: Callable[[], bytes],
    ) -> Session:
        """From what is compiled already, so that the caller can let go of the constants before they are packed."""
        session = cls.__new__(cls)
        session._start(graph, core, weights)
        session._options, session._file = {"threads": threads, "isa": None, "limits": limits}, file
        return session

    def __reduce__(self) -> tuple[Any, ...]:
        return _session_of, (self._file(), self._options)

    def __copy__(self) -> Session:
        return self

    def __deepcopy__(self, memo: Any) -> Session:
        return self

    def _start(self, graph: Graph, core: _core.Session | segments.Chain, weights: Mapping[str, Stored]) -> None:
        self.graph = without_states(graph)
        """The graph without its constants, as a caller sees it: states are no inputs and outputs."""
        self._whole = graph
        self.weights = weights
        """What each quantized weight is, and takes in a file, by name."""
        self._core = core
        self._dtypes = {name: graph.values[name].dtype for name in self.graph.inputs}

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

    def state(self, batch: int = 1, **sizes: int) -> State:
        """What one caller keeps between its calls, from the beginning.

        Args:
            batch: How many rows.
            sizes: Of other free sizes that states have, by name.

        Returns:
            The state, for `run(..., state=state)`.

        Raises:
            InputError: The graph has no states, or sizes that are not possible.
            LimitError: The session may hold no more memory.
        """
        core = self._with_states()
        free = dict.fromkeys((name for name in self.graph.symbols if "batch" in name), _whole("batch", batch))
        unknown = sizes.keys() - self.graph.symbols.keys()
        if unknown:
            raise InputError(f"there are no free sizes {sorted(unknown)}; there are {sorted(self.graph.symbols)}")
        return State(core, self._whole, {**free, **{name: _whole(name, size) for name, size in sizes.items()}})

    def restore(self, data: bytes) -> State:
        """The state whose `save()` gave these bytes.

        Args:
            data: The bytes.

        Returns:
            The state.

        Raises:
            FormatError: These are none of a state of this graph.
            LimitError: The session may hold no more memory.
        """
        return restored(self._with_states(), self._whole, data)

    def _with_states(self) -> _core.Session:
        if not self._whole.states:
            raise InputError("this graph keeps nothing between calls: it has no states")
        return cast("_core.Session", self._core)  # segments that torch runs have none

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

    def run(
        self, *args: Array, state: State | Array | None = None, check_finite: Any = False, **kwargs: Array
    ) -> list[Array]:
        """Run the graph.

        Args:
            args: The inputs in order.
            state: What the caller keeps, which this call goes on from and leaves behind; None: one that begins anew,
                for this call alone.
            check_finite: Also refuse inputs that hold NaN or infinity.
            kwargs: Inputs by name.

        Returns:
            The outputs, in order.

        Raises:
            InputError: Inputs that do not fit.
            LimitError: They take more than the session may.
        """
        if not isinstance(state, State | None):  # an input of that name
            kwargs, state = {**kwargs, "state": state}, None
        arrays = self._feeds(args, kwargs)
        if check_finite:
            calls.require_finite({repr(name): array for name, array in zip(self.graph.inputs, arrays, strict=True)})
        return self.run_list(arrays, state)

    def run_list(self, arrays: list[Array], state: State | None = None) -> list[Array]:
        """`run` for arrays of the right dtypes, in order: nothing is done in Python.

        Args:
            arrays: The inputs.
            state: As of `run`.

        Returns:
            The outputs, in order.

        Raises:
            InputError: Inputs that do not fit.
            LimitError: They take more than the session may.
        """
        try:
            return self._core.run(arrays) if state is None else self._with_states().run(arrays, state._core)
        except (InputError, TypeError, MemoryError) as error:
            self._explain(arrays, error)
            raise

    def _explain(self, arrays: Any, error: Exception) -> None:
        """Raises InputError for what the core, which gave an error, says less well."""
        if not isinstance(arrays, list) or not all(isinstance(array, np.ndarray) for array in arrays):
            raise InputError(f"the inputs are a list of NumPy arrays, not {calls.kind_of(arrays)}")
        if len(arrays) != len(self.graph.inputs):
            raise InputError(f"the inputs are {list(self.graph.inputs)}; got {len(arrays)} arrays")
        if isinstance(error, MemoryError):
            shapes = [array.shape for array in arrays]
            raise InputError(f"there is not enough memory to run inputs of shapes {shapes}")
        reason, sizes = str(error), bind(self.graph, dict(zip(self.graph.inputs, arrays, strict=True)))
        empty = [name for name, size in sizes.items() if size < self.graph.symbols[name].minimum]
        if empty:
            node = next((node for node in self.graph if reason.startswith(f"node {node.name!r} (")), None)
            place = f"{node.source}: " if node is not None and node.source else ""
            raise InputError(
                f"there is no answer where {empty[0]} is 0: {place}{reason}; call it with a sample or more"
            )

    def run_into(self, inputs: Sequence[Array], outputs: Sequence[Array], state: State | None = None) -> None:
        """`run` that writes into the caller's arrays; it allocates nothing once these shapes were run.

        Args:
            inputs: The inputs, in order.
            outputs: C-contiguous arrays of the outputs' shapes and dtypes, which are written.
            state: As of `run`.

        Raises:
            InputError: Arrays that do not fit.
            LimitError: They take more than the session may.
        """
        try:
            self._core.run_into(list(inputs), list(outputs), *(() if state is None else (state._core,)))
        except TypeError:
            kinds = f"{calls.kind_of(inputs)} and {calls.kind_of(outputs)}"
            raise InputError(f"run_into takes lists of NumPy arrays, not {kinds}") from None
        except MemoryError:
            raise InputError("there is not enough memory to run these inputs") from None

    def made_up(self, sizes: Mapping[str, int] | None = None) -> list[Array]:
        """Inputs that fit, of no meaning: normal floats, small integers.

        Args:
            sizes: Of free dimensions, by name; else 1 or a few. What is not possible becomes the next size that is.

        Returns:
            The inputs, in order.

        Raises:
            InputError: Sizes that are no mapping of names to integers, or are not possible.
            LimitError: The inputs would take more memory than the session may use.
        """
        if sizes is not None and not isinstance(sizes, Mapping):
            raise InputError(f"sizes are {{name: size}}, not {calls.kind_of(sizes)}")
        symbols = self.graph.symbols
        given = {name: _whole(name, size) for name, size in (sizes or {}).items()}
        wanted = {name: 1 if "batch" in name else FEW for name in symbols} | given
        free = {name: possible.nearest(symbol, wanted[name]) for name, symbol in symbols.items()}
        if not all(dims.holds(condition, free) for condition in self.graph.conditions):
            free = possible.smallest(symbols, self.graph.conditions) or free
        self._check_room(free)
        with memory_for("make up inputs"):
            return [_made_up(self.graph.values[name], free) for name in self.graph.inputs]

    def _check_room(self, free: Mapping[str, int]) -> None:
        """Refuses made-up inputs of sizes that are negative, or beyond the memory that there is."""
        from .. import _core

        shapes = [[dims.evaluate(dim, free) for dim in value.shape] for _, value in self.inputs]
        if any(size < 0 for shape in shapes for size in shape):
            raise InputError(f"inputs of shapes {shapes[:20]} cannot be made up: give the free sizes, or inputs")
        needed = sum(_DRAWN * math.prod(shape) for shape in shapes)
        most = self._options["limits"].memory or _core.available_memory()
        if needed > most:
            raise LimitError(
                f"inputs of shapes {shapes[:20]} are too large to be made up: that takes {needed:,} bytes, and "
                f"{most:,} may be used; give smaller sizes, or inputs"
            )

    def profile(
        self, *args: Array, repeats: int = REPEATS, state: State | Array | None = None, **kwargs: Array
    ) -> Profile:
        """Measure the time of each step.

        Args:
            args: The inputs in order.
            repeats: How many calls to measure; a step's time is their median.
            state: What the calls go on from; it stays as it is.
            kwargs: Inputs by name.

        Returns:
            Seconds, operations and bytes of each step; it prints as a table.

        Raises:
            InputError: Inputs that do not fit, or repeats below 1.
            LimitError: They take more than the session may.
        """
        if not isinstance(state, State | None):  # an input of that name
            kwargs, state = {**kwargs, "state": state}, None
        return self.profile_list(self._feeds(args, kwargs), repeats, state)

    def profile_list(self, arrays: list[Array], repeats: int, state: State | None = None) -> Profile:
        """`profile` for arrays as `run_list` takes them.

        Args:
            arrays: The inputs.
            repeats: How many calls to measure.
            state: As of `profile`.

        Returns:
            The profile.

        Raises:
            InputError: Inputs that do not fit, or repeats below 1.
            LimitError: They take more than the session may.
        """
        if not isinstance(repeats, int) or not 1 <= repeats < 2**31:
            raise InputError(f"repeats must be a positive integer, is {repeats!r}")
        keys = ("node", "op", "kernel", "seconds", "operations", "bytes")
        try:
            steps = self._core.profile(arrays, repeats, *(() if state is None else (state._core,)))
        except (InputError, TypeError, MemoryError) as error:
            self._explain(arrays, error)
            raise
        rows = tuple(Row(**{key: step[key] for key in keys}) for step in steps)
        return Profile(rows=rows, isa=self.isa, threads=self.threads)

    def nodes(self) -> list[dict[str, Any]]:
        """What runs, step by step.

        Returns:
            "node", "op" and "kernel" of each step.
        """
        return self._core.nodes()


def weights_of(graph: Graph) -> dict[str, Stored]:
    """What each quantized weight takes in a file, by name."""
    return {name: stored(it) for name, it in graph.constants.items() if isinstance(it, Weight)}


def _whole(name: str, size: Any) -> int:
    try:
        return operator.index(size)
    except TypeError:
        raise InputError(f"size {name!r} must be an integer, is {size!r}") from None


def _made_up(value: Value, sizes: Mapping[str, int]) -> Array:
    if value.dtype not in DTYPES:
        raise InputError(f"an input of dtype {value.dtype} cannot be made up")
    shape = [dims.evaluate(dim, sizes) for dim in value.shape]
    dtype, random = DTYPES[value.dtype], np.random.default_rng(0)
    drawn: Any = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
    return np.asarray(drawn, dtype)


def _of_graph(held: Callable[[], Graph | None], meta: Mapping[str, Any] | None = None) -> Callable[[], bytes]:
    """Makes the bytes of a graph's file, as long as the graph lives."""

    def file() -> bytes:
        graph = held()
        if graph is None:
            raise LowbitError("the graph of this session is gone, so it cannot be pickled: keep the graph, or its file")
        return format.dumps(graph, meta)

    return file


def _session_of(data: bytes, options: Mapping[str, Any]) -> Session:
    """From a pickle, which is trusted as any pickle must be: segments that run in torch are taken."""
    session = Session(format.loads(data)[0], allow_torch=True, **options)
    session._file = lambda: data
    return session
