"""ZeroMQ: request and reply, one string each."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .endpoint import Endpoint

if TYPE_CHECKING:
    import zmq

__all__ = ["Requester"]


class Requester:
    """A REQ socket with a timeout.

    A REQ socket that misses a reply is dead, and one that never connects waits silently: so
    a plain TCP connection is tried first, and the socket is renewed after a request that timed
    out or was interrupted (Ctrl-C).

    Args:
        endpoint: Whose socket it is.
        timeout_s: Longest wait for a reply, wall time.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self.lock = threading.RLock()
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._url = ""
        self._channel = ""
        self._socket: zmq.SyncSocket | None = None
        self._replaying = False
        self._stale = False

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._socket is not None or self._replaying

    def open(self, host: str, port: int) -> None:
        """Connect, unless connected.

        Raises:
            InstrumentError: where nobody listens.
        """
        with self.lock:
            self._channel = f"{host}:{port}"
            if self._endpoint.player is not None:
                self._replaying = True
            elif self._socket is None:
                self._endpoint.connect(host, port, self._timeout_s).close()
                self._url = f"tcp://{host}:{port}"
                self._socket = self._connect()
                self._stale = False

    def close(self) -> None:
        """Disconnect, if connected."""
        with self.lock:
            used, self._socket = self._socket, None
            self._replaying = False
            if used is not None:
                used.close(linger=0)

    def request(self, text: str) -> str:
        """Send one message and return the reply."""
        import zmq

        with self.lock:
            if not self.is_open:
                raise self._endpoint.not_open(text)
            if self._socket is None:
                return self._replayed(text)
            if self._stale:
                self._socket.close(linger=0)
                self._socket = self._connect()
            self._endpoint.sent(text.encode(), self._channel)
            self._stale = True
            try:
                self._socket.send_string(text)
                reply = self._socket.recv_string()
            except zmq.Again as error:
                raise self._endpoint.timeout(
                    f"no answer from {self._url} within {self._timeout_s:g} s",
                    command=text,
                    hint="is it powered and is its address right? only one reply comes per request",
                ) from error
            except UnicodeDecodeError as error:
                self._endpoint.received(error.object, self._channel)
                raise self._endpoint.error(
                    "reply is not text", command=text, reply=error.object
                ) from error
            except zmq.ZMQError as error:
                raise self._endpoint.error(f"ZeroMQ: {error}", command=text) from error
            self._stale = False
            self._endpoint.received(reply.encode(), self._channel)
            return reply

    def _replayed(self, text: str) -> str:
        player = self._endpoint.player
        assert player is not None
        player.send(text.encode(), self._channel)
        reply = player.receive(self._channel)
        if reply is None:
            raise player.silence(text)
        try:
            return reply.decode()
        except UnicodeDecodeError as error:
            raise self._endpoint.error("reply is not text", command=text, reply=reply) from error

    def _connect(self) -> zmq.SyncSocket:
        import zmq

        made: zmq.SyncSocket = zmq.Context.instance().socket(zmq.REQ)
        timeout_ms = round(self._timeout_s * 1000)
        made.setsockopt(zmq.RCVTIMEO, timeout_ms)
        made.setsockopt(zmq.SNDTIMEO, timeout_ms)
        made.setsockopt(zmq.LINGER, 0)
        made.connect(self._url)
        return made
