"""Two recordings on one clock, with the channels' delays found on it, from coincidences alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ...instruments import ProtocolError, TagBatch, TimesPs, concatenate
from .clocks import ClockRecovery, ClockState
from .offset import ChannelDelays, find_channel_delays

__all__ = ["ClockLine", "common_clock", "follower", "on_one_clock"]

Delays = tuple[Mapping[int, int], Mapping[int, int]]
Found = TypeVar("Found")


class ClockLine:
    """The peer's clock as the calibration has found it: a straight line.

    Events are put on it before the clock is followed: a peak that was lost is then looked for in
    a narrow place, however long the run.

    Args:
        at_ps: Time on the peer's clock, as announced, that stays as it is.
        offset_ps: What was subtracted from the peer's times before they were announced.
        frequency: By how much its clock runs fast.
    """

    def __init__(self, at_ps: int, offset_ps: int, frequency: float) -> None:
        self.at_ps, self.offset_ps, self.frequency = at_ps, offset_ps, frequency
        self._share = frequency / (1 + frequency)

    def straighten(self, told_ps: TimesPs) -> TimesPs:
        """Announced times less what the frequency has added since."""
        moved: TimesPs = told_ps - np.rint((told_ps - self.at_ps) * self._share).astype(np.int64)
        return moved

    def clock(self, state: ClockState) -> tuple[float, float]:
        """Offset (ps) and frequency of the peer's clock itself, from those left on the line."""
        since = state.at_ps + state.offset_ps - self.at_ps
        offset = self.offset_ps + state.offset_ps + since * self.frequency
        return offset, (1 + state.frequency) * (1 + self.frequency) - 1


def on_one_clock(
    a: TagBatch,
    b: TagBatch,
    channels: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None),
    *,
    search_ps: int = 50_000_000_000,
    known: tuple[Mapping[int, int], Mapping[int, int]] | None = None,
) -> tuple[TagBatch, ClockLine | None, ChannelDelays]:
    """Find the delays between two taggers, and B's clock where the clocks are seen to run apart.

    Args:
        a: Clicks of the first tagger.
        b: Of the second.
        channels: Channels of each that must be found; those with clicks by default.
        search_ps: As of :func:`bellbench.protocols.find_channel_delays`.
        known: Likewise.

    Returns:
        B's clicks on A's clock, B's clock (None where both count alike), and the delays.

    Raises:
        ProtocolError: where no peak shows.
    """

    def find(a: TagBatch, b: TagBatch) -> ChannelDelays:
        return find_channel_delays(
            a, b, channels_a=channels[0], channels_b=channels[1], search_ps=search_ps, known=known
        )

    # 20 ps in the recording are within the jitter of any detector
    return common_clock(a, b, find, lambda found: (found.delays_a, found.delays_b), least_ps=20)


def common_clock(
    own: TagBatch,
    peer: TagBatch,
    find: Callable[[TagBatch, TagBatch], Found],
    delays: Callable[[Found], Delays],
    *,
    least_ps: float = 0.0,
) -> tuple[TagBatch, ClockLine | None, Found]:
    """Find the peer's clock and the channels' delays, from coincidences alone.

    Twice: delays need a clock, and a clock is found better where the delays are known.

    Args:
        own: Own clicks.
        peer: The peer's, of about the same time: within 1 s, at a frequency within 100 ppm.
        find: Finds delays in clicks on one clock.
        delays: The delays of the own channels and of the peer's, ps, of what was found.
        least_ps: Clocks that come apart by less in the recording (or by less than can be told), or
            cannot be found, are taken to be one. 0: they are two whatever they do, and not to find
            them is an error.

    Returns:
        The peer's clicks on the own clock, those that could be dated; the peer's clock, None where
        there is one; and what ``find`` found.

    Raises:
        ProtocolError: where no peak shows.
    """
    try:
        moved, line, _ = _on_own(own, peer)
    except ProtocolError:
        if not least_ps:
            raise
        return peer, None, find(own, peer)
    # Only with the delays known is the drift not that of a peak from channel to channel.
    moved, line, sigma = _on_own(own, peer, follower(line, delays(find(own, moved))))
    if least_ps and abs(line.frequency) * (own.end_ps - own.begin_ps) < max(least_ps, 5 * sigma):
        return peer, None, find(own, peer)
    return moved, line, find(own, moved)


def _on_own(
    own: TagBatch, peer: TagBatch, recovery: ClockRecovery | None = None
) -> tuple[TagBatch, ClockLine, float]:
    """The peer's clicks on the own clock, that clock, and the error of its drift in all, ps."""
    recovery = recovery or ClockRecovery()
    parts = [recovery.add(own, peer)[1], recovery.add(None, None)[1]]
    states = [state for state in recovery.history if state.locked]
    if not states:
        raise ProtocolError(recovery.state.reason)
    first, last = states[0], states[-1]
    frequency = last.frequency
    if last.at_ps > first.at_ps:
        frequency = (last.offset_ps - first.offset_ps) / (last.at_ps - first.at_ps)
    line = ClockLine(last.at_ps, round(last.offset_ps), frequency)
    reach = (own.end_ps - own.begin_ps) / max(last.at_ps - first.at_ps, 1)
    return concatenate(parts), line, reach * math.hypot(first.sigma_ps, last.sigma_ps)


def follower(line: ClockLine, delays: Delays) -> ClockRecovery:
    """What follows a clock found by :func:`common_clock`, with the delays found on it."""
    return ClockRecovery(
        search_ps=10**10,
        search_frequency=100e-6,
        around_ps=line.offset_ps,
        delays_a=delays[0],
        delays_b=delays[1],
    )
