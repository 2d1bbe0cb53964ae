"""HTTP/1.1 on a twin's port: as much of it as instruments speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from .wire import LIMIT, Link

__all__ = ["HttpRequest", "serve_http"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, read whole."""

    method: str
    path: str
    body: bytes


async def serve_http(
    link: Link, answer: Callable[[HttpRequest], tuple[HTTPStatus, bytes]], *, limit: int
) -> None:
    """Answer one client's requests, one after the other, until it is gone.

    Args:
        link: The client.
        answer: Makes status and body (JSON) of the reply to a request.
        limit: Longest body, bytes.
    """
    buffer = bytearray()

    async def more() -> bool:
        data = await link.read()
        buffer.extend(data)
        return bool(data)

    while True:
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            if len(buffer) > LIMIT:
                await _reply(link, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"", close=True)
                return
            if not await more():
                return
        head = bytes(buffer[:end]).decode("latin-1").split("\r\n")
        del buffer[: end + 4]
        words = head[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            await _reply(link, HTTPStatus.BAD_REQUEST, b"", close=True)
            return
        method, target, version = words
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:])
        }
        size = fields.get("content-length", "0")
        if "transfer-encoding" in fields or not (size.isdecimal() and len(size) < 12):
            await _reply(link, HTTPStatus.LENGTH_REQUIRED, b"", close=True)
            return
        length = int(size)
        if length > limit:
            await _reply(link, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"", close=True)
            return
        if fields.get("expect", "").lower() == "100-continue":
            await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(buffer) < length:
            if not await more():
                return
        body = bytes(buffer[:length])
        del buffer[:length]
        status, reply = answer(HttpRequest(method, target.partition("?")[0], body))
        kept = fields.get("connection", "").lower()
        close = kept == "close" or (version == "HTTP/1.0" and kept != "keep-alive")
        await _reply(link, status, reply, close=close)
        if close:
            return


async def _reply(link: Link, status: HTTPStatus, body: bytes, *, close: bool) -> None:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n"
    )
    await link.send(head.encode("latin-1") + body)
