"""What was disclosed about a block, bit by bit, read off its messages, and against which limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from ...instruments import ProtocolError
from . import messages as msg

__all__ = ["BlockFailed", "LeakLedger"]

#: Bits of a message that tell of the bits of the block, by its class: kind, and how many.
_TOLD: dict[type[Any], tuple[str, Callable[[Any], int]]] = {
    msg.Sifted: ("monitor", lambda message: message.bits.size),
    msg.SiftedTests: ("monitor", lambda message: message.bits.size),
    msg.Monitored: ("monitor", lambda message: message.bits.size),
    msg.Prepared: ("test", lambda message: message.bits.size),
    msg.Tested: ("test", lambda message: message.bits.size),
    msg.Matched: ("test", lambda message: message.bits.size),
    msg.Compared: ("test", lambda message: message.bits.size),
    msg.Sample: ("sample", lambda message: message.bits.size),
    msg.SampleReply: ("sample", lambda message: message.bits.size),
    msg.ParityReply: ("parity", lambda message: message.parities.size),
    msg.Syndrome: ("syndrome", lambda message: message.bits.size),
    msg.Verification: ("verification", lambda message: message.tag.size),
    msg.Verdict: ("verdict", lambda message: 1),
}
_CHARGED = ("parity", "syndrome")


class BlockFailed(ProtocolError):  # noqa: N818 - reads as what happened
    """A block gives no key; the session goes on."""


class LeakLedger:
    """Counts every disclosed bit of one block from the messages that carry it, both ways.

    Each message that is sent or received is written down; nobody is asked how much it told.
    Parities and syndromes are charged against a budget fixed before the data (see
    :func:`~bellbench.protocols.qkd.finite_key.secure_key_length`). Monitored bits and the sample
    are written down too but charged to nothing: they have left the block. What the corrector asks
    for (:class:`.messages.ParityRequest`) shows the errors and not the key: see
    ``docs/security.md``.

    Args:
        budget: Bits reserved for reconciliation; None before they are known.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self._bits: Counter[tuple[str, str]] = Counter()

    def write(self, sender: str, message: msg.Message) -> None:
        """Note what ``message`` of ``sender`` tells.

        Raises:
            BlockFailed: where parities exceed the budget; the message must then not be sent.
        """
        if type(message) not in _TOLD:
            return
        kind, count = _TOLD[type(message)]
        bits = count(message)
        if kind in _CHARGED and self.leak_bits + bits > (self.budget or 0):
            raise BlockFailed(
                f"reconciliation needs more than the {self.budget} bits reserved for it"
                " (raise leak_efficiency or the tolerance)"
            )
        self._bits[sender, kind] += bits

    @property
    def leak_bits(self) -> int:
        """Parities and syndromes sent by either party."""
        return sum(bits for (_, kind), bits in self._bits.items() if kind in _CHARGED)

    def as_dict(self) -> dict[str, int]:
        """Bits by ``"sender kind"``, for the report."""
        return {f"{sender} {kind}": bits for (sender, kind), bits in sorted(self._bits.items())}
