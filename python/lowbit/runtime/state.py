"""What one caller keeps between its calls of a session: caches of keys and values, recurrent states, buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FormatError, InputError
from ..graph import dims
from ..graph.ir import Array, Graph
from ..ops.caches import BLOCK

if TYPE_CHECKING:
    from .. import _core


class State:
    """The states of one caller of a session, which makes it: `session.state()`.

    One call at a time may have it; different states run at once. A call that fails leaves it as it was.

    Examples:
        >>> import numpy as np
        >>> from lowbit.graph.ir import Graph, Node, State, Value
        >>> row = Value(dtype="f32", shape=(1, 2))
        >>> graph = Graph(
        ...     inputs=("x", "sum"), outputs=("new", "y"), values=dict.fromkeys(("x", "sum", "new", "y"), row),
        ...     nodes=(
        ...         Node(op="add", name="a", inputs=("x", "sum"), outputs=("new",)),
        ...         Node(op="clip", name="c", inputs=("new",), outputs=("y",), attrs={"min": 0.0, "max": 9.0}),
        ...     ),
        ...     constants={}, states=(State(input="sum", output="new"),),
        ... )
        >>> session = lowbit.Session(graph)
        >>> state = session.state()
        >>> for _ in range(3):
        ...     y, = session.run(np.ones((1, 2), np.float32), state=state)
        >>> y
        array([[3., 3.]], dtype=float32)
    """

    def __init__(self, session: _core.Session, graph: Graph, sizes: Mapping[str, int]) -> None:
        self._session, self._graph, self._sizes = session, graph, dict(sizes)
        self._core = session.state(self._sizes)

    @property
    def arrays(self) -> dict[str, Array]:
        """Each state's memory by its input's name, to be read and written while no call has it."""
        return dict(zip((state.input for state in self._graph.states), self._core.arrays(), strict=True))

    @property
    def count(self) -> Array:
        """How many positions each row of the batch holds: int64 [batch].

        Raises:
            InputError: The graph counts no positions.
        """
        return self._counter().copy()

    def _counter(self) -> Array:
        name = next((state.count for state in self._graph.states if state.count), None)
        if name is None:
            raise InputError("the states of this graph have no positions that are counted")
        return self.arrays[name]

    def reset(self) -> None:
        """Begin anew; memory is given back."""
        self._core.reset()

    def truncate(self, count: int | Sequence[int] | Array) -> None:
        """Forget the positions from there on, as if they had never been run.

        Args:
            count: How many positions stay, of all rows or of each.

        Raises:
            InputError: More than there are, or states that hold more than positions.
        """
        counter = self._counter()
        wanted = np.asarray(count)
        if wanted.dtype.kind not in "iu" or wanted.shape not in ((), counter.shape):
            raise InputError(f"count must be an integer, or one for each of {len(counter)} rows, is {count!r}")
        if ((wanted < 0) | (wanted > counter)).any():
            raise InputError(f"{wanted.tolist()} positions cannot stay of {counter.tolist()}")
        others = [
            each.input for each in self._graph.states if not each.count and self.arrays[each.input] is not counter
        ]
        counted = {each.count for each in self._graph.states if each.count}
        others = [name for name in others if name not in counted]
        if others:
            raise InputError(f"states {others} hold what was before, not only positions: fork the state before instead")
        counter[:] = wanted

    def fork(self, rows: Sequence[int] | Array | None = None) -> State:
        """A copy that goes its own way, of all rows of the batch or of some.

        Args:
            rows: The rows in the copy's order, each as often as it is named; None: all.

        Returns:
            The copy.

        Raises:
            InputError: Rows that there are not, or a batch that is fixed.
            LimitError: The session may hold no more memory.
        """
        axes = self._batch_axes()
        if rows is None:
            made = State(self._session, self._graph, self._sizes)
            index: Array | None = None
        else:
            index = self._rows(rows)
            symbol = next(iter(self._symbols()))
            made = State(self._session, self._graph, {**self._sizes, symbol: len(index)})
        mine, theirs = self.arrays, made.arrays
        for name, part in self._used().items():
            taken = mine[name][part]
            theirs[name][part] = taken if index is None else np.take(taken, index, axis=axes[name])
        return made

    def _rows(self, rows: Sequence[int] | Array) -> Array:
        index = np.asarray(rows)
        symbols = self._symbols()
        if len(symbols) != 1:
            raise InputError("the batch of these states is fixed: fork all of it, without rows")
        size = self._sizes[next(iter(symbols))]
        if (
            index.ndim != 1
            or index.dtype.kind not in "iu"
            or index.size == 0
            or not ((index >= 0) & (index < size)).all()
        ):
            raise InputError(f"rows must be a list of numbers from 0 to {size - 1}, is {rows!r}")
        return index

    def _symbols(self) -> set[str]:
        shapes = (self._graph.values[state.input].shape for state in self._graph.states)
        return {name for shape in shapes for dim in shape for name in dims.symbols_of(dim)}

    def _batch_axes(self) -> dict[str, int]:
        values = ((state.input, self._graph.values[state.input]) for state in self._graph.states)
        return {name: next((i for i, dim in enumerate(it.shape) if isinstance(dim, str)), 0) for name, it in values}

    def _used(self) -> dict[str, tuple[slice, ...]]:
        """The part of each state's array that means something."""
        arrays = self.arrays
        used: dict[str, tuple[slice, ...]] = {}
        for state in self._graph.states:
            blocks = -(-int(arrays[state.count].max(initial=0)) // BLOCK) if state.count else None
            used[state.input] = (*(slice(None) for _ in range(state.axis)), slice(blocks))
        return used

    def save(self) -> bytes:
        """All of it that means something, for `session.restore`.

        Returns:
            The bytes of a safetensors file.
        """
        import safetensors.numpy

        arrays = self.arrays
        parts = {name: np.ascontiguousarray(arrays[name][part]) for name, part in self._used().items()}
        sizes = {name: str(size) for name, size in self._sizes.items()}
        return bytes(safetensors.numpy.save(parts, metadata=sizes))

    def _load(self, parts: Mapping[str, Array]) -> None:
        arrays, known = self.arrays, {state.input: state for state in self._graph.states}
        if parts.keys() != known.keys():
            raise FormatError(f"the states are {sorted(known)[:20]}, these are of {sorted(parts)[:20]}")
        for name in sorted(known, key=lambda name: bool(known[name].count)):  # counts come first
            part, to = parts[name], arrays[name]
            room = to[self._used()[name]] if known[name].count else to
            if part.dtype != to.dtype or part.shape != room.shape:
                raise FormatError(
                    f"state {name!r} is {to.dtype} {list(room.shape)} here, {part.dtype} {list(part.shape)} there"
                )
            room[:] = part
            if any(each.count == name for each in known.values()):
                self._check_counts(name, to)

    def _check_counts(self, name: str, counts: Array) -> None:
        most = min(
            BLOCK * self.arrays[state.input].shape[state.axis] for state in self._graph.states if state.count == name
        )
        if ((counts < 0) | (counts > most)).any():
            raise FormatError(f"state {name!r} counts {counts.tolist()[:20]} positions of {most}")

    def __repr__(self) -> str:
        counted = any(state.count for state in self._graph.states)
        return f"<lowbit.State of {self._sizes}{f', {self.count.tolist()} positions' if counted else ''}>"


def restored(session: _core.Session, graph: Graph, data: bytes) -> State:
    """The state whose `save()` gave these bytes. Raises FormatError, InputError."""
    import safetensors
    import safetensors.numpy

    try:
        parts = safetensors.numpy.load(data)
        sizes = _sizes(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FormatError(f"this is no state: {error}") from None
    made = State(session, graph, sizes)
    made._load(parts)
    return made


def _sizes(data: bytes) -> dict[str, int]:
    import json

    length = int.from_bytes(data[:8], "little")
    header: Any = json.loads(data[8 : 8 + length])
    return {str(name): int(size) for name, size in header.get("__metadata__", {}).items()}
