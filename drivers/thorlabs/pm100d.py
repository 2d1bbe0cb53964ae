"""Thorlabs PM100D: an optical power meter. Commands: Thorlabs commandDocu for PM100x."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ...instruments import Clock, Identity, Limits, Unit
from ..base import Driver, DriverSettings, closed_on_error
from ..signal import LimitedSignal, ReadOnlySignal, Switch
from .scpi import ThorlabsScpi

__all__ = ["PM100DSettings", "ThorlabsPM100D"]

_WAVELENGTHS = Limits(185e-9, 25e-6)  # over all sensors; the sensor's own are asked for
_RANGES = Limits(1e-12, 1e3)
_AVERAGES = Limits(1, 3000)
_NO_NUMBER = 9e37  # SCPI's infinity and NaN


class PM100DSettings(DriverSettings):
    """Settings of a PM100D. None leaves the instrument as it is."""

    wavelength: (
        Annotated[float, Field(ge=_WAVELENGTHS.low, le=_WAVELENGTHS.high), Unit("m")] | None
    ) = None
    """Wavelength the reading is corrected for, m."""
    averages: Annotated[int, Field(ge=_AVERAGES.low, le=_AVERAGES.high)] | None = None
    """Samples that make a reading."""
    auto_range: bool | None = None
    """Whether the range follows the power."""
    range: Annotated[float, Field(ge=_RANGES.low, le=_RANGES.high), Unit("W")] | None = None
    """Largest power to be measured, W; the meter takes its next range above."""

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        if self.auto_range and self.range is not None:
            raise ValueError("give either auto_range or range")
        return self


class ThorlabsPM100D(Driver):
    """An optical power meter.

    Args:
        name: Name on the bench.
        address: VISA resource, ``USB0::0x1313::0x8078::<serial>::INSTR`` or
            ``TCPIP::<host>::<port>::SOCKET``.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Thorlabs PM100D"
    Settings: ClassVar[type[PM100DSettings]] = PM100DSettings

    def __init__(self, name: str, address: str, settings: PM100DSettings, clock: Clock) -> None:
        super().__init__(name, address, clock)
        self._settings = settings
        self._scpi = scpi = ThorlabsScpi(self._endpoint, settings.timeout)
        self._wavelengths = _WAVELENGTHS
        self.power = ReadOnlySignal("power", "W", self._power, label="Optical power")
        self.wavelength = LimitedSignal(
            "wavelength",
            "m",
            lambda: scpi.number("SENS:CORR:WAV?") * 1e-9,
            lambda metres: scpi.set(f"SENS:CORR:WAV {metres / 1e-9:.9g}"),
            label="Wavelength the reading is corrected for",
            limits=lambda: self._wavelengths,
            endpoint=self._endpoint,
        )
        self.averages = LimitedSignal(
            "averages",
            "",
            lambda: scpi.number("SENS:AVER:COUN?"),
            lambda count: scpi.set(f"SENS:AVER:COUN {round(count)}"),
            label="Samples that make a reading",
            limits=_AVERAGES,
            endpoint=self._endpoint,
        )
        self.auto_range = Switch(
            "auto_range",
            lambda: scpi.flag("SENS:POW:RANG:AUTO?"),
            lambda on: scpi.set(f"SENS:POW:RANG:AUTO {'ON' if on else 'OFF'}"),
            label="Whether the range follows the power",
            endpoint=self._endpoint,
        )
        self.range = LimitedSignal(
            "range",
            "W",
            lambda: scpi.number("SENS:POW:RANG:UPP?"),
            lambda watts: scpi.set(f"SENS:POW:RANG:UPP {watts:.6g}"),
            label="Largest power of the present range",
            limits=_RANGES,
            endpoint=self._endpoint,
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the meter."""
        return (self.power, self.wavelength, self.averages, self.auto_range, self.range)

    def open(self) -> None:
        """Connect and ask the sensor's wavelengths; set nothing."""
        if self._scpi.is_open:
            return
        self._scpi.open()
        with closed_on_error(self._scpi):
            low, high = (self._scpi.number(f"SENS:CORR:WAV? {end}") for end in ("MIN", "MAX"))
        self._wavelengths = Limits(low * 1e-9, high * 1e-9)

    def close(self) -> None:
        """Disconnect."""
        self._scpi.close()

    def identify(self) -> Identity:
        """Ask who it is."""
        return self._scpi.identify()

    def configure(self) -> None:
        """Write the settings."""
        wanted = self._settings
        if wanted.wavelength is not None:
            self.wavelength.set(wanted.wavelength)
        if wanted.averages is not None:
            self.averages.set(wanted.averages)
        if wanted.auto_range is not None:
            self.auto_range.set(wanted.auto_range)
        if wanted.range is not None:
            self.range.set(wanted.range)

    def ready(self) -> bool:
        """Always, once open."""
        if not self._scpi.is_open:
            raise self._endpoint.not_open()
        return True

    def off(self) -> None:
        """Nothing: it only listens."""

    def safe(self) -> None:
        """Nothing: it only listens."""

    def _power(self) -> float:
        watts = self._scpi.number("MEAS:POW?")
        if not abs(watts) < _NO_NUMBER:
            raise self._endpoint.error(
                "no valid reading",
                command="MEAS:POW?",
                reply=repr(watts),
                hint="over range, or no power sensor is plugged in",
            )
        return watts
