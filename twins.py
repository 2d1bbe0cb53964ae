"""The client side of a world: start one in a child process, or join one that is served.

Nothing here knows a device: a world gives each twin's address and the clock to wait on.
"""

from __future__ import annotations

import collections
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .instruments import Clock, TwinError

__all__ = ["PacedClock", "StepClock", "World", "join_world", "start_world"]

_START_TIMEOUT_S = 60.0
_HELD_LIMIT_S = 20.0


class _Control:
    """One connection to a world's control port."""

    def __init__(self, host: str, port: int) -> None:
        self.peer = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=10)
        except OSError as error:
            raise TwinError(
                f"no world answers at {self.peer} ({error});"
                " start one with 'bellbench twin serve BENCH.yaml'"
            ) from error
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines: IO[bytes] = self._socket.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: dict[str, object]) -> None:
        with self._lock:
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise TwinError(f"the world at {self.peer} is gone: {error}") from error

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None when the world is gone."""
        try:
            line = self._lines.readline(1 << 20)
        except (OSError, ValueError):
            return None
        if not line.endswith(b"\n"):
            return None
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            return None
        return message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends a read in another thread
        self._lines.close()
        self._socket.close()


class StepClock:
    """World time that moves only as far as its clients grant; one client of the control port.

    ``sleep`` may be called from several threads: the world then advances to the least that a
    sleeping thread asked for, and threads that do not sleep do not hold it.
    """

    def __init__(
        self, control: _Control, now_ps: int, block_ps: int, why: Callable[[], str] = str
    ) -> None:
        self._control = control
        self._now_ps = now_ps
        self._block_ps = block_ps
        self._changed = threading.Condition()
        self._targets: list[int] = []
        self._held: tuple[list[str], float, float] | None = None  # by whom, since, until
        self._failure = ""
        self._ended = ""
        self._reached = 0  # grants that were
        self._why = why
        control.send({"op": "grant", "until_ps": now_ps})  # from here on the world waits for us
        threading.Thread(target=self._listen, name="step-clock", daemon=True).start()

    @property
    def ended(self) -> str:
        """How the world ended, in words; empty while it lives."""
        return self._ended

    def now(self) -> float:
        """Seconds of world time."""
        return self._now_ps * 1e-12

    def sleep(self, seconds: float) -> None:
        """Grant ``seconds`` (rounded up to whole blocks) and return when they have passed.

        Raises:
            TwinError: where a tag stream that nobody reads holds the world back, or it is gone.
                The world then stays where it is.
        """
        if seconds <= 0:
            return
        with self._changed:
            blocks = -(-round(seconds * 1e12) // self._block_ps)
            target = self._now_ps + blocks * self._block_ps
            self._held = None
            self._targets.append(target)
            try:
                self._grant()
                while self._now_ps < target:
                    self._check()  # before: nobody wakes who begins to wait when all is over
                    self._changed.wait()
            finally:
                self._targets.remove(target)
                if self._targets or self._now_ps < target:
                    with contextlib.suppress(TwinError):  # gone: every sleeper hears of it
                        self._grant()

    def release(self) -> None:
        """Let the world go on without waiting for us, until the next sleep or :meth:`hold`."""
        with self._changed:
            if not self._targets:
                self._control.send({"op": "release"})

    def hold(self) -> None:
        """Let the world stand still where it is, until the next sleep; return when it does.

        Raises:
            TwinError: where the world is gone.
        """
        with self._changed:
            if not self._targets:
                seen = self._reached
                self._grant()
                while self._reached == seen:
                    self._check()
                    self._changed.wait()

    def _grant(self) -> None:
        until = min(self._targets, default=self._now_ps)
        self._control.send({"op": "grant", "until_ps": until})

    def _check(self) -> None:
        if self._failure:
            raise TwinError(self._failure)
        if self._held is not None and self._held[2] - self._held[1] > _HELD_LIMIT_S:
            names = ", ".join(self._held[0])
            raise TwinError(
                f"the world waits for {names}: its stream is full and nobody reads it;"
                " read the tagger while you sleep, or stop it first"
            )

    def _listen(self) -> None:
        while True:
            message = self._control.receive()
            why = self._why() if message is None else ""
            with self._changed:
                if message is None:
                    self._ended = f"the world at {self._control.peer} has ended{why}"
                    self._failure = self._ended
                elif message["event"] == "reached":
                    self._now_ps = max(self._now_ps, message["now_ps"])
                    self._reached += 1
                    self._held = None
                elif message["event"] == "held":
                    self._now_ps = max(self._now_ps, message["now_ps"])
                    by, now = message["by"], time.monotonic()
                    same = self._held is not None and self._held[0] == by
                    since = self._held[1] if self._held is not None and same else now
                    self._held = (by, since, now)
                elif message["event"] == "error":
                    self._failure = f"the world refused: {message['message']}"
                self._changed.notify_all()
                if message is None:
                    return


class PacedClock:
    """World time of a paced world: wall time, times a factor."""

    def __init__(self, now_s: float, factor: float) -> None:
        self._start = time.monotonic()
        self._now_s = now_s
        self._factor = factor

    def now(self) -> float:
        """Seconds of world time, as extrapolated from the moment of joining."""
        return self._now_s + (time.monotonic() - self._start) * self._factor

    def sleep(self, seconds: float) -> None:
        """Sleep ``seconds`` of world time in wall time."""
        time.sleep(max(0.0, seconds) / self._factor)


class World:
    """A joined world: its twins' addresses and its clock. Close it to leave (or end) it."""

    def __init__(self, host: str, port: int, process: _Child | None = None) -> None:
        self._process = process
        self._control = _Control(host, port)
        hello = None
        with contextlib.suppress(TwinError):
            self._control.send({"op": "hello"})
            hello = self._control.receive()
        if not isinstance(hello, dict) or hello.get("event") != "hello":
            self._control.close()
            raise TwinError(f"what answers at {host}:{port} is not a Bellbench world")
        self.addresses: dict[str, str] = hello["twins"]
        self.seed: int = hello["seed"]
        self.stepped: bool = hello["mode"] == "stepped"
        self.clock: Clock = (
            StepClock(self._control, hello["now_ps"], hello["block_ps"], self._last_words)
            if self.stepped
            else PacedClock(hello["now_ps"] * 1e-12, hello["factor"])
        )

    @property
    def ended(self) -> str:
        """How the world ended, in words, where it is known to; no twin answers any more then."""
        if self._process is not None and self._process.ended:
            return f"the world at {self._control.peer} has ended{self._last_words()}"
        return self.clock.ended if isinstance(self.clock, StepClock) else ""

    def _last_words(self) -> str:
        """How a world that has died went, for an error."""
        return "" if self._process is None else self._process.last_words()

    def close(self) -> None:
        """Leave the world; a world started by :func:`start_world` ends."""
        self._control.close()
        if self._process is not None:
            self._process.end()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def join_world(host: str, port: int) -> World:
    """Join a world served elsewhere (``bellbench twin serve``).

    Raises:
        TwinError: where nothing, or something else, answers.
    """
    return World(host, port)


def start_world(
    bench: Path,
    *,
    seed: int | None,
    only: Sequence[str] = (),
    paced: bool = False,
    state: Path | None = None,
) -> World:
    """Start a world for a bench file in a child process and join it.

    Args:
        bench: The bench file.
        seed: Seed of the world; that of its state, or drawn by the child, where None.
        only: Names of the instruments to serve; all of the bench's twins where empty.
        paced: Keep wall time, as real instruments beside the twins do; else step by grants.
        state: Where the world's state is kept from one run to the next.

    Raises:
        TwinError: with what the child said, where it does not come up.
    """
    command = [sys.executable, "-P", "-m", "bellbench", "twin", "serve", str(bench)]
    command += [*([] if paced else ["--stepped"]), "--until-stdin-closes"]
    if seed is not None:
        command += ["--seed", str(seed)]
    for name in only:
        command += ["--only", name]
    if state is not None:
        command += ["--state", str(state)]
    child = _Child(command)
    try:
        return World(*child.wait_for_control(), process=child)
    except BaseException:
        child.end()
        raise


class _Child:
    """The process that owns a world; it ends when its standard input closes."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._said: collections.deque[str] = collections.deque(maxlen=30)
        self._stderr = threading.Thread(target=self._drain, name="world-stderr", daemon=True)
        self._stderr.start()

    def wait_for_control(self) -> tuple[str, int]:
        """Return host and port of the control socket once the child has announced it."""
        killer = threading.Timer(_START_TIMEOUT_S, self._process.kill)
        killer.start()
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                message = json.loads(line)
                if "control" in message:
                    host, _, port = message["control"].rpartition(":")
                    return host, int(port)
        finally:
            killer.cancel()
        self._process.wait()
        said = self.said() or f"nothing; exit code {self._process.returncode}"
        raise TwinError(f"the world did not start. It said:\n{said}")

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """How it ended, and what it said last; empty while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=2)
            how = f" (exit code {code})"
            if code < 0:
                how = f" (killed by signal {-code}{', perhaps for want of memory' * (code == -9)})"
            said = self.said()
            return f"{how}; it said:\n{said}" if said else how
        return ""

    def said(self) -> str:
        """The last lines it wrote to standard error, once it has ended."""
        self._stderr.join(timeout=2)
        return "\n".join(self._said)

    def end(self) -> None:
        """Close the child's input and wait for it to end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.join(timeout=5)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.decode(errors="replace").rstrip())
