"""What a search found: its trials, the front among them, and the nets that belong to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from optuna.trial import FixedTrial, FrozenTrial
from torch import nn

from ..compress import checkpoints
from ..errors import InputError
from ..report.fronts import Dot, front_chart
from ..runtime.model import Model, load
from .space import Trial, shown
from .store import AGAIN, DONE, ended, ours

NET, MODEL = "net.pt", "model.lowbit"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """One trial of a search.

    Args:
        number: In the journal.
        config: What was built.
        how: "done"; "slow": above the limit, and not trained; or "failed": no score, see `reason`.
        score: What `evaluate` gave.
        latency_ms: Milliseconds a call of the converted candidate, before it was trained.
        bytes: Of its file.
        seconds: How long it took in all.
        equal: The number of the equal trial whose answer it has.
        reason: Why there is no score.
        folder: Where its net is, if it is on the front.

    Examples:
        >>> tried = lowbit.compress.Tried(number=0, config={"width": 8}, how="done", score=0.9, latency_ms=0.1)
        >>> tried.config["width"]
        8
    """

    number: int
    config: Any
    how: str
    score: float | None = None
    latency_ms: float | None = None
    bytes: int | None = None
    seconds: float | None = None
    equal: int | None = None
    reason: str = ""
    folder: Path | None = None

    @property
    def model(self) -> Model:
        """The converted model, loaded from its file."""
        return load(self._file(MODEL))

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """The trained weights."""
        return checkpoints.load(self._file(NET))

    def _file(self, name: str) -> Path:
        if self.folder is None or not (self.folder / name).exists():
            raise InputError(
                f"trial {self.number} has no {name}: only trials on the front keep their nets, and models are there "
                "where latency was asked for"
            )
        return self.folder / name


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """What `compress.search` found. Printed, it is the front as a table.

    Args:
        trials: All of them, in the order of the journal.
        front: Those that no other is better than, the fastest first.
        storage: The folder of the study.
        build: The function that makes nets.

    Examples:
        >>> found = lowbit.compress.search(
        ...     lambda config: torch.nn.Linear(4, config["width"]),
        ...     {"width": lowbit.compress.choice(8, 16, 32)},
        ...     evaluate=lambda net: net.out_features,
        ...     method="random",
        ...     trials=8,
        ... )
        >>> found.best().config
        {'width': 32}
    """

    trials: tuple[Tried, ...]
    front: tuple[Tried, ...]
    storage: Path
    build: Callable[[Any], nn.Module]

    def best(self, *, latency_ms: float | None = None, bytes: int | None = None) -> Tried:
        """The trial of the highest score.

        Args:
            latency_ms: Among those that take no longer.
            bytes: Among those whose file is no larger.

        Returns:
            The trial, of the front.

        Raises:
            InputError: There is none; the message says what comes nearest.
        """
        fit = [
            each
            for each in self.front
            if (latency_ms is None or (each.latency_ms is not None and each.latency_ms <= latency_ms))
            and (bytes is None or (each.bytes is not None and each.bytes <= bytes))
        ]
        if not self.front:
            reasons = "; ".join(dict.fromkeys(each.reason for each in self.trials if each.reason))
            raise InputError(f"no trial has a score: {reasons or 'there are none'}")
        if not fit:
            raise InputError(f"no trial is within latency_ms={latency_ms}, bytes={bytes}:\n{self}")
        return max(fit, key=lambda each: each.score or 0.0)

    def net(self, tried: Tried | None = None) -> nn.Module:
        """The trained net of a trial on the front, as `build` makes it, with its weights.

        Args:
            tried: The trial; None: `best()`.

        Returns:
            The net, in eval mode.

        Raises:
            InputError: It is not on the front, or training made it another net than `build` makes.
        """
        tried = self.best() if tried is None else tried
        state = tried.state_dict
        net = self.build(tried.config)
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                f"trial {tried.number} has weights of another net than build({tried.config}) makes; take its "
                f"state_dict or its model: {error}"
            ) from error
        return net.eval()

    def plot(
        self,
        path: str | Path,
        *,
        title: str = "Score and time of all trials",
        marks: Mapping[str, tuple[float, float]] = MappingProxyType({}),
        lowest: float = -math.inf,
    ) -> None:
        """Write the front as a chart, an SVG file that stands alone.

        Args:
            path: The file.
            title: Above it.
            marks: Other nets to compare with: of each name (milliseconds, score).
            lowest: Trials of a lower score are left out, so that the rest can be told apart.

        Raises:
            InputError: There are no latencies.
        """
        dots = [_dot(each) for each in self.trials if _is_dot(each, lowest)]
        if not dots:
            raise InputError("there is no trial with a score and a latency to show")
        front = [_dot(each) for each in self.front if _is_dot(each, lowest)]
        Path(path).write_text(front_chart(dots, front, title, marks), encoding="utf-8")

    def __str__(self) -> str:
        rows = [("trial", "score", "ms", "bytes", "configuration"), *(_cells(each) for each in self.front)]
        widths = [max(len(row[at]) for row in rows) for at in range(4)]
        lines = ["  ".join([*(f"{row[at]:>{widths[at]}}" for at in range(4)), row[4]]) for row in rows]
        counts: dict[str, int] = {}
        for each in self.trials:
            kind = "answered by equal ones" if each.equal is not None else each.how
            counts[kind] = counts.get(kind, 0) + 1
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return "\n".join([*lines, f"{len(self.trials)} trials: {told}; {len(self.front)} on the front"])


def front_of(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Those that no other is better than in all goals, the fastest first; of equal ones the first."""
    found: list[FrozenTrial] = []
    for each in sorted(trials, key=lambda each: (*each.values[1:], -each.values[0], each.number)):
        if not found or (len(each.values) == 2 and each.values[0] > found[-1].values[0]):
            found.append(each)
    return found


def result_of(
    trials: Sequence[FrozenTrial],
    folder: Path,
    files: Callable[[int], Path],
    build: Callable[[Any], nn.Module],
    space: Callable[[Trial], Any],
) -> SearchResult:
    """What the journal says; configurations are drawn once more, by what it holds of them."""
    front = front_of(each for each in trials if ended(each) == DONE)
    on_front = {each.number for each in front}

    def tried(trial: FrozenTrial) -> Tried:
        notes = ours(trial)
        return Tried(
            number=trial.number,
            config=space(Trial(FixedTrial(trial.params, trial.number), {})),
            how=ended(trial),
            score=None if not trial.values else trial.values[0],
            latency_ms=notes.get("latency_ms"),
            bytes=notes.get("bytes"),
            seconds=notes.get("seconds"),
            equal=notes.get("equal"),
            reason=notes.get("reason", ""),
            folder=files(trial.number) if trial.number in on_front else None,
        )

    counted = [each for each in trials if ended(each) not in ("", *AGAIN)]
    return SearchResult(trials=tuple(map(tried, counted)), front=tuple(map(tried, front)), storage=folder, build=build)


def _is_dot(tried: Tried, lowest: float) -> bool:
    return tried.score is not None and tried.score >= lowest and tried.latency_ms is not None and tried.equal is None


def _dot(tried: Tried) -> Dot:
    return Dot(tried.latency_ms or 0.0, tried.score or 0.0, shown(tried.config))


def _cells(tried: Tried) -> tuple[str, str, str, str, str]:
    return (
        str(tried.number),
        "" if tried.score is None else f"{tried.score:.4f}",
        "" if tried.latency_ms is None else f"{tried.latency_ms:.4f}",
        "" if tried.bytes is None else str(tried.bytes),
        shown(tried.config),
    )
