"""Masks, rounding and a teacher in loops that others wrote: the same weights, and codes, as in a plain one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lowbit
from lowbit.compress import Cubic, Part, Teacher, distill, finalize, prune, qat
from lowbit.graph.ir import Weight

EPOCHS, RATE = 3, 0.01


def net(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 4)
    )


class Task:
    """A student with everything on it, and data in a loader."""

    def __init__(self) -> None:
        self.x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.y = self.x.flatten(1)[:, :4].argmax(1)
        self.net, big = net(32, 2).eval(), net(48, 3)
        self.pruning = prune(self.net, 0.5, schedule=Cubic(steps=6))
        self.qat = qat(self.net, self.x[:1], scheme="int8", calibration=[self.x])
        self.teacher = distill(self.net, big, match={"2": "2"}, attention={"0": "0"})
        self.net.train()
        self.optimizer = torch.optim.SGD(self.net.parameters(), RATE, momentum=0.9)
        self.loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(self.x, self.y), 16)

    def step(self) -> None:
        for part in (self.pruning, self.qat, self.teacher):
            part.step()


def plain(task: Task) -> None:
    """As the documentation has it."""
    for _ in range(EPOCHS):
        for x, y in task.loader:
            loss = task.teacher.loss(functional.cross_entropy(task.net(x), y), x)
            task.optimizer.zero_grad()
            loss.backward()
            task.optimizer.step()
            task.step()


def accelerate(task: Task) -> None:
    """Hugging Face accelerate prepares all but the teacher."""
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(task.net, task.optimizer, task.loader)
    for _ in range(EPOCHS):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = task.teacher.loss(functional.cross_entropy(model(x), y), x)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                task.step()


def ignite(task: Task) -> None:
    """PyTorch-Ignite's engine, with its own trainer and an event for the steps."""
    engines = pytest.importorskip("ignite.engine")
    inputs: list[Tensor] = []

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return task.teacher.loss(functional.cross_entropy(output, y), inputs.pop())

    def model(x: Tensor) -> Tensor:
        inputs.append(x)
        output: Tensor = task.net(x)
        return output

    trainer = engines.create_supervised_trainer(task.net, task.optimizer, loss, model_fn=lambda _, x: model(x))
    trainer.add_event_handler(engines.Events.ITERATION_COMPLETED, task.step)
    trainer.run(task.loader, max_epochs=EPOCHS)


class Module(nn.Module):
    """What a LightningModule is: the net, a training step, what makes the optimizer, and a hook after each batch."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.net = task.net

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return self.task.teacher.loss(functional.cross_entropy(self.net(x), y), x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), RATE, momentum=0.9)

    def on_train_batch_end(self, *args: Any) -> None:
        self.task.step()


def lightning(task: Task) -> None:
    """A trainer that drives such a module as Lightning's does: a closure in the optimizer's step."""
    module = Module(task).train()
    optimizer = module.configure_optimizers()
    for _ in range(EPOCHS):
        for index, batch in enumerate(task.loader):

            def closure(batch: Any = batch, index: int = index) -> Tensor:
                loss = module.training_step(batch, index)
                optimizer.zero_grad()
                loss.backward()
                return loss

            optimizer.step(closure)
            module.on_train_batch_end(None, batch, index)


def codes(task: Task) -> list[tuple[Any, ...]]:
    """What is converted: codes and scales, by constant."""
    model = lowbit.convert(finalize(task.net.eval()), task.x[:1], progress=False)
    constants = [each for each in model.session.graph.constants.values() if isinstance(each, Weight)]
    assert {each.kind for each in model.meta.training} == {"pruning", "quantization", "distillation"}
    return [(each.codes.tolist(), each.scales.tolist()) for each in constants]


@pytest.fixture(scope="module")
def wanted() -> tuple[dict[str, Tensor], list[tuple[Any, ...]]]:
    """The state and the codes after a plain loop."""
    task = Task()
    plain(task)
    return copy.deepcopy(task.net.state_dict()), codes(task)


@pytest.mark.parametrize("loop", [accelerate, ignite, lightning])
def test_the_same_codes_in_any_loop(loop: Callable[[Task], None], wanted: tuple[dict[str, Tensor], Any]) -> None:
    """Bit for bit those of a plain loop; the steps were counted; masks hold; the teacher was left alone."""
    task = Task()
    loop(task)
    assert all(isinstance(part, Part) for part in (task.pruning, task.qat, task.teacher))
    assert isinstance(task.teacher, Teacher)
    assert task.pruning.done
    assert task.pruning.steps == task.qat.steps == task.teacher.steps == EPOCHS * 4
    ours, theirs = task.net.state_dict(), wanted[0]
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert max(task.pruning.sparsity().values()) == 0.5
    assert codes(task) == wanted[1]
