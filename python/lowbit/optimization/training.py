"""Trains a net as its plan says: masks, rounded numbers, and the float net as its teacher.

Each layer has its own pattern, share of zeros and scheme, put on by the handles of `lowbit.compress`. What a plan
leaves in float32 stays as it is.
"""

from __future__ import annotations

import copy
import glob
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..compress import (
    Cubic,
    Distillation,
    History,
    Part,
    Pruning,
    Qat,
    Schedule,
    distill,
    finalize,
    finetune,
    prune,
    qat,
)
from ..compress.batches import batches
from ..compress.finetune import Loss, loader_of, own_loss
from ..conversion import convert
from ..converted_model import ConvertedModel
from ..errors import InputError
from ..progress import Reporter
from ..quantization.schemes import SCHEMES, Scheme
from .candidates import Candidate

Scored = Callable[[Any], Any]
DEFAULTS: Mapping[str, Any] = {"epochs": 10, "lr": 5e-4, "clip": 1.0, "warmup": 0.05, "batch_size": 64, "seed": 0}
"""Of `compress.finetune`: gentle, since the weights are there already."""
PRUNED, FROZEN = 0.5, 0.8
"""The parts of training after which zeros are there, and batch normalization keeps its statistics."""
OWN = ("parts", "evaluate", "checkpoint", "progress", "loss")
"""Arguments of `compress.finetune` that are not for a person to give here."""


def scheme_of(net: nn.Module, plan: Mapping[str, Candidate]) -> dict[str, Scheme]:
    """As `convert` and `qat` take it: each layer has what the plan says, be it the first, the last or a small one.

    Layers that are no modules of the net have no pattern, and stay as `qat` and `convert` leave them.
    """
    modules = dict(net.named_modules())
    own = {glob.escape(layer) or "*": _exact(SCHEMES[each.scheme]) for layer, each in plan.items() if layer in modules}
    if all(scheme.is_float for scheme in own.values()):
        return {"*": SCHEMES["float32"]}
    return own if "*" in own else {**own, "*": SCHEMES["int8"]}


def _exact(scheme: Scheme) -> Scheme:
    return replace(scheme, keep_ends=False, keep_small=0.0)


def train_plan(
    net: nn.Module,
    plan: Mapping[str, Candidate],
    example: Any,
    data: Any,
    *,
    teacher: nn.Module,
    evaluate: Scored | None = None,
    loss: Loss | None = None,
    calibration: Iterable[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    progress: bool | Reporter = True,
) -> History:
    """Train `net` in place as the plan says, and finalize it: `finished` converts it.

    Labels that are whole numbers are learned by cross entropy, beside the teacher's soft targets; other targets only by
    `loss`. Where there are no such labels, the outputs shall be the teacher's.

    Args:
        net: A copy of the float net, or of a smaller one.
        plan: What each layer becomes.
        example: Inputs of one call.
        data: As `compress.finetune` takes them.
        teacher: The float net.
        evaluate: A function from a converted model to its score; the best epoch is taken.
        loss: Of output and target.
        calibration: From which ranges of activations are found; None: from the first steps.
        options: Arguments of `compress.finetune`, and "distill", those of `compress.distill`.
        settings: Other arguments of `lowbit.convert`.
        checkpoint: A directory; a run goes on where it was.
        progress: Show a progress bar on a terminal; or the function that shows it.

    Returns:
        What training did.

    Raises:
        InputError: Data, options or a loss that do not fit.
    """
    given = checked_options(options)
    taught = given.pop("distill", {})
    loader, count = loader_of(data, given["batch_size"], given["seed"])
    first = next(iter(batches(net, loader)))
    each = count if count is not None else sum(1 for _ in loader)
    steps = given["epochs"] * each
    is_classified = loss is None and _is_label(_labels(first.target))
    parts: list[Part] = [*masked(net, plan, Cubic(steps=max(int(steps * PRUNED), 1)))]
    soon = max(min(100, steps // 10, each), 1)  # ranges are there when the first epoch is scored
    parts += rounded(net, plan, example, calibration, observe=soon, freeze=int(steps * FROZEN))
    parts.append(_taught(net, teacher, taught, soft=is_classified))

    def score(student: nn.Module) -> Any:
        assert evaluate is not None
        return evaluate(finished(copy.deepcopy(student), plan, example, **(settings or {})))

    history = finetune(
        net,
        loader,
        parts=parts,
        loss=loss or _labels_only,
        evaluate=None if evaluate is None else score,
        checkpoint=checkpoint,
        progress=progress,
        **given,
    )
    finalize(net)
    return history


def finished(net: nn.Module, plan: Mapping[str, Candidate], example: Any, **more: Any) -> ConvertedModel:
    """The model of a net that was trained as the plan says; more: of `lowbit.convert`."""
    return convert(finalize(net), example, scheme=scheme_of(net, plan), progress=False, **more)


def checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """With the defaults. Raises InputError for what `compress.finetune` does not take."""
    known = [name for name in signature(finetune).parameters if name not in ("net", "data", *OWN)] + ["distill"]
    if wrong := [name for name in options or () if name not in known]:
        raise InputError(f"finetune has no option {', '.join(map(repr, wrong))}; it takes {', '.join(known)}")
    return {**DEFAULTS, **(options or {})}


def masked(net: nn.Module, plan: Mapping[str, Candidate], schedule: Schedule | None) -> list[Pruning]:
    """The plan's masks on a net, one handle for each pattern and share of zeros; without a schedule all at once."""
    groups: dict[tuple[str, float], list[str]] = {}
    for layer, taken in plan.items():
        if taken.pattern:
            groups.setdefault((taken.pattern, taken.sparsity), []).append(glob.escape(layer) or "*")
    return [
        prune(net, share, pattern=pattern, schedule=schedule, modules=layers)
        for (pattern, share), layers in groups.items()
    ]


def rounded(
    net: nn.Module, plan: Mapping[str, Candidate], example: Any, calibration: Iterable[Any] | None, **more: Any
) -> list[Qat]:
    """The plan's rounding on a net, as `compress.qat` does it; none where all stays in float32."""
    schemes = scheme_of(net, plan)
    is_float = all(scheme.is_float for scheme in schemes.values())
    return [] if is_float else [qat(net, example, scheme=schemes, calibration=calibration, **more)]


def _taught(net: nn.Module, teacher: nn.Module, options: Mapping[str, Any], *, soft: bool) -> Distillation:
    """By soft targets where there are classes; else by the outputs themselves, whatever they are."""
    kind: dict[str, Any] = {} if soft else {"weight": 0.0, "match": {"": ""}}
    return distill(net, teacher, **{**kind, **options})


def _labels_only(output: Any, target: Any) -> Tensor | None:
    """The output's own loss, or the cross entropy of labels; None where targets are something else."""
    has_own = isinstance(output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None), Tensor)
    return own_loss(output, target) if has_own or _is_label(_labels(target)) else None


def _labels(target: Any) -> Any:
    return target.get("labels") if isinstance(target, Mapping) else target


def _is_label(labels: Any) -> bool:
    return isinstance(labels, Tensor) and not labels.is_floating_point()
