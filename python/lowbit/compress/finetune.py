"""A training loop: short, and with what a long one needs: parts, a schedule, early stopping, and an end that comes.

All that decides what comes next stands in a checkpoint after each epoch, so a run that was killed, at whatever moment,
goes on from there to the same weights, bit for bit.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ..errors import CalibrationError, InputError
from ..progress import Reporter, reporter
from . import checkpoints
from .batches import Batch, batches
from .optimizing import Make, clip_gradients, decaying, optimizer_of, plain_name, schedule_of
from .parts import Part, Teacher
from .records import record

UNLABELLED = -100
"""The label of what has none, as `cross_entropy` ignores it."""
LAST, BEST = "last.pt", "best.pt"

Loss = Callable[[Any, Any], Tensor | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """What `finetune` did, epoch by epoch. Printed, it is a table.

    Args:
        rows: Of each epoch its number, the mean `loss`, that against labels (`task`), `score`, the learning rate `lr`
            at its end, and `seconds`; None where there is none.
        best: The epoch whose weights the net has.
        stopped: Why it ended.

    Examples:
        >>> import torch
        >>> x = torch.randn(32, 4)
        >>> history = lowbit.compress.finetune(torch.nn.Linear(4, 2), (x, (x[:, 0] > 0).long()), epochs=3)
        >>> [row["epoch"] for row in history.rows], history.best, history.stopped
        ([1, 2, 3], 3, 'all epochs done')
    """

    rows: tuple[dict[str, Any], ...]
    best: int
    stopped: str

    def __str__(self) -> str:
        texts = [[f"{row[key]:.4g}" if row[key] is not None else "" for key in row] for row in self.rows]
        lines = [list(self.rows[0]) if self.rows else [], *texts]
        table = "\n".join("".join(f"{cell:>10}" for cell in line) for line in lines)
        return f"{table}\n{self.stopped}; the weights are those of epoch {self.best}"


def finetune(
    net: nn.Module,
    data: Any,
    *,
    parts: Part | Sequence[Part] = (),
    loss: Loss | None = None,
    optimizer: str | torch.optim.Optimizer | Make = "adamw",
    lr: float | None = None,
    schedule: str | Callable[[float], float] = "cosine",
    warmup: float = 0.0,
    clip: float | None = None,
    clip_value: float | None = None,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    epochs: int = 1,
    batch_size: int = 64,
    evaluate: Callable[[nn.Module], Any] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: bool | Reporter = True,
) -> History:
    """Train a module in place, with all that `parts` do to it, and leave it in eval mode.

    With `evaluate`, the net ends with the weights of the epoch of the highest score; epochs in which a part was not
    `done`, such as a pruning on its way, do not count. Scores choose, so let them come from data of their own.

    Args:
        net: The module.
        data: Tensors `(x, y)`, `x` alone, or a Dataset, which are shuffled and cut in batches; or batches, such as a
            DataLoader, as `lowbit.convert` takes them, with what is left of a tuple as target. Integer labels of -100,
            and batches without targets, are unlabelled: a teacher has to say what to learn.
        parts: What `prune`, `distill` and others gave. Each takes a step after each of the optimizer's, in this order.
        loss: A function of output and target (of a dict, the dict) to a scalar, None where nothing is labelled. None:
            the output's own `loss` if it has one (transformers), else cross entropy of labels that are integers.
        optimizer: "sgd", "momentum" (0.9), "adam", "adamw" or "rmsprop", one of torch's, or a function that makes one
            from parameters.
        lr: The highest learning rate; None: 1e-3.
        schedule: "cosine" (to 0), "step" (a tenth after a half, a hundredth after three quarters), "exponential" (to a
            hundredth), "constant", or a function from the part of training that is done, 0 to 1, to a factor.
        warmup: The share of steps in which the rate rises.
        clip: The norm that gradients are clipped to.
        clip_value: The size that each gradient is clipped to.
        weight_decay: Of weights; biases, norms and learned steps do not decay.
        l1: Times the sum of the absolute weights, added to the loss.
        epochs: How often the data are read.
        batch_size: Of tensors and datasets; a last batch of one sample, which batch norm cannot take, is left out.
        evaluate: A function from the net, in eval mode and without gradients, to a score; higher is better.
        patience: Stop after so many epochs without a better score.
        checkpoint: A directory. A run that finds one of the same arguments there goes on: at most the epoch in which
            it was killed is lost, and the weights become those of an unbroken run, bit for bit, if the data come from
            torch's, NumPy's and Python's own random numbers. It also gets history.csv and history.json.
        seed: Of the shuffling of tensors and datasets.
        progress: Show a progress bar on a terminal; or the function that shows it.

    Returns:
        What was done; also recorded on the net, for reports.

    Raises:
        InputError: Arguments or data that do not fit, a checkpoint of another run, a loss that is not finite.
        OSError: The checkpoint cannot be written.

    Examples:
        >>> import torch
        >>> x = torch.randn(256, 64)
        >>> net = torch.nn.Linear(64, 2)
        >>> pruning = lowbit.compress.prune(net, 0.5, pattern="1x4", schedule=lowbit.compress.Cubic(steps=8))
        >>> history = lowbit.compress.finetune(net, (x, (x[:, 0] > 0).long()), parts=[pruning], epochs=4, clip=1.0)
        >>> net = lowbit.compress.finalize(net)
    """
    parts = (parts,) if isinstance(parts, Part) else tuple(parts)
    asked: dict[str, Any] = {
        "optimizer": plain_name(optimizer),
        "lr": lr,
        "schedule": plain_name(schedule),
        "warmup": warmup,
        "clip": clip,
        "clip_value": clip_value,
        "weight_decay": weight_decay,
        "l1": l1,
        "epochs": epochs,
        "patience": patience,
        "seed": seed,
        "parts": [type(part).__name__ for part in parts],
    }
    _check(net, parts, {**asked, "batch_size": batch_size, "loss": loss, "evaluate": evaluate})
    loader, count = loader_of(data, batch_size, seed)
    asked["batches"] = count
    made = optimizer_of(net, optimizer, lr, weight_decay)
    rates = schedule_of(made, schedule, warmup, None if count is None else epochs * count)
    run = _Run(net, loader, parts, loss or own_loss, made, rates, clip, clip_value, l1, evaluate, asked)
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        run.resume(folder)
    with reporter(progress) as report:
        while not (stopped := run.stopped(epochs, patience)):
            run.epoch(epochs, report)
            if folder is not None:
                run.save(folder)
    history = run.end(stopped)
    record(net, "training", **asked, best=history.best, stopped=stopped, history=list(history.rows))
    return history


@dataclass(kw_only=False, eq=False)
class _Run:
    """A run as it stands after an epoch."""

    net: nn.Module
    data: Iterable[Any]
    parts: tuple[Part, ...]
    loss: Loss
    optimizer: torch.optim.Optimizer
    rates: torch.optim.lr_scheduler.LambdaLR
    clip: float | None
    clip_value: float | None
    l1: float
    evaluate: Callable[[nn.Module], Any] | None
    asked: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    """"epoch", "score", "net" and "parts"."""

    def epoch(self, epochs: int, report: Reporter) -> None:
        """Train through the data once, then score."""
        number, start = len(self.rows) + 1, time.perf_counter()
        stage, scored, count = f"epoch {number} of {epochs}", self._last_score(), self.asked["batches"]
        sums: dict[str, list[float]] = {"loss": [], "task": []}
        checkpoints.set_epoch(self.data, number - 1)
        self.net.train()
        for index, batch in enumerate(_calls(self.net, self.data)):
            total, task = self._losses(batch, f"{stage}, batch {index}")
            self._step(total)
            sums["loss"].append(float(total.detach()))
            if task is not None:
                sums["task"].append(float(task.detach()))
            note = f"{stage}, loss {sums['loss'][-1]:.4g}{scored}"
            report("train", (number - 1) * (count or 0) + index + 1, count and epochs * count, note)
        means = {key: sum(values) / len(values) if values else None for key, values in sums.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        row = {"epoch": number, **means, "score": self._score(), "lr": rate, "seconds": time.perf_counter() - start}
        self.rows.append(row)
        is_done = all(getattr(part, "done", True) for part in self.parts)
        if row["score"] is not None and is_done and (self.best is None or row["score"] > self.best["score"]):
            self.best = {"epoch": number, "score": row["score"], **copy.deepcopy(self._states())}

    def _losses(self, batch: Batch, where: str) -> tuple[Tensor, Tensor | None]:
        """What is trained on, and the part of it that labels say."""
        try:
            output = self.net(*batch.args, **batch.kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{where}: {error}") from error
        task = self.loss(output, batch.target)
        total = task
        for part in self.parts:
            if isinstance(part, Teacher):
                total = part.loss(total, *batch.args, **batch.kwargs)
        if total is None:
            raise InputError(f"{where} has no labels, and no teacher is among the parts: there is nothing to learn")
        if self.l1:
            total = total + self.l1 * sum(each.abs().sum() for each in decaying(self.net))
        if not total.isfinite():
            raise InputError(f"the loss is {float(total.detach())} in {where}: give a lower lr, a warmup, or clip=1.0")
        return total, task

    def _step(self, total: Tensor) -> None:
        self.optimizer.zero_grad()
        total.backward()
        given = (each for group in self.optimizer.param_groups for each in group["params"])
        clip_gradients(given, self.clip, self.clip_value)
        self.optimizer.step()
        self.rates.step()
        for part in self.parts:
            part.step()

    def _score(self) -> float | None:
        self.net.eval()
        if self.evaluate is None:
            return None
        with torch.no_grad():
            score = float(self.evaluate(self.net))
        self.net.eval()
        if not math.isfinite(score):
            raise InputError(f"evaluate gave {score}; a score must be a number, higher where the net is better")
        return score

    def _last_score(self) -> str:
        return f", score {self.rows[-1]['score']:.4g}" if self.rows and self.evaluate is not None else ""

    def stopped(self, epochs: int, patience: int | None) -> str:
        """Why there is no further epoch, or ""."""
        if len(self.rows) >= epochs:
            return "all epochs done"
        waited = 0 if self.best is None else len(self.rows) - int(self.best["epoch"])
        return f"no better score for {waited} epochs" if patience is not None and waited >= patience else ""

    def end(self, stopped: str) -> History:
        """Take the best weights."""
        self.net.eval()
        if self.best is not None:
            self._load(self.best)
        best = len(self.rows) if self.best is None else int(self.best["epoch"])
        return History(rows=tuple(self.rows), best=best, stopped=stopped)

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def _states(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "parts": [part.state_dict() for part in self.parts]}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)

    def save(self, folder: Path) -> None:
        """The best first: if it is newer than the last, the epoch that made it is done again, to the same end."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.best is not None and self.best["epoch"] == len(self.rows):
            checkpoints.save(folder / BEST, self.best)
        best = None if self.best is None else {key: self.best[key] for key in ("epoch", "score")}
        state = {
            "asked": self.asked, "rows": self.rows, "best": best, "optimizer": self.optimizer.state_dict(),
            "rates": self.rates.state_dict(), "random": checkpoints.random_state(self.data), **self._states(),
        }  # fmt: skip
        checkpoints.save(folder / LAST, state)
        if self.rows:
            table = io.StringIO(newline="")
            writer = csv.DictWriter(table, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
            checkpoints.save_text(folder / "history.csv", table.getvalue())
            checkpoints.save_text(folder / "history.json", json.dumps(self.rows, indent=1))

    def resume(self, folder: Path) -> None:
        """Go on where a run in this directory was; where there is none, save how this one begins."""
        if not (folder / LAST).exists():
            self.save(folder)
            return
        state = checkpoints.load(folder / LAST)
        here, there = self.asked, dict(state.get("asked", {}))
        differ = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
        if differ:
            told = "; ".join(f"{key} is {here.get(key)!r} here, {there.get(key)!r} there" for key in differ)
            raise InputError(f"the run in {folder} is another, give it a directory of its own: {told}")
        try:
            self._load(state)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"the run in {folder} is of another net, or of other parts: {error}") from error
        self.rates.load_state_dict(state["rates"])
        self.rows = list(state["rows"])
        if state["best"] is not None:
            self.best = checkpoints.load(folder / BEST)
        checkpoints.set_random_state(self.data, state["random"])


# ----------------------------------------------------------------------------------------------------- data and losses


def loader_of(data: Any, batch_size: int, seed: int) -> tuple[Iterable[Any], int | None]:
    """The batches, and how many there are."""
    given = data if isinstance(data, tuple) else (data,)
    if given and all(isinstance(each, Tensor | np.ndarray) for each in given):
        tensors = [torch.as_tensor(each) for each in given]
        if len({len(each) if each.ndim else -1 for each in tensors}) != 1:
            raise InputError(f"data must be tensors of as many samples each, not {[list(x.shape) for x in tensors]}")
        data = TensorDataset(*tensors)
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size)
    elif isinstance(data, Dataset) and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        if not len(data):
            raise InputError("data hold no sample")
        order, last = torch.Generator().manual_seed(seed), len(data) % batch_size
        data = DataLoader(data, batch_size, shuffle=True, generator=order, drop_last=last == 1 < len(data))
    if not isinstance(data, Iterable) or isinstance(data, str | Mapping) or iter(data) is data:
        kind = type(data).__name__
        raise InputError(f"data must be tensors, a Dataset, or batches that can be read each epoch, not a {kind}")
    try:  # what has no length, and a loader of an endless dataset, which only seems to have one, raise TypeError
        return data, len(data)  # type: ignore[arg-type]
    except TypeError:
        return data, None


def _calls(net: nn.Module, data: Iterable[Any]) -> Iterator[Batch]:
    try:
        yield from batches(net, data)
    except CalibrationError as error:
        raise InputError(f"data hold no batch: {error}") from error


def own_loss(output: Any, target: Any) -> Tensor | None:
    """The output's own loss, else cross entropy; None where nothing is labelled."""
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    labels = target.get("labels") if isinstance(target, Mapping) else target
    if labels is None:
        return None
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(labels, Tensor) and isinstance(logits, Tensor) and not labels.is_floating_point():
        if not (labels != UNLABELLED).any():
            return None
        try:
            return nn.functional.cross_entropy(logits, labels.long(), ignore_index=UNLABELLED)
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(f"the cross entropy of {_told(logits)} and labels {_told(labels)}: {error}") from error
    raise InputError(f"{_told(labels)} are no labels of {_told(logits)}: give loss=, a function of output and target")


def _told(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _check(net: Any, parts: Any, given: Mapping[str, Any]) -> None:
    problems = [] if isinstance(net, nn.Module) else [f"finetune takes a torch.nn.Module, not a {type(net).__name__}"]
    if others := [type(part).__name__ for part in parts if not isinstance(part, Part)]:
        problems.append(f"parts must have step, state_dict and load_state_dict, which {', '.join(others)} has not")
    for name in ("epochs", "batch_size", "patience"):
        if (value := given[name]) is not None and (type(value) is not int or value < 1):
            problems.append(f"{name} must be a positive integer, is {value!r}")
    for name in ("lr", "clip", "clip_value", "weight_decay", "l1", "warmup"):
        value, end = given[name], 1 if name == "warmup" else math.inf
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < end
        if value is not None and not (is_number and (value or name in ("weight_decay", "l1", "warmup"))):
            kind = "a share in [0, 1)" if name == "warmup" else "a positive number"
            problems.append(f"{name} must be {kind}, is {value!r}")
    for name in ("loss", "evaluate"):
        if given[name] is not None and not callable(given[name]):
            problems.append(f"{name} must be a function, is a {type(given[name]).__name__}")
    if given["patience"] is not None and given["evaluate"] is None:
        problems.append("patience needs evaluate: a function from the net to its score, higher is better")
    if problems:
        raise InputError("; ".join(problems))
