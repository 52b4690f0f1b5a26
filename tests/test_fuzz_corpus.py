"""The corpus of the C++ fuzz targets holds today's graphs."""

from __future__ import annotations

from fuzz_seeds import CORPUS, seeds


def test_seeds_are_those_of_the_graphs() -> None:
    """`python tests/fuzz_seeds.py` writes them, and says which words are missing in tests/cpp/fuzz/words.h."""
    found = [*CORPUS.glob("graph_*"), *CORPUS.glob("node_*")]
    assert dict(seeds()) == {path.name: path.read_bytes() for path in found}
