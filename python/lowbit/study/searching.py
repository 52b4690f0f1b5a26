"""`compress.search`: a space, a way to build, train and score what is in it, and a study of trials."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..compress.optimizing import plain_name
from ..errors import InputError
from ..progress import reporter
from .latency import Latency
from .latency import asked as asked_of
from .processes import Study, in_processes, on_cluster
from .result import SearchResult, result_of
from .space import Trial, fill
from .store import Lock
from .supernet import teach
from .trying import Plan, try_all

METHODS = ("evolution", "tpe", "policy", "gradient", "random")


def search(
    build: Callable[[Any], nn.Module],
    space: Mapping[str, Any] | Callable[[Trial], Any],
    *,
    evaluate: Callable[[Any], float],
    train: Callable[[nn.Module, Any], Any] | None = None,
    latency: Any = None,
    method: str = "evolution",
    trials: int = 100,
    storage: str | Path | None = None,
    workers: int = 1,
    ray: bool | str = False,
    seed: int = 0,
    progress: bool = True,
) -> SearchResult:
    """Look for nets that are better and faster: architectures, bits, zeros and learning rates alike.

    Each trial draws a configuration from `space`, builds its net, converts the untrained net and times it, prunes the
    trial if that takes too long, trains the net, converts it again and scores the model. Equal configurations are tried
    once; the others have the same answer.

    Args:
        build: From a configuration to a net, whose weights are drawn anew.
        space: The configuration, with `compress.choice` and `compress.between` in places; or a function from a `Trial`
            to it, for what depends on something else that is drawn.
        evaluate: From a model to its score; higher is better. With `latency`, it gets the converted model, else the
            net, in eval mode. A score that is not finite counts as a failed trial.
        train: A function of a net and its configuration that trains it in place, or returns another module. None: nets
            are scored as they are built. It may raise `optuna.TrialPruned`.
        latency: An example input, or a `Latency`, which says more: a limit, a scheme, calibration. None: the score is
            the only goal.
        method: "evolution" (NSGA-II), "tpe" (trees of Parzen estimators), "policy" (REINFORCE over tables of
            probabilities), "gradient" (a supernet whose gates learn, for choices that `build` passes through
            `compress.mixed`), or "random".
        trials: How many, with those before in the same storage.
        storage: A directory. A search of the same arguments goes on there, and any number of processes may do so at
            once; a process that is killed loses the trial that it is in. None: a temporary one.
        workers: Processes on this machine, each on one thread.
        ray: Run trials as Ray tasks, one CPU each, `workers` at a time (1: as many as the cluster has CPUs); True: on
            the cluster that the program is connected to, or one on this machine; or a cluster's address. `storage` must
            be a directory that all machines share.
        seed: Equal seeds draw equal trials, as long as one process draws them.
        progress: Show a progress bar on a terminal.

    Returns:
        The trials, and the front of those that no other is better than.

    Raises:
        InputError: Arguments that do not fit, a storage of another search, a function that failed; the message names
            the configuration. The search goes on when it is called again.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> x = torch.randn(256, 16)
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> space = {"width": lowbit.compress.choice(8, 32), "lr": lowbit.compress.between(1e-3, 1e-1, log=True)}
        >>> def build(config):
        ...     return nn.Sequential(nn.Linear(16, config["width"]), nn.ReLU(), nn.Linear(config["width"], 2))
        >>> def train(net, config):
        ...     lowbit.compress.finetune(net, (x, y), lr=config["lr"], epochs=2)
        >>> def accuracy(model):
        ...     return float((model(x).argmax(1) == y).float().mean())
        >>> found = lowbit.compress.search(build, space, train=train, evaluate=accuracy, latency=x[:1], trials=6)
        >>> len(found.trials), found.best() in found.front, found.net()(x).shape
        (6, True, torch.Size([256, 2]))
    """
    plan = _checked(build, space, evaluate, train, latency, trials, seed)
    _check_how(method, plan, workers, ray, progress)
    temporary = tempfile.mkdtemp(prefix="lowbit-search-") if storage is None else None
    folder = Path(temporary or str(storage))
    asked = {
        "method": method,
        "seed": seed,
        "space": repr(space) if isinstance(space, Mapping) else plain_name(space),
        "build": plain_name(build),
        "train": None if train is None else plain_name(train),
        "evaluate": plain_name(evaluate),
        "latency": None if plan.latency is None else asked_of(plan.latency),
    }
    study = Study(folder=folder, asked=asked, method=method, goals=1 if plan.latency is None else 2, seed=seed)
    if method == "gradient":
        _teach(plan, study, progress)
    if ray:
        on_cluster(plan, study, workers, ray, progress)
    elif workers > 1:
        in_processes(plan, study, workers, progress)
    else:
        with reporter(progress) as report:
            try_all(plan, study.open(), report)
    store = study.open()
    found = result_of(store.counted(), folder, store.files, build, plan.space)
    if temporary is not None:
        weakref.finalize(found, shutil.rmtree, temporary, ignore_errors=True)
    return found


def _teach(plan: Plan, study: Study, progress: bool) -> None:
    """Train the supernet, unless that was done; one process does, others wait for it."""
    study.folder.mkdir(parents=True, exist_ok=True)
    study.open()  # refuses another search's folder first
    with Lock(study.folder / "supernet.lock"), reporter(progress) as report:
        if not study.taught.exists():
            teach(plan, study.taught, report)


def _checked(build: Any, space: Any, evaluate: Any, train: Any, latency: Any, trials: Any, seed: Any) -> Plan:
    for name, function in (("build", build), ("evaluate", evaluate), ("train", train)):
        if not callable(function) and not (name == "train" and function is None):
            raise InputError(f"{name} must be a function, not a {type(function).__name__}")
    if isinstance(space, Mapping):
        tree = dict(space)
        draw = partial(fill, tree=tree)
    elif callable(space):
        draw = partial(_filled, space)
    else:
        raise InputError(
            "space must be a dict with compress.choice(...) and compress.between(...) in it, or a function from a "
            f"trial to one, not a {type(space).__name__}"
        )
    for name, number, least in (("trials", trials, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise InputError(f"{name} must be a whole number from {least} on, is {number!r}")
    if latency is not None and not isinstance(latency, Latency):
        latency = Latency(latency)
    return Plan(build=build, space=draw, train=train, evaluate=evaluate, latency=latency, trials=trials, seed=seed)


def _filled(space: Callable[[Trial], Any], trial: Trial) -> Any:
    return fill(trial, space(trial))


def _check_how(method: Any, plan: Plan, workers: Any, ray: Any, progress: Any) -> None:
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, is {method!r}")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers must be a whole number from 1 on, is {workers!r}")
    if not isinstance(ray, bool | str):
        raise InputError(f"ray must be True, False or a cluster's address, is {ray!r}")
    if not isinstance(progress, bool):
        raise InputError(f"progress must be True or False, is {progress!r}")
