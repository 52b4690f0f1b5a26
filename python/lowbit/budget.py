"""Holds an accuracy budget: returns the layers that cost most accuracy to float32 until a person's own score holds.

Layers are ranked by their noise (`passes.sensitivity`) for each microsecond that int8 saves; the shortest front part of
that list that holds the budget is found by bisection (by the geometric mean of the bounds, since it is mostly short);
then those of its layers that save most are tried in int8 again. Every trial is evaluated by the person's function,
nothing is assumed to hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InputError
from .passes.calibrate import Feeds, Progress
from .passes.layers import LAYERS
from .passes.plan import Decision
from .passes.quantize import Quantized, Quantizer
from .passes.sensitivity import sensitivity

PUT_BACK = 4
"""Evaluations spent on putting layers back to int8."""
SLACK = 1e-9
"""Of a budget, for what subtracting two scores rounds: 1 - 0.98 is more than 0.02."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """An evaluated model. drop: how far its score is below float32's. floats: the layers returned to float32."""

    made: Quantized
    score: float
    drop: float
    floats: tuple[str, ...]

    @property
    def int8(self) -> int:
        """How many layers are in int8."""
        return len(int8_layers(self.made.decisions))


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The model to take; where none with int8 layers holds the budget (`holds` is False), that with the best score."""

    best: Trial
    holds: bool
    history: tuple[Mapping[str, Any], ...]
    """Every evaluation: model, score, drop, int8_layers, float_layers."""


def int8_layers(decisions: Iterable[Decision]) -> list[str]:
    """The layers that work on codes."""
    return [row.node for row in decisions if row.scheme == "int8" and row.op in LAYERS]


class Search:
    """Evaluates models of one graph and keeps what came out.

    evaluate: the score of a model. Raises InputError for scores that are no finite numbers.
    """

    def __init__(self, evaluate: Callable[[Quantized], Any], progress: Progress | None = None) -> None:
        self._evaluate, self._progress = evaluate, progress
        self._reference = math.nan
        self.trials: list[Trial] = []
        self.history: list[Mapping[str, Any]] = []

    def reference(self, made: Quantized) -> float:
        """Evaluate the float32 model, which the others are compared with; its score."""
        self._reference = self._score(made)
        self._note("float32", self._reference, 0, ())
        return self._reference

    def trial(self, made: Quantized, floats: Sequence[str] = ()) -> Trial:
        """Evaluate one model."""
        score = self._score(made)
        found = Trial(made=made, score=score, drop=self._reference - score, floats=tuple(floats))
        self.trials.append(found)
        self._note("int8, some layers float32" if floats else "int8", score, found.int8, floats)
        return found

    def hold(
        self, quantizer: Quantizer, max_drop: float, data: Iterable[Feeds], *, threads: int | None = None
    ) -> Outcome:
        """The fastest model found that loses `max_drop` at most. data: samples to rank the layers on."""
        first = self.check(quantizer.make(), max_drop)
        layers = int8_layers(first.best.made.decisions)
        if first.holds or not layers:
            return first
        plain, limit = first.best, self._limit(max_drop)
        noise = sensitivity(quantizer, layers, data, threads=threads, progress=self._progress)
        total = sum(noise.values()) or 1.0
        reasons = {name: _reason(noise[name] / total) for name in layers}

        known: dict[frozenset[str], Trial] = {}

        def attempt(floats: Sequence[str]) -> Trial:
            key = frozenset(floats)
            if key not in known:
                known[key] = self.trial(quantizer.make({name: reasons[name] for name in floats}), floats)
            return known[key]

        costs = {row.node: (row.cost_float_us or 0.0) - (row.cost_int8_us or 0.0) for row in plain.made.decisions}
        saved = {name: max(costs[name], 1e-3) for name in layers}
        found = _bisect(sorted(layers, key=lambda name: -noise[name] / saved[name]), attempt, limit)
        if found is None:
            best = max((trial for trial in self.trials if trial.int8), key=lambda trial: trial.score)
            return Outcome(best=best, holds=False, history=tuple(self.history))
        found = _put_back(found, sorted(found.floats, key=lambda name: -saved[name]), attempt, limit)
        return Outcome(best=found, holds=True, history=tuple(self.history))

    def check(self, made: Quantized, max_drop: float) -> Outcome:
        """Evaluate a model that is to stay as it is."""
        trial = self.trial(made)
        return Outcome(best=trial, holds=trial.drop <= self._limit(max_drop), history=tuple(self.history))

    def _limit(self, max_drop: float) -> float:
        return max_drop + SLACK * max(max_drop, abs(self._reference))

    def _score(self, made: Quantized) -> float:
        if self._progress is not None:
            self._progress("evaluate", len(self.history), None)
        score = self._evaluate(made)
        try:
            number = float(score)
        except (TypeError, ValueError):
            raise InputError(f"evaluate must return a number, higher is better; it returned {score!r}") from None
        if not math.isfinite(number):
            raise InputError(f"evaluate returned {number}: a score must be a finite number")
        return number

    def _note(self, model: str, score: float, int8: int, floats: Sequence[str]) -> None:
        drop = self._reference - score
        entry = {"model": model, "score": score, "drop": drop, "int8_layers": int8, "float_layers": list(floats)}
        self.history.append(entry)


def _reason(share: float) -> str:
    part = f"{100 * share:.0f}" if share >= 0.01 else f"{100 * share:.2g}"
    return f"paid for the accuracy budget: alone in int8 it makes {part} % of the layers' error"


Attempt = Callable[[Sequence[str]], Trial]


def _bisect(ranked: Sequence[str], attempt: Attempt, limit: float) -> Trial | None:
    """The trial with the fewest layers from the front of `ranked` in float32 that holds; None: not short of all."""
    low, high, found = 0, len(ranked), None
    while high - low > 1:
        middle = min(max(round(math.sqrt(max(low, 1) * high)), low + 1), high - 1)
        trial = attempt(ranked[:middle])
        if trial.drop <= limit:
            high, found = middle, trial
        else:
            low = middle
    return found


def _put_back(found: Trial, candidates: list[str], attempt: Attempt, limit: float) -> Trial:
    """The trial with as many of `candidates`, the best first, in int8 as a few evaluations show to hold."""
    size = len(candidates) // 2
    for _ in range(PUT_BACK):
        if size < 1:
            break
        part = candidates[:size]
        floats = [name for name in found.floats if name not in part]
        if not floats:
            break
        trial = attempt(floats)
        if trial.drop <= limit:
            found, candidates = trial, candidates[size:]
            size = len(candidates) // 2
        elif size == 1:
            candidates = candidates[1:]
        else:
            size //= 2
    return found
