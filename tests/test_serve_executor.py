"""Who runs what when: the queue's bound, deadlines, and batches, whose rows come to the bits of single ones."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import InputError
from lowbit.serve import batching
from lowbit.serve.executor import Executor, Job
from lowbit.serve.refusals import Refused, Status
from lowbit.serve.served import Models, Settings

LATER = 1e9


class Fake:
    """A model that doubles, and waits until it may."""

    def __init__(self, batch: int = 1, delay: float = LATER) -> None:
        self.batch, self.delay, self.running = batch, delay, 0
        self.together = 1
        self.runs: list[int] = []
        self.may, self.entered = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, arrays: list[Any]) -> list[Any]:
        self.runs.append(len(arrays[0]))
        self.entered.release()
        assert self.may.acquire(timeout=30)
        if (arrays[0] < 0).any():
            raise InputError("below zero")
        return [2 * arrays[0]]

    def executed(self, rows: int) -> None:
        pass

    def job(self, *values: float, deadline: float = LATER, width: int = 1) -> Job:
        rows = np.repeat(np.array(values, np.float32)[:, None], width, 1)
        return Job(self, [rows], len(values), deadline)  # type: ignore[arg-type] # all that an executor asks of one


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def submit(executor: Executor, job: Job) -> threading.Event:
    over = threading.Event()
    executor.submit(job, over.set)
    return over


def test_the_queue_is_bounded() -> None:
    """What is beyond it is refused at once; what waits is answered, or refused when the server ends."""
    fake, executor = Fake(), Executor(1, 2)
    over = [submit(executor, fake.job(1))]
    fake.entered.acquire()
    waiting = [fake.job(2), fake.job(3)]
    over += [submit(executor, job) for job in waiting]
    for ask in (lambda: submit(executor, fake.job(4)), lambda: executor.run(fake.job(4))):
        with pytest.raises(Refused, match="2 requests wait") as refused:
            ask()
        assert refused.value.status is Status.FULL
    fake.may.release()
    fake.entered.acquire()
    executor.close()
    assert over[2].wait(30)
    assert isinstance(waiting[1].error, Refused)
    fake.may.release()
    assert over[1].wait(30)
    assert waiting[0].outputs[0].tolist() == [[4]]
    with pytest.raises(Refused, match="shutting down"):
        executor.run(fake.job(1))


@pytest.mark.parametrize("batch", [1, 8])
def test_what_a_job_held_goes_with_it(batch: int) -> None:
    """Inputs, outputs and a model that was replaced are not left to the garbage collector, which comes late."""
    fake, executor = Fake(batch), Executor(1, 8)
    fake.may.release(2)
    own, other = fake.job(1), fake.job(2)
    gc.disable()
    try:
        executor.run(own)
        assert submit(executor, other).wait(30)
        until(lambda: executor.running == 0)
        arrays = [weakref.ref(array) for job in (own, other) for array in (*job.arrays, *job.outputs)]
        del own, other
        until(lambda: all(array() is None for array in arrays))
    finally:
        gc.enable()
    executor.close()


def test_deadlines_and_those_who_left() -> None:
    """A job whose time is over, or whose client is gone, is not run."""
    fake, executor = Fake(), Executor(1, 8)
    first = submit(executor, fake.job(1))
    fake.entered.acquire()
    late, gone, good = fake.job(2, deadline=time.perf_counter()), fake.job(3), fake.job(4)
    gone.abandoned = True
    over = [submit(executor, job) for job in (late, gone, good)]
    fake.may.release(2)
    assert all(each.wait(30) for each in (first, *over))
    assert fake.runs == [1, 1]
    assert isinstance(late.error, Refused)
    assert late.error.status is Status.DEADLINE
    assert good.outputs[0].tolist() == [[8]]
    executor.close()


def test_a_caller_does_not_wait_beyond_its_deadline() -> None:
    """Though the only thread runs something else for longer."""
    fake, executor = Fake(), Executor(1, 8)
    first = submit(executor, fake.job(1))
    fake.entered.acquire()
    with pytest.raises(Refused) as refused:
        executor.run(fake.job(2, deadline=time.perf_counter() + 0.05))
    assert refused.value.status is Status.DEADLINE
    fake.may.release()
    assert first.wait(30)
    until(lambda: executor.running == 0)
    assert fake.runs == [1]
    executor.close()


def test_batches_form_while_a_model_runs() -> None:
    """The first request is alone; those that come meanwhile are one batch, if their rows fit and are alike."""
    fake, executor = Fake(batch=4), Executor(3, 64)
    first = fake.job(1)
    caller = threading.Thread(target=executor.run, args=(first,))
    caller.start()
    fake.entered.acquire()
    jobs = [fake.job(2), fake.job(3, 4), fake.job(5, width=2), fake.job(6)]
    over = [submit(executor, job) for job in jobs]  # four rows of one width are full, and do not wait
    fake.entered.acquire()
    assert fake.runs == [1, 4]
    fake.delay = 0.0
    fake.may.release(3)
    assert all(each.wait(30) for each in over)
    caller.join()
    assert fake.runs == [1, 4, 1]
    assert [job.outputs[0][:, 0].tolist() for job in jobs] == [[4], [6, 8], [10], [12]]
    assert [job.batch for job in jobs] == [4, 4, 1, 4]
    executor.close()


def test_a_request_waits_for_others_no_longer_than_the_delay() -> None:
    """Then a free thread takes it, though the batch is not full."""
    fake, executor = Fake(batch=4, delay=0.05), Executor(2, 8)
    over = [submit(executor, fake.job(1))]
    fake.entered.acquire()
    over.append(submit(executor, fake.job(2)))
    assert fake.entered.acquire(timeout=30)
    assert fake.runs == [1, 1]
    fake.may.release(2)
    assert all(each.wait(30) for each in over)
    executor.close()


def test_who_is_alone_again_does_not_wait() -> None:
    """A model whose last batch was of several waits once more, and then no more."""
    fake, executor = Fake(batch=8, delay=0.05), Executor(1, 8)
    fake.together = 3
    fake.may.release(2)
    start = time.perf_counter()
    executor.run(fake.job(1))
    assert time.perf_counter() - start >= 0.05
    assert fake.together == 1
    fake.delay = LATER
    executor.run(fake.job(2))
    assert fake.runs == [1, 1]
    executor.close()


def test_a_request_that_fails_does_not_fail_its_batch() -> None:
    """Whose fault it is, each finds out alone."""
    fake, executor = Fake(batch=8), Executor(1, 8)
    over = [submit(executor, fake.job(1))]
    fake.entered.acquire()
    jobs = [fake.job(2), fake.job(-1), fake.job(3)]
    over += [submit(executor, job) for job in jobs]
    fake.may.release(10)
    assert all(each.wait(30) for each in over)
    assert fake.runs == [1, 3, 1, 1, 1]
    assert [type(job.error) for job in jobs] == [type(None), InputError, type(None)]
    assert jobs[2].outputs[0].tolist() == [[6]]
    executor.close()


class Mixes(nn.Module):
    """Rows that depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2048, 2048)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) - x.max()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers whose weights take far longer to read than a row takes to multiply."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 16)).eval()
    path = tmp_path_factory.mktemp("wide") / "wide.lowbit"
    lowbit.convert(net, torch.randn(2, 2048), scheme="int8-weights", progress=False).save(path)
    return path


def test_a_batched_answer_is_the_single_one(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very different numbers, from many threads at once, bit for bit."""
    monkeypatch.setattr(batching, "WORTH", -1.0)
    monkeypatch.setattr(batching, "GAIN", 0.0)
    models = Models(wide, Settings(concurrency=1, max_batch=16))
    served = models.get("wide")
    assert served.batch > 1
    random = np.random.default_rng(0)
    inputs = [
        (random.standard_normal((1 + at % 3, 2048)) * 10.0 ** (at % 7 - 3)).astype(np.float32) for at in range(24)
    ]
    right = [served.run([rows])[0] for rows in inputs]
    found = [models.job(served, {"input": rows}, LATER) for rows in inputs]
    callers = [threading.Thread(target=models.executor.run, args=(job,)) for job in found]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(job.outputs[0].tobytes() == rows.tobytes() for job, rows in zip(found, right, strict=True))
    assert max(job.batch for job in found) > 3
    models.close()


def test_what_does_not_pay_or_mixes_rows_is_not_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it is: a batch would change the answers."""
    monkeypatch.setattr(batching, "WORTH", -1.0)
    monkeypatch.setattr(batching, "GAIN", 0.0)
    lowbit.convert(Mixes().eval(), torch.randn(2, 2048), scheme="float32", progress=False).save(
        tmp_path / "mixes.lowbit"
    )
    lowbit.convert(nn.Linear(8, 4), torch.randn(2, 8), dynamic=None, progress=False).save(tmp_path / "fixed.lowbit")
    lowbit.convert(nn.Linear(8, 4), torch.randn(2, 8), progress=False).save(tmp_path / "free.lowbit")
    files = [tmp_path / f"{name}.lowbit" for name in ("mixes", "fixed", "free")]
    models = Models(files, Settings(max_batch=16))
    assert [models.get(name).batch for name in ("mixes", "fixed", "free")] == [1, 1, 16]
    monkeypatch.setattr(batching, "WORTH", 1.0)  # a second a row: nothing gains so much
    models.load("free")
    assert models.get("free").batch == 1
    models.close()
