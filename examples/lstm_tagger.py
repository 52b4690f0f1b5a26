"""A bidirectional LSTM that names the parts of Python code: `python examples/lstm_tagger.py`.

It learns from the standard library. Lines have any length: one conversion serves them all.
"""

from __future__ import annotations

import inspect
import io
import json
import random
import tokenize
from collections.abc import Iterator
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, nn

import lowbit

TAGS = ("other", "keyword", "name", "number", "string", "operator")


def lines() -> Iterator[tuple[str, list[int]]]:
    """Lines of code and the tag of each character."""
    for module in (json.decoder, json.encoder, random, inspect, tokenize):
        text = inspect.getsource(module)
        tags = [[0] * len(line) for line in text.splitlines(keepends=True)]
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = {tokenize.NUMBER: 3, tokenize.STRING: 4, tokenize.OP: 5}.get(token.type, 0)
            if token.type == tokenize.NAME:
                kind = 1 if iskeyword(token.string) else 2
            (row, start), (last, end) = token.start, token.end
            if kind and row == last:
                tags[row - 1][start:end] = [kind] * (end - start)
        for line, marks in zip(text.splitlines(), tags, strict=True):
            if 8 <= len(line) <= 80 and any(marks):
                yield line, marks[: len(line)]


class Tagger(nn.Module):
    """Characters in, a tag for each out: ids int64 [N, L] -> logits [N, L, tags]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.lstm = nn.LSTM(32, 48, bidirectional=True, batch_first=True)
        self.head = nn.Linear(96, len(TAGS))

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(self.embed(ids))[0])
        return y


def batch(items: list[tuple[str, list[int]]]) -> tuple[Tensor, Tensor]:
    """Padded character codes, and tags with -100 where there is none to learn."""
    ids = [torch.tensor([min(ord(letter), 127) for letter in line]) for line, _ in items]
    tags = [torch.tensor(marks) for _, marks in items]
    pad = nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(tags, batch_first=True, padding_value=-100)


def main() -> None:
    """Train, convert, tag."""
    torch.manual_seed(0)
    items = list(lines())
    random.Random(0).shuffle(items)
    held_out, training = items[:200], items[200:840]
    net = Tagger()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(2):
        for start in range(0, len(training), 32):
            ids, tags = batch(training[start : start + 32])
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(ids).flatten(0, 1), tags.flatten()).backward()
            optimizer.step()
    net.eval()
    model = lowbit.convert(net, batch(training[:8])[0])

    def accuracy(model: Any) -> float:
        ids, tags = batch(held_out)
        with torch.inference_mode():
            right = (model(ids).argmax(2) == tags)[tags >= 0]
        return float(right.float().mean())

    print(f"accuracy a character: torch {accuracy(net):.3f}, lowbit {accuracy(model):.3f}")
    for line in ("for item in items:", "total = 3 * len('abc')"):
        tags = model(batch([(line, [0])])[0]).argmax(2)[0].tolist()
        print(line, "".join(TAGS[tag][0] for tag in tags), sep="\n")


if __name__ == "__main__":
    main()
