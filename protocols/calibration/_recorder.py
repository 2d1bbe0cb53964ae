"""Clicks of several taggers, recorded while settings change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ...instruments import (
    Clock,
    Deadline,
    InstrumentTimeout,
    ProtocolError,
    TagBatch,
    TimeTagger,
    concatenate,
)

if TYPE_CHECKING:
    from ..timing import ClockRecovery

_STEP_S = 0.1
_SEARCH_S = 40.0  # longest time for a clock that was lost to be found again


class Recorder:
    """Records from all taggers as a context manager; drains them whenever bench time passes.

    Args:
        taggers: None of them may be recording.
        clock: The bench's clock.
    """

    def __init__(self, taggers: Sequence[TimeTagger], clock: Clock) -> None:
        self._taggers = taggers
        self._clock = clock
        self._stack = ExitStack()
        self._recovery: ClockRecovery | None = None
        self._read_ps = 0  # watermark of the first tagger

    def follow(self, recovery: ClockRecovery) -> None:
        """From now on put the second tagger's clicks on the first one's clock."""
        self._recovery = recovery

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for tagger in self._taggers:
                stack.callback(tagger.stop)
                tagger.start()
            self._stack = stack.pop_all()
        # A recording begins some time after its command; nothing before is worth having.
        self.wait(_STEP_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def wait(self, seconds: float) -> None:
        """Let bench time pass; the clicks of it are dropped."""
        deadline = Deadline(self._clock, seconds)
        while deadline.left > 1e-9:
            self._clock.sleep(min(_STEP_S, deadline.left))
            self._read()

    def until(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until ``ready``; the clicks are dropped.

        Raises:
            InstrumentTimeout: naming ``what`` is not ready in time.
        """
        wait_until(ready, timeout_s, what, self._clock, self.wait)

    def record(self, seconds: float) -> list[TagBatch]:
        """Return clicks made from now on, one batch per tagger, of at least ``seconds``."""
        # Watermarks may be behind the clock by the latency and some ms more.
        self.wait(max(tagger.info.latency_s for tagger in self._taggers) + 0.02)
        if self._recovery is not None:
            return self._followed(seconds)
        batches = self._read_after(seconds)
        # Watermarks follow the clock: a second step is needed only where a clock runs slow.
        for _ in range(100):
            if all(batch.duration_s >= 0.999 * seconds for batch in batches):
                return batches
            more = self._read_after(min(_STEP_S, seconds))
            batches = [concatenate(pair) for pair in zip(batches, more, strict=True)]
        raise ProtocolError("a tagger's watermark does not follow the clock")

    def _read_after(self, seconds: float) -> list[TagBatch]:
        parts: list[list[TagBatch]] = [[] for _ in self._taggers]
        deadline = Deadline(self._clock, seconds)
        while deadline.left > 1e-9:
            self._clock.sleep(min(_STEP_S, deadline.left))
            for part, batch in zip(parts, self._read(), strict=True):
                part.append(batch)
        return [concatenate(part) for part in parts]

    def _followed(self, seconds: float) -> list[TagBatch]:
        # What comes out is behind what is read by some intervals of the recovery.
        begin = reached = self._read_ps
        end = begin + round(seconds * 1e12)
        parts: list[list[TagBatch]] = [[], []]
        deadline = Deadline(self._clock, seconds + _SEARCH_S)
        while reached < end:
            if deadline.passed:
                raise ProtocolError("the clocks of the taggers were lost: no coincidences any more")
            self._clock.sleep(min(_STEP_S, max((end - reached) * 1e-12, 0.01)))
            batches = self._read()
            if batches[0].end_ps <= begin:
                continue
            reached = batches[0].end_ps
            for part, batch in zip(parts, batches, strict=True):
                part.append(batch.split(begin)[1].split(end)[0])
        return [concatenate(part) for part in parts]

    def _read(self) -> list[TagBatch]:
        batches = [tagger.read() for tagger in self._taggers]
        self._read_ps = batches[0].end_ps
        if self._recovery is None:
            return batches
        return list(self._recovery.add(batches[0], batches[1]))


def wait_until(
    ready: Callable[[], bool],
    timeout_s: float,
    what: str,
    clock: Clock,
    wait: Callable[[float], None],
) -> None:
    """Wait in steps of bench time until ``ready``.

    Raises:
        InstrumentTimeout: naming ``what`` is not ready in time.
    """
    deadline = Deadline(clock, timeout_s)
    while not ready():
        if deadline.passed:
            raise InstrumentTimeout(
                f"{what} is not ready after {timeout_s:g} s",
                hint="is it blocked, switched off, or asked for what it cannot reach?",
            )
        wait(_STEP_S / 2)
