"""The world in its own process: blocks, grants, and the control port.

The control port speaks lines of JSON over TCP. A client sends ``{"op": "hello"}`` and gets the
twins' addresses, the mode and the time; in stepped time it then sends ``{"op": "grant",
"until_ps": N}``. The world advances, block by block, to the least granted by the live clients;
each client is told ``{"event": "reached", "now_ps": N}`` when its own grant is reached, and
``{"event": "held", "by": [...]}`` each second that a stream's reader holds the world back. A
closed connection drops its grant, and so does ``{"op": "release"}``, until the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ..instruments import ConfigError, TwinError
from .devices import load_emulator
from .devices.base import Emulator, Setting
from .physics.snspd import load_kernels
from .world import BLOCK_PS, World, WorldModel

__all__ = ["TwinSpec", "serve"]

_LINE_LIMIT = 4096
_HELD_AFTER_S = 1.0
_SAVED_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class TwinSpec:
    """One twin to serve: its name, the driver it answers, its element and its own settings."""

    name: str
    driver: str
    element: str
    settings: Mapping[str, object]


class _Client:
    """One control connection and what it has granted."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.granted_ps: int | None = None
        self.told_ps = -1

    def send(self, message: dict[str, object]) -> None:
        if not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")


class _Server:
    def __init__(
        self,
        world: World,
        twins: list[TwinSpec],
        *,
        host: str,
        factor: float | None,
        state: Path | None = None,
    ) -> None:
        self.world = world
        self.state = state
        self.saved = time.monotonic()
        self.whole = True  # not in the midst of a block
        self.host = host
        self.factor = factor
        self.twins = sorted(twins, key=lambda twin: twin.name)
        self.emulators: dict[str, Emulator] = {}
        self.addresses: dict[str, str] = {}
        self.clients: list[_Client] = []
        self.conversations: set[asyncio.Task[None]] = set()
        self.wake = asyncio.Event()
        self.stopping = asyncio.Event()
        self.lag_s = 0.0  # how far a paced world has fallen behind the wall clock

    async def run(self, announce: Callable[[dict[str, object]], None], *, port: int) -> None:
        control = None
        if self.factor:
            load_kernels()  # in time: a reader does not wait long for late clicks
        try:
            for twin in self.twins:
                emulator = _make(twin, self.world, self.host, lossless=self.factor is None)
                self.addresses[twin.name] = await emulator.open()
                self.emulators[twin.name] = emulator
            try:
                control = await asyncio.start_server(
                    self._accept, self.host, port, limit=_LINE_LIMIT
                )
            except OSError as error:
                raise TwinError(
                    f"cannot bind the control port {self.host}:{port} ({error.strerror}); leave"
                    " the port out to take a free one"
                ) from error
            for twin in self.twins:
                announce(
                    {
                        "instrument": twin.name,
                        "driver": twin.driver,
                        "address": self.addresses[twin.name],
                    }
                )
            bound = control.sockets[0].getsockname()
            announce({"control": f"{bound[0]}:{bound[1]}", **self._about()})
            blocks = asyncio.create_task(self._paced() if self.factor else self._stepped())
            stop = asyncio.create_task(self.stopping.wait())
            try:
                await asyncio.wait({blocks, stop}, return_when=asyncio.FIRST_COMPLETED)
                if blocks.done():
                    blocks.result()
            finally:
                await _cancel(blocks, stop)
        finally:
            if control is not None:
                control.close()
            await _cancel(*self.conversations)
            for emulator in self.emulators.values():
                await emulator.close()
            self._save()

    def _save(self) -> None:
        if self.state is not None and self.whole:
            self.world.save(self.state)
            self.saved = time.monotonic()

    def _about(self) -> dict[str, object]:
        return {
            "mode": "paced" if self.factor else "stepped",
            "factor": self.factor or 0.0,
            "seed": self.world.seed,
            "block_ps": BLOCK_PS,
            "now_ps": self.world.now_ps,
            "lag_s": self.lag_s,
        }

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve_client(reader, writer))
        self.conversations.add(task)
        task.add_done_callback(self.conversations.discard)

    async def _serve_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        client = _Client(writer)
        self.clients.append(client)
        try:
            while line := await reader.readline():
                self._answer(client, line)
        except (ConnectionError, ValueError):
            pass  # a line too long, or gone: the grant is dropped below like any closed client's
        finally:
            self.clients.remove(client)
            writer.close()
            self.wake.set()

    def _answer(self, client: _Client, line: bytes) -> None:
        try:
            message = json.loads(line)
            op = message["op"]
            if op == "hello":
                client.send({"event": "hello", "twins": self.addresses, **self._about()})
            elif op == "grant":
                if self.factor:
                    raise ValueError("this world is paced by the wall clock and takes no grants")
                until = message["until_ps"]
                if not isinstance(until, int) or not 0 <= until < 1 << 62:
                    raise ValueError(f"until_ps must be an integer in [0, 2^62), not {until!r}")
                client.granted_ps = -(-until // BLOCK_PS) * BLOCK_PS
                client.told_ps = -1
                self.wake.set()
            elif op == "release":
                client.granted_ps = None
                self.wake.set()
            else:
                raise ValueError(f"unknown op {op!r}; use hello, grant or release")
        except (ValueError, KeyError, TypeError) as error:
            client.send({"event": "error", "message": f"{type(error).__name__}: {error}"})

    async def _stepped(self) -> None:
        while True:
            self.wake.clear()
            self._tell()
            grants = [c.granted_ps for c in self.clients if c.granted_ps is not None]
            if grants and min(grants) > self.world.now_ps:
                await self._block()
            else:
                await self.wake.wait()

    def _tell(self) -> None:
        now = self.world.now_ps
        for client in self.clients:
            granted = client.granted_ps
            if granted is not None and now >= granted and client.told_ps < granted:
                client.told_ps = granted
                client.send({"event": "reached", "now_ps": now})

    async def _paced(self) -> None:
        assert self.factor is not None
        start = time.monotonic()
        while True:
            due = start + (self.world.now_ps + BLOCK_PS) * 1e-12 / self.factor
            ahead = due - time.monotonic()
            if ahead < -1.0:
                start -= ahead  # too slow for the wall clock: let world time slip, do not race
                self.lag_s -= ahead
            await asyncio.sleep(max(0.0, ahead))
            await self._block()

    async def _switch(self, begin_ps: int) -> None:
        """Take twins without power off the net; bring back those that have it again."""
        dark = self.world.unpowered(begin_ps)
        for twin in self.twins:
            if twin.element in dark and twin.name in self.emulators:
                await self.emulators.pop(twin.name).close()
            elif twin.element not in dark and twin.name not in self.emulators:
                settings = {**twin.settings, **_ports(self.addresses[twin.name])}
                again = dataclasses.replace(twin, settings=settings)
                emulator = _make(again, self.world, self.host, lossless=self.factor is None)
                await emulator.open()
                self.emulators[twin.name] = emulator
                self.emulators = dict(sorted(self.emulators.items()))

    async def _block(self) -> None:
        begin, end = self.world.now_ps, self.world.now_ps + BLOCK_PS
        await self._switch(begin)
        for emulator in self.emulators.values():
            emulator.begin_block(begin, end)
        self.whole = False
        self.world.run_block()
        self.whole = True
        if time.monotonic() - self.saved > _SAVED_EVERY_S:
            self._save()
        deliveries = {}
        for name, emulator in self.emulators.items():
            waits = emulator.end_block(begin, end)
            if waits is not None:
                deliveries[asyncio.create_task(waits)] = name
        if not deliveries:
            await asyncio.sleep(0)  # let the sockets have their turn
            return
        try:
            while True:
                done, pending = await asyncio.wait(deliveries, timeout=_HELD_AFTER_S)
                for task in done:
                    task.result()
                if not pending:
                    return
                held = sorted(deliveries[task] for task in pending)
                for client in self.clients:
                    client.send({"event": "held", "by": held, "now_ps": begin})
        finally:
            for task in deliveries:
                task.cancel()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _make(twin: TwinSpec, world: World, host: str, *, lossless: bool) -> Emulator:
    emulator_type: Any = load_emulator(twin.driver)
    element = world.elements.get(twin.element)
    if not isinstance(element, emulator_type.ELEMENT):
        raise ConfigError(
            f"twin {twin.name!r} ({twin.driver}) needs a"
            f" {emulator_type.ELEMENT.__name__} in the world, but {twin.element!r} is"
            f" {'missing' if element is None else type(element).__name__}"
        )
    settings = emulator_type.Settings.model_validate(dict(twin.settings), context={"file": True})
    setting = Setting(
        name=twin.name, host=host, lossless=lossless, seed=_twin_seed(world.seed, twin.name)
    )
    emulator: Emulator = emulator_type(setting, element, settings)
    return emulator


def _ports(address: str) -> dict[str, int]:
    """Which settings bind the ports of an address again."""
    first = re.search(r":(\d+)(?=::SOCKET|[/?]|$)", address)
    assert first is not None
    others = re.findall(r"[?&](\w+)=(?:[^&]*:)?(\d+)(?=&|$)", address)
    return {"port": int(first[1]), **{f"{key}_port": int(port) for key, port in others}}


def _twin_seed(seed: int, name: str) -> int:
    """Derive the seed of one twin's own noise from the world's."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())


def serve(
    model: WorldModel,
    twins: list[TwinSpec],
    *,
    seed: int,
    announce: Callable[[dict[str, object]], None],
    factor: float | None = None,
    host: str = "127.0.0.1",
    control_port: int = 0,
    state: Path | None = None,
    until_stdin_closes: bool = False,
) -> None:
    """Serve a world and its twins until interrupted.

    Args:
        model: The layout.
        twins: What to serve.
        seed: Seed of the world.
        announce: Called with one dictionary per twin (``instrument``, ``driver``, ``address``),
            then one for the control port (``control``, ``mode``, ``seed``, ...).
        factor: World seconds per wall second; None for stepped time.
        host: Interface to bind.
        control_port: Port of the control socket; 0 lets the system choose.
        state: Where the world's state is kept: it goes on from there if the file exists, and
            writes it every minute and at the end.
        until_stdin_closes: End when standard input does: a parent that dies takes its world along.

    Raises:
        ConfigError: where a twin and the world do not fit.
        TwinError: where a port cannot be bound.
    """
    if factor is not None and not factor > 0:
        raise ConfigError(f"the pace must be above 0, not {factor}")

    world = World(model, seed)
    if state is not None and state.exists():
        world.resume(state)
    if state is not None:
        world.save(state)  # now, not after a day: whether the file can be written at all
    server = _Server(world, twins, host=host, factor=factor, state=state)
    # zmq needs a loop with add_reader, which Windows' default loop lacks.
    make_loop = asyncio.SelectorEventLoop if sys.platform == "win32" else None
    with asyncio.Runner(loop_factory=make_loop) as runner:
        loop = runner.get_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(server.stopping.set)

        if until_stdin_closes:
            _call_at_end_of_stdin(stop)
        with _before_sigterm(stop):
            runner.run(server.run(announce, port=control_port))


@contextlib.contextmanager
def _before_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM only call ``stop``; what it did before, it does at the end of the block."""
    ignored = signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        stop()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if caught:
        signal.raise_signal(signal.SIGTERM)


def _call_at_end_of_stdin(stop: Callable[[], None]) -> None:
    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            stop()

    threading.Thread(target=wait, name="stdin-watch", daemon=True).start()
