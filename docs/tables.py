"""Writes the parts of the documentation that the code knows: `python docs/tables.py`.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. tests/test_docs.py fails where one is stale.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
import typer.main

from lowbit.cli.commands import app

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.S)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of Markdown; numbers in brackets or not stand to the right."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def example() -> str:
    """The README's first block of code."""
    return _first(r"^```python\n.*?^```\n")


def figures() -> str:
    """Of the table of whole models: one image, one thread."""
    lines = (ROOT / "docs" / "figures.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head = next(row for row in rows if row[:2] == ["model", "threads"])
    nets = [row for row in rows if len(row) == len(head) and row[1] == "1" and "224" in row[0]]
    short = [name.replace(" int8", "") if "torch" not in name else name for name in head[2:]]
    return table(["model", *short], [[row[0].split(",")[0], *row[2:]] for row in nets])


def _first(pattern: str) -> str:
    found = re.search(pattern, (ROOT / "README.md").read_text(), re.S | re.M)
    if found is None:
        raise SystemExit(f"README.md holds nothing like {pattern!r}")
    return found[0]


def commands() -> str:
    """The commands, with their arguments and options."""
    group = typer.main.get_command(app)
    parts = []
    for command in group.commands.values():
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        usage = " ".join(["lowbit", command.name, *(str(each.name).upper() for each in arguments)])
        parts.append(f"## `{usage}`\n\n{command.help}\n")
        options = [each for each in command.params if isinstance(each, click.Option) or each not in arguments]
        if options:
            parts.append(table(("option", "what it does", "default"), map(_option, options)))
    return "\n".join(parts)


def _option(option: click.Parameter) -> Sequence[str]:
    default = "" if option.default in (None, False) else f"`{option.default}`"
    return f"`{option.opts[0]}`", str(getattr(option, "help", "") or ""), default


def examples() -> str:
    """Each program's first sentence."""
    rows = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
        rows.append((f"[{path.name}](../examples/{path.name})", " ".join(first.split())))
    return table(("program", "what it shows"), rows)


TABLES: dict[str, Callable[[], str]] = {each.__name__: each for each in (example, figures, commands, examples)}


def updated(text: str) -> str:
    """A page with its generated parts made anew."""
    return PART.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]().strip()}\n\n{match[3]}", text)


def main() -> None:
    """Write every page that changes."""
    for page in PAGES:
        before = page.read_text()
        after = updated(before)
        if after != before:
            page.write_text(after)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
