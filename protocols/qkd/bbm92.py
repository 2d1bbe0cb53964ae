"""BBM92 between two parties, each a state machine without I/O.

Feed a party batches of clicks (:meth:`feed`), messages (:meth:`receive`) and the time
(:meth:`tick`); take messages (:meth:`send`) and, at the end, the :attr:`result` out.
:class:`Channel` joins two parties in one process::

    alice = Alice(detectors_a, parameters, find_delays=find, randomness=SystemRandomness())
    bob = Bob(detectors_b, parameters, randomness=SystemRandomness())
    channel = Channel(alice, bob)
    for a, b in batches:
        alice.feed(a)
        bob.feed(b)
        channel.run()
    alice.finish()
    bob.finish()
    channel.run()

Course: (1) Bob reveals the clicks of a calibration segment, Alice finds the delays, and neither
uses those clicks again. (2) Bob announces the times of his events. Alice dates them, pairs them
with clicks that she holds already, and tells which are paired; that is final. Only then Bob tells
the bases of those: whoever delays Alice's photons learns no basis before they were measured. Alice
replies which are kept (bases equal, no detector blind), and reveals a few at random to monitor the
error rate; those are lost. (3) All sifted bits form one block of m bits. A random sample of k is
compared; above the tolerance there is no key. (4) Bob corrects his n = m - k bits with Cascade,
(5) a universal hash verifies them, (6) a Toeplitz hash compresses them to the length of the
finite-key bound.

**The classical channel is assumed to be authentic; nothing here authenticates it.** Digests of
all messages are compared before a key is accepted, which catches accidents, not an adversary.
The model and what it leaves out are in ``docs/security-notes.md``.

Lengths are fixed by the number of sifted bits alone, as the bound's proof wants: the sample, the
tag and the leak budget ``ceil(f h(delta) n)`` come from parameters agreed before the data. The
key is shortened by the whole budget, however little of it was used; a block that needs more is
given up.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ...instruments import BellbenchError, ProtocolError, TagBatch
from . import messages as msg
from .amplify import seed_bits, toeplitz_hash
from .cascade import Corrector, Reference
from .dating import Dating
from .estimation import Errors, random_sample, split_sample
from .finite_key import KeyBound, binary_entropy
from .ledger import LeakLedger
from .parameters import BASES, Detectors, Parameters
from .randomness import Randomness, SystemRandomness, random_bits
from .sifting import (
    BLIND,
    Clicks,
    Events,
    Match,
    Pairs,
    Sifter,
    corrected,
    join,
    no_events,
    tail,
)
from .verify import tag_seed_bits, verification_tag

__all__ = [
    "Alice",
    "Bob",
    "Channel",
    "FindDelays",
    "Phase",
    "Progress",
    "Result",
    "joint_result",
]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

#: Delays of A's and of B's channels, in ps, from the two calibration segments. It raises a
#: BellbenchError where the clicks show none.
FindDelays = Callable[[TagBatch, TagBatch], tuple[Mapping[int, int], Mapping[int, int]]]


#: Stretches in which revealed bits are counted, in ps.
_STRETCH = 10**11

#: Announced events that may wait for Alice's clicks, or for a clock: some 0.6 GB.
_WAITING = 1 << 25

_UNVERIFIED = "verification failed: the corrected blocks differ"


class Phase(StrEnum):
    """Where a party stands."""

    CALIBRATING = "calibrating"
    SIFTING = "sifting"
    ESTIMATING = "estimating"
    RECONCILING = "reconciling"
    VERIFYING = "verifying"
    DONE = "done"
    ABORTED = "aborted"


@dataclass(frozen=True, eq=False)
class Result:
    """Outcome of a run at one party.

    Attributes:
        key: Secret key bits, uint8 zeros and ones; empty where the run was aborted. Not shown.
        metrics: Figures of the run, fit for JSON. None is the key; ``singles`` and what follows
            from them count outcomes and are not public (``docs/security-notes.md``).
    """

    key: Bits = field(repr=False)
    metrics: dict[str, Any]


def joint_result(alice: Result, bob: Result) -> Result:
    """What a run amounts to for one who sees both parties: a key only where both hold it.

    Whoever speaks last cannot know whether the message came: Alice may hold a key where Bob gave
    up. The result is then Bob's, without a key and with his reason.

    Raises:
        ProtocolError: where both accepted, but not the same key; neither may then be used.
    """
    if not alice.key.size or not bob.key.size:
        return bob if alice.key.size else alice
    if not np.array_equal(alice.key, bob.key):
        raise ProtocolError(
            "the parties accepted different keys, which verification misses with chance 2^-t:"
            " throw both away; if it happens again it is a fault of Bellbench"
        )
    return alice


@dataclass(frozen=True)
class Progress:
    """A look at a running exchange; error rates are None before anything was compared.

    Attributes:
        phase: Where the party stands.
        sifted_bits: Sifted so far, with those revealed to monitor.
        coincidences: Matched pairs so far, whatever their bases.
        key_bits: Key that the block would give if it ended now and passed all tests.
        qber_z: Error rate of the monitored bits in Z.
        qber_x: The same in X.
        double_clicks: Of this party.
    """

    phase: Phase
    sifted_bits: int
    coincidences: int
    key_bits: int
    qber_z: float | None
    qber_x: float | None
    double_clicks: int


class _Party:
    """What Alice and Bob have in common."""

    name = ""
    peer = ""

    def __init__(
        self,
        detectors: Detectors,
        parameters: Parameters,
        *,
        randomness: Randomness | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.detectors = detectors
        self.parameters = parameters
        self.phase = Phase.CALIBRATING
        #: Coincidences of the calibration segment by outcome, rows Alice, columns Bob (order
        #: Z0 Z1 X0 X1); None before.
        self.calibration_matrix: Indices | None = None
        self.result: Result | None = None
        self._randomness = randomness or SystemRandomness()
        self._clicks = Clicks(
            detectors,
            parameters.calibration_ps,
            parameters.window_ps,
            self._randomness,
            parameters.dead_time_ps,
        )
        self._finished = False
        self._timeout = timeout_s
        self._now = 0.0
        self._heard = 0.0
        self._outbox: list[msg.Envelope] = []
        self._sent_number = 0
        self._received_number = 0
        self._sent = msg.Transcript()
        self._received = msg.Transcript()
        self._received_before = b""
        self._coincidences = 0
        self._sifted = 0
        # Sifted and not revealed, with the times announced for them.
        self._bits: list[Bits] = []
        self._bases: list[Bits] = []
        self._times: list[Indices] = []
        self._kept = 0  # bits of these
        self._monitor = Errors()
        self._history: dict[int, Errors] = {}
        # The block, from the end of sifting on.
        self._block = np.zeros(0, dtype=np.uint8)
        self._ledger = LeakLedger(0)
        self._m = self._k = 0
        self._bound: KeyBound | None = None
        self._sample: Errors | None = None
        self._corrected: int | None = None
        self._verified: bool | None = None

    # What a caller does.

    def feed(self, batch: TagBatch) -> None:
        """Take the next clicks of this party's own tagger.

        Raises:
            ProtocolError: after :meth:`finish`, or where the batch does not follow the last one.
        """
        if self._finished:
            raise ProtocolError(f"{self.name} was fed clicks after the end of the run")
        if self.phase is not Phase.ABORTED:
            self._clicks.add(batch)
            self._guard(self._advance)

    def finish(self) -> None:
        """End the quantum phase: no more clicks come, the block is made."""
        if self._finished:
            return
        self._finished = True
        if self.phase is Phase.ABORTED:
            return
        if self._clicks.calibration is None:
            self._abort("the recording ended within the calibration segment")
            return
        self._guard(self._advance)

    def receive(self, envelope: msg.Envelope) -> None:
        """Take a message of the peer. Anything wrong with it ends the run with its reason."""
        self._heard = self._now
        if self.result is not None:
            return
        self._guard(lambda: self._take(envelope))

    def send(self) -> list[msg.Envelope]:
        """Messages to the peer since the last call, in order."""
        out, self._outbox = self._outbox, []
        return out

    def tick(self, now_s: float) -> None:
        """Tell the time; gives up where the peer has been silent for too long after the run."""
        self._now = now_s
        if not self._finished:
            self._heard = now_s
        elif self.result is None and now_s - self._heard > self._timeout:
            self._abort(f"no message from {self.peer} for {self._timeout:g} s")

    @property
    def progress(self) -> Progress:
        """Where the run stands; public figures only."""
        if self.result is not None:
            key_bits = self.result.key.size
        else:
            bound = self._bound or self.parameters.key_bound(self._kept)
            key_bits = bound.length if bound else 0
        return Progress(
            self.phase,
            self._sifted,
            self._coincidences,
            key_bits,
            self._monitor.qber(0),
            self._monitor.qber(1),
            self._clicks.double_clicks,
        )

    @property
    def error_history(self) -> list[tuple[float, Errors]]:
        """Errors of the revealed bits over time: monitored ones, and at the end the sample.

        Each entry is the middle of a stretch of 0.1 s, in s by the announced times (Alice's
        clock), and the bits revealed of it. Both parties hold the same history, and it is public:
        the times were announced for every event, the bits were revealed.
        """
        return [
            ((stretch + 0.5) * _STRETCH * 1e-12, errors)
            for stretch, errors in sorted(self._history.items())
        ]

    def errors_between(self, begin_s: float, end_s: float) -> Errors:
        """Errors of the revealed bits in the stretches of :attr:`error_history` within a time."""
        first = math.ceil(begin_s * 1e12 / _STRETCH - 1e-6)
        last = math.floor(end_s * 1e12 / _STRETCH + 1e-6)
        found = (self._history.get(stretch) for stretch in range(first, last))
        return sum((errors for errors in found if errors is not None), Errors())

    # What parties do.

    def _advance(self) -> None:
        raise NotImplementedError

    def _handle(self, message: msg.Message) -> None:
        raise NotImplementedError

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ProtocolError as error:
            self._abort(str(error))
        except (ValueError, IndexError, OverflowError) as error:
            # Own clicks were checked when they came, so it is what the peer said.
            self._abort(f"what {self.peer} sent cannot be used: {error}")

    def _take(self, envelope: object) -> None:
        if not isinstance(envelope, msg.Envelope):
            raise ProtocolError("what came is no message")
        if type(envelope.number) is not int or envelope.number != self._received_number:
            raise ProtocolError(
                f"message {self._received_number} of {self.peer} did not come in its turn:"
                " one was lost, repeated or reordered"
            )
        self._received_number += 1
        envelope.check()
        if isinstance(envelope.message, msg.Abort):
            self._abort(f"{self.peer} aborted: {envelope.message.reason}", tell=False)
            return
        # A digest in a message covers what came before that message.
        self._received_before = self._received.digest()
        self._received.add(envelope)
        self._handle(envelope.message)

    def _post(self, message: msg.Message) -> None:
        envelope = msg.Envelope(self._sent_number, message)
        self._sent_number += 1
        self._sent.add(envelope)
        self._outbox.append(envelope)

    def _expect(self, fine: bool, what: str) -> None:
        if not fine:
            raise ProtocolError(f"{self.peer} sent {what} that does not belong here")

    def _abort(self, reason: str, *, tell: bool = True) -> None:
        if self.result is not None:
            return
        self.phase = Phase.ABORTED
        if tell:
            line = "".join(c if c.isprintable() else " " for c in reason[:1000])
            self._post(msg.Abort(line))
        self._end(np.zeros(0, dtype=np.uint8), reason)

    def _check_transcripts(self, message: msg.Verdict | msg.Confirmation) -> None:
        if message.sent != self._received_before or message.received != self._sent.digest():
            raise ProtocolError("messages were altered on the way: the transcripts differ")

    def _compared(self, mine: Bits, theirs: Bits, bases: Bits, times_ps: Indices) -> Errors:
        """Count the errors among revealed bits, sorted by time, and note when they were."""
        stretches, starts = np.unique(times_ps // _STRETCH, return_index=True)
        pieces = itertools.pairwise([*starts.tolist(), mine.size])
        for stretch, (begin, end) in zip(stretches.tolist(), pieces, strict=True):
            errors = Errors.count(mine[begin:end], theirs[begin:end], bases[begin:end])
            self._history[stretch] = self._history.get(stretch, Errors()) + errors
        return Errors.count(mine, theirs, bases)

    def _make_block(self) -> tuple[Bits, Indices]:
        """Form the block from the sifted bits and fix its lengths; returns its bases and times."""
        empty = np.zeros(0, dtype=np.uint8)
        self._block = np.concatenate([*self._bits, empty])
        bases = np.concatenate([*self._bases, empty])
        times = np.concatenate([*self._times, np.zeros(0, dtype=np.int64)])
        self._bits, self._bases, self._times = [], [], []
        self._m = self._block.size
        self._k = self.parameters.sample_bits(self._m)
        self._bound = self.parameters.key_bound(self._m)
        self._ledger = LeakLedger(self.parameters.leak_budget(self._m))
        return bases, times

    def _judge_sample(self) -> bool:
        """Compare the sample to the tolerance and the bound to zero; False after an abort."""
        assert self._sample is not None
        qber = self._sample.qber()
        delta = self.parameters.tolerance
        if qber is None or qber > delta:
            shown = "unknown" if qber is None else f"{qber:.2%}"
            self._abort(f"QBER {shown} above tolerance {delta:.2%}")
            return False
        if self._bound is None or self._bound.length == 0:
            raw = "none" if self._bound is None else f"{self._bound.raw:.0f} bits"
            self._abort(
                f"too few bits for a finite key: {self._m} sifted, {self._k} of them sampled,"
                f" {self._ledger.budget} reserved for reconciliation at tolerance {delta:.2%},"
                f" {self.parameters.verify_bits} for verification; the bound at epsilon"
                f" {self.parameters.epsilon:g} gives {raw}"
            )
            return False
        return True

    def _error_estimate(self) -> float:
        assert self._sample is not None
        return (sum(self._sample.wrong) + 1) / (self._k + 2)

    def _tag_seed_bytes(self) -> int:
        return -(-tag_seed_bits(self._block.size, self.parameters.verify_bits) // 8)

    def _amplification_seed_bits(self) -> int:
        assert self._bound is not None
        return seed_bits(self._block.size, self._bound.length)

    def _tag(self, packed_seed: Bits) -> Bits:
        t = self.parameters.verify_bits
        seed = np.unpackbits(packed_seed, count=tag_seed_bits(self._block.size, t))
        return verification_tag(self._block, seed, t)

    def _accept(self, packed_seed: Bits) -> None:
        assert self._bound is not None
        seed = np.unpackbits(packed_seed, count=self._amplification_seed_bits())
        key = toeplitz_hash(self._block, seed, self._bound.length)
        self.phase = Phase.DONE
        self._end(key, "")

    def _end(self, key: Bits, reason: str) -> None:
        self._forget()
        self.result = Result(key, self._metrics(key.size, reason))

    def _forget(self) -> None:
        """Let go of what the key could be made from again, the seed being public."""
        self._block = np.zeros(0, dtype=np.uint8)
        self._bits = []
        self._clicks.forget()

    def _metrics(self, key_bits: int, reason: str) -> dict[str, Any]:
        n = self._m - self._k
        leak = self._ledger.reconciliation_bits
        errors = self._corrected
        rate = errors / n if errors is not None and n else None
        compared = self._monitor + (self._sample or Errors())
        t = self.parameters.verify_bits
        bound = self._bound if self._bound is not None and key_bits else None
        singles = dict(self._clicks.singles)
        by_outcome = [0, 0, 0, 0]
        for channel, outcome in zip(self.detectors.channels, self.detectors.outcomes, strict=True):
            by_outcome[outcome] += singles[channel]
        return {
            "party": self.name,
            "aborted": bool(reason),
            "reason": reason,
            "randomness": self._randomness.kind,
            "coincidences": self._coincidences,
            "sifted_bits": self._sifted,
            "monitor_bits": sum(self._monitor.compared),
            "block_bits": self._m,
            "sample_bits": self._k if self._sample else 0,
            "qber": compared.qber(),
            "qber_z": compared.qber(0),
            "qber_x": compared.qber(1),
            "qber_sample": self._sample.qber() if self._sample else None,
            "qber_reconciled": rate,
            "tolerance": self.parameters.tolerance,
            "leak_bits": leak,
            "leak_budget_bits": self._ledger.budget,
            "f_ec": leak / (n * binary_entropy(rate)) if rate else None,
            "verify_bits": t if self._verified is not None else 0,
            "failed_blocks": int(self._verified is False),
            "secret_key_bits": key_bits,
            "key_consumed_bits": 0,
            "authentication": "assumed",
            "epsilon": bound.epsilon if bound else None,
            "epsilons": {
                "target": self.parameters.epsilon,
                "correctness": bound.correctness if bound else None,
                "estimation": bound.estimation if bound else None,
                "amplification": bound.amplification if bound else None,
            },
            "disclosed_bits": self._ledger.as_dict(),
            "double_clicks": self._clicks.double_clicks,
            "blind_events": self._clicks.blind_events,
            "losses": self._clicks.losses,
            "singles": {str(channel): count for channel, count in singles.items()},
            "efficiency_mismatch": {
                basis: _contrast(by_outcome[2 * i], by_outcome[2 * i + 1])
                for i, basis in enumerate(BASES)
            },
            "basis_bias": _contrast(sum(by_outcome[:2]), sum(by_outcome[2:])),
        }


def _as_events(
    segment: TagBatch, detectors: Detectors, delays_ps: Mapping[int, int], guard_ps: int
) -> TagBatch:
    """Corrected times of the calibration segment, up to where no later event can lie before."""
    times, _ = corrected(segment, detectors, delays_ps)
    end = segment.end_ps - max(delays_ps.values()) - guard_ps
    times = times[: int(np.searchsorted(times, end))]
    begin = int(times[0]) if times.size else end
    return TagBatch(times, np.zeros(times.size, dtype=np.int16), begin, end)


def _contrast(a: int, b: int) -> float | None:
    return (a - b) / (a + b) if a + b else None


class Alice(_Party):
    """The reference: finds delays and coincidences, draws sample and seeds, answers parities.

    Args:
        detectors: What her channels mean.
        parameters: The terms, equal to Bob's.
        find_delays: Finds the delays in the calibration segments.
        match: Matches times one-to-one within a full window; by default that of
            :mod:`bellbench.protocols.timing`.
        shared_clock: Whether both taggers count on one reference. Else she recovers Bob's clock
            from the calibration segment, up to 1 s and 100 ppm off, and follows it by the announced
            times and her own; events that cannot be dated are not sifted.
        randomness: The operating system's by default.
        timeout_s: Silence after which she gives up, once the recording has ended.
    """

    name = "alice"
    peer = "bob"

    def __init__(
        self,
        detectors: Detectors,
        parameters: Parameters,
        *,
        find_delays: FindDelays,
        match: Match | None = None,
        shared_clock: bool = True,
        randomness: Randomness | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(detectors, parameters, randomness=randomness, timeout_s=timeout_s)
        if match is None:
            from ..timing import match as one_to_one

            match = one_to_one
        self._match = match
        self._find_delays = find_delays
        self._shared_clock = shared_clock
        self._dating = Dating()
        self._sifter = Sifter(parameters.window_ps, match)
        self._calibration: msg.Calibration | None = None
        self._announced = 0
        self._decided = 0
        self._peer_final = False
        # Pairs told to Bob whose bases he has not told yet.
        self._paired: deque[Pairs] = deque()
        self._all_paired = False
        # Revealed bits, bases, times that Bob has not answered yet: monitored ones, the sample.
        self._awaited: deque[tuple[Bits, Bits, Indices]] = deque()
        none = np.zeros(0, dtype=np.uint8)
        self._sampled = (none, none, np.zeros(0, dtype=np.int64))
        self._reference: Reference | None = None
        self._cascade_key = 0
        self._amplification_seed: Bits | None = None

    def _advance(self) -> None:
        if self.phase is Phase.CALIBRATING:
            if self._calibration is None or self._clicks.calibration is None:
                return
            self._calibrate(self._clicks.calibration, self._calibration)
        if self.phase is Phase.SIFTING:
            own = self._clicks.take(final=self._finished)
            self._dating.add_own(own)
            self._sifter.add_own(own)
            self._pair()

    def _handle(self, message: msg.Message) -> None:
        match message:
            case msg.Calibration():
                self._expect(
                    self.phase is Phase.CALIBRATING and self._calibration is None, "a calibration"
                )
                if message.parameters != self.parameters:
                    raise ProtocolError("the parties run under different parameters")
                self._expect(
                    message.end_ps - message.begin_ps == self.parameters.calibration_ps,
                    "a calibration of a length",
                )
                self._calibration = message
                self._advance()
            case msg.Announcement():
                self._expect(self.phase is Phase.SIFTING and not self._peer_final, "events")
                self._expect(message.first == self._announced, "events out of order")
                self._announced += message.times_ps.size
                if self._announced - self._decided > _WAITING:
                    raise ProtocolError(
                        f"more than {_WAITING:,} events announced by bob wait to be decided:"
                        " he is too far ahead, or his clock was not found"
                    )
                self._peer_final = message.final
                self._dating.add_peer(message.times_ps, message.horizon_ps)
                self._pair()
            case msg.Bases():
                self._expect(self.phase is Phase.SIFTING and bool(self._paired), "bases")
                pairs = self._paired.popleft()
                self._expect(message.bases.shape == pairs.bases.shape, "a number of bases")
                self._sift(pairs, message.bases)
            case msg.Monitored():
                self._expect(bool(self._awaited), "monitor bits")
                mine, bases, times = self._awaited.popleft()
                self._expect(message.bits.shape == mine.shape, "a number of monitor bits")
                self._monitor += self._compared(mine, message.bits, bases, times)
            case msg.SampleReply():
                self._expect(self.phase is Phase.ESTIMATING and not self._awaited, "a sample")
                mine, bases, times = self._sampled
                self._expect(message.bits.shape == mine.shape, "a number of sample bits")
                self._ledger.write("bob", "sample", message.bits.size)
                self._sample = self._compared(mine, message.bits, bases, times)
                if self._judge_sample():
                    self.phase = Phase.RECONCILING
                    self._reference = Reference(
                        self._block, self._error_estimate(), self._cascade_key
                    )
            case msg.ParityRequest():
                self._expect(self.phase is Phase.RECONCILING, "a parity request")
                assert self._reference is not None
                parities = self._reference.answer(message.wanted)
                self._ledger.write("alice", "parity", parities.size)
                self._post(msg.ParityReply(parities))
            case msg.Reconciled():
                self._expect(self.phase is Phase.RECONCILING, "an end of reconciliation")
                self._expect(message.errors <= self._block.size, "a number of errors")
                self._corrected = message.errors
                self._verify()
            case msg.Verdict():
                self._expect(self.phase is Phase.VERIFYING, "a verdict")
                self._confirm(message)
            case _:
                self._expect(False, f"a message {type(message).__name__}")

    def _calibrate(self, mine: TagBatch, calibration: msg.Calibration) -> None:
        theirs = TagBatch(
            calibration.times_ps,
            calibration.channels,
            calibration.begin_ps,
            calibration.end_ps,
        )
        told, line = theirs, None
        try:
            if self._shared_clock:
                found = self._find_delays(mine, theirs)
            else:
                from ..timing import common_clock

                theirs, line, found = common_clock(mine, theirs, self._find_delays, lambda x: x)
        except BellbenchError as error:
            raise ProtocolError(f"no delays found in the calibration segment: {error}") from error
        delays = []
        for detectors, given in zip((self.detectors, calibration.detectors), found, strict=True):
            missing = [c for c in detectors.channels if c not in given]
            if missing:
                raise ProtocolError(f"no delay found for channels {missing}")
            delays.append({c: round(given[c]) for c in detectors.channels})
        times_a, outcomes_a = corrected(mine, self.detectors, delays[0])
        times_b, outcomes_b = corrected(theirs, calibration.detectors, delays[1])
        a, b = self._match(times_a, times_b, self.parameters.window_ps)
        cells = 4 * outcomes_a[a].astype(np.int64) + outcomes_b[b]
        self.calibration_matrix = np.bincount(cells, minlength=16).reshape(4, 4).astype(np.int64)
        self._clicks.set_delays(delays[0])
        self._calibration = None
        if line is not None:
            delays[1] = {c: delay + line.offset_ps for c, delay in delays[1].items()}
        # His first horizon may lie a window before the end of the segment, rounded to the grid.
        guard = self.parameters.window_ps + self.parameters.resolution_ps
        peer = _as_events(told, calibration.detectors, delays[1], guard)
        own = _as_events(mine, self.detectors, delays[0], 0)
        self._dating = Dating(line, own, peer, peer.end_ps)
        self._post(
            msg.Delays(
                np.array(calibration.detectors.channels, dtype=np.int16),
                np.array(list(delays[1].values()), dtype=np.int64),
                self.calibration_matrix,
            )
        )
        self.phase = Phase.SIFTING

    def _pair(self) -> None:
        if self._all_paired:
            return
        final = self._finished and self._peer_final
        self._sifter.add_peer(self._dating.take(final=final))
        pairs = self._sifter.take(final=final)
        if pairs is None:
            return
        self._decided = pairs.upto
        self._coincidences += pairs.index.size
        self._all_paired = final
        self._paired.append(pairs)
        self._post(msg.Paired(pairs.upto, pairs.index, final))

    def _sift(self, pairs: Pairs, theirs: Bits) -> None:
        kept = np.flatnonzero((pairs.bases == theirs) & (theirs != BLIND))
        bits, bases, times = pairs.bits[kept], pairs.bases[kept], pairs.times_ps[kept]
        fraction = np.uint64(int(self.parameters.monitor_fraction * 2**64))
        reveal = self._randomness.words("monitor", self._sifted, kept.size) < fraction
        self._sifted += kept.size
        self._bits.append(bits[~reveal])
        self._bases.append(bases[~reveal])
        self._times.append(times[~reveal])
        self._kept += self._bits[-1].size
        self._awaited.append((bits[reveal], bases[reveal], times[reveal]))
        self._post(msg.Sifted(kept, np.flatnonzero(reveal), bits[reveal]))
        if self._all_paired and not self._paired:
            self._estimate()

    def _estimate(self) -> None:
        bases, times = self._make_block()
        self.phase = Phase.ESTIMATING
        if self._m - self._k < 1 or self._k < 1:
            raise ProtocolError(f"too few bits for a finite key: {self._m} sifted")
        positions = random_sample(self._m, self._k, self._randomness)
        mine, self._block = split_sample(self._block, positions)
        self._sampled = (mine, bases[positions], times[positions])
        key = self._randomness.words("cascade", 0, 2)
        self._cascade_key = int(key[0]) | int(key[1]) << 64
        self._ledger.write("alice", "sample", mine.size)
        length = self._bound.length if self._bound else 0
        self._post(
            msg.Sample(self._m, positions, mine, self._ledger.budget, length, self._cascade_key)
        )

    def _verify(self) -> None:
        t = self.parameters.verify_bits
        n = self._block.size
        # Drawn now, after the quantum phase, and for this block only.
        seed = np.packbits(random_bits(self._randomness, "verify", tag_seed_bits(n, t)))
        self._amplification_seed = np.packbits(
            random_bits(self._randomness, "amplify", self._amplification_seed_bits())
        )
        tag = self._tag(seed)
        self._ledger.write("alice", "verification", tag.size)
        self.phase = Phase.VERIFYING
        self._post(msg.Verification(seed, tag, self._amplification_seed))

    @property
    def clock(self) -> dict[str, Any] | None:
        """Figures of Bob's clock so far, fit for JSON; None where shared or not looked for yet.

        ``locked`` with the ``reason`` where it is not; ``offset_ps`` (Bob's time less Alice's at
        ``at_s`` of hers), ``frequency``, ``jitter_ps`` (rms width of the coincidence peak),
        ``sigma_ps`` (standard error of the offset); ``locked_s``, ``unlocked_s``,
        ``losses_of_lock`` and ``undated_events`` of the exchange.
        """
        return self._dating.metrics()

    @property
    def clock_trace(self) -> list[tuple[float, float, float, float]]:
        """Bob's clock over time; see :meth:`bellbench.protocols.qkd.dating.Dating.trace`."""
        return self._dating.trace()

    def _forget(self) -> None:
        super()._forget()
        self._reference = None
        self._paired.clear()
        self._sifter = Sifter(self.parameters.window_ps, self._match)

    def _confirm(self, verdict: msg.Verdict) -> None:
        self._verified = verdict.equal
        self._ledger.write("bob", "verdict", 1)
        if not verdict.equal:
            self._abort(_UNVERIFIED)
            return
        self._check_transcripts(verdict)
        assert self._amplification_seed is not None
        self._accept(self._amplification_seed)
        self._post(msg.Confirmation(self._sent.digest(), self._received.digest()))


class Bob(_Party):
    """Announces times, tells the bases of pairs, corrects his bits to Alice's.

    Args:
        detectors: What his channels mean.
        parameters: The terms, equal to Alice's.
        randomness: The operating system's by default.
        timeout_s: Silence after which he gives up, once the recording has ended.
    """

    name = "bob"
    peer = "alice"

    def __init__(
        self,
        detectors: Detectors,
        parameters: Parameters,
        *,
        randomness: Randomness | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(detectors, parameters, randomness=randomness, timeout_s=timeout_s)
        self._calibrated = False
        self._delays_known = False
        self._announced = 0
        self._decided = 0
        self._final_sent = False
        self._horizon = -(1 << 62)
        # Announced events that Alice has not decided yet, with their outcomes; then the paired ones
        # of which she has not told what is kept.
        self._pending = no_events(0)
        self._paired: deque[Events] = deque()
        self._all_paired = False
        self._corrector: Corrector | None = None
        self._amplification_seed: Bits | None = None

    def _advance(self) -> None:
        if not self._calibrated and self._clicks.calibration is not None:
            segment = self._clicks.calibration
            self._calibrated = True
            self._post(
                msg.Calibration(
                    self.parameters,
                    self.detectors,
                    segment.begin_ps,
                    segment.end_ps,
                    segment.times_ps,
                    segment.channels,
                )
            )
        if self._delays_known and not self._final_sent:
            self._announce()

    def _announce(self) -> None:
        events = self._clicks.take(final=self._finished)
        times = self._rounded(events.times_ps)
        horizon = int(self._rounded(np.array([events.horizon_ps], dtype=np.int64))[0])
        # Rounded, the last event may lie on the horizon; the next is more than a window later.
        horizon = max(horizon, self._horizon, int(times[-1]) + 1 if times.size else horizon)
        self._horizon = horizon
        self._final_sent = self._finished
        self._pending = join(self._pending, Events(times, events.bases, events.bits, horizon))
        self._post(msg.Announcement(self._announced, times, horizon, self._finished))
        self._announced += times.size

    def _rounded(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        # Rounding keeps the order. Finer times than needed could tell detectors apart.
        step = self.parameters.resolution_ps
        rounded: npt.NDArray[np.int64] = (times + step // 2) // step * step
        return rounded

    def _handle(self, message: msg.Message) -> None:
        match message:
            case msg.Delays():
                self._expect(self._calibrated and not self._delays_known, "delays")
                delays = dict(
                    zip(message.channels.tolist(), message.delays_ps.tolist(), strict=True)
                )
                self._expect(set(delays) == set(self.detectors.channels), "a set of delays")
                self._clicks.set_delays(delays)
                self.calibration_matrix = message.coincidences
                self._delays_known = True
                self.phase = Phase.SIFTING
                self._advance()
            case msg.Paired():
                self._expect(self.phase is Phase.SIFTING and not self._all_paired, "pairs")
                self._tell_bases(message)
            case msg.Sifted():
                self._expect(self.phase is Phase.SIFTING and bool(self._paired), "sifted events")
                self._keep(message)
            case msg.Sample():
                self._expect(self.phase is Phase.ESTIMATING, "a sample")
                self._compare(message)
            case msg.ParityReply():
                self._expect(self.phase is Phase.RECONCILING, "parities")
                assert self._corrector is not None
                self._ledger.write("alice", "parity", message.parities.size)
                self._corrector.accept(message.parities)
                self._reconcile(self._corrector)
            case msg.Verification():
                self._expect(self.phase is Phase.VERIFYING, "a tag")
                self._check_tag(message)
            case msg.Confirmation():
                self._expect(self._amplification_seed is not None, "a confirmation")
                assert self._amplification_seed is not None
                self._check_transcripts(message)
                self._accept(self._amplification_seed)
            case _:
                self._expect(False, f"a message {type(message).__name__}")

    def _tell_bases(self, message: msg.Paired) -> None:
        self._expect(self._decided <= message.upto <= self._announced, "a decision")
        if message.paired.size:
            self._expect(int(message.paired[0]) >= self._decided, "an event decided before")
        self._expect(
            not message.final or (self._final_sent and message.upto == self._announced),
            "a last decision",
        )
        index, pending = message.paired - self._decided, self._pending
        paired = Events(
            pending.times_ps[index], pending.bases[index], pending.bits[index], pending.horizon_ps
        )
        self._pending = tail(pending, message.upto - self._decided)
        self._decided = message.upto
        self._coincidences += index.size
        self._all_paired = message.final
        self._paired.append(paired)
        self._post(msg.Bases(paired.bases))

    def _keep(self, message: msg.Sifted) -> None:
        paired, kept = self._paired.popleft(), message.kept
        self._expect(not kept.size or int(kept[-1]) < paired.bases.size, "an event not paired")
        times, bases, bits = paired.times_ps[kept], paired.bases[kept], paired.bits[kept]
        self._expect(not np.any(bases == BLIND), "an event without a basis")
        self._sifted += kept.size
        reveal = message.monitored
        self._monitor += self._compared(bits[reveal], message.bits, bases[reveal], times[reveal])
        self._post(msg.Monitored(bits[reveal]))
        self._bits.append(np.delete(bits, reveal))
        self._bases.append(np.delete(bases, reveal))
        self._times.append(np.delete(times, reveal))
        self._kept += self._bits[-1].size
        if self._all_paired and not self._paired:
            self.phase = Phase.ESTIMATING

    def _compare(self, message: msg.Sample) -> None:
        bases, times = self._make_block()
        length = self._bound.length if self._bound else 0
        self._expect(message.block == self._m, "a block length")
        self._expect(message.positions.size == self._k, "a sample size")
        if (message.leak_budget, message.key_bits) != (self._ledger.budget, length):
            raise ProtocolError("the parties derive different lengths from the same parameters")
        mine, self._block = split_sample(self._block, message.positions)
        self._ledger.write("alice", "sample", message.bits.size)
        self._ledger.write("bob", "sample", mine.size)
        at = message.positions
        self._sample = self._compared(mine, message.bits, bases[at], times[at])
        self._post(msg.SampleReply(mine))
        if self._judge_sample():
            self.phase = Phase.RECONCILING
            self._corrector = Corrector(self._block, self._error_estimate(), message.cascade_key)
            self._reconcile(self._corrector)

    def _reconcile(self, corrector: Corrector) -> None:
        request = corrector.request()
        if request is not None:
            self._post(msg.ParityRequest(request))
            return
        self._block = corrector.bits
        self._corrected = corrector.errors
        self.phase = Phase.VERIFYING
        self._post(msg.Reconciled(corrector.errors))

    def _check_tag(self, message: msg.Verification) -> None:
        t = self.parameters.verify_bits
        self._expect(self._amplification_seed is None, "a second tag")
        self._expect(message.tag.size == t, "a tag length")
        self._expect(message.seed.size == self._tag_seed_bytes(), "a verification seed")
        expected = -(-self._amplification_seed_bits() // 8)
        self._expect(message.amplification_seed.size == expected, "an amplification seed")
        self._ledger.write("alice", "verification", t)
        self._ledger.write("bob", "verdict", 1)
        self._verified = bool(np.array_equal(self._tag(message.seed), message.tag))
        self._post(msg.Verdict(self._verified, self._sent.digest(), self._received.digest()))
        if not self._verified:
            self._abort(_UNVERIFIED)
            return
        self._amplification_seed = message.amplification_seed

    def _forget(self) -> None:
        super()._forget()
        self._corrector = None
        self._pending = no_events(0)
        self._paired.clear()


class Channel:
    """Carries messages between two parties in one process, in order.

    Args:
        alice: One party.
        bob: The other.
        intercept: Sees ``(sender, envelope)`` and returns the envelopes to deliver in its place;
            for records, and for tests of loss and tampering.
    """

    def __init__(
        self,
        alice: Alice,
        bob: Bob,
        intercept: Callable[[str, msg.Envelope], Iterable[msg.Envelope]] | None = None,
    ) -> None:
        self._parties: tuple[tuple[_Party, _Party], ...] = ((alice, bob), (bob, alice))
        self._intercept = intercept

    def run(self) -> int:
        """Deliver until neither party has anything to say; returns the messages delivered."""
        delivered = 0
        busy = True
        while busy:
            busy = False
            for sender, receiver in self._parties:
                for sent in sender.send():
                    busy = True
                    through = self._intercept(sender.name, sent) if self._intercept else (sent,)
                    for envelope in through:
                        receiver.receive(envelope)
                        delivered += 1
        return delivered
