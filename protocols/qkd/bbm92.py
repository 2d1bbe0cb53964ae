"""BBM92 from clicks to sifted bits: what each party says until a block is complete.

:class:`PairingAlice` and :class:`PairingBob` are state machines without I/O. Feed them batches of
clicks and messages; take messages and :class:`.distill.RawBlock` out of :attr:`Pairing.out`.

Course: (1) Bob reveals the clicks of a calibration segment, Alice finds the delays, and neither
uses those clicks again. (2) Bob announces the times of his events, block by block: a block is a
stretch of announced time. Alice dates them, pairs them with clicks that she holds already, and
tells which are paired; that is final. Only then Bob tells the bases of those: whoever delays
Alice's photons learns no basis before they were measured. Alice replies which are kept (bases
equal, no detector blind), and reveals a few at random to monitor the error rate; those are lost.
What is left of a block when all its events are decided are its raw bits. The next block is
announced meanwhile.

Protocols whose analyzers turn (:mod:`.schemes`: E91, six-state) go the same way. Clicks come with
the setting that they were measured at, and events are announced, and paired, only when it has
ended. A basis then stands for the setting, too; pairs of bases that the protocol tests are revealed
like monitored bits, with Alice's bases, and counted in :attr:`Pairing.tests`.

**Traffic.** An announced event takes ``log2(gap / grid) + 1.5`` bits, a paired one about
``h(p) / p`` for a fraction p of pairs among the events, and 2 bits for its basis and whether it is
kept. Measured on the metropolitan bench (500 000 events a second at Bob, a tenth of them paired,
grid 10 ps): 19 bits an event and 430 bits for each sifted bit, all messages of all steps together,
nearly all of it announced times. A grid of 100 ps makes it 16 bits an event. The report states it
for each block (``traffic_bytes``, ``traffic_per_sifted_bit``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...instruments import BellbenchError, ProtocolError, TagBatch
from . import messages as msg
from .dating import Dating
from .distill import RawBlock, Terms, sampled_terms
from .estimation import ErrorHistory, Errors
from .parameters import BASES, Detectors, Parameters
from .randomness import Randomness
from .report import ASSUMPTIONS
from .schemes import SCHEMES, e91_chsh, six_state_errors
from .sifting import (
    BLIND,
    Clicks,
    Events,
    Match,
    Pairs,
    Sifter,
    corrected,
)
from .sifting_party import Said
from .waiting import Waiting

__all__ = ["FindDelays", "Pairing", "PairingAlice", "PairingBob", "Said"]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

#: Delays of Alice's and of Bob's channels in ps.
Delays = tuple[Mapping[int, int], Mapping[int, int]]
#: Finds them in the two calibration segments; where both parties know their own delays it is
#: given these and need only look for the offset between them. It raises a BellbenchError where the
#: clicks show none.
FindDelays = Callable[[TagBatch, TagBatch, Delays | None], Delays]

#: Announced events that may wait for Alice's clicks, for a clock, or for an answer: some 0.6 GB.
_WAITING = 1 << 25
#: The first block begins where the calibration ends, but for so much.
_LATE_PS = 10**10
#: Messages that may wait for an answer.
_UNANSWERED = 1 << 12


class _Raw:
    """Sifted bits of a block as they come in."""

    def __init__(self) -> None:
        self.bits: list[Bits] = []
        self.bases: list[Bits] = []
        self.times: list[Indices] = []
        self.kept = 0
        self.coincidences = 0
        self.monitored = Errors()
        self.tests: Indices | None = None

    def add(self, bits: Bits, bases: Bits, times: Indices) -> None:
        self.bits.append(bits)
        self.bases.append(bases)
        self.times.append(times)
        self.kept += bits.size

    def block(self, number: int) -> RawBlock:
        return RawBlock(
            number,
            np.concatenate([*self.bits, np.zeros(0, np.uint8)]),
            np.concatenate([*self.bases, np.zeros(0, np.uint8)]),
            np.concatenate([*self.times, np.zeros(0, np.int64)]),
            self.coincidences,
            self.monitored,
            self.tests,
        )


class Pairing(ABC):
    """What Alice and Bob have in common.

    Args:
        detectors: What this party's channels mean.
        parameters: The session's terms.
        randomness: For double clicks and the choice of monitored bits.
        history: Takes the errors of monitored bits.
        known_delays: Delays of this party's channels among themselves in ps, from a calibration
            of its own that no one else could reach.

    Attributes:
        out: Messages and finished blocks, in order; the session takes them off.
        calibrating: No event was announced yet.
        hold: Set by Bob's session where too many blocks are in flight: no new block is begun, and
            clicks wait.
        over: The recording has ended and all its events are decided.
        calibration_matrix: Coincidences of the calibration segment by outcome, rows Alice,
            columns Bob (order Z0 Z1 X0 X1); None before.
        coincidences: Matched pairs so far, whatever their bases.
        sifted: Bits sifted so far, with those revealed to monitor.
        monitor: Errors among the monitored bits so far.
        setting: Of the own analyzer, for the batches fed next; None while it is turned.
        tests: Revealed outcomes of the pairs of bases that the protocol tests, so far: int64, by
            Alice's basis, Bob's, her outcome, his. Public.
    """

    peer = ""

    def __init__(
        self,
        detectors: Detectors,
        parameters: Parameters,
        randomness: Randomness,
        history: ErrorHistory,
        known_delays: Mapping[int, int] | None = None,
    ) -> None:
        if known_delays is not None:
            missing = [c for c in detectors.channels if c not in known_delays]
            if missing:
                raise ProtocolError(f"no known delay for channels {missing}")
        self.detectors = detectors
        self.clicks = Clicks(
            detectors,
            parameters.calibration_ps,
            parameters.window_ps,
            randomness,
            parameters.dead_time_ps,
            SCHEMES[parameters.scheme].settings,
        )
        self.setting: int | None = 0
        self.out: deque[Said | RawBlock] = deque()
        self.calibrating = True
        self.over = False
        self.calibration_matrix: Indices | None = None
        self.coincidences = 0
        self.sifted = 0
        self.monitor = Errors()
        self._scheme = SCHEMES[parameters.scheme]
        self.tests: Indices = self._scheme.no_counts()
        self._parameters = parameters
        self._randomness = randomness
        self._history = history
        self._known = known_delays
        self.hold = False
        self._finished = False
        self._raw: dict[int, _Raw] = {}

    def feed(self, batch: TagBatch) -> None:
        """Take the next clicks of this party's own tagger; :meth:`advance` makes use of them.

        Raises:
            ProtocolError: where the batch does not follow the last one.
        """
        self.clicks.add(batch, self.setting)

    def finish(self) -> None:
        """End the recording: no more clicks come."""
        self._finished = True
        if self.clicks.calibration is None:
            raise ProtocolError("the recording ended within the calibration segment")
        self.advance()

    def advance(self) -> None:
        """Say what can be said by now."""
        if self.clicks.waiting > _WAITING:
            raise ProtocolError(
                f"{self.clicks.waiting:,} clicks wait: {self.peer} does not keep up, or is silent"
            )
        self._advance()

    @abstractmethod
    def _advance(self) -> None: ...

    @abstractmethod
    def handle(self, block: int | None, message: msg.Message) -> None:
        """Take a message of the peer about sifting."""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What keys rest on, for the report."""
        delays = (
            "detector delays found in the light of the link, which an attacker can bend"
            if self._known is None
            else "detector delays from an own calibration"
        )
        turns = ["which setting an analyzer has is known to its party alone until it has ended"]
        return (*ASSUMPTIONS, *(turns if self._scheme.tests else ()), delays)

    def terms(self, raw: RawBlock) -> Terms:
        """What the proof says of a finished block."""
        terms = sampled_terms(self._parameters, raw.bits.size)
        return replace(terms, refusal=self._refusal(raw.tests))

    def _refusal(self, tests: Indices | None) -> str:
        """Why a block is refused by its tests; empty where it is not."""
        terms = self._parameters
        if tests is None:
            tests = self._scheme.no_counts()
        if terms.scheme == "six_state":
            for name, (wrong, n) in six_state_errors(tests).items():
                if not n or wrong > terms.tolerance * n:
                    shown = f"{wrong / n:.2%}" if n else "unknown"
                    return f"error rate {shown} in {name} at different settings"
        if terms.scheme == "e91" and terms.least_chsh is not None:
            chsh = e91_chsh(tests)
            if chsh is None or chsh.value < terms.least_chsh:
                shown = f"{chsh.value:.3f} +- {chsh.standard_error:.3f}" if chsh else "unknown"
                return f"S {shown}, below {terms.least_chsh:g}"
        return ""

    @property
    def expected_bits(self) -> int:
        """Key that the youngest block would give if it ended now and passed all tests."""
        bound = self._parameters.key_bound(self.kept)
        return bound.length if bound else 0

    @property
    def double_clicks(self) -> int:
        """Of this party, so far."""
        return self.clicks.double_clicks

    @property
    def kept(self) -> int:
        """Raw bits of the youngest block."""
        return next(reversed(self._raw.values())).kept if self._raw else 0

    @property
    def clock(self) -> dict[str, Any] | None:
        """Figures of the peer's clock where this party follows it, fit for JSON; None else."""
        return None

    @property
    def clock_trace(self) -> list[tuple[float, float, float, float]]:
        """The peer's clock over time, where this party follows it."""
        return []

    def counts(self) -> dict[str, Any]:
        """Figures of this party's own clicks. **Not public**: they count outcomes."""
        by_outcome = [0, 0, 0, 0]
        for channel, outcome in zip(self.detectors.channels, self.detectors.outcomes, strict=True):
            by_outcome[outcome] += self.clicks.singles[channel]
        return {
            "singles": {str(channel): count for channel, count in self.clicks.singles.items()},
            "efficiency_mismatch": {
                basis: _contrast(by_outcome[2 * i], by_outcome[2 * i + 1])
                for i, basis in enumerate(BASES)
            },
            "basis_bias": _contrast(sum(by_outcome[:2]), sum(by_outcome[2:])),
            "double_clicks": self.clicks.double_clicks,
            "blind_events": self.clicks.blind_events,
            "unset_events": self.clicks.unset_events,
            "losses": self.clicks.losses,
        }

    def forget(self) -> None:
        """Let go of every outcome."""
        self.clicks.forget()
        self.out.clear()
        self._raw.clear()

    def _say(self, block: int | None, message: msg.Message) -> None:
        self.out.append(Said(block, message))

    def _expect(self, fine: bool, what: str) -> None:
        if not fine:
            raise ProtocolError(f"{self.peer} sent {what} that does not belong here")

    def _compare(
        self, number: int, bases: tuple[Bits, Bits], bits: tuple[Bits, Bits], times: Indices
    ) -> None:
        """Note revealed outcomes of both parties, hers first: errors in equal bases, and tests."""
        (alice, bob), (hers, his) = bases, bits
        raw = self._raw[number]
        if self._scheme.tests:
            test = alice != bob
            tests = self._scheme.count(alice[test], hers[test], bob[test], his[test])
            self.tests += tests
            raw.tests = tests if raw.tests is None else raw.tests + tests
            alice, hers, his, times = alice[~test], hers[~test], his[~test], times[~test]
        errors = self._history.add(hers, his, alice & np.uint8(1), times)
        self.monitor += errors
        raw.monitored += errors

    def _complete(self, number: int) -> None:
        self.out.append(self._raw.pop(number, _Raw()).block(number))


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


def _error_rate(matrix: Indices) -> float:
    """Part of the coincidences in equal bases whose bits differ."""
    wrong = matrix[0, 1] + matrix[1, 0] + matrix[2, 3] + matrix[3, 2]
    equal = int(matrix[:2, :2].sum() + matrix[2:, 2:].sum())
    return int(wrong) / equal if equal else 0.5


def _held(found: Mapping[int, int], known: Mapping[int, int] | None) -> dict[int, int]:
    """The delays of a party: known ones moved to where those found are on average."""
    if known is None:
        return {channel: round(delay) for channel, delay in found.items()}
    offset = round(sum(found[c] - known[c] for c in found) / len(found))
    return {channel: known[channel] + offset for channel in found}


class PairingAlice(Pairing):
    """Finds delays and coincidences, chooses what is monitored.

    Args:
        find_delays: By default :func:`~bellbench.protocols.timing.find_channel_delays`.
        match: Matches times one-to-one within a full window; by default that of
            :mod:`bellbench.protocols.timing`.
        **others: See :class:`Pairing`.
    """

    peer = "bob"

    def __init__(
        self,
        *args: Any,
        find_delays: FindDelays | None = None,
        match: Match | None = None,
        **others: Any,
    ) -> None:
        super().__init__(*args, **others)
        if match is None:
            from ..timing import match as one_to_one

            match = one_to_one
        self._match = match
        self._find_delays = find_delays or self._timing_delays
        self._dating = Dating()
        self._sifter = Sifter(self._parameters.window_ps, match)
        self._calibration: msg.Calibration | None = None
        self._announced = 0
        self._decided = 0
        self._open = 0  # block that Bob announces, and that whose pairs are told
        self._pairing = 0
        self._ends: dict[int, int] = {}  # number of the first event after a block
        self._peer_final = False
        # Pairs told to Bob whose bases he has not told yet, and whether they end their block.
        self._paired: deque[tuple[int, Pairs, bool]] = deque()
        self._all_paired = False
        # Monitored bits, bases of both, times that Bob has not answered yet.
        self._awaited: deque[tuple[int, Bits, tuple[Bits, Bits], Indices, bool]] = deque()
        self._waiting = 0
        self._kept = 0

    @property
    def clock(self) -> dict[str, Any] | None:
        """Figures of Bob's clock; see :meth:`bellbench.protocols.qkd.dating.Dating.metrics`."""
        return self._dating.metrics()

    @property
    def clock_trace(self) -> list[tuple[float, float, float, float]]:
        """Bob's clock over time; see :meth:`bellbench.protocols.qkd.dating.Dating.trace`."""
        return self._dating.trace()

    def _advance(self) -> None:
        if self.calibrating:
            if self._calibration is None or self.clicks.calibration is None:
                return
            self._calibrate(self.clicks.calibration, self._calibration)
        own = self.clicks.take(final=self._finished)
        self._dating.add_own(own)
        self._sifter.add_own(own)
        self._pair()

    def handle(self, block: int | None, message: msg.Message) -> None:
        """See :class:`Pairing`."""
        match message:
            case msg.Calibration():
                self._expect(self.calibrating and self._calibration is None, "a calibration")
                self._expect(
                    message.end_ps - message.begin_ps == self._parameters.calibration_ps,
                    "a calibration of a length",
                )
                self._calibration = message
                self.advance()
            case msg.Announcement():
                self._expect(not self.calibrating and not self._peer_final, "events")
                self._expect(message.first == self._announced, "events out of order")
                self._expect(block == self._open, "events of a block")
                self._announced += message.times.size
                if self._announced - self._decided > _WAITING:
                    raise ProtocolError(
                        f"more than {_WAITING:,} events announced by bob wait to be decided:"
                        " he is too far ahead, or his clock was not found"
                    )
                if message.final:
                    self._ends[self._open] = self._announced
                    self._open += 1
                self._peer_final = message.over
                step = self._parameters.resolution_ps
                self._dating.add_peer(message.times * step, message.horizon * step)
                self._pair()
            case msg.Bases():
                self._expect(bool(self._paired) and self._paired[0][0] == block, "bases")
                number, pairs, last = self._paired.popleft()
                self._waiting -= pairs.index.size
                theirs = self._scheme.numbers(message.bases, pairs.bases.size)
                if theirs is None:
                    raise ProtocolError(f"{self.peer} sent bases that do not belong here")
                theirs[message.blind] = BLIND
                self._sift(number, pairs, theirs, last)
            case msg.Monitored():
                self._expect(bool(self._awaited) and self._awaited[0][0] == block, "monitor bits")
                number, mine, bases, times, last = self._awaited.popleft()
                self._expect(message.bits.shape == mine.shape, "a number of monitor bits")
                self._compare(number, bases, (mine, message.bits), times)
                if last:
                    self._complete(number)
                    self.over = self._all_paired and not self._paired and not self._awaited
            case _:
                self._expect(False, f"a message {type(message).__name__}")

    def _timing_delays(self, a: TagBatch, b: TagBatch, known: Delays | None) -> Delays:
        from ..timing import find_channel_delays

        assert self._calibration is not None
        # A recovered clock leaves no offset but those between channels.
        search_ps = 50_000_000_000 if self._parameters.clocks == "shared" else 1_000_000
        found = find_channel_delays(
            a,
            b,
            channels_a=self.detectors.channels,
            channels_b=self._calibration.channels.tolist(),
            search_ps=search_ps,
            known=known,
        )
        return found.delays_a, found.delays_b

    def _calibrate(self, mine: TagBatch, calibration: msg.Calibration) -> None:
        theirs = TagBatch(
            calibration.times_ps,
            calibration.channels[calibration.rows],
            calibration.begin_ps,
            calibration.end_ps,
        )
        detectors = Detectors(
            tuple(
                (channel, BASES[outcome >> 1], outcome & 1)
                for channel, outcome in zip(
                    calibration.channels.tolist(), calibration.outcomes.tolist(), strict=True
                )
            )
        )
        known_b = dict(
            zip(calibration.channels.tolist(), calibration.known_ps.tolist(), strict=False)
        )
        known = (self._known, known_b) if self._known is not None and known_b else None
        told, line = theirs, None
        try:
            if self._parameters.clocks == "shared":
                found = self._find_delays(mine, theirs, known)
            else:
                from ..timing import common_clock

                theirs, line, found = common_clock(
                    mine, theirs, lambda a, b: self._find_delays(a, b, known), lambda x: x
                )
        except BellbenchError as error:
            raise ProtocolError(f"no delays found in the calibration segment: {error}") from error
        delays = []
        for party, given, trusted in zip(
            (self.detectors, detectors), found, (self._known, known_b or None), strict=True
        ):
            missing = [c for c in party.channels if c not in given]
            if missing:
                raise ProtocolError(f"no delay found for channels {missing}")
            delays.append(_held({c: given[c] for c in party.channels}, trusted))
            self._check_spread(delays[-1])
        self._clicks_agree(mine, theirs, detectors, delays)
        self.clicks.set_delays(delays[0])
        self._calibration = None
        if line is not None:
            delays[1] = {c: delay + line.offset_ps for c, delay in delays[1].items()}
        # His first horizon may lie a window before the end of the segment, rounded to the grid.
        step = self._parameters.resolution_ps
        peer = _as_events(told, detectors, delays[1], self._parameters.window_ps + step)
        own = _as_events(mine, self.detectors, delays[0], 0)
        self._dating = Dating(line, own, peer, peer.end_ps)
        assert self.calibration_matrix is not None
        self._say(
            None,
            msg.Delays(
                np.array(detectors.channels, dtype=np.int16),
                np.array(list(delays[1].values()), dtype=np.int64),
                self.calibration_matrix,
                peer.end_ps // step,
            ),
        )
        self.calibrating = False

    def _check_spread(self, delays: Mapping[int, int]) -> None:
        spread = max(delays.values()) - min(delays.values())
        if spread > self._parameters.delay_spread_ps:
            raise ProtocolError(
                f"the delays of one party's channels differ by {spread} ps; the terms allow"
                f" {self._parameters.delay_spread_ps} ps"
            )

    def _clicks_agree(
        self,
        mine: TagBatch,
        theirs: TagBatch,
        detectors: Detectors,
        delays: Sequence[Mapping[int, int]],
    ) -> None:
        """Note the coincidences of the calibration; refuse one that shows errors or a wide peak."""
        times_a, outcomes_a = corrected(mine, self.detectors, delays[0])
        times_b, outcomes_b = corrected(theirs, detectors, delays[1])
        window = self._parameters.window_ps
        a, b = self._match(times_a, times_b, window)
        cells = 4 * outcomes_a[a].astype(np.int64) + outcomes_b[b]
        matrix = np.bincount(cells, minlength=16).reshape(4, 4).astype(np.int64)
        self.calibration_matrix = matrix
        rate, most = _error_rate(matrix), self._parameters.calibration_error
        if rate > most:
            raise ProtocolError(
                f"error rate {rate:.2%} among {a.size} coincidences of the calibration, above"
                f" {most:.2%}: delays found in such light are not trusted"
            )
        width = float(np.std(times_a[a] - times_b[b])) / window
        if width > self._parameters.calibration_width:
            raise ProtocolError(
                f"the calibration's coincidences are {width * window:.0f} ps wide (rms), above"
                f" {self._parameters.calibration_width:g} of the window of {window} ps:"
                " take a wider window, or look for what broadens the peak"
            )

    def _pair(self) -> None:
        if self._all_paired:
            return
        final = self._finished and self._peer_final
        self._sifter.add_peer(self._dating.take(final=final))
        pairs = self._sifter.take(final=final)
        if pairs is None:
            return
        begin = 0
        while self._pairing in self._ends and self._ends[self._pairing] <= pairs.upto:
            upto = self._ends.pop(self._pairing)
            end = int(np.searchsorted(pairs.index, upto))
            self._tell(_part(pairs, begin, end, upto), last=True)
            begin = end
            self._pairing += 1
        if not final and (begin < pairs.index.size or pairs.upto > self._decided):
            self._tell(_part(pairs, begin, pairs.index.size, pairs.upto), last=False)
        self._all_paired = final

    def _tell(self, pairs: Pairs, *, last: bool) -> None:
        number = self._pairing
        self._decided = pairs.upto
        self.coincidences += pairs.index.size
        self._raw.setdefault(number, _Raw()).coincidences += pairs.index.size
        self._paired.append((number, pairs, last))
        self._waiting += pairs.index.size
        if self._waiting > _WAITING or len(self._paired) > _UNANSWERED:
            raise ProtocolError("bob does not tell the bases of what was paired")
        self._say(number, msg.Paired(pairs.upto, pairs.index, last))

    def _sift(self, number: int, pairs: Pairs, theirs: Bits, last: bool) -> None:
        good = (pairs.bases == theirs) & (theirs != BLIND)
        if self._scheme.tests:
            good |= self._scheme.tested(pairs.bases, theirs)
        kept = np.flatnonzero(good)
        bits, bases, times = pairs.bits[kept], pairs.bases[kept], pairs.times_ps[kept]
        fraction = np.uint64(int(self._parameters.monitor_fraction * 2**64))
        reveal = self._randomness.words("monitor", self._kept, kept.size) < fraction
        self._kept += kept.size
        self.sifted += kept.size
        if self._scheme.tests:
            test = bases != theirs[kept]
            reveal |= test
            self.sifted -= int(np.count_nonzero(test))
        self._raw[number].add(bits[~reveal], bases[~reveal] & np.uint8(1), times[~reveal])
        both = bases[reveal], theirs[kept[reveal]]
        self._awaited.append((number, bits[reveal], both, times[reveal], last))
        if len(self._awaited) > _UNANSWERED:
            raise ProtocolError("bob does not answer to what is monitored")
        told = kept, np.flatnonzero(reveal), bits[reveal]
        if self._scheme.tests:
            self._say(number, msg.SiftedTests(*told, self._scheme.planes(both[0])))
        else:
            self._say(number, msg.Sifted(*told))

    def forget(self) -> None:
        """See :class:`Pairing`."""
        super().forget()
        self._paired.clear()
        self._awaited.clear()
        self._sifter = Sifter(self._parameters.window_ps, self._match)


def _part(pairs: Pairs, begin: int, end: int, upto: int) -> Pairs:
    return Pairs(
        upto,
        pairs.index[begin:end],
        pairs.times_ps[begin:end],
        pairs.bases[begin:end],
        pairs.bits[begin:end],
    )


class PairingBob(Pairing):
    """Announces times and tells the bases of pairs."""

    peer = "alice"

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self._calibrated = False
        self._announced = 0
        self._decided = 0
        self._final_sent = False
        self._horizon = -(1 << 62)
        self._open = 0  # block that is announced, and where it ends
        self._end = 0
        self._pairing = 0  # block whose pairs are told
        self._ends: dict[int, int] = {}  # number of the first event after a block
        # Announced events that Alice has not decided yet, with their outcomes; then the paired ones
        # of which she has not told what is kept.
        self._pending = Waiting(np.int64, np.uint8, np.uint8)
        self._paired: deque[tuple[int, Events, bool]] = deque()

    def _advance(self) -> None:
        if not self._calibrated and self.clicks.calibration is not None:
            self._calibrated = True
            self._say(None, self._segment(self.clicks.calibration))
        if not self.calibrating and not self._final_sent and not self.hold:
            self._announce()

    def handle(self, block: int | None, message: msg.Message) -> None:
        """See :class:`Pairing`."""
        match message:
            case msg.Delays():
                self._expect(self._calibrated and self.calibrating, "delays")
                self._take_delays(message)
                self.calibrating = False
                self.advance()
            case msg.Paired():
                self._expect(block == self._pairing and block <= self._open, "pairs")
                self._tell_bases(self._pairing, message)
            case msg.Sifted():
                self._expect(bool(self._paired) and self._paired[0][0] == block, "sifted events")
                self._keep(message)
            case _:
                self._expect(False, f"a message {type(message).__name__}")

    def _segment(self, segment: TagBatch) -> msg.Calibration:
        channels = np.array(self.detectors.channels, np.int16)
        known = [] if self._known is None else [self._known[c] for c in self.detectors.channels]
        return msg.Calibration(
            channels,
            np.array(self.detectors.outcomes, np.uint8),
            np.array(known, np.int64),
            segment.begin_ps,
            segment.end_ps,
            segment.times_ps,
            np.searchsorted(channels, segment.channels).astype(np.uint8),
        )

    def _take_delays(self, message: msg.Delays) -> None:
        delays = dict(zip(message.channels.tolist(), message.delays_ps.tolist(), strict=True))
        self._expect(set(delays) == set(self.detectors.channels), "a set of delays")
        known, terms = self._known, self._parameters
        if known is not None and len({delays[c] - known[c] for c in delays}) != 1:
            raise ProtocolError("alice sent delays that are not those of bob's own calibration")
        if max(delays.values()) - min(delays.values()) > terms.delay_spread_ps:
            raise ProtocolError("alice sent delays that differ by more than the terms allow")
        if _error_rate(message.coincidences) > terms.calibration_error:
            raise ProtocolError("the calibration shows more errors than the terms allow")
        self.clicks.set_delays(delays)
        self.calibration_matrix = message.coincidences
        segment = self.clicks.calibration
        assert segment is not None
        begin = message.begin * terms.resolution_ps
        late = abs(begin - (segment.end_ps - max(delays.values())))
        self._expect(late < _LATE_PS, "a begin of the first block")
        self._end = message.begin + terms.block_steps

    def _announce(self) -> None:
        step = self._parameters.resolution_ps
        events = self.clicks.take(final=self._finished)
        # Rounding keeps the order. Finer times than needed could tell detectors apart.
        times = (events.times_ps + step // 2) // step
        horizon = (events.horizon_ps + step // 2) // step
        # Rounded, the last event may lie on the horizon; the next is more than a window later.
        horizon = max(horizon, self._horizon, int(times[-1]) + 1 if times.size else horizon)
        begin, over = 0, False
        while horizon >= self._end and not over:
            end = int(np.searchsorted(times, self._end))
            over = self._finished and end == times.size
            self._tell(events, times, begin, end, self._end, final=True, over=over)
            begin = end
        if not over:
            over = self._finished
            self._tell(events, times, begin, times.size, horizon, final=over, over=over)
        self._final_sent = over

    def _tell(
        self,
        events: Events,
        times: Indices,
        begin: int,
        end: int,
        horizon: int,
        *,
        final: bool,
        over: bool,
    ) -> None:
        """Announce the events of the open block from ``begin`` to ``end``."""
        step = self._parameters.resolution_ps
        part = slice(begin, end)
        self._pending.add(times[part] * step, events.bases[part], events.bits[part])
        if self._pending.size > _WAITING:
            raise ProtocolError("alice does not decide which events are paired")
        while end - begin > msg.MAX_EVENTS:
            upto = begin + msg.MAX_EVENTS
            self._announcement(times[begin:upto], int(times[upto]), final=False, over=False)
            begin = upto
        self._announcement(times[begin:end], horizon, final=final, over=over)
        self._horizon = horizon
        if final:
            self._ends[self._open] = self._announced
            self._open += 1
            self._end += self._parameters.block_steps

    def _announcement(self, times: Indices, horizon: int, *, final: bool, over: bool) -> None:
        self._say(self._open, msg.Announcement(self._announced, times, horizon, final, over))
        self._announced += times.size

    def _tell_bases(self, number: int, message: msg.Paired) -> None:
        upto = self._ends.get(number, self._announced)
        self._expect(self._decided <= message.upto <= upto, "a decision")
        if message.paired.size:
            self._expect(int(message.paired[0]) >= self._decided, "an event decided before")
        self._expect(
            not message.final or (number in self._ends and message.upto == upto), "a last decision"
        )
        index = message.paired - self._decided
        times, bases, bits = (self._pending[column][index] for column in range(3))
        paired = Events(times, bases, bits, self._horizon)
        self._pending.drop(message.upto - self._decided)
        self._decided = message.upto
        self.coincidences += index.size
        self._raw.setdefault(number, _Raw()).coincidences += index.size
        if message.final:
            del self._ends[number]
            self._pairing += 1
        self._paired.append((number, paired, message.final))
        if len(self._paired) > _UNANSWERED:
            raise ProtocolError("alice does not tell which events are kept")
        blind = paired.bases == BLIND
        self._say(
            number,
            msg.Bases(
                self._scheme.planes(np.where(blind, 0, paired.bases).astype(np.uint8)),
                np.flatnonzero(blind),
            ),
        )

    def _keep(self, message: msg.Sifted) -> None:
        (number, paired, last), kept = self._paired.popleft(), message.kept
        self._expect(not kept.size or int(kept[-1]) < paired.bases.size, "an event not paired")
        times, bases, bits = paired.times_ps[kept], paired.bases[kept], paired.bits[kept]
        self._expect(not np.any(bases == BLIND), "an event without a basis")
        bits = self._scheme.flip(bases, bits)
        reveal = message.monitored
        mine = bases[reveal]
        theirs = self._bases_of(message, mine)
        self.sifted += kept.size - int(np.count_nonzero(mine != theirs))
        self._compare(number, (theirs, mine), (message.bits, bits[reveal]), times[reveal])
        self._say(number, msg.Monitored(bits[reveal]))
        bases &= np.uint8(1)
        self._raw[number].add(
            np.delete(bits, reveal), np.delete(bases, reveal), np.delete(times, reveal)
        )
        if last:
            self._complete(number)
            self.over = self._final_sent and self._pairing == self._open and not self._paired

    def _bases_of(self, message: msg.Sifted, mine: Bits) -> Bits:
        """Alice's bases of what she reveals: equal to his, or of a test."""
        told = isinstance(message, msg.SiftedTests)
        self._expect(told == bool(self._scheme.tests), "a choice of events")
        if not isinstance(message, msg.SiftedTests):
            return mine
        theirs = self._scheme.numbers(message.bases, mine.size)
        if theirs is None or not np.all((theirs == mine) | self._scheme.tested(theirs, mine)):
            raise ProtocolError("alice sent bases that do not belong here")
        return theirs

    def forget(self) -> None:
        """See :class:`Pairing`."""
        super().forget()
        self._pending = Waiting(np.int64, np.uint8, np.uint8)
        self._paired.clear()
