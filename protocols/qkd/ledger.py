"""What was disclosed about a block, bit by bit, and against which limit."""

from __future__ import annotations

from collections import Counter

from ...instruments import ProtocolError

__all__ = ["LeakLedger"]


class LeakLedger:
    """Counts every disclosed bit of one block from the messages that carry it.

    Parities are charged against a budget fixed before the data (see
    :func:`~bellbench.protocols.qkd.finite_key.secure_key_length`). The sample is written
    down too but charged to nothing: it has left the block.

    Args:
        budget: Bits reserved for reconciliation.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._bits: Counter[tuple[str, str]] = Counter()

    def write(self, sender: str, kind: str, bits: int) -> None:
        """Note ``bits`` of ``kind`` sent by ``sender``.

        Raises:
            ProtocolError: where a parity exceeds the budget; it must then not be sent.
        """
        if kind == "parity" and self.reconciliation_bits + bits > self.budget:
            raise ProtocolError(
                f"reconciliation needs more than the {self.budget} bits reserved for it"
                " (raise leak_efficiency or the tolerance)"
            )
        self._bits[sender, kind] += bits

    @property
    def reconciliation_bits(self) -> int:
        """Parities sent by either party."""
        return sum(bits for (_, kind), bits in self._bits.items() if kind == "parity")

    def as_dict(self) -> dict[str, int]:
        """Bits by ``"sender kind"``, for the metrics of a run."""
        return {f"{sender} {kind}": bits for (sender, kind), bits in sorted(self._bits.items())}
