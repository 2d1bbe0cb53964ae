"""Thorlabs CLD1015: a pump laser diode with its current source and temperature control.

Commands: Thorlabs, "Series 4000 SCPI Programmer's Reference" (2012/2015).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ...instruments import Clock, Identity, InstrumentError, Limits, Unit
from ..base import Driver, DriverSettings, attempt_all, closed_on_error, wait_until
from ..signal import LimitedSignal, ReadOnlySignal, Switch
from .scpi import ThorlabsScpi

__all__ = ["CLD1015Settings", "ThorlabsCLD1015"]

_MAX_CURRENT_A = 1.5
_TEMPERATURES = Limits(5.0, 70.0)  # ours, not the instrument's: colder condenses, hotter kills
_TOLERANCE_K = 0.1
_STABLE_S = 3.0
_POLL_S = 0.1
_CURRENT_OFF_A = 1e-3
_CURRENT_OFF_TIMEOUT_S = 5.0

#: Bits of ``STAT:MEAS:COND?`` and what to do about them.
_CONDITIONS = {
    0: "key lock: turn the key switch",
    1: "laser voltage compliance: check the diode's wiring and the voltage limit",
    2: "interlock open: close the interlock loop",
    3: "laser current limit reached",
    4: "laser output inhibited: check the LD-enable input",
    5: "laser power limit reached",
    8: "temperature protection is active: bring the diode into its window",
    9: "temperature outside its window",
    10: "temperature sensor failure: check the thermistor",
    11: "TEC voltage compliance: check the cooler's wiring",
    12: "TEC not connected",
    14: "instrument over-temperature: let it cool, check the fan",
}
_FORBIDS_EMISSION = 1 << 0 | 1 << 2


class CLD1015Settings(DriverSettings):
    """Settings of a CLD1015. None leaves the instrument as it is."""

    current: Annotated[float, Field(ge=0, le=_MAX_CURRENT_A), Unit("A")] | None = None
    """Drive current of the laser diode, A."""
    current_limit: Annotated[float, Field(gt=0, le=_MAX_CURRENT_A), Unit("A")] | None = None
    """Limit that the instrument holds the current to, A."""
    temperature: (
        Annotated[float, Field(ge=_TEMPERATURES.low, le=_TEMPERATURES.high), Unit("degC")] | None
    ) = None
    """Set point of the diode's temperature, degC."""
    tec: bool | None = None
    """Whether the temperature control runs; emission switches it on too."""
    emission: bool | None = None
    """Whether the laser emits."""
    settle_timeout: Annotated[float, Field(gt=0), Unit("s")] = 120.0
    """Longest wait for the diode's temperature before emission, in bench time, s."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (
            self.current is not None
            and self.current_limit is not None
            and self.current > self.current_limit
        ):
            raise ValueError(f"current {self.current} A is above the limit {self.current_limit} A")
        if self.emission and self.tec is False:
            raise ValueError("emission needs the temperature control: tec must not be false")
        return self


class ThorlabsCLD1015(Driver):
    """A pump laser on a CLD1015 (CLD1010, CLD1011 and ITC4000 speak the same).

    Emission starts only after the temperature control has held the diode within 0.1 degC of its
    set point for 3 s; the waiting is on the bench's clock.

    Args:
        name: Name on the bench.
        address: VISA resource, ``USB0::0x1313::0x804F::<serial>::INSTR`` or
            ``TCPIP::<host>::<port>::SOCKET``.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Thorlabs CLD1015"
    Settings: ClassVar[type[CLD1015Settings]] = CLD1015Settings

    def __init__(self, name: str, address: str, settings: CLD1015Settings, clock: Clock) -> None:
        super().__init__(name, address, clock)
        self._settings = settings
        self._scpi = scpi = ThorlabsScpi(self._endpoint, settings.timeout)
        self._limit_a = settings.current_limit or _MAX_CURRENT_A
        self.current = LimitedSignal(
            "current",
            "A",
            lambda: scpi.number("SOUR:CURR?"),
            lambda amps: scpi.set(f"SOUR:CURR {amps:.6g}"),
            label="Set point of the laser current",
            limits=lambda: Limits(0.0, self._limit_a),
            endpoint=self._endpoint,
        )
        self.current_limit = LimitedSignal(
            "current_limit",
            "A",
            lambda: scpi.number("SOUR:CURR:LIM?"),
            self._set_current_limit,
            label="Limit of the laser current, held by the instrument",
            limits=Limits(0.0, _MAX_CURRENT_A),
            endpoint=self._endpoint,
        )
        self.emission = Switch(
            "emission",
            lambda: scpi.flag("OUTP1:STAT?"),
            self._set_emission,
            label="Whether the laser emits",
            endpoint=self._endpoint,
        )
        self.temperature = LimitedSignal(
            "temperature",
            "degC",
            lambda: scpi.number("SOUR2:TEMP?"),
            lambda celsius: scpi.set(f"SOUR2:TEMP {celsius:.6g}"),
            label="Set point of the diode's temperature",
            limits=_TEMPERATURES,
            endpoint=self._endpoint,
        )
        self.measured_temperature = ReadOnlySignal(
            "measured_temperature",
            "degC",
            lambda: scpi.number("MEAS:TEMP?"),
            label="Temperature of the diode",
        )
        self.tec = Switch(
            "tec",
            lambda: scpi.flag("OUTP2:STAT?"),
            self._set_tec,
            label="Whether the temperature control runs",
            endpoint=self._endpoint,
        )
        self.measured_current = ReadOnlySignal(
            "measured_current",
            "A",
            lambda: scpi.number("MEAS:CURR?"),
            label="Measured laser current",
        )
        self.voltage = ReadOnlySignal(
            "voltage", "V", lambda: scpi.number("MEAS:VOLT?"), label="Voltage of the laser diode"
        )
        self.monitor_power = ReadOnlySignal(
            "monitor_power",
            "W",
            lambda: scpi.number("MEAS:POW2?"),
            label="Optical power at the monitor photodiode",
        )
        self.key_locked = ReadOnlySignal(
            "key_locked",
            "",
            lambda: scpi.flag("OUTP:PROT:KEYL:TRIP?"),
            label="Whether the key switch forbids emission",
        )
        self.conditions = ReadOnlySignal(
            "conditions", "", self._conditions, label="What limits or trips it, in words"
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the laser."""
        return (
            self.current,
            self.current_limit,
            self.emission,
            self.temperature,
            self.measured_temperature,
            self.tec,
            self.measured_current,
            self.voltage,
            self.monitor_power,
            self.key_locked,
            self.conditions,
        )

    def open(self) -> None:
        """Connect; outputs and set points stay as they are."""
        if self._scpi.is_open:
            return
        self._scpi.open()
        with closed_on_error(self._scpi):
            if self._scpi.query("UNIT:TEMP?") != "CEL":
                self._scpi.set("UNIT:TEMP C")  # the unit of its replies, no physical state

    def close(self) -> None:
        """Disconnect, leaving the laser as it is."""
        self._scpi.close()

    def identify(self) -> Identity:
        """Ask who it is."""
        return self._scpi.identify()

    def configure(self) -> None:
        """Write the settings: limits first, the diode's temperature next, emission last."""
        wanted = self._settings
        lowering = wanted.current is not None and wanted.current <= self.current_limit.get()
        if wanted.current is not None and lowering:
            self.current.set(wanted.current)
        if wanted.current_limit is not None:
            self.current_limit.set(wanted.current_limit)
        if wanted.current is not None and not lowering:
            self.current.set(wanted.current)
        if wanted.temperature is not None:
            self.temperature.set(wanted.temperature)
        if wanted.emission is False:
            self.emission.set(False)
        if wanted.tec is not None:
            self.tec.set(wanted.tec)
        if wanted.emission:
            self.emission.set(True)

    def ready(self) -> bool:
        """Whether the diode is at its temperature, where that is controlled."""
        return not self.tec.get() or self._on_temperature(self.temperature.get())

    def off(self) -> None:
        """Stop emission; the temperature control goes on."""
        self.emission.set(False)

    def safe(self) -> None:
        """Stop emission, wait for the current to die, then stop the temperature control.

        The diode stays cooled where emission could not be stopped.
        """
        self.open()
        off: list[bool] = []

        def laser_off() -> None:
            if not off:
                self._scpi.set("OUTP1:STAT OFF")
                off.append(True)

        def tec_off() -> None:
            if off:
                self._scpi.set("OUTP2:STAT OFF")

        attempt_all(
            self._endpoint, "making it safe", laser_off, laser_off, self._wait_dark, tec_off
        )

    def _set_current_limit(self, amps: float) -> None:
        self._scpi.set(f"SOUR:CURR:LIM {amps:.6g}")
        self._limit_a = amps

    def _set_tec(self, on: bool) -> None:
        if not on and self.emission.get():
            raise self._endpoint.error(
                "the temperature control cannot stop while the laser emits",
                hint="switch emission off first",
            )
        self._scpi.set(f"OUTP2:STAT {'ON' if on else 'OFF'}")

    def _set_emission(self, on: bool) -> None:
        if not on:
            self._scpi.set("OUTP1:STAT OFF")
            self._wait_dark()
            return
        if self.emission.get():
            return
        if self._condition_bits() & _FORBIDS_EMISSION:
            raise self._endpoint.error("emission is forbidden", hint=self._conditions())
        if not self.tec.get():
            self._scpi.set("OUTP2:STAT ON")
        self._wait_temperature()
        try:
            self._scpi.set("OUTP1:STAT ON")
        except InstrumentError as error:
            raise self._endpoint.error(
                f"emission refused ({self._conditions() or 'no condition reported'})",
                command=error.command,
                reply=error.reply,
            ) from error
        if not wait_until(self._clock, self.emission.get, timeout_s=1.0, poll_s=_POLL_S):
            raise self._endpoint.error(
                "the laser stays off", command="OUTP1:STAT ON", hint=self._conditions()
            )

    def _wait_temperature(self) -> None:
        target = self.temperature.get()
        since: float | None = None

        def stable() -> bool:
            nonlocal since
            if not self._on_temperature(target):
                since = None
                return False
            now = self._clock.now()
            since = now if since is None else since
            return now - since >= _STABLE_S - 1e-9

        timeout = self._settings.settle_timeout
        if not wait_until(self._clock, stable, timeout_s=timeout, poll_s=_POLL_S):
            raise self._endpoint.timeout(
                f"the diode is at {self.measured_temperature.get():g} degC, not at"
                f" {target:g} degC for {_STABLE_S:g} s, after {timeout:g} s",
                hint=self._conditions() or "check the set point, the TEC limits and the heat sink",
            )

    def _on_temperature(self, target: float) -> bool:
        return abs(self.measured_temperature.get() - target) < _TOLERANCE_K

    def _wait_dark(self) -> None:
        def dark() -> bool:
            return abs(self.measured_current.get()) < _CURRENT_OFF_A

        timeout = _CURRENT_OFF_TIMEOUT_S
        if not wait_until(self._clock, dark, timeout_s=timeout, poll_s=_POLL_S):
            raise self._endpoint.timeout(
                f"the laser current is still {self.measured_current.get():g} A"
                f" {timeout:g} s after switching off",
                hint="turn the key switch off",
            )

    def _conditions(self) -> str:
        bits = self._condition_bits()
        return "; ".join(text for bit, text in _CONDITIONS.items() if bits >> bit & 1)

    def _condition_bits(self) -> int:
        return int(self._scpi.number("STAT:MEAS:COND?"))
