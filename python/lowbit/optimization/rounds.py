"""Rounds of training: which width and plan to train next, until one holds all that was asked for.

From the widest net on: where some plan has the time and bytes that were asked for, the one with least noise is trained
and scored; where its score is too low, a narrower net, whose layers then need to lose less, is next. What a plan takes
is measured on the untrained net, so what would not be fast enough is never trained. Without such a goal, each round
that holds is followed by one for a shorter time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..compress import History, shrink
from ..compress.finetune import Loss
from ..converted_model import ConvertedModel
from ..errors import InputError, UnsupportedError
from ..progress import Reporter
from .allocate import Problem, allocate
from .candidates import Plan
from .result import Evaluated
from .stages import Stages
from .targets import Targets
from .training import finished, masked, rounded, train_plan
from .workshop import file_bytes

WIDTHS = (1.0, 0.75, 0.5, 0.375, 0.25)
ROUND_TO = 16
FASTER = 0.7
"""Of the time of what holds, what the next round aims at where no time was asked for."""
MARGIN = 0.97
"""Of a limit, what a plan may take when it is measured: the same model takes a little more at another time."""
AIMS = 5
"""Plans that are measured before a width is given up: each as much faster as the one before it was too slow."""
ROUNDS = 4
"""Nets that are trained."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A model that was trained and scored."""

    model: ConvertedModel
    evaluated: Evaluated
    history: History


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What to train on, and how.

    Args:
        data: As `compress.finetune` takes them.
        loss: Of output and target.
        options: Of `compress.finetune`.
    """

    data: Any
    loss: Loss | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Aim:
    """A plan that is fast and small enough, at a width."""

    width: float
    plan: Plan


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounds:
    """What all rounds share.

    Args:
        net: The float net.
        example: Inputs of one call.
        training: What to train on, and how.
        evaluate: From a model to its score.
        reference: The float net's score.
        targets: What was asked for.
        problem: The prices of all candidates.
        problem_of: Those of a narrower net; those that cannot be trained are left out here.
        measure: Microseconds of a call of the model of a plan.
        stages: Where results are kept.
        report: Shows how far training is.
        start: Microseconds of the best model without training, from which rounds set out where no time was asked for.
        calibration: Inputs.
        settings: Of `lowbit.convert`.
    """

    net: nn.Module
    example: Any
    training: Training
    evaluate: Callable[[ConvertedModel], float]
    reference: float
    targets: Targets
    problem: Problem
    problem_of: Callable[[nn.Module], Problem]
    measure: Callable[[Plan, ConvertedModel], float]
    stages: Stages
    report: Reporter
    start: float = math.inf
    calibration: Iterable[Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> Iterator[Found]:
        """The models of the rounds, in the order of training; what holds is not followed by what is no better.

        Raises:
            InputError: Data, options or a loss that do not fit.
        """
        problems, widths, count = dict[float, Problem](), self._widths(), 0
        targets = replace(self.targets, microseconds=FASTER * self.start) if self.targets.is_open else self.targets
        while widths and count < ROUNDS:
            aim = self._aim(targets, widths[0], problems, f"round {count + 1} width {widths[0]:g}")
            if aim is None:
                widths.pop(0)
                continue
            count += 1
            found = self._train(aim, f"round {count}")
            yield found
            if self.targets.missed(found.evaluated, self.reference):
                widths.pop(0)
            elif not self.targets.is_open:
                return
            else:
                targets = replace(targets, microseconds=FASTER * found.evaluated.microseconds)

    def _widths(self) -> list[float]:
        """Those that give nets of different sizes: channels come in whole multiples."""
        found: dict[int, float] = {}
        for width in WIDTHS:
            if (small := self._narrowed(width)) is not None:
                found.setdefault(sum(each.numel() for each in small.parameters()), width)
        return list(found.values())

    # ---------------------------------------------------------------------------------------------------------- plans

    def _aim(self, targets: Targets, width: float, problems: dict[float, Problem], name: str) -> Aim | None:
        """The plan with least noise that is within the targets when it is measured; None: there is none."""

        def find() -> Any:
            small = self._narrowed(width)
            assert small is not None
            if width not in problems:
                problems[width] = _trainable(self.problem if width == 1 else self.problem_of(small))
            plan = self._fitting(targets, small, problems[width])
            return None if plan is None else plan.state()

        state = self.stages.once(name, find)
        return None if state is None else Aim(width=width, plan=Plan.of(state))

    def _fitting(self, targets: Targets, small: nn.Module, problem: Problem) -> Plan | None:
        """Predictions are corrected by what is measured."""
        limits = {"microseconds": targets.microseconds, "bytes": targets.bytes}
        known = {key: limit for key, limit in limits.items() if math.isfinite(limit)}
        for _ in range(AIMS):
            plan = allocate(problem, {"noise": 1.0}, known)
            if plan is None:
                return None
            model = self._untrained(small, plan)
            taken = {"microseconds": self.measure(plan, model), "bytes": float(file_bytes(model))}
            if taken["microseconds"] <= MARGIN * limits["microseconds"] and taken["bytes"] <= limits["bytes"]:
                return plan
            predicted = {"microseconds": plan.microseconds, "bytes": float(plan.bytes)}
            for key in known:
                if taken[key] > MARGIN * limits[key]:
                    known[key] = min(known[key], predicted[key]) * min(MARGIN * limits[key] / taken[key], 0.98)
        return None

    def _untrained(self, small: nn.Module, plan: Plan) -> ConvertedModel:
        """As fast and as large as the trained one will be."""
        made = copy.deepcopy(small)
        masked(made, plan, None)
        rounded(made, plan, self.example, self.calibration or [self.example])
        return finished(made, plan, self.example, **self.settings)

    def _narrowed(self, width: float) -> nn.Module | None:
        """A copy of the net of that width; None: it cannot be narrower."""
        made = copy.deepcopy(self.net)
        if width == 1:
            return made
        try:
            return shrink(made, self.example, 1 - width, round_to=ROUND_TO)
        except (InputError, UnsupportedError):
            return None

    # -------------------------------------------------------------------------------------------------------- training

    def _train(self, aim: Aim, name: str) -> Found:
        small = self._narrowed(aim.width)
        assert small is not None
        history = train_plan(
            small,
            aim.plan,
            self.example,
            self.training.data,
            teacher=copy.deepcopy(self.net),
            evaluate=self.evaluate,
            loss=self.training.loss,
            calibration=self.calibration,
            options=self.training.options,
            settings=self.settings,
            checkpoint=self.stages.at(name),
            progress=self.report,
        )
        model = finished(small, aim.plan, self.example, **self.settings)
        what = name if aim.width == 1 else f"{name}, {aim.width:g} of the width"

        def find() -> Any:
            score = self.evaluate(model)
            return {
                "score": score,
                "drop": self.reference - score,
                "microseconds": self.measure(aim.plan, model),
                "bytes": file_bytes(model),
            }

        found = self.stages.once(f"{name} scored", find)
        evaluated = Evaluated(name=what, plan=aim.plan, width=aim.width, trained=True, **found)
        return Found(model=model, evaluated=evaluated, history=history)


def _trainable(problem: Problem) -> Problem:
    """Without what no training is for: weights in eight bits that are floats when they are used."""
    kept = {
        layer: [price for price in prices if price.candidate.scheme != "int8-weights"]
        for layer, prices in problem.prices.items()
    }
    return replace(problem, prices=kept)
