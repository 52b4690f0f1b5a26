"""`lowbit` and `python -m lowbit`: runs the command line, or says which extra it needs."""

from __future__ import annotations

import sys

from lowbit.embedding import DIRECTORIES, directory
from lowbit.errors import LowbitError

EXTRAS = {"typer": "cli", "rich": "cli", "torch": "demo"}
"""Which of the package's extras brings a module that a command needs."""


def main() -> None:
    """Run the command that `sys.argv` names; an error of lowbit's is one line on standard error and exit status 1."""
    try:
        if sys.argv[1:2] == ["serve"]:  # where models are served, packages of the command line need not be installed
            from lowbit.serve.command import main as serve

            return serve(sys.argv[2:])
        if sys.argv[1:2] and sys.argv[1] in DIRECTORIES:  # for builds, which need no extra
            return print(directory(sys.argv[1]))
        from lowbit.cli.commands import app

        app()
    except LowbitError as error:
        sys.exit(f"lowbit: {error}")
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in EXTRAS:
            raise
        sys.exit(f"lowbit: this needs {name}, which is not installed: pip install 'lowbit[{EXTRAS[name]}]'")


if __name__ == "__main__":
    main()
