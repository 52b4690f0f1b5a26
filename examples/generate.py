"""A language model that generates on four-bit weights: train a tiny Llama on a text, swap its layers, compare.

    python examples/generate.py

`generate()` is a loop around the model, with a cache that grows: no graph to capture. `lowbit.quantize_` swaps the
linear layers in place, and everything around them stays as it was.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lowbit

with contextlib.redirect_stdout(io.StringIO()) as printed:
    importlib.import_module("this")  # prints a text that is worth learning

TEXT = printed.getvalue()[:430]
LETTERS = sorted(set(TEXT))
STEPS, BATCH, LENGTH = 100, 8, 80


def encode(text: str) -> torch.Tensor:
    """Letters as token ids [1, length]."""
    return torch.tensor([[LETTERS.index(letter) for letter in text]])


def train() -> LlamaForCausalLM:
    """A model of single letters that has read the text some hundred times."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the products are small: threads would cost more than they bring
    config = LlamaConfig(
        vocab_size=len(LETTERS), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
    net = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, STEPS)
    tokens = encode(TEXT)[0]
    for _ in range(STEPS):
        starts = torch.randint(0, len(tokens) - LENGTH, (BATCH,))
        batch = torch.stack([tokens[start : start + LENGTH] for start in starts])
        optimizer.zero_grad()
        net(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def continued(net: LlamaForCausalLM, text: str, letters: int = 60) -> str:
    """The text and what the model thinks comes next."""
    given = encode(text)
    tokens = net.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=letters, do_sample=False, pad_token_id=0
    )
    return "".join(LETTERS[token] for token in tokens[0])


def main() -> None:
    """Train, quantize, generate with both."""
    net = train()
    low = copy.deepcopy(net)
    lowbit.quantize_(low, "int4-g32")
    print(low.model.layers[1].mlp)
    for start in ("Beautiful is", "Explicit is", "Flat is"):
        expected, found = continued(net, start), continued(low, start)
        same = sum(a == b for a, b in zip(expected, found, strict=True))
        print(f"{found!r}: {same} of {len(expected)} letters as in float32")


if __name__ == "__main__":
    main()
