"""Learned rounding: better than what it starts from, within one step of the float, the same for the same seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import lowbit
from graphs import BATCH, PAD1, Maker
from lowbit.errors import CalibrationError, InputError
from lowbit.graph.ir import Array, Graph
from lowbit.ops.interpreter import validate
from lowbit.quantization.fuse_requantize import IntegerLayer
from lowbit.quantization.quantize import quantize
from lowbit.quantization.round_groups import GroupCodes, round_groups
from lowbit.quantization.schemes import SCHEMES
from lowbit.reconstruction import adaround, examples
from lowbit.reconstruction.blocks import blocks
from passes.cheap import cheap_conversions

SCHEME = dataclasses.replace(SCHEMES["int4-g32"], method="reconstruct", keep_ends=False, keep_small=0.0)


def net() -> Graph:
    """A residual block between two convolutions, then a head."""
    m = Maker(0, BATCH)
    x = m.input("x", "batch", 8, 18, 18)
    x = m.node("conv2d", x, m.floats(32, 8, 1, 1, scale=0.3), m.floats(32), activation_min=0.0, activation_max=6.0)
    y = m.node("conv2d", x, m.floats(32, 1, 3, 3, scale=0.3), m.floats(32), padding=PAD1, groups=32, activation_min=0.0)
    y = m.node("conv2d", y, m.floats(32, 32, 1, 1, scale=0.2), m.floats(32))
    x = m.node("conv2d", m.node("add", x, y), m.floats(16, 32, 3, 3, scale=0.1), m.floats(16), stride=(2, 2))
    x = m.node("adaptive_avg_pool2d", m.node("unary", x, kind="hardswish"), output_size=(1, 1))
    x = m.node("reshape", x, shape=("batch", 16))
    return validate(m.graph(m.node("linear", x, m.floats(8, 16), m.floats(8))))


def data(count: int, seed: int = 0) -> list[dict[str, Array]]:
    random = np.random.default_rng(seed)
    smooth = [random.standard_normal((8, 8, 18, 18)).cumsum(axis=2).cumsum(axis=3) / 4 for _ in range(count)]
    return [{"x": x.astype(np.float32)} for x in smooth]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps; every layer is worth it."""
    cheap_conversions(monkeypatch)
    monkeypatch.setattr(adaround, "STEPS", 40)


class Seen:
    """Reconstructs from nearest codes, and keeps what came and what was made of it."""

    def __call__(self, plan: Any, quants: Any, layers: Any, learned: Any, data: Any, **options: Any) -> Any:
        self.graph, self.before = plan.graph, dict(layers)
        for name in learned:
            codes, weight = layers[name].codes, plan.graph.constants[self.weight(name)]
            nearest = round_groups(np.asarray(weight), codes.group_size, symmetric=codes.symmetric, refined=True)
            self.before[name] = dataclasses.replace(layers[name], codes=nearest)
        self.after: Mapping[str, IntegerLayer]
        self.after = adaround.reconstruct(plan, quants, self.before, learned, data, **options)
        self.learned = [name for name in learned if self.after[name] is not self.before[name]]
        return self.after

    def weight(self, name: str) -> str:
        """The name of a layer's weight."""
        return next(node.inputs[1] for node in self.graph if node.name == name)


@pytest.mark.parametrize("symmetric", [True, False])
def test_learned_codes(symmetric: bool) -> None:
    seen, stages = Seen(), []
    scheme = dataclasses.replace(SCHEME, symmetric=symmetric)
    calibration = data(2)

    def progress(stage: str, done: int, total: int | None) -> None:
        stages.append((stage, done, total))

    made = quantize(net(), scheme=scheme, calibration=calibration, reconstruct=seen, progress=progress)
    assert seen.learned
    assert [(done, total) for stage, done, total in stages if stage == "reconstruct"] == [(1, 2), (2, 2)]
    changed = 0
    for name in seen.learned:
        codes, before = seen.after[name].codes, seen.before[name].codes
        assert isinstance(codes, GroupCodes)
        assert isinstance(before, GroupCodes)
        weight = seen.graph.constants[seen.weight(name)]
        rows = np.moveaxis(np.asarray(weight), 1, -1).reshape(len(codes.codes), -1)
        zeros, scales = (np.repeat(part, codes.group_size, axis=1) for part in (before.zeros, before.scales))
        exact = np.clip(rows / scales + zeros, 0, 15)
        assert np.abs(codes.codes - exact).max() < 1 + 1e-4
        changed += int((codes.codes != before.codes).sum())
    assert changed > 10
    again = quantize(net(), scheme=scheme, calibration=calibration, reconstruct=Seen())
    for name, constant in made.graph.constants.items():
        np.testing.assert_array_equal(np.asarray(constant), np.asarray(again.graph.constants[name]))
    other = quantize(net(), scheme=dataclasses.replace(scheme, seed=1), calibration=calibration, reconstruct=Seen())
    assert any(
        (np.asarray(a) != np.asarray(other.graph.constants[name])).any() for name, a in made.graph.constants.items()
    )


def test_a_block_is_never_worse_on_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    learn = adaround._Learner.learn

    def noted(self: adaround._Learner) -> dict[str, IntegerLayer]:
        made = learn(self)
        losses.append((self.loss("start"), self.loss("whole") if made else self.loss("start")))
        return made

    monkeypatch.setattr(adaround._Learner, "learn", noted)
    for rate in (0.1, 50.0):  # of the second no block is any use
        monkeypatch.setattr(adaround, "BIAS_RATE", rate)
        quantize(net(), scheme=SCHEME, calibration=data(3), reconstruct=Seen())
    assert len(losses) == 4
    assert all(after <= before for before, after in losses)
    assert losses[0][1] < losses[0][0]
    assert losses[2][1] == losses[2][0]


def test_outputs_are_nearer_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaround, "STEPS", 80)
    fed, noise = data(2, seed=9), {}
    for method in ("nearest", "reconstruct"):
        scheme = dataclasses.replace(SCHEME, method=method)
        made = quantize(net(), scheme=scheme, calibration=data(3), reconstruct=adaround.reconstruct)
        run = lowbit.runtime.session.Session(made.graph).run
        exact = lowbit.runtime.session.Session(net()).run
        noise[method] = sum(float(np.square(run(each["x"])[0] - exact(each["x"])[0]).sum()) for each in fed)
    assert noise["reconstruct"] < 0.7 * noise["nearest"]


def test_blocks_end_where_one_value_is_left() -> None:
    found = [[node.op for node in block.nodes] for block in blocks(net())]
    assert found == [
        ["conv2d", "conv2d", "conv2d", "add"],
        ["conv2d", "unary", "adaptive_avg_pool2d", "reshape", "linear"],
    ]


def test_big_images_are_seen_in_patches() -> None:
    shapes = []

    def spy(*args: Any, **options: Any) -> Any:
        made = adaround.reconstruct(*args, **options)
        graph, block = args[0].graph, next(iter(blocks(args[0].graph)))
        integer = adaround.integer_graph(args[0], args[1], args[2], {})
        random = np.random.default_rng(0)
        found = examples.examples(graph, integer, block, args[1], args[4], random, None)
        assert found is not None
        shapes.extend(part.shape for part in (*found.floats.values(), *found.coded.values()))
        torch.testing.assert_close(found.floats["x"], found.coded["x"], rtol=0, atol=0.2)
        return made

    quantize(net(), scheme=SCHEME, calibration=data(2), reconstruct=spy)
    assert shapes == [(32, 8, 14, 14)] * 2


def test_wrong_requests() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    x = torch.zeros(2, 64)
    with pytest.raises(InputError, match="method 'reconstruct' of scheme 'int4' needs calibration data"):
        lowbit.convert(module, x, scheme="int4", method="reconstruct")
    with pytest.raises(InputError, match="method must be one of auto, nearest, hqq, gptq, reconstruct"):
        lowbit.convert(module, x, scheme="int4", method="brecq")
    bad = [x, torch.full((2, 64), torch.nan)]
    with pytest.raises(CalibrationError, match="NaN"):
        lowbit.convert(module, x, scheme="int4", method="reconstruct", calibration=bad)
