"""Clicks of several taggers, recorded while settings change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from ...instruments import (
    Clock,
    Deadline,
    InstrumentTimeout,
    ProtocolError,
    TagBatch,
    TimeTagger,
    concatenate,
)

_STEP_S = 0.1


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

    def _read(self) -> list[TagBatch]:
        return [tagger.read() for tagger in self._taggers]


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
