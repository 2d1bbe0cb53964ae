"""Twin of the OZ Optics EPC-DRIVER-04, drive of four piezo squeezers (serial ASCII).

Source: QMI's driver and its tests. Not known from a real unit, and chosen here (unverified): a
refused command is answered by ``Error!`` alone; commands are upper case; scrambling swings over
the whole range; frequency 0 stands at the DC voltage; an empty line is not answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...instruments import ConfigError, Unit
from ..elements import Squeezers
from .base import Setting
from .wire import DeviceSettings, Link, SerialEmulator, Splitter

__all__ = ["EPC04Emulator"]

Volts = Annotated[float, Field(ge=-5, le=5), Unit("V")]

_CHANNELS = 4
_LARGEST_MV = 5000
_LARGEST_HZ = 100
_SAMPLES = 16  # of a swing, in a block
_COMMAND = re.compile(r"([A-Z]+)(\?|[0-9]?)(?:,([+-]?[0-9]{1,6}))?")


class _RefusedError(Exception):
    """Answered by ``Error!``."""


class EPC04Emulator(SerialEmulator):
    """The drive of up to four squeezers; voltages beyond those drive nothing."""

    ELEMENT: ClassVar[type[Squeezers]] = Squeezers
    MODEL: ClassVar[str] = "EPC-DRIVER-04"

    class Settings(DeviceSettings):
        """What its flash held when it was switched on."""

        start: tuple[Volts, Volts, Volts, Volts] = (0.0, 0.0, 0.0, 0.0)
        """Voltage of each channel, V."""

    def __init__(self, setting: Setting, element: Squeezers, settings: Settings) -> None:
        if len(element.volts) > _CHANNELS:
            raise ConfigError(
                f"twin {setting.name!r}: an EPC-DRIVER-04 drives four squeezers, the element has"
                f" {len(element.volts)} axes"
            )
        super().__init__(setting, settings)
        self._squeezers = element
        self._settings = settings
        self._millivolts = [0] * _CHANNELS
        self._frequencies = [7, 17, 37, 71]
        self._swinging = False
        self._triangle = False
        self._mixed = False  # channels of _held stand in AC mode
        self._held = [False] * _CHANNELS
        #: Voltages set since the last block, in their order: a piezo remembers its way.
        self._way: list[tuple[int, int]] = []
        for i, volts in enumerate(settings.start):
            self._set_voltage(i, round(1000 * volts))

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Drive the squeezers through the voltages set, or swing them."""
        count = len(self._squeezers.volts)
        for i, millivolts in self._way:
            if i < count:
                self._squeezers.drive(i, millivolts / 1000)
        self._way.clear()
        self._squeezers.sweep(self._swing(begin_ps, end_ps, count) if self._swinging else None)

    def _swing(self, begin_ps: int, end_ps: int, count: int) -> npt.NDArray[np.float64]:
        """Voltages at evenly spaced times of a block, shape (times, squeezers)."""
        times = (begin_ps + (end_ps - begin_ps) * (np.arange(_SAMPLES) + 0.5) / _SAMPLES) * 1e-12
        volts = np.empty((_SAMPLES, count))
        for i in range(count):
            if self._frequencies[i] == 0 or (self._mixed and self._held[i]):
                volts[:, i] = self._millivolts[i] / 1000
                continue
            swing = np.sin(2 * np.pi * self._frequencies[i] * times)
            if self._triangle:
                swing = np.arcsin(swing) * 2 / np.pi
            volts[:, i] = _LARGEST_MV / 1000 * swing
        return volts

    async def _serve(self, link: Link) -> None:
        splitter = Splitter(b"\r\n")
        while data := await link.read():
            for line in splitter.feed(data):
                if line:
                    await link.send(self._reply(line))

    def _reply(self, line: bytes) -> bytes:
        try:
            content = self._run(line.decode("ascii", errors="replace"))
        except _RefusedError:
            return b"Error!\r\n"
        return content.encode() + b"\r\nDone\r\n"

    def _run(self, line: str) -> str:
        found = _COMMAND.fullmatch(line)
        if found is None:
            raise _RefusedError
        name, key, number = found.groups()
        if number is not None:
            return self._set_number(name, _channel(key), int(number))
        if key == "?":
            return self._query(name)
        if key == "":
            return self._act(name)
        return self._choose(name, key)

    def _query(self, name: str) -> str:
        queries: dict[str, Callable[[], str]] = {
            "V": lambda: "Voltage(mV): " + _row(f"{mv:+d}" for mv in self._millivolts),
            "F": lambda: (
                "Frequency(Hz): "
                + "  ".join(f"CH{i} {hz:03d}" for i, hz in enumerate(self._frequencies, start=1))
            ),
            "M": lambda: f"Work Mode: {f'AC({self._form})' if self._swinging else 'DC'}",
            "WF": lambda: f"AC Waveform: {self._form}",
            "VF": self._outputs,
        }
        if name not in queries:
            raise _RefusedError
        return queries[name]()

    @property
    def _form(self) -> str:
        return "Triangle" if self._triangle else "Sine"

    def _outputs(self) -> str:
        state = "enabled" if self._mixed else "disabled"
        kinds = ",".join(f"CH{i}-{'V' if h else 'F'}" for i, h in enumerate(self._held, start=1))
        return f"Hz<->Volt at AC Mode is {state}: {kinds}"

    def _act(self, name: str) -> str:
        if name in ("MAC", "MDC"):
            self._swinging = name == "MAC"
            return f"Set To {name[1:]} Mode"
        if name == "SAVE":
            return "Write Setting to Flash memory"
        raise _RefusedError

    def _choose(self, name: str, key: str) -> str:
        if name in ("VH", "VL", "VZ"):
            largest = {"VH": _LARGEST_MV, "VL": -_LARGEST_MV, "VZ": 0}[name]
            return self._set_number("V", _channel(key), largest)
        if name == "WF" and key in ("1", "2"):
            self._triangle = key == "2"
            return f"Set AC Waveform at: {self._form}"
        if name == "ENVF" and key in ("0", "1"):
            self._mixed = key == "1"
            return f"{'Enable' if self._mixed else 'Disable'} DC Voltage Output at AC Mode"
        if name == "VF":
            i = _channel(key)
            self._held[i] = not self._held[i]
            return f"Set CH{i + 1} output to: {'Volt' if self._held[i] else 'Hz'} (if possible)"
        raise _RefusedError

    def _set_number(self, name: str, i: int, number: int) -> str:
        if name == "V" and abs(number) <= _LARGEST_MV:
            self._set_voltage(i, number)
            return f"Set CH{i + 1} DC Voltage at: {number}mV"
        if name == "F" and 0 <= number <= _LARGEST_HZ:
            self._frequencies[i] = number
            return f"Set CH{i + 1} AC Frequency at: {number}Hz"
        raise _RefusedError

    def _set_voltage(self, i: int, millivolts: int) -> None:
        self._millivolts[i] = millivolts
        self._way.append((i, millivolts))


def _channel(key: str) -> int:
    if key not in ("1", "2", "3", "4"):
        raise _RefusedError
    return int(key) - 1


def _row(values: Iterable[str]) -> str:
    return " ".join(f"CH{i} {value}" for i, value in enumerate(values, start=1))
