"""Who says what is tried next: optuna's samplers, and one that learns a table of probabilities by policy gradient."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from .store import Sampler, ended, ours

POPULATION = 12
"""Of a generation: a study of nets has tens or hundreds of trials, not thousands."""
BINS = 8
"""That a range is cut in, for a table of probabilities."""
TARGETS = 4
"""Times that a policy is learned for; trials take turns."""
RATE, FLOOR, WEIGHT = 0.2, 0.1, 2.0
"""Of a policy: its learning rate, what no probability falls below, and how much a trial of another policy may count."""

Table = Mapping[str, npt.NDArray[np.float64]]
"""Of each name the probabilities of its options."""


class Tables(BaseSampler):
    """Draws each name by itself, by a table of probabilities; what the table has not is as likely as anything.

    Args:
        seed: Of this trial.
        table: From the study to the table.
    """

    def __init__(self, seed: int, table: Callable[[optuna.Study], Table]) -> None:
        self._random, self._table = np.random.default_rng(seed), table
        self._found: dict[str, npt.NDArray[np.float64]] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the table of what is known."""
        self._found = dict(self._table(study))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: names are drawn one by one."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, see above."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """An option, or a number within a bin."""
        count = bins(param_distribution)
        drawn = int(self._random.choice(count, p=self._found.get(param_name)))
        return _value(param_distribution, drawn + self._random.random())


def sampler_of(method: str, table: Callable[[int], Table] | None) -> Sampler:
    """A function from a seed and a trial's place to its sampler; `table` is what a supernet taught."""
    if table is not None:
        return lambda seed, place: Tables(seed, lambda study: table(place))
    return {
        "evolution": lambda seed, place: NSGAIISampler(population_size=POPULATION, seed=seed),
        "tpe": lambda seed, place: TPESampler(seed=seed, multivariate=True, constant_liar=True),
        "random": lambda seed, place: RandomSampler(seed=seed),
        "gradient": lambda seed, place: RandomSampler(seed=seed),  # before the supernet is trained, nothing is drawn
        "policy": lambda seed, place: Tables(seed, partial(learned, place)),
    }[method]


# ------------------------------------------------------------------------------------------------------ policy gradient


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A trial: its turn, options by number, score (None: not trained) and time."""

    turn: int
    options: dict[str, tuple[int, int]]
    score: float | None
    ms: float


def learned(place: int, study: optuna.Study) -> Table:
    """What REINFORCE learned from the trials so far, for the target whose turn it is.

    As Zoph and Le (arXiv:1611.01578) with independent choices instead of a recurrent net, and the reward of MnasNet
    (arXiv:1807.11626): score * (latency / target)^-1 above the target, the score alone below; as score counts the share
    of trials that are below it. There are several targets, from the fastest to the slowest trial, each with a policy
    that takes turns; a policy learns from the trials of others too, weighted by how likely it would have drawn them (at
    most WEIGHT). All is learned anew from the journal, so processes need not tell each other.
    """
    seen = _seen(study)
    scored = [each for each in seen if each.score is not None]
    if len(scored) < 2:
        return {}
    order = sorted(each.score or 0.0 for each in scored)
    targets = np.geomspace(min(each.ms for each in scored), max(each.ms for each in scored), TARGETS)
    logits: list[dict[str, npt.NDArray[np.float64]]] = [{} for _ in range(TARGETS)]
    worth = np.array([0.0 if each.score is None else bisect_left(order, each.score) / len(order) for each in seen])
    rewards = worth[:, None] * np.minimum(1.0, targets / np.array([each.ms for each in seen])[:, None])
    advantages = (rewards - rewards.mean(0)) / (rewards.std(0) + 1e-9)
    for each, advantage in zip(seen, advantages, strict=True):
        likely = [_likelihood(table, each.options) for table in logits]
        for number, table in enumerate(logits):
            weight = min(likely[number] / likely[each.turn], WEIGHT)
            for name, (option, count) in each.options.items():
                known = table.setdefault(name, np.zeros(count))
                known += RATE * weight * advantage[number] * (np.eye(count)[option] - _softmax(known))
    return {name: _softmax(values) for name, values in logits[place % TARGETS].items()}


def _seen(study: optuna.Study) -> list[_Seen]:
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = sorted(study.get_trials(deepcopy=False, states=states), key=lambda each: int(ours(each)["place"]))
    return [
        _Seen(
            turn=int(ours(each)["place"]) % TARGETS,
            options={name: (_option(kind, each.params[name]), bins(kind)) for name, kind in each.distributions.items()},
            score=each.values[0] if each.values else None,
            ms=float(ours(each).get("latency_ms") or 1.0),
        )
        for each in trials
        if ended(each)
    ]


def _likelihood(table: Table, options: Mapping[str, tuple[int, int]]) -> float:
    known = {name: _softmax(table[name]) for name in options if name in table}
    return math.prod(float(known[n][option]) if n in known else 1 / count for n, (option, count) in options.items())


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities, none of them below FLOOR's share."""
    raised = np.exp(logits - logits.max())
    return np.asarray((1 - FLOOR) * raised / raised.sum() + FLOOR / len(logits), dtype=np.float64)


# --------------------------------------------------------------------------------------------------- ranges as options


def bins(distribution: BaseDistribution) -> int:
    """How many options a name has."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return min(BINS, (distribution.high - distribution.low) // distribution.step + 1)
    return BINS


def _option(distribution: Any, value: Any) -> int:
    """The number of the option, or of the bin that a value is in."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices).index(value)
    low, high, _ = _ends(distribution)
    part = ((math.log(value) if distribution.log else value) - low) / ((high - low) or 1.0)
    return min(int(part * bins(distribution)), bins(distribution) - 1)


def _value(distribution: Any, at: float) -> Any:
    """What lies at this place, counted in options or bins."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(at)]
    low, high, step = _ends(distribution)
    value = low + (high - low) * at / bins(distribution)
    value = math.exp(value) if distribution.log else value
    if step:
        value = distribution.low + step * math.floor((value - distribution.low) / step)
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else value


def _ends(distribution: Any) -> tuple[float, float, float]:
    """Of a range's bins, on its scale: the end is one step on, so that the last step is as wide as others."""
    step = float(distribution.step or 0.0)
    low, high = float(distribution.low), float(distribution.high) + step
    return (math.log(low), math.log(high), step) if distribution.log else (low, high, step)
