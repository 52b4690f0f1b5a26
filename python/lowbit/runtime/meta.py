"""What a file says beside its graph: how the model is called, who made it, and what was decided for each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any, TypeVar

from ..errors import FormatError

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of one node, and why.

    Args:
        node: The node.
        op: Its operator.
        scheme: "int8" (codes of 8 bits), "int4", "int3", "int2" (weights of so many bits, activations of 8), "float32"
            or "torch".
        reason: For people.
        cost_int8_us: Microseconds on codes, of either width, by the cost model; known for layers.
        cost_float_us: Microseconds in float32.
        entropy: How many bits of information a code of 8 bits of its weight holds, about, where that was asked for.
    """

    node: str
    op: str = ""
    scheme: str = ""
    reason: str = ""
    cost_int8_us: float | None = None
    cost_float_us: float | None = None
    entropy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is left of a sparse weight.

    Args:
        node: The layer.
        pattern: The blocks in which its zeros lie.
        density: The share of the weight in blocks that are kept.
    """

    node: str
    pattern: str
    density: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One score that the caller's `evaluate` gave.

    Args:
        model: "float32", or what was tried.
        score: The score.
        drop: How far it is below float32's.
        int8_layers: How many work on codes with weights of 8 bits.
        int4_layers: How many have weights of 4 bits or fewer.
        float_layers: Those that were returned to float32, by name.
    """

    model: str
    score: float
    drop: float
    int8_layers: int
    int4_layers: int = 0
    float_layers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One thing that was done to the module in training (`lowbit.compress.record`).

    Args:
        kind: In a word, such as "pruning".
        facts: What is told of it, in plain values; readers make no use of it but to show it.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model that `lowbit.optimize` made and scored.

    Args:
        model: What was tried.
        score: Its score.
        drop: How far that is below float32's.
        milliseconds: Of one call, measured.
        bytes: Of its file.
        width: The share of channels that its net has.
        trained: Whether the net was trained for it.
        holds: Whether it is within all that was asked for.
        taken: Whether this model is the one.
    """

    model: str
    score: float
    drop: float
    milliseconds: float
    bytes: float
    width: float = 1.0
    trained: bool = False
    holds: bool = True
    taken: bool = False


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What `lowbit.optimize` made of one layer, and what else it might have become, all as predicted.

    Args:
        layer: The layer.
        taken: What it became.
        microseconds: Of one call of it.
        bytes: Of its weights.
        noise: Its share of the model's error.
        better: What would have less noise; "": nothing would.
        better_microseconds: What that would take.
        better_bytes: Its bytes.
        better_noise: Its noise.
        cheaper: What would be faster or smaller; "": nothing would.
        cheaper_microseconds: What that would take.
        cheaper_bytes: Its bytes.
        cheaper_noise: Its noise.
    """

    layer: str
    taken: str
    microseconds: float
    bytes: float
    noise: float
    better: str = ""
    better_microseconds: float | None = None
    better_bytes: float | None = None
    better_noise: float | None = None
    cheaper: str = ""
    cheaper_microseconds: float | None = None
    cheaper_bytes: float | None = None
    cheaper_noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a model took after one step.

    Args:
        step: What was done.
        bytes: Of a file.
    """

    step: str
    bytes: float


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The `meta` of a file (docs/file-format.md); frozen, and checked when it is read.

    more: what other keys a file has, which are kept and given back.

    Examples:
        >>> Meta.read({"producer": "lowbit 0.1.0", "team": "vision"}).more
        {'team': 'vision'}
    """

    producer: str = "lowbit"
    """The writer's name and version."""
    name: str = ""
    """The class of the module."""
    scheme: str = ""
    """The scheme's name, or the patterns with theirs."""
    target: str | None = None
    """The instruction set for which layers were chosen."""
    signature: Mapping[str, Any] | None = None
    """The parameters of a call; `calls` reads it. None: one tensor an input of the graph."""
    output: Mapping[str, Any] | None = None
    """The tree of what a call returns. None: the graph's outputs."""
    decisions: tuple[Decision, ...] = ()
    """What became of each layer, and why."""
    sparsity: tuple[Kept, ...] = ()
    """The layers with sparse weights."""
    evaluations: tuple[Evaluation, ...] = ()
    """Each score that the caller's function gave."""
    max_drop: float | None = None
    """How far the score was allowed to fall."""
    training: tuple[Trained, ...] = ()
    """What was done to the module in training."""
    generation: Mapping[str, Any] | None = None
    """Of a language model: the size of its "vocabulary", and the tokens that "stop" an answer."""
    goal: Mapping[str, float] | None = None
    """What `lowbit.optimize` was asked for: "milliseconds" of a call, "bytes" of a file, at most."""
    trials: tuple[Trial, ...] = ()
    """Each model that it made and scored."""
    choices: tuple[Chosen, ...] = ()
    """What it made of each layer."""
    sizes: tuple[Size, ...] = ()
    """What the model took after each step."""
    notes: tuple[str, ...] = ()
    """What the user should know about the model as a whole."""
    writes: tuple[str, ...] = ()
    """Inputs and buffers that the module writes to, and calls of the graph do not."""
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Meta:
        """Of a file's JSON. Raises FormatError that names the key whose value does not fit."""
        known = {key: _checked(_READERS[key], value, key) for key, value in document.items() if key in _READERS}
        return cls(**known, more={key: value for key, value in document.items() if key not in _READERS})

    @property
    def wants_streams(self) -> bool:
        """Whether a file is to keep codes by their frequencies: these were chosen for it."""
        return any(row.entropy is not None for row in self.decisions)

    def document(self) -> dict[str, Any]:
        """As JSON holds it; what is not known is absent."""
        said = {each.name: getattr(self, each.name) for each in fields(self) if each.name in _READERS}
        return {key: _plain(value) for key, value in said.items() if value not in (None, "", ())} | dict(self.more)


ROWS = (Decision, Kept, Evaluation, Trained, Trial, Chosen, Size)
"""What the lists of a `meta` hold."""


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, ROWS):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


MOST = 1e300
"""Of any number, so that what is computed with it stays finite: JSON knows integers of any length."""


def _checked(read: Callable[[Any], Any], value: Any, key: str) -> Any:
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise FormatError(f"meta[{key!r}] {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"must be a text, is {value!r:.60}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MOST:
        raise TypeError(f"must be a number, is {value!r:.60}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"must be true or false, is {value!r:.60}")
    return value


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"must be an object, is {value!r:.60}")
    return value


def _generation(value: Any) -> Mapping[str, Any]:
    told, stop = _object(value), value.get("stop", [])
    numbers = [told.get("vocabulary"), *(stop if isinstance(stop, list) else [None])]
    if any(isinstance(each, bool) or not isinstance(each, int) for each in numbers):
        raise TypeError(f"must hold the size of the vocabulary, and tokens that end an answer, is {value!r:.60}")
    return told


def _numbers(value: Any) -> Mapping[str, float]:
    return {key: _number(each) for key, each in _object(value).items()}


def _or_none(read: Callable[[Any], Row]) -> Callable[[Any], Row | None]:
    return lambda value: None if value is None else read(value)


def _list(read: Callable[[Any], Row]) -> Callable[[Any], tuple[Row, ...]]:
    def items(value: Any) -> tuple[Row, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError(f"must be a list, is {value!r:.60}")
        return tuple(map(read, value))

    return items


def _rows(kind: type[Row], /, **readers: Callable[[Any], Any]) -> Callable[[Any], tuple[Row, ...]]:
    """A list of objects with these keys; others are left out."""
    needed = {name for name, each in signature(kind).parameters.items() if each.default is each.empty}

    def row(value: Any) -> Row:
        item = _object(value)
        if missing := needed - set(item):
            raise ValueError(f"lacks {', '.join(sorted(missing))} in {item!r:.60}")
        return kind(**{key: read(item[key]) for key, read in readers.items() if key in item})

    return _list(row)


_COSTS = ("microseconds", "bytes", "noise")
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "producer": _text,
    "name": _text,
    "scheme": _text,
    "target": _or_none(_text),
    "signature": _or_none(_object),
    "output": _or_none(_object),
    "decisions": _rows(
        Decision,
        node=_text,
        op=_text,
        scheme=_text,
        reason=_text,
        cost_int8_us=_or_none(_number),
        cost_float_us=_or_none(_number),
    ),
    "sparsity": _rows(Kept, node=_text, pattern=_text, density=_number),
    "evaluations": _rows(
        Evaluation,
        model=_text,
        score=_number,
        drop=_number,
        int8_layers=_number,
        int4_layers=_number,
        float_layers=_list(_text),
    ),
    "max_drop": _or_none(_number),
    "training": _rows(Trained, kind=_text, facts=_object),
    "generation": _or_none(_generation),
    "goal": _or_none(_numbers),
    "trials": _rows(
        Trial,
        model=_text,
        score=_number,
        drop=_number,
        milliseconds=_number,
        bytes=_number,
        width=_number,
        trained=_flag,
        holds=_flag,
        taken=_flag,
    ),
    "choices": _rows(
        Chosen,
        layer=_text,
        taken=_text,
        microseconds=_number,
        bytes=_number,
        noise=_number,
        better=_text,
        cheaper=_text,
        **{f"{which}_{what}": _or_none(_number) for which in ("better", "cheaper") for what in _COSTS},
    ),
    "sizes": _rows(Size, step=_text, bytes=_number),
    "notes": _list(_text),
    "writes": _list(_text),
}
