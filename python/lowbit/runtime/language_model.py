"""A language model that runs without torch: prompts in pieces into a state, and token after token, in NumPy.

The graph takes `input_ids` [batch, steps], of which `count` [batch] are real, and gives the logits of the steps that
are `wanted` [batch, k]; the keys and values of what was read before, and its length, are states of the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FormatError, InputError
from ..graph.ir import Array, Graph
from ..ops.caches import BLOCK
from .meta import Meta
from .model import Model
from .session import Session
from .state import State

CHUNK = 512
"""Tokens of a prompt that one call reads at most: what lies between layers takes memory by their number."""
INPUTS = ("input_ids", "count", "wanted")


class Reader:
    """Reads tokens into a state, and gives logits.

    Args:
        session: Of a graph as said above.
        vocabulary: Token ids are below it.

    Raises:
        FormatError: Another graph.
    """

    def __init__(self, session: Session, vocabulary: int) -> None:
        self.session, self.vocabulary = session, vocabulary
        self.capacity = _capacity(session._whole)
        """The most positions of a row."""

    def state(self, batch: int) -> State:
        """Rows that have read nothing."""
        return self.session.state(batch)

    def read(self, state: State, ids: Array, count: Array, wanted: Array) -> Array:
        """Let rows read their next tokens, in pieces.

        Args:
            state: What the rows have read; it is changed.
            ids: int64 [batch, steps], padded on the right.
            count: int64 [batch]: how many of a row's are real.
            wanted: int64 [batch, k]: the steps whose logits are given.

        Returns:
            float32 [batch, k, vocabulary].

        Raises:
            InputError: Ids out of range, or more tokens than the state has room for; nothing was read then.
        """
        self._check(state, ids, count)
        found: Array | None = None
        start, end = 0, int(count.max(initial=0))
        while start < end:
            steps = min(CHUNK, end - start, self.capacity - int(state.count.max()))
            if steps == end and ((wanted >= 0) & (wanted < end)).all():  # nearly every call
                return self._piece(state, ids[:, :end], count, wanted)
            here = (wanted >= start) & (wanted < start + steps)
            columns = np.flatnonzero(here.any(axis=0)) if here.any() else np.zeros(1, np.intp)
            logits = self._piece(
                state,
                ids[:, start : start + steps],
                np.clip(count - start, 0, steps),
                np.clip(wanted[:, columns] - start, 0, steps - 1),
            )
            if found is None:
                found = np.zeros((*wanted.shape, logits.shape[-1]), np.float32)
            found[:, columns] = np.where(here[:, columns, None], logits, found[:, columns])
            start += steps
        if found is None:
            raise InputError("there is no token to read: each prompt holds one at least")
        return found

    def _piece(self, state: State, ids: Array, count: Array, wanted: Array) -> Array:
        given = {"input_ids": np.ascontiguousarray(ids), "count": count, "wanted": wanted}
        (logits,) = self.session.run_list([given[name] for name in self.session.graph.inputs], state)
        return logits

    def _check(self, state: State, ids: Array, count: Array) -> None:
        real = np.arange(ids.shape[1]) < count[:, None]
        wrong = real & ((ids < 0) | (ids >= self.vocabulary))
        if wrong.any():
            row, step = map(int, np.argwhere(wrong)[0])
            raise InputError(
                f"token {int(ids[row, step])} at position {step} of row {row} is none of the model's {self.vocabulary}"
            )
        full = np.flatnonzero(state.count + count > self.capacity)
        if full.size:
            row = int(full[0])
            held = f"{int(state.count[row])} positions are used, and " if state.count[row] else ""
            raise InputError(
                f"row {row} does not fit: {held}{int(count[row])} tokens come, and the capacity is {self.capacity}; "
                "shorten the prompt, or convert with a larger capacity"
            )


def _capacity(graph: Graph) -> int:
    """That of the caches, and of all of them. Raises FormatError for a graph that is no language model's."""
    caches = [graph.values[state.input].shape[state.axis] for state in graph.states if state.count]
    outer = {*graph.inputs} - {state.input for state in graph.states}
    if outer != set(INPUTS) or len(graph.outputs) != 1 + len(graph.states) or len(set(caches)) != 1:
        raise FormatError("the graph is not a language model's: it takes input_ids, count, wanted, and keeps caches")
    return int(caches[0]) * BLOCK


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from logits.

    temperature: 0: the most likely one. top_k: of so many only (0: all). top_p: of the most likely ones that together
    have this probability at least.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0.0, 1e6), ("top_k", 0, 2**31), ("top_p", 0.0, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{name} must be a number from {low} to {high:g}, is {value!r}")

    def draw(self, logits: Array, random: np.random.Generator) -> int:
        """A token by logits [vocabulary]: temperature, then top-k, then top-p, as transformers has them."""
        if self.temperature == 0:
            return int(logits.argmax())
        scores = logits.astype(np.float64) / self.temperature
        tokens = np.argsort(-scores, kind="stable")
        if self.top_k:
            tokens = tokens[: int(self.top_k)]
        p = np.exp(scores[tokens] - scores[tokens[0]])
        up_to = np.cumsum(p / p.sum())
        if self.top_p < 1:
            up_to = up_to[: int(np.searchsorted(up_to, self.top_p)) + 1]
        place = int(np.searchsorted(up_to, random.random() * up_to[-1], side="right"))
        return int(tokens[min(place, len(up_to) - 1)])


class LanguageModel(Model):
    """A language model that `lowbit.transformers.causal_lm` made, loaded from its file; NumPy alone.

    `lowbit.load` makes it. Any number of threads may call it at once.

    Args:
        session: The compiled graph.
        meta: What a file says beyond the graph: "generation" holds the size of the vocabulary and the tokens that end
            an answer.

    Raises:
        FormatError: Metadata that do not fit the graph.
    """

    def __init__(self, session: Session, meta: Meta | Mapping[str, Any]) -> None:
        super().__init__(session, meta)
        told = self.meta.generation
        if told is None:
            raise FormatError("meta['generation'] must hold the size of the vocabulary")
        self._reader = Reader(session, told["vocabulary"])
        self._stop = frozenset(told.get("stop", []))

    @property
    def capacity(self) -> int:
        """How many positions a row has at most, prompt and answer together."""
        return self._reader.capacity

    def state(self) -> State:
        """What one conversation has read: nothing yet. `generate` and `stream` go on from it.

        Returns:
            A state of one row.
        """
        return self._reader.state(1)

    def generate(
        self,
        input_ids: Any,
        max_new_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Iterable[int] | None = None,
        state: State | None = None,
        stream: Callable[[int, int], object] | None = None,
    ) -> list[list[int]]:
        """Answer prompts.

        Args:
            input_ids: Token ids: of one prompt, or of several, of any lengths.
            max_new_tokens: Of each answer, at most; the capacity ends it, too.
            temperature: 0: always the most likely token; else logits are divided by it.
            top_k: Draw from so many tokens only; 0: from all.
            top_p: Draw from the most likely tokens that together have this probability.
            seed: Of the draws: the same one gives each row the same answer; None: another one each time.
            stop: Tokens that end an answer; None: those that the model names. The answer holds the one that ended it.
            state: Of one prompt, what was read before it; it is changed, and ends with all tokens but the last read.
            stream: Called with a row and its next token, as soon as there is one.

        Returns:
            The new tokens of each prompt.

        Raises:
            InputError: Arguments that do not fit, such as a prompt beyond the capacity.
        """
        answers: list[list[int]] = [[] for _ in _prompts(input_ids)]
        how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        for row, token in self.stream(input_ids, max_new_tokens, stop=stop, state=state, **how):
            answers[row].append(token)
            if stream is not None:
                stream(row, token)
        return answers

    def stream(
        self,
        input_ids: Any,
        max_new_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Iterable[int] | None = None,
        state: State | None = None,
    ) -> Iterator[tuple[int, int]]:
        """As `generate`, one token at a time.

        Args:
            input_ids: As of `generate`, and so is all that follows.
            max_new_tokens: Of each answer.
            temperature: Of the draws.
            top_k: Of the draws.
            top_p: Of the draws.
            seed: Of the draws.
            stop: Tokens that end an answer.
            state: What was read before.

        Yields:
            A row, and its next token.

        Raises:
            InputError: Arguments that do not fit.
        """
        prompts = _prompts(input_ids)
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be a positive integer, is {max_new_tokens!r}")
        if state is not None and (len(prompts), len(state.count)) != (1, 1):
            raise InputError(f"a state of one row goes on with one prompt, not {len(state.count)} with {len(prompts)}")
        state = self._reader.state(len(prompts)) if state is None else state
        ends = self._stop if stop is None else frozenset(stop)
        return self._stream(prompts, state, max_new_tokens, sampling, seed, ends)

    def _stream(
        self,
        prompts: list[Array],
        state: State,
        most: int,
        sampling: Sampling,
        seed: int | None,
        stop: frozenset[int],
    ) -> Iterator[tuple[int, int]]:
        random = [np.random.default_rng(None if seed is None else [seed, row]) for row in range(len(prompts))]
        count = np.array([len(prompt) for prompt in prompts], np.int64)
        ids = np.zeros((len(prompts), int(count.max())), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        alive = list(range(len(prompts)))
        for step in range(most):
            logits = self._reader.read(state, ids, count, count[:, None] - 1)
            drawn = [sampling.draw(logits[place, 0], random[row]) for place, row in enumerate(alive)]
            yield from zip(alive, drawn, strict=True)
            full = state.count >= self.capacity
            going = [place for place, token in enumerate(drawn) if token not in stop and not full[place]]
            if not going or step + 1 == most:
                return
            if len(going) < len(alive):  # rows that have ended go
                state, alive = state.fork(going), [alive[place] for place in going]
            ids = np.array([[drawn[place]] for place in going], np.int64)
            count = np.ones(len(going), np.int64)


def _prompts(input_ids: Any) -> list[Array]:
    """Rows of token ids from what a person passes. Raises InputError."""
    try:
        is_one = np.ndim(input_ids[0]) == 0
        rows: Sequence[Any] = [input_ids] if is_one else input_ids
        prompts = [np.asarray(row) for row in rows]
    except (TypeError, IndexError, KeyError, ValueError):
        raise InputError("input_ids are the tokens of a prompt, or a list of such") from None
    for row, prompt in enumerate(prompts):
        if prompt.ndim != 1 or not prompt.size or prompt.dtype.kind not in "iu":
            raise InputError(f"prompt {row} must be token ids, one at least; is {prompt.dtype} {list(prompt.shape)}")
    return [prompt.astype(np.int64) for prompt in prompts]
