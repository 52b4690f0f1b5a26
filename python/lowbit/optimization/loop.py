"""`lowbit.optimize`: as small and fast as possible, and no worse than this."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import _core
from ..compress import History
from ..compress.finetune import Loss
from ..conversion import Request, check_budget, check_module, inputs_of, reiterable
from ..converted_model import ConvertedModel, told
from ..errors import AccuracyError, InputError
from ..progress import Reporter, reporter
from ..quantization import schemes
from ..quantization.budget import score_of
from ..quantization.cost import Costs, target_of
from ..runtime.limits import OWN
from ..runtime.meta import Evaluation
from ..torch_internals import pytree
from . import prices
from .allocate import Problem, allocate
from .candidates import Candidate, Plan
from .neighbours import AS_FAST, planned, returned, smaller
from .noises import noises, noises_of, noises_state
from .prices import Base
from .result import Evaluated, Result, sizes_of, told_choices, told_trial
from .rounds import Rounds, Training
from .stages import Stages, identity, plain
from .targets import Targets
from .training import checked_options
from .workshop import INT8, Workshop, file_bytes

SMALL = 0.1
"""Of a model without a target but the drop: what its bytes count beside its time, each as a share of plain int8's."""
STEPS = 6
"""Budgets of noise that are tried."""
WIDEST = 1e-4
"""The least budget of noise, as a share of plain int8's."""
NEAR = 1.15
"""Budgets that are so near each other give the same plans."""
BEYOND = (1.2, 1.5, 1.9, 2.4, 3.0)
"""Budgets that are tried beyond the noise of the best plan that holds, as shares of it."""
FINALISTS = 6
"""Models that are timed against each other at the end."""
BEST = 2
"""Models that hold of which smaller ones are looked for."""
ROUNDS = 4
"""How often a plan that misses its target when it is measured is made anew."""
UNUSED = 0.01
"""Of the bytes that a file may have: if more are left, the next plan may be predicted to take so many more."""


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
    train: Any = None,
    loss: Loss | None = None,
    finetune: Mapping[str, Any] | None = None,
    threads: int | None = None,
    out: str | Path | None = None,
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
        train: Data to train on, as `compress.finetune` takes them. Where no model without training will do, or where
            `max_drop` alone is asked for, plans are trained: with masks, rounded numbers, `net` as the teacher, and
            labels where there are some, on the whole net and on narrower ones (`compress.shrink`). None: nothing is
            trained.
        loss: Of output and target, for `train`; None: cross entropy of labels that are integers, or the output's own.
        finetune: Options of `compress.finetune` for `train`, such as `{"epochs": 20, "lr": 1e-3}`; "distill" holds
            those of `compress.distill`.
        threads: Of one call, at most.
        out: A directory. What each stage finds is kept there, so that a run that was killed goes on; at the end it
            holds `model.lowbit` and `result.json`, too.
        progress: Show a progress bar on a terminal.

    Returns:
        The model, its plan, and all that was scored.

    Raises:
        InputError: No target, or one that is no positive number; arguments that do not fit; no SciPy.
        AccuracyError: No model was found that meets all targets; the best one is attached.
        OSError: `out` cannot be written.
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
    training = None if train is None else Training(data=train, loss=loss, options=checked_options(finetune))
    if training is None and not (loss is None and finetune is None):
        raise InputError("loss and finetune say how to train: pass train=, the data to train on")
    stages = Stages(out, _told_of(request, inputs, numbers, training))
    with reporter(progress) as report:
        search = Optimization(request, inputs, report, stages, is_estimated=target is not None, training=training)
        return search.run(targets_of(numbers, search.base))


def _told_of(request: Request, inputs: Any, numbers: Mapping[str, float], training: Training | None) -> dict[str, Any]:
    """What a run must agree with to go on, in plain values; of data and functions only whether they are given."""
    shapes = [f"{each.dtype} {list(each.shape)}" for each in pytree.tree_leaves(inputs) if hasattr(each, "shape")]
    return {
        "net": identity(request.net),
        "example": shapes,
        **{name: numbers.get(name) for name in ("max_drop", "latency_ms", "speedup", "bytes")},
        "target": request.target,
        "threads": request.threads,
        "data": request.data is not None,
        "train": training is not None,
        "finetune": None if training is None else plain(training.options),
        "cpu": None if request.target is not None else _core.cpu()["model"],
    }


def asked(net: Any, *, data: Any, evaluate: Any, max_drop: Any, target: str | None, threads: int | None) -> Request:
    """The request to convert that all plans start from. Raises InputError."""
    check_module(net, "lowbit.optimize")
    if not callable(evaluate):
        raise InputError(f"evaluate must be a function from a model to its score, not a {type(evaluate).__name__}")
    check_budget(evaluate, max_drop)
    return Request(
        states={},
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
    """A model that was scored. make: builds it, unless that was done already."""

    plan: Plan
    make: Callable[[], ConvertedModel]
    evaluated: Evaluated
    history: History | None = None


class Optimization:
    """The stages, each once: what layers may become, noises and costs, then plans that are built, measured, scored."""

    def __init__(
        self,
        request: Request,
        inputs: Any,
        report: Reporter,
        stages: Stages | None = None,
        *,
        is_estimated: bool,
        training: Training | None = None,
    ) -> None:
        self._request, self._report, self._inputs = request, report, inputs
        self._stages, self._training = stages or Stages(None, {}), training
        self.workshop = Workshop(request, inputs, report)
        self._costs = Costs(self.workshop.graph, None, request.target) if is_estimated else None
        self._scale = 1.0
        """What a call takes over what was predicted, as the last model showed."""
        self.trials: list[Trial] = []
        self.evaluations: list[Evaluated] = []
        prepared = self.workshop.prepared
        self._plain = self.workshop.build(self.workshop.whole(INT8))
        floats = ConvertedModel(prepared.conversion(prepared.floats))
        base = prices.base(self.workshop, floats, ConvertedModel(self._plain), self._costs)
        self.base = replace(base, microseconds=self._stages.once("base", lambda: dict(base.microseconds)))
        self.problem: Problem | None = None
        self._converted: Trial | None = None

    def run(self, targets: Targets) -> Result:
        """The best model within the targets. Raises AccuracyError."""
        self.weigh()
        self._first()
        search = self._fastest if targets.is_open else self._mildest
        search(targets)
        is_met = any(self._holds(trial, targets) for trial in self.trials)
        if self._training is not None and (targets.is_open or math.isinf(targets.max_drop) or not is_met):
            self._train(self._training, targets)
        return self.result(targets)

    def weigh(self) -> Problem:
        """Noises and prices of all candidates."""
        if self.problem is None:
            found = self._stages.once("noises", lambda: noises_state(noises(self.workshop, self._report)))
            known = noises_of(found)
            state = self._stages.once(
                "prices",
                lambda: prices.problem(self.workshop, known, self.base, self._costs, self._report).state(),
            )
            self.problem = Problem.of(state)
        return self.problem

    def _train(self, training: Training, targets: Targets) -> None:
        """Train plans, in rounds."""
        held = [trial.evaluated.microseconds for trial in self.trials if self._holds(trial, targets)]
        rounds = Rounds(
            net=self._request.net,
            example=self._inputs,
            training=training,
            evaluate=self._score,
            reference=self._reference,
            targets=targets,
            problem=self.weigh(),
            problem_of=self._problem_of,
            measure=self._time,
            stages=self._stages,
            start=min(held, default=self.base.microseconds["int8"]),
            calibration=self._request.data,
            settings={"target": self._request.target, "threads": self._request.threads},
            report=self._report,
        )
        for found in rounds.run():
            self.evaluations.append(found.evaluated)
            assert found.evaluated.plan is not None
            self.trials.append(
                Trial(
                    plan=found.evaluated.plan,
                    make=partial(_given, found.model),
                    evaluated=found.evaluated,
                    history=found.history,
                )
            )

    def _problem_of(self, net: nn.Module) -> Problem:
        """Prices of a narrower net."""
        request, costs = replace(self._request, net=net), None
        workshop = Workshop(request, self._inputs, self._report)
        if self._costs is not None:
            costs = Costs(workshop.graph, None, request.target)
        floats = ConvertedModel(workshop.prepared.conversion(workshop.prepared.floats))
        base = prices.base(workshop, floats, ConvertedModel(workshop.build(workshop.whole(INT8))), costs)
        return prices.problem(workshop, noises(workshop, self._report), base, costs, self._report)

    def _first(self) -> None:
        """Score float32 and plain int8."""
        assert self.problem is not None
        self._reference = self._stages.once("float32", lambda: self._score(self.base.floats))
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
        self._scored("int8", self.problem.plan(chosen), lambda plan: self.base.plain, self._plain_time)

    def _fastest(self, targets: Targets) -> None:
        """Budgets of noise between what plain int8 makes and none, or beyond where plain int8 holds."""
        first = self.trials[0]
        self._converted = None if self._holds(first, targets) else self._returned(targets)
        low, high = WIDEST * first.plan.noise, first.plan.noise
        if self._holds(first, targets):
            low, high = high, 2 * high
            for _ in range(STEPS // 2):
                if not self._tries(high, targets):
                    break
                low, high = high, 2 * high
        for _ in range(STEPS):
            if high > NEAR * low:
                middle = math.sqrt(low * high)
                low, high = (middle, high) if self._tries(middle, targets) else (low, middle)
        for factor in BEYOND:  # scores do not fall evenly with noise: cheaper plans may hold where others did not
            best = min((trial for trial in self.trials if self._holds(trial, targets)), key=self._cost, default=None)
            if best is not None and best is not first:
                self._tries(factor * best.plan.noise, targets)
        held = sorted((trial for trial in self.trials if self._holds(trial, targets)), key=self._cost)
        converted = [trial for trial in held if trial is self._converted]  # as fast as it is, and seldom as small
        for trial in dict.fromkeys((*held[:BEST], *converted)):
            any(self._holds(self.attempt(plan), targets) for plan in smaller(self.weigh(), trial.plan))

    def _returned(self, targets: Targets) -> Trial:
        """What `convert` comes to, which no model that is taken is worse than."""

        def find() -> Any:
            found = returned(self.workshop, self._score, self._reference, targets.max_drop, self._report)
            return {name: candidate.scheme for name, candidate in found.items()}

        kept = self._stages.once("returned", find)
        return self.attempt(planned(self.weigh(), {name: Candidate(scheme=scheme) for name, scheme in kept.items()}))

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
        for tried in range(ROUNDS):
            budgets = {"microseconds": targets.microseconds / self._scale, "bytes": targets.bytes - spare}
            budgets = {name: budget for name, budget in budgets.items() if math.isfinite(budget)}
            plan = allocate(self.problem, {"noise": 1.0}, budgets)
            if plan is None:
                plan = self._least(targets)
            trial = self.attempt(plan)
            self._scale = trial.evaluated.microseconds / trial.plan.microseconds
            over = trial.evaluated.bytes - targets.bytes
            is_wasteful = tried == 0 and over < -UNUSED * targets.bytes and math.isfinite(over)
            spare += over if is_wasteful else max(0.0, over)
            is_fast = trial.evaluated.microseconds <= targets.microseconds
            if is_fast and over <= 0 and not is_wasteful:
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
        return self._scored(f"plan {len(self.trials)}", plan, self._build, self._time)

    def _build(self, plan: Plan) -> ConvertedModel:
        return ConvertedModel(self.workshop.build(plan, {name: reason(plan, name) for name in plan}))

    def _plain_time(self, plan: Plan, model: ConvertedModel) -> float:
        return self.base.microseconds["int8"]

    def _time(self, plan: Plan, model: ConvertedModel) -> float:
        if self._costs is not None:
            return plan.microseconds
        self._report("measure", len(self.trials), None)
        found = prices.measured(self.workshop, {"plain": self.base.plain, "plan": model})
        return found["plan"] / found["plain"] * self.base.microseconds["int8"]  # the machine may have slowed down

    def _scored(
        self,
        name: str,
        plan: Plan,
        build: Callable[[Plan], ConvertedModel],
        time: Callable[[Plan, ConvertedModel], float],
    ) -> Trial:
        """What a run that was killed had scored already is not built again, unless it is taken."""
        make = cache(build)

        def find() -> Any:
            model = make(plan)
            taken, score, size = time(plan, model), self._score(model), file_bytes(model)
            return {"plan": plan.state(), "score": score, "microseconds": taken, "bytes": size}

        found = self._stages.once(name, find)
        own = Plan.of(found.pop("plan"))
        evaluated = Evaluated(name=name, plan=own, drop=self._reference - found["score"], **found)
        self.evaluations.append(evaluated)
        self.trials.append(Trial(plan=own, make=partial(make, own), evaluated=evaluated))
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
        if not targets.is_open:
            return self._result(min(held, key=_drop), targets)
        times = self._timed(held)
        best = min(self._no_worse(held, times), key=lambda trial: self._cost(trial, times))
        return self._result(best, targets)

    def _timed(self, held: Sequence[Trial]) -> dict[str, float]:
        """Microseconds of the best by name, in rounds with each other: what was measured before is of other minutes."""
        chosen = sorted(held, key=self._cost)[:FINALISTS]
        chosen += [trial for trial in held if trial is self._converted and trial not in chosen]
        if self._costs is not None or len(chosen) < 2:
            return {trial.evaluated.name: trial.evaluated.microseconds for trial in chosen}
        found = prices.measured(self.workshop, {trial.evaluated.name: trial.make() for trial in chosen})
        return dict(found)

    def _no_worse(self, held: Sequence[Trial], times: Mapping[str, float]) -> list[Trial]:
        """Those that were timed and are as fast and small as what `convert` comes to, where that holds."""
        timed = [trial for trial in held if trial.evaluated.name in times]
        if self._converted is None or self._converted not in timed:
            return timed
        own = self._converted.evaluated
        return [
            trial
            for trial in timed
            if times[trial.evaluated.name] <= AS_FAST * times[own.name] and trial.evaluated.bytes <= own.bytes
        ]

    def _cost(self, trial: Trial, times: Mapping[str, float] | None = None) -> float:
        base, own = self.base, trial.evaluated
        taken = (times or {}).get(own.name, own.microseconds)
        return taken / base.microseconds["int8"] + SMALL * own.bytes / base.bytes["int8"]

    def _result(self, best: Trial, targets: Targets) -> Result:
        """With all that came out in the model's `meta`, and in the run's directory."""
        made = best.make()
        sizes = sizes_of(self.evaluations, best.evaluated, made)
        goal = {"milliseconds": targets.microseconds / 1e3, "bytes": targets.bytes}
        facts: dict[str, Any] = {
            "max_drop": targets.max_drop if math.isfinite(targets.max_drop) else None,
            "goal": {name: value for name, value in goal.items() if math.isfinite(value)} or None,
            "sizes": sizes,
            "evaluations": tuple(_evaluation(each) for each in self.evaluations),
            "trials": tuple(
                told_trial(each, not targets.missed(each, self._reference), each is best.evaluated)
                for each in self.evaluations
            ),
            "choices": tuple(told_choices(best.plan)),
        }
        result = Result(
            model=_fitting(made, facts, targets.bytes),
            plan=best.plan,
            evaluations=tuple(self.evaluations),
            taken=best.evaluated,
            sizes=sizes,
            history=best.history,
            facts=facts,
        )
        folder = self._stages.at("model.lowbit")
        if folder is not None:
            result.model.save(folder)
            self._stages.keep("result", result.state())
        return result

    def _missed(self, targets: Targets) -> AccuracyError:
        def distance(trial: Trial) -> tuple[int, float]:
            own = trial.evaluated
            far = max(own.microseconds / targets.microseconds, own.bytes / targets.bytes, 1.0)
            return round(1e3 * (far - 1)), own.drop

        best = min(self.trials, key=distance)
        own, result = best.evaluated, self._result(best, targets)
        return AccuracyError(
            f"no model meets all targets: of {len(self.trials)} that were scored, the best misses "
            f"{'; '.join(targets.missed(own, self._reference))}. Allow more, pass more representative data, or give "
            "train= so that the plan is trained; the best model is this error's `model`.",
            model=result.model,
            score=own.score,
            drop=own.drop,
        )


def _drop(trial: Trial) -> float:
    return trial.evaluated.drop


def reason(plan: Plan, layer: str) -> str:
    """Why a layer became what it became, for people."""
    taken = plan.choices[layer].taken
    share = taken.noise / plan.noise if plan.noise > 0 else 0.0
    return f"planned as {taken.candidate.name}: {taken.microseconds:.1f} us, {100 * share:.2g} % of the noise"


def _given(model: ConvertedModel) -> ConvertedModel:
    return model


def _fitting(model: ConvertedModel, facts: Mapping[str, Any], most: float) -> ConvertedModel:
    """The model with all that is told of it, or as much as leaves its file within the limit."""
    for left_out in ((), ("choices",), ("choices", "evaluations"), tuple(facts)):
        made = told(model, **{key: value for key, value in facts.items() if key not in left_out})
        if file_bytes(made) <= most:
            break
    return made


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
