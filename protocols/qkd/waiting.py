"""What waits for an answer: columns that grow at their end and are cut at their front."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Waiting"]


class Waiting:
    """Columns of one length; to add costs no more than what is added, however many wait.

    Args:
        *kinds: Of the columns.
    """

    def __init__(self, *kinds: type[np.generic]) -> None:
        self._columns: list[npt.NDArray[Any]] = [np.empty(0, kind) for kind in kinds]
        self._low = self._high = 0

    @property
    def size(self) -> int:
        """Rows."""
        return self._high - self._low

    def __getitem__(self, column: int) -> npt.NDArray[Any]:
        """A column; it may change with the next :meth:`add`."""
        return self._columns[column][self._low : self._high]

    def add(self, *values: npt.NDArray[Any]) -> None:
        """Put rows behind the others."""
        more = values[0].size
        if self._high + more > self._columns[0].size:
            kept = self.size
            grown = [np.empty(2 * (kept + more), column.dtype) for column in self._columns]
            for i, new in enumerate(grown):
                new[:kept] = self[i]
            self._columns, self._low, self._high = grown, 0, kept
        for column, value in zip(self._columns, values, strict=True):
            column[self._high : self._high + more] = value
        self._high += more

    def drop(self, rows: int) -> None:
        """Forget the first ones."""
        self._low += rows
