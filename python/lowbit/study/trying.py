"""One trial: build, convert, time, train, score; whatever a person's function raises names the configuration."""

from __future__ import annotations

import math
import random
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import nn

from ..compress import checkpoints
from ..converted_model import ConvertedModel
from ..errors import InputError
from ..progress import Reporter
from .latency import Latency, graph_key
from .result import MODEL, NET, front_of
from .space import Trial, key_of, shown
from .store import AGAIN, DONE, ERROR, FAILED, SLOW, Asked, Store, ended, ours

PACKAGE = Path(__file__).parents[1]
TRIES, PAUSE, NOISE = 4, 0.2, 1.06
"""How often a busy machine is tried again, after so many seconds, and what is no noise."""
WAIT = 0.05
"""Seconds between looks at a trial that another process is in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a search was asked for, checked: all that a process needs to take trials."""

    build: Callable[[Any], nn.Module]
    space: Callable[[Trial], Any]
    train: Callable[[nn.Module, Any], Any] | None
    evaluate: Callable[[Any], float]
    latency: Latency | None
    trials: int
    seed: int


def try_all(plan: Plan, store: Store, report: Reporter, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Take trials until all are done, those of other processes, too."""
    with store.working():
        while is_wanted():
            show(plan, store, report)
            if not try_one(plan, store):
                if not store.open():
                    return
                time.sleep(WAIT)


def show(plan: Plan, store: Store, report: Reporter) -> None:
    """How far a study is."""
    counted = store.counted()
    done = [each for each in counted if ended(each)]
    front = front_of(each for each in done if ended(each) == DONE)
    best = f"{len(front)} on the front, best score {front[-1].values[0]:.4g}" if front else ""
    report("search", len(done), plan.trials, best)


def try_one(plan: Plan, store: Store) -> bool:
    """Take a trial; False where all are drawn."""
    asked = store.ask(plan.trials, plan.space)
    if asked is None:
        return False
    start = time.perf_counter()
    if not _answered(asked, store):
        try:
            how, values, notes = _outcome(plan, asked, store)
        except Exception as error:  # whatever a person's function raises is told, and ends the trial
            store.tell(asked, ERROR, reason=str(error), seconds=time.perf_counter() - start)
            raise
        store.tell(asked, how, values, **notes, seconds=time.perf_counter() - start)
        if how == DONE:
            store.keep_front(front_of)
    return True


def _answered(asked: Asked, store: Store) -> bool:
    """Whether an equal trial has, or comes to have, an answer."""
    if asked.equal is None:
        return False
    while not ended(there := store.answer(asked.equal)):
        time.sleep(WAIT)
    if ended(there) in AGAIN:
        return False
    notes = {key: value for key, value in ours(there).items() if key in ("latency_ms", "bytes", "reason")}
    store.tell(asked, ended(there), there.values, **notes, equal=ours(there).get("equal", there.number))
    return True


def _outcome(plan: Plan, asked: Asked, store: Store) -> tuple[str, list[float] | None, dict[str, Any]]:
    """How it ended, with what values, and what else there is to know."""
    latency, config, folder = plan.latency, asked.config, store.files(asked.number)
    seed = zlib.crc32(f"{plan.seed} {key_of(config)}".encode())
    notes: dict[str, Any] = {}
    is_new = False
    with seeded(seed):
        with told("build", config):
            net = plan.build(config)
        if not isinstance(net, nn.Module):
            raise InputError(f"build must return a torch.nn.Module, gave {type(net).__name__} for {shown(config)}")
        if latency is not None:
            with told("the conversion of the untrained net", config):
                more, is_new = _measured(latency, latency.model(net, config), store)
                notes |= more
            if latency.limit_ms is not None and notes["latency_ms"] > latency.limit_ms:
                reason = f"{notes['latency_ms']:.4g} ms, above limit_ms={latency.limit_ms:g}"
                return SLOW, None, {**notes, "reason": reason}
    with seeded(seed):  # what was timed draws no numbers that training would
        if plan.train is not None:
            try:
                with told("train", config):
                    trained = plan.train(net, config)
            except optuna.TrialPruned as pruned:
                return SLOW, None, {**notes, "reason": str(pruned) or "train gave it up"}
            net = trained if isinstance(trained, nn.Module) else net
        net.eval()
        scored: Any = net
        folder.mkdir(parents=True, exist_ok=True)
        if latency is not None:
            with told("the conversion of the trained net", config):
                scored = latency.model(net, config)
                scored.save(folder / MODEL)
                if is_new and graph_key(scored) == notes["graph"]:  # another moment, maybe a quieter one
                    ms, work = latency.timed(scored)
                    notes |= {"latency_ms": min(notes["latency_ms"], ms), "work_ms": min(notes["work_ms"], work)}
            notes["bytes"] = (folder / MODEL).stat().st_size
        with told("evaluate", config), torch.no_grad():
            score = float(plan.evaluate(scored))
    if not math.isfinite(score):
        return FAILED, None, {**notes, "reason": f"evaluate gave {score}"}
    torch.save(net.state_dict(), folder / NET)
    return DONE, [score, *([] if latency is None else [notes["latency_ms"]])], notes


def _measured(latency: Latency, model: ConvertedModel, store: Store) -> tuple[dict[str, Any], bool]:
    """What is known of a model's time, and whether it was measured now: equal graphs are, once, in a quiet moment.

    A moment is quiet where the fixed piece of work takes hardly longer than in the quietest one so far.
    """
    graph, before = graph_key(model), store.times()
    quiet = NOISE * min((each["work_ms"] for each in before), default=0.0)
    known = [each["latency_ms"] for each in before if each["graph"] == graph and each["work_ms"] <= quiet]
    if known:
        return {"graph": graph, "latency_ms": min(known)}, False
    taken = []
    for _ in range(TRIES):
        taken.append(latency.timed(model))
        if taken[-1][1] <= quiet:
            break
        time.sleep(PAUSE)
    ms, work = (min(each) for each in zip(*taken, strict=True))
    return {"graph": graph, "latency_ms": ms, "work_ms": work}, True


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The random numbers of equal configurations are equal; those of the program go on as they were."""
    before = checkpoints.random_state(None)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        checkpoints.set_random_state(None, before)


@contextmanager
def told(what: str, config: Any) -> Iterator[None]:
    """An error says what failed, with which configuration, and at which line."""
    try:
        yield
    except optuna.TrialPruned:
        raise
    except Exception as error:  # a person's functions raise what they like
        frames = traceback.extract_tb(error.__traceback__)
        mine = [each for each in frames if not Path(each.filename).is_relative_to(PACKAGE)]
        own = [each for each in mine if "site-packages" not in each.filename] or mine or frames
        where = f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
        raise InputError(
            f"{what} failed for the configuration ({shown(config)}): {type(error).__name__}: {error} ({where}); "
            "mend it, or leave such configurations out of the space, and start the search again: it goes on"
        ) from error
