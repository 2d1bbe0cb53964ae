"""HTTP: a POST and its reply, each on a connection of its own."""

from __future__ import annotations

import http.client
import threading
from urllib.parse import parse_qsl, urlsplit

from .endpoint import Endpoint

__all__ = ["HttpLink", "parse_http_address"]

_MAX_REPLY = 1 << 20


def parse_http_address(
    endpoint: Endpoint, port: int, path: str, options: dict[str, str]
) -> tuple[str, int, str, dict[str, str]]:
    """Split ``http://host:port/path?key=value`` into host, port, path and options.

    Args:
        endpoint: Whose address it is.
        port: Default port.
        path: Default path, such as ``/json-rpc``.
        options: The keys allowed in the query, with their defaults.

    Raises:
        InstrumentError: for anything else.
    """
    query = "&".join(f"{key}={value}" for key, value in options.items())
    hint = f"write it like http://192.168.1.1:{port}{path}?{query}".rstrip("?")
    try:
        parts = urlsplit(endpoint.address)
        given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        host, chosen = parts.hostname, parts.port
    except ValueError as error:
        raise endpoint.error(f"cannot read the address: {error}", hint=hint) from error
    if parts.scheme != "http" or not host or parts.username or parts.fragment or chosen == 0:
        raise endpoint.error("cannot read the address", hint=hint)
    if unknown := sorted(set(given) - set(options)):
        raise endpoint.error(f"the address has no option {unknown[0]!r}", hint=hint)
    found = parts.path if parts.path not in ("", "/") else path
    return host, chosen or port, found, options | given


class HttpLink:
    """POSTs to one server. As every exchange has its own connection, none takes another's reply.

    Args:
        endpoint: Whose link it is.
        timeout_s: Longest wait for a reply, wall time.
        content_type: Of what is sent.
    """

    def __init__(
        self, endpoint: Endpoint, timeout_s: float, *, content_type: str = "application/json"
    ) -> None:
        self.lock = threading.RLock()
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._type = content_type
        self._where: tuple[str, int, str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._where is not None

    def open(self, host: str, port: int, path: str) -> None:
        """Remember where to; the server is found out with the first POST."""
        with self.lock:
            self._where = host, port, path

    def close(self) -> None:
        """Forget the server."""
        with self.lock:
            self._where = None

    def post(self, body: bytes) -> bytes:
        """Send ``body`` and return the body of the reply.

        Raises:
            InstrumentError: where nobody answers, or with another status than 200.
        """
        with self.lock:
            if self._where is None:
                raise self._endpoint.not_open(body)
            host, port, path = self._where
            channel = f"{host}:{port}"
            player = self._endpoint.player
            if player is not None:
                player.send(body, channel)
                reply = player.receive(channel)
                if reply is None:
                    raise player.silence(body)
                return reply
            reply = self._exchange(host, port, path, body, channel)
            self._endpoint.received(reply, channel)
            return reply

    def _exchange(self, host: str, port: int, path: str, body: bytes, channel: str) -> bytes:
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection.sock = self._endpoint.connect(host, port, self._timeout_s)
        self._endpoint.sent(body, channel)
        try:
            connection.request(
                "POST", path, body, {"Content-Type": self._type, "Connection": "close"}
            )
            answer = connection.getresponse()
            reply = answer.read(_MAX_REPLY + 1)
        except TimeoutError as error:
            raise self._endpoint.timeout(
                f"no answer within {self._timeout_s:g} s",
                command=body,
                hint="is it busy, or something else at this address? raise `timeout`",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._endpoint.error(
                f"the exchange broke: {error!r}", command=body, hint="check network and address"
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise self._endpoint.error(
                f"HTTP status {answer.status} {answer.reason} at {path}",
                command=body,
                reply=reply[:200],
                hint="is this the right path and device?",
            )
        if len(reply) > _MAX_REPLY:
            raise self._endpoint.error(
                f"a reply longer than {_MAX_REPLY} bytes", command=body, reply=reply[:100]
            )
        return reply
