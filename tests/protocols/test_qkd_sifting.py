"""Sifting: events, double clicks, pairs; and none of it depends on how streams are cut."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, ProtocolError, TagBatch
from bellbench.protocols.qkd import Detectors, SeededRandomness
from bellbench.protocols.qkd.dating import Dated, Dating
from bellbench.protocols.qkd.estimation import Errors, random_sample, split_sample
from bellbench.protocols.qkd.sifting import BLIND, Clicks, Events, Pairs, Sifter
from hypothesis import given, settings
from hypothesis import strategies as st

Indices = npt.NDArray[np.int64]

WINDOW = 10
DETECTORS = Detectors.of({1: ("Z", 0), 2: ("Z", 1), 3: ("X", 0), 4: ("X", 1)})
DELAYS = {1: 3, 2: -4, 3: 0, 4: 100}


def greedy(times_a: Indices, times_b: Indices, window: int) -> tuple[Indices, Indices]:
    """One-to-one, earliest first: slow and plain."""
    a: list[int] = []
    b: list[int] = []
    i = j = 0
    while i < times_a.size and j < times_b.size:
        if 2 * abs(int(times_a[i]) - int(times_b[j])) <= window:
            a, b, i, j = [*a, i], [*b, j], i + 1, j + 1
        elif times_a[i] < times_b[j]:
            i += 1
        else:
            j += 1
    return np.array(a, np.int64), np.array(b, np.int64)


def recording(times: list[int], channels: list[int], end: int) -> TagBatch:
    return TagBatch(np.array(times, np.int64), np.array(channels, np.int16), 0, end)


def cut(batch: TagBatch, at: list[int]) -> list[TagBatch]:
    parts = []
    for t in sorted(at):
        part, batch = batch.split(t)
        parts.append(part)
    return [*parts, batch]


def clicks(calibration_ps: int = 1, dead_time_ps: int = 0) -> Clicks:
    made = Clicks(DETECTORS, calibration_ps, WINDOW, SeededRandomness(1, "alice"), dead_time_ps)
    made.set_delays(DELAYS)
    return made


def joined(parts: list[Events]) -> tuple[list[int], list[int], list[int]]:
    return (
        [t for p in parts for t in p.times_ps.tolist()],
        [b for p in parts for b in p.bases.tolist()],
        [b for p in parts for b in p.bits.tolist()],
    )


clicks_at = st.lists(
    st.tuples(st.integers(1, 400), st.sampled_from([1, 2, 3, 4, 9])), max_size=60
).map(sorted)
cuts = st.lists(st.integers(0, 500), max_size=8)


@settings(max_examples=150, deadline=None)
@given(tags=clicks_at, at=cuts)
def test_events_are_greedy_groups_however_the_stream_is_cut(
    tags: list[tuple[int, int]], at: list[int]
) -> None:
    batch = recording([t for t, _ in tags], [c for _, c in tags], 500)
    stream = clicks()
    parts = []
    for part in cut(batch, at):
        stream.add(part)
        parts.append(stream.take())
    parts.append(stream.take(final=True))
    for before, after in itertools.pairwise(parts):
        assert before.horizon_ps <= after.horizon_ps
        assert not after.times_ps.size or after.times_ps[0] >= before.horizon_ps
    times, bases, bits = joined(parts)

    known = sorted(((t - DELAYS[c], c) for t, c in tags if c in DELAYS), key=lambda x: x[0])
    groups: list[list[tuple[int, int]]] = []
    for t, c in known:
        if groups and t - groups[-1][0][0] <= WINDOW:
            groups[-1].append((t, c))
        else:
            groups.append([(t, c)])
    assert times == [group[0][0] for group in groups]
    doubles = 0
    for group, basis, bit in zip(groups, bases, bits, strict=True):
        outcomes = {((c - 1) // 2, (c - 1) % 2) for _, c in group}
        doubles += len(outcomes) > 1
        if len(outcomes) == 1:
            assert outcomes == {(basis, bit)}
        else:
            assert basis in {b for b, _ in outcomes}
    assert stream.double_clicks == doubles

    whole = clicks()
    whole.add(batch)
    assert joined([whole.take(final=True)]) == (times, bases, bits)


@settings(max_examples=150, deadline=None)
@given(tags=clicks_at, at=cuts, dead_time=st.integers(0, 60))
def test_events_soon_after_another_click_have_no_basis(
    tags: list[tuple[int, int]], at: list[int], dead_time: int
) -> None:
    batch = recording([t for t, _ in tags], [c for _, c in tags], 500)
    open_eyed, stream = clicks(), clicks(dead_time_ps=dead_time)
    open_eyed.add(batch)
    reference = open_eyed.take(final=True)
    parts: list[Events] = []
    for part in cut(batch, at):
        stream.add(part)
        if not parts:  # as in a run: the delays after the calibration
            stream.set_delays(DELAYS)
        parts.append(stream.take())
    parts.append(stream.take(final=True))
    times, bases, bits = joined(parts)
    assert times == reference.times_ps.tolist()
    assert bits == reference.bits.tolist()
    # The calibration ends at 1 ps, 5 ps in the time of the fastest channel; it may hold clicks.
    every_click = [t - DELAYS[c] for t, c in tags if c in DELAYS and t > 0]
    blind = [
        dead_time > 0 and (t < 5 + dead_time or any(t - dead_time < x < t for x in every_click))
        for t in times
    ]
    assert bases == [
        BLIND if b else x for x, b in zip(reference.bases.tolist(), blind, strict=True)
    ]
    assert stream.blind_events == sum(blind)


def test_double_clicks_are_fair_coins() -> None:
    n = 20_000
    times = np.repeat(np.arange(n, dtype=np.int64) * 1000 + 1000, 2)
    for pair, both in (((1, 2), False), ((1, 3), True)):
        stream = Clicks(DETECTORS, 1, WINDOW, SeededRandomness(3, "bob"))
        stream.set_delays(dict.fromkeys(DETECTORS.channels, 0))
        batch = TagBatch(times, np.tile(np.array(pair, np.int16), n), 0, n * 1000 + 2000)
        stream.add(batch)
        events = stream.take(final=True)
        assert stream.double_clicks == events.times_ps.size == n
        sigma = 0.5 / n**0.5
        assert abs(events.bits.mean() - 0.5) < 5 * sigma
        if both:
            assert abs(events.bases.mean() - 0.5) < 5 * sigma
            assert abs((events.bases ^ events.bits).mean() - 0.5) < 5 * sigma
        else:
            assert not events.bases.any()


def test_calibration_clicks_never_become_events() -> None:
    batch = recording([50, 99, 100, 150], [1, 2, 1, 2], 300)
    for at in ([], [100], [60, 99, 101]):
        stream = Clicks(DETECTORS, 100, WINDOW, SeededRandomness(1, "alice"))
        stream.set_delays(dict.fromkeys(DETECTORS.channels, 0))
        for part in cut(batch, at):
            stream.add(part)
        assert stream.calibration is not None
        assert stream.calibration.times_ps.tolist() == [50, 99]
        assert stream.take(final=True).times_ps.tolist() == [100, 150]
        assert stream.singles == {1: 2, 2: 2, 3: 0, 4: 0}


def test_losses_are_counted_once() -> None:
    loss = Loss("overflow", 50, 150)
    stream = clicks()
    for begin in (0, 100, 200):
        stream.add(
            TagBatch(
                np.zeros(0, np.int64), np.zeros(0, np.int16), begin, begin + 100, losses=(loss,)
            )
        )
    assert stream.losses == 1


@settings(max_examples=60, deadline=None)
@given(
    tags=clicks_at,
    at=cuts,
    dead_time=st.integers(0, 60),
    lost=st.lists(st.tuples(st.integers(5, 400), st.integers(0, 60)), max_size=3),
)
def test_clicks_inside_losses_make_no_key_and_blind(
    tags: list[tuple[int, int]], at: list[int], dead_time: int, lost: list[tuple[int, int]]
) -> None:
    losses = tuple(Loss("corrupt", begin, begin + length) for begin, length in lost)
    seen = [(t, c) for t, c in tags if not any(x.begin_ps <= t < x.end_ps for x in losses)]
    reference = clicks(dead_time_ps=dead_time)
    reference.add(recording([t for t, _ in seen], [c for _, c in seen], 500))
    without = reference.take(final=True)

    whole = recording([t for t, _ in tags], [c for _, c in tags], 500)
    whole = TagBatch(whole.times_ps, whole.channels, 0, 500, losses=losses)
    stream = clicks(dead_time_ps=dead_time)
    parts = []
    for part in cut(whole, at):
        stream.add(part)
        parts.append(stream.take())
    parts.append(stream.take(final=True))
    times, bases, _ = joined(parts)
    assert times == without.times_ps.tolist()
    assert stream.singles == reference.singles
    low, high = min(DELAYS.values()), max(DELAYS.values())
    for t, basis, known in zip(times, bases, without.bases.tolist(), strict=True):
        blind = dead_time and any(x.end_ps - high <= t < x.end_ps - low + dead_time for x in losses)
        assert basis == (BLIND if blind else known)


def test_batches_must_follow_and_be_sorted() -> None:
    stream = clicks()
    stream.add(recording([], [], 100))
    with pytest.raises(ProtocolError, match="follow"):
        stream.add(TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 101, 200))
    with pytest.raises(ProtocolError, match="decrease"):
        stream.add(TagBatch(np.array([150, 140]), np.array([1, 1], np.int16), 100, 200))


def test_no_events_before_the_delays() -> None:
    stream = Clicks(DETECTORS, 1, WINDOW, SeededRandomness(1, "alice"))
    stream.add(recording([5], [1], 100))
    with pytest.raises(ProtocolError, match="delays"):
        stream.take()


times_of_events = st.lists(st.integers(0, 600), max_size=40, unique=True).map(sorted)


def events(times: list[int], seed: int, horizon: int) -> Events:
    rng = np.random.default_rng(seed)
    bases, bits = rng.integers(0, 2, (2, 1000), dtype=np.uint8)
    index = np.array(times, np.int64)
    return Events(index, bases[index], bits[index], horizon)


def piece(whole: Events, begin: int, end: int) -> Events:
    keep = (whole.times_ps >= begin) & (whole.times_ps < end)
    return Events(whole.times_ps[keep], whole.bases[keep], whole.bits[keep], end)


@settings(max_examples=150, deadline=None)
@given(a=times_of_events, b=times_of_events, at_a=cuts, at_b=cuts, order=st.randoms())
def test_pairs_do_not_depend_on_how_streams_are_cut(
    a: list[int], b: list[int], at_a: list[int], at_b: list[int], order: object
) -> None:
    own, peer = events(a, 1, 700), events(b, 2, 700)
    steps = [("own", *x) for x in itertools.pairwise([-1, *sorted(set(at_a)), 700])]
    steps += [("peer", *x) for x in itertools.pairwise([-1, *sorted(set(at_b)), 700])]
    # Any interleaving that keeps each stream in order.
    names = [name for name, _, _ in steps]
    order.shuffle(names)  # type: ignore[attr-defined]  # hypothesis hands out a random.Random
    queues = {n: [(x, y) for name, x, y in steps if name == n] for n in ("own", "peer")}
    sifter, dating = Sifter(WINDOW, greedy), Dating()
    found: list[Pairs] = []
    for name in names:
        begin, end = queues[name].pop(0)
        if name == "own":
            sifter.add_own(piece(own, begin, end))
        else:
            part = piece(peer, begin, end)
            dating.add_peer(part.times_ps, part.horizon_ps)
            sifter.add_peer(dating.take())
        pairs = sifter.take()
        if pairs is not None:
            found.append(pairs)
    last = sifter.take(final=True)
    assert last is not None
    found.append(last)
    assert last.upto == len(b)

    i, j = greedy(own.times_ps, peer.times_ps, WINDOW)
    assert np.array_equal(np.concatenate([p.index for p in found]), j)
    assert np.array_equal(np.concatenate([p.bits for p in found]), own.bits[i])
    assert np.array_equal(np.concatenate([p.bases for p in found]), own.bases[i])
    assert np.array_equal(np.concatenate([p.times_ps for p in found]), peer.times_ps[j])


def told(times: Any, horizon: int) -> Dated:
    """Events of a peer on the same clock."""
    dating = Dating()
    dating.add_peer(times, horizon)
    return dating.take()


def test_outcomes_are_not_shown() -> None:
    times, bits = np.array([10, 20]), np.array([0, 1], np.uint8)
    held = Events(times, bits, bits, 100)
    sifter = Sifter(WINDOW, greedy)
    sifter.add_own(held)
    sifter.add_peer(told(times, 100))
    pairs = sifter.take(final=True)
    assert pairs is not None
    assert pairs.bits.tolist() == [0, 1]
    for shown in (repr(held), repr(pairs)):
        assert "bases=" in shown
        assert "bits=" not in shown


def test_memory_is_released_as_pairs_are_decided() -> None:
    sifter, dating = Sifter(WINDOW, greedy), Dating()
    for step in range(50):
        times = np.arange(step * 1000, step * 1000 + 1000, 100, dtype=np.int64)
        bases = np.zeros(times.size, np.uint8)
        sifter.add_own(Events(times, bases, bases, step * 1000 + 1000))
        dating.add_peer(times, step * 1000 + 1000)
        sifter.add_peer(dating.take())
        pairs = sifter.take()
        assert pairs is not None
        assert pairs.upto == 10 * step + 10
        assert sifter._own.times_ps.size == sifter._peer.size == 0


def test_a_party_far_ahead_costs_no_more_than_its_events() -> None:
    # Arrays are joined once, not with every piece that waits.
    none = np.zeros(10, np.uint8)
    for own_first in (True, False):
        sifter, dating = Sifter(WINDOW, greedy), Dating()

        def own(step: int, sifter: Sifter = sifter) -> None:
            times = np.arange(step * 1000, step * 1000 + 1000, 100, dtype=np.int64)
            sifter.add_own(Events(times, none, none, step * 1000 + 1000))

        def peer(step: int, sifter: Sifter = sifter, dating: Dating = dating) -> None:
            times = np.arange(step * 1000, step * 1000 + 1000, 100, dtype=np.int64)
            dating.add_peer(times, step * 1000 + 1000)
            sifter.add_peer(dating.take())

        first, second = (own, peer) if own_first else (peer, own)
        for step in range(20):
            first(step)
            assert sifter.take() is None or step == 0
            assert sifter._own.times_ps.size == sifter._peer.size == 0
        for step in range(20):
            second(step)
            pairs = sifter.take()
            assert pairs is not None
            assert (pairs.upto, pairs.index.size) == (10 * step + 10, 10)
            assert sifter._own.times_ps.size == sifter._peer.size == 0


def test_events_behind_the_horizon_are_refused() -> None:
    dating, sifter = Dating(), Sifter(WINDOW, greedy)
    dating.add_peer(np.array([5]), 100)
    for horizon in (200, 50):
        with pytest.raises(ProtocolError, match="horizon"):
            dating.add_peer(np.array([99]), horizon)
    sifter.add_peer(told(np.array([5]), 100))
    with pytest.raises(ProtocolError, match="horizon"):
        sifter.add_peer(told(np.array([99]), 200))


@pytest.mark.parametrize(
    ("a", "b"), [([0, 0], [0, 1]), ([0, 1], [1, 1]), ([0], [0, 1]), ([0], [1])]
)
def test_a_matcher_that_breaks_its_contract_is_caught(a: list[int], b: list[int]) -> None:
    sifter = Sifter(WINDOW, lambda *_: (np.array(a, np.int64), np.array(b, np.int64)))
    times, bases = np.array([0, 7], np.int64), np.zeros(2, np.uint8)
    sifter.add_own(Events(times, bases, bases, 100))
    sifter.add_peer(told(times, 100))
    with pytest.raises(ProtocolError, match="one-to-one"):
        sifter.take()


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 500), data=st.data())
def test_sample_and_rest_are_the_block(m: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, m))
    positions = random_sample(m, k, SeededRandomness(data.draw(st.integers(0, 99)), "alice"))
    assert positions.size == k
    assert np.all(np.diff(positions) > 0)
    block = np.arange(m, dtype=np.int64).astype(np.uint8)
    sample, rest = split_sample(block, positions)
    assert np.array_equal(sample, block[positions])
    assert np.array_equal(rest, np.delete(block, positions))


def test_every_position_is_sampled_equally_often() -> None:
    m, k, runs = 20, 5, 4000
    hits = np.zeros(m)
    for seed in range(runs):
        hits[random_sample(m, k, SeededRandomness(seed, "alice"))] += 1
    p = k / m
    assert np.all(np.abs(hits / runs - p) < 5 * (p * (1 - p) / runs) ** 0.5)


def test_errors_are_counted_by_basis() -> None:
    mine, theirs = np.array([0, 1, 1, 0, 1], np.uint8), np.array([0, 0, 1, 1, 0], np.uint8)
    counted = Errors.count(mine, theirs, np.array([0, 0, 1, 1, 1], np.uint8))
    assert counted == Errors((2, 3), (1, 2))
    assert (counted.qber(0), counted.qber(1), counted.qber()) == (1 / 2, 2 / 3, 3 / 5)
    assert Errors().qber() is None
    assert counted + counted == Errors((4, 6), (2, 4))


@pytest.mark.parametrize(
    "meaning",
    [
        {1: ("Z", 0), 2: ("Y", 1)},
        {1: ("Z", 2), 2: ("X", 1)},
        {1: ("Z", 0), 2: ("Z", 1)},
        {40000: ("Z", 0), 2: ("X", 1)},
    ],
)
def test_detector_maps_without_meaning_are_refused(meaning: dict[int, tuple[str, int]]) -> None:
    with pytest.raises(ValueError):
        Detectors.of(meaning)
