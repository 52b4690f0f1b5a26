"""What objdump says of compiled kernels: functions, their innermost loops, and what goes through the stack there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t(?:\{\w+\} |lock |notrack |rep |bnd )*(\S+) *([^#]*)")
TARGET = re.compile(r"^([0-9a-f]+) <")


@dataclass(frozen=True)
class Instruction:
    """One line: its address, length in bytes, name and operands."""

    address: int
    size: int
    name: str
    operands: str

    def goes_to(self) -> int | None:
        """Where it jumps, if it does and says so."""
        target = TARGET.match(self.operands) if self.name.startswith("j") else None
        return None if target is None else int(target[1], 16)

    def ends(self) -> bool:
        """Whether what follows is reached by other ways only."""
        return self.name.startswith(("jmp", "ret", "ud2"))


@dataclass(frozen=True)
class Code:
    """Instructions of a function, and whether its %rbp is the stack's, too."""

    body: tuple[Instruction, ...]
    framed: bool

    def count(self, names: str) -> int:
        """Instructions whose names match."""
        return sum(re.match(names, one.name) is not None for one in self.body)

    @property
    def bytes(self) -> int:
        """All of them together."""
        return sum(one.size for one in self.body)

    def spills(self) -> list[str]:
        """Vectors that are stored on the stack, or read from there."""
        stack = re.compile(r"\(%rsp|\(%rbp" if self.framed else r"\(%rsp")
        held = [one for one in self.body if re.search(r"%[yz]mm", one.operands) and stack.search(one.operands)]
        return [f"{one.name} {one.operands}" for one in held]


@dataclass(frozen=True)
class Function:
    """A symbol and its instructions."""

    name: str
    body: tuple[Instruction, ...]

    @property
    def code(self) -> Code:
        """All of it."""
        return Code(self.body, any(one.name == "mov" and one.operands == "%rsp,%rbp" for one in self.body))

    @cached_property
    def blocks(self) -> dict[int, tuple[Instruction, ...]]:
        """Runs of instructions that nothing enters but at the begin, by their first address."""
        starts = {one.goes_to() for one in self.body} | {self.body[0].address}
        starts |= {b.address for a, b in pairwise(self.body) if a.name.startswith("j")}
        found: dict[int, list[Instruction]] = {}
        first = 0
        for one in self.body:
            first = one.address if one.address in starts else first
            found.setdefault(first, []).append(one)
        return {start: tuple(body) for start, body in found.items()}

    def ways(self) -> dict[int, list[int]]:
        """From each block, which others come next."""
        order = list(self.blocks)
        after = dict(pairwise(order))
        found = {}
        for start, body in self.blocks.items():
            places = [body[-1].goes_to(), None if body[-1].ends() else after.get(start)]
            found[start] = [place for place in places if place in self.blocks]
        return {start: [place for place in places if place is not None] for start, places in found.items()}

    def innermost_loops(self) -> list[Code]:
        """Natural loops (Aho, Lam, Sethi and Ullman, section 9.6) that hold no other one."""
        ways = self.ways()
        above = dominators(ways, self.body[0].address)
        loops: dict[int, set[int]] = {}
        for block, places in ways.items():
            for head in places:
                if head in above.get(block, ()):
                    loops.setdefault(head, {head}).update(back_to(head, block, ways))
        inner = [body for head, body in loops.items() if not any(other in body for other in loops if other != head)]
        framed = self.code.framed
        return [Code(tuple(one for start in sorted(body) for one in self.blocks[start]), framed) for body in inner]


def dominators(ways: Mapping[int, list[int]], entry: int) -> dict[int, set[int]]:
    """Of each block that can be reached, those that every way to it passes, itself among them."""
    order, seen, stack = [], {entry}, [(entry, iter(ways[entry]))]
    while stack:
        block, places = stack[-1]
        following = next((place for place in places if place not in seen), None)
        if following is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(ways[following])))
    order.reverse()
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for place in ways[block]:
            before[place].append(block)
    above = {entry: {entry}}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [above[one] for one in before[block] if one in above]
            found = set.intersection(*known) | {block}
            changed |= above.get(block) != found
            above[block] = found
    return above


def back_to(head: int, last: int, ways: Mapping[int, list[int]]) -> set[int]:
    """Blocks that reach `last` without passing `head`."""
    before: dict[int, list[int]] = {}
    for block, places in ways.items():
        for place in places:
            before.setdefault(place, []).append(block)
    found, waiting = {head}, [last]
    while waiting:
        block = waiting.pop()
        if block not in found:
            found.add(block)
            waiting += before.get(block, [])
    return found


def functions(listing: str) -> Iterator[Function]:
    """Of what `objdump --disassemble` prints."""
    for part in re.split(r"^(?=[0-9a-f]+ <.*>:$)", listing, flags=re.M):
        lines = part.splitlines()
        start = FUNCTION.match(lines[0]) if lines else None
        found = [one for line in lines if (one := INSTRUCTION.match(line)) is not None]
        if start is None or not found:
            continue
        places = [int(one[1], 16) for one in found]
        sizes = [b - a for a, b in pairwise(places)] + [1]
        body = zip(places, sizes, (one[2] for one in found), (one[3].strip() for one in found), strict=True)
        yield Function(start[1], tuple(Instruction(*one) for one in body))


def disassemble(path: Path) -> list[Function]:
    """The functions of an object file."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(path)]
    return list(functions(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
