"""Writes the parts of the documentation that the code knows, and wraps the rest: `python docs/tables.py`.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Paragraphs with a line that is too long are
wrapped. tests/test_docs.py fails where a page would change.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import typer.main

from lowbit.cli.commands import app
from lowbit.graph.ir import DTYPES
from lowbit.ops import FAMILIES, Attr, Op
from lowbit.runtime.meta import ROWS, Meta
from lowbit.runtime.schema import OBJECTS

ROOT = Path(__file__).parent.parent
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")
PAGES = (*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md")))
WIDTH = 120
KEPT = re.compile(r"(^```.*?^```$|^<!-- generated.*?^<!-- end -->$)", re.S | re.M)
PART = re.compile(r"(<!-- generated: (\w+)(?: (\w+))? -->\n).*?(<!-- end -->)", re.S)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of Markdown."""
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


def operators() -> str:
    """Every operator, by the module of its theme."""
    parts, seen = [], []
    for family in FAMILIES:
        rows = []
        for op in family.OPS:
            rows.append((f"`{op.name}`", _inputs(op, seen), _attributes(op, seen), op.note))
            seen.append(op)
        title = re.split(r"[.:]", family.__doc__ or "")[0]
        parts.append(f"### {title}\n\n" + table(("operator", "inputs", "attributes", ""), rows))
    return "\n".join(parts)


def _inputs(op: Op, others: Sequence[Op]) -> str:
    like = next((other for other in others if len(op.inputs) > 4 and other.inputs == op.inputs), None)
    if like is not None:
        return f"as `{like.name}`"
    found = []
    for item in op.inputs:
        kind = " weight" if item.weight else _types(item.dtypes)
        found.append(f"{item.name}{'?' if item.optional else ''}{kind}{' constant' if item.constant else ''}")
    return ", ".join(found) + (", ..." if op.variadic else "")


def _types(dtypes: Sequence[str]) -> str:
    if tuple(dtypes) == ("f32",):
        return ""
    missing = [dtype for dtype in DTYPES if dtype not in dtypes]
    if len(missing) > 2:
        return f" {' or '.join(dtypes)}"
    return " any type" + (f" but {' and '.join(missing)}" if missing else "")


def _attributes(op: Op, others: Sequence[Op]) -> str:
    """Name, default and choices of each; those that another operator has, too, by its name."""
    same = [other for other in others if len(other.attrs) > 3 and other.attrs.items() <= op.attrs.items()]
    like = max(same, key=lambda other: len(other.attrs), default=None)
    own = {name: attr for name, attr in op.attrs.items() if like is None or name not in like.attrs}
    return "; ".join([*([f"as `{like.name}`"] if like else []), *(_attribute(*item) for item in own.items())])


def _attribute(name: str, attr: Attr) -> str:
    if attr.optional:
        return f"{name}?"
    default = list(attr.default) if isinstance(attr.default, tuple) else attr.default
    known = "" if default is None else f" = {default:g}" if isinstance(default, float) else f" = {default}"
    choices = [each for each in attr.choices if each != default]
    return f"{name}{known}" + (f"{' or' if known else ':'} {', '.join(choices)}" if choices else "")


def schema() -> str:
    """The objects that a file's JSON is made of."""
    return "\n".join(
        table((kind, ""), [(f"`{key}`", text) for key, text in keys.items()]) for kind, keys in OBJECTS.items()
    )


def meta() -> str:
    """The keys of `Meta`, with the texts behind its fields."""
    tree = ast.parse(inspect.getsource(Meta)).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts = {
        str(getattr(each.target, "id", "")): after.value.value
        for each, after in itertools.pairwise(tree.body)
        if isinstance(each, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    known = [each for each in dataclasses.fields(Meta) if each.name != "more"]
    return table(
        ("key", "value", ""), [(f"`{each.name}`", _kind(str(each.type)), str(texts[each.name])) for each in known]
    )


def _kind(annotation: str) -> str:
    """How JSON says a field's type."""
    plain = annotation.removesuffix(" | None")
    if plain.startswith("tuple["):
        item = plain.removeprefix("tuple[").removesuffix(", ...]")
        rows = {each.__name__: each for each in ROWS}
        if item not in rows:
            return f"a list of {_kind(item)}s"
        return f"a list of `{{{', '.join(map(_key, dataclasses.fields(rows[item])))}}}`"
    return {"str": "text", "float": "number", "int": "number"}.get(plain, "object")


def _key(field: dataclasses.Field[Any]) -> str:
    return f'"{field.name}"' + ("" if field.default is dataclasses.MISSING else "?")


def where(word: str) -> str:
    """The sources that name something."""
    files = [path for folder in ("python", "cpp", "tests") for path in sorted((ROOT / folder).rglob("*"))]
    sources = [path for path in files if path.suffix in (".cmake", ".cpp", ".h", ".py")]
    named = [path for path in sources if re.search(rf"\b{word}\b", path.read_text())]
    return f"`{word}` stands in {', '.join(f'`{path.relative_to(ROOT)}`' for path in named)}."


TABLES: dict[str, Callable[..., str]] = {
    each.__name__: each for each in (example, figures, commands, examples, operators, schema, meta, where)
}


def updated(text: str) -> str:
    """A page with its generated parts made anew, and its paragraphs wrapped."""

    def part(match: re.Match[str]) -> str:
        made = TABLES[match[2]](*([match[3]] if match[3] else []))
        return f"{match[1]}\n{made.strip()}\n\n{match[4]}"

    pieces = KEPT.split(PART.sub(part, text))
    return "".join(piece if index % 2 else _wrapped(piece) for index, piece in enumerate(pieces))


def _wrapped(text: str) -> str:
    """Text of paragraphs and lists; those whose lines all fit, tables and headings stay as they are."""
    lines: list[str] = []
    for block in re.split(r"(?m)^(?=[ ]*(?:[-*]|\d+\.) |\n)", text):
        lines.append(block if _fits(block) else _wrap(block))
    return "".join(lines)


def _fits(block: str) -> bool:
    is_table = block.lstrip("\n").startswith(("|", "#", "![", "<"))
    return is_table or all(len(line) <= WIDTH for line in block.splitlines())


def _wrap(block: str) -> str:
    """One paragraph or item, behind empty lines."""
    empty = re.match(r"\n*", block)
    start = re.match(r"\n*([ ]*(?:(?:[-*]|\d+\.) )?)", block)
    assert empty is not None
    assert start is not None
    filled = textwrap.fill(
        " ".join(block[start.end() :].split()),
        WIDTH,
        initial_indent=start[1],
        subsequent_indent=" " * len(start[1]),
        break_long_words=False,
        break_on_hyphens=False,
    )
    # A line that begins with a sign would begin an item.
    filled = re.sub(r" (\S+)\n([ ]*)([-+*#>]|\d+[.)])(?=\s)", r"\n\2\1 \3", filled)
    return empty[0] + filled + "\n" * (len(block) - len(block.rstrip("\n")))


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
