"""A converted model as one page of HTML: what it is, how fast, how exact, and why each layer is as it is.

`facts.py` says what a report knows, `charts.py` draws, `markup.py` frames, `page.py` writes (`training.py` what a file
tells of training, `optimized.py` what `lowbit.optimize` found). Models measure and hand over `Facts`; what is
not known (a loaded file has no float twin) is left out.
"""

from .facts import Facts, OutputError, Step, Timed, constants_of, steps_of
from .page import render

__all__ = ["Facts", "OutputError", "Step", "Timed", "constants_of", "render", "steps_of"]
