"""Twin of the Thorlabs TC200 heater controller (serial ASCII with echo and prompt).

Sources: the QMI and InstrumentKit drivers and their tests. The oven it heats is a first-order
system that settles by itself, so the PID gains, the power limit and ``tune`` are registers only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from ..elements import Oven
from .base import Setting
from .wire import DeviceSettings, Link, SerialEmulator, Splitter

__all__ = ["TC200Emulator"]

_UNITS = {"k": ("K", "Kelvin", 0x00), "c": ("C", "Celsius", 0x10), "f": ("F", "Fahrenheit", 0x20)}
_SENSORS = {"th10k": 0x00, "ptc100": 0x04, "ptc1000": 0x08}
#: Numeric registers: default, lowest, highest.
_NUMBERS: dict[str, tuple[float, float, float]] = {
    "tmax": (200.0, 20.0, 205.0),
    "pmax": (18.0, 0.1, 18.0),
    "pgain": (126, 1, 250),
    "igain": (20, 0, 250),
    "dgain": (0, 0, 250),
    "beta": (3988, 2000, 6000),
}
_WHOLE = ("pgain", "igain", "dgain", "beta")
_LOW_C, _HIGH_C = 20.0, 200.0


class _RefusedError(Exception):
    """The text after ``Command error``."""


_UNKNOWN = "CMD_NOT_DEFINED"
_RANGE = "CMD_ARG_RANGE_ERR"


class TC200Emulator(SerialEmulator):
    """A TC200 that heats one crystal oven."""

    ELEMENT: ClassVar[type[Oven]] = Oven
    MODEL: ClassVar[str] = "TC200"

    class Settings(DeviceSettings):
        """Firmware variant and what the box remembers from the last use."""

        firmware: str = "2.0"
        reading: Literal["30.0 Celsius", "30 Celsius", "30.0 C", "30 C"] = "30.0 Celsius"
        """How this firmware writes a temperature of 30 degC."""
        spurious_mode_error: bool = False
        """Answer ``mode=normal`` with a range error although it worked, as some units do."""

    def __init__(self, setting: Setting, element: Oven, settings: Settings) -> None:
        super().__init__(setting, settings)
        self._oven = element
        self._settings = settings
        self._enabled = False
        self._cycle = False
        self._unit = "c"
        self._sensor = "ptc100"
        self._setpoint_c = _LOW_C
        self._numbers = {name: default for name, (default, _, _) in _NUMBERS.items()}

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn the oven's knobs."""
        self._oven.setpoint_c = self._setpoint_c
        self._oven.heating = self._enabled

    async def _serve(self, link: Link) -> None:
        splitter = Splitter(b"\r")
        while data := await link.read():
            for line in splitter.feed(data):
                await link.send(self._reply(line.replace(b"\n", b"")))

    def _reply(self, line: bytes) -> bytes:
        if line.strip() == b"stat?":
            return line + f"\r{self._status():02X} > ".encode()
        try:
            answer = self._run(line.decode("ascii").strip())
        except UnicodeDecodeError:
            answer = f"Command error {_UNKNOWN}"
        except _RefusedError as error:
            answer = f"Command error {error}"
        return line + b"\r" + (f"{answer}\r" if answer else "").encode() + b"> "

    def _status(self) -> int:
        return self._enabled | self._cycle << 1 | _SENSORS[self._sensor] | _UNITS[self._unit][2]

    def _run(self, command: str) -> str:
        if command.endswith("?"):
            return self._query(command[:-1])
        name, equals, argument = command.partition("=")
        if equals:
            self._set(name.strip(), argument.strip())
        elif command == "ens":
            self._enabled = not self._enabled
        elif command not in ("", "tune"):
            raise _RefusedError(_UNKNOWN)
        return ""

    def _query(self, name: str) -> str:
        if name in ("id", "*idn"):
            return f"THORLABS TC200 VERSION {self._settings.firmware}"
        if name == "tact":
            return self._temperature(self._oven.temperature_c)
        if name == "tset":
            return self._temperature(self._setpoint_c)
        if name == "tmax":
            return self._temperature(self._numbers["tmax"])
        if name == "pid":
            return " ".join(self._number(gain) for gain in ("pgain", "igain", "dgain"))
        if name in _NUMBERS:
            return self._number(name)
        if name == "sns":
            return self._sensor
        if name == "mode":
            return "cycle" if self._cycle else "normal"
        if name == "unit":
            return self._unit
        if name == "config":
            shown = ("mode", "unit", "sns", "tset", "tmax", "pmax", "pid")
            return "\r".join(f"{key} = {self._query(key)}" for key in shown)
        raise _RefusedError(_UNKNOWN)

    def _set(self, name: str, argument: str) -> None:
        if name == "tset":
            highest = min(_HIGH_C, self._numbers["tmax"])
            self._setpoint_c = round(_number(argument, _LOW_C, highest), 1)
        elif name in _NUMBERS:
            _, low, high = _NUMBERS[name]
            value = _number(argument, low, high)
            self._numbers[name] = round(value) if name in _WHOLE else round(value, 1)
        elif name == "unit" and argument in _UNITS:
            self._unit = argument
        elif name == "sns" and argument in _SENSORS:
            self._sensor = argument
        elif name == "mode" and argument in ("normal", "cycle"):
            self._cycle = argument == "cycle"
            if not self._cycle and self._settings.spurious_mode_error:
                raise _RefusedError(_RANGE)
        else:
            raise _RefusedError(_RANGE if name in ("unit", "sns", "mode") else _UNKNOWN)

    def _number(self, name: str) -> str:
        value = self._numbers[name]
        return f"{value:.0f}" if name in _WHOLE else f"{value:.1f}"

    def _temperature(self, celsius: float) -> str:
        value = {"k": celsius + 273.15, "c": celsius, "f": celsius * 1.8 + 32.0}[self._unit]
        number, _, word = self._settings.reading.partition(" ")
        short, long, _ = _UNITS[self._unit]
        return f"{value:.{1 if '.' in number else 0}f} {short if word == 'C' else long}"


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text) if len(text) <= 32 else low - 1.0
    except ValueError:
        value = low - 1.0
    if not low <= value <= high:
        raise _RefusedError(_RANGE)
    return value
