"""The compiled core: graphs become sessions."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

_Array = npt.NDArray[Any]
_F32 = npt.NDArray[np.float32]
_U8 = npt.NDArray[np.uint8]
_Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[Sequence[int]]

class Cpu(TypedDict):
    """`isas` ascending; `default_isa` and `threads` after LOWBIT_ISA and LOWBIT_THREADS."""

    model: str
    isas: list[str]
    default_isa: str
    threads: int

class Memory(TypedDict):
    """packed_bytes: weights and constants, once a session. held_bytes: these, and what contexts, plans and the outputs
    of calls take, at most limit_bytes. The rest is that of contexts that no call holds just now."""

    packed_bytes: int
    held_bytes: int
    limit_bytes: int
    arena_bytes: int
    contexts: int
    plans: int

class KernelRow(TypedDict):
    """A row of a kernel table, best first. A matrix kernel's name ends with its tile, rows x output channels."""

    name: str
    isa: str
    available: bool

def cpu() -> Cpu:
    """What this machine is. Raises EnvironmentVariableError."""

def available_memory(root: str = "") -> int:
    """Bytes that this process may use in all: the least of the machine's, its cgroups' limits, its address space.

    root: of the file system in which cgroups are found, for tests.
    """

def operators() -> list[str]:
    """The names of all operators that a graph may use."""

class DefaultFloatEnvironment:
    """The default rounding and denormals while it is entered, whatever the thread had set."""

    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...

class GraphBuilder:
    """Takes a graph piece by piece, in topological order; what is wrong with it is told, all at once, by `finish`.

    A size is an int, or reverse Polish notation: flattened (opcode, operand) pairs as in `DimOp` (cpp/graph/op.h).
    """

    def __init__(self) -> None: ...
    def symbol(
        self, name: str, minimum: int, maximum: int, multiple: int = 1, remainder: int = 0, trial: int = 0
    ) -> int:
        """The symbol's index in size expressions; trial: a size at which the graph is validated, 0 for the smallest."""
    def condition(self, kind: str, size: list[int]) -> None:
        """What sizes must fulfil together: an expression that is "zero", "nonzero" or "natural"."""

    def input(self, name: str, dtype: str, shape: Sequence[int | Sequence[int]]) -> None: ...
    def constant(self, name: str, array: _Array) -> None:
        """The array is copied."""

    def numbers(self, name: str, shape: Sequence[int]) -> _Array:
        """A float32 constant, as zeros that the caller overwrites before finish()."""

    def weight(
        self,
        name: str,
        *,
        shape: Sequence[int],
        codes: _Array,
        bits: int,
        group_size: int,
        scales: _Array,
        zero_points: _Array | None = None,
        offsets: _Array | None = None,
        values: _Array | None = None,
        pattern: str = "",
    ) -> None:
        """A quantized weight, whole; cpp/graph/weight.h says what its parts are. Codes below 8 bits are packed."""

    def node(
        self,
        op: str,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, _Attribute],
    ) -> None:
        """inputs: "" for an absent optional one. A list of lists is a list of sizes."""

    def output(self, name: str) -> None: ...
    def state(self, input: str, output: str, initial: str = "", count: str = "", axis: int = 0) -> None:
        """An input and an output that callers keep; `graph.ir.State` says what is what."""

    def finish(
        self,
        isa: str = "",
        threads: int = 0,
        memory: int | None = None,
        operations: float | None = None,
        batch: int | None = None,
        seconds: float | None = None,
        weights: int | None = None,
    ) -> Session:
        """Validates, chooses kernels and packs weights; the builder is empty afterwards.

        isa "": LOWBIT_ISA, else the best. threads 0: LOWBIT_THREADS, else what the process may use. weights: bytes that
        constants and packed weights may take; None: memory, else not far more than the constants. The rest is what
        `lowbit.Limits` says.
        Raises GraphError with every problem, InputError (threads), EnvironmentVariableError.
        """

def load_file(
    path: bytes,
    *,
    threads: int,
    memory: int | None,
    operations: float | None,
    batch: int | None,
    seconds: float | None,
) -> tuple[Session, str, dict[str, tuple[int, int]]]:
    """The session of a file by the reader in C++, its document, and bits and bytes of its quantized weights.

    Raises what `lowbit.load` raises, but for files that cannot be read a LowbitError.
    """

class State:
    """What a caller keeps between calls of a session, one call at a time."""

    def reset(self) -> None: ...
    def arrays(self) -> list[_Array]:
        """Its memory, an array a state: to be read and written while no call has it."""

class Session:
    """A compiled graph. Immutable; any number of threads may run it at once."""

    @property
    def inputs(self) -> list[tuple[str, str, list[int]]]:
        """(name, dtype, shape); -1 for a size that is not fixed."""

    @property
    def outputs(self) -> list[tuple[str, str, list[int]]]:
        """(name, dtype, shape); -1 for a size that is not fixed."""

    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def state(self, sizes: Mapping[str, int]) -> State:
        """Begins anew; sizes: of the symbols that states have, by name. Raises InputError, LimitError."""

    def run(self, inputs: Sequence[_Array], state: State | None = None) -> list[_Array]:
        """The outputs, in new arrays. Raises InputError for a wrong number, dtype or shape.

        Inputs and outputs are those beside the state; None: one for this call alone.
        """

    def run_into(self, inputs: Sequence[_Array], outputs: Sequence[_Array], state: State | None = None) -> None:
        """`run` into writeable, C-contiguous arrays apart from each other and from the inputs. Raises InputError."""

    def profile(self, inputs: Sequence[_Array], repeats: int = 10, state: State | None = None) -> list[dict[str, Any]]:
        """One row a step: node, op, kernel, seconds (median), and operations and bytes of one call.

        A multiply-add counts two. A layout conversion has the op "layout" and its value's name. Raises InputError.
        """

    def nodes(self) -> list[dict[str, Any]]:
        """node, op and kernel of each node that outputs need."""

    def memory(self) -> Memory: ...
    def trim(self, seconds: float) -> None:
        """Give back what no call has used for so long. A thread does so by itself, see give_back_after."""

def give_back_after(seconds: float) -> None:
    """Say after how long sessions give back what no call uses: 10 seconds, or half as much more.

    A thread that sleeps already sleeps on, so tests say so before the first call of a process.
    """

def kernels() -> dict[str, list[KernelRow]]:
    """The rows of each family of kernels, by the family's folder in cpp/kernels."""

def rounding_errors(x: _F32, factor: _F32, low: _F32, high: _F32, *, isa: str = "") -> _F32:
    """The squared errors of rounding rows of x [rows][row] to codes: [trials][rows], as factor, low and high are.

    isa "": LOWBIT_ISA, else the best. Raises InputError, EnvironmentVariableError.
    """

# Loops that do one thing, for the roofline: rates a second over about `seconds`, of all threads together.

def select_peak(isa: str = "") -> str: ...
def peak_int8(kernel: str, *, seconds: float, threads: int = 1) -> float: ...
def peak_f32(kernel: str, *, seconds: float, threads: int = 1) -> float: ...
def peak_read(kernel: str, data: _U8, *, seconds: float, threads: int = 1) -> float:
    """Bytes read; each thread reads its own part of `data` again and again."""
