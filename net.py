"""Frames between two processes over TCP: in order, each once, across cut cables.

WebSocket messages (package ``websockets``: limits on what is received, keep-alive, handshakes that
time out) carry numbered pieces. What the other end has not taken is kept and sent again on the next
connection, so that a conversation goes on where the cable was cut. ZeroMQ was not taken: it bounds
each part of a message, but not the number of parts, so that a stranger could fill the memory.

It gives **no security**: whoever reaches the port is heard, and one at a time is talked to. Who
that is, and that nothing was changed, the session above finds out by its authentication.

One connection, both ways: first a ``HELLO`` of the connecting side, then one of the listening side;
then ``DATA`` and ``ACK``. Big-endian, one WebSocket message each::

    HELLO  "BBLK" version:u8 own:16 known:16 received:u64 taken:u64
    DATA   1:u8 last:u8 number:u64 piece              a frame is one or more pieces
    ACK    2:u8 taken:u64                             pieces up to this number may be forgotten

``own`` is twelve random bytes of the process and the number of its conversation; a ``known`` that
is not ours tells that the other end remembers none of this conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import struct
import threading
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .instruments import BellbenchError

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection

__all__ = ["Conversation", "Link", "parse_address"]

_VERSION = 1
_HELLO = struct.Struct("!4sB16s16sQQ")
_DATA = struct.Struct("!BBQ")
_ACK = struct.Struct("!BQ")
_MAGIC = b"BBLK"
_NOBODY = bytes(16)
_PROCESS = 12

_PIECE = 1 << 16
_OVERHEAD = 64  # what a piece costs beside its bytes, in the accounts of memory

_HELLO_S = 5.0  # a connection that says nothing by then is closed
_PROBE_S = 2.0  # a party that is there answers a ping by then, before another is heard
_LONGEST_PAUSE_S = 1.0  # between attempts to connect
_FAULT_PAUSE_S = 2.0  # after which one who breaks the rules is heard again

# Why a connection was closed; what another program sends means nothing here.
_BYE, _ANEW, _BUSY, _FAULT = 4000, 4001, 4002, 4003


class _FaultError(Exception):
    """The other end breaks the rules of this module."""


def parse_address(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[ipv6]:port``; an empty host is every interface.

    Raises:
        ValueError: where it is neither.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"write host:port, such as 192.168.1.7:5017, not {text!r}")
    return host, int(port)


class Conversation:
    """Frames to and from one process at the other end, for as long as both remember it.

    It outlives connections. It is over when either end has restarted, begun anew or closed.
    """

    def __init__(self, link: Link, peer: bytes) -> None:
        self._link = link
        self._own = link._own
        self._peer = peer
        self._news = link._news  # guards all below
        self._over = ""
        self._queue: deque[bytes] = deque()  # pieces not sent on this connection
        self._flying: deque[bytes] = deque()  # pieces sent, not taken yet
        self._flying_bytes = 0
        self._kept_bytes = 0  # of both
        self._taken_there = 0  # number of the last piece before _flying
        self._inbox: deque[bytes] = deque()
        self._parts: list[bytes] = []  # of a frame that has not come whole
        self._parts_bytes = 0
        self._waiting_bytes = 0  # in the inbox
        self._received = 0
        self._taken = 0
        self._told_taken = 0

    @property
    def over(self) -> str:
        """Why it is over; empty while it goes on."""
        with self._news:
            return self._over

    @property
    def number(self) -> str:
        """Short public name of this conversation, for logs."""
        both = b"".join(sorted((self._own, self._peer)))
        return hashlib.blake2b(both, digest_size=4).hexdigest()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        with self._news:
            return self._link._conversation is self and self._link._connected

    @property
    def idle(self) -> bool:
        """Whether the other end has taken every frame sent."""
        with self._news:
            return not self._kept_bytes

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False, and nothing is done, where the queue is full or all is over.

        Raises:
            BellbenchError: for a frame above the limit.
        """
        if len(frame) > self._link._frame_limit:
            raise BellbenchError(
                f"a frame of {len(frame):,} bytes is above the limit of {self._link._frame_limit:,}"
            )
        with self._news:
            if self._over or self._kept_bytes >= self._link._window:
                return False
            view = memoryview(frame)
            for at in range(0, max(1, len(frame)), _PIECE):
                last = at + _PIECE >= len(frame)
                piece = b"".join((bytes([last]), view[at : at + _PIECE]))
                self._queue.append(piece)
                self._kept_bytes += len(piece) + _OVERHEAD
        self._link._work()
        return True

    def receive(self, timeout_s: float = 0.0) -> list[bytes]:
        """Take the frames that have come, waiting for the first.

        It returns without any after ``timeout_s``, on :meth:`Link.wake`, and when all is over.
        """
        with self._news:
            if not self._inbox and timeout_s > 0:
                self._news.wait_for(
                    lambda: self._inbox or self._over or self._link._woken, timeout_s
                )
            self._link._woken = False
            self._link._raise_failure()
            frames = list(self._inbox)
            self._inbox.clear()
            self._waiting_bytes = 0
            self._taken = self._received
        if frames:
            self._link._work()
        return frames

    # -- the network's side, in its thread; the caller holds the lock

    @property
    def _fresh(self) -> bool:
        """Whether the other end may still begin it."""
        return not (self._received or self._taken_there)

    def _resume(self, received: int, taken: int) -> None:
        """Go on where the last connection ended, as the other end tells it."""
        self._acknowledge(taken)
        again = self._taken_there + len(self._flying) - received
        if not 0 <= again <= len(self._flying):
            raise _FaultError("it acknowledges what was never sent")
        for _ in range(again):
            piece = self._flying.pop()
            self._flying_bytes -= len(piece) + _OVERHEAD
            self._queue.appendleft(piece)
        self._told_taken = self._taken

    def _acknowledge(self, taken: int) -> None:
        if not self._taken_there <= taken <= self._taken_there + len(self._flying):
            raise _FaultError("it acknowledges what was never sent")
        for _ in range(taken - self._taken_there):
            size = len(self._flying.popleft()) + _OVERHEAD
            self._flying_bytes -= size
            self._kept_bytes -= size
        self._taken_there = taken

    def _next(self) -> bytes | None:
        """The next message to send: an acknowledgement, a piece, or None."""
        if self._taken > self._told_taken:
            self._told_taken = self._taken
            return _ACK.pack(2, self._taken)
        if not self._queue or self._flying_bytes >= self._link._window:
            return None
        piece = self._queue.popleft()
        self._flying.append(piece)
        self._flying_bytes += len(piece) + _OVERHEAD
        number = self._taken_there + len(self._flying)
        return _DATA.pack(1, piece[0], number) + piece[1:]

    def _take(self, message: bytes | str) -> None:
        if isinstance(message, str):
            raise _FaultError("it sends text")
        if message[:1] == b"\x02" and len(message) == _ACK.size:
            self._acknowledge(_ACK.unpack(message)[1])
            return
        if message[:1] != b"\x01" or len(message) < _DATA.size:
            raise _FaultError("it sends what is no message")
        _, last, number = _DATA.unpack_from(message)
        piece = message[_DATA.size :]
        if last > 1 or len(piece) > _PIECE or (len(piece) < _PIECE and not last):
            raise _FaultError("it sends what is no piece of a frame")
        if number <= self._received:
            return
        if number > self._received + 1:
            raise _FaultError("it leaves pieces out")
        self._received = number
        self._parts.append(piece)
        self._parts_bytes += len(piece)
        if self._parts_bytes > self._link._frame_limit:
            raise _FaultError("it sends a frame above the limit")
        if not last:
            if not self._inbox:
                self._taken = number  # else a frame longer than the window would never come whole
            return
        self._inbox.append(b"".join(self._parts))
        self._waiting_bytes += self._parts_bytes + _OVERHEAD * len(self._parts)
        self._parts, self._parts_bytes = [], 0
        # the first frame came before the window began to count
        if self._waiting_bytes > 2 * (self._link._window + self._link._frame_limit):
            raise _FaultError("it sends more than it was allowed")

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._queue.clear()
        self._flying.clear()
        self._parts = []
        self._kept_bytes = 0


class Link:
    """One end of a link; a context manager. A thread of its own moves the bytes.

    Args:
        listen: ``host:port`` to listen at; port 0 takes a free one.
        connect: ``host:port`` of the other end, which listens; tried again until closed.
        frame_limit: Longest frame, bytes.
        window: Bytes that may wait for the other end to take them.
        patience_s: Silence after which a connection is taken for dead.

    Raises:
        BellbenchError: where the port cannot be bound.
    """

    def __init__(
        self,
        *,
        listen: str | None = None,
        connect: str | None = None,
        frame_limit: int = 1 << 26,
        window: int = 1 << 24,
        patience_s: float = 15.0,
    ) -> None:
        if (listen is None) == (connect is None):
            raise ValueError("a link either listens or connects")
        self._listens = connect is None
        self._where = parse_address(listen if connect is None else connect)  # type: ignore[arg-type]
        self._frame_limit = frame_limit
        self._window = window
        self._patience_s = patience_s
        self._news = threading.Condition()  # guards what follows
        self._own = secrets.token_bytes(_PROCESS) + bytes(4)
        self._conversation: Conversation | None = None
        self._connected = False
        self._woken = False
        self._closing = False
        self._failure: BaseException | None = None
        self._state = "not connected yet"
        self._avoid: tuple[bytes, float] = (_NOBODY, 0.0)
        self._farewell = (_ANEW, "begins anew")
        self.connections = 0
        """Connections made so far."""
        # of the thread alone
        self._loop = asyncio.new_event_loop()
        self._wants = asyncio.Event()
        self._stop = asyncio.Event()
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()  # who speaks on behalf of the conversation
        self._bound: tuple[str, int] | None = None
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="bellbench link", daemon=True
        )
        self._thread.start()
        ready.wait()
        try:
            self._raise_failure()
        except BellbenchError:
            self._thread.join()
            raise

    # -- what a caller does

    @property
    def address(self) -> tuple[str, int]:
        """Host and port: bound, or connected to."""
        return self._bound or self._where

    @property
    def state(self) -> str:
        """How the connection is, in words."""
        with self._news:
            return self._state

    def conversation(self, timeout_s: float = 0.0) -> Conversation | None:
        """The conversation that goes on, waiting for one; None where there is none."""
        with self._news:
            self._news.wait_for(
                lambda: self._conversation or self._woken or self._failure, timeout_s
            )
            self._woken = False
            self._raise_failure()
            return self._conversation

    def begin(self, *, avoid_s: float = 0.0) -> None:
        """End the conversation and begin a new one, by which the other end hears of it.

        Args:
            avoid_s: For so long not with the process that we talk to now, which is not who it
                should be.
        """
        with self._news:
            if self._conversation is not None and avoid_s:
                self._avoid_peer(self._conversation, avoid_s)
            self._renew("begun anew")
        self._work()

    def wake(self) -> None:
        """Let whoever waits in ``receive`` return; from any thread."""
        with self._news:
            self._woken = True
            self._news.notify_all()

    def close(self, linger_s: float = 2.0) -> None:
        """Wait until the other end has taken what was sent, tell it that we leave, and end."""
        with self._news:
            talk = self._conversation
            if talk is not None and self._connected:
                self._news.wait_for(lambda: not talk._kept_bytes or not self._connected, linger_s)
            self._closing = True
            self._farewell = (_BYE, "has ended")
            self._renew("closed")
        self._work()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- between the threads

    def _renew(self, why: str) -> None:
        if self._conversation is not None:
            self._conversation._end(why)
        self._conversation = None
        number = int.from_bytes(self._own[_PROCESS:], "big") + 1
        self._own = self._own[:_PROCESS] + number.to_bytes(4, "big")
        self._news.notify_all()

    def _avoid_peer(self, talk: Conversation, seconds: float) -> None:
        self._avoid = (talk._peer[:_PROCESS], time.monotonic() + seconds)

    def _avoided(self, peer: bytes) -> bool:
        process, until = self._avoid
        return peer[:_PROCESS] == process and time.monotonic() < until

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if self._bound is None and isinstance(self._failure, OSError):
                text = f"cannot listen at {self._place()}: {_words(self._failure)}"
            else:
                text = f"the link failed: {self._failure!r}"
            raise BellbenchError(text) from self._failure

    def _work(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(self._wants.set)

    def _place(self) -> str:
        host, port = self._where
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # -- the thread

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(
                self._listen(ready) if self._listens else self._connect(ready)
            )
        except BaseException as error:  # noqa: BLE001 - raised in whoever waits
            with self._news:
                self._failure = error
                if self._conversation is not None:
                    self._conversation._end("the link failed")
                self._news.notify_all()
        finally:
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            ready.set()

    def _options(self) -> dict[str, Any]:
        # a logger of its own: at level DEBUG websockets would write down frames, and it writes
        # down every port scanner's failed handshake
        quiet = logging.Logger("bellbench.net", logging.CRITICAL + 1)
        return {
            "compression": None,
            "max_size": _PIECE + _DATA.size,
            "max_queue": 16,
            "open_timeout": _HELLO_S,
            "close_timeout": 1.0,
            "ping_interval": self._patience_s / 3,
            "ping_timeout": 2 * self._patience_s / 3,
            "logger": quiet,
        }

    async def _listen(self, ready: threading.Event) -> None:
        from websockets.asyncio.server import serve

        host, port = self._where
        async with serve(self._guest, host or None, port, **self._options()) as server:
            name = next(iter(server.sockets)).getsockname()
            self._bound = (name[0], name[1])
            self._tell(f"waits at {name[0]}:{name[1]}")
            ready.set()
            await self._stop.wait()
            async with self._turn:  # when the farewell has been said
                pass

    async def _connect(self, ready: threading.Event) -> None:
        ready.set()
        calls = asyncio.create_task(self._call_again())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({calls, stop}, return_when=asyncio.FIRST_COMPLETED)
        if self._connected:
            await asyncio.wait({calls}, timeout=2.0)  # the farewell
        for task in (calls, stop):
            task.cancel()
        await asyncio.wait({calls, stop})
        if not calls.cancelled():
            calls.result()

    async def _call_again(self) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        pause_s = 0.05
        uri = f"ws://{self._place()}/"
        while not self._stop.is_set():
            before = self.connections
            try:
                async with connect(uri, proxy=None, **self._options()) as connection:
                    await self._call(connection)
            except (OSError, WebSocketException, TimeoutError) as error:
                self._tell(f"no connection to {self._place()}: {_words(error)}")
            if self.connections > before:
                pause_s = 0.05
            _, until = self._avoid
            pause_s = max(pause_s, min(until - time.monotonic(), 60.0))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _call(self, connection: Connection) -> None:
        """The connecting side of a connection."""
        with self._news:
            own, talk = self._own, self._conversation
            peer = _NOBODY if talk is None else talk._peer
            numbers = (0, 0) if talk is None else (talk._received, talk._taken)
        await connection.send(_HELLO.pack(_MAGIC, _VERSION, own, peer, *numbers))
        try:
            hello = await self._hello(connection)
        except _FaultError as error:
            closed = _plain(connection.close_reason or str(error))
            self._tell(f"{self._place()} refuses: {closed}")
            await connection.close(_FAULT, str(error))
            return
        theirs, known, received, taken = hello
        with self._news:
            if self._own != own or (self._conversation is not talk):
                talk = None  # begun anew meanwhile
            elif self._avoided(theirs):
                talk = None
            elif talk is None or theirs != peer:
                if talk is not None:
                    talk._end("the other party has restarted")
                received = taken = 0
                talk = self._conversation = Conversation(self, theirs)
        if talk is None or known != own:
            await connection.close(_ANEW, "begins anew")
            return
        await self._talk(connection, talk, received, taken)

    async def _guest(self, connection: Connection) -> None:
        """The listening side of a connection, whoever called."""
        try:
            theirs, known, received, taken = await self._hello(connection)
        except _FaultError as error:
            await connection.close(_FAULT, str(error))
            return
        now = self._conversation
        other = now is not None and now._peer[:_PROCESS] != theirs[:_PROCESS]
        if other and await self._there():
            await connection.close(_BUSY, "busy with another party")
            return
        if self._avoided(theirs):
            await connection.close(_BUSY, "not welcome")
            return
        if self._connection is not None:  # the same party again: it knows what the cable does
            self._connection.transport.abort()
        async with self._turn:
            with self._news:
                if self._closing:
                    return
                talk = self._conversation
                if talk is not None and (
                    talk._peer != theirs or (known != self._own and not talk._fresh)
                ):
                    # under a new name, since what is known of the old one may be told again
                    self._renew("the other party has restarted")
                    talk = None
                if talk is None:
                    talk = self._conversation = Conversation(self, theirs)
                if known != self._own:
                    received = taken = 0
                own, numbers = self._own, (talk._received, talk._taken)
                await connection.send(_HELLO.pack(_MAGIC, _VERSION, own, theirs, *numbers))
            await self._talk(connection, talk, received, taken)

    async def _there(self) -> bool:
        """Whether the party that we talk to is there."""
        connection = self._connection
        if connection is None:
            return False
        from websockets.exceptions import ConnectionClosed

        try:
            pong = await connection.ping()
            await asyncio.wait_for(pong, _PROBE_S)
        except (ConnectionClosed, TimeoutError, OSError):
            return False
        return True

    async def _hello(self, connection: Connection) -> tuple[bytes, bytes, int, int]:
        from websockets.exceptions import ConnectionClosed

        try:
            message = await asyncio.wait_for(connection.recv(), _HELLO_S)
        except ConnectionClosed:
            raise _FaultError("it hung up") from None
        except TimeoutError:
            raise _FaultError("it says nothing") from None
        if isinstance(message, str) or message[:4] != _MAGIC:
            raise _FaultError("it is no party of ours")
        if len(message) < 5 or message[4] != _VERSION:
            raise _FaultError(f"it speaks another version than {_VERSION}")
        if len(message) != _HELLO.size:
            raise _FaultError("it is no party of ours")
        _, _, own, known, received, taken = _HELLO.unpack(message)
        if own == _NOBODY:
            raise _FaultError("it has no name")
        return own, known, received, taken

    async def _talk(
        self, connection: Connection, talk: Conversation, received: int, taken: int
    ) -> None:
        """Move frames until the connection ends."""
        from websockets.exceptions import ConnectionClosed

        async def send() -> None:
            while True:
                self._wants.clear()
                while True:
                    with self._news:
                        over, message = talk._over, talk._next()
                    if over:
                        await connection.close(*self._farewell)
                        return
                    if message is None:
                        break
                    await connection.send(message)
                await self._wants.wait()

        async def receive() -> None:
            while True:
                message = await connection.recv()
                with self._news:
                    if talk._over:
                        continue
                    before = talk._taken, talk._flying_bytes
                    talk._take(message)
                    self._news.notify_all()
                if before != (talk._taken, talk._flying_bytes):
                    self._wants.set()

        ended = "the connection broke; trying again"
        tasks: list[asyncio.Task[None]] = []
        try:
            with self._news:
                talk._resume(received, taken)
                self._connection = connection
                self._connected = True
                self.connections += 1
                self._state = f"connected to {_name(connection)}"
                self._news.notify_all()
            tasks = [asyncio.create_task(send()), asyncio.create_task(receive())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except ConnectionClosed as error:
            farewell = error.rcvd if error.rcvd_then_sent else None
            if farewell is not None and farewell.code in (_BYE, _ANEW, _FAULT):
                reason = _plain(farewell.reason)
                ended = f"the other party {reason if farewell.code != _FAULT else 'hung up'}"
                with self._news:
                    if self._conversation is talk:
                        self._renew(ended)
        except _FaultError as error:
            ended = f"what the other party sends breaks the rules: {error}"
            with self._news:
                self._avoid_peer(talk, _FAULT_PAUSE_S)
                if self._conversation is talk:
                    self._renew(ended)
            await connection.close(_FAULT, str(error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with self._news:
                if self._connection is connection:
                    self._connection = None
                    self._connected = False
                    self._state = ended
                self._news.notify_all()

    def _tell(self, state: str) -> None:
        with self._news:
            self._state = state
            self._news.notify_all()


def _name(connection: Connection) -> str:
    host, port = connection.remote_address[:2]
    return f"{host}:{port}"


def _plain(text: str) -> str:
    """What a stranger sent, fit for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:200])


def _words(error: BaseException) -> str:
    return _plain(getattr(error, "strerror", None) or str(error) or type(error).__name__)
