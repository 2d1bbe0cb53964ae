"""Delays of every tagger channel, from a recording of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import Clock, ProtocolError, TimeTagger
from .. import timing
from ._recorder import Recorder

__all__ = ["DelaysResult", "coincidence_window", "find_delays"]


@dataclass(frozen=True)
class DelaysResult:
    """Delays found in one recording.

    Differences within a party (cables, detectors) last; what both parties differ by holds until
    either tagger is started again.

    Attributes:
        ok: Whether every channel has a delay.
        reason: Why not, in words; empty where ok.
        delays: Found delays; None where not ok.
        histogram_ps: float64 (n,), centres of the bins of all delays, corrected.
        counts: int64 (n,), coincidences per bin.
        window_ps: Coincidence window that holds the peak, full width; 0 where not ok.
        seconds: Length of the recording.
    """

    ok: bool
    reason: str
    delays: timing.ChannelDelays | None
    histogram_ps: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    window_ps: int
    seconds: float


def find_delays(
    taggers: tuple[TimeTagger, TimeTagger],
    channels: tuple[Sequence[int], Sequence[int]],
    clock: Clock,
    *,
    seconds: float = 1.0,
) -> DelaysResult:
    """Record both taggers and find the delay of each channel; nothing is set.

    Where the taggers' clocks run apart, the delays of the second one are without the offset, which
    changes.

    Args:
        taggers: Of the two parties; not recording.
        channels: Channels of each that must be found; the first of the first is the reference.
        clock: The bench's clock.
        seconds: Length of the recording.
    """
    with Recorder(taggers, clock) as recorder:
        a, b = recorder.record(seconds)
    try:
        b, _, found = timing.on_one_clock(a, b, channels)
    except ProtocolError as error:
        none = np.zeros(0)
        return DelaysResult(False, str(error), None, none, none.astype(np.int64), 0, seconds)
    window = coincidence_window(found, taggers)
    delays = (found.delays_a, found.delays_b)
    shown = timing.delay_histogram((a, b), delays, 8 * window, max(1, window // 15))
    return DelaysResult(True, "", found, shown.delays_ps, shown.counts, window, seconds)


def coincidence_window(found: timing.ChannelDelays, taggers: Sequence[TimeTagger]) -> int:
    """Full width, ps, that holds 99.7 % of a Gaussian peak: 2.5 times its width.

    A delay that is a multiple of a coarse grid shows no width, with a few clicks a step beside.
    """
    grid = max(tagger.info.resolution_ps for tagger in taggers)
    return max(2, round(2.5 * max(found.fwhm_ps, grid)))
