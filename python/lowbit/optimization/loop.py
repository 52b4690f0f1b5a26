"""`lowbit.optimize`: as small and fast as possible, and no worse than this."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..conversion import Request, check_budget, check_module, inputs_of, reiterable
from ..converted_model import Conversion, ConvertedModel
from ..errors import AccuracyError, InputError
from ..progress import Reporter, reporter
from ..quantization import schemes
from ..quantization.budget import SLACK, score_of
from ..quantization.cost import Costs, target_of
from ..runtime.limits import OWN
from ..runtime.meta import Evaluation
from . import prices
from .allocate import Problem, allocate
from .candidates import Plan
from .noises import noises
from .prices import Base
from .result import Evaluated, Result
from .workshop import INT8, Workshop, file_bytes

SMALL = 0.1
"""Of a model without a target but the drop: what its bytes count beside its time, each as a share of plain int8's."""
STEPS = 8
"""Budgets of noise that are tried."""
WIDEST = 1e-4
"""The least budget of noise, as a share of plain int8's."""
ROUNDS = 4
"""How often a plan that misses its target when it is measured is made anew."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What was asked for. max_drop: inf where any drop will do."""

    max_drop: float
    microseconds: float = math.inf
    bytes: float = math.inf

    @property
    def is_open(self) -> bool:
        """Whether the drop alone is a target, under which a model is to be as fast as it can be."""
        return math.isinf(self.microseconds) and math.isinf(self.bytes)

    def missed(self, each: Evaluated, reference: float) -> list[str]:
        """What a model does not meet, in words."""
        found = []
        if each.drop > self.max_drop + SLACK * max(self.max_drop, abs(reference)):
            found.append(f"its drop is {each.drop:.4g} of {self.max_drop:g}")
        if each.microseconds > self.microseconds:
            found.append(f"a call takes {each.microseconds / 1e3:.4g} ms of {self.microseconds / 1e3:.4g}")
        if each.bytes > self.bytes:
            found.append(f"its file has {each.bytes:,} bytes of {self.bytes:,.0f}")
        return found


def optimize(
    net: torch.nn.Module,
    example: Any = None,
    *,
    data: Iterable[Any] | None = None,
    evaluate: Callable[[Any], float],
    max_drop: float | None = None,
    latency_ms: float | None = None,
    speedup: float | None = None,
    bytes: float | None = None,
    target: str | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Result:
    """Find what each layer should become, so that the model is as small and fast as asked, and no worse than allowed.

    A layer may stay float32, store its weights as codes of eight bits and compute in float32, work on codes with
    weights of eight bits, four, three values or sixteen, and lose blocks of its weights. For each of these its noise is
    found on the data and its time is measured here; an integer linear programme takes the best of it all. The model is
    built, measured and scored, and the plan changes until it holds.

    With `max_drop` alone, the fastest model that holds it is looked for (and of equally fast ones the smallest). With
    `latency_ms`, `speedup` or `bytes`, that with the least noise within these; `max_drop` must hold, too, where given.

    Args:
        net: The module; it is left as it is.
        example: Inputs as `lowbit.convert` takes them. A call with these is what is timed. None: the first item of
            `data`, or the module's `dummy_inputs`.
        data: Calibration data as `lowbit.convert` takes them. None: inputs are quantized by their own range, and layers
            are weighed by their weights alone.
        evaluate: A function from a model to its score, higher is better. The models are called as `net` is.
        max_drop: How far the score may fall below float32's.
        latency_ms: What a call may take, in milliseconds.
        speedup: How many times faster than plain int8 a call must be: than what `lowbit.convert` makes with the same
            data, all layers on codes.
        bytes: What the file may take.
        target: The instruction set that times are estimated for by the cost model; None: they are measured here.
        threads: Of one call, at most.
        progress: Show a progress bar on a terminal.

    Returns:
        The model, its plan, and all that was scored.

    Raises:
        InputError: No target, or one that is no positive number; arguments that do not fit; no SciPy.
        AccuracyError: No model was found that meets all targets; the best one is attached.
        UnsupportedError: As `lowbit.convert`.
        CalibrationError: As `lowbit.convert`.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)).eval()
        >>> data = torch.randn(64, 256)
        >>> expected = net(data).argmax(1)
        >>> def score(model) -> float:
        ...     return float((model(data).argmax(1) == expected).float().mean())
        >>> result = lowbit.optimize(net, data[:1], data=data.split(16), evaluate=score, bytes=100_000)
        >>> sorted(result.plan)
        ['0', '2']
    """
    request = asked(net, data=data, evaluate=evaluate, max_drop=max_drop, target=target, threads=threads)
    numbers = _numbers(max_drop=max_drop, latency_ms=latency_ms, speedup=speedup, bytes=bytes)
    inputs = example if example is not None else inputs_of(net, request.data)
    if inputs is None:
        raise InputError("lowbit.optimize needs example inputs: pass example=, or data= with batches of inputs")
    with reporter(progress) as report:
        search = Optimization(request, inputs, report, is_estimated=target is not None)
        return search.run(targets_of(numbers, search.base))


def asked(net: Any, *, data: Any, evaluate: Any, max_drop: Any, target: str | None, threads: int | None) -> Request:
    """The request to convert that all plans start from. Raises InputError."""
    check_module(net, "lowbit.optimize")
    if not callable(evaluate):
        raise InputError(f"evaluate must be a function from a model to its score, not a {type(evaluate).__name__}")
    check_budget(evaluate, max_drop)
    return Request(
        net=net,
        data=reiterable(data),
        rules=schemes.rules("int8"),
        dynamic="auto",
        fallback=False,
        tune=False,
        target=target_of(target),
        threads=threads,
        limits=OWN,
        evaluate=evaluate,
        max_drop=max_drop,
    )


def _numbers(**given: Any) -> dict[str, float]:
    """Those that were given. Raises InputError."""
    found = {name: value for name, value in given.items() if value is not None}
    if not found:
        raise InputError("lowbit.optimize needs a target: max_drop, latency_ms, speedup or bytes")
    for name, value in found.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if name != "max_drop" and (not is_number or value <= 0):
            raise InputError(f"{name} must be a positive number, is {value!r}")
    if "latency_ms" in found and "speedup" in found:
        raise InputError("latency_ms and speedup both say how long a call may take: give one of them")
    return found


def targets_of(numbers: Mapping[str, float], base: Base) -> Targets:
    """What numbers mean beside what plain int8 takes."""
    times = [1e3 * numbers["latency_ms"]] if "latency_ms" in numbers else []
    times += [base.microseconds["int8"] / numbers["speedup"]] if "speedup" in numbers else []
    return Targets(
        max_drop=numbers.get("max_drop", math.inf),
        microseconds=min(times, default=math.inf),
        bytes=numbers.get("bytes", math.inf),
    )


@dataclass(kw_only=True, eq=False)
class Trial:
    """A model that was built, and scored if it was worth it."""

    plan: Plan
    made: Conversion
    evaluated: Evaluated


class Optimization:
    """The stages, each once: what layers may become, noises and costs, then plans that are built, measured, scored."""

    def __init__(self, request: Request, inputs: Any, report: Reporter, *, is_estimated: bool) -> None:
        self._request, self._report = request, report
        self.workshop = Workshop(request, inputs, report)
        self._costs = Costs(self.workshop.graph, None, request.target) if is_estimated else None
        self._scale = 1.0
        """What a call takes over what was predicted, as the last model showed."""
        self.trials: list[Trial] = []
        self.evaluations: list[Evaluated] = []
        prepared = self.workshop.prepared
        self._plain = self.workshop.build(self.workshop.whole(INT8))
        floats = ConvertedModel(prepared.conversion(prepared.floats))
        self.base = prices.base(self.workshop, floats, ConvertedModel(self._plain), self._costs)
        self.problem: Problem | None = None

    def run(self, targets: Targets) -> Result:
        """The best model within the targets. Raises AccuracyError."""
        self.weigh()
        self._first()
        search = self._fastest if targets.is_open else self._mildest
        search(targets)
        return self.result(targets)

    def weigh(self) -> Problem:
        """Noises and prices of all candidates."""
        if self.problem is None:
            found = noises(self.workshop, self._report)
            self.problem = prices.problem(self.workshop, found, self.base, self._costs, self._report)
        return self.problem

    def _first(self) -> None:
        """Score float32 and plain int8."""
        assert self.problem is not None
        self._reference = self._score(self.base.floats)
        self.evaluations.append(
            Evaluated(
                name="float32",
                plan=None,
                score=self._reference,
                drop=0.0,
                microseconds=self.base.microseconds["float32"],
                bytes=self.base.bytes["float32"],
            )
        )
        whole = self.workshop.whole(INT8)
        chosen = {
            name: next(price for price in self.problem.prices[name] if price.candidate == each)
            for name, each in whole.items()
        }
        self._scored("int8", self.problem.plan(chosen), self._plain, self.base.microseconds["int8"])

    def _fastest(self, targets: Targets) -> None:
        """Budgets of noise between what plain int8 makes and none, or beyond where plain int8 holds."""
        first = self.trials[0]
        low, high = WIDEST * first.plan.noise, first.plan.noise
        if self._holds(first, targets):
            low, high = high, 2 * high
            for _ in range(STEPS // 2):
                if not self._tries(high, targets):
                    break
                low, high = high, 2 * high
            else:
                return
        for _ in range(STEPS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._tries(middle, targets) else (low, middle)

    def _tries(self, noise: float, targets: Targets) -> bool:
        """Whether the fastest plan with so much noise holds."""
        assert self.problem is not None
        base = self.base
        goal = {"microseconds": 1 / base.microseconds["int8"], "bytes": SMALL / base.bytes["int8"]}
        plan = allocate(self.problem, goal, {"noise": noise})
        return plan is not None and self._holds(self.attempt(plan), targets)

    def _mildest(self, targets: Targets) -> None:
        """The plan of least noise within the targets, as measured."""
        assert self.problem is not None
        spare = 0.0
        for _ in range(ROUNDS):
            budgets = {"microseconds": targets.microseconds / self._scale, "bytes": targets.bytes - spare}
            budgets = {name: budget for name, budget in budgets.items() if math.isfinite(budget)}
            plan = allocate(self.problem, {"noise": 1.0}, budgets)
            if plan is None:
                plan = self._least(targets)
            trial = self.attempt(plan)
            spare += max(0.0, trial.evaluated.bytes - targets.bytes)
            if trial.evaluated.microseconds <= targets.microseconds and trial.evaluated.bytes <= targets.bytes:
                return

    def _least(self, targets: Targets) -> Plan:
        """The plan that misses the targets least."""
        assert self.problem is not None
        goal = {"microseconds": 1 / targets.microseconds, "bytes": 1 / targets.bytes}
        plan = allocate(self.problem, goal, {})
        assert plan is not None
        return plan

    def attempt(self, plan: Plan) -> Trial:
        """Build, measure and score a plan, once."""
        for trial in self.trials:
            if dict(trial.plan) == dict(plan):
                return trial
        made = self.workshop.build(plan, {name: reason(plan, name) for name in plan})
        return self._scored(f"plan {len(self.trials)}", plan, made, self._time(plan, ConvertedModel(made)))

    def _time(self, plan: Plan, model: ConvertedModel) -> float:
        if self._costs is not None:
            return plan.microseconds
        self._report("measure", len(self.trials), None)
        found = prices.measured(self.workshop, {"plain": self.base.plain, "plan": model})
        taken = found["plan"] / found["plain"] * self.base.microseconds["int8"]  # the machine may have slowed down
        self._scale = taken / plan.microseconds
        return taken

    def _scored(self, name: str, plan: Plan, made: Conversion, microseconds: float) -> Trial:
        model = ConvertedModel(made)
        score = self._score(model)
        found = Evaluated(
            name=name,
            plan=plan,
            score=score,
            drop=self._reference - score,
            microseconds=microseconds,
            bytes=file_bytes(model),
        )
        self.evaluations.append(found)
        self.trials.append(Trial(plan=plan, made=made, evaluated=found))
        return self.trials[-1]

    def _score(self, model: ConvertedModel) -> float:
        self._report("evaluate", len(self.evaluations), None)
        assert self._request.evaluate is not None
        return score_of(self._request.evaluate(model))

    def _holds(self, trial: Trial, targets: Targets) -> bool:
        return not targets.missed(trial.evaluated, self._reference)

    def result(self, targets: Targets) -> Result:
        """The best that was scored. Raises AccuracyError where none meets the targets."""
        held = [trial for trial in self.trials if self._holds(trial, targets)]
        if not held:
            raise self._missed(targets)
        best = min(held, key=self._cost if targets.is_open else lambda trial: trial.evaluated.drop)
        return Result(model=self._told(best, targets), plan=best.plan, evaluations=tuple(self.evaluations))

    def _cost(self, trial: Trial) -> float:
        base, own = self.base, trial.evaluated
        return own.microseconds / base.microseconds["int8"] + SMALL * own.bytes / base.bytes["int8"]

    def _told(self, trial: Trial, targets: Targets) -> ConvertedModel:
        """The model with what was tried in its `meta`."""
        made = trial.made
        allowed = targets.max_drop if math.isfinite(targets.max_drop) else None
        told = tuple(_evaluation(each) for each in self.evaluations)
        return ConvertedModel(replace(made, meta=replace(made.meta, evaluations=told, max_drop=allowed)))

    def _missed(self, targets: Targets) -> AccuracyError:
        def distance(trial: Trial) -> tuple[int, float]:
            own = trial.evaluated
            far = max(own.microseconds / targets.microseconds, own.bytes / targets.bytes, 1.0)
            return round(1e3 * (far - 1)), own.drop

        best = min(self.trials, key=distance)
        own = best.evaluated
        return AccuracyError(
            f"no model meets all targets: of {len(self.trials)} that were scored, the best misses "
            f"{'; '.join(targets.missed(own, self._reference))}. Allow more, pass more representative data, or give "
            "train= so that the plan is trained; the best model is this error's `model`.",
            model=self._told(best, targets),
            score=own.score,
            drop=own.drop,
        )


def reason(plan: Plan, layer: str) -> str:
    """Why a layer became what it became, for people."""
    taken = plan.choices[layer].taken
    share = taken.noise / plan.noise if plan.noise > 0 else 0.0
    return f"planned as {taken.candidate.name}: {taken.microseconds:.1f} us, {100 * share:.2g} % of the noise"


def _evaluation(each: Evaluated) -> Evaluation:
    kinds = [] if each.plan is None else [candidate.scheme for candidate in each.plan.values()]
    floats = (
        [] if each.plan is None else [name for name, c in each.plan.items() if c.scheme in ("float32", "int8-weights")]
    )
    few = sum(kind not in ("float32", "int8", "int8-weights") for kind in kinds)
    return Evaluation(
        model=each.name,
        score=each.score,
        drop=each.drop,
        int8_layers=kinds.count("int8"),
        int4_layers=few,
        float_layers=tuple(floats),
    )
