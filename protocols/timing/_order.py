"""Batches of one stream, one after the other until it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from ...instruments import TagBatch
from ._streams import finished

Result = TypeVar("Result")


class InOrder:
    """Refuses a batch that does not follow on the last one, or comes after the end.

    Attributes:
        begin_ps: Begin of the first batch; None without one.
        end_ps: End of the last batch.
        live_s: Recorded time without losses, so far.
        over: Set at the end.
    """

    def __init__(self, operation: object = None) -> None:
        self._operation = operation
        self.begin_ps: int | None = None
        self.end_ps = 0
        self.live_s = 0.0
        self.over = False

    def next(self, batch: TagBatch) -> None:
        """Take the next batch.

        Raises:
            ValueError: if it is not the next one.
        """
        if self.over:
            raise finished(self._operation)
        if self.begin_ps is None:
            self.begin_ps = batch.begin_ps
        elif batch.begin_ps != self.end_ps:
            raise ValueError(
                f"batch at {batch.begin_ps} ps does not follow on the last, which ended at"
                f" {self.end_ps} ps: none may be left out (what was not recorded is a loss) or"
                " come twice"
            )
        self.end_ps = batch.end_ps
        self.live_s += batch.live_s


class Counting(ABC, Generic[Result]):
    """Counts one stream: its batches in order, then the end."""

    def __init__(self) -> None:
        self._order = InOrder(self)

    def add(self, batch: TagBatch) -> None:
        """Take the next batch.

        Raises:
            ValueError: for one that does not follow on the last; after the end.
        """
        self._order.next(batch)
        self._feed(batch)

    def finish(self) -> Result:
        """End the stream and return the result."""
        self._feed(None)
        self._order.over = True
        return self.so_far()

    @abstractmethod
    def so_far(self) -> Result:
        """Return what is counted so far, without what still waits; the stream goes on."""

    @abstractmethod
    def _feed(self, batch: TagBatch | None) -> None:
        """Count a batch; None: what still waits."""
