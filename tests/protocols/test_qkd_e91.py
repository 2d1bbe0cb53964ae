"""Analyzers that turn: E91 and six-state, from clicks at settings to keys, S and refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError, TagBatch
from bellbench.protocols.qkd import (
    BlockReport,
    Detectors,
    Parameters,
    SeededRandomness,
    Session,
    join,
    wire,
)
from bellbench.protocols.qkd import messages as msg
from bellbench.protocols.qkd.authentication import memory_pads
from bellbench.protocols.qkd.schemes import (
    SCHEMES,
    SchemeName,
    e91_chsh,
    six_state_errors,
)
from bellbench.protocols.qkd.sifting import BLIND, Clicks, Events
from bellbench.protocols.qkd.sink import MemorySink
from hypothesis import given, settings
from hypothesis import strategies as st

Indices = npt.NDArray[np.int64]
Real = npt.NDArray[np.float64]
Segment = tuple[TagBatch, int | None]
Intercept = Callable[[str, bytes], Iterable[bytes]]

DETECTORS = Detectors.of({1: ("Z", 0), 2: ("Z", 1), 3: ("X", 0), 4: ("X", 1)})
DELAYS_A = {1: 100, 2: 1200, 3: -500, 4: 0}
DELAYS_B = {1: 70_000, 2: 70_700, 3: 70_300, 4: 69_100}
SPACING = 1_000_000
SEGMENT = 400 * SPACING
GAP = 20 * SPACING
H = math.sqrt(0.5)
#: Directions on the Poincare sphere of every basis.
DIRECTIONS: dict[SchemeName, list[tuple[float, float, float]]] = {
    "e91": [(1, 0, 0), (0, 1, 0), (H, H, 0), (-H, H, 0)],
    "six_state": [(1, 0, 0), (0, 1, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1), (1, 0, 0)],
}
PHI_PLUS = (1.0, 1.0, -1.0)  # correlations in Z, X, Y


def terms(scheme: SchemeName, **changes: Any) -> Parameters:
    """A weak security target lets a few thousand bits give a key."""
    planned = Parameters.plan(
        calibration_ps=SEGMENT - 2 * GAP,
        block_ps=10**12,
        tolerance=0.05,
        epsilon=0.05,
        total_epsilon=0.9,
        expected_bits=3000,
        clocks="shared",
    )
    return dataclasses.replace(planned, verify_bits=32, scheme=scheme, **changes)


def match(times_a: Indices, times_b: Indices, window: int) -> tuple[Indices, Indices]:
    """Pairs of one grid point."""
    slots_a, slots_b = ((times + SPACING // 2) // SPACING for times in (times_a, times_b))
    _, a, b = np.intersect1d(slots_a, slots_b, return_indices=True)
    return a.astype(np.int64), b.astype(np.int64)


def find_delays(*_: object) -> tuple[Mapping[int, int], Mapping[int, int]]:
    return DELAYS_A, DELAYS_B


def recordings(
    scheme: SchemeName,
    tensor: tuple[float, float, float],
    segments: int = 48,
    seed: int = 1,
    lost: float = 0.02,
) -> tuple[list[Segment], list[Segment]]:
    """Clicks of both parties in segments of one setting each, with gaps in which they turn.

    ``tensor`` holds the correlations of the pairs along S1, S2, S3.
    """
    rng = np.random.default_rng(seed)
    count = SCHEMES[scheme].settings
    directions = np.array(DIRECTIONS[scheme])
    chosen = np.concatenate([[[0], [0]], rng.integers(0, count, (2, segments - 1))], axis=1)
    end = segments * SEGMENT
    pairs = end // SPACING - 2
    times = np.arange(1, pairs + 1, dtype=np.int64) * SPACING
    own = times // SEGMENT
    output = rng.integers(0, 2, (2, pairs))
    basis = 2 * chosen[:, own] + output
    equal = np.sum(directions[basis[0]] * np.array(tensor) * directions[basis[1]], axis=1)
    bit = rng.integers(0, 2, pairs)
    bits = bit, bit ^ (rng.random(pairs) > (1 + equal) / 2)
    sides = []
    for party, delays in enumerate((DELAYS_A, DELAYS_B)):
        seen = rng.random(pairs) > lost
        channel = (1 + 2 * output[party] + bits[party])[seen]
        stamped = times[seen] + np.array([0, *delays.values()])[channel]
        stamped += np.clip(rng.normal(0, 30, stamped.size), -60, 60).astype(np.int64)
        order = np.argsort(stamped, kind="stable")
        rest = TagBatch(stamped[order], channel[order].astype(np.int16), 0, end)
        parts: list[Segment] = []
        for k in range(segments):
            # the party's own clock turns its analyzer, some channels' clicks are then on their way
            still, rest = rest.split((k + 1) * SEGMENT - GAP)
            parts.append((still, int(chosen[party, k])))
            turning, rest = rest.split((k + 1) * SEGMENT + GAP)
            parts.append((turning, None))
        sides.append([*parts, (rest, None)])
    return sides[0], sides[1]


@dataclasses.dataclass
class Party:
    session: Session
    sink: MemorySink
    reports: list[BlockReport] = dataclasses.field(default_factory=list)

    @property
    def reason(self) -> str:
        return self.session.reason or self.reports[-1].reason

    @property
    def key(self) -> bytes:
        names = [f"{self.session.session_id}/{i}" for i in range(self.session.blocks_opened)]
        return b"".join(self.sink.key(name) for name in self.sink.committed(names))


def end_of(role: Any, parameters: Parameters) -> Party:
    pads = memory_pads(bytes(range(256)) * 8)[role == "bob"]
    sink = MemorySink(rehearsal=True, append=pads.extend)
    options: dict[str, Any] = {"find_delays": find_delays, "match": match}
    session = Session(
        role,
        DETECTORS,
        parameters,
        sink=sink,
        pads=pads,
        randomness=SeededRandomness(1, role),
        reserve_pads=0,
        **(options if role == "alice" else {}),
    )
    return Party(session, sink)


def exchange(
    parameters: Parameters,
    clicks: tuple[list[Segment], list[Segment]],
    intercept: Intercept | None = None,
) -> tuple[Party, Party]:
    both = end_of("alice", parameters), end_of("bob", parameters)
    alice, bob = (party.session for party in both)
    join(alice, bob, intercept)
    for pieces in zip(*clicks, strict=True):
        for session, (batch, setting) in zip((alice, bob), pieces, strict=True):
            session.pairing.setting = setting
            session.feed(batch)
        join(alice, bob, intercept)
    for session in (alice, bob):
        session.finish()
    join(alice, bob, intercept)
    for party in both:
        party.session.tick(0.0)
        party.session.tick(1000.0)
        party.reports += party.session.take_reports()
    return both


def scaled(visibility: float) -> tuple[float, float, float]:
    return tuple(visibility * x for x in PHI_PLUS)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def said() -> list[wire.Frame]:
    return []


@pytest.fixture(scope="module")
def e91(said: list[wire.Frame]) -> tuple[Party, Party]:
    def listen(sender: str, data: bytes) -> Iterable[bytes]:
        if len(data) > 4 and data[0] == wire.VERSION:
            with contextlib.suppress(ProtocolError):  # the handshake's
                said.append(wire.decode(data))
        return (data,)

    return exchange(terms("e91", least_chsh=2.5), recordings("e91", scaled(0.96)), listen)


def test_e91_ends_with_equal_keys_and_s_of_the_pairs(e91: tuple[Party, Party]) -> None:
    alice, bob = e91
    assert alice.key == bob.key
    assert len(alice.key) > 40
    tests = alice.session.pairing.tests
    assert np.array_equal(tests, bob.session.pairing.tests)
    same = np.arange(4)[:, None] // 2 == np.arange(4) // 2
    assert not tests[same].any()
    assert (tests[~same].sum(axis=(1, 2)) > 300).all()
    for ekert in (False, True):
        s = e91_chsh(tests, ekert=ekert)
        assert s is not None
        assert abs(s.value - 0.96 * 2 * math.sqrt(2)) < 4 * s.standard_error
        assert s.standard_error < 0.07
    # a quarter of all pairs, less turning and loss, makes key; a half is revealed
    (report,) = alice.reports
    sifted = report.sifted_bits + sum(report.monitored_compared)
    pairs = 47 * (SEGMENT - 2 * GAP) / SPACING * 0.98**2
    assert sifted == pytest.approx(pairs / 4, rel=0.2)
    assert tests.sum() == pytest.approx(pairs / 2, rel=0.2)
    assert report.monitored_compared[0] < 0.1 * sifted
    disclosed = sum(report.monitored_compared) + int(tests.sum())
    assert report.disclosed_bits["alice monitor"] == disclosed
    assert report.disclosed_bits["bob monitor"] == disclosed


def test_a_setting_is_told_only_when_it_has_ended(
    e91: tuple[Party, Party], said: list[wire.Frame]
) -> None:
    """No announced time, hence no basis, of a segment before its last click was recorded."""
    scheme = SCHEMES["e91"]
    for setting in (0, 1):
        stream = Clicks(DETECTORS, 1, 300, SeededRandomness(1, "bob"), settings=scheme.settings)
        stream.add(TagBatch(np.array([50], np.int64), np.array([1], np.int16), 0, 10**6), 0)
        stream.set_delays(dict.fromkeys(DETECTORS.channels, 0))
        for k in range(1, 5):
            at = np.array([k * 10**6 + 50], np.int64)
            stream.add(TagBatch(at, np.array([3], np.int16), k * 10**6, (k + 1) * 10**6), 1)
            events = stream.take()
            assert events.horizon_ps <= 10**6
            assert not np.any(events.times_ps >= 10**6)
        none = np.zeros(0, np.int64)
        stream.add(TagBatch(none, none.astype(np.int16), 5 * 10**6, 5 * 10**6 + 1), 1 - setting)
        if setting == 0:  # the same one goes on
            assert not stream.take().times_ps.size
        else:
            assert stream.take().bases.tolist() == 4 * [3]
    assert {type(frame.message) for frame in said} >= {msg.SiftedTests, msg.Bases}


@pytest.mark.parametrize(
    ("tensor", "least", "reason"),
    [
        (scaled(0.8), 2.5, "S 2."),  # Werner states: 10 % errors, S = 2.26
        ((0.5, 0.5, 0.0), 2.0, "S 1."),  # every photon measured in Z or X and sent again
    ],
)
def test_no_key_where_s_is_low(
    tensor: tuple[float, float, float], least: float, reason: str
) -> None:
    wide = terms("e91", least_chsh=least, calibration_error=0.4)
    wide = dataclasses.replace(wide, tolerance=0.3)
    alice, bob = exchange(wide, recordings("e91", tensor, segments=30))
    assert not alice.key
    assert not bob.key
    assert alice.reason == bob.reason
    assert alice.reason.startswith(reason)
    assert "below" in alice.reason


def test_intercepted_photons_give_no_key_by_their_errors_alone() -> None:
    wide = terms("e91", calibration_error=0.4)
    alice, bob = exchange(wide, recordings("e91", (0.5, 0.5, 0.0), segments=30))
    assert not alice.key
    assert not bob.key
    assert "above tolerance" in alice.reason
    s = e91_chsh(alice.session.pairing.tests)
    assert s is not None
    assert s.value + 4 * s.standard_error < 2.0
    assert abs(s.value - math.sqrt(2)) < 4 * s.standard_error


def test_six_state_ends_with_equal_keys_and_three_error_rates() -> None:
    clicks = recordings("six_state", scaled(0.96), segments=70)
    alice, bob = exchange(terms("six_state"), clicks)
    assert alice.key == bob.key
    assert len(alice.key) > 20
    errors = six_state_errors(alice.session.pairing.tests)
    assert errors == six_state_errors(bob.session.pairing.tests)
    assert set(errors) == {"Z", "X", "Y"}
    for wrong, n in errors.values():
        assert n > 400
        assert abs(wrong / n - 0.02) < 4 * math.sqrt(0.02 / n)


def test_errors_that_only_y_shows_give_no_six_state_key() -> None:
    """Flips in Z and phase flips, 5 % each, add up in Y; all together they are 6.7 %."""
    clicks = recordings("six_state", (0.9, 0.9, -0.8), segments=70)
    alice, bob = exchange(dataclasses.replace(terms("six_state"), tolerance=0.075), clicks)
    assert not alice.key
    assert not bob.key
    assert alice.reason == bob.reason
    assert "in Y at different settings" in alice.reason


def altered(kind: type[Any], change: Callable[[Any], Any]) -> Intercept:
    def intercept(sender: str, data: bytes) -> Iterable[bytes]:
        try:
            frame = wire.decode(data)
        except ProtocolError:
            return (data,)
        message: Any = frame.message
        if type(message) is not kind or not message.bits.size:
            return (data,)
        return (wire.encode(dataclasses.replace(frame, message=change(message))),)

    return intercept


@pytest.mark.parametrize(
    "change",
    [
        lambda m: msg.Sifted(m.kept, m.monitored, m.bits),
        lambda m: dataclasses.replace(m, bases=m.bases[:-1]),
        # half the tests become claims of an equal setting in the other basis
        lambda m: dataclasses.replace(m, bases=m.bases ^ np.uint8(1)),
    ],
)
def test_a_peer_that_lies_about_bases_ends_the_session(change: Callable[[Any], Any]) -> None:
    clicks = recordings("e91", PHI_PLUS, segments=6)
    alice, bob = exchange(terms("e91"), clicks, altered(msg.SiftedTests, change))
    assert not alice.key
    assert not bob.key
    assert "does not belong here" in bob.session.reason or "do not belong" in bob.session.reason


def test_tests_have_no_place_in_bbm92() -> None:
    def change(m: Any) -> Any:
        return msg.SiftedTests(m.kept, m.monitored, m.bits, m.bits)

    parts = recordings("e91", PHI_PLUS, segments=3)
    first: list[list[Segment]] = [[(batch, 0) for batch, _ in side] for side in parts]
    _, bob = exchange(terms("bbm92"), (first[0], first[1]), altered(msg.Sifted, change))
    assert "a choice of events that does not belong here" in bob.session.reason


def test_parties_of_different_schemes_do_not_begin() -> None:
    alice, bob = end_of("alice", terms("e91")), end_of("bob", terms("six_state"))
    join(alice.session, bob.session)
    assert alice.session.over
    assert bob.session.over


def test_settings_that_are_none_are_refused() -> None:
    stream = Clicks(DETECTORS, 100, 300, SeededRandomness(1, "bob"), settings=2)
    none = TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, 50)
    with pytest.raises(ProtocolError, match="calibration"):
        stream.add(none, 1)
    stream = Clicks(DETECTORS, 100, 300, SeededRandomness(1, "bob"), settings=2)
    with pytest.raises(ProtocolError, match="no setting 2"):
        stream.add(none, 2)
    with pytest.raises(ValueError, match="scheme"):
        terms("bb84")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="least_chsh"):
        terms("e91", least_chsh=2.9)


@settings(max_examples=80, deadline=None)
@given(
    at=st.lists(st.integers(1, 399), max_size=40).map(sorted),
    channels=st.lists(st.integers(1, 4), min_size=40, max_size=40),
    turns=st.dictionaries(st.integers(20, 380), st.sampled_from([None, 0, 1]), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_bases_are_those_of_the_setting_however_the_stream_is_cut(
    at: list[int],
    channels: list[int],
    turns: dict[int, int | None],
    cuts: list[int],
) -> None:
    window, delays = 6, {1: 3, 2: -4, 3: 0, 4: 9}
    tags = TagBatch(np.array(at, np.int64), np.array(channels[: len(at)], np.int16), 0, 400)

    changes = sorted({0: 0, **turns}.items())

    def events(edges: list[int]) -> tuple[list[int], list[int], list[int]]:
        stream = Clicks(DETECTORS, 1, window, SeededRandomness(1, "alice"), settings=2)
        stream.set_delays(delays)
        parts: list[Events] = []
        rest = tags
        for edge in sorted({*edges, *turns, 400}):
            piece, rest = rest.split(edge)
            stream.add(piece, [setting for t, setting in changes if t <= piece.begin_ps][-1])
            parts.append(stream.take())
        parts.append(stream.take(final=True))
        for before, after in itertools.pairwise(parts):
            assert before.horizon_ps <= after.horizon_ps
        return (
            [t for p in parts for t in p.times_ps.tolist()],
            [b for p in parts for b in p.bases.tolist()],
            [b for p in parts for b in p.bits.tolist()],
        )

    times, bases, bits = events(cuts)
    assert (times, bases, bits) == events([])
    plain = Clicks(DETECTORS, 1, window, SeededRandomness(1, "alice"))
    plain.set_delays(delays)
    plain.add(tags)
    reference = plain.take(final=True)
    assert times == reference.times_ps.tolist()
    assert bits == reference.bits.tolist()
    # where one click of the event may have been recorded, the setting is one
    low, high = min(delays.values()), max(delays.values()) + window
    settings_at = [[s for t, s in changes if t <= at][-1] for at in range(430)]
    for t, basis, output in zip(times, bases, reference.bases.tolist(), strict=True):
        around = settings_at[max(0, t + low) : t + high + 1]
        known = around[0] if len(set(around)) == 1 else None
        assert basis == (BLIND if known is None else 2 * known + output)
