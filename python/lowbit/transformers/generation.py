"""A converted language model that transformers' own `generate` drives: sampling, beams, stopping, streamers."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..converted_model import ConvertedModel
from ..errors import InputError
from ..graph.ir import Array
from ..runtime import format
from ..runtime.language_model import Reader
from ..runtime.state import State


class States(Cache):  # type: ignore[misc]  # transformers has no types
    """What rows have read, where transformers has keys and values of each layer.

    Columns are positions of the padded batch, as attention masks count them; a row's state holds what is real of it.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.state: State | None = None
        """Of the batch; None: nothing was read yet."""
        self.columns = 0
        self.lengths: list[Array] = []
        """How many real tokens each column added to each row, for `crop`."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many columns were read."""
        return self.columns

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i goes on from what row beam_idx[i] has read."""
        if self.state is not None:
            rows = beam_idx.cpu().numpy()
            if not np.array_equal(rows, np.arange(len(self.state.count))):
                self.state = self.state.fork(rows)
                self.lengths = [each[rows] for each in self.lengths]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row so many times."""
        if self.state is not None:
            self.reorder_cache(torch.arange(len(self.state.count)).repeat_interleave(repeats))

    def crop(self, max_length: int) -> None:
        """Forget all columns but so many; below 0: forget so many."""
        kept = max_length if max_length >= 0 else max(self.columns + max_length, 0)
        if self.state is None or kept >= self.columns:
            return
        self.state.truncate(self.state.count - sum(self.lengths[kept:]))
        del self.lengths[kept:]
        self.columns = kept

    def reset(self) -> None:
        """Forget all."""
        self.__init__()  # type: ignore[misc]  # nothing derives from it


class CausalLM(GenerationMixin):  # type: ignore[misc]  # transformers has no types
    """A language model on low-bit kernels, called and asked as transformers' own.

    `lowbit.transformers.causal_lm` makes it. Any number of threads may call it at once.

    Args:
        made: The converted model.
        net: The model that it was converted from, for its configuration.
    """

    main_input_name = "input_ids"
    _is_stateful = False
    hf_quantizer = None

    def __init__(self, made: ConvertedModel, net: Any) -> None:
        self.config = copy.deepcopy(net.config)
        self.generation_config = copy.deepcopy(net.generation_config)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.graph, self.session = made.graph, made.session
        self.meta = _told(made, net)
        self._reader = Reader(self.session, self.meta.generation["vocabulary"])

    @property
    def capacity(self) -> int:
        """How many positions a row has at most, prompt and answer together."""
        return self._reader.capacity

    def can_generate(self) -> bool:
        """It does."""
        return True

    def is_remote_code(self) -> bool:
        """It is not."""
        return False

    def get_experts_implementation(self) -> dict[str, str | None]:
        """How a mixture of experts is computed: `generate` asks, and has nothing to change."""
        return {}

    def __call__(self, *args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
        """As `forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: States | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **ignored: Any,
    ) -> CausalLMOutputWithPast:
        """One call of the model.

        Args:
            input_ids: The next tokens [batch, steps].
            attention_mask: Which tokens are real [batch, columns], of all that were read, these included; None: all.
            position_ids: As the mask says them; no others are possible.
            past_key_values: What was read before; it is changed. None: nothing.
            use_cache: False: as without `past_key_values`.
            logits_to_keep: For so many last steps; 0: for all.
            ignored: What other models take.

        Returns:
            `logits` [batch, kept, vocabulary] and `past_key_values`.

        Raises:
            InputError: Inputs that do not fit.
        """
        past = past_key_values if past_key_values is not None and use_cache is not False else States()
        if not isinstance(past, States):
            raise InputError(f"past_key_values must be what this model returned, is a {type(past).__name__}")
        ids = _ids(input_ids)
        real = _real(attention_mask, ids.shape, past.columns)
        if past.state is None:
            past.state = self._reader.state(len(ids))
        if len(past.state.count) != len(ids):
            raise InputError(f"{len(ids)} rows, and past_key_values of {len(past.state.count)}")
        _check_positions(position_ids, past.state.count, real)
        order = np.argsort(~real, axis=1, kind="stable")  # what is real comes first, in its order
        wanted = np.maximum(np.cumsum(real, axis=1)[:, -logits_to_keep:] - 1, 0)
        logits = self._reader.read(past.state, np.take_along_axis(ids, order, 1), real.sum(axis=1), wanted)
        past.columns += ids.shape[1]
        past.lengths += list(real.T.astype(np.int64))
        kept = past if use_cache is not False else None
        return CausalLMOutputWithPast(logits=torch.from_numpy(logits), past_key_values=kept)

    def generate(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`: the same arguments, the same results.

        Args:
            inputs: Token ids [batch, steps]; with padding on the left, an `attention_mask`, too.
            args: As transformers' `GenerationMixin.generate`.
            kwargs: As transformers' `GenerationMixin.generate`.

        Returns:
            Prompts and answers [batch, columns], or what was asked for.

        Raises:
            InputError: A prompt beyond the capacity, or ids that the vocabulary has not.
        """
        if kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = States()
        return super().generate(inputs, *args, **kwargs)

    def save(self, path: str | os.PathLike[str], *, compress: bool | None = None) -> None:
        """Write a `.lowbit` file, for `lowbit.load`.

        Args:
            path: Where to write it.
            compress: As `ConvertedModel.save` takes it.

        Raises:
            OSError: The file cannot be written.
        """
        is_streamed = self.meta.wants_streams if compress is None else compress
        format.save(path, self.graph, self.meta.document(), compress=is_streamed)

    def __repr__(self) -> str:
        return f"<lowbit.CausalLM({self.meta.name}, {self.meta.scheme}), capacity {self.capacity}>"


def _told(made: ConvertedModel, net: Any) -> Any:
    """The metadata, with what a loop without transformers needs to know."""
    end = getattr(net.generation_config, "eos_token_id", None)
    stop = [] if end is None else [end] if isinstance(end, int) else list(end)
    vocabulary = int(net.get_input_embeddings().num_embeddings)
    return replace(made.meta, generation={"vocabulary": vocabulary, "stop": stop})


def _ids(input_ids: Any) -> Array:
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.is_floating_point():
        raise InputError("input_ids are token ids, an integer tensor [batch, steps]")
    return input_ids.cpu().long().numpy()


def _real(mask: Any, shape: tuple[int, int], before: int) -> Array:
    """Which of the new tokens are real, bool [batch, steps]."""
    if mask is None:
        return np.ones(shape, np.bool_)
    columns = before + shape[1]
    if not isinstance(mask, Tensor) or mask.dim() != 2 or tuple(mask.shape) not in ((shape[0], columns), shape):
        raise InputError(f"attention_mask must be [{shape[0]}, {columns}], is {list(getattr(mask, 'shape', []))}")
    real: Array = mask.cpu().numpy()[:, -shape[1] :] != 0
    return real


def _check_positions(positions: Any, length: Array, real: Array) -> None:
    """Positions that are given must be those that the state counts."""
    if positions is None:
        return
    given = np.broadcast_to(positions.cpu().numpy(), real.shape)
    expected = length[:, None] + np.cumsum(real, axis=1) - 1
    if (given != expected)[real].any():
        raise InputError("position_ids are not those of the tokens in their order, which alone are possible")
