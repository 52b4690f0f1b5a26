"""`lowbit.optimize` with training: which nets are trained, what comes out, and that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit
from lowbit.errors import AccuracyError, InputError
from lowbit.optimization import rounds

Xy = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def xy() -> Xy:
    """Images of 8 x 8, of which the mean of the upper half says the class."""
    x = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :, :4].mean((1, 2, 3)) > 0).long()


@pytest.fixture(scope="module")
def taught(xy: Xy) -> nn.Sequential:
    """A net that knows them, whose second convolution takes most of its time."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(256, 2),
    )  # fmt: skip
    lowbit.compress.finetune(net, xy, epochs=3, lr=3e-3, batch_size=32, progress=False)
    return net


def right(xy: Xy) -> Callable[[Any], float]:
    return lambda model: float((model(xy[0]).argmax(1) == xy[1]).float().mean())


def optimized(net: nn.Module, xy: Xy, **changes: Any) -> Any:
    """By the cost model of a named target, so that nothing depends on the machine."""
    options: dict[str, Any] = {
        "data": xy[0].split(32), "evaluate": right(xy), "target": "avx2", "threads": 1, "train": xy,
        "finetune": {"epochs": 1, "batch_size": 64}, "progress": False,
    }  # fmt: skip
    return lowbit.optimize(net, xy[0][:1], **{**options, **changes})


class Run:
    """A run that trains for two epochs, which may be killed when so many scores are known: its result and folder."""

    def __init__(self, net: nn.Module, xy: Xy, folder: Path, until: float = float("inf")) -> None:
        self.folder, self.calls = folder, 0
        torch.manual_seed(0)

        def evaluate(model: Any) -> float:
            if self.calls >= until:
                raise KeyboardInterrupt
            self.calls += 1
            return right(xy)(model)

        options = {"epochs": 2, "batch_size": 64}
        self.result = optimized(net, xy, speedup=2.0, evaluate=evaluate, out=folder, finetune=options)


@pytest.fixture(scope="module")
def whole(taught: nn.Sequential, xy: Xy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One that nobody kills."""
    before = [value.clone() for value in taught.state_dict().values()]
    run = Run(taught, xy, tmp_path_factory.mktemp("runs") / "whole")
    assert all(torch.equal(a, b) for a, b in zip(before, taught.state_dict().values(), strict=True))
    return run


def test_a_plan_is_trained_where_none_will_do(whole: Run, xy: Xy, tmp_path: Path) -> None:
    """The whole net first; what comes out is faster, scored, and told in the file, on the page and in result.json."""
    result = whole.result
    trained = [each for each in result.evaluations if each.trained]
    assert result.taken is trained[-1]
    assert [each.width for each in trained] == [1.0]
    assert result.taken.microseconds <= result.evaluations[1].microseconds / 2
    assert right(xy)(result.model) == pytest.approx(result.taken.score)
    assert result.taken.plan == result.plan
    assert len(result.history.rows) == 2
    assert {each.kind for each in result.model.meta.training} >= {"distillation", "training"}
    assert [row.taken for row in result.model.meta.trials] == [each is result.taken for each in result.evaluations]
    assert {row.layer for row in result.model.meta.choices} == set(result.plan)
    assert [row.step for row in result.sizes] == ["float32", "int8", result.taken.name, "entropy coded"]
    kept = json.loads((whole.folder / "result.json").read_text())
    assert kept["taken"] == result.taken.name
    assert [row["score"] for row in kept["evaluations"]] == [each.score for each in result.evaluations]
    saved = lowbit.load(whole.folder / "model.lowbit")
    assert torch.equal(torch.from_numpy(saved(xy[0].numpy())), result.model(xy[0]))
    assert saved.meta.trials == result.model.meta.trials
    result.report(tmp_path / "page.html", xy[0][:1])
    page = (tmp_path / "page.html").read_text()
    assert all(each.name in page for each in result.evaluations)
    assert "What each layer became" in page
    assert f"> {result.taken.name}" in repr(result)


def test_the_front(whole: Run) -> None:
    """Each is cheaper than the next, which scores higher; nothing else would be on it."""
    result = whole.result
    for what in ("microseconds", "bytes"):
        front = result.front[what]
        assert [getattr(each, what) for each in front] == sorted(getattr(each, what) for each in front)
        assert [each.score for each in front] == sorted({each.score for each in front})
        for other in result.evaluations:
            assert any(getattr(e, what) <= getattr(other, what) and e.score >= other.score for e in front)


def test_narrower_nets_follow_and_the_best_is_told(taught: nn.Sequential, xy: Xy) -> None:
    """Of scores that are never enough: a few widths, each once, no net that is too slow; the best is the error's."""
    scores = iter([0.9, *[0.1] * 99])
    with pytest.raises(AccuracyError, match="no model meets all targets") as caught:
        optimized(taught, xy, speedup=1.5, max_drop=0.01, evaluate=lambda model: next(scores))
    trials = [row for row in caught.value.model.meta.trials if row.trained]
    widths = [row.width for row in trials]
    assert widths == [1.0, 0.75, 0.5, 0.25]  # 3/8 of 64 channels, in whole multiples of 16, would be a half again
    assert len(widths) <= rounds.ROUNDS
    assert all(row.milliseconds <= caught.value.model.meta.trials[1].milliseconds / 1.5 for row in trials)
    assert not any(row.holds for row in trials)


def test_a_drop_alone_is_followed_by_faster_ones(taught: nn.Sequential, xy: Xy) -> None:
    """Each round that holds is followed by one that is faster; the fastest of them is taken."""
    result = optimized(taught, xy, max_drop=1.0)
    trained = [each for each in result.evaluations if each.trained]
    times = [each.microseconds for each in trained]
    assert times == sorted(times, reverse=True)
    assert len(times) > 1
    assert result.taken.microseconds == min(each.microseconds for each in result.evaluations)


@pytest.mark.parametrize("stop", [2, 4])
def test_a_killed_run_goes_on(taught: nn.Sequential, xy: Xy, whole: Run, tmp_path: Path, stop: int) -> None:
    """What was scored is not scored again, and what comes out is what an unbroken run gives."""
    with pytest.raises(KeyboardInterrupt):
        Run(taught, xy, tmp_path, stop)
    again = Run(taught, xy, tmp_path)
    assert again.calls == whole.calls - stop
    found, expected = ([replace(each, bytes=0) for each in run.result.evaluations] for run in (again, whole))
    assert found == expected  # a file also tells what seconds its training took, in more digits or fewer
    assert torch.equal(again.result.model(xy[0]), whole.result.model(xy[0]))


def test_a_run_that_is_done_gives_its_result_again(taught: nn.Sequential, xy: Xy, whole: Run) -> None:
    again = Run(taught, xy, whole.folder, 0)
    assert again.result.evaluations == whole.result.evaluations
    assert again.result.history.rows == whole.result.history.rows
    assert torch.equal(again.result.model(xy[0]), whole.result.model(xy[0]))


def test_convolutions_along_one_axis_and_numbers_instead_of_classes() -> None:
    """Their masks, where zeros can be made, and a layer that is no module; a loss of one's own; without calibration."""

    class Signals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(4, 64, 5, padding=2), nn.Conv1d(64, 64, 5, padding=2)
            self.head = nn.Parameter(0.1 * torch.randn(32, 64))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.second(self.first(x).relu()).relu().mean(2), self.head)

    torch.manual_seed(0)
    net, x = Signals().eval(), torch.randn(32, 4, 32)
    target = net(x).detach()

    def score(model: Any) -> float:
        return -float((model(x) - target).detach().square().mean() / target.square().mean())

    result = lowbit.optimize(
        net, x[:4], evaluate=score, speedup=1.3, train=(x, target), loss=nn.functional.mse_loss, target="avx2",
        finetune={"epochs": 1, "batch_size": 16}, threads=1, progress=False,
    )  # fmt: skip
    assert {"first", "second"} < set(result.plan)
    assert any(each.trained for each in result.evaluations)
    assert result.taken.score > -0.5


def test_other_arguments_are_refused(taught: nn.Sequential, xy: Xy, tmp_path: Path) -> None:
    """By name, before anything is done; and options of training without data to train on."""
    optimized(taught, xy, bytes=1e6, train=None, finetune=None, out=tmp_path)
    with pytest.raises(InputError, match=r"another, .*bytes is 5000.* here, 1000000\.0 there"):
        optimized(taught, xy, bytes=5e3, train=None, finetune=None, out=tmp_path)
    with pytest.raises(InputError, match=r"net is '\w+' here"):
        optimized(nn.Sequential(*taught[:7]), xy, bytes=1e6, train=None, finetune=None, out=tmp_path)
    with pytest.raises(InputError, match="pass train=, the data to train on"):
        optimized(taught, xy, bytes=1e6, train=None)
    with pytest.raises(InputError, match="no option 'epoch'"):
        optimized(taught, xy, bytes=1e6, finetune={"epoch": 1})


def test_a_file_that_may_not_be_larger_tells_less(taught: nn.Sequential, xy: Xy, tmp_path: Path) -> None:
    """The file holds the limit with all that is told of it; the page tells all."""
    result = optimized(taught, xy, bytes=41_000, train=None, finetune=None, max_drop=1.0)
    result.model.save(tmp_path / "net.lowbit")
    assert (tmp_path / "net.lowbit").stat().st_size <= 41_000
    result.report(tmp_path / "page.html")
    assert "What each layer became" in (tmp_path / "page.html").read_text()
