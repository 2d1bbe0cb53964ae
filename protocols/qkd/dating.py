"""The peer's announced events on the own clock, where the two taggers share nothing.

The clocks are compared by the times of all events of both parties, announced ones and own ones,
whatever their bases and outcomes. Where an attacker delays all of one party's photons, that is
taken for an offset of the clocks: nothing here shows that two events happened at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError, TagBatch, TimesPs
from .sifting import Events
from .waiting import Waiting

if TYPE_CHECKING:
    from ..timing import ClockLine, ClockRecovery, ClockState

__all__ = ["Dated", "Dating"]

Indices = npt.NDArray[np.int64]

#: Offsets and frequencies looked for, on the line that the calibration has told.
_SEARCH_PS = 10**10
_SEARCH_FREQUENCY = 20e-6


@dataclass(frozen=True, eq=False)
class Dated:
    """Announced events on the own clock, in order.

    Attributes:
        times_ps: On the own clock.
        told_ps: As announced.
        index: Their numbers among the announced events.
        upto: All events below this number are decided; those not here cannot be dated.
        horizon_ps: No later event is earlier than this, on the own clock.
    """

    times_ps: TimesPs
    told_ps: TimesPs
    index: Indices
    upto: int
    horizon_ps: int


class Dating:
    """Follows the peer's clock by the coincidences of all events.

    Args:
        line: The peer's clock as found in the calibration; None where both parties share one.
        own: Own times of the calibration segment, corrected for the delays.
        peer: The peer's, likewise; their ends are where the events begin.
        horizon_ps: No event is announced before this.

    Attributes:
        undated: Events that could not be dated, so far.
        locked_s: Time in which events could be dated, s.
        unlocked_s: Time in which they could not.
    """

    def __init__(
        self,
        line: ClockLine | None = None,
        own: TagBatch | None = None,
        peer: TagBatch | None = None,
        horizon_ps: int = -(1 << 62),
    ) -> None:
        self._line = line
        self._recovery: ClockRecovery | None = None
        self._waiting = Waiting(np.int64, np.int64)  # as announced, and on the line
        self._told = horizon_ps  # up to where the peer has announced
        self._first = 0  # number of the first event that waits
        self._ends = [0, 0]  # of what was given to the recovery
        self._begin = self._watermark = self._horizon = -(1 << 62)
        self._over = False
        self.undated = 0
        self.locked_s = 0.0
        self.unlocked_s = 0.0
        if line is None or own is None or peer is None:
            return
        from ..timing.clocks import ClockRecovery

        self._recovery = ClockRecovery(
            search_ps=_SEARCH_PS, search_frequency=_SEARCH_FREQUENCY, follow_only=True
        )
        self._begin = self._watermark = self._ends[0] = own.begin_ps
        self._ends[1] = int(line.straighten(np.array([peer.begin_ps]))[0])
        self._events_from = own.end_ps  # what comes out before is the calibration's
        lined = line.straighten(np.append(peer.times_ps, peer.end_ps))
        lined = np.maximum(lined, self._ends[1])
        self._go(
            self._batch(0, own.times_ps, own.end_ps),
            self._batch(1, lined[:-1], int(lined[-1])),
        )

    @property
    def state(self) -> ClockState | None:
        """What the peer's clock has left of the line; None where it is shared."""
        return None if self._recovery is None else self._recovery.state

    @property
    def losses_of_lock(self) -> int:
        """How often the clock was lost, so far."""
        return 0 if self._recovery is None else self._recovery.losses_of_lock

    @property
    def history(self) -> tuple[ClockState, ...]:
        """The clock over time."""
        return () if self._recovery is None else self._recovery.history

    def add_own(self, events: Events) -> None:
        """Take own events."""
        if self._recovery is not None and not self._over:
            self._go(self._batch(0, events.times_ps, events.horizon_ps), self._batch(1))

    def add_peer(self, times_ps: TimesPs, horizon_ps: int) -> None:
        """Take announced events.

        Raises:
            ProtocolError: where they lie before the horizon announced earlier.
        """
        if horizon_ps < self._told or (times_ps.size and times_ps[0] < self._told):
            raise ProtocolError("events announced behind an earlier horizon")
        self._told = horizon_ps
        line = self._line
        if self._recovery is None or line is None:
            self._waiting.add(times_ps, times_ps)
            return
        lined = line.straighten(times_ps)
        self._waiting.add(times_ps, lined)
        horizon = int(line.straighten(np.array([horizon_ps]))[0])
        # Times a ps apart may fall together.
        self._go(self._batch(0), self._batch(1, np.maximum(lined, self._ends[1]), horizon))

    def take(self, *, final: bool = False) -> Dated:
        """Events decided since the last call; with ``final``, all of them."""
        told, times, recovery = self._waiting[0], self._waiting[1], self._recovery
        if recovery is None:
            return self._decide(times.size, np.arange(times.size), told.copy(), self._told)
        if final and not self._over:
            self._over = True
            self._count(*recovery.add(None, None))
        if not final and self._watermark <= self._horizon:
            return self._decide(0, np.zeros(0, np.int64), times[:0], self._horizon)
        known = np.flatnonzero(recovery.dated(times))
        moved = recovery.to_a(times[known])
        # Straight lines between whole ps may differ by one where they meet.
        moved = np.maximum.accumulate(np.maximum(moved, self._horizon))
        # What lies a search behind the watermark, by the clock as last known, will not be dated
        # any more.
        offset = recovery.state.offset_ps
        behind = 2 * _SEARCH_PS - (min(0, math.floor(offset)) if math.isfinite(offset) else 0)
        upto = int(np.searchsorted(times, self._watermark - behind))
        upto = times.size if final else max(upto, int(known[-1]) + 1 if known.size else 0)
        return self._decide(upto, known, moved, self._watermark)

    def _decide(self, upto: int, known: Indices, moved: TimesPs, horizon: int) -> Dated:
        first, told = self._first, self._waiting[0][known]
        self.undated += upto - known.size
        self._waiting.drop(upto)
        self._first += upto
        self._horizon = horizon
        return Dated(moved, told, known + first, self._first, horizon)

    def _batch(self, which: int, times: TimesPs | None = None, horizon: int = 0) -> TagBatch:
        """The next batch of one party for the recovery; the peer's on the line."""
        begin = self._ends[which]
        if times is None:
            times, horizon = np.zeros(0, np.int64), begin
        last = int(times[-1]) + 1 if times.size else begin
        self._ends[which] = end = max(begin, horizon, last)
        return TagBatch(times, np.zeros(times.size, np.int16), begin, end)

    def _go(self, own: TagBatch, peer: TagBatch) -> None:
        assert self._recovery is not None
        self._count(*self._recovery.add(own, peer))

    def _count(self, own: TagBatch, peer: TagBatch) -> None:
        self._watermark = peer.end_ps
        events = peer.split(self._events_from)[1]
        live = events.live_s
        self.locked_s += live
        self.unlocked_s += events.duration_s - live

    def metrics(self) -> dict[str, Any] | None:
        """Figures of the peer's clock, fit for JSON; None where it is shared or unknown."""
        state, line = self.state, self._line
        if state is None or line is None:
            return None
        known = bool(np.isfinite(state.offset_ps))
        offset, frequency = line.clock(state)
        return {
            "locked": state.locked,
            "reason": state.reason,
            "at_s": state.at_ps * 1e-12,
            "offset_ps": offset if known else None,
            "frequency": frequency if known else None,
            "jitter_ps": state.jitter_ps if known else None,
            "sigma_ps": state.sigma_ps if known else None,
            "locked_s": self.locked_s,
            "unlocked_s": self.unlocked_s,
            "losses_of_lock": self.losses_of_lock,
            "undated_events": self.undated,
        }

    def trace(self) -> list[tuple[float, float, float, float]]:
        """The peer's clock over time while locked.

        Each entry holds the time on the own clock (s), what its offset differs from the
        calibration's line (ps), its frequency, and the rms width of the coincidence peak (ps).
        """
        if self._line is None:
            return []
        return [
            (s.at_ps * 1e-12, s.offset_ps, self._line.clock(s)[1], s.jitter_ps)
            for s in self.history
            if s.locked
        ]
