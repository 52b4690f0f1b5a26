"""What a search chooses among: plain data, with options in places that a trial fills in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True, eq=False)
class Choice:
    """One of several things; `compress.choice` makes it."""

    options: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"choice({', '.join(label(each) for each in self.options)})"

    @property
    def names(self) -> tuple[str | int | float | bool | None, ...]:
        """What stands for each option in the journal: itself, where it is a string or a number."""
        return tuple(each if _is_plain(each) else label(each) for each in self.options)

    def distribution(self) -> BaseDistribution:
        """As optuna says it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.names)


@dataclass(frozen=True)
class Between:
    """A number of a range; `compress.between` makes it."""

    low: float
    high: float
    log: bool
    step: float | None

    def __repr__(self) -> str:
        more = (", log=True" if self.log else "") + ("" if self.step is None else f", step={self.step}")
        return f"between({self.low}, {self.high}{more})"

    def distribution(self) -> BaseDistribution:
        """As optuna says it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=1 if self.step is None else int(self.step))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def drawn(self, trial: optuna.Trial | optuna.trial.FixedTrial, name: str) -> float:
        """A number of the range."""
        low, high, step = self.low, self.high, self.step
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(name, low, high, log=self.log, step=1 if step is None else int(step))
        return trial.suggest_float(name, low, high, log=self.log, step=step)


def choice(*options: Any) -> Any:
    """One of several options, in a space for `compress.search`.

    Args:
        options: Numbers, strings, anything that has a name; or one list of them. An option may have options in it: they
            are chosen where it is.

    Returns:
        What stands in the space.

    Raises:
        InputError: No options, equal ones, or one that has no name.

    Examples:
        >>> lowbit.compress.choice(8, 16, 32)
        choice(8, 16, 32)
    """
    if len(options) == 1 and isinstance(options[0], list | tuple | range):
        options = tuple(options[0])
    made = Choice(options)
    if not options:
        raise InputError("choice() needs options, such as choice(8, 16, 32)")
    names = [repr(name) for name in made.names]
    if len(set(made.names)) < len(names):
        raise InputError(f"options of a choice must differ in what they are called: {', '.join(names)}")
    return made


def between(low: float, high: float, *, log: bool = False, step: float | None = None) -> Any:
    """A number of a range, in a space for `compress.search`; a whole one where all that is given is whole.

    Args:
        low: The least.
        high: The greatest.
        log: Small numbers are as likely as large ones, as is right for learning rates.
        step: Between neighbours, from `low` on; None: 1, or any number.

    Returns:
        What stands in the space.

    Raises:
        InputError: An empty range, or a logarithmic one that holds zero or has steps.

    Examples:
        >>> lowbit.compress.between(1e-4, 1e-1, log=True)
        between(0.0001, 0.1, log=True)
    """
    numbers = [low, high, *([] if step is None else [step])]
    if any(isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each) for each in numbers):
        raise InputError(f"a range has finite numbers as its ends and step, not {numbers}")
    if low > high:
        raise InputError(f"between({low}, {high}) is empty: the first number is the least")
    if log and (low <= 0 or step is not None):
        raise InputError(f"between({low}, {high}, log=True) must begin above zero and has no step")
    if step is not None and step <= 0:
        raise InputError(f"the step of between({low}, {high}) must be above zero")
    if step is not None:
        high = low + math.floor((high - low) / step + 1e-9) * step
    if all(isinstance(each, int) for each in numbers):
        return Between(low, high, log, step)
    return Between(float(low), float(high), log, None if step is None else float(step))


class Trial:
    """One candidate while it is drawn; a space that is a function takes it.

    Args:
        trial: optuna's.
        earlier: The options that each name had in earlier trials.

    Examples:
        >>> def space(trial):
        ...     depth = trial.draw("depth", lowbit.compress.choice(1, 2, 3))
        ...     return {"widths": [lowbit.compress.choice(8, 16, 32)] * depth}
    """

    def __init__(self, trial: optuna.Trial | optuna.trial.FixedTrial, earlier: Mapping[str, BaseDistribution]) -> None:
        self._trial, self._earlier = trial, earlier
        self._drawn: dict[str, Choice | Between] = {}

    @property
    def number(self) -> int:
        """Of the trial, from 0."""
        return self._trial.number

    def draw(self, name: str, option: Any) -> Any:
        """Choose now, for what follows to depend on it; what is left in the space is chosen by itself.

        Args:
            name: What it is called. Drawn again, a name gives the same.
            option: What `choice` or `between` gave, the same each time.

        Returns:
            What was chosen.

        Raises:
            InputError: No option, or others than this name had before.
        """
        if not isinstance(option, Choice | Between):
            raise InputError(f"draw({name!r}, ...) takes what compress.choice or compress.between gave, not {option!r}")
        distribution, before = option.distribution(), self._earlier.get(name)
        again = self._drawn.get(name)
        if again is not None:
            before = again.distribution()
        if before is not None and before != distribution:
            raise InputError(
                f"{name!r} is {option!r} here and was {_told(before)} before: what has other options needs another "
                "name, and a space that was changed a storage of its own"
            )
        self._drawn[name] = option
        if isinstance(option, Choice):
            drawn = self._trial.suggest_categorical(name, option.names)
            return fill(self, option.options[option.names.index(drawn)], name)
        return option.drawn(self._trial, name)


def fill(trial: Trial, tree: Any, path: str = "") -> Any:
    """The same tree, with all options in it drawn; they are called by where they stand."""

    def below(key: object) -> str:
        return f"{path}.{key}" if path else str(key)

    if isinstance(tree, Choice | Between):
        return trial.draw(path or "value", tree)
    if isinstance(tree, Mapping):
        return {key: fill(trial, each, below(key)) for key, each in tree.items()}
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        return type(tree)(fill(trial, each, below(index)) for index, each in enumerate(tree))
    return tree


def label(thing: Any) -> str:
    """What a person reads of an option; the same in every process.

    Raises:
        InputError: It has no name of its own.
    """
    text = getattr(thing, "__qualname__", None) or repr(thing)
    if " at 0x" in text:
        raise InputError(f"{text} has no name that a journal could hold: use a string or a number, and look it up")
    return str(text)


def plain(tree: Any) -> Any:
    """A configuration as JSON can hold it, with names for what is no plain data."""
    if isinstance(tree, Mapping):
        return {str(key): plain(each) for key, each in tree.items()}
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        return [plain(each) for each in tree]
    return tree if _is_plain(tree) else label(tree)


def key_of(config: Any) -> str:
    """Equal for equal configurations."""
    return json.dumps(plain(config), sort_keys=True)


def shown(config: Any) -> str:
    """A configuration in one line."""
    made = plain(config)
    pairs = made.items() if isinstance(made, dict) else [("", made)]
    return ", ".join(f"{name} {_short(value)}".strip() for name, value in pairs)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(each)}" for name, each in value.items()) + ")"
    return "-".join(map(_short, value)) if isinstance(value, list) else str(value)


def _told(distribution: Any) -> str:
    names = getattr(distribution, "choices", None)
    if names is not None:
        return f"choice({', '.join(map(str, names))})"
    return f"between({distribution.low}, {distribution.high}{', log=True' if distribution.log else ''})"


def _is_plain(thing: Any) -> bool:
    if isinstance(thing, float):
        return math.isfinite(thing)
    return thing is None or isinstance(thing, str | int | bool)
