"""The training loop: what it computes, how it ends, that it goes on where it was killed, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lowbit.compress import Cubic, distill, finetune, prune, qat, recorded
from lowbit.compress.optimizing import OPTIMIZERS, SCHEDULES, decaying
from lowbit.errors import InputError


@pytest.fixture
def xy() -> tuple[Tensor, Tensor]:
    """64 points, of which the first coordinate says the class."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def net(seed: int = 0, width: int = 16) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2))


def right(xy: tuple[Tensor, Tensor]) -> Callable[[nn.Module], float]:
    """The share of points whose class a net sees."""
    return lambda model: float((model(xy[0]).argmax(1) == xy[1]).float().mean())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loop_is_the_one_that_a_person_would_write(name: str, xy: tuple[Tensor, Tensor]) -> None:
    """Bit for bit: forward, loss with L1, backward, clipping, torch's optimizer, schedule, parts, in this order."""
    batches = list(zip(*(each.split(16) for each in xy), strict=True))
    ours, theirs = net(), net()
    pruning, other = (prune(each, 0.5, pattern="1x4", schedule=Cubic(steps=5)) for each in (ours, theirs))
    torch.manual_seed(1)
    history = finetune(
        ours, batches, parts=pruning, optimizer=name, lr=0.01, schedule="cosine", warmup=0.25, clip=0.5, clip_value=0.1,
        weight_decay=0.1, l1=0.01, epochs=2,
    )  # fmt: skip
    torch.manual_seed(1)
    weights = [each for each in theirs.parameters() if each.ndim > 1]
    others = [each for each in theirs.parameters() if each.ndim < 2]
    optimizer = OPTIMIZERS[name](
        [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}], lr=1
    )
    losses = []
    theirs.train()
    for step in range(8):
        rate = (step + 1) / 3 if step < 2 else (1 + math.cos(math.pi * ((step - 2) / 6))) / 2
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * rate
        x, y = batches[step % 4]
        loss = functional.cross_entropy(theirs(x), y) + 0.01 * sum(each.abs().sum() for each in weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*weights, *others], 0.5)
        nn.utils.clip_grad_value_(theirs.parameters(), 0.1)
        optimizer.step()
        other.step()
        losses.append(loss.item())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert [row["loss"] for row in history.rows] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4])
    assert not ours.training


def test_schedules() -> None:
    """From 1 on, and where they end."""
    at = (0.0, 0.49, 0.5, 0.75, 1.0)
    found = {name: [round(schedule(part), 6) for part in at] for name, schedule in SCHEDULES.items()}
    assert found["constant"] == [1] * 5
    assert found["step"] == [1, 1, 0.1, 0.01, 0.01]
    assert found["exponential"] == [1, 0.104713, 0.1, 0.031623, 0.01]
    assert found["cosine"][::2] == [1, 0.5, 0]


def test_what_decays() -> None:
    """Weights, masked or not; no bias, norm, or what a parametrization has learned."""
    model = net()
    prune(model, 0.5, pattern="1x4", modules=["0"])
    model[4].register_parameter("scale", nn.Parameter(torch.ones(1)))
    names = {id(each): name for name, each in model.named_parameters()}
    assert [names[id(each)] for each in decaying(model)] == ["0.parametrizations.weight.original", "4.weight"]


def test_tensors_are_shuffled(xy: tuple[Tensor, Tensor]) -> None:
    """Each epoch sees each sample once, in another order, by the seed; a last batch of one is left out."""
    seen: list[list[int]] = []

    class Note(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x[:, 0].int().tolist())
            return super().forward(x)

    x = torch.arange(33.0)[:, None]
    for seed in (0, 0, 1):
        finetune(Note(1, 2), (x, torch.zeros(33, dtype=torch.long)), epochs=2, batch_size=8, seed=seed)
    orders = [list(chain.from_iterable(seen[at : at + 4])) for at in range(0, len(seen), 4)]
    assert [len(set(order)) for order in orders] == [32] * 6
    assert orders[:2] == orders[2:4] != orders[4:]
    assert orders[0] != orders[1]


def test_data_of_any_kind(xy: tuple[Tensor, Tensor]) -> None:
    """Arrays, a Dataset, a DataLoader, batches of tuples and dicts: all are learned from."""
    x, y = xy
    dataset = torch.utils.data.TensorDataset(x, y)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, points: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.inner(points)
            return {"logits": logits} if labels is None else {"loss": functional.cross_entropy(logits, labels)}

    named = [{"points": a, "labels": b} for a, b in zip(x.split(16), y.split(16), strict=True)]
    loader = torch.utils.data.DataLoader(dataset, 16, shuffle=True)
    for data, model in (((x.numpy(), y.numpy()), net()), (dataset, net()), (loader, net()), (named, Named())):
        history = finetune(model, data, lr=0.03, epochs=4, batch_size=16)
        assert history.rows[-1]["task"] < 0.7 * history.rows[0]["task"]


def test_what_is_not_labelled(xy: tuple[Tensor, Tensor]) -> None:
    """Labels of -100, batches without labels: a teacher says what to learn; without one it is refused."""
    x, y = xy
    big = net(1, 32)
    finetune(big, xy, lr=0.03, epochs=20)
    some = torch.where(torch.arange(64) < 4, y, -100)
    for data in ((x, some), [x], [(x, None)], x):
        model = net(2)
        history = finetune(model, data, parts=[distill(model, big)], lr=0.03, epochs=20, batch_size=32)
        assert right(xy)(model) > 0.8
        assert (history.rows[0]["task"] is None) == (not isinstance(data, tuple))
    with pytest.raises(InputError, match="epoch 1 of 1, batch 0 has no labels, and no teacher"):
        finetune(net(), x)
    alone = finetune(net(), (x, some), epochs=1, batch_size=64)
    assert alone.rows[0]["task"] == alone.rows[0]["loss"]


def test_the_best_epoch_that_counts(xy: tuple[Tensor, Tensor]) -> None:
    """The net ends with its weights; while pruning is on its way, none counts; patience ends the run."""
    scores = iter([9.0, 1.0, 3.0, 2.0, 2.0, 8.0])
    snapshots: list[Tensor] = []

    def evaluate(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        snapshots.append(model[4].bias.clone())
        model.train()
        return next(scores)

    model = net()
    pruning = prune(model, 0.5, pattern="1x4", schedule=Cubic(steps=5))
    history = finetune(model, xy, parts=[pruning], epochs=6, batch_size=16, evaluate=evaluate, patience=2)
    assert (history.best, history.stopped) == (3, "no better score for 2 epochs")
    assert [row["score"] for row in history.rows] == [9, 1, 3, 2, 2]
    assert torch.equal(model[4].bias, snapshots[2])
    assert not model.training
    assert pruning.steps == 12
    (told,) = recorded(model)
    assert (told["kind"], told["best"], told["history"]) == ("training", 3, list(history.rows))
    assert "no better score for 2 epochs; the weights are those of epoch 3" in str(history)


def test_scores_of_a_net_that_is_not_rounded_yet_do_not_count(xy: tuple[Tensor, Tensor]) -> None:
    """Ranges are found in the second epoch; the first, the best by its score, was float."""
    model, scores = net(width=64), iter([4.0, 3.0, 2.0])
    rounding = qat(model.eval(), xy[0][:1], observe=5)
    assert not rounding.done
    history = finetune(model, xy, parts=rounding, epochs=3, batch_size=16, evaluate=lambda model: next(scores))
    assert rounding.done
    assert history.best == 2


def test_killed_at_random_moments() -> None:
    """SIGKILLs: the weights are those of a run that nobody killed, bit for bit."""
    command = [sys.executable, str(Path(__file__).parent / "killed.py"), "2"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    found = re.search(r"same (\d+) of (\d+) runs, (\d+) kills", printed)
    assert found is not None
    assert found[1] == found[2]
    assert int(found[3]) >= 2


class Stop(Exception):
    """As a person's Ctrl-C."""


def interrupted(data: Any, epoch: int) -> Iterable[Any]:
    """The batches, and in this epoch an end in their midst."""

    class Batches:
        def __init__(self) -> None:
            self.epoch = 0

        def __len__(self) -> int:
            return len(data)

        def __iter__(self) -> Iterator[Any]:
            self.epoch += 1
            for index, batch in enumerate(data):
                if (self.epoch, index) == (epoch + 1, 2):  # asking for an iterator to check them counts as one
                    raise Stop
                yield batch

    return Batches()


@pytest.mark.parametrize("optimizer", ["momentum", "rmsprop", lambda given: torch.optim.Adam(given, lr=0.01)])
def test_a_run_goes_on(optimizer: Any, xy: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """With the state of the optimizer, the rates, the random numbers; from the beginning, too; what is done stays."""
    batches = list(zip(*(each.split(16) for each in xy), strict=True))

    def run(data: Any, folder: str, seed: int = 0, epochs: int = 4) -> tuple[dict[str, Tensor], Any]:
        model = net(seed)
        return model, finetune(
            model, data, optimizer=optimizer, epochs=epochs, evaluate=right(xy), checkpoint=tmp_path / folder
        )

    whole, history = run(batches, "whole")
    for epoch in (1, 3):
        with pytest.raises(Stop):
            run(interrupted(batches, epoch), f"stopped in {epoch}")
        again, told = run(batches, f"stopped in {epoch}", seed=5)
        assert all(
            torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
        )
        assert [{**row, "seconds": 0} for row in told.rows] == [{**row, "seconds": 0} for row in history.rows]
    done, told = run(batches, "whole", seed=6)
    assert told.rows == history.rows
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), done.state_dict().values(), strict=True))
    assert json.loads((tmp_path / "whole" / "history.json").read_text()) == list(history.rows)
    with (tmp_path / "whole" / "history.csv").open(newline="") as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == [row["score"] for row in history.rows]
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "best.pt", "history.csv", "history.json", "last.pt",
    ]  # fmt: skip


def test_checkpoints_of_others_are_refused(xy: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Other arguments, another net, no checkpoint at all: said, and nothing is trained."""
    finetune(net(), xy, checkpoint=tmp_path)
    with pytest.raises(
        InputError, match=r"give it a directory of its own: lr is 0.5 here, None there; epochs is 2 here"
    ):
        finetune(net(), xy, lr=0.5, epochs=2, checkpoint=tmp_path)
    with pytest.raises(InputError, match="is of another net"):
        finetune(net(width=8), xy, checkpoint=tmp_path)
    for content in (b"", b"x" * 100, (tmp_path / "last.pt").read_bytes()[:-300]):
        (tmp_path / "last.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"last\.pt is no checkpoint that can be read"):
            finetune(net(), xy, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adagrad"}, "optimizer must be one of sgd, momentum, adam, adamw, rmsprop"),
        ({"optimizer": lambda given: None}, "must be or give a torch.optim.Optimizer, not a NoneType"),
        ({"optimizer": 3}, "must be or give a torch.optim.Optimizer, not a int"),
        ({"schedule": ["cosine"]}, "schedule must be one of"),
        ({"optimizer": lambda given: torch.optim.SGD(given), "lr": 0.1}, "belong to an optimizer that is named"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, step, exponential"),
        ({"schedule": torch.optim.SGD([torch.zeros(1)], 1.0)}, "schedule must be one of constant"),
        ({"epochs": 0, "batch_size": 1.5, "lr": -1}, "epochs must .*; batch_size must .*; lr must be a positive"),
        ({"clip": 0}, "clip must be a positive number"),
        ({"warmup": 1}, r"warmup must be a share in \[0, 1\)"),
        ({"l1": math.nan}, "l1 must be a positive number"),
        ({"patience": 2}, "patience needs evaluate"),
        ({"evaluate": 0.5}, "evaluate must be a function, is a float"),
        ({"evaluate": lambda model: math.nan}, "evaluate gave nan"),
        ({"parts": [nn.Linear(2, 2)]}, "parts must have step, state_dict and load_state_dict, which Linear has not"),
        (
            {"lr": 1e30, "optimizer": "sgd", "epochs": 9},
            r"the loss is (nan|inf) in epoch \d of 9, batch 0: give a lower lr",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str, xy: tuple[Tensor, Tensor]) -> None:
    """By the argument's name, all at once."""
    with pytest.raises(InputError, match=message):
        finetune(net(), xy, **arguments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([]), "data must be tensors, a Dataset, or batches that can be read each epoch, not a list_iterator"),
        ("data", "not a str"),
        (3, "not a int"),
        ([], "data hold no batch"),
        (torch.zeros(0, 8), "data hold no sample"),
        ((torch.zeros(4, 8), torch.zeros(3)), r"as many samples each, not \[\[4, 8\], \[3\]\]"),
        (
            (torch.zeros(4, 8), torch.zeros(4)),
            r"torch.float32 \[4\] are no labels of torch.float32 \[4, 2\]: give loss=",
        ),
        ((torch.zeros(4, 8), torch.full((4,), 7)), "cross entropy of .*: Target 7 is out of bounds"),
        ((torch.zeros(4, 9), torch.zeros(4).long()), "epoch 1 of 1, batch 0: mat1 and mat2"),
        ((batch for batch in [torch.zeros(4, 8)]), "not a generator"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, message: str) -> None:
    """With what they are."""
    with pytest.raises(InputError, match=message):
        finetune(net(), data)


def test_data_without_a_length(xy: tuple[Tensor, Tensor]) -> None:
    """They are read, at a constant rate."""

    class Endless:
        def __iter__(self) -> Iterator[Any]:
            return iter([xy, xy])

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return zip(*xy, strict=True)

    for data in (Endless(), Stream()):
        assert len(finetune(net(), data, schedule="constant", epochs=2).rows) == 2
    with pytest.raises(InputError, match="without a len"):
        finetune(net(), Endless())


def test_a_loss_of_ones_own(xy: tuple[Tensor, Tensor]) -> None:
    """Of output and target, such as numbers."""
    x = xy[0]
    model = nn.Linear(8, 1)
    history = finetune(model, (x, x.sum(1, keepdim=True)), loss=functional.mse_loss, lr=0.05, epochs=40, l1=1e-4)
    assert history.rows[-1]["task"] < 0.05 * history.rows[0]["task"]
