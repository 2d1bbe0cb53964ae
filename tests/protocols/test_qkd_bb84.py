"""Decoy-state BB84 between two parties, on a channel whose photons are counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, ProtocolError, TagBatch
from bellbench.protocols.qkd import Detectors, SeededRandomness, Session, join, messages, wire
from bellbench.protocols.qkd.authentication import memory_pads
from bellbench.protocols.qkd.bb84 import (
    Bb84Alice,
    Bb84Bob,
    Bb84Terms,
    DecoyCounts,
    block_bound,
    block_terms,
    calibration_pulses,
    receiver_gains,
)
from bellbench.protocols.qkd.decoy import DecoyBound
from bellbench.protocols.qkd.estimation import ErrorHistory
from bellbench.protocols.qkd.finite_key import binary_entropy
from bellbench.protocols.qkd.sink import MemorySink
from bellbench.protocols.qkd.slots import Pulses
from hypothesis import given, settings
from hypothesis import strategies as st

Intercept = Callable[[str, bytes], Iterable[bytes]]

DETECTORS = Detectors.of({1: ("Z", 0), 2: ("Z", 1), 3: ("X", 0), 4: ("X", 1)})
DELAYS = np.array([0, 0, 700, -12_300, 4_100])  # by channel
PERIOD = 100_000
PPM = 7.0
#: Weak security targets let short blocks give a key, which keeps these tests quick.
TERMS = Bb84Terms(
    intensities=(0.3, 0.1, 5e-4),
    probabilities=(0.2, 0.5, 0.3),
    z_fraction=0.6,
    shots=2,
    slots=800_000,
    preamble=1024,
    period_ps=PERIOD,
    eps_sec=1e-3,
    eps_cor=1e-6,
    total_epsilon=0.5,
    tolerance=0.09,
)
ONE_DECOY = dataclasses.replace(
    TERMS, preamble=8192, bound="rusca", intensities=(0.15, 0.05), probabilities=(0.5, 0.5)
)


@dataclass
class Channel:
    """Light from Alice to Bob, photon by photon.

    Attributes:
        efficiency: From the source to a click.
        misalignment: Photons in the wrong detector of a basis.
        attacked: Share of the pulses that an eavesdropper measures in a random basis and sends
            on as she found them, as many photons as there were.
        photons: Of every pulse behind a preamble, shot by shot.
        phase: Probability that a single photon errs in the basis in which it was not prepared,
            had it been sent in that one.
    """

    efficiency: float = 0.9
    misalignment: float = 0.01
    attacked: float = 0.0
    dark: float = 1e-6
    seed: int = 0
    blocked: frozenset[int] = frozenset()
    photons: list[npt.NDArray[np.int64]] = field(default_factory=list)
    phase: list[npt.NDArray[np.float64]] = field(default_factory=list)
    now_ps: int = 0
    shots: int = 0

    def batch(self, pulses: Pulses, intensities: tuple[float, ...], preamble: int) -> TagBatch:
        """What Bob's tagger records of a shot."""
        rng = np.random.default_rng((self.seed, self.shots))
        n = len(pulses)
        photons = rng.poisson(np.array(intensities)[pulses.intensities])
        self.photons.append(photons[preamble:])
        attacked = rng.random(n) < self.attacked
        basis = np.where(attacked, rng.integers(0, 2, n), pulses.bases)
        bit = np.where(basis == pulses.bases, pulses.bits, rng.integers(0, 2, n))
        spoiled = attacked & (basis == pulses.bases)  # she learns it, the phase is lost
        e = self.misalignment
        self.phase.append(np.where(spoiled, 0.5, e)[preamble:])
        slot = np.repeat(np.arange(n), photons)
        slot = slot[rng.random(slot.size) < self.efficiency * (self.shots not in self.blocked)]
        measured = rng.integers(0, 2, slot.size)
        right = measured == basis[slot]
        outcome = np.where(right, bit[slot] ^ (rng.random(slot.size) < e), 0)
        outcome = np.where(right, outcome, rng.integers(0, 2, slot.size))
        dark = rng.integers(0, n, rng.poisson(4 * self.dark * n))
        which = np.concatenate([2 * measured + outcome, rng.integers(0, 4, dark.size)])
        channel = (which + 1).astype(np.int16)
        at = np.concatenate([slot, dark]) * (PERIOD * (1 + PPM * 1e-6))
        at += rng.normal(0.0, 100.0, at.size) + DELAYS[channel] + self.now_ps + 3_000_000
        times = np.rint(at).astype(np.int64)
        order = np.argsort(times, kind="stable")
        begin = self.now_ps
        self.now_ps = begin + 10_000_000 + round(n * PERIOD * 1.001)
        self.shots += 1
        return TagBatch(times[order], channel[order], begin, self.now_ps)


@dataclass
class Exchange:
    """Both parties, joined by a channel."""

    terms: Bb84Terms
    channel: Channel
    intercept: Intercept | None = None

    def __post_init__(self) -> None:
        pads = memory_pads(bytes(range(256)) * 16)
        self.sinks = [MemorySink(rehearsal=True, append=pool.extend) for pool in pads]
        self.sent: list[Pulses] = []
        self.kept: list[npt.NDArray[np.int64]] = []

        def sender(randomness: object, history: ErrorHistory) -> Bb84Alice:
            self.sender = Bb84Alice(self.terms, SeededRandomness(1, "a"), history)
            return self.sender

        def receiver(randomness: object, history: ErrorHistory) -> Bb84Bob:
            self.receiver = Bb84Bob(self.terms, SeededRandomness(1, "b"), history, DETECTORS)
            return self.receiver

        self.alice, self.bob = (
            Session(
                role,  # type: ignore[arg-type]
                None,
                self.terms,
                sink=self.sinks[i],
                pads=pads[i],
                sifting=(sender, receiver)[i],
                twins=True,
                randomness=SeededRandomness(1, role),
                reserve_pads=2,
            )
            for i, role in enumerate(("alice", "bob"))
        )
        join(self.alice, self.bob)

    def watch(self, sender: str, data: bytes) -> Iterable[bytes]:
        """Remember which slots were kept."""
        message = wire.decode(data).message
        if isinstance(message, messages.Detected):
            self.told = message.slots
        if isinstance(message, messages.Prepared):
            self.kept.append(self.told[message.kept.astype(np.bool_)])
        return (data,) if self.intercept is None else self.intercept(sender, data)

    def run(self, blocks: int = 1) -> Exchange:
        known = calibration_pulses(self.terms, 20_000)
        light = dataclasses.replace(self.channel, attacked=0.0, photons=[], phase=[], shots=99)
        self.receiver.calibrate(light.batch(known, self.terms.intensities, 0), 20_000)
        for _ in range(blocks * self.terms.shots):
            if self.alice.over or self.bob.over:
                break
            pulses = self.sender.prepare()
            self.sent.append(pulses)
            whole = self.channel.batch(pulses, self.terms.intensities, self.terms.preamble)
            first, second = whole.split((whole.begin_ps + whole.end_ps) // 2)
            self.bob.feed(first)
            self.sender.sent()
            self.alice.advance()
            join(self.alice, self.bob, self.watch)
            self.bob.feed(second)
            join(self.alice, self.bob, self.watch)
            if self.sender.waiting and not self.bob.over:
                end = self.channel.now_ps
                self.channel.now_ps += self.terms.patience_ps
                none = np.zeros(0, np.int64)
                empty = TagBatch(none, none.astype(np.int16), end, self.channel.now_ps)
                self.bob.feed(empty)
                join(self.alice, self.bob, self.watch)
        self.alice.finish()
        self.bob.finish()
        join(self.alice, self.bob, self.watch)
        return self

    def keys(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        first, second = (
            {name: sink.key(name) for name in sink.committed(self.names)} for sink in self.sinks
        )
        return first, second

    @property
    def names(self) -> list[str]:
        return [f"{self.alice.session_id}/{i}" for i in range(self.alice.blocks_opened)]


@pytest.fixture(scope="module")
def honest() -> Exchange:
    return Exchange(TERMS, Channel()).run()


@pytest.fixture(scope="module")
def attacked() -> Exchange:
    return Exchange(TERMS, Channel(attacked=0.05)).run()


def test_both_hold_the_same_key_and_the_same_counts(honest: Exchange) -> None:
    first, second = honest.keys()
    assert honest.alice.reason == honest.bob.reason == ""
    assert first == second
    assert len(first) == 1
    assert honest.sender.blocks == honest.receiver.blocks
    report = honest.bob.take_reports()[0]
    counts, bound = honest.sender.blocks[0]
    assert report.reason == ""
    assert report.sifted_bits == sum(counts.key)
    assert report.monitored_compared == (0, sum(counts.test))
    assert report.monitored_errors == (0, sum(counts.wrong))
    assert report.key_bits == 8 * (bound.length // 8)
    assert report.sample_bits == 0
    # leak: not below Shannon's limit, within the reserve, and the reserve is charged
    assert report.corrected_errors is not None
    n = report.reconciled_bits
    assert report.leak_bits >= n * binary_entropy(report.corrected_errors / n)
    assert report.leak_bits <= report.leak_budget_bits
    _, reserve = block_bound(TERMS, counts)
    assert report.leak_budget_bits == reserve
    assert report.disclosed_bits["alice test"] == report.disclosed_bits["bob test"]
    assert report.disclosed_bits["alice test"] == sum(counts.test)
    # 0: Alice's basis, 1: Bob's; half of the light goes to each basis
    tally = honest.sender.tally
    assert tally.sent.sum() == TERMS.shots * TERMS.slots
    assert tally.detected.sum() == report.coincidences
    kept = tally.detected[:, 0, 0].sum() + tally.detected[:, 1, 1].sum()
    assert kept == report.sifted_bits + sum(counts.test)


def test_delays_are_found_and_gains_are_those_of_the_closed_form(honest: Exchange) -> None:
    delays = honest.receiver.delays
    assert delays is not None
    for channel in DETECTORS.channels:
        assert delays[channel] == pytest.approx(DELAYS[channel], abs=30)
    gains, kept, errors = receiver_gains(TERMS.intensities, 0.9, 1e-6, 0.01)
    tally, (counts, _) = honest.sender.tally, honest.sender.blocks[0]
    sent = tally.sent.sum(axis=1)
    for k in range(3):
        mean = sent[k] * gains[k]
        assert abs(tally.detected[k].sum() - mean) < 4 * np.sqrt(mean) + 2
        for basis, found in ((0, counts.key[k]), (1, counts.test[k])):
            mean = tally.sent[k, basis] * kept[k]
            assert abs(found - mean) < 4 * np.sqrt(mean) + 2
        mean = counts.test[k] * errors[k]
        assert abs(counts.wrong[k] - mean) < 4 * np.sqrt(mean) + 2


def truth(found: Exchange) -> tuple[int, int, float]:
    """Of the key bits: how many from empty pulses, from single photons, their phase errors."""
    terms, channel = found.terms, found.channel
    none = one = 0
    phase = 0.0
    for shot, pulses in enumerate(found.sent):
        kept, photons = found.kept[shot], channel.photons[shot]
        key = kept[pulses.bases[terms.preamble :][kept] == 0]
        none += int(np.count_nonzero(photons[key] == 0))
        single = key[photons[key] == 1]
        one += single.size
        phase += float(channel.phase[shot][single].sum())
    return none, one, phase / max(one, 1)


def inside(found: Exchange, bound: DecoyBound) -> None:
    """What is bounded lies within the bound, and the bound is not idle."""
    none, one, phase = truth(found)
    assert 0.0 <= bound.vacuum <= none
    assert 0.3 * one < bound.single <= one
    assert phase <= bound.phase_error < phase + 0.25
    assert bound.length < one * (1 - binary_entropy(min(phase, 0.5)))


def test_what_the_photons_were_lies_within_the_bounds(honest: Exchange, attacked: Exchange) -> None:
    for found in (honest, attacked):
        counts, bound = found.sender.blocks[0]
        assert bound == block_bound(TERMS, counts)[0]
        inside(found, bound)
        inside(found, block_bound(dataclasses.replace(TERMS, bound="lim"), counts)[0])


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_one_decoy_and_the_errors_that_reconciliation_found(share: float) -> None:
    found = Exchange(ONE_DECOY, Channel(attacked=share, seed=3)).run()
    counts, bound = found.sender.blocks[0]
    inside(found, bound)
    report = found.bob.take_reports()[0]
    assert found.keys()[0] == found.keys()[1]
    if share:
        assert bound.length == report.key_bits == 0
        return
    assert report.corrected_errors is not None
    final, _ = block_bound(ONE_DECOY, counts, report.corrected_errors)
    inside(found, final)
    assert final.length > bound.length > 0  # it is only known to be longer afterwards
    assert report.key_bits == 8 * (final.length // 8)


def test_intercept_and_resend_shortens_the_key_and_then_stops_it(
    honest: Exchange, attacked: Exchange
) -> None:
    (clean, longer), (spoiled, shorter) = (found.sender.blocks[0] for found in (honest, attacked))
    assert clean.test_error is not None
    assert spoiled.test_error is not None
    # a quarter of what she touches, less the errors that were there
    assert spoiled.test_error - clean.test_error == pytest.approx(0.05 * 0.24, abs=0.004)
    assert longer.length > 1.4 * shorter.length > 0
    assert 8 * sum(len(key) for key in attacked.keys()[1].values()) <= shorter.length
    small = dataclasses.replace(TERMS, slots=50_000)
    whole = Exchange(small, Channel(attacked=1.0)).run()
    counts, bound = whole.sender.blocks[0]
    assert counts.test_error == pytest.approx(0.255, abs=0.03)
    assert bound.length == 0
    reports = whole.alice.take_reports()
    assert [report.key_bits for report in reports] == [0]
    assert "QBER 2" in reports[0].reason
    assert "above tolerance 9.00%" in reports[0].reason
    assert whole.keys() == ({}, {})


@pytest.mark.parametrize("kind", ["Sent", "Received", "Detected", "Prepared", "Tested"])
def test_an_altered_message_gives_no_key(kind: str) -> None:
    altered: list[str] = []

    def lie(sender: str, data: bytes) -> Iterable[bytes]:
        message = wire.decode(data).message
        if type(message).__name__ != kind or altered:
            return (data,)
        altered.append(kind)
        return (data[:-1] + bytes([data[-1] ^ 1]),)

    found = Exchange(TERMS, Channel(), lie).run()
    assert altered
    assert found.keys() == ({}, {})
    assert found.alice.reason
    assert found.bob.reason


def test_nothing_is_announced_before_the_last_shot_was_received() -> None:
    seen: list[str] = []

    def watch(sender: str, data: bytes) -> Iterable[bytes]:
        seen.append(type(wire.decode(data).message).__name__)
        return (data,)

    terms = dataclasses.replace(TERMS, shots=3, slots=8000)
    Exchange(terms, Channel(), watch).run(blocks=2)
    quiet = ["Sent", "Received"] * 3
    assert seen[:6] == quiet
    assert seen[6:15] == ["Detected", "Prepared", "Tested"] * 3
    second = seen.index("Sent", 15)
    assert [name for name in seen[second:] if name in quiet] == quiet
    assert seen.index("Detected", second) > len(seen) - seen[::-1].index("Received") - 1


def test_a_shot_that_is_lost_leaves_a_block_of_fewer_bits() -> None:
    found = Exchange(TERMS, Channel(blocked=frozenset({0}), seed=1)).run()
    assert found.sender.tally.lost_shots == 1
    assert found.alice.reason == ""
    counts, _ = found.sender.blocks[0]
    assert sum(counts.key) > 5000
    assert found.keys()[0] == found.keys()[1]


def test_a_loss_of_the_tagger_is_no_detection() -> None:
    found = Exchange(dataclasses.replace(TERMS, shots=1), Channel())
    found.receiver.calibrate(
        dataclasses.replace(found.channel, photons=[], phase=[], shots=99).batch(
            calibration_pulses(found.terms, 20_000), TERMS.intensities, 0
        ),
        20_000,
    )
    pulses = found.sender.prepare()
    whole = found.channel.batch(pulses, TERMS.intensities, TERMS.preamble)
    first = whole.begin_ps + 3_000_000 + PERIOD * (TERMS.preamble + 1000)
    loss = Loss("overflow", first, first + 500 * PERIOD)
    found.bob.feed(dataclasses.replace(whole, losses=(loss,)))
    found.sender.sent()
    found.alice.advance()
    slots: list[int] = []

    def watch(sender: str, data: bytes) -> Iterable[bytes]:
        message = wire.decode(data).message
        if isinstance(message, messages.Detected):
            slots.extend(message.slots.tolist())
        return (data,)

    join(found.alice, found.bob, watch)
    assert len(slots) > 1000
    assert not [slot for slot in slots if 1001 <= slot <= 1498]


def quiet_bob(terms: Bb84Terms = TERMS) -> Bb84Bob:
    delays = {channel: int(DELAYS[channel]) for channel in DETECTORS.channels}
    return Bb84Bob(terms, SeededRandomness(1, "b"), ErrorHistory(), DETECTORS, known_delays=delays)


def test_messages_out_of_place_are_refused() -> None:
    one = np.zeros(1, np.uint8)
    none = np.zeros(0, np.uint8)
    bob = quiet_bob()
    for block, message in (
        (0, messages.Sent(1)),
        (1, messages.Sent(0)),
        (0, messages.Prepared(0, none, none, none)),
        (0, messages.Received(0, True)),
    ):
        with pytest.raises(ProtocolError, match=r"alice sent .* does not belong here"):
            bob.handle(block, message)
    bob.handle(0, messages.Sent(0))
    with pytest.raises(ProtocolError, match="does not belong here"):
        bob.handle(0, messages.Sent(1))  # the first is not received yet

    alice = Bb84Alice(TERMS, SeededRandomness(1, "a"), ErrorHistory())
    with pytest.raises(ProtocolError, match="no shot"):
        alice.sent()
    first = alice.prepare()
    with pytest.raises(ProtocolError, match="one is on its way"):
        alice.prepare()
    with pytest.raises(ProtocolError, match="does not belong here"):
        alice.handle(0, messages.Received(0, True))  # not sent yet
    alice.sent()
    with pytest.raises(ProtocolError, match="one is on its way"):
        alice.prepare()
    alice.handle(0, messages.Received(0, True))
    early = messages.Detected(0, np.array([5]), one)
    with pytest.raises(ProtocolError, match="does not belong here"):
        alice.handle(0, early)  # within the block
    with pytest.raises(ProtocolError, match="after 1 of the 2 shots"):
        alice.finish()
    alice = Bb84Alice(TERMS, SeededRandomness(1, "a"), ErrorHistory())
    assert (alice.prepare().bits == first.bits).all()
    for shot in (0, 1):
        if shot:
            second = alice.prepare()
            assert 0.4 < np.mean(second.bits == first.bits) < 0.6
        alice.sent()
        alice.handle(0, messages.Received(shot, True))
    far = messages.Detected(0, np.array([TERMS.slots]), one)
    for wrong in (far, messages.Detected(1, np.array([5]), one)):
        with pytest.raises(ProtocolError, match="does not belong here"):
            alice.handle(0, wrong)
    alice.handle(0, messages.Detected(0, np.array([5]), one))
    with pytest.raises(ProtocolError, match="does not belong here"):
        alice.handle(0, messages.Detected(1, np.array([5]), one))
    with pytest.raises(ProtocolError, match="does not belong here"):
        alice.handle(0, messages.Tested(0, np.zeros(9, np.uint8)))
    with pytest.raises(ProtocolError, match="takes no clicks"):
        alice.feed(TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, 1))


def test_a_calibration_that_cannot_be_trusted_is_refused() -> None:
    known = calibration_pulses(TERMS, 20_000)
    dark = Channel(efficiency=0.0)
    bright = Channel(misalignment=0.3)
    bob = Bb84Bob(TERMS, SeededRandomness(1, "b"), ErrorHistory(), DETECTORS)
    with pytest.raises(ProtocolError, match="shows no pulses"):
        bob.calibrate(dark.batch(known, TERMS.intensities, 0), 20_000)
    with pytest.raises(ProtocolError, match="errors in Z: align"):
        bob.calibrate(bright.batch(known, TERMS.intensities, 0), 20_000)
    other = Pulses(known.intensities[::-1].copy(), known.bases, known.bits)
    with pytest.raises(ProtocolError, match="is not found"):
        bob.calibrate(Channel().batch(other, TERMS.intensities, 0), 20_000)
    assert bob.calibrating
    with pytest.raises(ProtocolError, match="does not belong here"):
        bob.handle(0, messages.Sent(0))
    bob.calibrate(Channel().batch(known, TERMS.intensities, 0), 20_000)
    assert not bob.calibrating


@settings(max_examples=60, deadline=None)
@given(
    key=st.tuples(*[st.integers(0, 10**6)] * 3),
    test=st.tuples(*[st.integers(0, 10**5)] * 3),
    share=st.floats(0.0, 0.5),
    bound=st.sampled_from(["variable", "lim", "rusca"]),
)
def test_terms_of_any_counts(
    key: tuple[int, ...],
    test: tuple[int, ...],
    share: float,
    bound: Literal["variable", "lim", "rusca"],
) -> None:
    """More errors never lengthen a key, and no length exceeds what is left of the key basis."""
    if bound == "rusca":
        terms, key, test = ONE_DECOY, key[:2], test[:2]
    else:
        terms = dataclasses.replace(TERMS, bound=bound)
    counts = DecoyCounts(key, test, tuple(int(share * n) for n in test))
    clean = DecoyCounts(key, test, (0,) * len(test))
    found, best = block_terms(terms, counts), block_terms(terms, clean)
    length, most = found.length(0), best.length(0)
    assert length is not None
    assert most is not None
    assert length.length <= most.length <= sum(key)
    assert found.length(10**6) == length  # the reserve is charged, whatever was used
    assert found.sample_bits == 0
    assert bool(found.refusal) == (counts.test_error is None or counts.test_error > terms.tolerance)
    assert length.raw <= sum(key) - found.leak_budget - found.verify_bits


def test_terms_out_of_range_are_refused() -> None:
    for changes, words in (
        ({"z_fraction": 1.0}, "z_fraction"),
        ({"shots": 0}, "shots"),
        ({"slots": 0}, "slots"),
        ({"preamble": 1}, "preamble"),
        ({"gate_ps": PERIOD + 1}, "gate_ps"),
        ({"eps_cor": 1e-60}, "eps_cor"),
        ({"total_epsilon": 1e-9}, "total_epsilon"),
        ({"leak_efficiency": 1.0}, "Shannon"),
        ({"bound": "rusca"}, "two intensities"),
        ({"bound": "gllp"}, "bound"),
        ({"probabilities": (0.5, 0.2, 0.2)}, "add up"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TERMS, **changes)
    assert TERMS.digest() != dataclasses.replace(TERMS, gate_ps=999).digest()


def test_no_secret_is_shown(honest: Exchange) -> None:
    shown = repr(honest.sent[0]) + repr(honest.sender) + repr(honest.receiver)
    assert "array" not in shown
