"""The corpus of the C++ fuzz targets holds today's graphs."""

from __future__ import annotations

from fuzz_seeds import CORPUS, FILES, files, seeds


def test_seeds_are_those_of_the_graphs() -> None:
    """`python tests/fuzz_seeds.py` writes them, and says which words are missing in tests/cpp/fuzz/words.h."""
    found = [*CORPUS.glob("graph_*"), *CORPUS.glob("node_*")]
    assert dict(seeds()) == {path.name: path.read_bytes() for path in found}


def test_files_are_those_of_the_graphs() -> None:
    """The same of whole files; zlib's releases may compress otherwise."""
    made = dict(files())
    assert made.keys() == {path.name for path in FILES.iterdir()}
    plain = {name: data for name, data in made.items() if b'"compressed"' not in data}
    assert plain == {name: (FILES / name).read_bytes() for name in plain}
