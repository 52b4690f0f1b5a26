"""Many processes in one study: forks on this machine, or tasks of a Ray cluster. They meet in the storage alone."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, LowbitError
from ..progress import reporter
from .samplers import sampler_of
from .store import Store
from .supernet import table_of
from .trying import Plan, show, try_all, try_one

LOOK = 0.2
"""Seconds between looks at what the processes do."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """How a process finds the study."""

    folder: Path
    asked: Mapping[str, Any]
    method: str
    goals: int
    seed: int

    @property
    def taught(self) -> Path:
        """What a supernet learned."""
        return self.folder / "supernet.json"

    def open(self) -> Store:
        """The study, begun if it is not there."""
        table = table_of(self.taught) if self.method == "gradient" and self.taught.exists() else None
        sampler = sampler_of(self.method, table)
        return Store(self.folder, self.asked, goals=self.goals, sampler=sampler, seed=self.seed)


def in_processes(plan: Plan, study: Study, workers: int, progress: bool) -> None:
    """Fork, so that functions and data need not be sent, and wait. A killed process is no harm to the others."""
    context = multiprocessing.get_context("fork")
    store, ends, children = study.open(), [], []
    for _ in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(plan, study, theirs))
        child.start()
        theirs.close()
        ends.append(ours)
        children.append(child)
    try:
        with reporter(progress) as report:
            while any(child.is_alive() for child in children):
                show(plan, store, report)
                _raise_first(ends)
                time.sleep(LOOK)
        _raise_first(ends)
    finally:
        for child in children:
            child.terminate()
            child.join()
    if store.open() or store.left(plan.trials):
        codes = ", ".join(str(child.exitcode) for child in children)
        raise LowbitError(f"all processes ended before the search did (exit codes {codes}); start it again: it goes on")


def _work(plan: Plan, study: Study, end: Connection) -> None:
    """A child: one thread, until all is done or the parent is gone."""
    torch.set_num_threads(1)
    parent = os.getppid()
    try:
        try_all(plan, study.open(), lambda *_: None, lambda: os.getppid() == parent)
    except LowbitError as error:
        end.send((type(error).__name__, str(error)))


def _raise_first(ends: list[Connection]) -> None:
    for end in ends:
        try:
            if end.poll():
                raise InputError(end.recv()[1])
        except EOFError:
            continue


def on_cluster(plan: Plan, study: Study, workers: int, address: bool | str, progress: bool) -> None:
    """A task for each trial, on one CPU; Ray starts tasks again whose machine is gone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no word to others of what runs here
    try:
        import ray
    except ImportError as error:
        raise InputError('ray=True needs Ray: pip install "lowbit[compress,ray]"') from error
    was_running = ray.is_initialized()
    if not was_running:
        own: dict[str, Any] = {"num_cpus": workers if workers > 1 else None} if address is True else {}
        ray.init(
            address="local" if address is True else address,
            include_dashboard=None if own == {} else False,
            log_to_driver=False,
            logging_level="ERROR",
            **own,
        )
    try:
        wide = workers if workers > 1 else max(1, int(ray.cluster_resources().get("CPU", 1)))
        store, task = study.open(), ray.remote(num_cpus=1, max_retries=3)(_task)
        running: list[Any] = []
        given = ray.put((plan, study))
        with reporter(progress) as report:
            while True:
                while len(running) < wide and store.left(plan.trials) > len(running):
                    running.append(task.remote(given))
                if not running:
                    if not store.open() and not store.left(plan.trials):
                        return
                    time.sleep(LOOK)
                done, running = ray.wait(running, timeout=LOOK) if running else ([], [])
                for each in done:
                    told = ray.get(each)
                    if told:
                        raise InputError(told)
                show(plan, store, report)
    finally:
        if not was_running:
            ray.shutdown()


def _task(given: tuple[Plan, Study]) -> str:
    """One trial; what went wrong, or ""."""
    torch.set_num_threads(1)
    plan, study = given
    store = study.open()
    try:
        with store.working():
            try_one(plan, store)
    except LowbitError as error:
        return str(error)
    return ""
