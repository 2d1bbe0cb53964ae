"""TCP ports of the twins: bounded buffers, backpressure, and chaos on demand."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ...instruments import TwinError
from .base import Setting

__all__ = [
    "LIMIT",
    "DeviceSettings",
    "Link",
    "OverlongError",
    "Port",
    "SerialEmulator",
    "Splitter",
    "TcpPort",
    "chaos_generator",
    "reachable",
    "report_failure",
]

#: Longest command, read and pushed backlog of one client, bytes.
LIMIT = 65_536

TcpPort = Annotated[int, Field(ge=0, le=65_535)]


class DeviceSettings(BaseModel):
    """What every emulator can be told.

    Attributes:
        port: TCP port of the control socket; 0 takes a free one from the operating system.
        chaos: Split and glue what the twin sends at random places (seeded), for driver tests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: TcpPort = 0
    chaos: bool = False


class OverlongError(Exception):
    """A client sent more than :data:`LIMIT` bytes without ending its command."""


def reachable(host: str) -> str:
    """The host part of an address for a server bound to ``host``."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def chaos_generator(setting: Setting, chaos: bool) -> random.Random | None:
    """The generator of an emulator's chaos, None where there is none."""
    return random.Random(f"{setting.seed}/{setting.name}/chaos") if chaos else None


def report_failure(task: asyncio.Task[None], name: str) -> None:
    """Tell the loop's exception handler when a task of the twin ``name`` dies of an error."""

    def done(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": f"twin {name!r} failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    task.add_done_callback(done)


class Splitter:
    """Cuts a byte stream into commands at any of the bytes ``ends``."""

    def __init__(self, ends: bytes) -> None:
        self._ends = re.compile(b"[" + re.escape(ends) + b"]")
        self._tail = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the commands that ``data`` completes, without their ends.

        Raises:
            OverlongError: where a command exceeds :data:`LIMIT`.
        """
        *lines, tail = self._ends.split(data)
        if lines:
            lines[0] = bytes(self._tail) + lines[0]
            self._tail = bytearray()
        self._tail += tail
        if len(self._tail) > LIMIT or any(len(line) > LIMIT for line in lines):
            raise OverlongError
        return lines


class Link:
    """One client's connection.

    A reply is sent with :meth:`send`, which waits for a slow client; pushed status goes out with
    :meth:`push`, which never waits and keeps the latest. No method raises when the client is gone.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        chaos: random.Random | None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._chaos = chaos
        self._held = bytearray()
        self._unheld = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._late: dict[str, bytes] = {}
        self._late_task: asyncio.Task[None] | None = None
        # drain() then means: the socket has taken every byte.
        writer.transport.set_write_buffer_limits(high=0)

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._writer.transport.is_closing()

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._writer.transport.get_write_buffer_size() + len(self._held)

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; ``b""`` when the client is gone."""
        try:
            return await self._reader.read(LIMIT)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Queue ``data``; the caller bounds the queue with :meth:`drain` or :attr:`backlog`."""
        if self.closed:
            return
        if self._chaos is None:
            self._writer.write(data)
            return
        self._held += data
        self._unheld.clear()
        self._schedule(self._chaos)

    async def drain(self) -> None:
        """Return when the client's socket has taken everything, or the client is gone."""
        while self._held and not self.closed:
            await self._unheld.wait()
        try:
            await self._writer.drain()
        except OSError:
            self.abort()

    async def send(self, data: bytes) -> None:
        """Send ``data`` and wait until it is taken."""
        self.write(data)
        await self.drain()

    def push(self, key: str, data: bytes) -> None:
        """Send status; while the client does not read, keep only the latest of each ``key``."""
        if self.closed:
            return
        if not self._late and self.backlog < LIMIT:
            self.write(data)
            return
        self._late.pop(key, None)
        self._late[key] = data
        if self._late_task is None:
            self._late_task = asyncio.create_task(self._send_late())

    def abort(self) -> None:
        """Drop the connection and everything queued."""
        self._writer.transport.abort()
        self._forget()

    def finish(self) -> None:
        """Close after a conversation; what the client has not taken by now is dropped."""
        if self.backlog or self._late:
            self.abort()
        elif not self.closed:
            self._writer.close()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held.clear()
        self._unheld.set()
        if self._late_task is not None:
            self._late_task.cancel()
            self._late_task = None
        self._late.clear()

    async def _send_late(self) -> None:
        while self._late and not self.closed:
            await self.drain()
            late, self._late = self._late, {}
            self.write(b"".join(late.values()))
        self._late_task = None

    def _schedule(self, chaos: random.Random) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(chaos.uniform(0.0, 0.002), self._release, chaos)

    def _release(self, chaos: random.Random) -> None:
        self._timer = None
        size = chaos.choice((1, chaos.randint(1, 7), len(self._held)))
        piece = bytes(self._held[:size])
        del self._held[:size]
        if not self.closed:
            self._writer.write(piece)
        if self._held:
            self._schedule(chaos)
        else:
            self._unheld.set()


class Port:
    """A TCP port of a twin: takes clients and hands each to ``serve``.

    Args:
        setting: Where the emulator lives.
        serve: Speaks with one client until it is gone.
        clients: How many are served at a time; one too many is disconnected at once.
        chaos: Generator of splits and glues, or None.
    """

    def __init__(
        self,
        setting: Setting,
        serve: Callable[[Link], Awaitable[None]],
        *,
        clients: int = 16,
        chaos: random.Random | None = None,
    ) -> None:
        self._setting = setting
        self._serve = serve
        self._clients = clients
        self._chaos = chaos
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.links: list[Link] = []

    async def open(self, port: int) -> int:
        """Bind ``port`` (0: any free one) and return it.

        Raises:
            TwinError: where it cannot be bound.
        """
        host = self._setting.host
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=LIMIT)
        except OSError as error:
            raise TwinError(
                f"twin {self._setting.name!r} cannot bind {host}:{port} ({error.strerror}); "
                "leave the port out to take a free one"
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Disconnect every client and free the port."""
        if self._server is None:
            return
        self._server.close()
        for link in self.links:
            link.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._client(Link(reader, writer, self._chaos)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        report_failure(task, self._setting.name)

    async def _client(self, link: Link) -> None:
        for _ in range(20):
            # Who reconnects at once may arrive before the end of the old connection is seen.
            if len(self.links) < self._clients:
                break
            await asyncio.sleep(0.005)
        if len(self.links) >= self._clients:
            link.abort()
            return
        self.links.append(link)
        try:
            await self._serve(link)
        except OverlongError:
            link.abort()
        finally:
            self.links.remove(link)
            link.finish()


class SerialEmulator:
    """A twin on one serial port, for which a socket of one client stands.

    It speaks in :meth:`_serve`, and pushes nothing unless it has an ``end_block`` of its own.
    """

    def __init__(self, setting: Setting, settings: DeviceSettings) -> None:
        self._setting = setting
        self._wanted_port = settings.port
        self._port = Port(
            setting, self._serve, clients=1, chaos=chaos_generator(setting, settings.chaos)
        )

    async def open(self) -> str:
        """Bind the port; return the pyserial URL."""
        port = await self._port.open(self._wanted_port)
        return f"socket://{reachable(self._setting.host)}:{port}"

    def end_block(self, begin_ps: int, end_ps: int) -> Coroutine[Any, Any, None] | None:
        """Nothing is pushed."""
        return None

    async def close(self) -> None:
        """Close the connection and the port."""
        await self._port.close()

    async def _serve(self, link: Link) -> None:
        raise NotImplementedError
