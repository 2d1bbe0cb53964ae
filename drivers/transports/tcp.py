"""A TCP connection whose other side sends when it likes: a reader thread hands on the bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from ...instruments import InstrumentError
from .endpoint import Endpoint

__all__ = ["TcpFeed", "parse_tcp_address", "port_number"]


def parse_tcp_address(
    endpoint: Endpoint, port: int, options: dict[str, str]
) -> tuple[str, int, dict[str, str]]:
    """Split ``tcp://host:port?key=value``.

    Args:
        endpoint: Whose address it is.
        port: Default port.
        options: The keys allowed in the query, with their defaults.

    Raises:
        InstrumentError: for anything else.
    """
    example = f"tcp://192.168.1.1:{port}?" + "&".join(f"{k}={v}" for k, v in options.items())
    hint = f"write it like {example.rstrip('?')}"
    try:
        parts = urlsplit(endpoint.address)
        given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        host, chosen = parts.hostname, parts.port
    except ValueError as error:
        raise endpoint.error(f"cannot read the address: {error}", hint=hint) from error
    if parts.scheme != "tcp" or not host or parts.path not in ("", "/"):
        raise endpoint.error("cannot read the address", hint=hint)
    if unknown := sorted(set(given) - set(options)):
        raise endpoint.error(f"the address has no option {unknown[0]!r}", hint=hint)
    return host, chosen or port, options | given


def port_number(endpoint: Endpoint, option: str, text: str) -> int:
    """Return a port out of an address's option.

    Raises:
        InstrumentError: where it is none.
    """
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise endpoint.error(f"{option}={text!r} is not a port", hint="check the address")
    return int(text)


class TcpFeed:
    """A connection and the thread that reads it.

    Args:
        endpoint: Whose connection it is.
        receive: Called in the reader thread with each piece that arrives; an
            :class:`InstrumentError` it raises ends the reading.
        ended: Called once, in the reader thread, when the connection breaks or ``receive``
            raised. Not called by :meth:`close`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        receive: Callable[[bytes], None],
        ended: Callable[[InstrumentError], None],
    ) -> None:
        self._endpoint = endpoint
        self._receive = receive
        self._ended = ended
        self._socket: socket.socket | None = None
        self._channel = ""
        self._replaying = False
        self._thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._socket is not None or self._replaying

    def open(self, host: str, port: int, timeout_s: float) -> None:
        """Connect and start reading."""
        self._channel = f"{host}:{port}"
        if self._endpoint.player is not None:
            self._replaying = True
            self._endpoint.player.listen(self._channel, self._replayed)
            return
        connection = self._endpoint.connect(host, port, timeout_s)
        connection.settimeout(None)
        self._socket = connection
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name=f"{self._endpoint.name} reader", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Disconnect and end the thread."""
        if self._replaying and self._endpoint.player is not None:
            self._replaying = False
            self._endpoint.player.unlisten(self._channel)
        connection, self._socket = self._socket, None
        thread, self._thread = self._thread, None
        if connection is None:
            return
        with contextlib.suppress(OSError):  # the other side was first
            connection.shutdown(socket.SHUT_RDWR)  # wakes the reader
        if thread is not None:
            thread.join()
        connection.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        if self._replaying and self._endpoint.player is not None:
            self._endpoint.player.send(data, self._channel)
            return
        if self._socket is None:
            raise self._endpoint.not_open(data)
        self._endpoint.sent(data, self._channel)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._endpoint.error(
                f"the connection broke: {error}", command=data, hint="close and open it again"
            ) from error

    def _run(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(1 << 16):
                self._endpoint.received(data, self._channel)
                self._receive(data)
            broke = "the other side closed the connection"
        except InstrumentError as error:
            if self._socket is connection:
                self._ended(error)
            return
        except OSError as error:
            broke = f"the connection broke: {error}"
        if self._socket is connection:
            self._ended(self._endpoint.error(broke, hint="close and open it again"))

    def _replayed(self, data: bytes) -> None:
        try:
            self._receive(data)
        except InstrumentError as error:
            self._ended(error)
