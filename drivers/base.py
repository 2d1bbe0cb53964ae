"""What every driver shares: its place on the bench, its settings' rules, waiting on the clock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from ..instruments import BellbenchError, Clock, ConfigError, Deadline, Instrument, Unit
from .signal import ReadOnlySignal
from .transports import Endpoint
from .transports.recording import SCHEME, Recorder, ReplayClock
from .transports.serial_port import SerialPort

__all__ = [
    "Driver",
    "DriverSettings",
    "SerialDriver",
    "attempt_all",
    "check_parts",
    "closed_on_error",
    "wait_until",
]


class DriverSettings(BaseModel):
    """Settings of a driver. None leaves the instrument as it is.

    Attributes:
        timeout: Longest wait for an answer, in wall time, s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    timeout: Annotated[float, Field(gt=0, le=600), Unit("s")] = 3.0


class Driver:
    """One instrument: construction assigns, :meth:`open` connects."""

    MODEL: ClassVar[str]
    Settings: ClassVar[type[DriverSettings]]

    def __init__(self, name: str, address: str, clock: Clock) -> None:
        self._endpoint = Endpoint(name, self.MODEL, address)
        self._clock = clock
        if address.startswith(SCHEME):
            time = clock if isinstance(clock, ReplayClock) else ReplayClock()
            player = time.player(address, self._endpoint)
            self._endpoint.player = player
            self._endpoint.address = player.recorded_address

    @property
    def name(self) -> str:
        """Name on the bench."""
        return self._endpoint.name

    @property
    def address(self) -> str:
        """Address it is opened at."""
        return self._endpoint.place

    def record(self, recorder: Recorder) -> None:
        """Have everything written down that is carried from now on."""
        self._endpoint.recorder = recorder

    @property
    def signals(self) -> Sequence[ReadOnlySignal[object]]:
        """Every signal of the instrument."""
        raise NotImplementedError

    def open(self) -> None:
        """Connect; reset nothing. Opening an open instrument does nothing."""
        raise NotImplementedError

    def close(self) -> None:
        """Disconnect, leaving the instrument as it is. Closing twice does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._endpoint.device} at {self.address}>"


class _Closable(Protocol):
    def close(self) -> None: ...


@contextlib.contextmanager
def closed_on_error(*links: _Closable) -> Iterator[None]:
    """Close links that have just been opened, if what is said first on them fails."""
    try:
        yield
    except BaseException:
        for link in links:
            link.close()
        raise


class SerialDriver(Driver):
    """An instrument on a serial port; :meth:`_greet` is what is said first on it."""

    def __init__(
        self,
        name: str,
        address: str,
        settings: DriverSettings,
        clock: Clock,
        *,
        baudrate: int = 115200,
        rtscts: bool = False,
    ) -> None:
        super().__init__(name, address, clock)
        self._port = SerialPort(self._endpoint, settings.timeout, baudrate=baudrate, rtscts=rtscts)
        self._stale = False

    def open(self) -> None:
        """Open the port and see who answers; the instrument stays as it is."""
        with self._port.lock:
            if self._port.is_open:
                return
            self._port.open()
            with closed_on_error(self._port):
                self._greet()

    def close(self) -> None:
        """Close the port, leaving the instrument as it is."""
        self._port.close()

    def _greet(self) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def _answer_to(self, sent: bytes) -> Iterator[None]:
        """Send bytes and hold the port while their answer is read.

        Where reading fails or is interrupted (Ctrl-C), the rest of that answer is thrown away
        before the next bytes are sent.
        """
        with self._port.lock:
            if self._stale:
                self._port.discard()
            self._stale = True  # until the answer is complete
            self._port.write(sent)
            yield
            self._stale = False

    def _line(self, command: str) -> str:
        """A line of an answer, without its CR LF."""
        raw = self._port.read_until(b"\r\n", command=command)
        return raw.decode("ascii", errors="replace").strip()


def wait_until(
    clock: Clock, condition: Callable[[], bool], *, timeout_s: float, poll_s: float
) -> bool:
    """Return whether ``condition`` held within ``timeout_s`` of bench time."""
    deadline = Deadline(clock, timeout_s)
    while not condition():
        if deadline.passed:
            return False
        clock.sleep(poll_s)
    return True


def attempt_all(endpoint: Endpoint, doing: str, *steps: Callable[[], object]) -> None:
    """Run every step although some fail; then raise one error that names all failures."""
    failures: list[BellbenchError] = []
    for step in steps:
        try:
            step()
        except BellbenchError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        words = " | ".join(str(failure) for failure in failures)
        raise endpoint.error(f"{doing} failed in {len(failures)} steps: {words}") from failures[0]


def check_parts(
    name: str, what: str, needs: Mapping[str, type[Any]], parts: Mapping[str, Instrument]
) -> None:
    """Check the parts that a composite was given.

    Args:
        name: The composite's name on the bench.
        what: What it is, with its article.
        needs: Its parts -> what they must provide.
        parts: What it was given.

    Raises:
        ConfigError: where a part is missing, unknown, or lacks something.
    """
    for role, kind in needs.items():
        if role not in parts:
            words = f"the parts {' and '.join(needs)}" if len(needs) > 1 else f"a part {role!r}"
            raise ConfigError(f"{name}: {what} needs {words}; {role} is missing")
        if not isinstance(parts[role], kind):
            wanted = [n for n in dir(kind) if not n.startswith("_") and not hasattr(parts[role], n)]
            raise ConfigError(
                f"{name}: {parts[role].name} cannot be the {role}: it has no {', '.join(wanted)}"
            )
    if unknown := sorted(set(parts) - set(needs)):
        raise ConfigError(f"{name}: {what} has no part {unknown[0]!r}, only {' and '.join(needs)}")
