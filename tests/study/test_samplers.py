"""Samplers: what they learn from trials, against chance, on tables of scores and times that are known."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from lowbit.compress import between, choice
from lowbit.study.processes import Study
from lowbit.study.samplers import _option, _value, bins
from lowbit.study.space import Between, Choice, fill
from lowbit.study.store import DONE, SLOW, Store

SPACE = {"parts": [choice(0, 1, 2, 3)] * 4, "rate": between(1e-3, 1.0, log=True)}
WORST = (0.0, 100.0)


def answer(config: Any) -> tuple[float, float]:
    """Of a score and a time: parts differ in what they are worth, one rate is best."""
    worth, cost = (
        ((0, 1, 4, 5), (0, 1, 3, 2), (0, 2, 3, 3), (0, 0, 0, 1)),
        ((0, 1, 2, 5), (0, 1, 5, 2), (0, 3, 2, 9), (0, 9, 5, 1)),
    )
    score = sum(row[part] for row, part in zip(worth, config["parts"], strict=True))
    return score - abs(math.log10(config["rate"]) + 2), math.exp(
        sum(row[p] for row, p in zip(cost, config["parts"], strict=True)) / 6
    )


def volume(points: list[tuple[float, float]]) -> float:
    """Between the front and the worst corner."""
    area, best = 0.0, WORST[0]
    for score, ms in sorted(points, key=lambda point: (point[1], -point[0])):
        if score > best:
            area += (score - best) * math.log(WORST[1] / ms)
            best = score
    return area


def run(method: str, seed: int, trials: int = 50, limit: float = math.inf) -> tuple[float, list[Any]]:
    """The volume of the front, and what was drawn."""
    with tempfile.TemporaryDirectory() as folder:
        store = Study(folder=Path(folder), asked={}, method=method, goals=2, seed=seed).open()
        return drawn(store, partial(fill, tree=SPACE), trials, limit)


def drawn(store: Store, space: Callable[[Any], Any], trials: int, limit: float) -> tuple[float, list[Any]]:
    """A study whose trials are looked up."""
    points, configs = [], []
    with store.working():
        while (asked := store.ask(trials, space)) is not None:
            score, ms = answer(asked.config)
            configs.append(asked.config)
            if ms > limit:
                store.tell(asked, SLOW, latency_ms=ms)
            else:
                points.append((score, ms))
                store.tell(asked, DONE, [score, ms], latency_ms=ms)
    return volume(points), configs


@pytest.mark.parametrize("method", ["evolution", "tpe", "policy"])
def test_better_than_chance(method: str) -> None:
    """The mean volume over eight seeds, after fifty trials of a space of 256 nets and a rate."""
    assert total(method) > total("random")


@cache
def total(method: str) -> float:
    """Over eight seeds."""
    return sum(run(method, seed)[0] for seed in range(8))


def test_a_policy_learns_what_is_too_slow() -> None:
    """Trials above the limit have no score, and come to be drawn seldom."""
    limit = 4.0
    _, configs = run("policy", 0, 60, limit)
    slow = [answer(config)[1] > limit for config in configs]
    assert sum(slow[30:]) < 0.6 * sum(slow[:30])


def test_a_policy_is_even_before_it_knows_anything() -> None:
    """All options are drawn."""
    with tempfile.TemporaryDirectory() as folder:
        store = Study(folder=Path(folder), asked={}, method="policy", goals=1, seed=0).open()
        with store.working():
            found = [store.ask(40, partial(fill, tree={"a": choice(1, 2, 3, 4)})) for _ in range(40)]
    counts = [sum(each is not None and each.config["a"] == option for each in found) for option in (1, 2, 3, 4)]
    assert min(counts) >= 4


@st.composite
def distributions(draw: st.DrawFn) -> BaseDistribution:
    """Choices and ranges."""
    low, length = draw(st.integers(1, 50)), draw(st.integers(0, 60))
    made = draw(
        st.sampled_from(
            [
                lambda: choice(range(length + 1)),
                lambda: between(low, low + length, step=draw(st.integers(1, 5))),
                lambda: between(low, low + length, step=draw(st.sampled_from([0.25, 0.5, 3.0]))),
                lambda: between(low, low + length, log=True),
                lambda: between(low, low + length + 0.5, log=draw(st.booleans())),
            ]
        )
    )()
    assert isinstance(made, Choice | Between)
    return made.distribution()


@given(distributions(), st.floats(0, 1, exclude_max=True))
@settings(max_examples=100, deadline=None)
def test_ranges_are_options_of_a_table(distribution: BaseDistribution, at: float) -> None:
    """A number that is drawn from a bin is in the range; its bin is one of the table's."""
    count = bins(distribution)
    for number in range(count):
        value = _value(distribution, min(number + at, math.nextafter(number + 1, 0)))
        assert distribution._contains(distribution.to_internal_repr(value))
        assert 0 <= _option(distribution, value) < count


def test_all_of_a_small_range_is_drawn() -> None:
    """Both ends, too."""
    for distribution, expected in (
        (IntDistribution(1, 5), {1, 2, 3, 4, 5}),
        (IntDistribution(2, 20, step=3), {2, 5, 8, 11, 14, 17, 20}),
        (IntDistribution(1, 8, log=True), set(range(1, 9))),
        (FloatDistribution(0.0, 1.0, step=0.5), {0.0, 0.5, 1.0}),
    ):
        places = itertools.product(range(bins(distribution)), np.linspace(0, 0.999, 50))
        assert {_value(distribution, number + at) for number, at in places} == expected


def test_optuna_has_the_last_word() -> None:
    """A study of ours goes on in optuna with a sampler of its own."""
    with tempfile.TemporaryDirectory() as folder:
        store = Study(folder=Path(folder), asked={}, method="policy", goals=2, seed=0).open()
        drawn(store, partial(fill, tree=SPACE), 5, math.inf)
        store.study.sampler = optuna.samplers.RandomSampler(seed=0)
        store.study.optimize(lambda trial: (trial.suggest_float("rate", 1e-3, 1.0, log=True), 1.0), n_trials=2)
        assert len(store.study.trials) == 7
