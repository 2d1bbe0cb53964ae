"""OZ Optics EPC-DRIVER-04: voltages for four piezo squeezers on a fibre.

Serial, 9600 8N1. Every command is answered by a content line and ``Done``, or by ``Error!``.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...instruments import Clock, Identity, Limits, Unit
from ..base import DriverSettings, SerialDriver
from ..signal import LimitedSignal, ReadOnlySignal, Signal, Switch

__all__ = ["EPC04Settings", "OzOpticsEPC04"]

_VOLTS = Limits(-5.0, 5.0)
_HERTZ = Limits(0.0, 100.0)
_CHANNELS = (1, 2, 3, 4)
_VOLTAGE = re.compile(r"Set CH(\d) DC Voltage at: ([+-]?\d+)mV")
_VOLTAGES = re.compile(r"Voltage\(mV\):" + r" +CH\d ([+-]?\d+)" * 4)
_FREQUENCIES = re.compile(r"Frequency\(Hz\):" + r" +CH\d (\d+)" * 4)
_WAVEFORMS = {"sine": "1", "triangle": "2"}

Volts = Annotated[float, Field(ge=_VOLTS.low, le=_VOLTS.high), Unit("V")]
Hertz = Annotated[float, Field(ge=_HERTZ.low, le=_HERTZ.high), Unit("Hz")]
Waveform = Literal["sine", "triangle"]


class EPC04Settings(DriverSettings):
    """Settings of an EPC-DRIVER-04. None leaves the instrument as it is."""

    scrambling: bool | None = None
    """Whether the voltages swing (AC mode) and do not stand (DC mode)."""
    voltages: tuple[Volts, Volts, Volts, Volts] | None = None
    """Control voltage of each squeezer, V, on a grid of 1 mV."""
    frequencies: tuple[Hertz, Hertz, Hertz, Hertz] | None = None
    """Frequency of each squeezer while it scrambles, whole Hz."""
    waveform: Waveform | None = None
    """Form of the swing."""


class OzOpticsEPC04(SerialDriver):
    """A fibre polarization controller with four squeezers.

    A squeezer follows within 50 us, so :meth:`ready` says only whether the voltages stand.

    Args:
        name: Name on the bench.
        address: Serial port (``COM5``, ``/dev/ttyUSB0``) or pyserial URL.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "OZ Optics EPC-DRIVER-04"
    Settings: ClassVar[type[EPC04Settings]] = EPC04Settings

    def __init__(self, name: str, address: str, settings: EPC04Settings, clock: Clock) -> None:
        super().__init__(name, address, settings, clock, baudrate=9600)
        self._settings = settings
        self.actuators: tuple[LimitedSignal, ...] = tuple(
            LimitedSignal(
                f"squeezer_{n}",
                "V",
                partial(self._voltage, n),
                partial(self._set_voltage, n),
                label=f"Control voltage of squeezer {n}",
                limits=_VOLTS,
                endpoint=self._endpoint,
            )
            for n in _CHANNELS
        )
        self.frequencies: tuple[LimitedSignal, ...] = tuple(
            LimitedSignal(
                f"frequency_{n}",
                "Hz",
                partial(self._frequency, n),
                partial(self._set_frequency, n),
                label=f"Frequency of squeezer {n} while it scrambles",
                limits=_HERTZ,
                endpoint=self._endpoint,
            )
            for n in _CHANNELS
        )
        self.scrambling = Switch(
            "scrambling",
            self._is_scrambling,
            lambda on: (
                self._set("MAC", "Set To AC Mode") if on else self._set("MDC", "Set To DC Mode")
            ),
            label="Whether the voltages swing and do not stand",
            endpoint=self._endpoint,
        )
        self.waveform: Signal[str] = Signal(
            "waveform",
            "",
            self._waveform,
            self._set_waveform,
            label="Form of the swing: sine, triangle",
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the squeezers."""
        return (*self.actuators, self.scrambling, *self.frequencies, self.waveform)

    def identify(self) -> Identity:
        """Say what answers: it has no command for that, and tells no serial number."""
        self._voltages()
        return Identity("OZ Optics", "EPC-DRIVER-04")

    def configure(self) -> None:
        """Write the settings, the voltages last."""
        s = self._settings
        if s.waveform is not None:
            self.waveform.set(s.waveform)
        for signal, hertz in zip(self.frequencies, s.frequencies or (), strict=False):
            signal.set(hertz)
        if s.scrambling is not None:
            self.scrambling.set(s.scrambling)
        for signal, volts in zip(self.actuators, s.voltages or (), strict=False):
            signal.set(volts)

    def ready(self) -> bool:
        """Whether the voltages stand: a scrambler never arrives."""
        return not self._is_scrambling()

    def off(self) -> None:
        """Nothing: without its voltages the polarization would be another one."""

    def safe(self) -> None:
        """Nothing: no voltage within its range harms a squeezer."""

    def save(self) -> None:
        """Write voltages, frequencies and mode to its flash, for the next power-up."""
        self._set("SAVE", "Write Setting to Flash memory")

    def _greet(self) -> None:
        self._voltages()

    def _voltage(self, channel: int) -> float:
        return self._voltages()[channel - 1]

    def _voltages(self) -> tuple[float, ...]:
        return tuple(int(mv) / 1000 for mv in self._ask("V?", _VOLTAGES).groups())

    def _set_voltage(self, channel: int, volts: float) -> None:
        millivolts = round(1000 * volts)
        command = f"V{channel},{millivolts}"
        told = self._ask(command, _VOLTAGE)
        if (int(told[1]), int(told[2])) != (channel, millivolts):
            raise self._endpoint.error("it set something else", command=command, reply=told[0])

    def _frequency(self, channel: int) -> float:
        return float(self._ask("F?", _FREQUENCIES)[channel])

    def _set_frequency(self, channel: int, hertz: float) -> None:
        whole = round(hertz)
        self._set(f"F{channel},{whole}", f"Set CH{channel} AC Frequency at: {whole}Hz")

    def _is_scrambling(self) -> bool:
        return self._ask("M?", re.compile(r"Work Mode: (AC|DC).*"))[1] == "AC"

    def _waveform(self) -> str:
        return self._ask("WF?", re.compile(r"AC Waveform: (Sine|Triangle)"))[1].lower()

    def _set_waveform(self, form: str) -> None:
        if form not in _WAVEFORMS:
            raise self._endpoint.error(f"waveform takes {' or '.join(_WAVEFORMS)}, not {form!r}")
        self._set(f"WF{_WAVEFORMS[form]}", f"Set AC Waveform at: {form.capitalize()}")

    def _set(self, command: str, answer: str) -> None:
        self._ask(command, re.compile(re.escape(answer)))

    def _ask(self, command: str, form: re.Pattern[str]) -> re.Match[str]:
        """Send a command and return its content line."""
        with self._answer_to(command.encode("ascii") + b"\r\n"):
            content = self._line(command)
            end = content if content == "Error!" else self._line(command)
            if end != "Done":
                words = "refused" if end == "Error!" else "the answer does not end with Done"
                raise self._endpoint.error(words, command=command, reply=f"{content}; {end}")
        found = form.fullmatch(content)
        if found is None:
            raise self._endpoint.error(
                "this is no answer to it",
                command=command,
                reply=content,
                hint="is this port an EPC-DRIVER-04, at 9600 baud?",
            )
        return found
