"""Free sizes: which axes of the inputs stay free, what they are called, how large they may be, what is said if not."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lowbit.capture.export import Program, export
from lowbit.capture.sizes import dim_of, user_inputs
from lowbit.errors import InputError, UnsupportedError
from lowbit.graph.ir import Dim


def shapes(program: Program) -> dict[str, tuple[Dim, ...]]:
    """The inputs' shapes, by name."""
    nodes = [node for node in user_inputs(program.exported) if isinstance(node.meta["val"], torch.Tensor)]
    return {node.name: tuple(dim_of(size, program.names) for size in node.meta["val"].shape) for node in nodes}


class Tagger(nn.Module):
    """Embedding, attention under a mask, linear."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.places = nn.Embedding(rows, 16) if rows else None
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.words(input_ids)
        if self.places is not None:
            x = x + self.places(torch.arange(x.shape[1]).unsqueeze(0) + 2)
        return self.head(self.mix(x, src_key_padding_mask=None if mask is None else mask == 0))


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 50, shape)


def test_the_batch_and_sequence_of_tokens_and_of_their_masks_are_free() -> None:
    for mask in (torch.ones(2, 7), torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool)):
        program = export(Tagger().eval(), {"input_ids": ids(2, 7), "mask": mask})
        assert shapes(program) == dict.fromkeys(("input_ids", "mask"), ("batch", "sequence"))
        assert {name: symbol.minimum for name, symbol in program.symbols.items()} == {"batch": 1, "sequence": 1}
        assert program.notes == ()


@pytest.mark.parametrize("shape", [(1, 7), (2, 1), (1, 1)])
def test_sizes_of_1_in_the_example_are_free_too(shape: tuple[int, int]) -> None:
    program = export(Tagger().eval(), (ids(*shape), torch.ones(shape)))
    assert shapes(program) == dict.fromkeys(("input_ids", "mask"), ("batch", "sequence"))


def test_a_table_of_positions_bounds_the_sequence() -> None:
    program = export(Tagger(rows=40).eval(), ids(2, 7))
    assert program.symbols["sequence"].maximum == 38  # positions start at 2


class Pair(nn.Module):
    def forward(self, input_ids: torch.Tensor, image: torch.Tensor, decoder_input_ids: torch.Tensor) -> Any:
        texts, images = input_ids.float().mean(1), image.mean((1, 2, 3))
        return texts[:, None] * images[None, :], decoder_input_ids * 2


def test_inputs_of_one_batch_share_it_and_lengths_of_encoder_and_decoder_are_two() -> None:
    program = export(Pair().eval(), (ids(2, 5), torch.randn(2, 3, 8, 8), ids(2, 5)))
    assert shapes(program) == {
        "input_ids": ("batch", "sequence"),
        "image": ("batch", 3, 8, 8),
        "decoder_input_ids": ("batch", "decoder_sequence"),
    }


def test_inputs_of_different_batches_are_free_by_themselves() -> None:
    program = export(Pair().eval(), (ids(3, 5), torch.randn(2, 3, 8, 8), ids(4, 6)))
    assert shapes(program) == {
        "input_ids": ("batch", "sequence"),
        "image": ("image_batch", 3, 8, 8),
        "decoder_input_ids": ("decoder_input_ids_batch", "decoder_sequence"),
    }


class Fixed(nn.Module):
    """Fixes the size of one axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().view(2, -1) if self.axis == 0 else x.float() @ torch.ones(6, 3)


@pytest.mark.parametrize("silent", [False, True])
def test_an_axis_that_the_model_fixes_is_fixed_alone_and_the_reason_told(
    silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in logging.root.manager.loggerDict if silent else ():  # as logging.config does with what it does not know
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    with pytest.warns(UserWarning, match=r"the sequence is fixed to 6.*test_free.py:\d+"):
        program = export(Fixed(1).eval(), ids(2, 6))
    assert shapes(program) == {"x": ("batch", 6)}
    with pytest.warns(UserWarning, match=r"the batch is fixed to 2.*specialized it to be a constant at test_free.py"):
        program = export(Fixed(0).eval(), ids(2, 6))
    assert shapes(program) == {"x": (2, "sequence")}
    assert len(program.notes) == 1


def test_the_features_of_images_and_tables_stay_fixed() -> None:
    for net, x in ((nn.Linear(6, 3), torch.randn(2, 6)), (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8))):
        assert shapes(export(net.eval(), x)) == {"input": ("batch", *x.shape[1:])}


def test_the_steps_of_what_attention_mixes_are_free() -> None:
    net = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).eval()
    program = export(net, (torch.randn(2, 7, 16), torch.randn(2, 5, 16)))
    assert shapes(program) == {"src": ("batch", "src_steps", 16), "tgt": ("batch", "tgt_steps", 16)}


def test_control_flow_by_values_is_refused_at_once() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnsupportedError, match=r"(?s)test_free\.py.*in forward"):
            export(Branch().eval(), ids(2, 6))


def test_sizes_freed_by_name() -> None:
    net = nn.Conv2d(3, 4, 3, padding=1).eval()
    program = export(net, torch.randn(1, 3, 8, 9), {"input": {0: "images", 3: "width"}})
    assert shapes(program) == {"input": ("images", 3, 8, "width")}
    program = export(Pair().eval(), (ids(4, 5), torch.randn(4, 3, 8, 8), ids(2, 5)), ({0: "n"}, {0: "n"}, None))
    assert shapes(program) == {"input_ids": ("n", 5), "image": ("n", 3, 8, 8), "decoder_input_ids": (2, 5)}
    with pytest.raises(UnsupportedError, match=r"rows cannot be free: .*test_free\.py:\d+"):
        export(Fixed(0).eval(), ids(2, 6), {"x": {0: "rows"}})
    for wrong in ({"y": {0: "rows"}}, {"input": {7: "rows"}}, {"input": {0: "not a name"}}):
        with pytest.raises(InputError, match=r"names (inputs|no axis)"):
            export(net, torch.randn(1, 3, 8, 9), wrong)


# ------------------------------------------------------------------------------------------------------ transformers

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}


def _transformer(kind: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    transformers = pytest.importorskip("transformers")
    text = {"input_ids": ids(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(max_position_embeddings=40, **TINY)), text
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=40, vocab_size=50)
        return transformers.GPT2LMHeadModel(config), text
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=1, **TINY)), text
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50)
    return transformers.T5ForConditionalGeneration(config), {**text, "decoder_input_ids": ids(2, 7)}


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_transformers_export_with_batch_and_sequence_free(kind: str) -> None:
    net, inputs = _transformer(kind)
    caching = getattr(net.config, "use_cache", None)
    program = export(net.eval(), inputs)
    decoder = ("batch", "decoder_sequence")
    assert all(s == (decoder if n.startswith("decoder") else ("batch", "sequence")) for n, s in shapes(program).items())
    assert program.symbols["sequence"].maximum == (40 if kind in ("bert", "gpt2") else 2**31 - 1)
    assert getattr(net.config, "use_cache", None) == caching
    assert not [note for note in program.notes if "fixed" in note]
