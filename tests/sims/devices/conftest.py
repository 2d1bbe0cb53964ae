"""A tiny world for emulators: an event loop in a thread, blocks stepped by the test."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import pyvisa
from bellbench.sims.devices.base import Emulator, Setting

BLOCK_PS = 10_000_000_000
T = TypeVar("T")


class Stage:
    """Runs emulators in a loop of its own; ``step`` makes world time pass."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.now_ps = 0
        self.problems: list[str] = []
        self._emulators: list[Emulator] = []
        self.loop.set_exception_handler(lambda _loop, context: self.problems.append(str(context)))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 20.0) -> T:
        return self.submit(work).result(timeout)

    def call(self, function: Callable[[], T]) -> T:
        async def inner() -> T:
            return function()

        return self.run(inner())

    def setting(self, name: str = "twin", *, lossless: bool = True, seed: int = 1) -> Setting:
        return Setting(name, "127.0.0.1", lossless, seed)

    def open(self, emulator: Emulator) -> str:
        self._emulators.append(emulator)
        return self.run(emulator.open())

    async def block(
        self, emulator: Emulator, fill: Callable[[int, int], None] | None = None
    ) -> None:
        begin, end = self.now_ps, self.now_ps + BLOCK_PS
        emulator.begin_block(begin, end)
        if fill is not None:
            fill(begin, end)
        waits = emulator.end_block(begin, end)
        if waits is not None:
            await waits
        self.now_ps = end

    def step(
        self,
        emulator: Emulator,
        blocks: int = 1,
        fill: Callable[[int, int], None] | None = None,
    ) -> None:
        """Let ``blocks`` of 10 ms pass; ``fill(begin_ps, end_ps)`` is the physics of a block."""

        async def inner() -> None:
            for _ in range(blocks):
                await self.block(emulator, fill)

        self.run(inner())

    @staticmethod
    def endpoint(address: str) -> tuple[str, int]:
        """Host and port of a VISA socket or a serial twin."""
        found = re.fullmatch(r"(?:TCPIP::(.+)::(\d+)::SOCKET|socket://(.+):(\d+))", address)
        assert found, address
        return found[1] or found[3], int(found[2] or found[4])

    @staticmethod
    def converse(where: tuple[str, int], pieces: list[bytes], length: int) -> bytes:
        """Send the pieces one by one and return at least ``length`` bytes of answer."""
        got = b""
        with socket.create_connection(where, 10) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                client.sendall(piece)
            while len(got) < length:
                data = client.recv(4096)
                assert data, got
                got += data
        return got

    @staticmethod
    def flood(where: tuple[str, int], data: bytes) -> None:
        """Send what no device takes; return when the twin has dropped the connection."""
        with socket.create_connection(where, 10) as client, contextlib.suppress(ConnectionError):
            client.sendall(data)
            while client.recv(4096):
                pass

    def close(self) -> None:
        for emulator in self._emulators:
            self.run(emulator.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        assert not self.problems, self.problems


@pytest.fixture
def stage() -> Iterator[Stage]:
    found = Stage()
    yield found
    found.close()


@pytest.fixture
def visa() -> Iterator[Callable[..., Any]]:
    """Opens a resource with plain pyvisa: ``visa(resource, read_termination="\\n")``."""
    manager = pyvisa.ResourceManager("@py")

    def connect(resource: str, read_termination: str = "\n") -> Any:
        return manager.open_resource(
            resource, read_termination=read_termination, write_termination="\n", timeout=5000
        )

    yield connect
    manager.close()  # and every resource it opened
