"""From clicks to sifted bits, as a stream and independent of how the stream is cut."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError, TagBatch, TimesPs, concatenate
from ..timing._streams import live
from .parameters import Detectors
from .randomness import Randomness

if TYPE_CHECKING:
    from .dating import Dated

__all__ = [
    "BLIND",
    "Clicks",
    "Events",
    "Match",
    "Pairs",
    "Sifter",
    "corrected",
    "join",
    "no_events",
    "tail",
]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Piece = TypeVar("Piece", "Events", "Dated")

#: Basis of an event that gives no key bit, since one of the party's detectors may have been blind.
BLIND = 255

#: One-to-one matching within a full window: (times a, times b, window) to indices into a and b.
Match = Callable[[TimesPs, TimesPs, int], tuple[Indices, Indices]]


@dataclass(frozen=True, eq=False)
class Events:
    """Detections of one party after delays and double clicks, sorted by time.

    Attributes:
        times_ps: int64, corrected for the delays.
        bases: uint8, number of the basis (0 for Z, 1 for X), 255 (``BLIND``) for none.
        bits: uint8, the outcomes. Secret, and not shown.
        horizon_ps: No later event is earlier than this.
    """

    times_ps: TimesPs
    bases: Bits
    bits: Bits = field(repr=False)
    horizon_ps: int


def corrected(
    batch: TagBatch, detectors: Detectors, delays_ps: Mapping[int, int]
) -> tuple[TimesPs, Bits]:
    """Clicks in corrected time, sorted (equal times in recorded order), and their outcomes.

    Returns:
        int64 times, and uint8 outcomes 0 to 3 for Z0, Z1, X0, X1.
    """
    row = np.searchsorted(np.asarray(detectors.channels), batch.channels)
    shift = np.array([delays_ps[channel] for channel in detectors.channels], dtype=np.int64)
    times = batch.times_ps - shift[row]
    order = np.argsort(times, kind="stable")
    return times[order], np.asarray(detectors.outcomes, dtype=np.uint8)[row][order]


class Clicks:
    """One party's clicks: cuts off the calibration segment, then makes events of the rest.

    Clicks of one party that follow a first one within a coincidence window are one event. Where
    they come from different detectors (a double click) its bit is drawn at random, and its basis
    too where both clicked, before anything is announced: discarding double clicks would open the
    door to an attacker who makes them.

    An event that begins within the dead time after the click before it has no basis and gives no
    key: the detector that clicked may still be blind, and whoever knows or caused that click then
    knows the outcome (Weier et al., New J. Phys. 13, 073024 (2011)). It is matched all the same.

    Clicks inside the tagger's losses are not used: of a damaged or overfull stretch neither times
    nor channels can be trusted, and what else clicked is not known. For the same reason an event
    within the dead time after a loss has no basis.

    Where an analyzer has several settings (:mod:`.schemes`), each batch comes with its own. An
    event that may lie outside the batches of one setting has no basis, and events are given out
    only when their setting has ended: what is said of them cannot tell it before.

    Args:
        detectors: Meaning of the channels at the first setting; clicks on others are ignored.
        calibration_ps: Length of the calibration segment.
        window_ps: Coincidence window, full width.
        randomness: Source of the bits of double clicks.
        dead_time_ps: Longest time that a detector is blind after a click.
        settings: Of the analyzer.

    Attributes:
        calibration: The calibration segment, once it is complete.
        singles: Clicks by channel, of the whole recording, outside losses.
        double_clicks: Number of them so far.
        blind_events: Number of events so far whose detectors may have been blind.
        unset_events: Number of others without a basis, between two settings.
        losses: Intervals with lost clicks reported by the tagger.
    """

    def __init__(
        self,
        detectors: Detectors,
        calibration_ps: int,
        window_ps: int,
        randomness: Randomness,
        dead_time_ps: int = 0,
        settings: int = 1,
    ) -> None:
        self._detectors = detectors
        self._settings = settings
        # Where a setting began, by the tagger's clock, and which one; the last one goes on.
        self._turns: list[tuple[int, int | None]] = []
        self._calibration_ps = calibration_ps
        self._window = window_ps
        self._randomness = randomness
        self._dead_time = dead_time_ps
        self._end: int | None = None  # watermark of the recording
        self._cut = 0
        self._first: list[TagBatch] = []
        self._later: list[TagBatch] = []
        self._delays: Mapping[int, int] | None = None
        self._times: TimesPs = np.zeros(0, dtype=np.int64)
        self._which = np.zeros(0, dtype=np.int16)  # rows of the detectors
        self._released = -(1 << 62)
        self._last = -(1 << 62)  # last click of the events made
        self.calibration: TagBatch | None = None
        self.singles: Counter[int] = Counter(dict.fromkeys(detectors.channels, 0))
        self.double_clicks = 0
        self.blind_events = 0
        self.unset_events = 0
        self.losses = 0
        self._last_loss = -(1 << 62)
        self._loss_ends: set[int] = set()

    def add(self, batch: TagBatch, setting: int | None = 0) -> None:
        """Take the next batch of the recording.

        Args:
            batch: Clicks.
            setting: The analyzer's; None where it was being turned.

        Raises:
            ProtocolError: where it does not follow on the last, or is not sorted.
        """
        try:
            batch.checked()
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if self._end is None:
            self._cut = batch.begin_ps + self._calibration_ps
        elif batch.begin_ps != self._end:
            raise ProtocolError(
                f"batch from {batch.begin_ps} ps does not follow the last, up to {self._end} ps"
            )
        self._end = batch.end_ps
        if not self._turns or self._turns[-1][1] != setting:
            if setting is not None and not 0 <= setting < self._settings:
                raise ProtocolError(f"an analyzer has no setting {setting} in this protocol")
            if self.calibration is None and setting != 0:
                raise ProtocolError("the analyzer was turned within the calibration segment")
            self._turns.append((batch.begin_ps, setting))
        for loss in batch.losses:
            if loss.begin_ps > self._last_loss:
                self.losses += 1
                self._last_loss = loss.begin_ps
            self._loss_ends.add(loss.end_ps)
        if batch.losses:
            seen = live(batch)
            batch = replace(batch, times_ps=batch.times_ps[seen], channels=batch.channels[seen])
        counts = [int(np.count_nonzero(batch.channels == c)) for c in self._detectors.channels]
        self.singles.update(dict(zip(self._detectors.channels, counts, strict=True)))
        if sum(counts) < len(batch):
            batch = batch.select(self._detectors.channels)
        if self.calibration is None:
            before, batch = batch.split(self._cut)
            self._first.append(before)
            if self._end < self._cut:
                return
            self.calibration = concatenate(self._first)
            self._first = []
        self._later.append(batch)

    @property
    def waiting(self) -> int:
        """Clicks that no event was made of yet, outside the calibration segment."""
        return self._times.size + sum(len(batch) for batch in self._later)

    def forget(self) -> None:
        """Let go of all outcomes but the calibration's; nothing can be taken any more."""
        self._times = np.zeros(0, dtype=np.int64)
        self._which = np.zeros(0, dtype=np.int16)
        self._first, self._later = [], []

    def set_delays(self, delays_ps: Mapping[int, int]) -> None:
        """Subtract these delays from the clicks after the calibration segment."""
        self._delays = dict(delays_ps)
        if self._dead_time:
            self._last = self._cut - min(delays_ps.values())  # no click of the segment is later

    def take(self, *, final: bool = False) -> Events:
        """Events that can no longer change; with ``final``, all of them.

        Raises:
            ProtocolError: before the delays are known.
        """
        if self._delays is None or self._end is None:
            raise ProtocolError("no events before the delays are known")
        self._line_up(self._delays)
        times, which = self._times, self._which
        # Clicks from here on may still come; an event is closed a window after its first click.
        end = max(self._turns[-1][0], self._cut) if self._settings > 1 else self._end
        release = end - max(self._delays.values()) - self._window
        if final:
            release = max(release, int(times[-1]) + 1) if times.size else release
        self._released = max(self._released, release)
        from . import _kernels_sifting

        heads = np.empty(times.size, np.int64)
        bases, bits = np.empty(times.size, np.uint8), np.empty(times.size, np.uint8)
        doubles = np.empty(times.size // 2, np.int64)
        found, blind, used, double = _kernels_sifting.group(
            times,
            which,
            np.asarray(self._detectors.outcomes, np.uint8),
            self._window,
            self._dead_time,
            self._last,
            self._released,
            heads,
            bases,
            bits,
            doubles,
        )
        heads, bases, bits = heads[:found], bases[:found], bits[:found]
        self._draw(bases, bits, doubles[:double])
        self.blind_events += blind
        if found:
            if self._loss_ends:
                unseen = self._after_loss(heads)
                self.blind_events += int(np.count_nonzero(unseen & (bases != BLIND)))
                bases[unseen] = BLIND
            self._last = max(self._last, int(times[used - 1]))
        if self._settings > 1:
            self._turn(heads, bases)
        self._times, self._which = times[used:], which[used:]
        latest = min(self._delays.values()) - self._dead_time + self._released
        self._loss_ends = {at for at in self._loss_ends if at > latest}
        return Events(heads, bases, bits, self._released)

    def _turn(self, times: TimesPs, bases: Bits) -> None:
        """Give events the bases of their setting, and none where it is not known."""
        assert self._delays is not None
        early, late = min(self._delays.values()), max(self._delays.values()) + self._window
        begins = np.array([begin for begin, _ in self._turns], np.int64)
        # Nothing was recorded before the first.
        first = np.maximum(np.searchsorted(begins, times + early, side="right") - 1, 0)
        last = np.searchsorted(begins, times + late, side="right") - 1
        known = np.array([-1 if s is None else s for _, s in self._turns], np.int64)
        settings = np.where(first == last, known[last], -1)
        seen = bases != BLIND
        self.unset_events += int(np.count_nonzero(seen & (settings < 0)))
        bases[seen] += (2 * settings[seen]).astype(np.uint8)
        bases[settings < 0] = BLIND
        # Later events lie behind what was given out.
        done = int(np.searchsorted(begins, self._released + early, side="right")) - 1
        del self._turns[: max(0, done)]

    def _after_loss(self, times: TimesPs) -> npt.NDArray[np.bool_]:
        """Which events may lie within the dead time after a loss."""
        if not (self._dead_time and self._loss_ends and self._delays):
            return np.zeros(times.size, np.bool_)
        ends = np.array(sorted(self._loss_ends), np.int64)
        early, late = max(self._delays.values()), min(self._delays.values()) - self._dead_time
        last = np.searchsorted(ends - early, times, side="right") - 1
        return np.asarray((last >= 0) & (times < ends[last] - late))

    def _line_up(self, delays_ps: Mapping[int, int]) -> None:
        """Put new clicks, less their delays, behind those that wait."""
        if not self._later:
            return
        from ..timing import _kernels_many

        new = self._later[0] if len(self._later) == 1 else concatenate(self._later)
        self._later = []
        channels = self._detectors.channels
        rows = np.full(1 << 16, len(channels), np.int16)
        rows[np.array(channels, np.int16).view(np.uint16)] = np.arange(len(channels))
        shifts = np.array([*(delays_ps[channel] for channel in channels), 0], np.int64)
        size = self._times.size + len(new)
        times, which = np.empty(size, np.int64), np.empty(size, np.int16)
        _, ordered = _kernels_many.arrange(
            self._times, self._which, new.times_ps, new.channels, rows, shifts, times, which
        )
        if not ordered:
            order = np.argsort(times, kind="stable")
            times, which = times[order], which[order]
        self._times, self._which = times, which

    def _draw(self, bases: Bits, bits: Bits, doubles: Indices) -> None:
        """Draw the bits, and where both bases clicked the bases, of double clicks."""
        words = self._randomness.words("double clicks", self.double_clicks, doubles.size)
        self.double_clicks += doubles.size
        both = doubles < 0
        where = np.where(both, ~doubles, doubles)
        bits[where] = words & np.uint64(1)
        both &= bases[where] != BLIND
        bases[where[both]] = (words[both] >> np.uint64(1)) & np.uint64(1)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Matched events, whatever their bases, sorted by the peer's index.

    Attributes:
        upto: All events of the peer below this index are decided.
        index: int64 indices of the peer's events.
        times_ps: The times that the peer announced, by its clock, public.
        bases: uint8, own ones.
        bits: Own outcomes. Secret, and not shown.
    """

    upto: int
    index: Indices
    times_ps: TimesPs
    bases: Bits
    bits: Bits = field(repr=False)


class Sifter:
    """Matches own events with the peer's announced ones, in bounded memory.

    Pairs are decided up to a moment at which neither party has an event within a window, so that
    the result does not depend on how the streams were cut.

    Args:
        window_ps: Coincidence window, full width.
        match: The matching function.
    """

    def __init__(self, window_ps: int, match: Match) -> None:
        self._window = window_ps
        self._match = match
        self._own = no_events(-(1 << 62))
        self._peer: TimesPs = np.zeros(0, dtype=np.int64)  # on the own clock
        self._told: TimesPs = np.zeros(0, dtype=np.int64)  # its times as announced
        self._index: Indices = np.zeros(0, dtype=np.int64)
        # What one party is ahead of the other, piece by piece, and up to where each has told.
        self._own_ahead: deque[Events] = deque()
        self._peer_ahead: deque[Dated] = deque()
        self._horizons = [-(1 << 62)] * 2
        self._upto = 0  # all events below this number were given here, or cannot be dated
        self._tried = -(1 << 62)

    def add_own(self, events: Events) -> None:
        """Add own events."""
        self._horizons[0] = events.horizon_ps
        if events.times_ps.size:
            self._own_ahead.append(events)

    def add_peer(self, dated: Dated) -> None:
        """Add announced events.

        Raises:
            ProtocolError: where they lie before the horizon of those before.
        """
        times, horizon = dated.times_ps, dated.horizon_ps
        if horizon < self._horizons[1] or (times.size and times[0] < self._horizons[1]):
            raise ProtocolError("events announced behind an earlier horizon")
        self._horizons[1] = horizon
        if times.size:
            self._peer_ahead.append(dated)
        self._upto = dated.upto

    def take(self, *, final: bool = False) -> Pairs | None:
        """Pairs decided since the last call; None where nothing new can be decided.

        Raises:
            ProtocolError: where the matching function does not keep to its contract.
        """
        until = (1 << 62) if final else min(self._horizons)
        if not final and until <= self._tried:
            return None
        self._tried = until
        self._catch_up(until)
        own, peer = self._own, self._peer
        if final:
            i, j = own.times_ps.size, peer.size
        else:
            i = int(np.searchsorted(own.times_ps, until))
            j = int(np.searchsorted(peer, until))
            from . import _kernels_sifting

            i, j = _kernels_sifting.last_gap(own.times_ps[:i], peer[:j], until, self._window)
            if i < 0:
                return None
        times_a, times_b = own.times_ps[:i], peer[:j]
        a, b = self._match(times_a, times_b, self._window)
        a, b = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
        broken = "the matching function did not match one-to-one within the window"
        if a.shape != b.shape:
            raise ProtocolError(broken)
        if (
            bool(np.any(a[1:] <= a[:-1]))
            or bool(np.any(b[1:] <= b[:-1]))
            or bool(np.any(2 * np.abs(times_a[a] - times_b[b]) > self._window))
        ):
            raise ProtocolError(broken)
        index, told = self._index[b], self._told[b]
        self._own, self._peer = tail(own, i), peer[j:]
        self._index, self._told = self._index[j:], self._told[j:]
        upto = self._upto
        if self._index.size:
            upto = int(self._index[0])
        elif self._peer_ahead:
            upto = int(self._peer_ahead[0].index[0])
        return Pairs(upto, index, told, own.bases[a], own.bits[a])

    def _catch_up(self, until: int) -> None:
        """Take up the pieces that begin before a moment."""
        own, dated = (_before(until, ahead) for ahead in (self._own_ahead, self._peer_ahead))
        if own:
            self._own = join(self._own, *own)
        if len(dated) == 1 and not self._peer.size:
            self._peer, self._told, self._index = (
                dated[0].times_ps,
                dated[0].told_ps,
                dated[0].index,
            )
        elif dated:
            self._peer = np.concatenate([self._peer, *(d.times_ps for d in dated)])
            self._told = np.concatenate([self._told, *(d.told_ps for d in dated)])
            self._index = np.concatenate([self._index, *(d.index for d in dated)])


def _before(until: int, ahead: deque[Piece]) -> list[Piece]:
    found = []
    while ahead and ahead[0].times_ps[0] < until:
        found.append(ahead.popleft())
    return found


def no_events(horizon_ps: int) -> Events:
    """No event up to the horizon."""
    none = np.zeros(0, dtype=np.uint8)
    return Events(np.zeros(0, dtype=np.int64), none, none, horizon_ps)


def join(*parts: Events) -> Events:
    """Events of all parts, one after the other."""
    some = [part for part in parts if part.times_ps.size]
    if len(some) == 1:
        return replace(some[0], horizon_ps=parts[-1].horizon_ps)
    return Events(
        np.concatenate([part.times_ps for part in parts]),
        np.concatenate([part.bases for part in parts]),
        np.concatenate([part.bits for part in parts]),
        parts[-1].horizon_ps,
    )


def tail(events: Events, start: int) -> Events:
    """Events from index ``start`` on."""
    return Events(
        events.times_ps[start:], events.bases[start:], events.bits[start:], events.horizon_ps
    )
