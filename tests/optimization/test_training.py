"""Training as a plan says: what each layer becomes is in the file, the float net teaches, and options are checked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit
from lowbit.errors import InputError
from lowbit.graph.ir import Weight
from lowbit.optimization.candidates import Candidate
from lowbit.optimization.training import finished, train_plan

PLAN = {
    "0": Candidate(scheme="float32"),
    "3": Candidate(scheme="int8", pattern="4x4", sparsity=0.75),
    "7": Candidate(scheme="ternary"),
    "9": Candidate(scheme="int4-g32"),
}
"""One of each kind; the last layer, which a scheme alone would leave in eight bits, has four."""


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def xy() -> tuple[Tensor, Tensor]:
    """Images of 8 x 8, of which the mean of the upper half says the class."""
    x = torch.randn(192, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :, :4].mean((1, 2, 3)) > 0).long()


@pytest.fixture(scope="module")
def taught(xy: tuple[Tensor, Tensor]) -> nn.Sequential:
    """A net that knows them."""
    made = net()
    lowbit.compress.finetune(made, xy, epochs=8, lr=5e-3, batch_size=32, progress=False)
    return made


def right(model: Any, xy: tuple[Tensor, Tensor]) -> float:
    return float((model(xy[0]).argmax(1) == xy[1]).float().mean())


@pytest.mark.parametrize("labelled", [True, False])
def test_each_layer_becomes_what_the_plan_says(
    labelled: bool, taught: nn.Sequential, xy: tuple[Tensor, Tensor]
) -> None:
    """In the module and in the file; without labels, the teacher alone says what to learn."""
    student = copy.deepcopy(taught)
    history = train_plan(
        student, PLAN, xy[0][:1], xy if labelled else xy[0], teacher=taught, calibration=[xy[0]],
        options={"epochs": 6, "lr": 3e-3, "batch_size": 32}, progress=False,
    )  # fmt: skip
    model = finished(student, PLAN, xy[0][:1])
    assert len(history.rows) == 6
    assert (history.rows[0]["task"] is not None) == labelled
    found = {row["node"].partition(".")[0]: row["scheme"] for row in model.decisions}
    assert {layer: found[layer] for layer in PLAN} == {"0": "float32", "3": "int8", "7": "int2", "9": "int4"}
    blocks = student[3].weight.view(8, 4, 4, 4, 3, 3).abs().sum((1, 3))
    assert float((blocks == 0).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert len(student[7].weight[0].unique()) <= 3
    bits = {each.bits for each in model.graph.constants.values() if isinstance(each, Weight)}
    assert bits == {8, 4, 2}
    assert right(model, xy) > 0.9
    facts = {each.kind for each in model.meta.training}
    assert {"pruning", "distillation", "training"} <= facts


def quickly(student: nn.Module, plan: dict[str, Candidate], x: Any, data: Any, teacher: nn.Module, **more: Any) -> Any:
    """One epoch, by which the net need not learn much."""
    options = {"epochs": 1, "batch_size": 32, **more.pop("options", {})}
    history = train_plan(student, plan, x, data, teacher=teacher, options=options, progress=False, **more)
    return history, finished(student, plan, x)


@pytest.mark.parametrize("layers", [{"": 4}, {"a": 4}])
def test_small_nets(layers: dict[str, int]) -> None:
    """A layer that is all of the net, and one that is called by keyword and gives numbers instead of classes."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(16, 4)

        def forward(self, values: Tensor) -> dict[str, Tensor]:
            return {"result": self.a(values)}

    made: nn.Module = nn.Linear(16, 4) if "" in layers else Named()
    teacher, x = copy.deepcopy(made), torch.randn(64, 16)
    data: Any = (x, torch.randn(64, 4)) if "" in layers else [{"values": part, "labels": x} for part in x.split(32)]
    example: Any = x[:1] if "" in layers else {"values": x[:1]}
    plan = {layer: Candidate(scheme="int4-channel") for layer in layers}
    history, model = quickly(made, plan, example, data, teacher)
    assert [row["task"] for row in history.rows] == [None]
    assert "int4" in {row["scheme"] for row in model.decisions}
    found = model(x) if "" in layers else model(values=x)["result"]
    expected = teacher(x) if "" in layers else teacher(x)["result"]
    assert float(((found - expected).norm() / expected.norm()).detach()) < 0.2


def test_a_plan_of_floats_prunes_only(taught: nn.Sequential, xy: tuple[Tensor, Tensor]) -> None:
    student = copy.deepcopy(taught)
    plan = {"7": Candidate(scheme="float32", pattern="1x4", sparsity=0.5), "9": Candidate(scheme="float32")}
    _, model = quickly(student, plan, xy[0][:1], xy, taught)
    assert float((student[7].weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert {row["scheme"] for row in model.decisions} == {"float32"}
    assert torch.allclose(model(xy[0]), student(xy[0]), atol=1e-4)


def test_a_loss_of_ones_own(taught: nn.Sequential, xy: tuple[Tensor, Tensor]) -> None:
    """What it says is the task; it sees outputs and targets."""
    seen = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append((output.shape, target.dtype))
        return (output - target).square().mean()

    plan = {"7": Candidate(scheme="int8")}
    history, _ = quickly(copy.deepcopy(taught), plan, xy[0][:1], (xy[0], xy[1][:, None].float()), taught, loss=loss)
    assert seen == [((32, 2), torch.float32)] * 6
    assert history.rows[0]["task"] is not None


def test_the_best_epoch_by_the_models_own_score(taught: nn.Sequential, xy: tuple[Tensor, Tensor]) -> None:
    """`evaluate` sees converted models, after each epoch."""
    seen: list[Any] = []

    def evaluate(model: lowbit.Model) -> float:
        seen.append(model)
        return [0.2, 0.9, 0.4][len(seen) - 1]

    student = copy.deepcopy(taught)
    history, model = quickly(
        student, {"7": Candidate(scheme="int4")}, xy[0][:1], xy, taught, evaluate=evaluate, calibration=[xy[0]],
        options={"epochs": 3},
    )  # fmt: skip
    assert all(isinstance(each, lowbit.Model) for each in seen)
    assert history.best == 2
    assert torch.equal(model(xy[0]), seen[1](xy[0]))


def test_a_run_goes_on_where_it_was(tmp_path: Path, taught: nn.Sequential, xy: tuple[Tensor, Tensor]) -> None:
    """Killed after the first epoch, it ends with the weights of an unbroken one."""

    def run(folder: Path, stop: int | None) -> nn.Module:
        torch.manual_seed(0)
        student, scores = copy.deepcopy(taught), [0.1, 0.2, 0.3]

        def evaluate(model: lowbit.Model) -> float:
            if len(scores) == stop:
                raise KeyboardInterrupt
            return scores.pop(0)

        train_plan(
            student, PLAN, xy[0][:1], xy, teacher=taught, evaluate=evaluate, calibration=[xy[0]],
            options={"epochs": 3, "batch_size": 64}, checkpoint=folder, progress=False,
        )  # fmt: skip
        return student

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", 2)
    again = run(tmp_path / "broken", None)
    pairs = zip(whole.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_ranges_are_known_when_the_first_epoch_is_scored(taught: nn.Sequential, xy: tuple[Tensor, Tensor]) -> None:
    """Without calibration data they come from training's first steps, of however many."""
    history, _ = quickly(
        copy.deepcopy(taught), {"7": Candidate(scheme="int8")}, xy[0][:1], (xy[0][:64], xy[1][:64]), taught,
        evaluate=lambda model: 0.5, options={"epochs": 24, "patience": 1},
    )  # fmt: skip
    assert len(history.rows) == 2


def test_options_are_those_of_the_loop(taught: nn.Sequential, xy: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=r"no option 'epoch'.*it takes .*epochs"):
        quickly(copy.deepcopy(taught), PLAN, xy[0][:1], xy, taught, options={"epoch": 2})
    with pytest.raises(InputError, match="no option 'parts'"):
        quickly(copy.deepcopy(taught), PLAN, xy[0][:1], xy, taught, options={"parts": []})
    with pytest.raises(InputError, match="temperature must be a positive number"):
        quickly(copy.deepcopy(taught), PLAN, xy[0][:1], xy, taught, options={"distill": {"temperature": -1}})
