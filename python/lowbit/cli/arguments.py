"""Options of typer's for functions that know no typer: their annotations say in plain text what arguments are for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """The function as a command: `Annotated[kind, "text"]` is an option, or an argument if it has no default."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)

    @wraps(function)
    def command(**given: Any) -> None:
        function(**given)

    parameters = []
    for name, parameter in signature.parameters.items():
        kind, text = get_args(hints[name])
        is_argument = parameter.default is inspect.Parameter.empty
        info = typer.Argument(help=text, show_default=False) if is_argument else typer.Option(help=text)
        parameters.append(parameter.replace(annotation=Annotated[kind, info]))
        command.__annotations__[name] = parameters[-1].annotation
    vars(command)["__signature__"] = signature.replace(parameters=parameters)
    return command
