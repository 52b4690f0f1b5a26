"""A study on disk: a journal that any number of processes append to, and what each trial leaves.

    storage/study.json       the arguments it was begun with
    storage/journal.log      optuna's journal: every trial, its configuration, score and time
    storage/trials/0012/     net.pt and model.lowbit of a trial on the front
    storage/workers/         a file for each process, locked as long as it lives

A process that is killed loses the trial that it was in: its lock is gone, so whoever asks next gives the trial up and
draws it anew. Whoever asks holds a lock, so no two processes draw the same trial.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..compress.checkpoints import save_text
from ..errors import InputError
from .space import Trial, key_of, plain

NAME, OURS = "lowbit", "lowbit"
"""Of the study, and of what a trial's attributes hold of ours."""
LOST, ERROR, EQUAL, FAILED, SLOW, DONE = "lost", "error", "equal", "failed", "slow", "done"
"""How a trial ended: its process died; someone's function raised; drawn before; no score; above the limit; scored."""
AGAIN = (LOST, ERROR, EQUAL)
"""Those that are drawn anew and do not count."""

DRAWS = 8
"""Until a configuration is new; then an equal one's answer counts as a trial."""

Sampler = Callable[[int, int], optuna.samplers.BaseSampler]
"""Of a seed and the trial's place. Each trial has one of its own, so a study that goes on draws as an unbroken one."""


class Lock(JournalFileOpenLock):
    """A file that one process at a time holds. Unlike optuna's, it is free once its holder is dead."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._file = path, -1

    def acquire(self, *, wait: bool = True) -> bool:
        """Hold it; False where another does and `wait` is not asked for."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Let go."""
        os.close(self._file)
        self._file = -1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Journal(JournalFileBackend):
    """optuna's, without waiting for the disk after each line: what a process has written survives its death."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=Lock(path.with_suffix(".lock")))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Whole lines, in one write."""
        text = "".join(json.dumps(each, separators=(",", ":")) + "\n" for each in logs)
        with Lock(self._path.with_suffix(".lock")), self._path.open("ab") as file:
            file.write(text.encode())


class Asked:
    """A trial that was drawn: what is to be tried, or the number of an equal one that is answered or on its way."""

    def __init__(self, trial: optuna.Trial, **notes: Any) -> None:
        self.trial, self.notes = trial, notes
        self.config: Any = None
        self.equal: int | None = None
        self.note()

    @property
    def number(self) -> int:
        """The trial's."""
        return self.trial.number

    def note(self, **more: Any) -> None:
        """Write into the journal what else is known of it."""
        self.notes.update(more)
        self.trial.set_user_attr(OURS, self.notes)


class Store:
    """A study and its folder, as one process sees them."""

    def __init__(self, folder: Path, asked: Mapping[str, Any], *, goals: int, sampler: Sampler, seed: int) -> None:
        self.folder, self._sampler, self._seed = folder, sampler, seed
        self._lock, self._name = Lock(folder / "lock"), ""
        self._worker: Lock | None = None
        with self._lock:
            _check_asked(folder, asked)
            _drop_torn_line(folder / "journal.log")
            with quiet():
                self.study = optuna.create_study(
                    storage=JournalStorage(Journal(folder / "journal.log")),
                    study_name=NAME,
                    directions=[StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][:goals],
                    load_if_exists=True,
                )

    # --------------------------------------------------------------------------------------------------------- workers

    @contextmanager
    def working(self) -> Iterator[None]:
        """As long as this process takes trials."""
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._worker = lock = Lock(self.folder / "workers" / self._name)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()
            (self.folder / "workers" / self._name).unlink(missing_ok=True)
            self._worker = None

    def _lives(self, worker: str | None) -> bool:
        if worker is None:  # it had no time to say its name, and nobody else is drawing now
            return False
        path = self.folder / "workers" / worker
        if worker == self._name and self._worker is not None:
            return True
        if not path.exists():
            return False
        lock = Lock(path)
        if not lock.acquire(wait=False):
            return True
        path.unlink(missing_ok=True)
        lock.release()
        return False

    def _give_up_lost(self) -> None:
        """Trials whose process is gone."""
        for trial in self.trials(TrialState.RUNNING):
            if not self._lives(ours(trial).get("worker")):
                self.study.tell(trial.number, state=TrialState.FAIL)

    # ---------------------------------------------------------------------------------------------------------- trials

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All, or those in these states."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def counted(self) -> list[FrozenTrial]:
        """Those that are done or on their way, in the order of their places."""
        found = (each for each in self.trials() if ended(each) not in AGAIN and "place" in ours(each))
        return sorted(found, key=lambda each: int(ours(each)["place"]))

    def times(self) -> list[dict[str, Any]]:
        """What trials noted of the times that they measured on this machine."""
        notes = (ours(each) for each in self.trials())
        return [each for each in notes if "work_ms" in each and each["worker"].startswith(f"{socket.gethostname()}-")]

    def left(self, trials: int) -> int:
        """How many of so many are not drawn yet."""
        return max(0, trials - len(self.counted()))

    def open(self) -> bool:
        """Whether a process somewhere is in a trial."""
        with self._lock:
            self._give_up_lost()
            return bool(self.trials(TrialState.RUNNING))

    def ask(self, trials: int, space: Callable[[Trial], Any]) -> Asked | None:
        """Draw the next of so many trials; None where all are drawn."""
        with self._lock:
            self._give_up_lost()
            before = self.counted()
            places = {int(ours(each)["place"]) for each in before}
            place = next(place for place in range(len(places) + 1) if place not in places)
            if place >= trials:
                return None
            for attempt in range(DRAWS):
                asked = self._draw(place, attempt, space, before)
                if asked.equal is None:
                    break
                if attempt < DRAWS - 1:  # one that is new is worth more; where there is none, the answer is known
                    self._end(asked, EQUAL)
            return asked

    def _draw(self, place: int, attempt: int, space: Callable[[Trial], Any], before: list[FrozenTrial]) -> Asked:
        seed = int(np.random.SeedSequence([self._seed, place, attempt]).generate_state(1)[0])
        with quiet():
            self.study.sampler = self._sampler(seed, place)
            asked = Asked(self.study.ask(), worker=self._name, place=place)
            try:
                asked.config = space(Trial(asked.trial, _distributions(before)))
                key = key_of(asked.config)
            except Exception as error:  # whatever a person's function raises is told, and ends the trial
                self._end(asked, ERROR, reason=str(error))
                raise
        asked.note(config=plain(asked.config), key=key)
        asked.equal = next((each.number for each in before if ours(each).get("key") == key), None)
        return asked

    def answer(self, number: int) -> FrozenTrial:
        """A trial as it stands."""
        with self._lock:
            self._give_up_lost()
            return next(each for each in self.trials() if each.number == number)

    def tell(self, asked: Asked, how: str, values: list[float] | None = None, **notes: Any) -> None:
        """The end of a trial, and what is to be known of it."""
        with self._lock:
            self._end(asked, how, values, **notes)

    def _end(self, asked: Asked, how: str, values: list[float] | None = None, **notes: Any) -> None:
        state = {DONE: TrialState.COMPLETE, SLOW: TrialState.PRUNED}.get(how, TrialState.FAIL)
        asked.note(how=how, **notes)
        with quiet():
            self.study.tell(asked.number, values, state=state)

    def keep_front(self, front: Callable[[list[FrozenTrial]], Iterable[FrozenTrial]]) -> None:
        """Remove the nets of trials that others are better than."""
        with self._lock:
            kept = [*front(self.trials(TrialState.COMPLETE)), *self.trials(TrialState.RUNNING)]
            names = {self.files(each.number).name for each in kept}
            for path in (self.folder / "trials").glob("*"):
                if path.name not in names:
                    shutil.rmtree(path, ignore_errors=True)

    def files(self, number: int) -> Path:
        """The folder of a trial's net."""
        return self.folder / "trials" / f"{number:04d}"


def ended(trial: FrozenTrial) -> str:
    """How it ended; "" where it did not yet."""
    if not trial.state.is_finished():
        return ""
    how = str(ours(trial).get("how", LOST))
    return LOST if trial.state == TrialState.FAIL and how not in (ERROR, EQUAL, FAILED) else how


def ours(trial: FrozenTrial) -> dict[str, Any]:
    """What its attributes hold of ours."""
    return dict(trial.user_attrs.get(OURS, {}))


@contextmanager
def quiet() -> Iterator[None]:
    """Without optuna's words of what is experimental, and of each study."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _distributions(trials: list[FrozenTrial]) -> dict[str, Any]:
    return {name: each for trial in trials for name, each in trial.distributions.items()}


def _check_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """Note what a study is begun with; refuse to go on with something else."""
    path, here = folder / "study.json", json.loads(json.dumps(asked))
    if not path.exists():
        if (folder / "journal.log").exists():
            raise InputError(f"{folder} has a journal that no search wrote: give this one a storage of its own")
        save_text(path, json.dumps(here, indent=1))
        return
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read; remove {folder} to begin anew: {error}") from error
    differ = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
    if differ:
        told = "; ".join(f"{key} is {here.get(key)!r} here, {there.get(key)!r} there" for key in differ)
        raise InputError(f"the study in {folder} is another, give this one a storage of its own: {told}")


def _drop_torn_line(journal: Path) -> None:
    """What a machine that lost its power had not written to the end."""
    if not journal.exists() or not journal.stat().st_size:
        return
    with Lock(journal.with_suffix(".lock")), journal.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
