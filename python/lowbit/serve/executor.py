"""Runs requests: so many at once, so many that wait, none of them longer than its deadline.

Who waits for an answer in a thread of its own runs the call in it, where nobody else waits; all others are run by the
executor's threads. A free thread takes what waits for longest, and with it others of the same model and sizes, up to
the rows that pay for the model. Where batches pay, a request of a model that runs, or whose last batch was of several
requests, waits for more of them: until the batch is full, or for as long as a call of one row takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..graph.ir import Array
from .refusals import Refused, Status

if TYPE_CHECKING:
    from .served import Served

log = logging.getLogger("lowbit.serve")


class Job:
    """One request's call.

    Args:
        served: The model.
        arrays: The graph's inputs.
        rows: How many rows they have.
        deadline: Of `time.perf_counter()`.
    """

    __slots__ = (
        "abandoned",
        "arrays",
        "batch",
        "deadline",
        "done",
        "ended",
        "entered",
        "error",
        "key",
        "outputs",
        "rows",
        "served",
        "started",
    )  # fmt: skip

    def __init__(self, served: Served, arrays: list[Array], rows: int, deadline: float) -> None:
        self.served, self.arrays, self.rows, self.deadline = served, arrays, rows, deadline
        self.key = [array.shape[1:] for array in arrays] if served.batch > 1 and rows else None
        self.entered = self.started = self.ended = 0.0
        self.batch = rows
        self.outputs: list[Array] = []
        self.error: BaseException | None = None
        self.done: Callable[[], object] = _nothing
        self.abandoned = False


def _nothing() -> None:
    """Of a job that nobody waits for."""


class Executor:
    """Threads that run jobs.

    Args:
        workers: Calls at once.
        queue: Jobs that wait, at most.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self.workers, self.queue = workers, queue
        self.running = 0
        self._waiting: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._until_due: float | None = None
        self._threads: list[threading.Thread] = []

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether a job would be refused now."""
        return len(self._waiting) >= self.queue

    def submit(self, job: Job, done: Callable[[], object]) -> None:
        """Run a job soon; `done` is called from another thread when it is over. Raises Refused."""
        job.done = done
        with self._wake:
            self._enter(job)
            self._start_threads()
            self._wake.notify()

    def run(self, job: Job) -> None:
        """Run a job, and return when it is over: with its outputs, or its error. Raises Refused."""
        with self._wake:
            own = not self._waiting and self.running < self.workers and not self._closed
            own = own and (job.served.batch == 1 or not self._more_may_come(job.served))
            if own:
                self._begin(job.served)
                job.entered = time.perf_counter()
            else:
                over = threading.Event()
                job.done = over.set
                self._enter(job)
                self._start_threads()
                self._wake.notify()
        if not own:
            if not over.wait(max(0.0, job.deadline - time.perf_counter())):
                job.abandoned = True
                raise Refused(Status.DEADLINE, "the request's time was over before there was an answer")
            return
        try:
            _run([job])
        finally:
            self._end(job.served)

    def close(self) -> None:
        """Refuse what waits, let what runs end, and end the threads."""
        with self._wake:
            self._closed = True
            left, self._waiting = [*self._waiting], deque()
            self._wake.notify_all()
        for job in left:
            job.error = Refused(Status.NOT_READY, "the server is shutting down")
            job.done()

    def _enter(self, job: Job) -> None:
        if self._closed:
            raise Refused(Status.NOT_READY, "the server is shutting down")
        if len(self._waiting) >= self.queue:
            raise Refused(Status.FULL, f"{self.queue} requests wait already (--queue): try again later")
        job.entered = time.perf_counter()
        self._waiting.append(job)

    def _start_threads(self) -> None:
        if not self._threads:  # at the first need, so that a server that forks before it has none yet
            self._threads = [
                threading.Thread(target=self._work, name=f"lowbit-serve-{index}", daemon=True)
                for index in range(self.workers)
            ]
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (jobs := self._take()):
                    if self._closed:
                        return
                    self._wake.wait(self._until_due)
                served = jobs[0].served
                served.together = len(jobs)
                self._begin(served)
            try:
                _run(jobs)
            finally:
                del jobs  # or the last answer's arrays would stay until the next
                self._end(served)
                del served

    def _begin(self, served: Served) -> None:
        self.running += 1
        served.running += 1

    def _end(self, served: Served) -> None:
        with self._wake:
            self.running -= 1
            served.running -= 1
            if self._waiting:
                self._wake.notify()

    def _take(self) -> list[Job]:
        """The job that waits for longest and is due, with those that share its batch; none: nothing is due."""
        self._until_due = None
        if self.running >= self.workers:
            return []
        passed: set[Served] = set()
        for first in self._waiting:
            if first.served in passed:
                continue
            jobs = self._together(first)
            wait = self._wait(jobs)
            if wait <= 0:
                taken = set(map(id, jobs))
                self._waiting = deque(job for job in self._waiting if id(job) not in taken)
                return jobs
            passed.add(first.served)
            self._until_due = wait if self._until_due is None else min(wait, self._until_due)
        return []

    def _together(self, first: Job) -> list[Job]:
        """A job that waits, and those that share its batch."""
        jobs, rows, most = [first], first.rows, first.served.batch
        if most > rows and first.key is not None:
            for job in self._waiting:
                if job.served is first.served and job is not first and rows + job.rows <= most and job.key == first.key:
                    jobs.append(job)
                    rows += job.rows
        return jobs

    def _more_may_come(self, served: Served) -> bool:
        """Whether a model has several clients: it runs, or its last batch was of several requests."""
        return served.running > 0 or served.together > 1

    def _wait(self, jobs: list[Job]) -> float:
        """Seconds in which a batch may become larger."""
        served = jobs[0].served
        if not self._more_may_come(served) or sum(job.rows for job in jobs) >= served.batch:
            return 0.0
        return jobs[0].entered + served.delay - time.perf_counter()


def _run(jobs: list[Job]) -> None:
    """Run jobs that share a batch, and tell those who wait."""
    start = time.perf_counter()
    live = []
    for job in jobs:
        if job.abandoned or job.deadline <= start:
            job.started = job.ended = start
            job.error = Refused(Status.DEADLINE, "the request's time was over before a model was free")
            job.done()
        else:
            live.append(job)
    if not live:
        return
    try:
        if len(live) == 1:
            live[0].outputs = live[0].served.run(live[0].arrays)
        else:
            _run_together(live)
    except Exception as error:  # whatever it is, who waits must hear of it
        if len(live) > 1:
            for job in live:  # whose fault it is, each finds out alone
                _run([job])
            return
        live[0].error = error
    end = time.perf_counter()
    served = live[0].served
    served.executed(sum(job.rows for job in live))
    for job in live:
        job.started, job.ended = start, end
        job.done()


def _run_together(jobs: list[Job]) -> None:
    joined = [np.concatenate(parts) for parts in zip(*(job.arrays for job in jobs), strict=True)]
    outputs = jobs[0].served.run(joined)
    rows, at = len(joined[0]), 0
    for job in jobs:
        job.batch = rows
        job.outputs = [output[at : at + job.rows] for output in outputs]
        at += job.rows
