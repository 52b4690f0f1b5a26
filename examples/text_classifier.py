"""A transformer that reads text, trained on Python's own manual: `python examples/text_classifier.py`.

The inputs are keywords (`input_ids`, `attention_mask`) and the result is the output object of transformers, as before
conversion. Needs `pip install transformers`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

import lowbit

SUBJECTS = ("string-methods", "import", "debugger", "formatstrings")
VOCABULARY, LENGTH = 2000, 24


def passages() -> Iterator[tuple[list[int], int]]:
    """Runs of words of the manual as hashed ids, and the number of their topic."""
    for label, subject in enumerate(SUBJECTS):
        words = re.findall(r"[A-Za-z_]+|[^\sA-Za-z_]", topics.get(subject, ""))
        for start in range(0, len(words) - LENGTH, LENGTH):
            chosen = words[start : start + LENGTH - start % 9]
            yield [2 + zlib.crc32(word.encode()) % (VOCABULARY - 2) for word in chosen], label


def batch(items: list[tuple[list[int], int]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Padded ids with their mask, and the labels."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in items], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}, torch.tensor([label for _, label in items])


def train(items: list[tuple[list[int], int]], epochs: int = 4) -> nn.Module:
    """A small DistilBERT from scratch."""
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, dim=64, n_layers=2, n_heads=4, hidden_dim=128,
        num_labels=len(SUBJECTS),
    )  # fmt: skip
    net: nn.Module = DistilBertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(epochs):
        for order in torch.randperm(len(items)).split(32):
            inputs, labels = batch([items[i] for i in order])
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(**inputs).logits, labels).backward()
            optimizer.step()
    return net.eval()


def main() -> None:
    """Train on most passages, convert, read the rest."""
    items = list(passages())
    held_out = items[::5]
    training = [item for index, item in enumerate(items) if index % 5]
    net = train(training)
    calibration = [batch(training[start : start + 32])[0] for start in range(0, 256, 32)]
    model = lowbit.convert(net, calibration=calibration)

    def accuracy(model: Any) -> float:
        inputs, labels = batch(held_out)
        with torch.inference_mode():
            return float((model(**inputs).logits.argmax(1) == labels).float().mean())

    print(f"accuracy on {len(held_out)} passages: torch {accuracy(net):.3f}, lowbit {accuracy(model):.3f}")
    print("returns", type(model(**batch(held_out[:1])[0])).__name__)


if __name__ == "__main__":
    main()
