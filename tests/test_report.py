"""The report: what stands in it, that it is whole by itself, and that nothing in it can be more than text."""

from __future__ import annotations

import gc
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import lowbit
import lowbit.compress
from accessibility import Page, contrast, faint, themes
from lowbit.cli import commands
from lowbit.cli.commands import app
from lowbit.report import Facts, OutputError, Step, Timed, render
from lowbit.runtime import format
from lowbit.runtime import timing as measured


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "ROUNDS", 2)
    monkeypatch.setattr(measured, "SECONDS", 1e-3)


VOID = {"meta", "br", "rect", "line", "circle", "polyline", "path"}


class Reader(HTMLParser):
    """Fails on tags that do not match; collects text, tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID or (self.open and self.open[-1] == tag):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + "\n"


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not {"href", "src", "srcset", "onload", "onclick"} & {name for name, _ in reader.attributes}
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page
    return reader


def facts(**changes: Any) -> Facts:
    steps = tuple(
        Step(
            node=f"layer.{i}",
            op="quantized_conv2d",
            kind="int8",
            kernel="k",
            seconds=1e-3 / (i + 1),
            operations=1e6,
            bytes=9,
        )
        for i in range(3)
    )
    plain = Facts(
        name="Net",
        producer="lowbit",
        scheme="int8",
        cpu="A CPU",
        isa="avx2",
        threads=2,
        inputs=("x: f32[batch, 3]",),
        outputs=("y: f32[batch, 2]",),
        measured_on="the given inputs (1 x 3)",
        steps=steps,
        times=(Timed(name="this model", lowest=1e-3, median=2e-3), Timed(name="torch", lowest=3e-3, median=4e-3)),
        weight_bytes=1000,
        float_bytes=4000,
    )
    return replace(plain, **changes)


def test_a_converted_models_report(small_net: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(4, 3, 16, 16)
    model = lowbit.convert(small_net, x[:1], calibration=[x], progress=False)
    model.report(tmp_path / "report.html", x)
    reader = read((tmp_path / "report.html").read_text(encoding="utf-8"))
    for text in ("Sequential", "this model", "lowbit float32", "torch float32", "output SQNR", "(4 x 3 x 16 x 16)"):
        assert text in reader.text
    for node in model.graph:
        assert node.name in reader.text
    assert re.search(r"times as fast as (lowbit|torch) float32|times as long as", reader.text)
    assert "faster by the cost model" in reader.text
    assert re.search(r"\d+ % (int8|L1|L2)", reader.text)


def test_the_target_and_what_left_are_told(tmp_path: Path) -> None:
    """Of a model as it was converted, and as it was loaded."""
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    with torch.no_grad():
        net[0].weight[32:] = 0
    model = lowbit.convert(net, torch.randn(8, 64), target="avx2", progress=False)
    model.save(tmp_path / "net.lowbit")
    for made in (model, lowbit.load(tmp_path / "net.lowbit")):
        made.report(tmp_path / "report.html")
        text = " ".join(read((tmp_path / "report.html").read_text()).text.split())
        assert "made for avx2" in text
        assert "0 is without 96 of 128 outputs, which are constant or not read" in text
    printed = " ".join(CliRunner().invoke(app, ["inspect", str(tmp_path / "net.lowbit")]).output.split())
    assert "made for │ avx2" in printed


def test_without_inputs_the_example_of_the_conversion_serves(small_net: nn.Module, tmp_path: Path) -> None:
    model = lowbit.convert(small_net, torch.randn(2, 3, 16, 16), progress=False)
    model.report(tmp_path / "report.html")
    assert "the example inputs of the conversion (2 x 3 x 16 x 16)" in read((tmp_path / "report.html").read_text()).text


def test_a_loaded_models_report_says_what_is_known(small_file: Path, tmp_path: Path) -> None:
    lowbit.load(small_file).report(tmp_path / "report.html")
    reader = read((tmp_path / "report.html").read_text())
    assert "made-up inputs (1 x 3 x 16 x 16)" in reader.text
    assert "What was chosen, and why" in reader.text
    assert "SQNR" not in reader.text
    lowbit.load(small_file).report(tmp_path / "given.html", np.zeros((3, 3, 16, 16), np.float32))
    assert "the given inputs (3 x 3 x 16 x 16)" in read((tmp_path / "given.html").read_text()).text


def test_a_model_that_was_never_called_needs_inputs(small_net: nn.Module, tmp_path: Path) -> None:
    model = lowbit.convert(small_net, progress=False)
    with pytest.raises(lowbit.LowbitError, match="captured at its first call"):
        model.report(tmp_path / "report.html")
    model.report(tmp_path / "report.html", torch.randn(1, 3, 16, 16))
    assert "this model" in read((tmp_path / "report.html").read_text()).text


def test_a_module_that_is_gone_is_not_timed(tmp_path: Path) -> None:
    model = lowbit.convert(nn.Sequential(nn.Linear(64, 64)).eval(), torch.randn(1, 64), progress=False)
    gc.collect()
    model.report(tmp_path / "report.html")
    assert "torch float32" not in read((tmp_path / "report.html").read_text()).text


def test_names_are_text() -> None:
    evil = '"><script>alert(1)</script>&<b onload=x>'
    step = Step(node=evil, op=evil, kind="int8", kernel=evil, seconds=1e-3, operations=1.0, bytes=1, sqnr=20.0)
    page = render(
        facts(
            name=evil,
            producer=evil,
            scheme=evil,
            target=evil,
            cpu=evil,
            inputs=(evil,),
            outputs=(evil,),
            steps=(step,),
            measured_on=evil,
            times=(Timed(name=evil, lowest=1.0, median=1.0),),
            errors=(OutputError(name=evil, sqnr=20.0, largest=1.0, scale=1.0),),
            decisions=({"node": evil, "scheme": evil, "reason": evil},),
            sparsity=({"node": evil, "pattern": evil, "density": 0.1},),
            evaluations=({"model": evil, "score": 1.0, "drop": 0.0, "int8_layers": 1, "float_layers": [evil]},),
            notes=(evil,),
        )
    )
    assert read(page).text.count(evil) >= 13


def test_sparse_layers_say_what_is_kept() -> None:
    assert "kept" not in read(render(facts())).text
    text = read(render(facts(sparsity=({"node": "layer.1", "pattern": "4x4", "density": 0.1},)))).text
    assert "kept" in text
    assert "10.0% in 4x4" in text


def test_a_budgets_evaluations_are_drawn() -> None:
    row = {"model": "int8", "drop": 0.1, "score": 0.9, "int8_layers": 3, "float_layers": []}
    rows = ({**row, "model": "float32", "drop": 0.0, "score": 1.0}, row, {**row, "float_layers": ["a"], "score": 0.98})
    decisions = (
        {"node": "a", "scheme": "float32", "reason": "paid for the accuracy budget: alone in int8 it makes 41 %"},
        {"node": "b", "scheme": "int8", "reason": "2.0 times faster by the cost model: 1 us in int8, 2 us in float32"},
        {"node": "c", "scheme": "int8", "reason": "3.0 times faster by the cost model: 1 us in int8, 3 us in float32"},
    )
    page = render(facts(evaluations=rows, max_drop=0.02, decisions=decisions))
    reader = read(page)
    assert page.count("<circle") == 4  # one of them rings the chosen model
    assert [line for line in reader.text.splitlines() if line in ("yes", "no")] == ["yes", "no", "yes"]
    assert "A drop of 0.02 below float32 was allowed" in reader.text
    assert "alone in int8 it makes 41 %" in reader.text
    assert "int8: faster by the cost model" in reader.text
    assert "2 nodes" in reader.text


ROWS = [{"epoch": n, "loss": 1 / n, "task": 1 / n, "score": n / 4, "lr": 0.1, "seconds": 1.0} for n in (1, 2, 3)]


def test_training_is_told_and_drawn() -> None:
    """Masks by layers, the teacher, and the course of what is not the same as another."""
    told = (
        ("pruning", {"layers": {"a": {"pattern": "4x4", "zeros": 0.75}, "b": {"pattern": "4x4", "zeros": 0.75}}}),
        ("distillation", {"teacher": "Net", "temperature": 4.0, "match": {"layer3": "layer7"}, "attention": {}}),
        ("training", {"optimizer": "adamw", "l1": 0.0, "epochs": 3, "best": 2, "history": ROWS}),
    )
    page = render(facts(training=told))
    text = read(page).text
    assert "a, b: pattern 4x4, zeros 0.75" in text
    assert "teacher Net, temperature 4, match layer3 from layer7" in text
    assert "optimizer adamw, epochs 3, best 2" in text
    assert "score 0.25 in epoch 1, 0.75 in epoch 3" in text
    assert page.count("<polyline") == page.count('class="chosen"') == 2  # loss and score; task is the loss
    assert "How it was trained" not in render(facts())


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


@pytest.mark.parametrize(
    "told",
    [
        {"history": 3, "layers": []},
        {"history": [3, {"epoch": "1"}, {"epoch": 10**400, "loss": 1}, {"epoch": 1, "loss": math.nan}]},
        {"history": [{"epoch": 1, "loss": 5}, {"epoch": 1, "loss": 5}], "best": True},
        {"history": [{"epoch": 1, "loss": 10**400}, {"epoch": 2, "loss": math.inf}, {"epoch": 3, "loss": True}]},
        {"layers": {str(n): {"x": n} for n in range(1000)}, "<script>": "<script>" * 100},
        {"history": [{"epoch": n, "loss": n} for n in range(30_000)]},
        {
            "history": [{"epoch": 1, "loss": deep(900), "task": deep(900)}] * 2,
            "layers": {"x": deep(900)},
            "y": deep(900),
        },
        {str(n): [list(range(1000))] * 1000 for n in range(100)},
        {"a": {"b": {"c": [[], {}, None, [1.5, "x" * 999]]}}, "layers": {"x": [1], "y": None}},
    ],
)
def test_any_facts_of_training_make_a_page(told: dict[str, Any]) -> None:
    """What a file tells may be anything."""
    page = render(facts(training=(("<script>", told), ("training", told))))
    assert "script" not in read(page).tags
    assert len(page) < 1_000_000


def test_what_was_trained_is_in_the_file_and_its_reports(tmp_path: Path) -> None:
    """From finetune and finalize through the file to the page and `lowbit inspect`."""
    net, big = nn.Linear(16, 8), nn.Linear(16, 8)
    pruning = lowbit.compress.prune(net, 0.5, pattern="1x4")
    teacher = lowbit.compress.distill(net, big)
    x = torch.randn(32, 16)
    lowbit.compress.finetune(net, x, parts=[pruning, teacher], epochs=2, lr=0.01)
    model = lowbit.convert(nn.Sequential(lowbit.compress.finalize(net)), x[:1], progress=False)
    model.save(tmp_path / "net.lowbit")
    loaded = lowbit.load(tmp_path / "net.lowbit")
    assert loaded.meta.training == model.meta.training
    assert [each.kind for each in loaded.meta.training] == ["training", "pruning", "distillation"]
    loaded.report(tmp_path / "page.html")
    page = read((tmp_path / "page.html").read_text()).text
    printed = CliRunner().invoke(app, ["inspect", str(tmp_path / "net.lowbit")]).output
    for text in (page, " ".join(printed.replace("│", " ").split())):  # in one line, however wide the terminal is
        for told in ("How it was trained", "pattern 1x4, zeros 0.5", "teacher Linear", "parts Pruning, Distillation"):
            assert told in text


def test_four_bit_weights_are_weighed_and_named(tmp_path: Path) -> None:
    net = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(3))).eval()
    model = lowbit.convert(
        net, torch.randn(2, 256), scheme="int4", evaluate=lambda m: 1.0, max_drop=0.1, progress=False
    )
    model.save(tmp_path / "net.lowbit")
    codes = {"0.codes": 256 * 260, "1.codes": 256 * 128 + 256 * 2 * 2, "2.codes": 256 * 260}
    for made in (model, lowbit.load(tmp_path / "net.lowbit")):
        assert {name: each.bytes for name, each in made.session.weights.items()} == codes
        made.report(tmp_path / "report.html")
        text = read((tmp_path / "report.html").read_text()).text
        for expected in (
            "of operations in int4 and int8",
            "4-bit weights",
            "int4: 4-bit weights in groups of 128",
            "in int4",
        ):
            assert expected in text
    printed = CliRunner().invoke(app, ["inspect", str(tmp_path / "net.lowbit")]).output
    assert "65,536 in int4, 4.125 bits each, 131,072 in int8" in " ".join(printed.split())


def test_large_models_fold_what_is_fast_away() -> None:
    steps = tuple(
        Step(node=f"n{i}", op="linear", kind="float32", kernel="", seconds=1e-6 * (i + 1), operations=1.0, bytes=0)
        for i in range(300)
    )
    reader = read(render(facts(steps=steps)))
    assert "The other 240 steps" in reader.text
    assert "n299" in reader.text


def test_segments_in_torch_are_named() -> None:
    steps = (
        Step(node="a", op="quantized_conv2d", kind="int8", kernel="", seconds=1e-3, operations=3.0, bytes=1),
        Step(node="odd", op="torch", kind="torch", kernel="torch", seconds=3e-3, operations=1.0, bytes=0),
    )
    text = read(render(facts(steps=steps))).text
    assert "1 segment(s) run in torch (odd) and take 75% of the time" in text
    assert "75%\nof operations in int8" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": ()},
        {"times": ()},
        {"weight_bytes": 0, "float_bytes": 0},
        {"errors": (OutputError(name="y", sqnr=float("inf"), largest=0.0, scale=0.0),)},
        {"errors": (OutputError(name="y", sqnr=float("-inf"), largest=1.0, scale=0.0),)},
        {"evaluations": ({"model": "float32", "score": 1.0, "drop": 0.0, "int8_layers": 0, "float_layers": []},)},
    ],
)
def test_what_is_not_known_is_left_out(changes: dict[str, Any]) -> None:
    text = read(render(facts(**changes))).text
    assert "nan" not in text
    assert "inf" not in text.replace("information", "")


def test_the_bench_command_writes_one(small_file: Path, tmp_path: Path) -> None:
    options = ["bench", str(small_file), "--rounds", "1", "--report", str(tmp_path / "r.html"), "--batch", "2"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert "the given inputs (2 x 3 x 16 x 16)" in read((tmp_path / "r.html").read_text()).text


def trial(model: str, score: float, milliseconds: float, size: float, **more: Any) -> dict[str, Any]:
    plain = {"drop": 0.97 - score, "width": 1.0, "trained": False, "holds": True, "taken": False}
    return {"model": model, "score": score, "milliseconds": milliseconds, "bytes": size, **plain, **more}


def optimized(**changes: Any) -> Facts:
    """What `lowbit.optimize` tells of a small net, with all kinds of trials."""
    costs = {"microseconds": 20.0, "bytes": 2000, "noise": 1e-3}
    better = {"better": "int8", "better_microseconds": 25.0, "better_bytes": 4000, "better_noise": 1e-5}
    cheaper = {"cheaper": "int8 4x4 90 %", "cheaper_microseconds": 6.5, "cheaper_bytes": 500, "cheaper_noise": 4e-3}
    told: dict[str, Any] = {
        "goal": {"milliseconds": 3.0, "bytes": 2e6},
        "max_drop": 0.01,
        "trials": (
            trial("float32", 0.97, 8.0, 9e6, holds=False),
            trial("int8", 0.969, 4.0, 2.3e6, holds=False),
            trial("plan 1", 0.93, 2.9, 1.1e6, holds=False),
            trial("plan 1, trained", 0.966, 2.9, 1.1e6, trained=True, taken=True),
        ),
        "choices": (
            {"layer": "conv1", "taken": "int8 4x4 70 %", **costs, **better, **cheaper},
            {"layer": "head", "taken": "float32", **costs, "better": "", "cheaper": ""},
        ),
        "sizes": ({"step": "float32", "bytes": 9e6}, {"step": "the file", "bytes": 1.1e6}),
    }
    return facts(**{**told, **changes})


def test_what_was_optimized_is_shown() -> None:
    """The goal, every trial, both plots with the front, each layer's choice and its alternatives, and sizes."""
    page = render(optimized())
    text = " ".join(read(page).text.split())
    for told in (
        "at most 3 ms a call, 2 MB of a file, a score 0.01 below float32's",
        "score against time", "score against the size of the file", "plan 1, trained", "this model",
        "int8 4x4 90 %: -14 us, -1.5 KB, noise x 4", "int8: +5 us, +2 KB, noise x 0.01", "the file", "1/8.18",
    ):  # fmt: skip
        assert told in text
    first, second = re.findall(r'<svg class="history".*?</svg>', page, re.S)
    for plot, cost in ((first, "2.9 ms"), (second, "1.1 MB")):
        assert plot.count('class="limit"') == 4  # two lines, and what they are
        assert plot.count('class="chosen"') == 1
        assert f"plan 1, trained: 0.966, {cost}" in plot
        assert [plot.count(each) for each in ('class="float"', 'class="plain"', 'class="trained"')] == [1, 2, 1]


def test_of_an_optimization_what_is_not_known_is_left_out() -> None:
    text = read(render(facts())).text
    assert "Size, step by step" not in text
    one = optimized(trials=(trial("int8", -2.0, 0.0, 0.0),), goal={}, max_drop=None, choices=(), sizes=())
    page = render(one)
    assert "Asked for: nothing in particular" in page
    assert "nan" not in read(page).text


@pytest.mark.parametrize("value", [0.0, -1.0, 1e300, -1e300, 5])
def test_any_numbers_of_trials_make_a_page(value: float) -> None:
    """A file may say anything that is a number."""
    rows = [trial("a", value, value, value), trial("b", 1, 2, 3, trained=True)]
    row = {"layer": "a", "taken": "b", "microseconds": value, "bytes": value, "noise": value, "better": "c"}
    more = {"better_microseconds": value, "better_bytes": value, "better_noise": value}
    sizes = ({"step": "a", "bytes": value}, {"step": "b", "bytes": value})
    page = render(
        optimized(trials=tuple(rows), choices=({**row, **more},), sizes=sizes, goal={"milliseconds": value, "bytes": 1})
    )
    assert "nan" not in read(page).text


def test_inspect_tells_it_in_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The goal, trials, choices and sizes that a file has."""
    made = lowbit.convert(nn.Linear(8, 4), torch.randn(1, 8), progress=False)
    told = optimized()
    document = {**made.meta.document(), **{key: getattr(told, key) for key in ("goal", "trials", "choices", "sizes")}}
    format.save(tmp_path / "net.lowbit", made.graph, {**document, "max_drop": 0.01})
    monkeypatch.setattr(commands.console, "width", 200)  # whatever terminal it was made for
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "net.lowbit")])
    assert result.exit_code == 0, result.output
    printed = " ".join(result.output.split())
    for text in (
        "Asked for: at most 3 ms a call, 2 MB of a file, a score 0.01 below float32's",
        "plan 1, trained │ 0.966 │ 0.004 │ 2.9 ms │ 1.1 MB │ this model",
        "conv1 │ int8 4x4 70 % │ 20 us │ 2 KB │ 0.001 │ int8: +5 us, +2 KB, noise x 0.01",
        "the file │ 1,100,000",
    ):
        assert text in printed
    lowbit.load(tmp_path / "net.lowbit").report(tmp_path / "net.html")
    assert "plan 1, trained" in (tmp_path / "net.html").read_text()


def test_names_of_trials_are_text() -> None:
    evil = '"><script>alert(1)</script>&<b onload=x>'
    row = {"layer": evil, "taken": evil, "microseconds": 1, "bytes": 1, "noise": 1}
    more = {"better": evil, "better_microseconds": 1, "better_bytes": 1, "better_noise": 1}
    facts = optimized(trials=(trial(evil, 1, 1, 1),), choices=({**row, **more},), sizes=({"step": evil, "bytes": 1},))
    assert read(render(facts)).text.count(evil) >= 5


def every_page() -> dict[str, str]:
    """Pages that have all sections between them."""
    row = {"model": "int8", "drop": 0.1, "score": 0.9, "int8_layers": 3, "float_layers": []}
    history = [{"epoch": epoch, "loss": 1 / epoch, "score": 0.9} for epoch in (1, 2, 3)]
    near = tuple(replace(step, near="84 % int8", float_seconds=2e-3, sqnr=30.0) for step in facts().steps)
    return {
        "plain": render(facts()),
        "optimized": render(optimized()),
        "all else": render(
            facts(
                steps=near * 30,
                errors=(OutputError(name="y", sqnr=20.0, largest=1.0, scale=1.0),),
                decisions=({"node": "a", "scheme": "int8", "reason": "faster"},),
                sparsity=({"node": "layer.1", "pattern": "4x4", "density": 0.1},),
                evaluations=({**row, "model": "float32", "drop": 0.0, "score": 1.0}, row),
                max_drop=0.02,
                training=(("training", {"best": 2, "history": history}),),
                notes=("a note",),
            )
        ),
    }


@pytest.mark.parametrize("kind", ["plain", "optimized", "all else"])
def test_a_page_is_accessible(kind: str) -> None:
    """Pictures have names, headings an order, headers of tables a scope."""
    assert Page(every_page()[kind]).problems == []


def test_colours_are_far_enough_from_each_other() -> None:
    """Texts 4.5 to 1, drawings 3 to 1, in the light, the dark and the printed theme (WCAG 2.1)."""
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    style = re.findall(r"<style>(.*?)</style>", render(facts()), re.S)[0]
    assert {"light", "dark", "print"} == set(themes(style))
    assert themes(style)["dark"]["--paper"] != themes(style)["light"]["--paper"]
    assert faint(style) == []


def test_the_accessibility_check_finds_faults() -> None:
    page = "<html><head><title></title></head><h1>a</h1><h3>b</h3><svg></svg><table><tr><td>c</td></tr></table>"
    found = Page(page + '<table><tr><th></th></tr></table><svg role="img" aria-label=""></svg>').problems
    assert len(found) == 8
    style = ":root { --paper: #fff; --tint: #fff; --pale: #ccc; } p { color: var(--pale); }"
    assert len(faint(style + "@media print { :root { --pale: #000; } }")) == 4
