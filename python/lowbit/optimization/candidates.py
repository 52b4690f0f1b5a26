"""What a layer may become, and a plan: what each layer becomes, at what price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from ..graph.blocks import PATTERNS
from ..quantization.schemes import SCHEMES


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a layer may become.

    Args:
        scheme: Of its numbers, a name that `lowbit.convert` takes: "float32", "int8", "int4-g32", ...
        pattern: Of its zeros, as `compress.prune` takes it: "4x4", "1x4", ...; "": none are made.
        sparsity: The share of weights that are made zero, in [0, 1).

    Raises:
        InputError: Values outside their ranges, or a pattern without a share or the other way round.

    Examples:
        >>> from lowbit.optimization.candidates import Candidate
        >>> Candidate(scheme="int8", pattern="4x4", sparsity=0.5).name
        'int8 4x4 50 %'
    """

    scheme: str
    pattern: str = ""
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise InputError(f"there is no scheme {self.scheme!r}; use one of {', '.join(SCHEMES)}")
        if self.pattern and self.pattern not in PATTERNS:
            raise InputError(f"pattern must be one of {', '.join(PATTERNS)}, is {self.pattern!r}")
        if not 0 <= self.sparsity < 1 or bool(self.pattern) != (self.sparsity > 0):
            raise InputError(
                f"a candidate has a pattern and a sparsity in (0, 1), or neither; it has {self.pattern!r} and "
                f"{self.sparsity!r}"
            )

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.scheme} {self.pattern} {100 * self.sparsity:g} %" if self.pattern else self.scheme


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a layer costs as one of its candidates, as predicted.

    Args:
        candidate: What it becomes.
        microseconds: Of one call.
        bytes: Of its weights in a file.
        noise: Its share of the whole model's: how far it moves the model's outputs, squared, over their own spread.
    """

    candidate: Candidate
    microseconds: float
    bytes: int
    noise: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a layer became, and what else it might have been.

    Args:
        taken: What it became.
        better: Of its candidates with less noise, the one with the most of it.
        cheaper: Of its candidates that are faster or smaller (what the plan had to save), the one with least noise.
    """

    taken: Price
    better: Price | None = None
    cheaper: Price | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(Mapping[str, Candidate]):
    """What each layer becomes: a mapping from its module's path (or its node's name, where it has none).

    Args:
        choices: By layer.
        microseconds: Of one call of the whole model, as predicted.
        bytes: Of its file, as predicted.
        noise: Of its outputs, as predicted.

    Examples:
        >>> from lowbit.optimization.candidates import Candidate, Choice, Plan, Price
        >>> price = Price(candidate=Candidate(scheme="int4"), microseconds=2.0, bytes=512, noise=1e-3)
        >>> plan = Plan(choices={"fc": Choice(taken=price)}, microseconds=2.0, bytes=512, noise=1e-3)
        >>> plan["fc"].name
        'int4'
        >>> Plan.of(plan.state()) == plan
        True
    """

    choices: Mapping[str, Choice]
    microseconds: float
    bytes: int
    noise: float

    def __getitem__(self, layer: str) -> Candidate:
        return self.choices[layer].taken.candidate

    def __iter__(self) -> Iterator[str]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.state() == other.state()

    def __hash__(self) -> int:
        return hash(tuple((layer, choice.taken) for layer, choice in self.choices.items()))

    def state(self) -> dict[str, Any]:
        """The plan in values that JSON knows."""
        return asdict(self)

    @staticmethod
    def of(state: Mapping[str, Any]) -> Plan:
        """The plan whose `state` that was."""
        choices = {
            layer: Choice(**{name: price and price_of(price) for name, price in choice.items()})
            for layer, choice in state["choices"].items()
        }
        return Plan(choices=choices, **{key: state[key] for key in ("microseconds", "bytes", "noise")})


def price_of(state: Mapping[str, Any]) -> Price:
    """The price whose values these are."""
    return Price(**{**state, "candidate": Candidate(**state["candidate"])})
