"""Processes that share a study, that are killed in it, and a cluster's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

from lowbit.compress import SearchResult, choice, search
from lowbit.errors import LowbitError
from lowbit.study.store import Lock
from study.studies import study

SCRIPT = Path(__file__).parent / "studies.py"
TRIALS = 12
FORK = multiprocessing.get_context("fork")


def started(folder: Path, *more: str) -> ForkProcess:
    """The study in a process of its own."""
    folder.mkdir(exist_ok=True)
    process = FORK.Process(target=_run, args=(folder, *more))
    process.start()
    return process


def _run(folder: Path, *more: str) -> None:
    torch.set_num_threads(1)
    found = study(str(folder), *more)
    (folder / f"found {os.getpid()}").write_text(" ".join(str(each.config["width"]) for each in found.trials))


def ended(process: ForkProcess, folder: Path) -> list[str]:
    """The widths of the trials that it found."""
    process.join(280)
    assert process.exitcode == 0
    return (folder / f"found {process.pid}").read_text().split()


def trained(folder: Path) -> list[tuple[str, str]]:
    """What was trained, in order, and where."""
    path = folder / "trained.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.rpartition(" ")[0], line.rpartition(" ")[2]) for line in lines]


def wait_for(folder: Path, count: int) -> None:
    """Until so many trials are trained."""
    deadline = time.monotonic() + 120
    while len(trained(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process: ForkProcess) -> None:
    """By SIGKILL."""
    process.kill()
    process.join()


def states(folder: Path) -> list[str]:
    """Of the trials in the journal."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    study = optuna.load_study(study_name="lowbit", storage=optuna.storages.JournalStorage(backend))
    return [each.state.name for each in study.trials]


def test_a_kill_loses_one_trial(tmp_path: Path) -> None:
    """SIGKILL amid a trial, twice: what was done stays, what was lost is drawn anew, the same as without kills."""
    whole = tmp_path / "whole"
    widths = ended(started(whole, str(TRIALS), "0"), whole)
    assert len(widths) == TRIALS
    folder = tmp_path / "killed"
    for count in (3, 6):
        process = started(folder, str(TRIALS), "0.5")
        wait_for(folder, count)
        time.sleep(0.25)
        kill(process)
        assert states(folder)[-1] == "RUNNING"
    assert ended(started(folder, str(TRIALS), "0"), folder) == widths
    assert states(folder).count("COMPLETE") == TRIALS
    assert states(folder).count("FAIL") == 2
    assert len(states(folder)) == TRIALS + 2
    names = [name for name, _ in trained(folder)]
    assert list(dict.fromkeys(names)) == [name for name, _ in trained(whole)]
    assert len(names) <= TRIALS + 2


def test_processes_share_a_study(tmp_path: Path) -> None:
    """Two programs at once, one of which has two processes: each trial is taken once."""
    programs = [started(tmp_path, str(TRIALS), "0.2"), started(tmp_path, str(TRIALS), "0.2", "2")]
    first, second = (ended(each, tmp_path) for each in programs)
    assert first == second
    assert states(tmp_path) == ["COMPLETE"] * TRIALS
    assert len({name for name, _ in trained(tmp_path)}) == len(trained(tmp_path)) == TRIALS


def test_forks(tmp_path: Path) -> None:
    """Closures and data need not be pickled; an error of one is told; those of a dead parent end."""
    data = torch.arange(4.0)

    def run(folder: Path, evaluate: Any, trials: int = 6) -> SearchResult:
        space = {"width": choice(range(1, 40))}
        return search(
            lambda config: nn.Linear(1, config["width"]), space, evaluate=evaluate, method="random", trials=trials,
            storage=folder, workers=2, progress=False,
        )  # fmt: skip

    assert len(run(tmp_path / "a", lambda net: net.out_features + float(data.sum())).trials) == 6
    with pytest.raises(LowbitError, match=r"evaluate failed .*width \d+.*ZeroDivisionError"):
        run(tmp_path / "b", lambda net: 1 / 0)
    with pytest.raises(LowbitError, match="all processes ended before the search did"):
        run(tmp_path / "c", lambda net: os.kill(os.getpid(), signal.SIGKILL))
    assert len(run(tmp_path / "c", lambda net: 1.0).trials) == 6
    assert not list((tmp_path / "c" / "workers").iterdir())


def test_children_of_a_killed_parent_end(tmp_path: Path) -> None:
    """After the trial that they are in."""
    process = started(tmp_path, "1000", "0.1", "2")
    wait_for(tmp_path, 2)
    kill(process)
    children = {int(child) for _, child in trained(tmp_path)}
    deadline = time.monotonic() + 60
    while any(lives(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(trained(tmp_path)) < 1000


def lives(process: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    """Half of a line at the journal's end, as a machine that lost its power may leave it."""
    assert len(study(str(tmp_path), "2", "0").trials) == 2
    with (tmp_path / "journal.log").open("a") as file:
        file.write('{"op_code":4,"worker_')
    assert len(study(str(tmp_path), "3", "0").trials) == 3


def test_lock(tmp_path: Path) -> None:
    """One holds it; the dead let go."""
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire(wait=False)
    first.release()
    assert second.acquire(wait=False)
    second.release()


def test_ray(tmp_path: Path) -> None:
    """Trials as tasks, in processes of Ray's; the same trials as in one process."""
    pytest.importorskip("ray")
    study(str(tmp_path), "6", "0")
    folder = tmp_path / "ray"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), "6", "0.2", "2", "ray"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 trials")
    assert {name for name, _ in trained(folder)} == {name for name, _ in trained(tmp_path)}
    assert str(os.getpid()) not in {process for _, process in trained(folder)}
    assert states(folder) == ["COMPLETE"] * 6
