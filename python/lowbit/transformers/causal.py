"""From a language model of transformers to one graph with caches as states, on low-bit kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import signature
from typing import Any

import torch

from ..conversion import convert
from ..errors import InputError, UnsupportedError
from ..ops.caches import BLOCK
from ..quantization.schemes import Scheme
from ..runtime.limits import Limits
from . import decoder
from .generation import CausalLM

CAPACITY = 4096
"""Positions of a cache, where the model has more."""
CACHES = {"float16": "f16", "float32": "f32", "int8": "s8"}
_ROPES = ("default", "linear", "llama3", "yarn", "proportional")
"""Rotary embeddings whose angles do not depend on how long a sequence has become."""
_LAYERS = ("full_attention", "sliding_attention", "attention")


def causal_lm(
    net: Any,
    scheme: str | Scheme | Mapping[str, str | Scheme] = "int4-g32",
    *,
    capacity: int | None = None,
    cache: str = "float16",
    calibration: Iterable[Any] | None = None,
    target: str | None = None,
    threads: int | None = None,
    limits: Limits | None = None,
    progress: bool = True,
) -> CausalLM:
    """Convert a language model of transformers: one graph for prompts and steps, with caches as its states.

    Args:
        net: A decoder with a head, such as `AutoModelForCausalLM` loads, or `lowbit.importers` makes of GGUF files and
            quantized checkpoints, whose codes are kept. `net` itself is left as it is.
        scheme: How layers are quantized, as `lowbit.convert` takes it. Linear layers find the ranges of their rows as
            they run, so results depend on nothing but the row.
        capacity: How many positions a row has at most, prompt and answer together; None: those that the model was made
            for, 4096 at most. Rounded down to a multiple of 16.
        cache: How keys and values are kept: "float16", "float32", or "int8", with a scale for each position of a head.
        calibration: Token ids of texts, int64 [batch, steps] each, for schemes whose rounding learns from data.
        target: The instruction set for which it is decided what is worth quantizing, as in `lowbit.convert`.
        threads: Of one call, at most; None: as many as the process may use.
        limits: What the model may take of memory, work and time.
        progress: Show a progress bar on a terminal.

    Returns:
        The model: `generate` is transformers' own, `save` writes a file that `lowbit.load` runs without torch.

    Raises:
        InputError: Arguments that do not fit.
        UnsupportedError: What is no decoder, or attends in a way that lowbit has no operator for; it says in which.

    Examples:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
        >>> lm = lowbit.transformers.causal_lm(LlamaForCausalLM(config), scheme="float32", capacity=64)
        >>> lm.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False).shape
        torch.Size([1, 7])
    """
    _check(net)
    if cache not in CACHES:
        raise InputError(f"cache must be one of {', '.join(map(repr, CACHES))}, is {cache!r}")
    size = _capacity(net, capacity)
    with decoder.as_decoder(net, size, CACHES[cache]):
        made = convert(
            net,
            decoder.example(),
            calibration=None if calibration is None else [_call(ids) for ids in calibration],
            scheme=scheme,
            dynamic=decoder.SIZES,
            states={"length": "length"},
            target=target,
            threads=threads,
            limits=limits,
            progress=progress,
        )
    return CausalLM(made, net)


def _call(ids: Any) -> dict[str, Any]:
    """A calibration call: all of a text at once, from an empty cache."""
    ids = torch.as_tensor(ids)
    if ids.dim() != 2 or ids.is_floating_point():
        raise InputError(f"calibration data are token ids [batch, steps], not {list(ids.shape)} of {ids.dtype}")
    batch, steps = ids.shape
    return {
        "input_ids": ids.long(),
        "count": torch.full((batch,), steps),
        "wanted": torch.arange(steps).expand(batch, steps).contiguous(),
    }


def _capacity(net: Any, asked: int | None) -> int:
    """In blocks of the caches. Raises InputError."""
    config = net.config.get_text_config(decoder=True)
    most = getattr(config, "max_position_embeddings", None) or CAPACITY
    size = min(most, CAPACITY) if asked is None else asked
    if isinstance(size, bool) or not isinstance(size, int) or not BLOCK <= size <= most:
        raise InputError(f"capacity must be a number of positions from {BLOCK} to {most}, is {asked!r}")
    return size // BLOCK * BLOCK


def _check(net: Any) -> None:
    """Raises InputError or UnsupportedError for what is no decoder that lowbit can keep the caches of."""
    config, kind = getattr(net, "config", None), type(net).__name__
    if config is None or not hasattr(net, "get_output_embeddings"):
        raise InputError(f"causal_lm takes a language model of transformers, not a {kind}")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedError(f"{kind} is an encoder with a decoder; causal_lm takes decoders alone")
    if net.get_output_embeddings() is None:
        raise UnsupportedError(f"{kind} has no head that gives logits; load it by AutoModelForCausalLM")
    problems = list(_problems(net, config.get_text_config(decoder=True)))
    if problems:
        raise UnsupportedError(f"{kind} cannot be converted: {'; '.join(problems)}")


def _problems(net: Any, config: Any) -> Iterator[str]:
    """What attention over caches has no form for, as far as a configuration says it."""
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        yield "its attention adds biases by distance (ALiBi)"
    elif "position_ids" not in signature(net.forward).parameters:
        yield "it takes no position_ids"
    ropes = getattr(config, "rope_parameters", None) or {}
    parts = [each for each in (ropes, *ropes.values()) if isinstance(each, Mapping)]
    kinds = {each["rope_type"] for each in parts if "rope_type" in each}
    for kind in sorted(kinds - set(_ROPES)):
        yield f"its rotary embedding changes with the length ({kind})"
    for kind in sorted(set(getattr(config, "layer_types", None) or ()) - set(_LAYERS)):
        yield f"it has layers of the type {kind}"
