"""How far a tagger's stream is complete, told from its newest word and the bench's clock.

See ``docs/decisions/0016-watermarks-follow-the-tagger.md``.
"""

from __future__ import annotations

__all__ = ["Watermark"]

#: The bound moves on in steps of this, ps: it would follow each word's own delay otherwise.
_STEP_PS = 5 * 10**9


class Watermark:
    """What the tagger's own clock shows at least, less a latency.

    A word seen at a reading of the bench's clock proves that the tagger's clock had got to its
    time by then. From there it runs on at (1 - tolerance) of the bench's clock at the least. The
    recording's start is the first such pair; another takes its place where it proves 5 ms more. No
    word moves the bound beyond (1 + tolerance) of the time recorded: a damaged one cannot carry it
    away.

    Args:
        latency_s: How long a click may be under way, s of bench time.
        tolerance: Largest fraction by which the tagger's clock may run off the bench's.
        start_s: Reading of the bench's clock when the recording began.
    """

    def __init__(self, latency_s: float, tolerance: float, start_s: float) -> None:
        self._latency_ps = round(latency_s * 1e12)
        self._tolerance = tolerance
        self._start_s = start_s
        self._seen = (0, 0.0)  # time of a word, and bench time recorded when it was seen
        self._noted_s = start_s
        self._reached = 0

    def saw(self, newest_ps: int, now_s: float) -> None:
        """Note that a word of this time had come by that reading of the bench's clock."""
        self._noted_s = now_s
        newest_ps = min(newest_ps, self.latest(now_s))
        if newest_ps > self._least(now_s) + _STEP_PS:
            self._seen = (newest_ps, now_s - self._start_s)

    def latest(self, now_s: float) -> int:
        """What the tagger's clock shows at most, ps since the recording's start."""
        return round((now_s - self._start_s) * 1e12 * (1 + self._tolerance))

    def uncertainty_ps(self, now_s: float) -> int:
        """How far the bound may have fallen behind since :meth:`saw` was last called."""
        return round(2 * self._tolerance * (now_s - self._noted_s) * 1e12)

    def at(self, now_s: float) -> int:
        """Time up to which the clicks have come, by that reading of the bench's clock.

        It never goes back.
        """
        self._reached = max(self._reached, self._least(now_s) - self._latency_ps)
        return self._reached

    def _least(self, now_s: float) -> int:
        newest_ps, seen_s = self._seen
        passed = now_s - self._start_s - seen_s
        return newest_ps + round(passed * 1e12 * (1 - self._tolerance))
