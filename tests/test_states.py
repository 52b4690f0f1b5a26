"""What callers keep between calls: attention over caches, and the states of sessions."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowbit
from graphs import Maker
from lowbit import _core
from lowbit.errors import FormatError, GraphError, InputError, LimitError
from lowbit.graph.ir import Array, Graph, State, Symbol, replace
from lowbit.ops import interpreter
from lowbit.runtime import format

HEADS, KEY_HEADS, DEPTH = 4, 2, 6


def attend(q: Array, k: Array, v: Array, *, scale: float, window: int = 0, softcap: float = 0.0) -> Array:
    """One head, all positions, in float64: q, k [S, D], v [S, E]."""
    made = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        seen = range(max(0, i + 1 - window) if window else 0, i + 1)
        s = np.array([np.dot(q[i].astype(float), k[j].astype(float)) * scale for j in seen])
        s = softcap * np.tanh(s / softcap) if softcap else s
        p = np.exp(s - s.max())
        made[i] = p / p.sum() @ v[list(seen)].astype(float)
    return made


def kept(x: Array, dtype: str) -> Array:
    """x [..., N] as a cache gives it back."""
    if dtype != "s8":
        return x.astype(np.float16 if dtype == "f16" else np.float32).astype(np.float32)
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    return np.rint(x * (1 / scale)).astype(np.float32) * scale


def decoder(blocks: int = 8, dtype: str = "f32", depth: int = DEPTH, **attrs: Any) -> Graph:
    """Attention with a cache: x [batch, steps, 3 parts of heads] and how many steps count; batch and steps free."""
    m = Maker(3, {"batch": Symbol(), "steps": Symbol(maximum=16 * blocks)})
    parts = {"q": HEADS, "k": KEY_HEADS, "v": KEY_HEADS}
    q, k, v = (m.input(name, "batch", heads, "steps", depth) for name, heads in parts.items())
    count = m.input("count", "batch", dtype="i64")
    length = m.input("length", "batch", dtype="i64")
    size = depth + 4 if dtype == "s8" else depth
    keys = m.input("keys", "batch", KEY_HEADS, blocks, size, 16, dtype=dtype)
    values = m.input("values", "batch", KEY_HEADS, blocks, 16, size, dtype=dtype)
    attrs = {"scale": 0.4, **attrs}
    y, new_keys, new_values = m.node("cached_attention", q, k, v, keys, values, length, outputs=3, **attrs)
    longer = m.node("add", length, count)
    graph = m.graph(longer, new_keys, y, new_values)
    return replace(
        graph,
        states=(
            State(input="keys", output=new_keys, count="length", axis=2),
            State(input="length", output=longer),
            State(input="values", output=new_values, count="length", axis=2),
        ),
    )


def drawn(batch: int, steps: int, seed: int = 0, depth: int = DEPTH) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((batch, heads, steps, depth)).astype(np.float32) for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def run(session: lowbit.Session, parts: list[Array], state: Any = None, count: Any = None) -> Array:
    batch, steps = parts[0].shape[0], parts[0].shape[2]
    counts = np.full(batch, steps) if count is None else np.asarray(count)
    return session.run(*parts, counts.astype(np.int64), state=state)[0]


@given(
    steps=st.integers(1, 70),
    depth=st.sampled_from([1, 6, 16, 17, 64, 80]),
    window=st.sampled_from([0, 1, 5, 16, 40]),
    softcap=st.sampled_from([0.0, 1.5]),
    dtype=st.sampled_from(["f32", "f16", "s8"]),
    cuts=st.lists(st.integers(1, 69), max_size=3),
    isa=st.sampled_from(_core.cpu()["isas"]),
    threads=st.sampled_from([1, 3]),
)
@settings(max_examples=120, deadline=None)
def test_cached_attention_is_attention(
    steps: int, depth: int, window: int, softcap: float, dtype: str, cuts: list[int], isa: str, threads: int
) -> None:
    """Whole or in pieces the same bits, on every instruction set, near the definition."""
    graph = decoder(dtype=dtype, depth=depth, window=window, softcap=softcap)
    q, k, v = parts = drawn(2, steps, seed=steps, depth=depth)
    k, v = kept(k, dtype), kept(v, dtype)
    whole = run(lowbit.Session(graph, isa="scalar", threads=1), parts)
    for b in range(2):
        for h in range(HEADS):
            g = h // (HEADS // KEY_HEADS)
            expected = attend(q[b, h], k[b, g], v[b, g], scale=np.float32(0.4), window=window, softcap=softcap)
            np.testing.assert_allclose(whole[b, h], expected, rtol=2e-5, atol=2e-5)
    session = lowbit.Session(graph, isa=isa, threads=threads)
    state = session.state(batch=2)
    bounds = [0, *sorted({cut for cut in cuts if cut < steps}), steps]
    pieces = [run(session, [np.ascontiguousarray(x[:, :, a:b]) for x in parts], state) for a, b in pairwise(bounds)]
    assert np.concatenate(pieces, axis=2).tobytes() == whole.tobytes()
    assert state.count.tolist() == [steps, steps]


@pytest.mark.parametrize("dtype", ["f32", "f16", "s8"])
def test_a_session_is_what_the_reference_says(dtype: str) -> None:
    graph = decoder(dtype=dtype)
    session, parts = lowbit.Session(graph, threads=1), drawn(3, 9)
    feeds = dict(zip(("q", "k", "v", "count"), [*parts, np.full(3, 9)], strict=True))
    expected = interpreter.run(graph, feeds)
    state = session.state(batch=3)
    y = run(session, parts, state)
    np.testing.assert_allclose(y, expected[graph.outputs[2]], rtol=1e-5, atol=1e-6)
    for kept in graph.states:
        assert (state.arrays[kept.input] == expected[kept.output]).all()
    again = interpreter.run(graph, {**feeds, **{each.input: expected[each.output] for each in graph.states}})
    np.testing.assert_allclose(run(session, parts, state), again[graph.outputs[2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["f32", "s8"])
def test_rows_of_unlike_length_are_as_alone(dtype: str) -> None:
    session, parts = lowbit.Session(decoder(dtype=dtype), threads=2), drawn(3, 12)
    counts = [12, 5, 1]
    state = session.state(batch=3)
    first = run(session, parts, state, counts)
    second = run(session, drawn(3, 4, seed=1), state)
    for row, count in enumerate(counts):
        alone = session.state()
        one = [np.ascontiguousarray(x[row : row + 1, :, :count]) for x in parts]
        assert run(session, one, alone).tobytes() == first[row : row + 1, :, :count].tobytes()
        later = [x[row : row + 1] for x in drawn(3, 4, seed=1)]
        assert run(session, later, alone).tobytes() == second[row : row + 1].tobytes()


@pytest.mark.parametrize("dtype", ["f16", "s8"])
def test_forks_and_truncations_are_fresh_runs(dtype: str) -> None:
    session, prompt = lowbit.Session(decoder(dtype=dtype), threads=1), drawn(2, 20)
    state = session.state(batch=2)
    run(session, prompt, state)
    other = state.fork(rows=[1, 0, 1])
    step = drawn(3, 1, seed=4)
    forked = run(session, step, other)
    assert state.count.tolist() == [20, 20]
    assert other.count.tolist() == [21, 21, 21]
    for row, source in enumerate([1, 0, 1]):
        fresh = session.state()
        run(session, [x[source : source + 1] for x in prompt], fresh)
        assert run(session, [x[row : row + 1] for x in step], fresh).tobytes() == forked[row : row + 1].tobytes()
    run(session, drawn(2, 7, seed=5), state)
    state.truncate([11, 4])
    fresh = session.state(batch=2)
    run(session, [np.ascontiguousarray(x[:, :, :11]) for x in prompt], fresh, [11, 4])
    assert run(session, drawn(2, 3, seed=6), state).tobytes() == run(session, drawn(2, 3, seed=6), fresh).tobytes()
    state.reset()
    assert state.count.tolist() == [0, 0]
    assert run(session, prompt, state).tobytes() == run(session, prompt).tobytes()


@pytest.mark.parametrize("dtype", ["f32", "s8"])
def test_a_state_is_saved_and_restored(dtype: str) -> None:
    session, prompt = lowbit.Session(decoder(dtype=dtype), threads=1), drawn(2, 20)
    state = session.state(batch=2)
    run(session, prompt, state, [20, 3])
    data = state.save()
    size = DEPTH * 4 if dtype == "f32" else DEPTH + 4
    assert len(data) < 2 * 2 * KEY_HEADS * 32 * size + 2000  # two blocks of positions of eight
    restored = session.restore(data)
    step = drawn(2, 1, seed=2)
    assert run(session, step, restored).tobytes() == run(session, step, state).tobytes()
    for wrong in (b"", data[:50], b"\xff" * 100, lowbit.Session(decoder(dtype="f16")).state(batch=2).save()):
        with pytest.raises((FormatError, InputError)):
            session.restore(wrong)


@pytest.mark.parametrize("dtype", ["f32", "s8"])
def test_callers_with_states_at_once(dtype: str) -> None:
    session = lowbit.Session(decoder(dtype=dtype), threads=2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        parts, state = drawn(1, 30, seed=seed), session.state()
        pieces = [
            run(session, [np.ascontiguousarray(x[:, :, i : i + 3]) for x in parts], state) for i in range(0, 30, 3)
        ]
        if np.concatenate(pieces, axis=2).tobytes() != run(session, parts).tobytes():
            wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_a_row_cannot_see_changes_nothing_in_codes() -> None:
    """What a state held before it was cut, and what a window leaves out: no number there, NaN or infinity."""
    session, wild = lowbit.Session(decoder(dtype="s8", window=5), threads=1), drawn(1, 20)
    wild[1][0, 0, 3, 2] = wild[2][0, 1, 5, 1] = np.nan
    wild[2][0, 0, 15, 0] = np.inf
    state = session.state()
    assert np.isnan(run(session, wild, state)).any()
    state.truncate(14)
    later = drawn(1, 4, seed=1)
    found = run(session, later, state)
    tame, fresh = [np.nan_to_num(x, posinf=1.0) for x in wild], session.state()
    run(session, [np.ascontiguousarray(x[:, :, :14]) for x in tame], fresh)
    assert np.isfinite(found).all()
    assert found.tobytes() == run(session, later, fresh).tobytes()


def test_what_does_not_fit_is_said() -> None:
    session = lowbit.Session(decoder(blocks=1), threads=1)
    state = session.state()
    run(session, drawn(1, 10), state)
    with pytest.raises(InputError, match="holds 10 of 16 positions, and 7 more do not fit"):
        run(session, drawn(1, 7), state)
    assert state.count.tolist() == [10]
    run(session, drawn(1, 6), state)
    with pytest.raises(InputError, match="keys"):
        run(session, drawn(2, 1), state)
    with pytest.raises(InputError, match="cannot stay"):
        state.truncate(17)
    with pytest.raises(InputError, match="rows"):
        state.fork(rows=[1])
    with pytest.raises(InputError, match="no free sizes"):
        session.state(rows=2)
    with pytest.raises(InputError, match="the inputs are"):
        session.run(*drawn(1, 1), state=state)
    stateless = lowbit.Session(replace(decoder(), states=()), threads=1)
    with pytest.raises(InputError, match="no states"):
        stateless.state()


def test_states_that_are_not_sound_are_refused() -> None:
    graph = decoder()
    keys, length, values = graph.states
    for wrong in (
        (keys, keys),
        (replace(keys, output=graph.outputs[0]),),
        (replace(keys, output="nothing"),),
        (replace(keys, count="q"),),
        (replace(keys, count=""),),
        (keys, replace(length, initial="nothing")),
        (replace(keys, axis=0), length, values),
    ):
        with pytest.raises(GraphError, match="state"):
            interpreter.validate(replace(graph, states=wrong))


def counter(initial: Array | None = None) -> Graph:
    """y = relu(sum), sum += x."""
    m = Maker(1, {"batch": Symbol()})
    x, total = m.input("x", "batch", 3), m.input("sum", "batch", 3)
    new = m.node("add", x, total)
    begin = "" if initial is None else m.constant(initial, "begin")
    graph = m.graph(m.node("clip", new, min=0.0, max=1e9), new)
    return replace(graph, states=(State(input="sum", output=new, initial=begin),))


def test_states_without_positions_begin_with_a_constant(tmp_path: Path) -> None:
    graph = counter(np.float32([[1, 2, 3]]))
    path = tmp_path / "sum.lowbit"
    format.save(path, graph)
    x = np.ones((2, 3), np.float32)
    for session in (lowbit.Session(graph), lowbit.load(path).session):
        state = session.state(batch=2)
        for turn in range(1, 4):
            assert session.run(x, state=state)[0].tolist() == [[1 + turn, 2 + turn, 3 + turn]] * 2
        assert session.run(x)[0].tolist() == [[2, 3, 4]] * 2
        other = state.fork(rows=[1])
        assert session.run(x[:1], state=other)[0].tolist() == [[5, 6, 7]]
        state.reset()
        assert session.run(x, state=state)[0].tolist() == [[2, 3, 4]] * 2
        with pytest.raises(InputError, match="no positions"):
            state.truncate(1)


def test_files_of_graphs_with_states(tmp_path: Path) -> None:
    graph, path = decoder(), tmp_path / "decoder.lowbit"
    format.save(path, graph)
    assert format.load(path)[0].states == graph.states
    model = lowbit.load(path, threads=1)
    assert [name for name, _ in model.session.inputs] == ["q", "k", "v", "count"]
    parts, state = drawn(1, 5), model.session.state()
    expected = run(lowbit.Session(graph, threads=1), parts)
    assert run(model.session, parts, state).tobytes() == expected.tobytes()
    assert model(*parts, np.array([5])).tobytes() == expected.tobytes()


def _fill(session: lowbit.Session, state: Any) -> None:
    for _ in range(30):
        run(session, drawn(1, 1000), state)


def test_memory_is_what_is_used_and_bounded() -> None:
    graph = decoder(blocks=4096)  # 65,536 positions: 6 MiB of each cache
    session = lowbit.Session(graph, threads=1, limits=lowbit.Limits(memory=2 << 20))
    state = session.state()
    run(session, drawn(1, 10), state)
    assert session._core.memory()["held_bytes"] < 1 << 20
    with pytest.raises(LimitError, match="a state needs"):
        _fill(session, state)
    del state
    run(session, drawn(1, 10), session.state())


def test_a_profile_leaves_the_state_as_it_is() -> None:
    session = lowbit.Session(decoder(), threads=1)
    state = session.state()
    run(session, drawn(1, 10), state)
    profile = session.profile(*drawn(1, 1), np.array([1]), state=state, repeats=3)
    assert "cached_attention" in {row.op for row in profile.rows}
    assert state.count.tolist() == [10]
