"""One stream with its delays subtracted, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ._pieces import CutLine
from ._streams import FOREVER

Indices = npt.NDArray[np.int16]


class DelayLine:
    """Subtracts each channel's delay and puts the clicks in order again.

    Clicks on other channels and inside losses are dropped. What may still be overtaken waits:
    memory is bounded by the clicks within the largest difference of delays.

    Cost: some 10 ns per tag, more where tags overtake each other.
    """

    def __init__(self, channels: Sequence[int], delays_ps: Mapping[int, int]) -> None:
        own = {channel: delays_ps[channel] for channel in channels if channel in delays_ps}
        self._line = CutLine(channels, own, at="nowhere")
        self.watermark = -FOREVER

    def feed(self, batch: TagBatch | None) -> tuple[TimesPs, Indices]:
        """Return the clicks now in order: times and indices into the channels.

        None ends the stream and returns what still waits.
        """
        parts = [ready for ready, _ in self._line.feed(batch)]
        self.watermark = parts[-1][2]
        if len(parts) == 1:
            return parts[0][:2]
        return np.concatenate([part[0] for part in parts]), np.concatenate(
            [part[1] for part in parts]
        )
