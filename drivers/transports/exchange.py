"""Binary messages over TCP: one out, one of a known length back, each on its own connection."""

from __future__ import annotations

import threading

from .endpoint import Endpoint

__all__ = ["TcpExchange"]


class TcpExchange:
    """Sends a message and reads the reply; no exchange takes another's reply.

    Args:
        endpoint: Whose port it is.
        timeout_s: Longest wait, wall time, for each piece of a reply.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self.lock = threading.RLock()
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    def exchange(self, host: str, port: int, message: bytes, length: int) -> bytes:
        """Send ``message`` and return the ``length`` bytes that answer it.

        Raises:
            InstrumentError: where nobody answers, or with less.
        """
        channel = f"{host}:{port}"
        start = message[:64]
        with self.lock:
            player = self._endpoint.player
            if player is not None:
                player.send(message, channel)
                replayed = player.receive(channel)
                if replayed is None:
                    raise player.silence(start)
                return replayed
            got = b""
            with self._endpoint.connect(host, port, self._timeout_s) as connection:
                self._endpoint.sent(message, channel)
                try:
                    connection.sendall(message)
                    while len(got) < length:
                        data = connection.recv(length - len(got))
                        if not data:
                            break
                        got += data
                except TimeoutError as error:
                    raise self._endpoint.timeout(
                        f"no whole answer from {channel} within {self._timeout_s:g} s",
                        command=start,
                        reply=got,
                        hint="is it busy? raise `timeout`",
                    ) from error
                except OSError as error:
                    raise self._endpoint.error(
                        f"the connection to {channel} broke: {error}", command=start, reply=got
                    ) from error
            self._endpoint.received(got, channel)
        if len(got) < length:
            raise self._endpoint.error(
                f"{channel} hung up after {len(got)} of {length} bytes", command=start, reply=got
            )
        return got
