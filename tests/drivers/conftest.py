"""Scripted devices: servers that assert the bytes that arrive and answer given bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import zmq

Reply = bytes | Sequence[bytes]
PATIENCE_S = 5.0


class ManualClock:
    """A clock that moves only when slept on; ``on_sleep`` is told the new time."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], None] = lambda now: None

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept.append(seconds)
        self.on_sleep(self.time)


class Server:
    """A TCP server on a free port; one thread, connections one after the other."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.failures: list[str] = []
        self.news = threading.Condition()
        self.connections = 0
        self._closing = False
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def visa(self) -> str:
        return f"TCPIP::127.0.0.1::{self.port}::SOCKET"

    @property
    def serial(self) -> str:
        return f"socket://127.0.0.1:{self.port}"

    def _run(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self.news:
                    self._connection = connection
                    self.connections += 1
                    self.news.notify_all()
                with contextlib.suppress(OSError):
                    self.serve(connection)
                with self.news:
                    self._connection = None
                    self.news.notify_all()

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def push(self, data: bytes) -> None:
        """Send without being asked."""
        with self.news:
            assert self.news.wait_for(lambda: self._connection is not None, PATIENCE_S)
            connection = self._connection
        assert connection is not None
        connection.sendall(data)

    def drop(self) -> None:
        """Break the connection."""
        with self.news:
            connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class Script(Server):
    """Expects exactly these bytes in this order, and answers with those."""

    def __init__(self, steps: Sequence[tuple[bytes, Reply]]) -> None:
        self.steps = list(steps)
        self.done = 0
        super().__init__()

    def extend(self, *steps: tuple[bytes, Reply]) -> None:
        with self.news:
            self.steps += steps

    def serve(self, connection: socket.socket) -> None:
        pending = b""
        while data := connection.recv(1 << 16):
            pending += data
            while pending:
                with self.news:
                    step = self.steps[self.done] if self.done < len(self.steps) else (b"", b"")
                expected, reply = step
                if not expected or not expected.startswith(pending[: len(expected)]):
                    self.failures.append(f"{self.done}: expected {expected!r}, got {pending!r}")
                    return
                if len(pending) < len(expected):
                    break
                pending = pending[len(expected) :]
                with contextlib.suppress(OSError):  # it may have heard enough and hung up
                    for part in [reply] if isinstance(reply, bytes) else reply:
                        connection.sendall(part)
                with self.news:
                    self.done += 1
                    self.news.notify_all()

    def finish(self) -> None:
        """Wait until every step was gone through."""
        with self.news:
            self.news.wait_for(lambda: self.done == len(self.steps) or self.failures, PATIENCE_S)
        assert not self.failures, self.failures
        assert self.done == len(self.steps), f"never came: {self.steps[self.done :]}"


class Lines(Server):
    """Answers each line by a function; None answers nothing."""

    def __init__(self, answer: Callable[[str], str | None], end: bytes, reply_end: bytes) -> None:
        self.answer = answer
        self.end = end
        self.reply_end = reply_end
        self.log: list[str] = []
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        pending = b""
        while data := connection.recv(1 << 16):
            *lines, pending = (pending + data).split(self.end)
            for line in lines:
                text = line.decode()
                self.log.append(text)
                reply = self.answer(text)
                if reply is not None:
                    connection.sendall(reply.encode() + self.reply_end)


class Replier:
    """A ZeroMQ server that answers each message by a function; None keeps silent."""

    def __init__(self, answer: Callable[[str], str | None]) -> None:
        self.answer = answer
        self.log: list[str] = []
        self.failures: list[str] = []
        self._socket: zmq.SyncSocket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.port: int = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._socket.poll(20):
                continue
            peer, empty, message = self._socket.recv_multipart()
            self.log.append(message.decode())
            reply = self.answer(message.decode())
            if reply is not None:
                self._socket.send_multipart([peer, empty, reply.encode()])
        self._socket.close(linger=0)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(PATIENCE_S)


class Pairs:
    """Four bound PAIR sockets on consecutive ports."""

    def __init__(self) -> None:
        while True:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port: int = probe.getsockname()[1]
            self._sockets: list[zmq.SyncSocket] = []
            try:
                for i in range(4):
                    made: zmq.SyncSocket = zmq.Context.instance().socket(zmq.PAIR)
                    made.setsockopt(zmq.LINGER, 0)
                    made.setsockopt(zmq.SNDTIMEO, round(PATIENCE_S * 1000))
                    self._sockets.append(made)
                    made.bind(f"tcp://127.0.0.1:{self.port + i}")
            except zmq.ZMQError:
                self.close()
                continue
            return

    def send(self, stream: int, data: bytes) -> None:
        self._sockets[stream - 1].send(data)

    def close(self) -> None:
        for each in self._sockets:
            each.close(linger=0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    """``script((expected, reply), ...)`` is a server; unfinished scripts fail the test."""
    servers: list[Script] = []

    def make(*steps: tuple[bytes, Reply]) -> Script:
        servers.append(Script(steps))
        return servers[-1]

    yield make
    for server in servers:
        try:
            server.finish()
        finally:
            server.close()


@pytest.fixture
def lines() -> Iterator[Callable[..., Lines]]:
    """``lines(answer, end, reply_end)`` is a server that answers line by line."""
    servers: list[Lines] = []

    def make(
        answer: Callable[[str], str | None], end: bytes = b"\n", reply_end: bytes = b"\n"
    ) -> Lines:
        servers.append(Lines(answer, end, reply_end))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
        assert not server.failures


@pytest.fixture
def replier() -> Iterator[Callable[..., Replier]]:
    """``replier(answer)`` is a ZeroMQ server."""
    servers: list[Replier] = []

    def make(answer: Callable[[str], str | None]) -> Replier:
        servers.append(Replier(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = Pairs()
    yield made
    made.close()


@pytest.fixture
def nobody() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def together() -> Callable[..., None]:
    """``together(f, g, ...)`` runs functions in threads and raises what one of them raised."""

    def run(*functions: Callable[[], Any]) -> None:
        raised: list[BaseException] = []

        def one(function: Callable[[], Any]) -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised.append(error)

        threads = [threading.Thread(target=one, args=(f,), daemon=True) for f in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        if raised:
            raise raised[0]

    return run
