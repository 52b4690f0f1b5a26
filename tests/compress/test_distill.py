"""Teachers: what is compared, in which loops, and that the student knows nothing of it."""

from __future__ import annotations

import copy
import gc
import io
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import lowbit
from lowbit.compress import Teacher, distill, finalize, prune, recorded
from lowbit.compress.listening import attention_map
from lowbit.compress.teaching import activation_attention, attention_divergence, soft_targets
from lowbit.errors import InputError


def conv_net(width: int, classes: int = 5, *, inplace: bool = False) -> nn.Sequential:
    """Two convolutions; features [B, width, 8, 8] and [B, 2 width, 4, 4]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(inplace),
        nn.Flatten(), nn.Linear(32 * width, classes),
    )  # fmt: skip


class Attending(nn.Module):
    """One layer of attention, computed in one of the ways that models do."""

    def __init__(self, way: str, heads: int = 2, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.way, self.heads, self.dropout = way, heads, dropout
        self.inner = nn.Identity()
        self.mixed = nn.Linear(width, 3 * width)
        if way == "module":
            self.inner = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        if way == "layer":
            self.inner = nn.TransformerEncoderLayer(width, heads, 32, dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "module":
            return self.inner(x, x, x, need_weights=False)[0]
        if self.way == "layer":
            return self.inner(x)
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.mixed(x).chunk(3, -1)
        )
        if self.way == "sdpa":
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            scores = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
            mixed = functional.dropout(scores, self.dropout, self.training) @ value
        return mixed.transpose(1, 2).flatten(2)


def kl(teacher: Tensor, student: Tensor) -> float:
    """The mean over rows of KL(teacher || student), by its definition."""
    rows = zip(teacher.reshape(-1, teacher.shape[-1]), student.reshape(-1, student.shape[-1]), strict=True)
    sums = [sum(float(p) * math.log(p / q) for p, q in zip(a, b, strict=True) if p > 0) for a, b in rows]
    return sum(sums) / len(sums)


# ----------------------------------------------------------------------------------------------------- what is compared


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(1, 5), st.floats(0.5, 20), st.integers(0, 1000))
def test_soft_targets_are_hintons(classes: int, batch: int, temperature: float, seed: int) -> None:
    """tau^2 KL, the mean over all but the classes, along any axis."""
    torch.manual_seed(seed)
    student, teacher = (3 * torch.randn(2, batch, 3, classes) for _ in "ab")
    wanted = temperature**2 * kl((teacher / temperature).softmax(-1), (student / temperature).softmax(-1))
    assert float(soft_targets(student[0], teacher[0], temperature, -1)) == pytest.approx(
        temperature**2 * kl((teacher[0] / temperature).softmax(-1), (student[0] / temperature).softmax(-1)), rel=1e-4
    )
    moved = soft_targets(student.movedim(-1, 1), teacher.movedim(-1, 1), temperature, 1)
    assert float(moved) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_one_logit_is_a_sigmoids(shape: tuple[int, ...]) -> None:
    """Softmax over a single class, or over the batch, would say nothing."""
    student, teacher = torch.randn(2, *shape)
    p, q = (torch.stack((each.flatten(), torch.zeros(6)), 1).softmax(1) for each in (teacher, student))
    assert float(soft_targets(student, teacher, 1.0, -1)) == pytest.approx(kl(p, q), rel=1e-4)


def test_classes_that_are_ruled_out() -> None:
    """Logits of minus infinity, in both, give finite gradients."""
    student = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    soft_targets(student, torch.tensor([[0.0, 1.0, -math.inf]]), 2.0, -1).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_loss_is_the_sum_of_its_terms() -> None:
    """Task, soft targets, features relative to the teacher's, attention of activations: by the formulas."""
    torch.manual_seed(0)
    net, big, x, y = conv_net(4), conv_net(4), torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    teacher = distill(
        net,
        big,
        temperature=3,
        weight=0.7,
        match={"0": "0"},
        attention={"2": "2"},
        feature_weight=2,
        attention_weight=5,
    )
    assert isinstance(teacher, Teacher)
    task = functional.cross_entropy(net(x), y)
    with torch.no_grad():
        soft = 9 * kl((big(x) / 3).softmax(1), (net(x) / 3).softmax(1))
        mine, its = net[0](x), big[0](x)
        features = ((mine - its) ** 2).mean() / (its**2).mean()
        maps = [(part[:3](x) ** 2).mean(1).flatten(1) for part in (net, big)]
        attention = (
            (maps[0] / maps[0].norm(dim=1, keepdim=True) - maps[1] / maps[1].norm(dim=1, keepdim=True)) ** 2
        ).sum(1)
    wanted = 0.3 * task.item() + 0.7 * soft + 2 * features.item() + 5 * attention.mean().item()
    net(x)
    assert teacher.loss(task.detach(), x).item() == pytest.approx(wanted, rel=1e-4)
    net(x)
    assert teacher.loss(None, x).item() == pytest.approx(wanted - 0.3 * task.item(), rel=1e-4)


@pytest.mark.parametrize("inplace", [(True, False), (False, True)])
def test_features_are_what_the_module_gave(inplace: tuple[bool, bool]) -> None:
    """A ReLU that writes into a convolution's output changes no comparison."""
    torch.manual_seed(0)
    net, big = conv_net(4), conv_net(4, inplace=inplace[1])
    big.load_state_dict(net.state_dict())
    teacher = distill(net, big, weight=0, match={"0": "0"})
    net[1].inplace = inplace[0]
    x = torch.randn(2, 1, 8, 8)
    net(x)
    assert teacher.loss(None, x).item() == 0


@pytest.mark.parametrize("ours", ["module", "layer", "eager"])
@pytest.mark.parametrize("theirs", ["module", "layer", "eager"])
def test_attention_maps_however_they_are_computed(ours: str, theirs: str) -> None:
    """KL of the maps before dropout, of nn.MultiheadAttention, its fast path, and plain softmax."""
    torch.manual_seed(0)
    net, big = Attending(ours, dropout=0.3), Attending(theirs)
    weights, bias = torch.randn(48, 16), torch.randn(48)
    for module in (net, big):
        inner = getattr(module.inner, "self_attn", module.inner)
        with torch.no_grad():
            module.mixed.weight.copy_(weights)
            module.mixed.bias.copy_(bias)
            if isinstance(inner, nn.MultiheadAttention):
                inner.in_proj_weight.copy_(weights)
                inner.in_proj_bias.copy_(bias)
    teacher = distill(net, big, weight=0, attention={"": ""})
    x = torch.randn(2, 5, 16)
    net(x)
    assert teacher.loss(None, x).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        net.mixed.weight.mul_(1.5)
        for name, parameter in net.inner.named_parameters():
            if name.endswith("in_proj_weight"):
                parameter.mul_(1.5)
    net(x)
    loss = teacher.loss(None, x)
    loss.backward()
    assert float(loss.detach()) > 0.03
    assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in net.parameters())


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.sampled_from(["none", "bool", "float", "causal"]), st.booleans(),
    st.sampled_from([None, 0.3]), st.integers(0, 1000),
)  # fmt: skip
def test_maps_times_values_are_torchs(
    queries: int, keys: int, mask: str, grouped: bool, scale: float | None, seed: int
) -> None:
    """What is compared is what scaled_dot_product_attention multiplies values by, for all its arguments."""
    torch.manual_seed(seed)
    query, key, value = torch.randn(2, 4, queries, 8), torch.randn(2, 2, keys, 8), torch.randn(2, 2, keys, 8)
    if not grouped:
        query = query[:, :2]
    sees = torch.rand(queries, keys) < 0.6
    sees[:, 0] = True
    masks = {"bool": sees, "float": torch.randn(queries, keys)}
    asked: dict[str, Any] = {"scale": scale, "enable_gqa": grouped}
    asked |= {"is_causal": True} if mask == "causal" else {"attn_mask": masks.get(mask)}
    wanted = functional.scaled_dot_product_attention(query, key, value, **asked)
    found = attention_map(query, key, value, **asked) @ value.repeat_interleave(2 if grouped else 1, 1)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_causal_attention_and_other_numbers_of_heads() -> None:
    """scaled_dot_product_attention's maps are known without being computed there; heads are averaged."""
    torch.manual_seed(0)
    net, big = Attending("sdpa", heads=2), Attending("sdpa", heads=4)
    teacher = distill(net, big, weight=0, attention={"": ""})
    x = torch.randn(2, 5, 16)
    net(x)
    maps = []
    for module in (net, big):
        query, key, _ = (
            each.unflatten(-1, (module.heads, -1)).transpose(1, 2) for each in module.mixed(x).chunk(3, -1)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        maps.append(scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf).softmax(-1).mean(1))
    assert teacher.loss(None, x).item() == pytest.approx(kl(maps[1], maps[0]), rel=1e-4)


def test_queries_that_see_nothing_are_left_out() -> None:
    """Rows of NaN, as fully masked queries have, do not spoil the loss."""
    student, teacher = torch.rand(2, 1, 2, 3, 3).softmax(-1)
    whole = attention_divergence(student[:, :, :2], teacher[:, :, :2])
    teacher[:, :, 2] = math.nan
    assert float(attention_divergence(student, teacher)) == pytest.approx(float(whole), rel=1e-5)


def test_images_of_other_sizes() -> None:
    """The larger map is averaged to the smaller; attention of activations needs no equal channels."""
    torch.manual_seed(0)
    net, big, x = conv_net(4), conv_net(6), torch.randn(2, 1, 8, 8)
    teacher = distill(net, big, weight=0, attention={"0": "2"})
    net(x)
    with torch.no_grad():
        wanted = activation_attention(functional.adaptive_avg_pool2d(net[0](x), 4), big[:3](x))
    assert teacher.loss(None, x).item() == pytest.approx(float(wanted), rel=1e-5)


def test_projections_learn_by_themselves_and_are_saved() -> None:
    """Widths that differ: `step` trains the matrix; another handle goes on from the state with the same bits."""
    torch.manual_seed(0)
    x = torch.randn(8, 1, 8, 8)
    net, big = conv_net(4), conv_net(6)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    x.requires_grad_(True)

    def losses(teacher: Any, count: int) -> list[float]:
        found = []
        for _ in range(count):
            net(x)
            loss = teacher.loss(None, x)
            loss.backward()
            teacher.step()
            found.append(float(loss.detach()))
        return found

    def make() -> Any:
        return distill(net, big, weight=0, match={"0": "0", "2": "2"})

    teacher = make()
    first = losses(teacher, 6)
    assert first[-1] < first[0] < 1
    buffer = io.BytesIO()
    torch.save(teacher.state_dict(), buffer)
    teacher.close()
    other = make()
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    again = losses(other, 2)
    other.close()
    unbroken = make()
    assert losses(unbroken, 8)[6:] == again
    assert unbroken.steps == other.steps == 8


def test_a_given_projection() -> None:
    """A module of one's own maps features, and is trained and saved in the same way."""
    net, big, x = conv_net(4), conv_net(6), torch.randn(4, 1, 8, 8)
    mapping = nn.Conv2d(8, 12, 1)
    before = mapping.weight.clone()
    teacher = distill(net, big, weight=0, match={"2": "2"}, projections={"2": mapping})
    net(x)
    teacher.loss(None, x).backward()
    teacher.step()
    assert not torch.equal(mapping.weight, before)
    assert torch.equal(teacher.state_dict()["projections"]["2"]["weight"], mapping.weight)


# ---------------------------------------------------------------------------------------------------------- in any loop


def test_the_student_does_not_know() -> None:
    """No parameter, buffer or module more; copies and pickles are free of the teacher, and work."""
    net, big, x = conv_net(4), conv_net(6), torch.randn(2, 1, 8, 8)
    before, names = list(net.state_dict()), [name for name, _ in net.named_modules()]
    teacher = distill(net, big, match={"2": "2"}, attention={"0": "0"})
    assert list(net.state_dict()) == before
    assert [name for name, _ in net.named_modules()] == names
    net(x)
    copied = copy.deepcopy(net)
    saved = io.BytesIO()
    torch.save(net, saved)
    assert len(saved.getvalue()) < 4 * sum(each.numel() for each in net.parameters()) + 20_000
    copied(x + 1)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged(x + 1)
    wanted = teacher.loss(None, x).item()
    teacher.finalize()
    assert recorded(net)[0]["kind"] == "distillation"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*net.modules(), *big.modules()))
    again = distill(copied, big, match={"2": "2"}, attention={"0": "0"})
    copied(x)
    assert float(again.loss(None, x)) == pytest.approx(wanted)


def test_the_teacher_is_fixed() -> None:
    """No gradient, no statistics, no dropout, even if someone puts it in training mode."""
    net = conv_net(4)
    big = nn.Sequential(conv_net(6), nn.BatchNorm1d(5), nn.Dropout(0.5)).train()
    before = copy.deepcopy(big.state_dict())
    teacher, x = distill(net, big), torch.randn(8, 1, 8, 8)
    big.train()
    net(x)
    teacher.loss(None, x).backward()
    assert not big.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in big.parameters())
    assert all(torch.equal(value, big.state_dict()[name]) for name, value in before.items())


def test_evaluations_between_do_not_disturb() -> None:
    """A pass without gradients is not heard; each loss needs a pass of its own."""
    net, big, x = conv_net(4), conv_net(6), torch.randn(2, 1, 8, 8)
    teacher = distill(net, big, match={"0": "0"})
    net(x)
    with torch.no_grad():
        net(2 * x)
    loss = teacher.loss(None, x)
    net(x)
    assert teacher.loss(None, x).item() == float(loss)
    with pytest.raises(InputError, match=r"call net\(x\)"):
        teacher.loss(None, x)


@pytest.mark.parametrize(
    ("wrap", "logits"),
    [
        (lambda y: (y, None), None),
        (lambda y: {"hidden": y + 1, "logits": y}, None),
        (lambda y: {"hidden": y + 1, "scores": y}, "scores"),
        (lambda y: [y + 1, y], 1),
        (lambda y: {"aux": (y + 1, y)}, lambda output: output["aux"][1]),
        (lambda y: SimpleNamespace(logits=y, loss=y.mean()), None),
        (lambda y: SimpleNamespace(scores=y), "scores"),
    ],
)
def test_outputs_of_any_kind(wrap: Callable[[Tensor], Any], logits: Any) -> None:
    """Tuples, dicts, objects: the logits by default, by name, index or function."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, *, x: Tensor) -> Any:
            return wrap(self.inner(x))

    torch.manual_seed(0)
    net, big, x = Wrapped(), Wrapped(), torch.randn(5, 4)
    teacher = distill(net, big, temperature=1, weight=1, logits=logits)
    net(x=x)
    wanted = kl(big.inner(x).softmax(1), net.inner(x).softmax(1))
    assert float(teacher.loss(None, x=x)) == pytest.approx(wanted, rel=1e-4)


def test_transformers_models() -> None:
    """A BERT classifier of fewer layers and heads learns from outputs, hidden states and attention maps."""
    transformers = pytest.importorskip("transformers")

    def make(layers: int, heads: int, attention: str) -> Any:
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16 * heads, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=32, num_labels=3, attn_implementation=attention,
        )  # fmt: skip
        return transformers.BertForSequenceClassification(config)

    torch.manual_seed(0)
    batch = {"input_ids": torch.randint(50, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.long)}
    batch["attention_mask"][0, 5:] = 0
    labels = torch.tensor([0, 1, 2, 0])
    teachers = []
    for attention in ("eager", "sdpa"):
        torch.manual_seed(1)
        net, big = make(1, 2, attention), make(2, 4, attention)
        layers = {"bert.encoder.layer.0": "bert.encoder.layer.1"}
        teacher = distill(net.train(), big, match=layers, attention=layers)
        torch.manual_seed(2)
        loss = teacher.loss(net(**batch, labels=labels).loss, **batch)
        loss.backward()
        key = net.bert.encoder.layer[0].attention.self.key.weight
        assert key.grad is not None
        assert key.grad.abs().sum() > 0
        net.eval()
        net(**batch)
        teachers.append(float(teacher.loss(None, **batch)))
    assert teachers[0] == pytest.approx(teachers[1], rel=1e-3)


def test_a_function_teaches() -> None:
    """A converted model, or the mean of several nets, is as good as a module."""
    torch.manual_seed(0)
    big, net, x = nn.Linear(64, 4), nn.Linear(64, 4), torch.randn(8, 64)
    model = lowbit.convert(big, x, scheme="float32", progress=False)
    teacher = distill(net, lambda x: (model(x) + big(x)) / 2, weight=1)
    net(x)
    loss = teacher.loss(None, x)
    loss.backward()
    teacher.close()
    plain = distill(net, big, weight=1)
    net(x)
    assert float(plain.loss(None, x)) == pytest.approx(float(loss), rel=1e-4)


def test_beside_masks_and_conversion_while_it_listens() -> None:
    """Pruning before or after; a net that is still taught converts."""
    torch.manual_seed(0)
    net, big, x = conv_net(8), conv_net(16), torch.randn(4, 1, 8, 8)
    teacher = distill(net, big, match={"2": "2"})
    pruning = prune(net, 0.5, pattern="1x4")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        net(x)
        loss = teacher.loss(None, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    net.eval()
    model = lowbit.convert(copy.deepcopy(pruning.finalize()), x, scheme="float32", progress=False)
    assert torch.allclose(model(x), net(x), atol=1e-4)
    assert torch.equal(lowbit.convert(net, x, scheme="float32", progress=False)(x), model(x))


def test_finalize_lets_all_teachers_go() -> None:
    """Of the module and of those in it, even where nobody holds the handle any more; each is recorded."""
    net, big, x = nn.Sequential(conv_net(4)), conv_net(6), torch.randn(2, 1, 8, 8)
    distill(net, big)
    inner = distill(net[0], big, temperature=2)
    gc.collect()
    finalize(net)
    assert [each["temperature"] for each in recorded(net)] == [4.0, 2]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    with pytest.raises(InputError, match="closed"):
        inner.loss(None, x)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature must be a positive number"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"weight": 1.5}, r"share in \[0, 1\], is 1.5"),
        ({"weight": 0}, "nothing would be learned"),
        ({"weight": 0, "match": {"0": "0"}, "feature_weight": 0}, "nothing would be learned"),
        ({"match": {"conv": "0"}}, "the student has no module 'conv'; it has"),
        ({"match": {"0": "layer9"}, "attention": {"0": "layer9"}}, "match: the teacher .*attention: the teacher"),
        ({"logits": 1.5}, "logits must be a key"),
        ({"projections": {"0": nn.Identity()}}, "'0' is not in match"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    """All at once, and no hook stays."""
    net, big = conv_net(4), conv_net(6)
    with pytest.raises(InputError, match=message):
        distill(net, big, **arguments)
    assert not any(module._forward_hooks for module in (*net.modules(), *big.modules()))


def test_whom_it_may_not_teach() -> None:
    """No net teaches itself or what it is a part of; a function has no modules."""
    net = conv_net(4)
    with pytest.raises(InputError, match=r"copy\.deepcopy the teacher"):
        distill(net, nn.Sequential(net))
    with pytest.raises(InputError, match=r"need a teacher that is a torch\.nn\.Module"):
        distill(net, lambda x: x, match={"0": "0"})
    with pytest.raises(InputError, match="not a str"):
        distill(net, "big")
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, not a function"):
        distill(lambda x: x, net)


@pytest.mark.parametrize(
    ("arguments", "big", "message"),
    [
        ({}, conv_net(6, classes=7), r"logits are \[2, 5\], the teacher's \[2, 7\]"),
        ({"match": {"2": "5"}}, conv_net(6), r"match={'2': '5'}: features .* cannot be compared"),
        ({"attention": {"5": "5"}}, conv_net(6), "are no maps of the same places"),
        ({"logits": "scores"}, conv_net(6), "logits='scores' is nothing that an output has: it is a Tensor"),
        ({"match": {"2": "2"}, "projections": {"2": nn.Identity()}}, conv_net(6), "the projection gives"),
    ],
)
def test_what_cannot_be_compared_is_named(arguments: dict[str, Any], big: nn.Module, message: str) -> None:
    """When the shapes are known: with the modules' names."""
    net, x = conv_net(4), torch.randn(2, 1, 8, 8)
    teacher = distill(net, big, **arguments)
    net(x)
    with pytest.raises(InputError, match=message):
        teacher.loss(None, x)


def test_losses_states_and_closed_handles() -> None:
    """A loss that is no scalar; a state of other arguments; a handle that is closed."""
    net, big, x = conv_net(4), conv_net(6), torch.randn(2, 1, 8, 8)
    teacher = distill(net, big, match={"2": "2"})
    task = functional.cross_entropy(net(x), torch.tensor([0, 1]), reduction="none")
    with pytest.raises(InputError, match="must be a tensor of one number"):
        teacher.loss(task, x)
    state = teacher.state_dict()
    teacher.finalize()
    teacher.finalize()
    assert len(recorded(net)) == 1
    for call in (lambda: teacher.loss(None, x), teacher.step, teacher.state_dict):
        with pytest.raises(InputError, match="closed"):
            call()
    other = distill(net, big, temperature=2, match={"0": "0"})
    with pytest.raises(InputError, match=r"temperature is 2 here, 4.0 there; match is .*'0'"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match="no state_dict"):
        other.load_state_dict({})
