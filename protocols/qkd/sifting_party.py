"""What a session needs of the party that turns clicks, or pulses, into raw bits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from ...instruments import TagBatch
from . import messages as msg
from .distill import RawBlock, Terms
from .estimation import Errors

__all__ = ["Said", "SiftingParty"]


@dataclass(frozen=True, slots=True)
class Said:
    """A message on its way out; ``block`` is None for the session's own."""

    block: int | None
    message: msg.Message


class SiftingParty(Protocol):
    """One party of one protocol, before distillation: a state machine without I/O.

    Attributes:
        out: Messages and finished blocks, in order; the session takes them off.
        calibrating: Nothing was announced yet.
        over: No block comes any more.
        hold: Bob's: begins no other block while it is set.
        coincidences: Detections, or matched pairs, so far, whatever their bases.
        sifted: Bits sifted so far, with those revealed.
        monitor: Errors among the revealed bits so far.
    """

    out: deque[Said | RawBlock]
    calibrating: bool
    over: bool
    hold: bool
    coincidences: int
    sifted: int
    monitor: Errors

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What its keys rest on, for the report."""
        ...

    @property
    def expected_bits(self) -> int:
        """Key that the youngest block would give if it ended now and passed all tests."""
        ...

    @property
    def double_clicks(self) -> int:
        """Of this party, so far."""
        ...

    def feed(self, batch: TagBatch) -> None:
        """Take the next clicks of this party's own tagger."""
        ...

    def advance(self) -> None:
        """Say what can be said by now."""
        ...

    def finish(self) -> None:
        """No more clicks, or pulses, come."""
        ...

    def handle(self, block: int | None, message: msg.Message) -> None:
        """Take a message of the peer about sifting."""
        ...

    def terms(self, raw: RawBlock) -> Terms:
        """What the proof says of a finished block."""
        ...

    def counts(self) -> dict[str, Any]:
        """Figures of this party's own clicks. **Not public**."""
        ...

    def forget(self) -> None:
        """Let go of every outcome."""
        ...
