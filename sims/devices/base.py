"""What the world asks of an emulator: to speak a device's wire and to keep the world's blocks."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Emulator", "Setting"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where an emulator lives.

    Attributes:
        name: The instrument's name; emulators act in the order of their names.
        host: Interface to bind, 127.0.0.1 unless the user said otherwise.
        lossless: True in stepped time, where a stream waits for its reader; False in paced time,
            where a slow reader overflows as on the device.
        seed: For the emulator's own noise (readout noise of a sensor), never for clicks.
    """

    name: str
    host: str
    lossless: bool
    seed: int


class Emulator(Protocol):
    """One device on its own wire, attached to one element of the world.

    An emulator runs inside the world's event loop. What it is sent changes its registers at once,
    as a device's display would show; the element's knobs are turned only in :meth:`begin_block`,
    so that the clicks of a block do not depend on when in wall time a command came.
    """

    async def open(self) -> str:
        """Bind the ports and return the address that the device's driver opens."""
        ...

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn the element's knobs for the block ``[begin_ps, end_ps)`` of world time.

        The device's own dynamics (a moving paddle) advance here, too.
        """
        ...

    def end_block(self, begin_ps: int, end_ps: int) -> Coroutine[Any, Any, None] | None:
        """Hand on what the block produced: counts, tags, pushed status.

        Who may have to wait gives something to wait for: a lossless stream's reader holds the
        world back until its buffers have room again. Pushed status never waits.
        """
        ...

    async def close(self) -> None:
        """Close every connection and port."""
        ...
