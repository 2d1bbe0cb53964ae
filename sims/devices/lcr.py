"""Twin of the S-Fifteen LCR, drive of four liquid-crystal retarders (serial ASCII).

Source: pyS15, the vendor's library. Not known from a real unit, and chosen here (unverified): a
refused command is answered with a line, as by the TDC1's twin; upper and lower case are the same;
``AMP`` stands for ``AMPLITUDE``; amplitudes are kept to 1 mV and read with three decimals; what
frequencies it takes; ``*RST`` switches off and sets every amplitude to 0, as pyS15's mock does.
The frequency and the box's light are registers only.
"""

from __future__ import annotations

from typing import ClassVar

from ...instruments import ConfigError
from ..elements import LiquidCrystals
from .base import Setting
from .wire import DeviceSettings, Link, SerialEmulator, Splitter

__all__ = ["LCREmulator"]

_CHANNELS = 4
_BELOW_V = 10.0
_FREQUENCIES = (1, 20_000)
_UNKNOWN = "unknown command"
_RANGE = "argument out of range"
_HELP = "*IDN? *RST HELP\r\nON OFF DARK FREQ <Hz>\r\nAMPLITUDE <ch> <V> AMP? <ch>"


class _RefusedError(Exception):
    """The line that answers a refused command."""


class LCREmulator(SerialEmulator):
    """The drive of up to four cells; outputs beyond those drive nothing."""

    ELEMENT: ClassVar[type[LiquidCrystals]] = LiquidCrystals
    MODEL: ClassVar[str] = "LCD cell driver"

    class Settings(DeviceSettings):
        """Identity."""

        serial_number: str = "LCR-001"

    def __init__(self, setting: Setting, element: LiquidCrystals, settings: Settings) -> None:
        count = len(element.amplitudes_v)
        if count > _CHANNELS:
            raise ConfigError(
                f"twin {setting.name!r}: an LCR drives four cells, the element has {count} axes"
            )
        super().__init__(setting, settings)
        self._cells = element
        self._settings = settings
        self._millivolts = [0] * _CHANNELS
        self._on = False

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Drive the cells."""
        for i in range(len(self._cells.amplitudes_v)):
            self._cells.amplitudes_v[i] = self._millivolts[i] / 1000
        self._cells.driven = self._on

    async def _serve(self, link: Link) -> None:
        splitter = Splitter(b";\r\n")
        while data := await link.read():
            for line in splitter.feed(data):
                if reply := self._reply(line.decode("latin-1").upper().split()):
                    await link.send(reply.encode("latin-1") + b"\r\n")

    def _reply(self, words: list[str]) -> str:
        try:
            return self._run(*words) if words else ""
        except _RefusedError as error:
            return str(error)

    def _run(self, name: str, *arguments: str) -> str:
        if name == "AMP?" and len(arguments) == 1:
            return f"{self._millivolts[_channel(arguments[0])] / 1000:.3f}"
        if name in ("AMP", "AMPLITUDE") and len(arguments) == 2:
            self._millivolts[_channel(arguments[0])] = _millivolts(arguments[1])
        elif name == "FREQ" and len(arguments) == 1:
            if not (arguments[0].isascii() and arguments[0].isdigit()):
                raise _RefusedError(_RANGE)
            if not _FREQUENCIES[0] <= int(arguments[0][:9]) <= _FREQUENCIES[1]:
                raise _RefusedError(_RANGE)
        elif arguments:
            raise _RefusedError(_UNKNOWN)
        elif name == "*IDN?":
            return f"{self.MODEL} {self._settings.serial_number}"
        elif name == "HELP":
            return _HELP
        elif name in ("ON", "OFF"):
            self._on = name == "ON"
        elif name == "*RST":
            self._on = False
            self._millivolts = [0] * _CHANNELS
        elif name != "DARK":
            raise _RefusedError(_UNKNOWN)
        return ""


def _channel(text: str) -> int:
    if text not in ("1", "2", "3", "4"):
        raise _RefusedError(_RANGE)
    return int(text) - 1


def _millivolts(text: str) -> int:
    try:
        volts = float(text) if len(text) <= 32 else -1.0
    except ValueError:
        volts = -1.0
    if not 0 <= volts < _BELOW_V:
        raise _RefusedError(_RANGE)
    return min(round(1000 * volts), round(1000 * _BELOW_V) - 1)
