"""Twin of the Thorlabs CLD1015 laser diode and TEC controller (SCPI on a raw TCP socket).

Source of the commands: Thorlabs Series 4000 SCPI programmer's reference. Not known from a real
unit, and chosen here: a limit set below the current pulls the current down with it; the laser is
refused (-221) while the TEC is off, the key is locked or the interlock open; switching the TEC off
switches the laser off; ``*RST`` keeps the current limit, which protects the diode.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ...instruments import Unit
from ..elements import PumpLaser
from .base import Setting
from .scpi import (
    Bounds,
    Command,
    Interpreter,
    Numbers,
    ScpiError,
    StatusRegister,
    choice,
    flag,
    integer,
    number,
    numeric,
    query,
    scientific,
    serve,
)
from .wire import DeviceSettings, Link, Port, chaos_generator, reachable

__all__ = ["CLD1015Emulator"]

_WINDOW_K = 0.5
_TEMPERATURE_UNITS = {"": "", "C": "C", "CEL": "C", "F": "F", "FAR": "F", "K": "K"}
_UNIT_NAMES = {"C": "CEL", "F": "FAR", "K": "K"}


@dataclass
class _Registers:
    current_a: float = 0.0
    power_w: float = 0.0
    constant_power: bool = False
    modulation: bool = False
    setpoint_c: float = 25.0
    unit: str = "C"
    enable_input: str = "OFF"


class CLD1015Emulator:
    """A CLD1015 that drives one pump laser."""

    ELEMENT: ClassVar[type[PumpLaser]] = PumpLaser
    MODEL: ClassVar[str] = "CLD1015"

    class Settings(DeviceSettings):
        """Identity, ranges and front panel."""

        serial_number: str = "M00000001"
        firmware: str = "1.4.0/2.0.3/1.6.0"
        current_range: Annotated[float, Unit("A"), Field(gt=0)] = 1.5
        current_limit: Annotated[float, Unit("A"), Field(gt=0)] | None = None
        """Limit set at delivery; the full range unless given."""
        power_range: Annotated[float, Unit("W"), Field(gt=0)] = 1.0
        lowest_setpoint: Annotated[float, Unit("degC")] = 5.0
        highest_setpoint: Annotated[float, Unit("degC")] = 70.0
        key_locked: bool = False
        interlock_open: bool = False

    def __init__(self, setting: Setting, element: PumpLaser, settings: Settings) -> None:
        self._setting = setting
        self._laser = element
        self._settings = settings
        self._limit_a = min(
            settings.current_range,
            settings.current_range if settings.current_limit is None else settings.current_limit,
        )
        self._registers = _Registers()
        self._laser_on = False
        self._tec_on = False
        self._saved: dict[int, _Registers] = {}
        self._measurement = StatusRegister()
        self._interpreter = Interpreter(
            self._commands(),
            f"THORLABS,{self.MODEL},{settings.serial_number},{settings.firmware}",
            self._reset,
            self._measurement.clear,
        )
        self._port = Port(setting, self._serve, chaos=chaos_generator(setting, settings.chaos))

    async def open(self) -> str:
        """Bind the port; return the VISA resource."""
        port = await self._port.open(self._settings.port)
        return f"TCPIP::{reachable(self._setting.host)}::{port}::SOCKET"

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn the laser's knobs."""
        laser, now = self._laser, self._registers
        current = now.current_a
        if now.constant_power:
            # The photodiode loop is fast against a block: it has always settled.
            current = min(self._limit_a, laser.model.threshold + now.power_w / laser.model.slope)
        laser.current_a = current
        laser.emitting = self._laser_on
        laser.tec_on = self._tec_on
        laser.tec_setpoint_c = now.setpoint_c
        self._refresh()

    def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Nothing is pushed."""

    async def close(self) -> None:
        """Close every connection and the port."""
        await self._port.close()

    async def _serve(self, link: Link) -> None:
        await serve(link, self._interpreter)

    def _reset(self) -> None:
        self._registers = _Registers()
        self._laser_on = False
        self._tec_on = False

    def _refresh(self) -> None:
        off_window = abs(self._laser.diode_temperature_c - self._registers.setpoint_c) > _WINDOW_K
        at_limit = self._laser_on and self._laser.current_a >= self._limit_a
        self._measurement.update(
            self._settings.key_locked
            | self._settings.interlock_open << 2
            | at_limit << 3
            | (self._tec_on and off_window) << 9
        )

    def _commands(self) -> list[Command]:
        laser, settings = self._laser, self._settings
        level = "[:LEVel][:IMMediate][:AMPLitude]"
        protection = "OUTPut[1]:PROTection"

        def get(name: str) -> float:
            return float(getattr(self._registers, name))

        def put(name: str, value: object) -> None:
            setattr(self._registers, name, value)

        def current_bounds() -> Bounds:
            return 0.0, self._limit_a, 0.0

        def limit_bounds() -> Bounds:
            return 0.0, settings.current_range, settings.current_range

        def power_bounds() -> Bounds:
            return 0.0, settings.power_range, 0.0

        def setpoint_bounds() -> Bounds:
            default = min(max(25.0, settings.lowest_setpoint), settings.highest_setpoint)
            return settings.lowest_setpoint, settings.highest_setpoint, default

        def measured_temperature() -> str:
            return self._show_temperature(laser.diode_temperature_c)

        return [
            *numeric(
                f"SOURce[1]:CURRent{level}",
                lambda: get("current_a"),
                lambda value: put("current_a", value),
                current_bounds,
                ("A",),
            ),
            *numeric(
                "SOURce[1]:CURRent:LIMit[:AMPLitude]",
                lambda: self._limit_a,
                self._set_limit,
                limit_bounds,
                ("A",),
            ),
            *numeric(
                f"SOURce[1]:POWer{level}",
                lambda: get("power_w"),
                lambda value: put("power_w", value),
                power_bounds,
                ("W",),
            ),
            *choice(
                "SOURce[1]:FUNCtion:MODE",
                ("CURRent", "POWer"),
                lambda: "POW" if self._registers.constant_power else "CURR",
                self._set_mode,
            ),
            *flag(
                "SOURce[1]:AM[:STATe]",
                lambda: self._registers.modulation,
                lambda on: put("modulation", on),
            ),
            *flag("OUTPut[1][:STATe]", lambda: self._laser_on, self._switch_laser),
            *flag("OUTPut2[:STATe]", lambda: self._tec_on, self._switch_tec),
            *numeric(
                "SOURce2:TEMPerature[:SPOint]",
                lambda: get("setpoint_c"),
                lambda value: put("setpoint_c", value),
                setpoint_bounds,
                read=self._read_temperature,
                show=self._show_temperature,
            ),
            *choice(
                "UNIT:TEMPerature",
                ("C", "CEL", "F", "FAR", "K"),
                lambda: _UNIT_NAMES[self._registers.unit],
                lambda word: put("unit", _TEMPERATURE_UNITS[word]),
            ),
            query("MEASure[:SCALar]:TEMPerature?", measured_temperature),
            query("SENSe2:TEMPerature:DATA?", measured_temperature),
            query("MEASure[:SCALar]:CURRent[1]?", lambda: scientific(laser.drive_current_a)),
            query("SENSe3:CURRent[:DC]:DATA?", lambda: scientific(laser.drive_current_a)),
            query("MEASure[:SCALar]:VOLTage[1]?", lambda: scientific(laser.voltage_v)),
            query("SENSe4:VOLTage[:DC]:DATA?", lambda: scientific(laser.voltage_v)),
            query("MEASure[:SCALar]:POWer2?", self._photodiode_power),
            query(f"{protection}:KEYLock:TRIPped?", lambda: str(int(settings.key_locked))),
            query(f"{protection}:INTLock:TRIPped?", lambda: str(int(settings.interlock_open))),
            *choice(
                f"{protection}:EXTernal:MODE",
                ("OFF", "PROTection", "ENABle"),
                lambda: self._registers.enable_input,
                lambda word: put("enable_input", word),
            ),
            *self._measurement.commands("STATus:MEASurement", self._refresh),
            Command("*SAV", self._save, 1, 1),
            Command("*SDS", self._save, 1, 1),
            Command("*RCL", self._recall, 1, 1),
        ]

    def _set_limit(self, value: float) -> None:
        self._limit_a = value
        self._registers.current_a = min(self._registers.current_a, value)

    def _set_mode(self, word: str) -> None:
        constant_power = word == "POW"
        if self._laser_on and constant_power != self._registers.constant_power:
            raise ScpiError(-221)
        self._registers.constant_power = constant_power

    def _switch_laser(self, on: bool) -> None:
        if on and not self._may_emit():
            raise ScpiError(-221)
        self._laser_on = on

    def _may_emit(self) -> bool:
        blocked = self._settings.key_locked or self._settings.interlock_open
        # ENABle makes the laser wait for the rear enable input, and nothing is plugged in there.
        return self._tec_on and not blocked and self._registers.enable_input != "ENAB"

    def _switch_tec(self, on: bool) -> None:
        self._tec_on = on
        self._laser_on = self._laser_on and on

    def _photodiode_power(self) -> str:
        responsivity = self._laser.model.monitor_responsivity
        return scientific(self._laser.monitor_current_a / responsivity if responsivity else 0.0)

    def _read_temperature(self, text: str) -> float:
        value, unit = number(text, ("C", "CEL", "F", "FAR", "K"))
        scale = _TEMPERATURE_UNITS[unit] or self._registers.unit
        return {"C": value, "F": (value - 32.0) / 1.8, "K": value - 273.15}[scale]

    def _show_temperature(self, celsius: float) -> str:
        scales = {"C": celsius, "F": celsius * 1.8 + 32.0, "K": celsius + 273.15}
        return scientific(scales[self._registers.unit])

    def _save(self, _numbers: Numbers, parameters: Sequence[str]) -> None:
        self._saved[integer(parameters[0], 0, 9)] = copy.copy(self._registers)

    def _recall(self, _numbers: Numbers, parameters: Sequence[str]) -> None:
        slot = integer(parameters[0], 0, 9)
        self._registers = copy.copy(self._saved.get(slot, _Registers()))
        self._registers.current_a = min(self._registers.current_a, self._limit_a)
        self._laser_on = False
        self._tec_on = False
