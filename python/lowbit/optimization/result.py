"""What `lowbit.optimize` returns, and how a model's file tells it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..compress import History
from ..converted_model import ConvertedModel, told
from ..runtime.meta import Chosen, Size, Trial
from .candidates import Plan, Price


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A model that `evaluate` scored.

    Args:
        name: "float32", "int8", "plan 1" and so on, or "round 1" and so on of those that were trained.
        plan: What its layers became; None for float32.
        score: Its score.
        drop: How far that is below float32's.
        microseconds: Of one call, as measured, or as estimated for a named target.
        bytes: Of its file.
        width: The share of channels that its net has.
        trained: Whether it was trained.
    """

    name: str
    plan: Plan | None
    score: float
    drop: float
    microseconds: float
    bytes: int
    width: float = 1.0
    trained: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The model that `lowbit.optimize` chose, and how it came there. Printed, it is a table of what was scored.

    Args:
        model: The model, scored and within all targets.
        plan: What its layers became, with what else they might have become.
        evaluations: All that was scored, the first of float32, the second of plain int8.
        taken: That of the model.
        sizes: What the model took after each step, the last is its file with `save(compress=True)`.
        history: What training did, epoch by epoch; None where the model was not trained.
        facts: What a page tells of all this, fields of `runtime.meta.Meta`. The model's file tells it, too; less of it
            where it would be larger than it may be.
    """

    model: ConvertedModel
    plan: Plan
    evaluations: tuple[Evaluated, ...]
    taken: Evaluated
    sizes: tuple[Size, ...] = ()
    history: History | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def front(self) -> dict[str, tuple[Evaluated, ...]]:
        """For "microseconds" and for "bytes": those than which no other takes less and scores as high, in order."""
        return {what: tuple(_front(self.evaluations, what)) for what in ("microseconds", "bytes")}

    def report(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write a page of HTML: what was tried, what each layer became and might have become, sizes, training.

        Args:
            path: Where to write it.
            args: Inputs of the call that is timed; none: the example inputs.
            kwargs: Inputs by name.

        Raises:
            OSError: The page cannot be written.
        """
        told(self.model, **self.facts).report(path, *args, **kwargs)

    def state(self) -> dict[str, Any]:
        """In values that JSON knows, without the model."""
        return {
            "taken": self.taken.name,
            "plan": {layer: candidate.name for layer, candidate in self.plan.items()},
            "evaluations": [
                {key: value for key, value in asdict(each).items() if key != "plan"} for each in self.evaluations
            ],
            "sizes": [asdict(each) for each in self.sizes],
            "history": None if self.history is None else list(self.history.rows),
        }

    def __repr__(self) -> str:
        head = f"{'':2}{'model':34}{'score':>10}{'drop':>10}{'ms':>10}{'bytes':>14}"
        rows = [
            f"{'> ' if each is self.taken else '  '}{each.name:34}{each.score:>10.4g}{each.drop:>10.3g}"
            f"{each.microseconds / 1e3:>10.4g}{each.bytes:>14,}"
            for each in self.evaluations
        ]
        return "\n".join([head, *rows])


def _front(evaluations: Sequence[Evaluated], what: str) -> Iterator[Evaluated]:
    best = None
    for each in sorted(evaluations, key=lambda each: (getattr(each, what), -each.score)):
        if best is None or each.score > best:
            best = each.score
            yield each


# --------------------------------------------------------------------------------------------------- in a model's file


def told_trial(each: Evaluated, holds: bool, taken: bool) -> Trial:
    """What a file tells of a model that was scored."""
    return Trial(
        model=each.name,
        score=each.score,
        drop=each.drop,
        milliseconds=each.microseconds / 1e3,
        bytes=each.bytes,
        width=each.width,
        trained=each.trained,
        holds=holds,
        taken=taken,
    )


def told_choices(plan: Plan) -> Iterator[Chosen]:
    """What a file tells of layers."""
    for layer, choice in plan.choices.items():
        own = choice.taken
        yield Chosen(
            layer=layer,
            taken=own.candidate.name,
            microseconds=own.microseconds,
            bytes=own.bytes,
            noise=own.noise,
            **_told("better", choice.better),
            **_told("cheaper", choice.cheaper),
        )


def _told(which: str, price: Price | None) -> dict[str, Any]:
    if price is None:
        return {}
    numbers = {f"{which}_{key}": getattr(price, key) for key in ("microseconds", "bytes", "noise")}
    return {which: price.candidate.name, **numbers}


def sizes_of(evaluations: Sequence[Evaluated], taken: Evaluated, model: ConvertedModel) -> tuple[Size, ...]:
    """The chain of sizes that ends in the model's own file, entropy coded."""
    steps = [Size(step=each.name, bytes=each.bytes) for each in evaluations[:2]]
    if taken.name not in (each.name for each in evaluations[:2]):
        steps.append(Size(step=taken.name, bytes=taken.bytes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.lowbit")
        model.save(path, compress=True)
        return (*steps, Size(step="entropy coded", bytes=path.stat().st_size))
