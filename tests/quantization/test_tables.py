"""Tables of embeddings in codes: which, whose, alone and in bags, and what a file takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
from graphs import BATCH, Maker
from lowbit.graph.ir import Array, Graph, Weight
from lowbit.ops.interpreter import run
from lowbit.passes.share_constants import share_constants
from lowbit.quantization import tables
from lowbit.quantization.quantizer import Quantized, Quantizer
from lowbit.quantization.round_groups import round_groups
from lowbit.quantization.round_weights import round_nearest
from lowbit.quantization.schemes import SCHEMES, rules
from lowbit.runtime.session import Session

NEAREST = {
    "int8": lambda table: round_nearest(table).weight,
    "int4-g32": lambda table: round_groups(table, 32, symmetric=True).weight,
}
"""The numbers that a table's codes stand for, by scheme."""


def made(graph: Graph, scheme: str, **keep: dict[str, str]) -> Quantized:
    return Quantizer(graph, rules(scheme), None).make(**keep)


def weights(graph: Graph) -> list[Weight]:
    return [constant for constant in graph.constants.values() if isinstance(constant, Weight)]


@pytest.mark.parametrize("scheme", NEAREST)
def test_large_tables_have_codes(scheme: str) -> None:
    """Not small ones, nor one that pays for a budget; the integer graph's rows are the nearest of the table's."""
    m = Maker(5, BATCH)
    words, places = m.floats(2048, 128), m.floats(16, 128)
    y = m.node("take", words, m.input("words", "batch", 3, dtype="i64"), axis=0)
    x = m.node("add", y, m.node("take", places, m.input("places", 3, dtype="i64"), axis=0))
    graph = m.graph(m.node("linear", x, m.floats(9, 128, scale=0.1)), y)
    feeds = {"words": np.array([[0, 2047, 9], [5, 6, 7]]), "places": np.arange(3)}
    maker = Quantizer(graph, rules(scheme), None)
    coded = maker.make()
    kind = scheme[:4]
    rows = [row for row in coded.decisions if row.op == "take"]
    assert [row.scheme for row in rows] == [kind, "float32"]
    assert rows[1].reason == "codes of its 2,048 numbers would save too little for what they lose"
    assert [node.op for node in coded.graph].count("quantized_embedding") == 1
    assert words not in coded.graph.constants
    table = graph.constants[words]
    assert isinstance(table, np.ndarray)
    expected = NEAREST[scheme](table)[feeds["words"]].astype(np.float32)
    np.testing.assert_array_equal(run(coded.graph, feeds)[y], expected)
    layer = graph.nodes[0].name
    paid = maker.make({layer: "it pays"})
    assert next(row for row in paid.decisions if row.node == layer).reason == "it pays"
    assert "quantized_embedding" not in [node.op for node in paid.graph]
    assert [node.op for node in maker.alone(layer)] == ["quantized_embedding", "take", "add", "linear"]
    if kind == "int4":
        wider = maker.make({}, {layer: "it pays"})
        assert [(row.scheme, row.reason) for row in wider.decisions if row.node == layer] == [("int8", "it pays")]
        np.testing.assert_array_equal(
            run(wider.graph, feeds)[y], NEAREST["int8"](table)[feeds["words"]].astype(np.float32)
        )


def test_tables_without_a_group_have_eight_bits() -> None:
    """As layers do; so do tables beyond half-float scales."""
    for width, scale in ((130, 1.0), (128, 1e7)):
        m = Maker(5, BATCH)
        graph = m.graph(m.node("take", m.floats(4096, width, scale=scale), m.input("x", "batch", dtype="i64"), axis=0))
        assert [row.scheme for row in made(graph, "int4").decisions] == ["int8"]


def tied(*, shared: bool = True) -> Graph:
    """A table that two embeddings and a head read, or a head with a weight of its own."""
    m = Maker(6, BATCH)
    table = m.floats(4096, 64)
    words, more = m.input("words", "batch", 3, dtype="i64"), m.input("more", "batch", 3, dtype="i64")
    x = m.node("add", m.node("take", table, words, axis=0), m.node("take", table, more, axis=0))
    x = m.node("linear", x, m.floats(64, 64, scale=0.1), m.floats(64), activation_min=0.0)
    x = m.node("linear", x, m.floats(64, 64, scale=0.1), m.floats(64))
    return m.graph(m.node("linear", x, table if shared else m.floats(4096, 64, scale=0.1)))


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("scheme", NEAREST)
def test_tied_weights_are_one(scheme: str, calibrated: bool) -> None:
    """The head keeps eight bits, as a last layer, so the tables have the same eight."""
    graph, rng = tied(), np.random.default_rng(3)
    batches = [{name: rng.integers(0, 4096, (16, 3)) for name in graph.inputs} for _ in range(4)]
    maker = Quantizer(graph, rules(scheme), batches if calibrated else None)
    coded, head = maker.make(), graph.nodes[-1].name
    once = share_constants(coded.graph)  # the last step of a conversion
    readers = [node.inputs[1] for node in once if node.op == "quantized_embedding" or node.name == head]
    assert len(readers) == 3
    assert len(set(readers)) == 1
    assert [weight.shape for weight in weights(once)].count((4096, 64)) == 1
    rows = [row for row in coded.decisions if row.op == "take"]
    assert [row.scheme for row in rows] == ["int8", "int8"]
    assert all(f"those of {head}" in row.reason for row in rows)
    expected, y = (run(it, batches[0])[it.outputs[0]] for it in (graph, coded.graph))
    assert np.square(y - expected).sum() < 0.05 * np.square(expected).sum()


@pytest.mark.parametrize("reader", ["head", "table"])
def test_numbers_that_stay_anyway_have_no_codes_beside_them(reader: str) -> None:
    """A reader in float32 keeps the numbers in the file: all tables of them stay float32, too."""
    graph = tied()
    kept = graph.nodes[-1 if reader == "head" else 0].name
    coded = made(graph, "int8", floats={kept: "it pays"})
    assert "quantized_embedding" not in [node.op for node in coded.graph]
    rows = [row for row in coded.decisions if row.op == "take"]
    assert [row.scheme for row in rows] == ["float32", "float32"]
    assert "for another reader" in rows[-1].reason
    sole = made(tied(shared=False), "int8")
    assert [weight.shape for weight in weights(share_constants(sole.graph))].count((4096, 64)) == 2


class Bags(nn.Module):
    """A recommender's bags of each mode; the table of the last has a form in floats alone."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(3000, 96, mode=mode) for mode in ("sum", "mean", "sum", "max"))

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """All of them, side by side."""
        first, mean, weighted, most = self.tables
        parts = [first(ids, offsets), mean(ids, offsets), weighted(ids, offsets, weights), most(ids, offsets)]
        return torch.cat(parts, 1)


@pytest.mark.parametrize("scheme", NEAREST)
def test_bags_read_codes(scheme: str, tmp_path: Path) -> None:
    """The same sums of the codes' numbers on every instruction set, from a file of a fourth, or less, of the bytes."""
    torch.manual_seed(0)
    net = Bags().eval()
    example = torch.randint(0, 3000, (40,)), torch.tensor([0, 0, 7, 9, 30]), torch.randn(40)
    model = lowbit.convert(net, example, scheme=scheme, progress=False)
    assert [row["scheme"] for row in model.decisions if row["op"] == "embedding_bag"] == [*3 * [scheme[:4]], "float32"]
    rounded = Bags().eval()
    for mine, its in zip(rounded.tables, net.tables, strict=True):
        numbers = its.weight.detach().numpy()
        exact = numbers if its.mode == "max" else NEAREST[scheme](numbers).astype(np.float32)
        mine.weight = nn.Parameter(torch.from_numpy(exact))
    expected = rounded(*example).detach()
    assert (model(*example) - expected).abs().max() < 1e-5
    model.save(tmp_path / "net.lowbit")
    table = 3000 * 96
    most = 3 * (table + 4 * 3000 if scheme == "int8" else 0.57 * table) + 4 * table + 2**14
    assert (tmp_path / "net.lowbit").stat().st_size < most
    ids, offsets, weights = (part.numpy() for part in example)
    answers: dict[str, Array] = {}
    answers["file"] = np.asarray(lowbit.load(tmp_path / "net.lowbit")(ids, offsets, weights))
    graph = model.graph
    for isa in ("scalar", "avx2"):
        (answers[isa],) = Session(graph, isa=isa).run(**dict(zip(graph.inputs, (ids, offsets, weights), strict=True)))
    for isa, answer in answers.items():
        np.testing.assert_array_equal(answer, model(*example).numpy(), err_msg=isa)


def test_codes_that_tables_came_with() -> None:
    """Even of small ones."""
    net = nn.Sequential(nn.Embedding(50, 24), nn.Linear(24, 24))
    codes = torch.randint(-127, 128, (50, 24), dtype=torch.int8)
    lowbit.compress.set_codes(net[0], codes, torch.rand(50) + 0.01, format="int8")
    ids = torch.randint(0, 50, (2, 5))
    model = lowbit.convert(net, ids, progress=False)
    (row,) = [row for row in model.decisions if row["op"] == "take"]
    assert (row["scheme"], row["reason"]) == ("int8", "its table came with 8-bit codes")
    found = next(weight for weight in weights(model.graph) if weight.shape == (50, 24))
    np.testing.assert_array_equal(found.codes, codes.numpy())


def test_a_table_pays_for_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows differ by less than a table's codes can say, the budget returns it to float32."""
    monkeypatch.setattr(tables, "SMALL_TABLE", 1)
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(64, 512), nn.Linear(512, 512)
            with torch.no_grad():
                self.table.weight[:, 0] = 1000.0

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            """Rows without what they have in common, and a layer."""
            x = self.table(ids) - torch.tensor([1000.0] + 511 * [0.0])
            return x + 0.01 * self.layer(x)

    net, ids = Net().eval(), torch.arange(64)[None]
    expected = net(ids).detach()

    def score(model: nn.Module) -> float:
        return -float((model(ids) - expected).square().mean() / expected.square().mean())

    plain = lowbit.convert(net, ids, progress=False)
    assert [row["scheme"] for row in plain.decisions if row["op"] == "take"] == ["int8"]
    held = lowbit.convert(net, ids, calibration=[ids], evaluate=score, max_drop=0.01, progress=False)
    (row,) = [row for row in held.decisions if row["op"] == "take"]
    assert row["scheme"] == "float32"
    assert "paid for the accuracy budget" in row["reason"]


def test_schemes_say_which_tables() -> None:
    """A table that a float32 scheme covers stays as it is."""
    m = Maker(5, BATCH)
    graph = m.graph(m.node("take", m.floats(4096, 128), m.input("x", "batch", dtype="i64"), axis=0))
    name = graph.nodes[0].name
    maker = Quantizer(graph, rules({name: SCHEMES["float32"], "*": dataclasses.replace(SCHEMES["int8"])}), None)
    assert [row.scheme for row in maker.make().decisions] == ["float32"]
