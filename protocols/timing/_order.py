"""Batches of one stream, one after the other until it ends."""

from __future__ import annotations

from ...instruments import TagBatch
from ._streams import finished


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
