"""Smaller nets: what they compute, how wide they are, that they convert, and what must not leave."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lowbit
from lowbit.compress import prune, recorded, resize, shrink, widths
from lowbit.errors import InputError


class Inverted(nn.Module):
    """An inverted residual: a depthwise convolution between two of windows of one pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.BatchNorm2d(2 * channels)
        self.d = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.act, self.b = nn.PReLU(2 * channels), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(self.act(self.d(torch.relu(self.norm(self.a(x))))))


class Joined(nn.Module):
    """Branches that are joined, and half of whose channels are gates."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(3, 16, 1)
        self.c, self.head = nn.Conv2d(40, 32, 1), nn.Linear(16 * 4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.c(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1))
        left, right = y.chunk(2, 1)
        return self.head(nn.functional.adaptive_avg_pool2d(left * right.sigmoid(), 2).flatten(1))


def residual() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), Inverted(32), Inverted(32),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 48), nn.ReLU(), nn.Linear(48, 10),
    )  # fmt: skip


def some(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """With norms that are not trivial."""
    torch.manual_seed(seed)
    net = build().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net


@settings(max_examples=6, deadline=None)
@given(
    build=st.sampled_from([residual, Joined]),
    share=st.sampled_from([0.25, 0.5, 0.8]),
    round_to=st.sampled_from([1, 4, 16]),
)
def test_widths_and_what_is_computed(build: Callable[[], nn.Module], share: float, round_to: int) -> None:
    """Widths are the nearest multiples; the smaller net is the larger one with zeros where what left was read."""
    net, x = some(build), torch.randn(2, 3, 8, 8)
    small = copy.deepcopy(net)
    assert shrink(small, x, share, round_to=round_to, criterion=marked(net)) is small
    for name, sides in widths(small).items():
        before, after = net.get_submodule(name), small.get_submodule(name)
        for axis, side in enumerate(("out", "in")):
            if side in sides and isinstance(before, nn.Conv2d) and before.groups == 1:
                count = before.weight.shape[axis]
                assert after.weight.shape[axis] == sides[side]
                if name != "c" and not (build is Joined and side == "in"):
                    assert sides[side] == min(
                        count, max(round_to, int(count * (1 - share) / round_to + 0.5) * round_to)
                    )
    torch.testing.assert_close(small(x), zeroed(net, small)(x), rtol=1e-3, atol=1e-4)
    assert small(x).shape == net(x).shape
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def marked(net: nn.Module) -> Callable[[Any], torch.Tensor]:
    """A criterion by which the first channels of every layer are worth most."""

    def worth(layer: Any) -> torch.Tensor:
        outs = torch.arange(layer.weight.shape[0], 0, -1.0).view(-1, *(1,) * (layer.weight.dim() - 1))
        return outs.expand_as(layer.weight)

    return worth


def zeroed(net: nn.Module, small: nn.Module) -> nn.Module:
    """The net with zeros in what reads channels that left: those whose weights are not in the small net."""
    found = copy.deepcopy(net)
    for name, sides in widths(small).items():
        module = found.get_submodule(name)
        if "in" in sides and isinstance(module, nn.Linear | nn.Conv2d):
            own = small.get_submodule(name).weight.detach()
            full = module.weight.detach()
            rows = [next(r for r in range(len(full)) if contains(full[r], own[o])) for o in range(len(own))]
            first = full[rows[0]].flatten(1) if full.dim() == 4 else full[rows[0]][:, None]
            kept = [c for c in range(full.shape[1]) if any(torch.equal(first[c], each) for each in columns(own[0]))]
            module.weight.data[:, [c for c in range(full.shape[1]) if c not in kept]] = 0
    return found


def columns(row: torch.Tensor) -> list[torch.Tensor]:
    """Of a row of weights [I, ...]: those of each input."""
    return list(row.flatten(1)) if row.dim() > 1 else list(row[:, None])


def contains(full: torch.Tensor, part: torch.Tensor) -> bool:
    """Whether a row of weights has all those of a smaller one."""
    every = {tuple(column.tolist()) for column in columns(full)}
    return all(tuple(column.tolist()) in every for column in columns(part))


def test_the_least_valuable_leave() -> None:
    """By magnitude those of small weights; by a criterion of data those that see nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    quiet = copy.deepcopy(net)
    net[0].weight.data[::2] *= 1e-3
    net[2].weight.data[:, ::2] *= 1e-3
    expected = net[0].weight.data[1::2].clone()
    shrink(net, torch.randn(1, 8), 0.5)
    assert torch.equal(net[0].weight, expected)
    quiet[0].bias.data[:16] = -100.0
    expected = quiet[0].weight.data[16:].clone()
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    for criterion in ("apoz", "wanda", "taylor"):
        small = copy.deepcopy(quiet)
        shrink(small, x[:1], 0.5, criterion=criterion, calibration=[(x, y)], loss=nn.functional.cross_entropy)
        assert torch.equal(small[0].weight, expected)


def test_a_state_dict_and_widths_rebuild_it(tmp_path: Any) -> None:
    """Twice smaller, saved, and loaded into a fresh net; trained and converted as any other."""
    small, x = some(residual), torch.randn(2, 3, 8, 8)
    for _ in range(2):
        shrink(small, x, 0.5, round_to=4)
    torch.save({"widths": widths(small), "state": small.state_dict()}, tmp_path / "small.pt")
    saved = torch.load(tmp_path / "small.pt", weights_only=True)
    again = resize(some(residual, 1), saved["widths"])
    again.load_state_dict(saved["state"])
    assert torch.equal(again(x), small(x))
    assert widths(again) == widths(small)
    assert str(again) == str(small)
    optimizer = torch.optim.SGD(again.parameters(), 0.01)
    again(x).square().mean().backward()
    optimizer.step()
    model = lowbit.convert(small, x, calibration=[x], progress=False)
    assert (model(x) - small(x)).abs().max() < 0.1 * small(x).abs().max()


def llama() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=8,
        num_key_value_heads=4, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), {"input_ids": torch.randint(64, (2, 9))}


def vit() -> tuple[nn.Module, torch.Tensor]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    return ViTForImageClassification(config).eval(), torch.randn(2, 3, 16, 16)


def bert() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
    )  # fmt: skip
    return BertModel(config).eval(), {"input_ids": torch.randint(64, (2, 9))}


@pytest.mark.parametrize(("build", "heads"), [(llama, (4, 2)), (vit, (2, 2)), (bert, (2, 2))])
def test_transformers_lose_heads_and_widths_and_convert(build: Callable[..., Any], heads: tuple[int, int]) -> None:
    """Half the heads (with keys and values that several share) and half the MLP; the stream stays; int8 agrees."""
    torch.manual_seed(0)
    net, example = build()
    small = shrink(copy.deepcopy(net), example, 0.5)
    changed = {name.rsplit(".", 1)[-1]: sides for name, sides in widths(small).items()}
    stream = {parameter.shape[-1] for name, parameter in small.named_parameters() if "norm" in name.lower()}
    assert stream == {64}
    queries = next(m for n, m in small.named_modules() if n.endswith(("q_proj", "query")))
    values = next(m for n, m in small.named_modules() if n.endswith(("v_proj", "value")))
    size = 64 // (8 if build is llama else 4)
    assert (queries.out_features // size, values.out_features // size) == heads
    assert {sides["out"] for name, sides in changed.items() if name in ("up_proj", "gate_proj", "fc1")} <= {48}
    assert 48 in {sides.get("in") for sides in widths(small).values()}
    kwargs = example if isinstance(example, dict) else {"pixel_values": example}
    expected = small(**kwargs)[0]
    again = resize(build()[0], widths(small))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(**kwargs)[0], expected)
    model = lowbit.convert(small, example, calibration=[example], progress=False)
    found = model(**kwargs)[0]
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_what_stays_wide_is_told() -> None:
    """Outputs, norms, shared weights, groups, and what was asked to stay."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.grouped, self.b = nn.Conv2d(4, 32, 1), nn.Conv2d(32, 32, 1, groups=4), nn.Conv2d(32, 32, 1)
            self.norm, self.c, self.d = nn.GroupNorm(4, 32), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.b(self.grouped(self.a(x))))
            return self.d(torch.relu(self.c(y)))

    net = Net()
    shrink(net, torch.randn(1, 4, 3, 3), 0.5)
    stayed = recorded(net)[-1]["stayed"]
    assert "'grouped', a Conv2d" in stayed["a"]
    assert "GroupNorm" in stayed["b"]
    assert "output" in stayed["d"]
    assert widths(net) == {"c": {"out": 16}, "d": {"in": 16}}
    with pytest.raises(InputError, match=r"nothing to take out: .*skip='c'"):
        shrink(Net(), torch.randn(1, 4, 3, 3), 0.5, skip=["c"])


def test_a_sum_with_the_input_keeps_its_width() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(x + self.b(torch.relu(self.a(x))))

    net = Net()
    shrink(net, torch.randn(2, 32), 0.5)
    assert widths(net) == {"a": {"out": 32}, "b": {"in": 32}}
    assert "without some of them the net fails" in recorded(net)[-1]["stayed"]["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, "share must be in"),
        ({"share": 1}, "share must be in"),
        ({"round_to": 0}, "round_to must be a positive"),
        ({"criterion": "guess"}, "criterion must be one of"),
        ({"criterion": "taylor"}, "pass calibration="),
        ({"example": torch.randn(1, 4, 8, 8)}, "the net does not take the example"),
        ({"round_to": 128}, "nothing to take out: .*no fewer would be left"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(arguments: dict[str, Any], message: str) -> None:
    net = some(residual)
    before = str(net)
    with pytest.raises(InputError, match=message):
        shrink(net, **{"example": torch.randn(1, 3, 8, 8), "share": 0.5, **arguments})
    assert str(net) == before
    assert recorded(net) == []


def test_masks_and_other_nets_are_refused() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    prune(net, 0.5)
    with pytest.raises(InputError, match="finalize first"):
        shrink(net, torch.randn(1, 16), 0.5)
    with pytest.raises(InputError, match="not a int"):
        shrink(3, torch.randn(1, 16), 0.5)
    for wrong in ({"7": {"out": 4}}, {"0": {"out": 64}}, {"0": {"out": "4"}}, {"1": {"in": 4}}, {"0": {"heads": 1}}):
        with pytest.raises(InputError, match="widths are of another net"):
            resize(nn.Sequential(nn.Linear(16, 32), nn.ReLU()), wrong)
