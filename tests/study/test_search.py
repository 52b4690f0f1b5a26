"""`compress.search`: what is drawn, tried, kept and told; that it goes on; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import lowbit
from lowbit import compress
from lowbit.compress import Latency, SearchResult, between, choice, search
from lowbit.errors import InputError, LowbitError
from lowbit.study import trying

X = torch.linspace(-1, 1, 8 * 16).reshape(8, 16)
SPACE = {"width": choice(8, 16, 32), "act": choice("relu", "gelu"), "lr": between(1e-3, 1e-1, log=True)}


def build(config: Any) -> nn.Module:
    """Two layers."""
    act = {"relu": nn.ReLU, "gelu": nn.GELU}[config.get("act", "relu")]
    return nn.Sequential(nn.Linear(16, config["width"]), act(), nn.Linear(config["width"], 2))


def width(model: Any) -> float:
    """A score that is known: wider is better; of a net or a model."""
    if isinstance(model, nn.Module):
        return float(model[0].out_features)
    return float(
        sum(value.shape[1] for value in (model.graph.values[node.outputs[0]] for node in model.graph.nodes[:1]))
    )


def by_width(model: Any) -> float:
    """Milliseconds that are known: of the first layer's outputs."""
    shapes = [weight.shape for weight in model.graph.constants.values() if len(weight.shape) == 2]
    return max(shape[0] for shape in shapes) / 10


KNOWN = Latency(X[:1], measure=by_width)


@pytest.mark.parametrize("method", ["evolution", "tpe", "random", "policy"])
def test_methods_draw_the_same_again(method: str, tmp_path: Path) -> None:
    """Equal seeds give equal trials, in one go or in two; others do not."""

    def drawn(folder: str, trials: int, seed: int = 0) -> list[Any]:
        found = search(
            build, SPACE, evaluate=lambda net: -abs(width(net) - 16), method=method, trials=trials, seed=seed,
            storage=tmp_path / folder, progress=False,
        )  # fmt: skip
        return [each.config for each in found.trials]

    whole = drawn("whole", 24)
    assert len(whole) == 24
    assert drawn("parts", 7) == whole[:7]
    assert drawn("parts", 24) == whole
    assert drawn("parts", 24) == whole
    assert drawn("other", 24, seed=1) != whole


def test_two_goals(tmp_path: Path) -> None:
    """The front is what no other is better than; only its nets are kept; the best is one of it."""
    trained: list[Any] = []

    def train(net: nn.Module, config: Any) -> None:
        trained.append(config)
        nn.init.constant_(net[0].bias, config["width"])

    found = search(
        build, {"width": choice(8, 16, 32)}, train=train, evaluate=lambda model: -float(model(X).shape[0]),
        latency=KNOWN, method="random", trials=9, storage=tmp_path, progress=False,
    )  # fmt: skip
    assert len(found.trials) == 9
    assert sorted(each["width"] for each in trained) == [8, 16, 32]
    assert [each.config["width"] for each in found.front] == [8]
    assert found.best() is found.front[0]
    assert found.best().latency_ms == 0.8
    assert found.best().bytes == (tmp_path / "trials" / f"{found.best().number:04d}" / "model.lowbit").stat().st_size
    assert len(list((tmp_path / "trials").iterdir())) == 1
    net = found.net()
    assert not net.training
    assert torch.equal(net[0].bias, torch.full((8,), 8.0))
    with torch.no_grad():
        assert torch.allclose(torch.as_tensor(found.best().model(X.numpy())), net(X), atol=0.5)
    printed = str(found)
    assert "9 trials: 3 done, 6 answered by equal ones; 1 on the front" in printed
    assert "width 8" in printed
    with pytest.raises(InputError, match=r"no trial is within latency_ms=0\.5"):
        found.best(latency_ms=0.5)
    other = next(each for each in found.trials if each.config["width"] == 32)
    with pytest.raises(InputError, match="only trials on the front keep their nets"):
        found.net(other)


def test_what_is_too_slow_is_not_trained() -> None:
    """Latency is known before training."""
    trained: list[int] = []
    found = search(
        build, {"width": choice(8, 16, 32)}, train=lambda net, config: trained.append(config["width"]),
        evaluate=lambda model: float(len(trained)), latency=Latency(X[:1], measure=by_width, limit_ms=2.0),
        method="random", trials=12, progress=False,
    )  # fmt: skip
    assert set(trained) == {8, 16}
    slow = [each for each in found.trials if each.how == "slow"]
    assert {each.config["width"] for each in slow} == {32}
    assert all(each.latency_ms == 3.2 and "above limit_ms=2" in each.reason for each in slow)
    assert "slow" in str(found)


def test_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real clock: milliseconds above zero, equal graphs have one time, whatever their weights and learning rates."""
    monkeypatch.setattr(trying, "NOISE", 1e3)  # a shared core may stay at half its speed for as long as this takes
    space = {"width": choice(8, 256), "lr": between(0.1, 0.2)}
    latency = Latency(X[:1], rounds=3, seconds=0.002)
    found = search(build, space, evaluate=lambda model: 1.0, latency=latency, method="random", trials=6, progress=False)
    times = {wide: {each.latency_ms for each in found.trials if each.config["width"] == wide} for wide in (8, 256)}
    assert all(0 < ms < 100 for found in times.values() for ms in found)
    assert all(len(found) < 3 for found in times.values())


def test_scheme_of_the_configuration() -> None:
    """Bits are searched as anything else; `convert` prepares a candidate first."""
    rows = torch.linspace(-1, 1, 512).reshape(1, 512)
    latency = Latency(rows, scheme=lambda config: config["bits"], measure=lambda model: 1.0)
    space = {"bits": choice("int8", "int4-g32"), "zeros": choice(0.0, 0.75)}

    def zeros(net: nn.Module, config: Any) -> Any:
        if config["zeros"]:
            compress.prune(net, config["zeros"], pattern="4x4").finalize()
        return lowbit.convert(net, rows, progress=False)

    def run(latency: Latency) -> tuple[Any, ...]:
        return search(
            lambda config: nn.Linear(512, 512), space, evaluate=lambda model: 1.0, latency=latency, method="random",
            trials=6, progress=False,
        ).trials  # fmt: skip

    sizes = {each.config["bits"]: each.bytes for each in run(latency)}
    assert sizes["int4-g32"] < 0.7 * sizes["int8"]
    prepared = Latency(rows, convert=zeros, measure=lambda model: float(bool(model.meta.sparsity)) + 1)
    assert {each.config["zeros"]: each.latency_ms for each in run(prepared)} == {0.0: 1.0, 0.75: 2.0}


def test_spaces_that_depend() -> None:
    """Functions of a trial, and options that have options; names are where things stand."""

    def space(trial: compress.Trial) -> Any:
        depth = trial.draw("depth", choice(1, 2, 3))
        assert trial.draw("depth", choice(1, 2, 3)) == depth
        kind = choice({"kind": "conv", "kernel": choice(3, 5)}, {"kind": "skip"})
        return {
            "blocks": [kind] * depth,
            "fixed": "x",
            "share": between(0, 1, step=0.5),
            "whole": between(1, 9, log=True),
        }

    found = search(
        lambda config: nn.Identity(), space, evaluate=lambda net: 1.0, method="random", trials=30, progress=False
    )
    blocks = [block for each in found.trials for block in each.config["blocks"]]
    assert {len(each.config["blocks"]) for each in found.trials} == {1, 2, 3}
    assert {block["kind"] for block in blocks} == {"conv", "skip"}
    assert {block["kernel"] for block in blocks if block["kind"] == "conv"} == {3, 5}
    assert all("kernel" not in block for block in blocks if block["kind"] == "skip")
    assert {each.config["share"] for each in found.trials} <= {0, 0.5, 1}
    assert all(isinstance(each.config["whole"], int) and 1 <= each.config["whole"] <= 9 for each in found.trials)


def test_options_that_are_no_plain_data(tmp_path: Path) -> None:
    """Classes have their names in the journal, and are themselves in configurations."""
    space = {"act": choice(nn.ReLU, nn.GELU), "kernel": (choice(1, 3), 5)}
    found = search(
        lambda config: config["act"](), space, evaluate=lambda net: 1.0, method="random", trials=6, storage=tmp_path,
        progress=False,
    )  # fmt: skip
    assert {each.config["act"] for each in found.trials} == {nn.ReLU, nn.GELU}
    assert all(isinstance(each.config["kernel"], tuple) for each in found.trials)
    assert '"ReLU"' in (tmp_path / "journal.log").read_text()
    assert "act ReLU" in str(found) or "act GELU" in str(found)


def test_one_goal() -> None:
    """Without latency the score decides alone, of the net itself."""
    found = search(build, SPACE, evaluate=width, method="tpe", trials=15, progress=False)
    assert len(found.front) == 1
    assert found.best().config["width"] == 32
    assert found.net()[0].out_features == 32
    with pytest.raises(InputError, match="no trial with a score and a latency"):
        found.plot("nowhere.svg")


def test_plot(tmp_path: Path) -> None:
    """An SVG file with a dot for each trial, and for what it is compared with."""
    space = {"width": choice(8, 16, 32)}
    found = search(
        build,
        space,
        evaluate=lambda model: by_width(model) ** 0.5,
        latency=KNOWN,
        method="random",
        trials=8,
        progress=False,
    )
    found.plot(tmp_path / "front.svg", title="a < b", marks={"by hand": (1.5, 1.0)})
    text = (tmp_path / "front.svg").read_text()
    assert text.startswith("<svg")
    assert "a &lt; b" in text
    assert "by hand" in text
    assert text.count('class="front"') == len(found.front) + 1


def test_failures_are_told_and_count_or_are_repeated(tmp_path: Path) -> None:
    """No finite score: a failed trial. An error: the configuration and the line; then it goes on where it was."""
    broken = True

    def careful(config: Any) -> nn.Module:
        if broken and config["width"] == 16:
            raise ValueError("no such width")
        return build(config)

    def run(evaluate: Any = lambda net: float("nan") if width(net) == 8 else width(net)) -> SearchResult:
        space = {"width": choice(8, 16, 32)}
        return search(
            careful, space, evaluate=evaluate, method="random", trials=8, storage=tmp_path, progress=False
        )  # fmt: skip

    with pytest.raises(
        InputError, match=r"build failed .*\(width 16\): ValueError: no such width \(test_search.py, line"
    ):
        run()
    broken = False
    found = run()
    assert len(found.trials) == 8
    assert [each.config["width"] for each in found.trials] == [each.config["width"] for each in run().trials]
    assert {each.how for each in found.trials if each.config["width"] == 8} == {"failed"}
    assert {each.reason for each in found.trials if each.how == "failed"} == {"evaluate gave nan"}
    assert found.best().config["width"] == 32


def test_nothing_found() -> None:
    """No candidate within the limit: what there was is told."""
    found = search(
        build, {"width": choice(8, 16)}, evaluate=lambda model: 1.0,
        latency=Latency(X[:1], measure=by_width, limit_ms=0.1), method="random", trials=3, progress=False,
    )  # fmt: skip
    assert found.front == ()
    with pytest.raises(InputError, match=r"no trial has a score.*above limit_ms=0\.1"):
        found.best()


def test_train_may_give_up_or_return_another_module() -> None:
    """`optuna.TrialPruned` ends a trial; a module that is returned is what is scored."""

    def train(net: nn.Module, config: Any) -> nn.Module:
        if config["width"] == 8:
            raise optuna.TrialPruned("it does not learn")
        return nn.Sequential(nn.Linear(16, 99))

    found = search(
        build, {"width": choice(8, 16)}, train=train, evaluate=width, method="random", trials=6, progress=False
    )
    assert {(each.config["width"], each.how, each.score) for each in found.trials} == {
        (8, "slow", None),
        (16, "done", 99.0),
    }
    with pytest.raises(InputError, match="weights of another net"):
        found.net()
    assert found.best().state_dict["0.weight"].shape == (99, 16)


def test_random_numbers_go_on() -> None:
    """The program's own random numbers are as if there had been no search; equal configurations have equal weights."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sums: list[float] = []

    def noted(net: Any) -> float:
        sums.append(float(net[0].weight.sum()))
        return 1.0

    for _ in range(2):
        search(build, SPACE, evaluate=noted, method="random", trials=3, progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert sums[:3] == sums[3:]


def test_another_search_is_refused(tmp_path: Path) -> None:
    """By name: arguments, options, and a folder that is none of a search."""

    def run(folder: Path = tmp_path / "a", space: Any = SPACE, **more: Any) -> SearchResult:
        given = {"evaluate": width, "method": "random", "trials": 2, **more}
        return search(build, space, storage=folder, progress=False, **given)

    run()
    assert len(run(trials=3).trials) == 3
    with pytest.raises(InputError, match="method is 'tpe' here, 'random' there"):
        run(method="tpe")
    with pytest.raises(InputError, match="seed is 1 here, 0 there"):
        run(seed=1)
    with pytest.raises(InputError, match=r"space is .*choice\(8, 16\).* here"):
        run(space={**SPACE, "width": choice(8, 16)})
    with pytest.raises(InputError, match=r"latency is .*'limit_ms': 2.* here, None there"):
        run(latency=Latency(X[:1], limit_ms=2.0))
    options = [8, 16]

    def space(trial: compress.Trial) -> Any:
        return {"width": trial.draw("width", choice(options))}

    run(tmp_path / "b", space)
    options.append(32)
    with pytest.raises(InputError, match=r"'width' is choice\(8, 16, 32\) here and was choice\(8, 16\) before"):
        run(tmp_path / "b", space, trials=5)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "journal.log").write_text("")
    with pytest.raises(InputError, match="a journal that no search wrote"):
        run(tmp_path / "c")
    (tmp_path / "a" / "study.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        run()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "grid"}, "method must be one of evolution"),
        ({"trials": 0}, "trials must be a whole number from 1 on"),
        ({"seed": -1}, "seed must be a whole number from 0 on"),
        ({"workers": 0}, "workers must be"),
        ({"ray": 3}, "ray must be"),
        ({"progress": 3}, "progress must be"),
        ({"latency": 2.0}, r"latency needs an example input .*limit_ms=2.0"),
        ({"evaluate": 3}, "evaluate must be a function"),
        ({"train": 3}, "train must be a function"),
        ({"space": [1]}, "space must be a dict"),
        ({"method": "gradient"}, "learns by training and from a table of times"),
        ({"build": lambda config: 3}, "build must return a torch.nn.Module, gave int for width"),
        ({"evaluate": lambda net: "good"}, "evaluate failed .*ValueError"),
        ({"space": lambda trial: trial.draw("width", 3)}, "takes what compress.choice or compress.between gave, not 3"),
        ({"latency": Latency(X[:1], convert=lambda net, config: 3)}, "convert must return what lowbit.convert returns"),
        ({"latency": Latency(X[:1], measure=lambda model: -1.0)}, "measure gave -1.0"),
        ({"latency": torch.zeros(1, 17)}, "the conversion of the untrained net failed"),
    ],
)
def test_refusals(more: dict[str, Any], message: str) -> None:
    given = {"build": build, "space": SPACE, "evaluate": lambda net: 1.0, "trials": 2, "progress": False, **more}
    with pytest.raises(LowbitError, match=message):
        search(given.pop("build"), given.pop("space"), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: choice(), "needs options"),
        (lambda: choice(1, 2, 1), "must differ"),
        (lambda: choice(object(), 2), "no name that a journal could hold"),
        (lambda: between(2, 1), "is empty"),
        (lambda: between(0.0, 1.0, log=True), "must begin above zero"),
        (lambda: between(0.0, float("inf")), "finite numbers"),
        (lambda: between(0, 8, step=-1), "must be above zero"),
        (lambda: Latency(X, limit_ms=0), "limit_ms must be"),
        (lambda: Latency(X, rounds=0), "rounds must be"),
    ],
)
def test_options_that_are_none(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_journal_is_optunas(tmp_path: Path) -> None:
    """Other tools read it."""
    search(build, SPACE, evaluate=width, method="random", trials=3, storage=tmp_path, progress=False)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    study = optuna.load_study(study_name="lowbit", storage=optuna.storages.JournalStorage(backend))
    assert [each.params.keys() for each in study.trials] == [{"width", "act", "lr"}] * 3
    assert json.loads((tmp_path / "study.json").read_text())["method"] == "random"
