"""MDI: parties and relay on synthetic channels whose truth is known, lies, and broken messages."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError, TagBatch
from bellbench.protocols.qkd import SeededRandomness, Session, join, wire
from bellbench.protocols.qkd import messages as msg
from bellbench.protocols.qkd.authentication import HEAD_BYTES, PAIR_BYTES, memory_pads
from bellbench.protocols.qkd.estimation import ErrorHistory
from bellbench.protocols.qkd.finite_key import binary_entropy
from bellbench.protocols.qkd.mdi import DETECTORS, MdiAlice, MdiBob, MdiTerms, Relay
from bellbench.protocols.qkd.mdi_bound import RelayLink
from bellbench.protocols.qkd.mdi_link import fit_relay, relay_gains
from bellbench.protocols.qkd.randomness import Randomness, Words
from bellbench.protocols.qkd.sink import MemorySink
from bellbench.sims.physics.coherent import click_patterns, station_means
from hypothesis import given, settings
from hypothesis import strategies as st

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]
Party = MdiAlice | MdiBob

PERIOD_PS = 80_000


def terms(slots: int, shots: int = 1, **others: Any) -> MdiTerms:
    basic: dict[str, Any] = {
        "alice": (0.5, 0.1, 0.0),
        "bob": (0.5, 0.1, 0.0),
        "probabilities": (0.2, 0.5, 0.3),
        "z_fraction": 0.5,
        "period_ps": PERIOD_PS,
        "preamble": 1,
        "gate_ps": 4000,
        "eps_sec": 1e-8,
        "eps_cor": 1e-12,
        "tolerance": 0.015,
        "leak_efficiency": 1.15,
    }
    return MdiTerms(**basic | {"slots": slots, "shots": shots} | others)


class Chosen:
    """Randomness that makes a party send what a test wants, and is seeded else."""

    kind: Literal["seeded"] = "seeded"

    def __init__(self, party: str, pulses: list[Words], seed: int = 1) -> None:
        self._seeded = SeededRandomness(seed, party)
        self._pulses = {f"pulses of shot {shot}": words for shot, words in enumerate(pulses)}

    def words(self, purpose: str, start: int, count: int) -> Words:
        chosen = self._pulses.get(purpose)
        return self._seeded.words(purpose, start, count) if chosen is None else chosen[:count]


def words_of(intensities: Ints, bases: Ints, bits: Ints) -> Words:
    """The words from which a party chooses these."""
    first = np.array([0, 1 << 31, (1 << 32) - 1], np.uint64)  # of shares .2, .5, .3
    middle = np.where(bases == 1, 0x7FFFFFFF, 0).astype(np.uint64)
    found: Words = first[intensities] << np.uint64(32)
    found |= middle << np.uint64(1)
    found |= bits.astype(np.uint64)
    return found


@dataclasses.dataclass(frozen=True)
class Announced:
    """Slots in which a relay announced something, and the truth about them."""

    words: tuple[Words, Words]
    states: Bits
    #: Photons that both sent, bases, and whether it is an error.
    photons: tuple[Ints, Ints]
    bases: tuple[Ints, Ints]
    intensities: tuple[Ints, Ints]
    wrong: npt.NDArray[np.bool_]


def announce(
    count: int,
    yields: npt.NDArray[np.float64],
    error_z: float,
    errors_x: npt.NDArray[np.float64],
    seed: int = 3,
) -> Announced:
    """A relay that announces with these yields; only settings of announced slots are drawn.

    Args:
        count: Announcements, in all bases.
        yields: By photons of Alice and Bob.
        error_z: Of all of them in Z.
        errors_x: By photons, in X.
    """
    rng = np.random.default_rng(seed)
    agreed = terms(2)
    n = np.arange(len(yields))
    factorial = np.array([math.factorial(k) for k in n], float)
    mu, p = np.array(agreed.alice), np.array(agreed.probabilities)
    photons = np.exp(-mu)[:, None] * mu[:, None] ** n / factorial * p[:, None]
    weights = np.einsum("in,jm,nm->ijnm", photons, photons, yields)
    cell = rng.choice(weights.size, count, p=(weights / weights.sum()).ravel())
    i, j, a, b = np.unravel_index(cell, weights.shape)
    bases = rng.integers(0, 2, (2, count))
    states = rng.integers(0, 2, count).astype(np.uint8)
    bit_a = rng.integers(0, 2, count)
    wrong = rng.random(count) < np.where(bases[0] == 1, errors_x[a, b], error_z)
    wrong[bases[0] != bases[1]] = rng.random(int((bases[0] != bases[1]).sum())) < 0.5
    flip = (states == 0) | (bases[1] == 0)
    bit_b = bit_a ^ wrong ^ flip
    return Announced(
        (words_of(i, bases[0], bit_a), words_of(j, bases[1], bit_b)),
        states,
        (a, b),
        (bases[0], bases[1]),
        (i, j),
        wrong,
    )


class Exchange:
    """Two sessions in one process, and whatever claims to be a relay."""

    def __init__(self, agreed: MdiTerms, random: tuple[Randomness, Randomness]) -> None:
        self.terms = agreed
        pads = memory_pads(bytes(range(256)) * 8 + bytes(HEAD_BYTES + 20 * PAIR_BYTES))
        self.sinks = [MemorySink(append=pool.extend) for pool in pads]
        self.parties: list[Party] = []
        kinds: tuple[type[Party], type[Party]] = (MdiAlice, MdiBob)

        def session(k: Literal[0, 1]) -> Session:
            def sifting(randomness: Randomness, history: ErrorHistory) -> Party:
                self.parties.append(kinds[k](agreed, randomness, history))
                return self.parties[-1]

            return Session(
                "alice" if k == 0 else "bob",
                None,
                agreed,
                sink=self.sinks[k],
                pads=pads[k],
                sifting=sifting,
                randomness=random[k],
                reserve_pads=4,
            )

        self.alice, self.bob = session(0), session(1)
        join(self.alice, self.bob)

    def shot(
        self,
        heralds: bytes,
        intercept: Callable[[str, bytes], Iterable[bytes]] | None = None,
    ) -> None:
        for party in self.parties:
            party.prepare()
        self.tell(heralds, intercept)

    def tell(
        self,
        heralds: bytes,
        intercept: Callable[[str, bytes], Iterable[bytes]] | None = None,
    ) -> None:
        alice = self.parties[0]
        assert isinstance(alice, MdiAlice)
        alice.heralds(heralds)
        self.alice.advance()
        join(self.alice, self.bob, intercept)

    def finish(self) -> None:
        self.alice.finish()
        self.bob.finish()
        join(self.alice, self.bob)


def frame(shot: int, slots: Ints, states: Bits, offset: int = 0) -> bytes:
    return wire.encode(wire.Frame(None, shot, msg.Heralds(shot, offset, slots, states)))


def run(told: Announced, shots: int = 2) -> Exchange:
    """Exchange with every slot announced, in some shots."""
    each = told.states.size // shots
    pieces = [slice(k * each, (k + 1) * each) for k in range(shots)]
    random = tuple(
        Chosen(name, [words[piece] for piece in pieces])
        for name, words in zip(("alice", "bob"), told.words, strict=True)
    )
    exchange = Exchange(terms(each + 1, shots), (random[0], random[1]))
    for k, piece in enumerate(pieces):
        exchange.shot(frame(k, np.arange(1, each + 1), told.states[piece]))
    exchange.finish()
    return exchange


# ------------------------------------------------------------------------- a key, and the truth

COUNT = 1_200_000
#: A relay that prefers single pairs, more than linear optics can: the bound must not care.
YIELDS = np.full((6, 6), 0.02)
YIELDS[0, :] = YIELDS[:, 0] = 1e-3
YIELDS[0, 0] = 1e-7
YIELDS[1, 1] = 0.5
ERRORS_X = np.full((6, 6), 0.5)
ERRORS_X[1, 1] = 0.02
ERROR_Z = 0.01


@pytest.fixture(scope="module")
def honest() -> tuple[Announced, Exchange]:
    told = announce(COUNT, YIELDS, ERROR_Z, ERRORS_X)
    return told, run(told)


def key_slots(told: Announced, state: int) -> npt.NDArray[np.bool_]:
    (basis_a, basis_b), (i, j) = told.bases, told.intensities
    both = (basis_a == 0) & (basis_b == 0) & (i == 0) & (j == 0)
    found: npt.NDArray[np.bool_] = (told.states == state) & both
    return found


def test_both_hold_the_same_key_of_the_length_of_the_bound(
    honest: tuple[Announced, Exchange],
) -> None:
    told, exchange = honest
    assert (exchange.alice.reason, exchange.bob.reason) == ("", "")
    reports = exchange.alice.take_reports(), exchange.bob.take_reports()
    assert len(reports[0]) == len(reports[1]) == 2
    for alice, bob in zip(*reports, strict=True):
        assert alice.reason == ""
        assert alice.block == bob.block
        bound = exchange.parties[1].bounds[alice.number]
        assert bound.length > 2000
        assert alice.key_bits == bob.key_bits == bound.length // 8 * 8
        keys = [sink.key(alice.block) for sink in exchange.sinks]
        assert keys[0] == keys[1]
        assert 8 * len(keys[0]) == alice.key_bits - alice.reserve_bits
        # what was told, and what was charged
        n, wrong = alice.reconciled_bits, alice.corrected_errors or 0
        assert wrong == told.wrong[key_slots(told, alice.number)].sum()
        parities = alice.disclosed_bits["alice parity"]
        assert n * binary_entropy(wrong / n) <= parities == alice.leak_bits
        assert alice.leak_bits <= alice.leak_budget_bits
        charged = (
            exchange.parties[1].tallies[alice.number].bound(exchange.terms, alice.leak_budget_bits)
        )
        assert charged == bound
        assert alice.epsilons["total"] == pytest.approx(1e-8 + 1e-12, rel=1e-6)
        # bits of the key were never told
        key = exchange.parties[1].tallies[alice.number].key
        assert sum(alice.monitored_compared) == key.sum() - key[0, 0] + (
            exchange.parties[1].tallies[alice.number].test.sum()
        )
    spent = exchange.alice.budget.as_dict()["spent"]
    assert spent == pytest.approx(2 * (1e-8 + 1e-12), rel=1e-6)


def test_estimates_lie_on_the_safe_side_of_the_truth(honest: tuple[Announced, Exchange]) -> None:
    told, exchange = honest
    (a, b), (basis_a, basis_b) = told.photons, told.bases
    single = (a == 1) & (b == 1)
    for state in (0, 1):
        mine = told.states == state
        key = key_slots(told, state)
        test = mine & (basis_a == 1) & (basis_b == 1)
        bound = exchange.parties[0].bounds[state]
        tally = exchange.parties[0].tallies[state]
        assert tally.key[0, 0] == key.sum()
        assert tally.test.sum() == test.sum()
        assert tally.test_wrong.sum() == (test & told.wrong).sum()
        assert tally.announced == mine.sum()
        for j, k in itertools.product(range(3), repeat=2):
            cell = test & (told.intensities[0] == j) & (told.intensities[1] == k)
            assert tally.test[j, k] == cell.sum()
            assert tally.test_wrong[j, k] == (cell & told.wrong).sum()
        assert 0 < bound.single <= (key & single).sum()
        assert bound.vacuum <= (key & (a == 0)).sum()
        assert 0 < bound.test_single <= (test & single).sum()
        assert bound.test_errors >= (test & single & told.wrong).sum()
        assert ERRORS_X[1, 1] <= bound.phase_error < 0.2


def test_both_parties_count_the_same(honest: tuple[Announced, Exchange]) -> None:
    alice, bob = honest[1].parties
    for block in (0, 1):
        for each in dataclasses.fields(alice.tallies[block]):
            mine, his = (getattr(p.tallies[block], each.name) for p in (alice, bob))
            assert np.array_equal(mine, his)
    assert alice.monitor == bob.monitor
    assert not alice._sent
    assert not bob._sent


LIES = {
    # measured both in Z, and announced what fits: right in Z, blind in X
    "knows the key": (YIELDS, 0.0, np.full((6, 6), 0.5)),
    # announced psi- for psi+: right in Z, wrong in X
    "takes one state for the other": (YIELDS, ERROR_Z, 1.0 - ERRORS_X),
    # announced at random, whatever came
    "nonsense": (np.full((6, 6), 0.01), 0.5, np.full((6, 6), 0.5)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_relay_that_lies_gets_no_key(lie: str) -> None:
    exchange = run(announce(COUNT, *LIES[lie]))
    assert not exchange.alice.reason  # it is not an error
    for report in (*exchange.alice.take_reports(), *exchange.bob.take_reports()):
        assert report.key_bits == 0
        assert "phase error up to" in report.reason
        assert report.monitored_errors[1] > 0.4 * report.monitored_compared[1]
    assert not [block for sink in exchange.sinks for block in sink.committed(["x"])]
    for bound in exchange.parties[0].bounds.values():
        assert bound.phase_error > 0.35


# ------------------------------------------------------------------------------------ the relay


def station(
    agreed: MdiTerms, parties: tuple[Party, Party], shot: int, late: int, seed: int
) -> tuple[TagBatch, dict[int, int]]:
    """Clicks of a shot at an ideal station, on another clock, and the pattern of each slot."""
    rng = np.random.default_rng(seed)
    angle = np.array([0.0, 0.5, 0.25, -0.25]) * np.pi
    light = []
    for party, means in zip(parties, (agreed.alice, agreed.bob), strict=True):
        sent = party.prepare()
        amplitude = np.sqrt(np.array(means)[sent.intensities])[:, None]
        light.append(amplitude * np.stack([np.cos(angle), np.sin(angle)], 1)[sent.states])
    size = agreed.slots + abs(late)
    left, right = np.zeros((2, size, 2))
    left[max(0, -late) :][: agreed.slots] = light[0]
    right[max(0, late) :][: agreed.slots] = light[1]
    one, two, cross = station_means(left, right)
    turn = np.exp(2j * np.pi * rng.random(size))[:, None]
    clicks = rng.random((size, 4)) < -np.expm1(-(one + two + (cross * turn).real))
    slot, row = np.nonzero(clicks)
    cables = np.array([12_000, 12_700, 11_600, 12_300])
    times = 5e9 + slot * PERIOD_PS * (1 + 8e-6) + cables[row] + rng.normal(0, 300, slot.size)
    order = np.argsort(times)
    stray = np.sort(rng.integers(0, int(6e9), 40))  # dark counts before the shot
    times = np.concatenate([stray, times[order].astype(np.int64)])
    channels = np.concatenate([np.ones(40), row[order] + 1]).astype(np.int16)
    again = np.argsort(times, kind="stable")
    times, channels = times[again], channels[again]
    patterns = clicks @ (1 << np.arange(4))
    begin = max(0, -late)  # Alice's slots
    return (
        TagBatch(times, channels, 0, int(times[-1]) + 1),
        {k - begin: int(p) for k, p in enumerate(patterns)},
    )


@pytest.mark.parametrize("late", [37, -11, 0])
def test_the_relay_announces_what_its_clicks_say(late: int) -> None:
    """``late``: slots by which Bob's light comes after Alice's; k of hers meets k - late of his."""
    agreed = terms(
        40_000, preamble=4096, alice=(0.5, 0.1, 1e-3), bob=(0.4, 0.1, 1e-3), z_fraction=0.5
    )
    parties = (
        MdiAlice(agreed, SeededRandomness(2, "alice"), ErrorHistory()),
        MdiBob(agreed, SeededRandomness(2, "bob"), ErrorHistory()),
    )
    relay = Relay({k + 1: label for k, label in enumerate(DETECTORS)}, agreed)
    batch, patterns = station(agreed, parties, 0, late, 7)
    half = batch.split(batch.end_ps // 2)
    relay.feed(half[0])
    relay.feed(half[1])
    found = wire.decode(relay.announce(0)).message
    assert isinstance(found, msg.Heralds)
    assert (relay.missed, found.offset) == (0, late)
    low, high = agreed.preamble + max(0, late), agreed.slots + min(0, late)
    states = {0b1001: 0, 0b0110: 0, 0b0011: 1, 0b1100: 1}
    expected = {k: states[p] for k, p in patterns.items() if low <= k < high and p in states}
    seen = dict(zip(found.slots.tolist(), found.states.tolist(), strict=True))
    assert len(expected) > 400
    # stray clicks spoil a few at most
    assert len(seen.items() ^ expected.items()) <= 3


def test_the_relay_sees_no_shot_in_the_dark() -> None:
    agreed = terms(2000, preamble=1000)
    relay = Relay({k + 1: label for k, label in enumerate(DETECTORS)}, agreed)
    rng = np.random.default_rng(1)
    times = np.sort(rng.integers(0, 10**9, 400))
    relay.delays_ps = dict.fromkeys(range(1, 5), 0)
    relay.feed(TagBatch(times, rng.integers(1, 5, 400).astype(np.int16), 0, 10**9))
    found = wire.decode(relay.announce(0)).message
    assert isinstance(found, msg.Heralds)
    assert found.slots.size == 0
    assert relay.missed == 1
    with pytest.raises(ValueError, match="one channel for each of cH, cV, dH, dV"):
        Relay({1: "cH", 2: "cV"}, agreed)


def test_from_clicks_to_counts_of_the_closed_form() -> None:
    """Relay and parties together: gains of Ma, Fung and Razavi come out at the other end."""
    agreed = terms(150_000, preamble=4096, alice=(0.5, 0.1, 1e-3), bob=(0.4, 0.1, 1e-3), shots=1)
    exchange = Exchange(agreed, (SeededRandomness(4, "alice"), SeededRandomness(4, "bob")))
    relay = Relay({k + 1: label for k, label in enumerate(DETECTORS)}, agreed)
    alice, bob = exchange.parties
    relay.feed(station(agreed, (alice, bob), 0, 5, 9)[0])
    exchange.tell(relay.announce(0))
    exchange.finish()
    tallies = bob.tallies.values()
    key, test, wrong = (
        sum(getattr(one, what) for one in tallies) for what in ("key", "test", "test_wrong")
    )
    pairs = bob.tallies[0].pairs
    assert pairs == agreed.slots - agreed.preamble - 5
    gains = relay_gains(agreed.alice, agreed.bob, 1.0, 1.0)
    share = np.outer(agreed.probabilities, agreed.probabilities) / 4
    for found, expected in (
        (key, gains.gain[0]),
        (test, gains.gain[1]),
        (wrong, gains.wrong[1]),
    ):
        mean = pairs * share * expected
        assert np.abs((found - mean) / np.sqrt(mean + 1)).max() < 4
    assert sum(one.key_wrong.sum() for one in tallies) <= 3  # but for stray clicks
    # far too short for a key, and said so
    assert all("too few announcements" in r.reason for r in exchange.bob.take_reports())


# ------------------------------------------------------------------------- messages that are wrong


def small(shots: int = 2) -> Exchange:
    agreed = terms(2000, shots, preamble=100)
    return Exchange(agreed, (SeededRandomness(5, "alice"), SeededRandomness(5, "bob")))


SOME = np.arange(200, 1800, 4)
STATES = (SOME // 4 % 2).astype(np.uint8)
FORGED = {
    "slots in the preamble": frame(0, np.array([5, 300]), np.zeros(2, np.uint8)),
    "slots beyond the end": frame(0, np.array([300, 2000]), np.zeros(2, np.uint8)),
    "slots that Bob has not": frame(0, np.array([110, 300]), np.zeros(2, np.uint8), 50),
    "an offset beyond all": frame(0, np.array([300]), np.zeros(1, np.uint8), 1 << 40),
    "a negative one": frame(0, np.array([300]), np.zeros(1, np.uint8), -1900),
    "another shot": frame(1, SOME, STATES),
    "another message": wire.encode(wire.Frame(0, 0, msg.Sent(0))),
    "no message": b"\x01\x02\x03",
    "cut short": frame(0, SOME, STATES)[:-3],
}


@pytest.mark.parametrize("what", FORGED)
def test_a_malformed_announcement_ends_the_session(what: str) -> None:
    exchange = small()
    exchange.shot(FORGED[what])
    assert exchange.alice.over
    assert exchange.alice.reason
    assert "alice aborted" in exchange.bob.reason
    assert not exchange.parties[0].tallies or not exchange.parties[0].tallies[0].announced


def test_an_announcement_twice_or_before_its_pulses_ends_the_session() -> None:
    exchange = small()
    exchange.shot(frame(0, SOME, STATES))
    assert not exchange.alice.over
    exchange.tell(frame(0, SOME, STATES))
    assert "announced shot 0 in place of 1" in exchange.alice.reason
    exchange = small()
    exchange.shot(frame(0, SOME, STATES))
    exchange.tell(frame(1, SOME, STATES))
    assert "shot 1 was announced, which alice has not sent" in exchange.alice.reason


def test_an_exchange_ends_with_a_block() -> None:
    exchange = small(shots=2)
    exchange.shot(frame(0, SOME, STATES))
    exchange.finish()
    assert "ended within a block" in exchange.alice.reason
    assert exchange.bob.over
    exchange = small(shots=1)
    exchange.shot(frame(0, SOME, STATES))
    exchange.finish()
    assert (exchange.alice.over, exchange.alice.reason) == (True, "")
    with pytest.raises(ProtocolError, match="takes no clicks"):
        exchange.parties[0].feed(TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, 1))


def changed(message: msg.Message) -> list[msg.Message]:
    """Ways to spoil a message of sifting, each well-formed by itself."""
    ways: list[dict[str, Any]] = []
    if isinstance(message, msg.Heralded):
        ways = [
            {"shot": 1},
            {"offset": 3000},
            {"slots": message.slots + 1900},
            {"intensities": np.full_like(message.intensities, 3)},
        ]
    elif isinstance(message, msg.Matched):
        ways = [
            {"shot": 1},
            {"bases": message.bases[1:], "intensities": message.intensities[1:]},
            {"bits": message.bits[1:]},
            {"intensities": np.full_like(message.intensities, 3)},
        ]
    elif isinstance(message, msg.Compared):
        ways = [{"shot": 1}, {"bits": message.bits[1:]}]
    return [dataclasses.replace(message, **way) for way in ways]


@pytest.mark.parametrize("kind", ["Heralded", "Matched", "Compared"])
def test_what_was_altered_on_the_way_ends_the_session(kind: str) -> None:
    """Each party refuses what does not fit; what fits would fail at the tags of the block."""
    seen: list[int] = []

    def attempt(way: int) -> Exchange:
        exchange = small()

        def intercept(sender: str, data: bytes) -> Iterable[bytes]:
            found = wire.decode(data)
            if len(seen) > way or type(found.message).__name__ != kind:
                return (data,)
            ways = changed(found.message)
            seen.append(len(ways))
            return (wire.encode(dataclasses.replace(found, message=ways[way])),)

        exchange.shot(frame(0, SOME, STATES), intercept)
        return exchange

    way = 0
    while not seen or way < seen[0]:
        exchange = attempt(way)
        way += 1
        assert len(seen) == way
        assert exchange.alice.over
        assert exchange.bob.over
        assert exchange.alice.reason
        assert exchange.bob.reason
    assert way >= 2


def test_a_turned_bit_is_found_by_the_tags() -> None:
    """A test bit turned on the way passes for an error of the relay until the block is tagged."""
    told = announce(COUNT // 2, YIELDS, ERROR_Z, ERRORS_X)
    each = told.states.size
    random = tuple(
        Chosen(name, [words]) for name, words in zip(("alice", "bob"), told.words, strict=True)
    )
    exchange = Exchange(terms(each + 1, eps_sec=1e-3, total_epsilon=0.1), (random[0], random[1]))
    turned = 0

    def intercept(sender: str, data: bytes) -> Iterable[bytes]:
        nonlocal turned
        found = wire.decode(data)
        if isinstance(found.message, msg.Compared) and not turned:
            turned += 1
            bits = found.message.bits.copy()
            bits[::1000] ^= 1
            return (
                wire.encode(
                    dataclasses.replace(
                        found, message=dataclasses.replace(found.message, bits=bits)
                    )
                ),
            )
        return (data,)

    exchange.shot(frame(0, np.arange(1, each + 1), told.states), intercept)
    assert turned
    reasons = exchange.alice.reason + exchange.bob.reason
    assert "messages of alice were altered on the way" in reasons
    reports = [*exchange.alice.take_reports(), *exchange.bob.take_reports()]
    assert all(report.key_bits == 0 for report in reports)
    assert not exchange.sinks[0].prepared()


def test_terms_refuse_what_makes_no_sense() -> None:
    for others, words in (
        ({"probabilities": (0.5, 0.5, 0.1)}, "add up to 1"),
        ({"z_fraction": 1.0}, "z_fraction"),
        ({"preamble": 3000}, "a preamble, pulses behind it"),
        ({"shots": 0}, "1 shot or more"),
        ({"gate_ps": 90_000}, "at most the period"),
        ({"eps_cor": 0.0}, "epsilons must be"),
        ({"total_epsilon": 1e-30}, "at least that of one key"),
        ({"leak_efficiency": 1.0}, "Shannon limit"),
        ({"tolerance": 0.5}, "tolerance"),
        ({"alice": (0.1, 0.2, 0.0)}, "do not decrease"),
        ({"reconciliation": "magic"}, "cascade or ldpc"),
    ):
        with pytest.raises(ValueError, match=words):
            terms(2000, **({"preamble": 100} | others))
    a, b = terms(2000), terms(2001)
    assert a.digest() != b.digest()
    assert len(a.digest()) == 32
    # the tag and the bit of the verdict are paid for by the bound
    assert a.verify_bits + 1 <= math.log2(8 / a.eps_cor)
    assert 2.0**-a.verify_bits < a.eps_cor


# ----------------------------------------------------------------------------- the closed form


def test_gains_are_those_of_full_overlap_in_the_literature() -> None:
    """Ma and Razavi, as in mdi_bound, where pulses overlap fully."""
    a, b = (0.4, 0.1, 4e-4), (0.3, 0.05, 0.0)
    link = RelayLink(0.4, 0.35, 1e-5, 0.0)
    found = relay_gains(a, b, 0.4, 0.35, dark=1e-5)
    for basis, of in enumerate((link.key_basis, link.test_basis)):
        expected = np.array([[of(x, y) for y in b] for x in a])
        assert found.gain[basis] == pytest.approx(expected[..., 0], rel=1e-8, abs=1e-15)
        wrong = expected[..., 0] * expected[..., 1]
        assert found.wrong[basis] == pytest.approx(wrong, rel=1e-8, abs=1e-15)


@settings(max_examples=12, deadline=None)
@given(
    st.floats(0.001, 2.0),
    st.floats(0.001, 2.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.01),
)
def test_gains_of_any_overlap_are_those_of_the_twin(
    a: float, b: float, overlap: float, dark: float
) -> None:
    found = relay_gains([a], [b], 1.0, 1.0, overlap=overlap, dark=dark)
    angle = np.array([[0.0, 0.5], [0.25, -0.25]]) * np.pi
    bell = {0b1001: 0, 0b0110: 0, 0b0011: 1, 0b1100: 1}
    for basis in (0, 1):
        gain = wrong = 0.0
        for s, t in itertools.product((0, 1), repeat=2):
            pulses = [
                math.sqrt(mu) * np.array([math.cos(x), math.sin(x)])
                for mu, x in ((a, angle[basis, s]), (b, angle[basis, t]))
            ]
            one, two, cross = station_means(pulses[0], pulses[1], overlap=overlap)
            p = click_patterns(one + two, cross, dark)
            for pattern, state in bell.items():
                gain += p[pattern] / 4
                if (s == t) == (state == 0 or basis == 0):
                    wrong += p[pattern] / 4
        assert found.gain[basis][0, 0] == pytest.approx(gain, rel=1e-9, abs=1e-13)
        assert found.wrong[basis][0, 0] == pytest.approx(wrong, rel=1e-9, abs=1e-13)


def test_the_fit_finds_what_made_the_counts() -> None:
    a, b, truth = (0.4, 0.1, 4e-4), (0.4, 0.1, 4e-4), (0.4, 0.36, 0.93)
    gains = relay_gains(a, b, truth[0], truth[1], overlap=truth[2])
    sent = np.full((3, 3), 1e6)
    rng = np.random.default_rng(8)
    right = rng.poisson(sent * (gains.gain[1] - gains.wrong[1])).astype(float)
    wrong = rng.poisson(sent * gains.wrong[1]).astype(float)
    key = rng.poisson(sent * gains.gain[0]).astype(float)
    fit = fit_relay(a, b, (sent, sent), (key, right + wrong), wrong)
    assert fit is not None
    for (value, sigma), true in zip(
        (fit.efficiency_a, fit.efficiency_b, fit.overlap), truth, strict=True
    ):
        assert abs(value - true) < 4 * sigma
        assert sigma < 0.03
    assert fit.chi2 < 2.5
    assert fit_relay(a, b, (sent, sent), (0 * key, 0 * key), 0 * key) is None
