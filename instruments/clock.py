"""The bench's clock. Whatever waits on physics waits on it, never on the operating system."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

__all__ = ["Clock", "Deadline", "SystemClock"]


@runtime_checkable
class Clock(Protocol):
    """Time of the bench: wall time on hardware, world time on twins."""

    def now(self) -> float:
        """Seconds since the clock's own start."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return when ``seconds`` of bench time have passed.

        Raises:
            TwinError: where a twin's world cannot advance (see the message for who holds it).
        """
        ...


class Deadline:
    """A point in bench time to give up at."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.now() + seconds

    @property
    def left(self) -> float:
        """Seconds of bench time left; negative when it has passed."""
        return self._end - self._clock.now()

    @property
    def passed(self) -> bool:
        """Whether the deadline lies behind."""
        return self.left <= 0


class SystemClock:
    """Wall time since construction, from the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def now(self) -> float:
        """Seconds since construction."""
        return time.monotonic() - self._start

    def sleep(self, seconds: float) -> None:
        """Sleep in wall time."""
        time.sleep(max(0.0, seconds))
