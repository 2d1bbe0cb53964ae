"""Serial ports, and TCP sockets that stand for them (``socket://host:port``)."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from .endpoint import Endpoint, Text

if TYPE_CHECKING:
    from ...instruments import InstrumentError
    from .recording import Player

__all__ = ["SerialPort"]

_PURGE_S = 0.05
#: What pyserial opens besides devices.
_SCHEMES = ("alt", "cp2110", "hwgrep", "loop", "rfc2217", "socket", "spy")
_HINT = "check cable, power, baud rate, and that no other program has the port open"


class _Port(Protocol):
    """What is used of a pyserial port."""

    is_open: bool
    timeout: float | None
    rts: bool

    def write(self, data: bytes, /) -> object: ...

    def read(self, size: int = 1, /) -> bytes: ...

    def read_until(self, expected: bytes = b"\n", /) -> bytes: ...

    def reset_input_buffer(self) -> None: ...

    def close(self) -> None: ...


class SerialPort:
    """Bytes over a serial port. Hold :attr:`lock` round a command and its reply.

    Args:
        endpoint: Whose port it is; its address is a device (``COM5``, ``/dev/ttyUSB0``) or a
            pyserial URL.
        timeout_s: Longest wait for the bytes asked for, wall time.
        baudrate: Bits per second; 8N1 always.
        rtscts: Hardware handshake; ignored by sockets.

    Raises:
        InstrumentError: for an address that is neither.
    """

    def __init__(
        self, endpoint: Endpoint, timeout_s: float, *, baudrate: int = 115200, rtscts: bool = False
    ) -> None:
        _check(endpoint)
        self.lock = threading.RLock()
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._baudrate = baudrate
        self._rtscts = rtscts
        self._port: _Port | None = None

    @property
    def is_open(self) -> bool:
        """Whether the port is open."""
        return self._port is not None

    def open(self) -> None:
        """Open the port, unless open, and discard what waits in it."""
        import serial

        with self.lock:
            if self._port is not None:
                return
            if self._endpoint.player is not None:
                self._port = _Replayed(self._endpoint.player)
                return
            try:
                self._port = serial.serial_for_url(
                    self._endpoint.address,
                    baudrate=self._baudrate,
                    rtscts=self._rtscts,
                    timeout=self._timeout_s,
                    write_timeout=self._timeout_s,
                )
                self._port.reset_input_buffer()
            except (OSError, ValueError) as error:
                self._port = None
                raise self._endpoint.error(f"cannot open the port: {error}", hint=_HINT) from error

    def close(self) -> None:
        """Close the port, if open."""
        with self.lock:
            port, self._port = self._port, None
            if port is None:
                return
            carrier = getattr(port, "_socket", None)
            if isinstance(carrier, socket.socket):
                # pyserial would sleep 0.3 s, and leak a socket whose other side went first
                carrier.close()
                port.is_open = False
            else:
                port.close()

    def write(self, data: bytes) -> None:
        """Send bytes."""
        port = self._opened(data)
        self._endpoint.sent(data)
        try:
            port.write(data)
        except OSError as error:
            raise self._lost(data, error) from error

    def read_exactly(self, size: int, *, command: Text = b"") -> bytes:
        """Return ``size`` bytes.

        Raises:
            InstrumentTimeout: with the bytes that did come.
        """
        port = self._opened(command)
        try:
            data = port.read(size)
        except OSError as error:
            raise self._lost(command, error) from error
        self._note(data)
        if len(data) < size:
            raise self._endpoint.timeout(
                f"{len(data)} of {size} bytes within {self._timeout_s:g} s",
                command=command,
                reply=data,
                hint=_HINT,
            )
        return data

    def read_until(self, end: bytes, *, command: Text = b"") -> bytes:
        """Return the bytes up to and including ``end``.

        Raises:
            InstrumentTimeout: with the bytes that did come.
        """
        port = self._opened(command)
        try:
            data = port.read_until(end)
        except OSError as error:
            raise self._lost(command, error) from error
        self._note(data)
        if not data.endswith(end):
            raise self._endpoint.timeout(
                f"no complete answer within {self._timeout_s:g} s (it ends {end!r})",
                command=command,
                reply=data,
                hint=_HINT,
            )
        return data

    def read_some(self, wait_s: float) -> bytes:
        """Return what has arrived, waiting up to ``wait_s`` for a first byte; maybe nothing."""
        port = self._opened()
        if isinstance(port, _Replayed):
            return port.read_some(wait_s)
        try:
            # in_waiting of a socket:// port is 0 or 1, hence two reads
            port.timeout = wait_s
            first = port.read(1)
            port.timeout = 0
            rest = port.read(1 << 16) if first else b""
            port.timeout = self._timeout_s
        except OSError as error:
            raise self._lost(b"", error) from error
        self._note(first + rest)
        return bytes(first + rest)

    def discard(self) -> None:
        """Throw away what has arrived."""
        port = self._opened()
        try:
            port.reset_input_buffer()
        except OSError as error:
            raise self._lost(b"", error) from error

    def purge(self) -> None:
        """Toggle RTS and discard, as FTDI-based instruments want after opening.

        Sockets and pseudo-terminals have no RTS line; there it only discards.
        """
        port = self._opened()
        if "://" not in self._endpoint.place:
            with contextlib.suppress(OSError):  # a pseudo-terminal: ENOTTY
                for level in (True, False, True):
                    time.sleep(_PURGE_S)  # the line's own time, not the bench's
                    port.rts = level
        self.discard()

    def _note(self, data: bytes) -> None:
        if data:
            self._endpoint.received(bytes(data))

    def _opened(self, command: Text = b"") -> _Port:
        if self._port is None:
            raise self._endpoint.not_open(command)
        return self._port

    def _lost(self, command: Text, error: OSError) -> InstrumentError:
        self.close()  # so that open() connects again
        return self._endpoint.error(
            f"the connection broke: {error}", command=command, hint=f"{_HINT}; then close and open"
        )


def _check(endpoint: Endpoint) -> None:
    """Refuse what cannot be a port, before anything is opened."""
    scheme, is_url, _ = endpoint.address.partition("://")
    hint = "write COM5, /dev/ttyUSB0 or socket://host:port"
    if "::" in endpoint.address or (is_url and scheme not in _SCHEMES):
        raise endpoint.error("is no serial port", hint=hint)
    if scheme != "socket" or not is_url:
        return
    try:
        parts = urlsplit(endpoint.address)
        complete = bool(parts.hostname and parts.port)
    except ValueError as error:
        raise endpoint.error(f"cannot read the address: {error}", hint=hint) from error
    if not complete:
        raise endpoint.error("the address lacks a host or a port", hint=hint)


class _Replayed:
    """A recording in place of a pyserial port."""

    def __init__(self, player: Player) -> None:
        self.is_open = True
        self.timeout: float | None = None
        self.rts = False
        self._player = player
        self._held = b""
        self._sent = b""

    def write(self, data: bytes, /) -> None:
        self._sent = data
        self._player.send(data)

    def read(self, size: int = 1, /) -> bytes:
        while len(self._held) < size:
            self._hold_more()
        return self._take(size)

    def read_until(self, expected: bytes = b"\n", /) -> bytes:
        while expected not in self._held:
            self._hold_more()
        return self._take(self._held.index(expected) + len(expected))

    def read_some(self, wait_s: float) -> bytes:
        if not self._held:
            self._held = self._player.receive(wait_s=wait_s) or b""
        return self._take(len(self._held))

    def reset_input_buffer(self) -> None:
        self._held = b""
        self._player.discard()

    def close(self) -> None:
        self._held = b""

    def _hold_more(self) -> None:
        data = self._player.receive()
        if data is None:
            raise self._player.silence(self._sent)
        self._held += data

    def _take(self, size: int) -> bytes:
        taken, self._held = self._held[:size], self._held[size:]
        return taken
