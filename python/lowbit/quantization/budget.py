"""Holds an accuracy budget: returns the layers that cost most accuracy to float32 until a person's own score holds.

Layers are ranked by their noise (`passes.sensitivity`) for each microsecond that int8 saves; the shortest front part of
that list that holds the budget is found by bisection (by the geometric mean of the bounds, since it is mostly short);
then those of its layers that save most are tried in int8 again. Layers with weights of few bits go back to eight
first, ranked by their noise for each weight; only where even that does not do, some go on to float32. Tables of
embeddings pay like layers, and save what reading them once takes. Every trial is evaluated by the person's function,
nothing is assumed to hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..graph.ir import Graph
from ..graph.weights import few_bits
from ..passes.layers import LAYERS, SCANS, TABLES
from ..runtime.meta import Decision, Evaluation
from .calibrate import Feeds, Progress
from .quantizer import Quantized, Quantizer
from .sensitivity import sensitivity

FEW = tuple(f"int{bits}" for bits in few_bits())
"""Schemes of weights in fewer than eight bits."""
PUT_BACK = 4
"""Evaluations spent on putting layers back to fewer bits."""
TABLE_SAVES = 3e-4
"""Microseconds to read what a weight of a table has less in eight bits, three bytes at 10 GB/s."""
SLACK = 1e-9
"""Of a budget, for what subtracting two scores rounds: 1 - 0.98 is more than 0.02."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """An evaluated model. drop: how far its score is below float32's. returned: the layers that pay for the budget."""

    made: Quantized
    score: float
    drop: float
    returned: tuple[str, ...]

    @property
    def coded(self) -> int:
        """How many layers work on codes."""
        return len(layers_in((*FEW, "int8"), self.made.decisions))


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The model to take; where none with layers on codes holds the budget (`holds` is False), the best of them."""

    best: Trial
    holds: bool
    history: tuple[Evaluation, ...]
    """Every evaluation, the first of float32."""


def layers_in(schemes: Container[str], decisions: Iterable[Decision]) -> list[str]:
    """The layers, and embeddings, that became one of these: "int2", "int3", "int4", "int8", "float32"."""
    return [row.node for row in decisions if row.scheme in schemes and row.op in (*LAYERS, *SCANS, *TABLES)]


def _fewest(decisions: Iterable[Decision]) -> str:
    """The scheme of the fewest bits that is among them: "int4"."""
    rows = tuple(decisions)
    return next((kind for kind in FEW if layers_in((kind,), rows)), "int8")


def score_of(score: Any) -> float:
    """What `evaluate` returned, as a number. Raises InputError."""
    try:
        number = float(score)
    except (TypeError, ValueError):
        raise InputError(f"evaluate must return a number, higher is better; it returned {score!r}") from None
    if not math.isfinite(number):
        raise InputError(f"evaluate returned {number}: a score must be a finite number")
    return number


class Search:
    """Evaluates models of one graph and keeps what came out.

    evaluate: the score of a model. Raises InputError for scores that are no finite numbers.
    """

    def __init__(self, evaluate: Callable[[Quantized], Any], progress: Progress | None = None) -> None:
        self._evaluate, self._progress = evaluate, progress
        self._reference = math.nan
        self.trials: list[Trial] = []
        self.history: list[Evaluation] = []

    def reference(self, made: Quantized) -> float:
        """Evaluate the float32 model, which the others are compared with; its score."""
        self.compare_with(self._score(made))
        return self._reference

    def compare_with(self, score: float) -> None:
        """Take that as the score of float32."""
        self._reference = score
        self._note("float32", score, (), ())

    def trial(self, made: Quantized, returned: Sequence[str] = ()) -> Trial:
        """Evaluate one model, in which those layers went back to what loses less."""
        score = self._score(made)
        found = Trial(made=made, score=score, drop=self._reference - score, returned=tuple(returned))
        self.trials.append(found)
        fours, floats = layers_in(FEW, made.decisions), layers_in(("float32",), made.decisions)
        floats = [name for name in floats if name in returned]
        tail = ", some layers float32" if floats else ", some layers back in int8" if returned and fours else ""
        self._note(f"{_fewest(made.decisions)}{tail}", score, made.decisions, floats)
        return found

    def hold(
        self, quantizer: Quantizer, max_drop: float, data: Iterable[Feeds], *, threads: int | None = None
    ) -> Outcome:
        """The smallest and fastest model found that loses `max_drop` at most. data: samples to rank the layers on."""
        first = self.check(quantizer.make(), max_drop)
        plain, limit = first.best, self._limit(max_drop)
        if first.holds or not plain.coded:
            return first

        def noise(layers: Sequence[str], eights: Mapping[str, str]) -> dict[str, float]:
            return sensitivity(quantizer, layers, data, eights=eights, threads=threads, progress=self._progress)

        eights: dict[str, str] = {}
        fours = layers_in(FEW, plain.made.decisions)
        if fours:
            ranked = Ranked(noise=noise(fours, {}), saved=_weights(quantizer.graph), what=_fewest(plain.made.decisions))
            found = self._pay(ranked, lambda back: quantizer.make({}, back), limit, len(fours))
            if found is not None:
                return Outcome(best=found, holds=True, history=tuple(self.history))
            eights = ranked.reasons(fours)
            plain = self.trials[-1]
        layers = layers_in(("int8",), plain.made.decisions)
        saved = _microseconds(plain.made.decisions, _weights(quantizer.graph))
        ranked = Ranked(noise=noise(layers, eights), saved={name: saved[name] for name in layers}, what="int8")
        found = self._pay(ranked, lambda floats: quantizer.make(floats, eights), limit, len(layers) - 1)
        if found is not None:
            return Outcome(best=found, holds=True, history=tuple(self.history))
        best = max((trial for trial in self.trials if trial.coded), key=lambda trial: trial.score)
        return Outcome(best=best, holds=False, history=tuple(self.history))

    def _pay(
        self, ranked: Ranked, make: Callable[[dict[str, str]], Quantized], limit: float, most: int
    ) -> Trial | None:
        """The trial that holds with few layers returned, `most` at most; make: from the layers and why they pay."""
        known: dict[frozenset[str], Trial] = {}

        def attempt(returned: Sequence[str]) -> Trial:
            key = frozenset(returned)
            if key not in known:
                known[key] = self.trial(make(ranked.reasons(returned)), returned)
            return known[key]

        found = _bisect(ranked.order(), attempt, limit, most)
        if found is None:
            return None
        return _put_back(found, sorted(found.returned, key=lambda name: -ranked.saved[name]), attempt, limit)

    def check(self, made: Quantized, max_drop: float) -> Outcome:
        """Evaluate a model that is to stay as it is."""
        trial = self.trial(made)
        return Outcome(best=trial, holds=trial.drop <= self._limit(max_drop), history=tuple(self.history))

    def _limit(self, max_drop: float) -> float:
        return max_drop + SLACK * max(max_drop, abs(self._reference))

    def _score(self, made: Quantized) -> float:
        if self._progress is not None:
            self._progress("evaluate", len(self.history), None)
        return score_of(self._evaluate(made))

    def _note(self, model: str, score: float, decisions: Iterable[Decision], floats: Sequence[str]) -> None:
        rows = tuple(decisions)
        found = Evaluation(
            model=model,
            score=score,
            drop=self._reference - score,
            int8_layers=len(layers_in(("int8",), rows)),
            int4_layers=len(layers_in(FEW, rows)),
            float_layers=tuple(floats),
        )
        self.history.append(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """Layers that may pay. noise: of each alone. saved: what having it in `what` saves."""

    noise: Mapping[str, float]
    saved: Mapping[str, float]
    what: str

    def order(self) -> list[str]:
        """Who should pay first comes first."""
        return sorted(self.noise, key=lambda name: -self.noise[name] / self.saved[name])

    def reasons(self, layers: Iterable[str]) -> dict[str, str]:
        """Why these pay."""
        total = sum(self.noise.values()) or 1.0
        return {name: self._reason(self.noise[name] / total) for name in layers}

    def _reason(self, share: float) -> str:
        part = f"{100 * share:.0f}" if share >= 0.01 else f"{100 * share:.2g}"
        return f"paid for the accuracy budget: alone in {self.what} it makes {part} % of the layers' error"


def _microseconds(decisions: Iterable[Decision], weights: Mapping[str, float]) -> dict[str, float]:
    """What eight bits save of each layer; of a table, whose size is what they save, the time to read it once."""
    return {
        row.node: weights.get(row.node, 0.0) * TABLE_SAVES
        if row.op in TABLES
        else max((row.cost_float_us or 0.0) - (row.cost_int8_us or 0.0), 1e-3)
        for row in decisions
    }


def _weights(graph: Graph) -> dict[str, float]:
    """How many each layer or table has."""
    names = {node.name: node.inputs[0 if node.op in TABLES else 1] for node in graph if node.inputs[1:]}
    constants = {node: graph.constants[name] for node, name in names.items() if name in graph.constants}
    return {node: float(math.prod(constant.shape)) for node, constant in constants.items()}


Attempt = Callable[[Sequence[str]], Trial]


def _bisect(ranked: Sequence[str], attempt: Attempt, limit: float, most: int) -> Trial | None:
    """The trial with the fewest layers, `most` at most, from the front of `ranked` returned that holds; or None."""
    low, high, found = 0, most + 1, None
    while high - low > 1:
        middle = min(max(round(math.sqrt(max(low, 1) * high)), low + 1), high - 1)
        trial = attempt(ranked[:middle])
        if trial.drop <= limit:
            high, found = middle, trial
        else:
            low = middle
    return found


def _put_back(found: Trial, candidates: list[str], attempt: Attempt, limit: float) -> Trial:
    """The trial with as many of `candidates`, the best first, put back as a few evaluations show to hold."""
    size = len(candidates) // 2
    for _ in range(PUT_BACK):
        if size < 1:
            break
        part = candidates[:size]
        returned = [name for name in found.returned if name not in part]
        if not returned:
            break
        trial = attempt(returned)
        if trial.drop <= limit:
            found, candidates = trial, candidates[size:]
            size = len(candidates) // 2
        elif size == 1:
            candidates = candidates[1:]
        else:
            size //= 2
    return found
