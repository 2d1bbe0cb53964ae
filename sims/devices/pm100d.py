"""Twin of the Thorlabs PM100D power meter with a photodiode head (SCPI on a raw TCP socket).

Sources: the QMI and pymeasure drivers, Thorlabs' command documentation. Not known from a real
unit, and chosen here (unverified): a power above a range held by hand reads 9.9E37, SCPI-99's
infinity, and the logarithm of none 9.91E37, its not-a-number; zeroing takes what is on the head
for darkness, at once; the ranges are decades below the head's highest; ``*RST`` also restores the
wavelength. Configurations other than power, and ``INITiate`` with ``FETCh?``, are not served.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ...instruments import Unit
from ..elements import PowerMeterHead
from .base import Setting
from .scpi import (
    Bounds,
    Command,
    Interpreter,
    choice,
    flag,
    numeric,
    query,
    scientific,
    serve,
)
from .wire import DeviceSettings, Link, Port, chaos_generator, reachable

__all__ = ["PM100DEmulator"]

_RANGES = 7
_HIGHEST_COUNT = 10_000
_INFINITY = 9.9e37
_NOT_A_NUMBER = 9.91e37
#: Type 1 photodiode; flags 1 power and 32 settable wavelength.
_SENSOR = "1,18,33"


@dataclass
class _Registers:
    wavelength_m: float
    range_w: float
    automatic: bool = True
    averages: int = 1
    unit: str = "W"
    zero_w: float = 0.0


class PM100DEmulator:
    """A PM100D that reads one head."""

    ELEMENT: ClassVar[type[PowerMeterHead]] = PowerMeterHead
    MODEL: ClassVar[str] = "PM100D"

    class Settings(DeviceSettings):
        """Identity of the console and its head."""

        serial_number: str = "P0000001"
        firmware: str = "2.4.0"
        head: str = "S120VC"
        head_serial_number: str = "00000001"
        head_calibration: str = "01-Jan-2026"
        shortest_wavelength: Annotated[float, Unit("m"), Field(gt=0)] = 200e-9
        longest_wavelength: Annotated[float, Unit("m"), Field(gt=0)] = 1100e-9
        highest_power: Annotated[float, Unit("W"), Field(gt=0)] = 50e-3
        """Upper end of the head's highest range."""

    def __init__(self, setting: Setting, element: PowerMeterHead, settings: Settings) -> None:
        self._setting = setting
        self._head = element
        self._settings = settings
        self._noise = random.Random(f"{setting.seed}/{setting.name}/noise")
        # Rounded, so that who asks for 500 uW gets that range and not the next.
        self._ranges_w = [
            float(f"{settings.highest_power * 10.0**-n:.9e}") for n in reversed(range(_RANGES))
        ]
        self._default_wavelength_m = element.wavelength_m
        self._reset()
        self._interpreter = Interpreter(
            self._commands(),
            f"Thorlabs,{self.MODEL},{settings.serial_number},{settings.firmware}",
            self._reset,
        )
        self._port = Port(setting, self._serve, chaos=chaos_generator(setting, settings.chaos))

    async def open(self) -> str:
        """Bind the port; return the VISA resource."""
        port = await self._port.open(self._settings.port)
        return f"TCPIP::{reachable(self._setting.host)}::{port}::SOCKET"

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn the head's knob."""
        self._head.wavelength_m = self._registers.wavelength_m

    def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Nothing is pushed."""

    async def close(self) -> None:
        """Close every connection and the port."""
        await self._port.close()

    async def _serve(self, link: Link) -> None:
        await serve(link, self._interpreter)

    def _reset(self) -> None:
        self._registers = _Registers(self._default_wavelength_m, self._settings.highest_power)

    def _commands(self) -> list[Command]:
        settings = self._settings

        def put(name: str, value: object) -> None:
            setattr(self._registers, name, value)

        def wavelength_bounds_nm() -> Bounds:
            return (
                _nm(settings.shortest_wavelength),
                _nm(settings.longest_wavelength),
                _nm(self._default_wavelength_m),
            )

        def range_bounds() -> Bounds:
            return self._ranges_w[0], self._ranges_w[-1], self._ranges_w[-1]

        sensor = f"{settings.head},{settings.head_serial_number},{settings.head_calibration}"
        power_range = "[SENSe[1]:]POWer[:DC]:RANGe"
        zero = "[SENSe[1]:]CORRection:COLLect:ZERO"
        return [
            query("SYSTem:SENSor:IDN?", lambda: f"{sensor},{_SENSOR}"),
            *numeric(
                "[SENSe[1]:]CORRection:WAVelength",
                lambda: _nm(self._registers.wavelength_m),
                lambda value: put("wavelength_m", value * 1e-9),
                wavelength_bounds_nm,
                ("NM",),
            ),
            *numeric(
                "[SENSe[1]:]AVERage[:COUNt]",
                lambda: self._registers.averages,
                lambda value: put("averages", round(value)),
                lambda: (1, _HIGHEST_COUNT, 1),
                show=lambda value: f"{value:.0f}",
            ),
            *flag(f"{power_range}:AUTO", lambda: self._registers.automatic, self._set_automatic),
            *numeric(
                f"{power_range}[:UPPer]", self._range_w, self._set_range, range_bounds, ("W",)
            ),
            *choice(
                "[SENSe[1]:]POWer[:DC]:UNIT",
                ("W", "DBM"),
                lambda: self._registers.unit,
                lambda word: put("unit", word),
            ),
            Command(f"{zero}[:INITiate]", lambda _numbers, _parameters: self._zero()),
            Command(f"{zero}:ABORt", lambda _numbers, _parameters: None),
            query(f"{zero}:STATe?", lambda: "0"),
            query(f"{zero}:MAGNitude?", lambda: scientific(self._registers.zero_w)),
            Command("CONFigure[:SCALar][:POWer]", lambda _numbers, _parameters: None),
            query("CONFigure?", lambda: "POW"),
            query("MEASure[:SCALar][:POWer]?", self._read),
            query("READ?", self._read),
        ]

    def _range_w(self) -> float:
        """Upper end of the range in use."""
        if self._registers.automatic:
            return self._fitting(self._head.power_w)
        return self._registers.range_w

    def _fitting(self, power_w: float) -> float:
        fitting = (upper for upper in self._ranges_w if upper >= power_w)
        return next(fitting, self._ranges_w[-1])

    def _set_range(self, value: float) -> None:
        self._registers.range_w = self._fitting(value)
        self._registers.automatic = False

    def _set_automatic(self, on: bool) -> None:
        self._registers.range_w = self._range_w()
        self._registers.automatic = on

    def _zero(self) -> None:
        self._registers.zero_w = self._head.power_w

    def _read(self) -> str:
        """One reading: the mean of the averages, in the unit set."""
        now, power_w = self._registers, self._head.power_w
        spread = self._head.model.noise / math.sqrt(now.averages)
        if power_w > self._range_w():
            return scientific(_INFINITY)
        reading_w = power_w * self._noise.gauss(1.0, spread) - now.zero_w
        if now.unit == "W":
            return scientific(reading_w)
        return scientific(10 * math.log10(reading_w / 1e-3) if reading_w > 0 else _NOT_A_NUMBER)


def _nm(metres: float) -> float:
    return round(metres * 1e9, 6)
