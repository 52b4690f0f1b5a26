"""What is done to a torch module before it is converted: a module in, the same module out.

Most of its weights become zero:

    pruning = lowbit.compress.prune(net, 0.9, pattern="4x4", schedule=lowbit.compress.Iterative(rounds=5))
    while not pruning.done:
        pruning.step()
        train(net)
    net = lowbit.compress.finalize(net)

`chain.py` owns what stands between a parameter and the weight that a layer computes with, `finalize.py` takes it off.
`prune.py` puts masks on layers and takes them off again, `schedules.py` says how much is pruned when, `criteria.py`
what weights are worth, `ranking.py` which blocks go first. `gather.py` finds what calibration data show of layers
(`batches.py` says how data are read), `second_order.py` what blocks cost that leave one after the other. `refit.py`
gives those that are left other numbers (`lockstep.py` runs through the net for it).

`parts.py` says what all handles of training have in common, `records.py` what a module tells of them later.

Or it learns from another net, its outputs, features and attention: `distill.py`, by what `listening.py` hears and
`teaching.py` makes of it.

`finetune.py` is a loop for those who have none: `optimizing.py` knows optimizers and rates by name, `checkpoints.py`
what a run needs to go on where it was killed.

Or whole channels and heads leave it (`shrink.py`), and widths say how small it is then (`widths.py`).

What `search` and its words are stands in `lowbit.study`, which knows conversion; it is imported when it is asked for.

Or its weights get codes that were decided elsewhere: `set_codes.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .criteria import CRITERIA, Criterion, Layer
from .distill import Distillation, distill
from .finalize import finalize
from .finetune import History, finetune
from .parts import Part, Teacher
from .prune import Pruning, prune
from .qat import Qat, qat
from .records import record, recorded
from .refit import refit
from .schedules import Cubic, Iterative, OneShot, Schedule
from .set_codes import set_codes
from .shrink import shrink
from .widths import resize, widths

if TYPE_CHECKING:
    from ..study import Latency, MixedLayer, SearchResult, Trial, Tried, between, choice, mixed, search

__all__ = [
    "CRITERIA",
    "Criterion",
    "Cubic",
    "Distillation",
    "History",
    "Iterative",
    "Layer",
    "OneShot",
    "Part",
    "Pruning",
    "Qat",
    "Schedule",
    "Teacher",
    "distill",
    "finalize",
    "finetune",
    "prune",
    "qat",
    "record",
    "recorded",
    "refit",
    "resize",
    "set_codes",
    "shrink",
    "widths",
    "search",
    "choice",
    "between",
    "Trial",
    "Latency",
    "SearchResult",
    "Tried",
    "mixed",
    "MixedLayer",
]

_STUDY = __all__[__all__.index("search") :]


def __getattr__(name: str) -> Any:
    """Import what `lowbit.study` has, at first use (PEP 562)."""
    if name not in _STUDY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("lowbit.study"), name)
    globals()[name] = value
    return value
