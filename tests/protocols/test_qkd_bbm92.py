"""BBM92 between two parties: keys, refusals, attacks and a channel that lies."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, ProtocolError, TagBatch
from bellbench.protocols import timing
from bellbench.protocols.qkd import (
    Alice,
    Bob,
    Channel,
    Detectors,
    Parameters,
    Phase,
    SeededRandomness,
    SystemRandomness,
    bbm92,
    joint_result,
    messages,
)
from bellbench.protocols.qkd.cascade import Corrector
from bellbench.protocols.qkd.dating import Dating
from bellbench.protocols.qkd.estimation import Errors
from bellbench.protocols.qkd.finite_key import binary_entropy
from bellbench.protocols.qkd.messages import Envelope
from hypothesis import given, settings
from hypothesis import strategies as st

Indices = npt.NDArray[np.int64]
Intercept = Callable[[str, Envelope], Iterable[Envelope]]

DETECTORS = Detectors.of({1: ("Z", 0), 2: ("Z", 1), 3: ("X", 0), 4: ("X", 1)})
DELAYS_A = {1: 100, 2: 1200, 3: -500, 4: 0}
DELAYS_B = {1: 70_000, 2: 70_700, 3: 70_300, 4: 69_100}
SPACING = 1_000_000
CALIBRATION = 200 * SPACING
#: A weak security target lets a few thousand bits give a key, which keeps these tests quick.
PARAMETERS = dataclasses.replace(
    Parameters.plan(calibration_ps=CALIBRATION, tolerance=0.05, epsilon=0.05, expected_bits=3500),
    verify_bits=32,
)


def match(times_a: Indices, times_b: Indices, window: int) -> tuple[Indices, Indices]:
    """Pairs that are each other's nearest."""
    if not times_a.size or not times_b.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def nearest(x: Indices, y: Indices) -> Indices:
        right = np.minimum(np.searchsorted(y, x), y.size - 1)
        left = np.maximum(right - 1, 0)
        return np.where(np.abs(x - y[left]) <= np.abs(y[right] - x), left, right)

    to_b, to_a = nearest(times_a, times_b), nearest(times_b, times_a)
    mutual = to_a[to_b] == np.arange(times_a.size)
    close = 2 * np.abs(times_a - times_b[to_b]) <= window
    a = np.flatnonzero(mutual & close)
    return a, to_b[a]


def find_delays(*_: TagBatch) -> tuple[Mapping[int, int], Mapping[int, int]]:
    return DELAYS_A, DELAYS_B


def recordings(
    pairs: int = 8400,
    qber: float = 0.02,
    seed: int = 1,
    *,
    intercept_resend: bool = False,
    lost: float = 0.02,
    doubles: float = 0.0,
    blind_channel_b: int = 0,
) -> tuple[TagBatch, TagBatch]:
    """Clicks of both parties from ideal pairs with errors, losses, jitter and delays."""
    rng = np.random.default_rng(seed)
    times = np.arange(1, pairs + 1, dtype=np.int64) * SPACING
    basis_a, basis_b, basis_e = rng.integers(0, 2, (3, pairs))
    bit_a, other, coin = rng.integers(0, 2, (3, pairs))
    if intercept_resend:  # Eve measures Bob's photon and sends him what she found
        bit_e = np.where(basis_e == basis_a, bit_a, other)
        bit_b = np.where(basis_b == basis_e, bit_e, coin)
    else:
        bit_b = np.where(basis_a == basis_b, bit_a ^ (rng.random(pairs) < qber), coin)
    sides = []
    for basis, bit, delays, blind in (
        (basis_a, bit_a, DELAYS_A, 0),
        (basis_b, bit_b, DELAYS_B, blind_channel_b),
    ):
        channel = 1 + 2 * basis + bit
        seen = (rng.random(pairs) > lost) & (channel != blind)
        extra = seen & (rng.random(pairs) < doubles)
        all_times = np.concatenate([times[seen], times[extra]])
        channels = np.concatenate([channel[seen], 1 + channel[extra] % 4])
        jitter = np.clip(rng.normal(0, 30, all_times.size), -60, 60).astype(np.int64)
        shift = np.array([0, *delays.values()])[channels]
        stamped = all_times + shift + jitter
        order = np.argsort(stamped, kind="stable")
        sides.append(
            TagBatch(stamped[order], channels[order].astype(np.int16), 0, (pairs + 2) * SPACING)
        )
    return sides[0], sides[1]


def cut(batch: TagBatch, parts: list[float]) -> list[TagBatch]:
    pieces = []
    for fraction in sorted(parts):
        piece, batch = batch.split(int(fraction * batch.end_ps))
        pieces.append(piece)
    return [*pieces, batch]


def parties(parameters: Parameters = PARAMETERS, seed: int = 1) -> tuple[Alice, Bob]:
    alice = Alice(
        DETECTORS,
        parameters,
        find_delays=find_delays,
        match=match,
        randomness=SeededRandomness(seed, "alice"),
    )
    return alice, Bob(DETECTORS, parameters, randomness=SeededRandomness(seed, "bob"))


def exchange(
    alice: Alice,
    bob: Bob,
    clicks: tuple[TagBatch, TagBatch],
    intercept: Intercept | None = None,
    parts: tuple[list[float], list[float]] = ([0.3, 0.7], [0.4]),
) -> tuple[bbm92.Result, bbm92.Result]:
    """Run to the end; a party left waiting gives up."""
    channel = Channel(alice, bob, intercept)
    pieces = [cut(batch, at) for batch, at in zip(clicks, parts, strict=True)]
    while any(pieces):
        for party, left in zip((alice, bob), pieces, strict=True):
            if left:
                party.feed(left.pop(0))
        channel.run()
    alice.finish()
    bob.finish()
    channel.run()
    for party in (alice, bob):
        party.tick(0.0)
        party.tick(1000.0)
    channel.run()
    assert alice.result is not None
    assert bob.result is not None
    return alice.result, bob.result


class Recorder:
    """An honest channel that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, messages.Message]] = []

    def __call__(self, sender: str, envelope: Envelope) -> Iterable[Envelope]:
        self.seen.append((sender, envelope.message))
        return (envelope,)

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for _, message in self.seen if isinstance(message, kind)]


@pytest.fixture(scope="module")
def good() -> tuple[TagBatch, TagBatch]:
    return recordings()


def test_both_parties_end_with_the_same_key(good: tuple[TagBatch, TagBatch]) -> None:
    alice, bob = parties()
    recorder = Recorder()
    a, b = exchange(alice, bob, good, recorder)
    assert not a.metrics["aborted"]
    assert a.key.size == a.metrics["secret_key_bits"] > 300
    assert np.array_equal(a.key, b.key)
    assert abs(a.key.mean() - 0.5) < 5 * 0.5 / a.key.size**0.5
    own = {"party", "double_clicks", "singles", "efficiency_mismatch", "basis_bias"}
    assert {k: v for k, v in a.metrics.items() if k not in own} == {
        k: v for k, v in b.metrics.items() if k not in own
    }
    m = a.metrics
    leak = sum(message.parities.size for message in recorder.of(messages.ParityReply))
    assert m["leak_bits"] == leak <= m["leak_budget_bits"]
    n = m["block_bits"] - m["sample_bits"]
    assert leak >= n * binary_entropy(m["qber_reconciled"])
    assert m["f_ec"] == pytest.approx(leak / (n * binary_entropy(m["qber_reconciled"])))
    assert m["sifted_bits"] == m["block_bits"] + m["monitor_bits"]
    assert m["disclosed_bits"]["bob sample"] == m["sample_bits"]
    assert m["qber"] == pytest.approx(0.02, abs=0.012)
    assert m["epsilon"] <= PARAMETERS.epsilon
    assert m["randomness"] == "seeded"
    assert m["authentication"] == "assumed"
    assert len(recorder.seen) < 2000
    # No one speaks of the key.
    text = json.dumps([a.metrics, b.metrics]) + repr((a, b, alice.progress, bob.progress))
    assert "array" not in text
    assert alice.progress.phase == Phase.DONE == bob.progress.phase
    assert alice.progress.key_bits == a.key.size


def test_the_key_is_the_hash_of_the_sifted_bits_that_nobody_revealed() -> None:
    batches = recordings(qber=0.0)
    alice, bob = parties()
    recorder = Recorder()
    a, _ = exchange(alice, bob, batches, recorder)
    # Without errors Bob's clicks tell Alice's bits.
    later = batches[1].times_ps >= CALIBRATION
    shift = np.array([0, *DELAYS_B.values()])[batches[1].channels[later]]
    order = np.argsort(batches[1].times_ps[later] - shift, kind="stable")
    outcome = (batches[1].channels[later][order] - 1) % 2
    block = []
    pairs = recorder.of(messages.Paired)
    for paired, message in zip(pairs, recorder.of(messages.Sifted), strict=True):
        bits = outcome[paired.paired[message.kept]]
        assert np.array_equal(bits[message.monitored], message.bits)
        block.append(np.delete(bits, message.monitored))
    sifted = np.concatenate(block)
    (sample,) = recorder.of(messages.Sample)
    assert np.array_equal(sifted[sample.positions], sample.bits)
    assert sample.positions.size == PARAMETERS.sample_bits(sifted.size)
    assert not np.array_equal(sample.positions, np.arange(sample.positions.size))
    kept = np.delete(sifted, sample.positions)
    (verification,) = recorder.of(messages.Verification)
    n, length = kept.size, a.key.size
    seed = np.unpackbits(verification.amplification_seed, count=n + length - 1)
    naive = [int(seed[i : i + n][::-1].astype(np.int64) @ kept) % 2 for i in range(length)]
    assert naive == a.key.tolist()
    assert a.metrics["f_ec"] is None  # no errors, no efficiency


def test_the_default_matching_gives_the_same_key(good: tuple[TagBatch, TagBatch]) -> None:
    alice = Alice(
        DETECTORS, PARAMETERS, find_delays=find_delays, randomness=SeededRandomness(1, "alice")
    )
    _, bob = parties()
    a, b = exchange(alice, bob, good)
    assert not a.metrics["aborted"]
    assert np.array_equal(a.key, b.key)
    # Pairs lie far apart here, so that all rules of matching agree.
    assert np.array_equal(a.key, exchange(*parties(), good)[0].key)


def test_bob_announces_no_fine_times(good: tuple[TagBatch, TagBatch]) -> None:
    recorder = Recorder()
    exchange(*parties(), good, recorder)
    times = np.concatenate([x.times_ps for x in recorder.of(messages.Announcement)])
    assert times.size > 7000
    assert not np.any(times % PARAMETERS.resolution_ps)


@settings(max_examples=12, deadline=None)
@given(
    parts_a=st.lists(st.floats(0, 1), max_size=12), parts_b=st.lists(st.floats(0, 1), max_size=12)
)
def test_key_and_metrics_do_not_depend_on_the_batches(
    parts_a: list[float], parts_b: list[float]
) -> None:
    clicks = recordings(doubles=0.01)
    whole = exchange(*parties(), clicks, parts=([], []))
    pieces = exchange(*parties(), clicks, parts=(parts_a, parts_b))
    for one, other in zip(whole, pieces, strict=True):
        assert not one.metrics["aborted"]
        assert np.array_equal(one.key, other.key)
        assert one.metrics == other.metrics


def largest_bits(thing: object, seen: dict[int, object]) -> int:
    """Size of the largest array of bytes that a party still holds, its result aside."""
    if id(thing) in seen or isinstance(thing, bbm92.Result):
        return 0
    seen[id(thing)] = thing
    if isinstance(thing, np.ndarray):
        own = thing.size if thing.dtype == np.uint8 else 0
        return max(own, largest_bits(thing.base, seen))
    if isinstance(thing, (list, tuple, deque)):
        return max((largest_bits(part, seen) for part in thing), default=0)
    return largest_bits(list(getattr(thing, "__dict__", {}).values()), seen)


def test_after_the_end_only_the_result_holds_the_key(good: tuple[TagBatch, TagBatch]) -> None:
    alice, bob = parties()
    a, b = exchange(alice, bob, good)
    for party, result in ((alice, a), (bob, b)):
        sample = result.metrics["sample_bits"]
        assert result.metrics["block_bits"] - sample > sample
        assert 0 < largest_bits(party, {}) <= sample, party.name


def test_seeds_decide_the_key(good: tuple[TagBatch, TagBatch]) -> None:
    first, again, other = (exchange(*parties(seed=s), good)[0] for s in (1, 1, 2))
    assert np.array_equal(first.key, again.key)
    n = min(first.key.size, other.key.size)
    assert np.mean(first.key[:n] == other.key[:n]) == pytest.approx(0.5, abs=2.5 / n**0.5)


def test_system_randomness_gives_fresh_seeds(good: tuple[TagBatch, TagBatch]) -> None:
    seeds = []
    for _ in range(2):
        alice = Alice(DETECTORS, PARAMETERS, find_delays=find_delays, match=match)
        bob = Bob(DETECTORS, PARAMETERS, randomness=SystemRandomness())
        recorder = Recorder()
        a, b = exchange(alice, bob, good, recorder)
        assert np.array_equal(a.key, b.key)
        assert a.metrics["randomness"] == b.metrics["randomness"] == "system"
        (verification,) = recorder.of(messages.Verification)
        seeds.append(verification)
        # The seeds come after the last click was announced.
        kinds = [type(message) for _, message in recorder.seen]
        last = len(kinds) - kinds[::-1].index(messages.Announcement)
        assert kinds.index(messages.Verification) > last
    assert not np.array_equal(seeds[0].amplification_seed, seeds[1].amplification_seed)
    assert not np.array_equal(seeds[0].seed, seeds[1].seed)


def test_monitor_and_calibration_show_the_error_rate() -> None:
    alice, bob = parties(dataclasses.replace(PARAMETERS, monitor_fraction=0.3))
    results = exchange(alice, bob, recordings(qber=0.04))
    for party, result in zip((alice, bob), results, strict=True):
        assert party.progress.qber_z == pytest.approx(0.04, abs=0.03)
        assert result.metrics["monitor_bits"] == pytest.approx(
            0.3 * result.metrics["sifted_bits"], rel=0.1
        )
        matrix = party.calibration_matrix
        assert matrix is not None
        assert matrix.sum() > 120
        assert matrix[0, 1] + matrix[1, 0] < 0.2 * matrix[:2, :2].sum()
        assert 0.3 < matrix[:2, 2:].sum() / matrix[:2, :2].sum() < 3


def test_the_history_of_errors_holds_every_revealed_bit_at_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bbm92, "_STRETCH", 500 * SPACING)
    # Bob's detectors X0 and X1 are exchanged in the fifth stretch.
    a, b = recordings(qber=0.0)
    stretch = (b.times_ps - 70_000) // (500 * SPACING)
    channels = np.where((stretch == 4) & (b.channels > 2), 7 - b.channels, b.channels)
    shift = np.array([0, *DELAYS_B.values()])
    b = dataclasses.replace(
        b,
        channels=channels.astype(np.int16),
        times_ps=b.times_ps - shift[b.channels] + shift[channels],
    )
    histories = []
    for parts in (([], []), ([0.1, 0.24, 0.25, 0.8], [0.5])):
        alice, bob = parties()
        results = exchange(alice, bob, (a, b), parts=parts)
        assert alice.error_history == bob.error_history
        histories.append(alice.error_history)
        total = sum((errors for _, errors in alice.error_history), start=Errors())
        metrics = results[0].metrics
        assert sum(total.compared) == metrics["monitor_bits"] + metrics["sample_bits"]
        assert total.qber() == metrics["qber"]
    assert histories[0] == histories[1]
    middles = [round(at * 1e12) for at, _ in histories[0]]
    assert middles == [(2 * i + 1) * 250 * SPACING for i in range(17)]
    for i, (_, errors) in enumerate(histories[0]):
        assert min(errors.compared) > 10
        assert errors.wrong == ((0, errors.compared[1]) if i == 4 else (0, 0))
    times = [k * 500 * SPACING * 1e-12 for k in range(18)]
    for i, j in ((0, 17), (3, 5), (4, 4)):  # whole stretches only
        expected = sum((errors for _, errors in histories[0][i:j]), start=Errors())
        assert alice.errors_between(times[i], times[j]) == expected
        assert alice.errors_between(times[i] - 1e-6, times[j] + 1e-6) == expected


def refused(results: tuple[bbm92.Result, bbm92.Result], reason: str) -> dict[str, Any]:
    for result in results:
        assert result.key.size == 0
        assert result.metrics["aborted"]
        assert result.metrics["secret_key_bits"] == 0
        assert result.metrics["epsilon"] is None
        assert reason in result.metrics["reason"]
    return results[0].metrics


def test_full_intercept_resend_gives_no_key() -> None:
    results = exchange(*parties(), recordings(intercept_resend=True))
    metrics = refused(results, "above tolerance 5.00%")
    assert metrics["qber_z"] == pytest.approx(0.25, abs=0.06)
    assert metrics["qber_x"] == pytest.approx(0.25, abs=0.06)


def test_blinding_a_detector_with_a_click_shortly_before_gives_no_key() -> None:
    # 20 ns before each pair a pulse makes Bob's detector Z1 click, which then misses the pair:
    # every sifted Z bit is 0, and nothing of it shows in the error rate.
    a, b = recordings(blind_channel_b=2)
    pulses = np.arange(300, 8300, dtype=np.int64) * SPACING + DELAYS_B[2] - 20_000
    times = np.concatenate([b.times_ps, pulses])
    channels = np.concatenate([b.channels, np.full(pulses.size, 2, np.int16)])
    order = np.argsort(times, kind="stable")
    attacked = (a, TagBatch(times[order], channels[order], 0, b.end_ps))
    refused(exchange(*parties(), attacked), "too few bits")
    # It would have passed unseen.
    seen = Recorder()
    open_to_it = parties(dataclasses.replace(PARAMETERS, dead_time_ps=0))
    assert not exchange(*open_to_it, attacked, seen)[0].metrics["aborted"]
    known = 0
    kinds = (messages.Bases, messages.Sifted, messages.Monitored)
    for told, sifted, reply in zip(*map(seen.of, kinds), strict=True):
        bases = told.bases[sifted.kept[sifted.monitored]]
        assert not np.any(reply.bits[bases == 0])
        known += int(np.count_nonzero(bases == 0))
    assert known > 10


def test_bases_are_told_of_final_pairs_only(good: tuple[TagBatch, TagBatch]) -> None:
    recorder = Recorder()
    exchange(*parties(), good, recorder, parts=([0.1, 0.2, 0.6], [0.3, 0.5, 0.9]))
    names = {field.name for field in dataclasses.fields(messages.Announcement)}
    assert names == {"first", "times_ps", "horizon_ps", "final"}
    pairs, decided, told = deque[int](), 0, 0
    for sender, message in recorder.seen:
        if isinstance(message, messages.Paired):
            assert sender == "alice"
            assert decided <= message.upto
            assert not message.paired.size or message.paired[0] >= decided
            decided = message.upto
            pairs.append(message.paired.size)
        elif isinstance(message, messages.Bases):
            assert sender == "bob"
            assert message.bases.size == pairs.popleft()  # fails where nothing was committed
            told += message.bases.size
    assert not pairs
    assert 7000 < told < sum(x.times_ps.size for x in recorder.of(messages.Announcement))


def test_holding_alices_photons_for_bobs_bases_gives_no_key() -> None:
    # Eve owns the source and delays all of Alice's photons by 0.4 s, which passes for an offset of
    # the clocks. She measures her half in Bob's basis where he has told it by then, else in any.
    second, hold, rate, seconds, step = 10**12, 4 * 10**11, 20_000, 22, 10**11
    rng = np.random.default_rng(1)
    n = rate * seconds // 10
    emitted = np.sort(rng.integers(0, seconds * step, n))
    cables = np.array([[23_400, 24_100, 22_800, 23_900], [41_700, 40_900, 42_600, 41_200]])
    bob_basis, bob_bit, alice_basis, eve_basis = rng.integers(0, 2, (4, n))
    outcome = 2 * bob_basis + bob_bit
    bob_times = emitted + rng.normal(0, 36, n).astype(np.int64) + cables[1][outcome]
    by_time = np.argsort(bob_times, kind="stable")
    bob_times, bob_channels = bob_times[by_time], (outcome[by_time] + 1).astype(np.int16)
    arrive = emitted + hold
    known = np.full(n, -1)  # Bob's basis, as Eve heard it
    announced: list[int] = []
    awaited: deque[Indices] = deque()
    offset = 0

    def eve(_: str, envelope: Envelope) -> Iterable[Envelope]:
        nonlocal offset
        message: Any = envelope.message
        if isinstance(message, messages.Delays):
            offset = round(float(np.mean(message.delays_ps) - cables[1].mean()))
        elif isinstance(message, messages.Announcement):
            at = np.searchsorted(emitted, message.times_ps + offset - 1000)
            at = np.minimum(at, n - 1)
            announced.extend(at.tolist())
            if hasattr(message, "bases"):  # a photon's basis before Alice holds it
                known[at] = np.where(message.bases < 2, message.bases, -1)
        elif isinstance(message, messages.Paired):
            awaited.append(np.array(announced, np.int64)[message.paired])
        elif isinstance(message, messages.Bases):
            known[awaited.popleft()] = message.bases
        return (envelope,)

    parameters = Parameters.plan(expected_bits=5000, epsilon=0.05)
    channels = [1, 2, 3, 4]

    def find(a: TagBatch, b: TagBatch) -> tuple[Mapping[int, int], Mapping[int, int]]:
        found = timing.find_channel_delays(
            a, b, channels_a=channels, channels_b=channels, search_ps=1_000_000
        )
        return found.delays_a, found.delays_b

    alice = Alice(DETECTORS, parameters, find_delays=find, shared_clock=False)
    bob = Bob(DETECTORS, parameters)
    channel = Channel(alice, bob, eve)
    in_time = 0
    for begin in range(0, seconds * step, step):
        end = begin + step
        sent = np.flatnonzero((arrive >= begin) & (arrive < end))
        told = known[sent] >= 0
        in_time += int(np.count_nonzero(told))
        calibrating = emitted[sent] < second
        basis = np.where(told, known[sent], eve_basis[sent])
        basis = np.where(calibrating, alice_basis[sent], basis)  # a plain pair
        coin, other = rng.integers(0, 2, (2, sent.size))
        bit = np.where(basis == bob_basis[sent], bob_bit[sent], coin)
        bit = np.where(basis == alice_basis[sent], bit, other)
        clicked = 2 * alice_basis[sent] + bit
        times = arrive[sent] + rng.normal(0, 36, sent.size).astype(np.int64) + cables[0][clicked]
        times = np.clip(times, begin, end - 1)
        order = np.argsort(times, kind="stable")
        alice.feed(TagBatch(times[order], (clicked[order] + 1).astype(np.int16), begin, end))
        channel.run()
        i, j = np.searchsorted(bob_times, [begin, end])
        bob.feed(TagBatch(bob_times[i:j], bob_channels[i:j], begin, end))
        channel.run()
    alice.finish()
    bob.finish()
    channel.run()
    assert alice.result is not None
    assert bob.result is not None
    assert abs(offset + hold) < 100_000  # the attack went unseen until here
    metrics = refused((alice.result, bob.result), "above tolerance")
    assert metrics["sifted_bits"] > 1000
    assert metrics["qber"] == pytest.approx(0.25, abs=0.08)
    assert in_time == 0
    assert np.count_nonzero(known >= 0) >= metrics["sifted_bits"]


def test_too_few_bits_give_no_key() -> None:
    results = exchange(*parties(), recordings(pairs=1500))
    metrics = refused(results, "too few bits for a finite key")
    assert f"{metrics['block_bits']} sifted" in metrics["reason"]
    assert metrics["qber"] is not None
    assert metrics["leak_bits"] == 0


def test_a_dark_run_gives_no_key() -> None:
    # Calibrated, then the source is blocked.
    a, b = recordings(pairs=200)
    results = exchange(*parties(), (a, b))
    refused(results, "too few bits")

    def no_peak(*_: TagBatch) -> tuple[Mapping[int, int], Mapping[int, int]]:
        raise ProtocolError("no correlation peak above 5 sigma")

    alice = Alice(DETECTORS, PARAMETERS, find_delays=no_peak, match=match)
    results = exchange(alice, Bob(DETECTORS, PARAMETERS), recordings())
    refused(results, "no correlation peak")


def test_delays_must_cover_every_detector() -> None:
    alice = Alice(
        DETECTORS, PARAMETERS, find_delays=lambda *_: ({1: 0, 2: 0, 3: 0}, DELAYS_B), match=match
    )
    results = exchange(alice, Bob(DETECTORS, PARAMETERS), recordings())
    refused(results, "no delay found for channels [4]")


def test_a_recording_shorter_than_the_calibration_gives_no_key() -> None:
    a, b = (batch.split(CALIBRATION // 2)[0] for batch in recordings())
    refused(exchange(*parties(), (a, b)), "within the calibration segment")


def test_leak_beyond_its_budget_ends_the_run() -> None:
    tight = Parameters.plan(
        calibration_ps=CALIBRATION,
        tolerance=0.03,
        epsilon=1e-2,
        leak_efficiency=1.0001,
        expected_bits=9000,
    )
    alice, bob = parties(tight, seed=2)  # whose sample shows fewer errors than there are
    metrics = refused(exchange(alice, bob, recordings(24_000, 0.031, 0)), "reserved")
    assert metrics["leak_bits"] <= metrics["leak_budget_bits"]
    assert metrics["qber_sample"] <= 0.03


def test_parties_must_agree_on_the_terms(good: tuple[TagBatch, TagBatch]) -> None:
    alice, _ = parties()
    _, bob = parties(dataclasses.replace(PARAMETERS, tolerance=0.051))
    refused(exchange(alice, bob, good), "different parameters")


def test_a_block_left_with_errors_fails_verification(
    good: tuple[TagBatch, TagBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(Corrector):
        def request(self) -> Any:
            request = super().request()
            if request is None:
                self.bits[17] ^= 1
            return request

    monkeypatch.setattr(bbm92, "Corrector", Careless)
    metrics = refused(exchange(*parties(), good), "verification failed")
    assert metrics["failed_blocks"] == 1
    assert metrics["verify_bits"] == PARAMETERS.verify_bits


def test_double_clicks_cost_errors_and_are_counted() -> None:
    a, b = exchange(*parties(), recordings(qber=0.0, doubles=0.02))
    assert not a.metrics["aborted"]
    assert np.array_equal(a.key, b.key)
    for result in (a, b):
        assert 80 < result.metrics["double_clicks"] < 260
    # A double click gives a wrong bit half of the time where bases still agree.
    assert 0.005 < a.metrics["qber_reconciled"] < 0.04


def test_a_dark_detector_shows_in_the_mismatch() -> None:
    a, b = exchange(*parties(), recordings(blind_channel_b=2))
    assert b.metrics["efficiency_mismatch"]["Z"] == 1.0
    assert abs(b.metrics["efficiency_mismatch"]["X"]) < 0.1
    assert b.metrics["basis_bias"] == pytest.approx(-1 / 3, abs=0.05)
    assert abs(a.metrics["efficiency_mismatch"]["Z"]) < 0.1


def test_callers_mistakes_raise(good: tuple[TagBatch, TagBatch]) -> None:
    alice, bob = parties()
    exchange(alice, bob, good)
    with pytest.raises(ProtocolError, match="after the end"):
        alice.feed(good[0])
    alice.finish()
    alice, _ = parties()
    alice.feed(good[0].split(CALIBRATION)[0])
    with pytest.raises(ProtocolError, match="follow"):
        alice.feed(good[0])


@pytest.mark.parametrize(
    "junk",
    [
        "text",
        Envelope(0, None),  # type: ignore[arg-type]  # wrong on purpose
        Envelope(0, Parameters),  # type: ignore[arg-type]
        Envelope(10**5000, messages.Abort("too long a number to print")),
        Envelope(0, messages.Abort("\x1b[2J cleared your terminal")),
        Envelope(0, messages.Abort("\ud800")),
    ],
)
def test_what_is_no_message_ends_the_run_without_an_exception(junk: Any) -> None:
    alice, _ = parties()
    alice.receive(junk)
    assert alice.result is not None
    reason = alice.result.metrics["reason"]
    assert reason.isprintable()
    assert "terminal" not in reason


def test_a_reason_of_several_lines_reaches_the_peer(good: tuple[TagBatch, TagBatch]) -> None:
    def fail(*_: TagBatch) -> tuple[Mapping[int, int], Mapping[int, int]]:
        raise ProtocolError("no peak:\nis the source on?")

    alice = Alice(DETECTORS, PARAMETERS, find_delays=fail, match=match)
    _, b = exchange(alice, Bob(DETECTORS, PARAMETERS), good)
    assert b.metrics["reason"].endswith("no peak: is the source on?")


def test_a_calibration_segment_of_another_length_is_refused(
    good: tuple[TagBatch, TagBatch],
) -> None:
    def stretch(_: str, envelope: Envelope) -> Iterable[Envelope]:
        if isinstance(envelope.message, messages.Calibration):
            longer = dataclasses.replace(envelope.message, end_ps=1 << 60)
            return (dataclasses.replace(envelope, message=longer),)
        return (envelope,)

    refused(exchange(*parties(), good, stretch), "a calibration of a length")


def announced(change: Callable[[messages.Announcement], messages.Announcement]) -> Intercept:
    """Alters the first announcement that holds events."""
    done = False

    def alter(_: str, envelope: Envelope) -> Iterable[Envelope]:
        nonlocal done
        if done or not isinstance(envelope.message, messages.Announcement):
            return (envelope,)
        done = bool(envelope.message.times_ps.size)
        return (dataclasses.replace(envelope, message=change(envelope.message)),)

    return alter


def test_events_lie_between_the_calibration_and_their_horizon(
    good: tuple[TagBatch, TagBatch],
) -> None:
    def late(message: messages.Announcement) -> messages.Announcement:
        return dataclasses.replace(message, horizon_ps=int(message.times_ps[-1]))

    refused(exchange(*parties(), good, announced(late)), "before their own horizon")

    def early(message: messages.Announcement) -> messages.Announcement:
        times = message.times_ps.copy()
        times[0] = CALIBRATION - 80_000  # the longest delay is 70.7 ns
        return dataclasses.replace(message, times_ps=times)

    refused(exchange(*parties(), good, announced(early)), "earlier horizon")


@pytest.mark.parametrize("left", [1, 4, 5, 50, 300, 301])
def test_bobs_last_event_may_lie_on_his_rounded_horizon(left: int) -> None:
    _, bob = parties()
    channels = np.array([1, 1], np.int16)
    end = 300 * SPACING
    horizon = end - max(DELAYS_B.values()) - PARAMETERS.window_ps
    times = np.array([100 * SPACING, horizon - left + DELAYS_B[1]])
    bob.feed(TagBatch(times, channels, 0, end))
    delays = np.array(list(DELAYS_B.values()))
    bob.receive(
        Envelope(
            0,
            messages.Delays(np.array(list(DELAYS_B), np.int16), delays, np.zeros((4, 4), np.int64)),
        )
    )
    bob.feed(TagBatch(times[:0], channels[:0], end, end + SPACING))
    bob.finish()
    said = [e.message for e in bob.send() if isinstance(e.message, messages.Announcement)]
    assert sum(message.times_ps.size for message in said) == 1
    before = -(1 << 62)
    for message in said:
        message.check()
        assert before <= message.horizon_ps
        assert not message.times_ps.size or before <= message.times_ps[0]
        before = message.horizon_ps
    said = [message for message in said if message.times_ps.size]
    assert (said[0].horizon_ps == said[0].times_ps[-1] + 1) == (left < 6)


def test_delays_that_no_cable_has_are_refused(good: tuple[TagBatch, TagBatch]) -> None:
    for add, reason in (
        (np.array([0, 2_000_000, 0, 0]), "differ by more than 1 us"),
        (np.full(4, 3 * 10**12), "beyond 2 s"),
        (np.array([-(1 << 61), 0, 0, 0]), "beyond 2 s"),
    ):

        def alter(_: str, envelope: Envelope, add: Indices = add) -> Iterable[Envelope]:
            message: Any = envelope.message
            if isinstance(message, messages.Delays):
                message = dataclasses.replace(message, delays_ps=message.delays_ps + add)
            return (dataclasses.replace(envelope, message=message),)

        refused(exchange(*parties(), good, alter), reason)


def test_more_events_than_memory_holds_end_the_run(
    good: tuple[TagBatch, TagBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(messages, "MAX_EVENTS", 1000)
        refused(exchange(*parties(), good), "feed shorter batches")
    with monkeypatch.context() as patch:
        patch.setattr(bbm92, "_WAITING", 1000)
        refused(exchange(*parties(), good, parts=([0.2], [0.5])), "wait to be decided")


def test_what_the_peer_said_raises_nothing(
    good: tuple[TagBatch, TagBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("batch at 5 ps does not follow 7 ps")

    monkeypatch.setattr(Dating, "add_peer", broken)
    refused(exchange(*parties(), good), "cannot be used: batch at 5 ps")


def test_clicks_inside_losses_do_not_steer_the_clock() -> None:
    alice, _ = parties()
    clicks = recordings()[0]
    lost = Loss("overflow", 50 * SPACING, 120 * SPACING)
    alice.feed(dataclasses.replace(clicks.split(CALIBRATION + SPACING)[0], losses=(lost,)))
    segment = alice._clicks.calibration
    assert segment is not None
    given = bbm92._as_events(segment, DETECTORS, DELAYS_A, 0)
    inside = (given.times_ps > lost.begin_ps) & (given.times_ps < lost.end_ps - 2000)
    assert given.times_ps.size > 100
    assert not inside.any()


def test_silence_counts_only_after_the_recording(good: tuple[TagBatch, TagBatch]) -> None:
    alice, _ = parties()
    alice.feed(good[0])
    alice.tick(500.0)
    alice.finish()
    reasons = []
    for now in (559.0, 561.0):
        alice.tick(now)
        reasons.append(alice.result.metrics["reason"] if alice.result else "")
    assert reasons == ["", "no message from bob for 60 s"]


def test_a_key_counts_only_where_both_hold_the_same(good: tuple[TagBatch, TagBatch]) -> None:
    a, b = exchange(*parties(), good)
    assert joint_result(a, b) is a

    def spoil(_: str, envelope: Envelope) -> Iterable[Envelope]:
        if isinstance(envelope.message, messages.Confirmation):
            message = dataclasses.replace(envelope.message, sent=bytes(32))
            return (dataclasses.replace(envelope, message=message),)
        return (envelope,)

    a, b = exchange(*parties(), good, spoil)
    assert a.key.size > 0
    assert not a.metrics["aborted"]
    joint = joint_result(a, b)
    assert joint.key.size == 0
    assert joint.metrics["secret_key_bits"] == 0
    assert joint.metrics["epsilon"] is None
    assert "transcripts differ" in joint.metrics["reason"]

    with pytest.raises(ProtocolError, match="different keys"):
        joint_result(a, dataclasses.replace(a, key=1 - a.key))


def altered(value: Any, data: st.DataObject) -> Any:
    """The value with one thing changed, within its type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        change = st.sampled_from([1, -1, 2**40, -(2**62), 2**127])
        return value + data.draw(change)
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, bytes):
        i = data.draw(st.integers(0, len(value) - 1))
        return value[:i] + bytes([value[i] ^ 1]) + value[i + 1 :]
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1)
        action = data.draw(st.sampled_from(["flip", "flip", "high", "drop", "repeat", "type"]))
        if action == "type":
            return value.astype(np.float64)
        if not flat.size:
            return np.append(flat, np.zeros(1, value.dtype))
        i = data.draw(st.integers(0, flat.size - 1))
        if action == "drop":
            return np.delete(flat, i)
        if action == "repeat":
            return np.insert(flat, i, flat[i])
        changed = flat.copy()
        bits = 8 * value.dtype.itemsize
        changed.view(f"u{value.dtype.itemsize}")[i] ^= 1 << (0 if action == "flip" else bits - 1)
        return changed.reshape(value.shape)
    if isinstance(value, Parameters):
        return dataclasses.replace(value, verify_bits=value.verify_bits + 1)
    if isinstance(value, Detectors):
        flipped = tuple((channel, basis, 1 - bit) for channel, basis, bit in value.meaning)
        return Detectors(flipped)
    raise AssertionError(f"a message holds a {type(value)}")


KINDS = [
    messages.Calibration,
    messages.Delays,
    messages.Announcement,
    messages.Paired,
    messages.Bases,
    messages.Sifted,
    messages.Monitored,
    messages.Sample,
    messages.SampleReply,
    messages.ParityRequest,
    messages.ParityReply,
    messages.Reconciled,
    messages.Verification,
    messages.Verdict,
    messages.Confirmation,
]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_altered_messages_never_leave_two_keys(kind: type[Any], data: st.DataObject) -> None:
    skip = data.draw(st.integers(0, 3 if kind is not messages.ParityReply else 60))
    field = data.draw(st.sampled_from([f.name for f in dataclasses.fields(kind)]))
    action = data.draw(st.sampled_from(["alter"] * 4 + ["drop", "repeat", "renumber"]))
    done = False
    count = 0

    def tamper(_: str, envelope: Envelope) -> Iterable[Envelope]:
        nonlocal done, count
        if not isinstance(envelope.message, kind) or done:
            return (envelope,)
        count += 1
        if count <= skip and kind in (
            messages.Announcement,
            messages.Paired,
            messages.Bases,
            messages.Sifted,
            messages.Monitored,
            messages.ParityRequest,
            messages.ParityReply,
        ):
            return (envelope,)
        done = True
        if action == "drop":
            return ()
        if action == "repeat":
            return (envelope, envelope)
        if action == "renumber":
            return (dataclasses.replace(envelope, number=envelope.number + 1),)
        value = altered(getattr(envelope.message, field), data)
        message: Any = dataclasses.replace(envelope.message, **{field: value})
        return (dataclasses.replace(envelope, message=message),)

    a, b = exchange(*parties(), CLICKS, tamper, parts=([0.2, 0.5], [0.3, 0.6]))
    accepted = [result for result in (a, b) if not result.metrics["aborted"]]
    assert all(result.key.size > 0 for result in accepted)
    if not done:
        assert np.array_equal(a.key, b.key)
        return
    if len(accepted) == 2:
        # Only a repeat that came after the end goes unnoticed.
        assert action == "repeat"
        assert kind in (messages.Verdict, messages.Confirmation)
        assert np.array_equal(a.key, b.key)
    elif accepted:
        # Whoever speaks last cannot know: Alice may then hold a key that Bob has not.
        assert accepted[0] is a
        assert kind in (messages.Verification, messages.Verdict, messages.Confirmation)
        assert action == "repeat" or kind is not messages.Verification
    assert all(result.metrics["reason"] for result in (a, b) if result.key.size == 0)


CLICKS = recordings(5000, seed=5)


def test_the_clicks_for_tampering_do_give_a_key() -> None:
    a, b = exchange(*parties(), CLICKS, parts=([0.2, 0.5], [0.3, 0.6]))
    assert not a.metrics["aborted"], a.metrics["reason"]
    assert np.array_equal(a.key, b.key)
