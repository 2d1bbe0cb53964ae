"""Sessions of two parties: blocks at once, crashes at any step of a commit, a channel that lies."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import ProtocolError, TagBatch
from bellbench.protocols.qkd import (
    BlockReport,
    Detectors,
    Parameters,
    Phase,
    Session,
    SystemRandomness,
    join,
    messages,
    session,
    wire,
)
from bellbench.protocols.qkd.authentication import (
    HEAD_BYTES,
    KEPT_PADS,
    PAIR_BYTES,
    MemoryPads,
    memory_pads,
)
from bellbench.protocols.qkd.sink import MemorySink
from hypothesis import given, settings
from hypothesis import strategies as st

DETECTORS = Detectors.of({1: ("Z", 0), 2: ("Z", 1), 3: ("X", 0), 4: ("X", 1)})
SPACING = 1_000_000
CALIBRATION = 200 * SPACING
BLOCK = 4400  # pairs
#: A weak security target lets two thousand bits give a key, which keeps these tests quick.
PARAMETERS = dataclasses.replace(
    Parameters.plan(
        calibration_ps=CALIBRATION,
        block_ps=BLOCK * SPACING,
        tolerance=0.03,
        epsilon=0.1,
        total_epsilon=0.99,
        leak_efficiency=1.6,
        expected_bits=2000,
        clocks="shared",
    ),
    verify_bits=32,
)
ROLES = ("alice", "bob")


def delays(*_: object) -> Any:
    return dict.fromkeys(range(1, 5), 0), dict.fromkeys(range(1, 5), 0)


@functools.cache
def clicks(blocks: float = 1.0, seed: int = 1, bad: tuple[int, ...] = ()) -> tuple[TagBatch, ...]:
    """Ideal pairs, 0.3 % of errors; in bad blocks one in four is wrong."""
    rng = np.random.default_rng(seed)
    n = 200 + round(BLOCK * blocks)
    times = np.arange(n, dtype=np.int64) * SPACING + SPACING // 2
    bases, bits = rng.integers(0, 2, (2, n)), rng.integers(0, 2, n)
    wrong = np.where(np.isin((np.arange(n) - 200) // BLOCK, bad), 0.25, 0.003)
    other = np.where(bases[0] == bases[1], bits ^ (rng.random(n) < wrong), rng.integers(0, 2, n))
    return tuple(
        TagBatch(times, (1 + 2 * basis + bit).astype(np.int16), 0, n * SPACING)
        for basis, bit in zip(bases, (bits, other), strict=True)
    )


@dataclasses.dataclass
class Lab:
    """What of a party outlives its process."""

    role: Any
    pads: MemoryPads
    sink: MemorySink
    ids: list[str] = dataclasses.field(default_factory=list)
    session: Session | None = None
    reports: list[BlockReport] = dataclasses.field(default_factory=list)

    def start(self, parameters: Parameters = PARAMETERS, **options: Any) -> Session:
        if self.role == "alice":
            options = {"find_delays": delays} | options
        self.session = Session(
            self.role,
            DETECTORS,
            parameters,
            sink=self.sink,
            pads=self.pads,
            randomness=SystemRandomness(),
            **options,
        )
        return self.session

    def keys(self) -> dict[str, bytes]:
        return {name: self.sink.key(name) for name in self.sink.committed(self.sink._keys)}


def labs(pads: int = 200) -> tuple[Lab, Lab]:
    secret = np.random.default_rng(1).bytes(HEAD_BYTES + PAIR_BYTES * pads)
    pools = memory_pads(secret)
    a, b = (
        Lab(role, pool, MemorySink(rehearsal=False, append=pool.extend))
        for role, pool in zip(ROLES, pools, strict=True)
    )
    return a, b


def run(
    both: tuple[Lab, Lab],
    recording: tuple[TagBatch, ...],
    intercept: Callable[[str, bytes], Iterable[bytes]] | None = None,
    steps: int = 4,
    **options: Any,
) -> tuple[Session, Session]:
    alice, bob = (lab.start(**options) for lab in both)
    join(alice, bob, intercept)
    for k in range(steps):
        for party, batch in zip((alice, bob), recording, strict=True):
            span = batch.end_ps - batch.begin_ps
            part = batch.split(batch.begin_ps + (k + 1) * span // steps)[0]
            party.feed(part.split(batch.begin_ps + k * span // steps)[1])
        join(alice, bob, intercept)
    for party in (alice, bob):
        party.finish()
    join(alice, bob, intercept)
    for lab, party in zip(both, (alice, bob), strict=True):
        party.tick(0.0)
        party.tick(1000.0)
        lab.reports += party.take_reports()
    join(alice, bob, intercept)
    return alice, bob


def settled(both: tuple[Lab, Lab]) -> None:
    """A new session begins; what is pending is decided and the pools agree."""
    alice, bob = (lab.start() for lab in both)
    join(alice, bob)
    assert alice.phase == bob.phase == Phase.CALIBRATING, (alice.reason, bob.reason)
    assert both[0].sink.prepared() == both[1].sink.prepared() == []
    agree(both)


def agree(both: tuple[Lab, Lab]) -> None:
    a, b = both
    assert a.keys() == b.keys()
    assert a.pads.position == b.pads.position[::-1]
    assert len(a.pads._pads) == len(b.pads._pads)
    # What was not used yet is equal at both ends.
    low = 32 * max(a.pads.position)
    assert a.pads._pads[low:] == b.pads._pads[low:]


def test_several_blocks_give_keys_that_both_hold() -> None:
    both = labs()
    alice, bob = run(both, clicks(4.5), steps=9)
    assert (alice.reason, bob.reason) == ("", "")
    assert alice.phase == bob.phase == Phase.DONE
    agree(both)
    assert both[0].reports == both[1].reports
    assert [report.number for report in both[0].reports] == [0, 1, 2, 3, 4]
    full = [report for report in both[0].reports if not report.reason]
    assert len(full) >= 4
    assert list(both[0].keys()) == [f"{alice.session_id}/{report.number}" for report in full]
    for report in full:
        assert len(both[0].keys()[report.block]) * 8 == report.key_bits - report.reserve_bits > 0
        # A block is a stretch of time, not a number of bits.
        if report.number < 4:
            assert report.coincidences == pytest.approx(BLOCK, abs=2)
            sifted = report.sifted_bits + sum(report.monitored_compared)
            assert sifted == pytest.approx(BLOCK / 2, abs=5 * (BLOCK / 4) ** 0.5)
    totals = alice.report()["totals"]
    assert totals["blocks"] == 5
    assert totals["key_bits"] == sum(report.key_bits for report in full)


def test_sifting_goes_on_while_blocks_are_distilled() -> None:
    """Bob's answers about the first block wait; the next ones are sifted meanwhile."""
    both = labs()
    kept: list[bytes] = []
    held = [True]

    def slow(sender: str, data: bytes) -> Iterable[bytes]:
        # Frames keep their order, so all of Bob's are kept, and given to Alice at the end.
        if sender == "bob" and held[0] and (kept or is_a(data, messages.SampleReply)):
            kept.append(data)
            return ()
        return (data,)

    alice, bob = (lab.start() for lab in both)
    join(alice, bob, slow)
    for k in range(6):
        for party, batch in zip((alice, bob), clicks(6.0), strict=True):
            part = batch.split((k + 1) * batch.end_ps // 6)[0]
            party.feed(part.split(k * batch.end_ps // 6)[1])
        join(alice, bob, slow)
    assert alice.progress.open_blocks >= 1
    assert bob.progress.open_blocks >= 4
    held[0] = False
    for data in kept:
        alice.receive(data)
    join(alice, bob)
    alice.finish()
    bob.finish()
    join(alice, bob)
    assert (alice.reason, bob.reason) == ("", "")
    agree(both)
    assert len(both[0].keys()) >= 5


def is_a(data: bytes, kind: type[Any]) -> bool:
    return not data.startswith(b"BBHS") and isinstance(wire.decode(data).message, kind)


def test_a_bad_block_gives_no_key_and_the_session_goes_on() -> None:
    both = labs()
    alice, bob = run(both, clicks(3.0, bad=(1,)), steps=6)
    assert (alice.reason, bob.reason) == ("", "")
    reasons = [report.reason for report in both[0].reports]
    assert reasons[0] == reasons[2] == ""
    assert reasons[1].startswith("QBER 2")
    # Who gives a block up first has not heard yet that the other does.
    mine, his = (
        [dataclasses.replace(report, traffic_bytes={}) for report in lab.reports] for lab in both
    )
    assert mine == his
    assert sorted(both[0].keys()) == [f"{alice.session_id}/{number}" for number in (0, 2)]
    agree(both)


def test_too_many_blocks_at_once_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_IN_FLIGHT", 2)
    both = labs()
    most = 0

    def watch(_: str, data: bytes) -> Iterable[bytes]:
        nonlocal most
        most = max(most, *(lab.session._distilling for lab in both if lab.session))
        return (data,)

    alice, bob = run(both, clicks(6.0), watch, steps=1)
    assert (alice.reason, bob.reason) == ("", "")
    assert len(both[0].keys()) >= 5
    assert most <= 8  # those that ended in one batch were announced at once
    agree(both)


def test_keys_fill_the_pool_up_and_sessions_live_on_them() -> None:
    """With less in the pool than the sessions need together."""
    both = labs(KEPT_PADS + 9)
    terms = dataclasses.replace(PARAMETERS, block_ps=4 * BLOCK * SPACING)
    for seed in range(4):
        alice, bob = run(both, clicks(8.0, seed), steps=4, parameters=terms, reserve_pads=24)
        assert (alice.reason, bob.reason) == ("", "")
        agree(both)
        (consumed,) = {party.report()["key"]["consumed_bits"] for party in (alice, bob)}
        assert consumed == 128 * (4 + 2 + 2 * 3)  # handshake, calibration, two blocks
        assert min(both[0].pads.remaining) >= KEPT_PADS + 4
    reserved = sum(report.reserve_bits for report in both[0].reports)
    assert 256 * (len(both[0].pads._pads) // PAIR_BYTES - KEPT_PADS - 9) == reserved
    assert both[0].pads.position[0] > 9 + KEPT_PADS
    assert sum(len(key) for key in both[0].keys().values()) > 0


def test_without_pads_there_is_no_key() -> None:
    both = labs(KEPT_PADS)
    run(both, clicks())
    assert both[0].keys() == both[1].keys() == {}
    assert "kept for handshakes" in both[0].session.reason + both[1].session.reason  # type: ignore[union-attr]


def test_the_total_epsilon_is_never_exceeded() -> None:
    both = labs()
    terms = dataclasses.replace(PARAMETERS, total_epsilon=0.25)
    alice, bob = run(both, clicks(4.0), steps=8, parameters=terms)
    for party in (alice, bob):
        assert "left: end the session" in party.reason
        assert party.budget.spent <= 0.25
    assert len(both[0].keys()) == 2
    settled(both)


# Crashes.


class Crash(Exception):  # noqa: N818 - it is no error
    """The process ends here."""


STEPS = ("prepare", "commit", "draw", "peer", "frame", "append")


def crashing(lab: Lab, step: str, count: int, *, after: bool) -> None:
    """Make the ``count``-th call of ``step`` the last thing that this party does."""
    thing: Any = {"draw": lab.pads, "peer": lab.pads}.get(step, lab.sink)
    name = "_append" if step == "append" else step
    if step == "frame":
        assert lab.session is not None
        thing, name = lab.session, "receive"
    call, seen = getattr(thing, name), 0

    def counted(*args: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count and not after:
            raise Crash
        result = call(*args)
        if seen == count:
            raise Crash
        return result

    setattr(thing, name, counted)


def heal(lab: Lab) -> None:
    lab.session = None
    for thing in (lab.pads, lab.sink):
        for name in STEPS:
            vars(thing).pop(name, None)
    lab.sink._append = lab.pads.extend


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["prepare", "commit", "draw", "peer"])
def test_after_a_crash_at_any_step_both_stores_agree(role: str, step: str, after: bool) -> None:
    lost = 0
    for count in range(1, 9):
        both = labs()
        lab = both[ROLES.index(role)]
        crashing(lab, step, count, after=after)
        crashed = False
        try:
            run(both, clicks(2.0), steps=2)
        except Crash:
            crashed = True
        confirmed = [set(each.keys()) for each in both]
        for each in both:
            heal(each)
        settled(both)
        # No key that either had committed is lost.
        assert confirmed[0] | confirmed[1] <= set(both[0].keys())
        # Bob never commits before Alice.
        assert confirmed[1] <= confirmed[0]
        lost += len(confirmed[0] - confirmed[1])
        # And the parties go on: the same pools, new keys.
        run(both, clicks(1.0, 7))
        agree(both)
        assert len(both[0].keys()) > len(confirmed[0] | confirmed[1]) - 1
        if not crashed:
            break
    else:
        assert step in ("draw", "peer")


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_cut_before_any_of_the_last_frames_is_settled(cut: int) -> None:
    """The last frames decide about the key; each may be the first that does not arrive."""
    both = labs()
    total = 0

    def counting(_: str, data: bytes) -> Iterable[bytes]:
        nonlocal total
        total += 1
        return (data,)

    run(both, clicks(), counting)
    both = labs()
    seen = 0

    def cutting(_: str, data: bytes) -> Iterable[bytes]:
        nonlocal seen
        seen += 1
        return (data,) if seen <= total - cut else ()

    alice, bob = run(both, clicks(), cutting)
    assert alice.over
    assert bob.over
    assert set(both[1].keys()) <= set(both[0].keys())
    committed = both[0].keys()
    settled(both)
    assert both[0].keys() == committed


# Lies.


@functools.cache
def honest() -> tuple[tuple[str, bytes], ...]:
    """Every frame of a run, in order."""
    seen: list[tuple[str, bytes]] = []

    def record(sender: str, data: bytes) -> Iterable[bytes]:
        seen.append((sender, data))
        return (data,)

    both = labs()
    run(both, clicks(1.3), record, steps=3)
    assert len(both[0].keys()) >= 1
    return tuple(seen)


#: What is said in it.
KINDS = (
    "Announcement",
    "Bases",
    "Calibration",
    "Confirmation",
    "Delays",
    "Failed",
    "Monitored",
    "Paired",
    "ParityReply",
    "ParityRequest",
    "Reconciled",
    "Reconciliation",
    "Sample",
    "SampleReply",
    "Sifted",
    "Tag",
    "Verdict",
    "Verification",
    "handshake",
)


def name_of(data: bytes) -> str:
    return "handshake" if data.startswith(b"BBHS") else type(wire.decode(data).message).__name__


def test_every_kind_of_message_is_lied_about() -> None:
    assert {name_of(data) for _, data in honest()} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_whatever_is_done_to_a_message_no_two_keys_differ(kind: str, data: st.DataObject) -> None:
    way = data.draw(
        st.sampled_from(["flip", "drop", "repeat", "swap", "cut", "reflect", "replay", "later"])
    )
    which = data.draw(st.integers(0, 3))
    spot = data.draw(st.floats(0, 1, exclude_max=True))
    bit = data.draw(st.integers(0, 7))
    both = labs()
    seen, done = 0, False
    hit: int | None = None
    waiting: list[bytes] = []

    def lie(sender: str, sent: bytes) -> Iterable[bytes]:
        nonlocal seen, done, hit
        if waiting:
            return (sent, waiting.pop())
        if done or name_of(sent) != kind:
            return (sent,)
        seen += 1
        if seen <= which:
            return (sent,)
        done = True
        hit = None if kind == "handshake" else wire.decode(sent).block
        at = int(spot * len(sent))
        if way == "flip":
            return (sent[:at] + bytes([sent[at] ^ (1 << bit)]) + sent[at + 1 :],)
        if way == "cut":
            return (sent[:at],)
        if way == "drop":
            return ()
        if way == "repeat":
            return (sent, sent)
        if way == "swap":
            waiting.append(sent)
            return ()
        if way == "reflect":
            mine = both[ROLES.index(sender)].session
            assert mine is not None
            mine.receive(sent)
            return (sent,)
        if way == "replay":  # of an old session
            old = [frame for who, frame in honest() if who == sender and name_of(frame) == kind]
            return (old[min(which, len(old) - 1)],) if old else (sent,)
        return (sent, honest()[0][1])

    alice, bob = run(both, clicks(1.3), lie, steps=3)
    assert alice.over
    assert bob.over
    first, second = both[0].keys(), both[1].keys()
    assert all(second[name] == first[name] for name in second)
    # A block without a key is never tagged: what happened to it is all the same.
    if done and way in ("flip", "cut", "drop") and not (alice.reason and bob.reason):
        assert hit is not None
        assert f"{alice.session_id}/{hit}" not in second
    assert set(second) <= set(first)
    for lab in both:
        heal(lab)
    committed = set(first)
    settled(both)
    assert set(both[0].keys()) == committed


def test_a_session_replayed_to_one_party_opens_nothing() -> None:
    for role in ROLES:
        both = labs()
        lab = both[ROLES.index(role)]
        party = lab.start()
        for sender, data in honest():
            if sender != role:
                party.receive(data)
        assert party.over
        assert party.session_id is None
        assert lab.pads.position == (0, 0)
        assert lab.keys() == {}


def test_silence_ends_a_session_only_where_an_answer_is_due() -> None:
    both = labs()
    alice, bob = (lab.start(timeout_s=10.0) for lab in both)
    alice.tick(0.0)
    alice.tick(9.0)
    assert not alice.over
    alice.tick(11.0)
    assert alice.reason == "no message from bob for 10 s"
    both = labs()
    alice, bob = (lab.start(timeout_s=10.0) for lab in both)
    join(alice, bob)
    for now in (0.0, 1000.0, 2000.0):  # Bob records his calibration meanwhile
        alice.tick(now)
        bob.tick(now)
    assert not alice.over
    for party, batch in zip((alice, bob), clicks(0.5), strict=True):
        party.feed(batch)
    join(alice, bob)
    alice.finish()
    alice.tick(2005.0)
    assert not alice.over
    alice.tick(2016.0)
    assert "no message from bob" in alice.reason


def test_an_abort_is_told_with_its_reason() -> None:
    both = labs()
    alice, bob = (lab.start() for lab in both)
    join(alice, bob)
    alice.abort("the shift is over")
    join(alice, bob)
    assert bob.reason == "alice aborted: the shift is over"
    assert bob.phase == Phase.ABORTED
    assert not bob.send()


def test_what_a_role_does_not_say_is_refused() -> None:
    both = labs()
    alice, bob = (lab.start() for lab in both)
    join(alice, bob)
    alice.receive(wire.encode(wire.Frame(0, 0, messages.Paired(0, np.zeros(0, np.int64), False))))
    assert "which only alice says" in alice.reason
    for frame, reason in (
        (wire.Frame(7, 0, messages.Confirmation()), "not open"),
        (wire.Frame(None, 0, messages.Confirmation()), "no such block"),
        (wire.Frame(None, 1, messages.Abort("x")), "in its turn"),
        (wire.Frame(None, 0, messages.Tag(0, bytes(16))), "a tag for nothing"),
    ):
        both = labs()
        alice, bob = (lab.start() for lab in both)
        join(alice, bob)
        bob.receive(wire.encode(frame))
        assert reason in bob.reason


def forging(
    kind: type[Any], forge: Callable[[Any], Any]
) -> Callable[[str, bytes], Iterable[bytes]]:
    """A line that changes the first message of a kind into another valid one."""
    done = [False]

    def lie(_: str, data: bytes) -> Iterable[bytes]:
        if done[0] or data.startswith(b"BBHS"):
            return (data,)
        frame = wire.decode(data)
        if not isinstance(frame.message, kind):
            return (data,)
        done[0] = True
        return (wire.encode(dataclasses.replace(frame, message=forge(frame.message))),)

    return lie


def test_a_forged_number_of_errors_ends_the_session_and_nothing_else() -> None:
    """All bits wrong: h(Q) is 0, and no efficiency exists."""
    both = labs()

    def all_wrong(_: messages.Reconciled) -> messages.Reconciled:
        (block,) = (b for b in alice._blocks.values() if b.distiller is not None)
        assert block.distiller is not None
        return messages.Reconciled(block.distiller.n)

    alice, bob = (lab.start() for lab in both)
    line = forging(messages.Reconciled, all_wrong)
    join(alice, bob, line)
    for party, batch in zip((alice, bob), clicks(), strict=True):
        party.feed(batch)
        party.finish()
    join(alice, bob, line)
    assert "altered on the way" in alice.reason
    (report,) = alice.take_reports()
    assert report.corrected_errors == report.reconciled_bits
    assert report.efficiency is None
    assert both[0].keys() == both[1].keys() == {}


def test_a_block_given_up_without_a_reason_is_not_taken_for_a_key() -> None:
    both = labs()

    def give_up(_: messages.SampleReply) -> messages.Failed:
        return messages.Failed("")

    alice, _ = run(both, clicks(), forging(messages.SampleReply, give_up))
    first = both[0].reports[0]
    assert first.reason == "bob gave it up and did not say why"
    assert first.key_bits == 0
    assert alice.report()["totals"]["blocks_without_key"] == len(both[0].reports)
    assert both[0].keys() == {}


def read_count(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and where the next field begins."""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def test_the_ledger_is_what_travelled() -> None:
    """Every disclosed bit counted from the recorded bytes by a second decoder of the format."""
    both = labs()
    told: dict[int, dict[str, int]] = {}
    kinds = {7: "monitor", 9: "sample", 12: "parity", 13: "syndrome", 17: "verdict"}
    tags = 0

    def record(sender: str, data: bytes) -> Iterable[bytes]:
        nonlocal tags
        if not data.startswith(b"BBHS"):
            block, at = read_count(data, 2)
            _, at = read_count(data, at)
            tags += data[1] == 20
            if data[1] in kinds:
                name = f"{sender} {kinds[data[1]]}"
                bits = 1 if data[1] == 17 else read_count(data, at)[0]
                found = told.setdefault(block - 1, {})
                found[name] = found.get(name, 0) + bits
        return (data,)

    alice, bob = run(both, clicks(2.4), record, steps=5)
    assert len(both[0].keys()) >= 2
    for report in both[0].reports + both[1].reports:
        if report.reason:
            continue
        ours = told[report.number]
        for name in ("bob monitor", "bob sample", "bob verdict"):
            assert report.disclosed_bits[name] == ours[name]
        assert report.disclosed_bits["alice monitor"] == ours["bob monitor"]
        assert report.disclosed_bits["alice sample"] == ours["bob sample"] == report.sample_bits
        leak = ours.get("alice parity", 0) + ours.get("alice syndrome", 0)
        assert report.leak_bits == leak <= report.leak_budget_bits
        assert "bob parity" not in ours
        assert "bob syndrome" not in ours
    for party in (alice, bob):
        key = party.report()["key"]
        # Hash keys and seals of the handshake, both directions.
        assert key["consumed_bits"] == 128 * (tags + 4)
        assert key["net_bits"] == key["gained_bits"] - key["consumed_bits"]
        spent = party.budget.parts
        assert spent["a forged tag"].times == tags + 2
        assert spent["a key that is not ideal"].times == len(both[0].reports)


def test_whoever_asks_alice_for_parities_gets_no_more_than_the_reserve() -> None:
    """Bob is cut off, and the attacker asks in his place for all there is."""
    both = labs()
    alice, bob = (lab.start() for lab in both)
    told, asked, begun = 0, 0, False

    def eve(sender: str, data: bytes) -> Iterable[bytes]:
        nonlocal told, begun
        if data.startswith(b"BBHS"):
            return (data,)
        frame = wire.decode(data)
        if isinstance(frame.message, messages.ParityReply):
            told += frame.message.parities.size
        begun = begun or isinstance(frame.message, messages.Reconciliation)
        return () if begun else (data,)

    join(alice, bob, eve)
    for party, batch in zip((alice, bob), clicks(), strict=True):
        party.feed(batch)
        party.finish()
    join(alice, bob, eve)
    distiller = next(iter(alice._blocks.values())).distiller
    assert distiller is not None
    budget, length = distiller.terms.leak_budget, distiller.n
    while alice._blocks and not alice.over and asked < length:
        asked += 1
        alice.receive(
            wire.encode(
                wire.Frame(0, alice._received, messages.ParityRequest(np.array([asked], np.int64)))
            )
        )
        for frame in alice.send():
            eve("alice", frame)
    assert 0 < told <= budget < length
    assert "reserved for it" in alice.take_reports()[0].reason
    assert both[0].keys() == both[1].keys() == {}


def test_pairs_may_be_tagged_before_their_bases_are_told() -> None:
    """An attacker says in Alice's place which events she will pair, and Bob tells him nothing."""
    terms = dataclasses.replace(PARAMETERS, tag_pairs=True)
    both = labs()
    said: list[str] = []

    def listen(_: str, data: bytes) -> Iterable[bytes]:
        said.append(name_of(data))
        return (data,)

    alice, bob = run(both, clicks(), listen, parameters=terms)
    assert (alice.reason, bob.reason) == ("", "")
    assert len(both[0].keys()) == 1
    agree(both)
    pairs = said.count("Paired")
    assert pairs >= 2
    assert sum(report.pads_spent for report in both[0].reports) == pairs + 3
    for report in both[0].reports:
        assert report.epsilons["authentication"] == report.pads_spent * 2.0**-71
    for at, name in enumerate(said):
        assert name != "Paired" or said[at + 1] == "Tag"

    for parameters, told in ((terms, False), (PARAMETERS, True)):
        both = labs()
        said.clear()

        def forge(message: messages.Paired) -> messages.Paired:
            return dataclasses.replace(message, paired=message.paired[:-1])

        line = forging(messages.Paired, forge)

        def watched(
            sender: str,
            data: bytes,
            line: Callable[[str, bytes], Iterable[bytes]] = line,
        ) -> Iterable[bytes]:
            said.append(name_of(data))
            return line(sender, data)

        _, bob = run(both, clicks(), watched, parameters=parameters)
        assert ("Bases" in said) == told
        assert both[0].keys() == both[1].keys() == {}


def test_alice_forgets_what_she_had_only_prepared() -> None:
    both = labs()
    both[0].sink.prepare("old/1", bytes(64), 0)
    both[1].sink.prepare("old/1", bytes(64), 0)
    both[1].sink.prepare("old/2", bytes(64), 0)
    settled(both)
    assert both[0].sink.state("old/1") == both[1].sink.state("old/1") == "discarded"
    assert both[1].sink.state("old/2") == "discarded"


def test_stores_of_the_other_kind_are_refused() -> None:
    both = labs()
    with pytest.raises(ProtocolError, match="twins"):
        both[0].start(twins=True)
