"""Search for nets that are better and faster; public as `lowbit.compress.search`.

`space.py` is what a person writes: choices and ranges in plain data. `latency.py` converts and times a candidate,
`trying.py` takes one through a trial. `store.py` is the study on disk, where processes meet (`processes.py` starts
them). `samplers.py` says what is tried next, `supernet.py` what gradients say of it. `result.py` is what was found, and
`searching.py` the function that has all of it done.
"""

try:
    import optuna  # noqa: F401 - all below need it
except ImportError as error:
    from ..errors import LowbitError

    raise LowbitError('compress.search needs optuna: pip install "lowbit[compress]"') from error

from .latency import Latency
from .result import SearchResult, Tried
from .searching import search
from .space import Trial, between, choice
from .supernet import MixedLayer, mixed

__all__ = ["search", "choice", "between", "Trial", "Latency", "SearchResult", "Tried", "mixed", "MixedLayer"]
