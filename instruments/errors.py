"""Every error Bellbench raises on purpose, under one root.

The text of an error is for the person at the bench: what was being done, where, what came
back, and what to try.
"""

from __future__ import annotations

__all__ = [
    "BellbenchError",
    "ConfigError",
    "InstrumentError",
    "InstrumentTimeout",
    "ProtocolError",
    "TagFileError",
    "TwinError",
]


class BellbenchError(Exception):
    """Root of all errors raised by Bellbench."""


class ConfigError(BellbenchError):
    """A mistake in a configuration file.

    ``place`` is ``file:line:column`` where it is known, else the file or the key.
    """

    def __init__(self, message: str, *, place: str = "") -> None:
        self.place = place
        super().__init__(f"{place}: {message}" if place else message)


class InstrumentError(BellbenchError):
    """An instrument refused, answered nonsense, or cannot be reached.

    Args:
        message: What went wrong, in words.
        device: The instrument's name on the bench and its model.
        address: The address it was opened at.
        command: What was sent last.
        reply: What came back.
        hint: What to try.
    """

    def __init__(
        self,
        message: str,
        *,
        device: str = "",
        address: str = "",
        command: str | bytes = "",
        reply: str | bytes = "",
        hint: str = "",
    ) -> None:
        self.device = device
        self.address = address
        self.command = command
        self.reply = reply
        self.hint = hint
        where = " at ".join(part for part in (device, address) if part)
        parts = [f"{where}: {message}" if where else message]
        if command:
            parts.append(f"sent {_show(command)}")
        if reply:
            parts.append(f"got {_show(reply)}")
        if hint:
            parts.append(f"try: {hint}")
        super().__init__("; ".join(parts))


class InstrumentTimeout(InstrumentError):  # noqa: N818 - reads as what happened
    """An instrument did not answer within its timeout."""


class TagFileError(BellbenchError):
    """A tag file is truncated, corrupt or not of the format it claims.

    ``offset`` is the byte offset of the damage, where it is known.
    """

    def __init__(self, message: str, *, path: str = "", offset: int | None = None) -> None:
        self.path = path
        self.offset = offset
        where = path + (f" at byte {offset}" if offset is not None else "")
        super().__init__(f"{where}: {message}" if where else message)


class ProtocolError(BellbenchError):
    """A protocol party was fed a message or data that its state does not allow."""


class TwinError(BellbenchError):
    """The world or one of its twins cannot go on."""


def _show(data: str | bytes) -> str:
    text = repr(data)
    return text if len(text) <= 120 else f"{text[:117]}..."
