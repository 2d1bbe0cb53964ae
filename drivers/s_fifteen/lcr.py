"""S-Fifteen LCR: drive of four liquid-crystal retarders.

Serial, commands end CR LF. Settings are not answered, so the amplitude is read back.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field

from ...instruments import Clock, Deadline, Identity, Limits, Unit
from ..base import DriverSettings, SerialDriver
from ..signal import LimitedSignal, ReadOnlySignal

__all__ = ["LCRSettings", "SFifteenLCR"]

_NAME = "LCD cell driver"
_VOLTS = Limits(0.0, 9.999)  # below 10 V
_CHANNELS = (1, 2, 3, 4)
_GRID_V = 0.02  # an amplitude read back may be off by so much

Volts = Annotated[float, Field(ge=_VOLTS.low, le=_VOLTS.high), Unit("V")]


class LCRSettings(DriverSettings):
    """Settings of an LCR. None leaves the instrument as it is."""

    amplitudes: tuple[Volts, Volts, Volts, Volts] | None = None
    """Amplitude of the drive of each cell, V."""
    driven: bool = False
    """Whether to switch the cells on; false leaves them as they are: it cannot be asked."""
    dark: bool = False
    """Whether to switch the box's light off, which detectors may see."""
    frequency: Annotated[float, Field(ge=1, le=20_000), Unit("Hz")] | None = None
    """Frequency of the drive, whole Hz; the maker's is 2 kHz."""
    settling: Annotated[float, Field(ge=0), Unit("s")] = 0.2
    """How long the cells take to follow, bench time: :meth:`SFifteenLCR.ready` waits for it."""


class SFifteenLCR(SerialDriver):
    """A polarization controller of four liquid-crystal cells.

    Args:
        name: Name on the bench.
        address: Serial port (``COM5``, ``/dev/ttyACM0``) or pyserial URL.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "S-Fifteen LCR"
    Settings: ClassVar[type[LCRSettings]] = LCRSettings

    def __init__(self, name: str, address: str, settings: LCRSettings, clock: Clock) -> None:
        super().__init__(name, address, settings, clock)
        self._settings = settings
        self._settled: Deadline | None = None
        self.actuators: tuple[LimitedSignal, ...] = tuple(
            LimitedSignal(
                f"cell_{n}",
                "V",
                partial(self._amplitude, n),
                partial(self._set_amplitude, n),
                label=f"Amplitude of the drive of cell {n}",
                limits=_VOLTS,
                endpoint=self._endpoint,
            )
            for n in _CHANNELS
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the cells."""
        return self.actuators

    def identify(self) -> Identity:
        """Ask who it is."""
        return Identity("S-Fifteen", self._identity())

    def configure(self) -> None:
        """Write the settings."""
        s = self._settings
        if s.frequency is not None:
            self._tell(f"FREQ {round(s.frequency)}")
        for cell, volts in zip(self.actuators, s.amplitudes or (), strict=False):
            cell.set(volts)
        if s.driven:
            self._tell("ON")
            self._settle()
        if s.dark:
            self._tell("DARK")

    def ready(self) -> bool:
        """Whether the cells have had the time to follow."""
        if not self._port.is_open:
            raise self._endpoint.not_open()
        return self._settled is None or self._settled.passed

    def off(self) -> None:
        """Nothing: without its drive the polarization would be another one."""

    def safe(self) -> None:
        """Nothing: no amplitude within its range harms a cell."""

    def _greet(self) -> None:
        self._settled = None
        self._identity()

    def _settle(self) -> None:
        self._settled = Deadline(self._clock, self._settings.settling)

    def _amplitude(self, channel: int) -> float:
        return self._ask_amplitude("", channel)

    def _set_amplitude(self, channel: int, volts: float) -> None:
        command = f"AMPLITUDE {channel} {volts:.3f}"
        found = self._ask_amplitude(command, channel)
        if abs(found - volts) > _GRID_V:
            raise self._endpoint.error(
                f"cell {channel} stays at {found:g} V", command=command, hint="is it an LCR?"
            )
        self._settle()

    def _tell(self, command: str) -> None:
        """Send a setting; a question behind it brings a refusal to light."""
        self._ask_amplitude(command, 1)

    def _ask_amplitude(self, before: str, channel: int) -> float:
        reply = self._ask(*[before][: bool(before)], f"AMP? {channel}")
        try:
            return float(reply)
        except ValueError as error:
            words = "refused" if before else "a voltage expected"
            raise self._endpoint.error(
                words, command=before or f"AMP? {channel}", reply=reply
            ) from error

    def _identity(self) -> str:
        reply = self._ask("*IDN?")
        if _NAME not in reply:
            raise self._endpoint.error(
                f"its identity holds no {_NAME!r}",
                command="*IDN?",
                reply=reply,
                hint="is this the port of the LCR?",
            )
        return reply

    def _ask(self, *commands: str) -> str:
        """Send commands, of which the last is a question, and return its answer."""
        sent = b"".join(command.encode("ascii") + b"\r\n" for command in commands)
        with self._port.lock:
            with self._answer_to(sent):
                reply = self._line("; ".join(commands))
            # the answer is still to come where this line refuses what was told before
            self._stale = len(commands) > 1 and not _is_number(reply)
            return reply


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
