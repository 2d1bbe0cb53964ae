"""An SPDC pair source as an instrument: its pump laser and its crystal oven, taken together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..instruments import (
    Clock,
    Identity,
    Instrument,
    Limited,
    Limits,
    Readable,
    Settable,
)
from .base import Driver, DriverSettings, attempt_all, check_parts
from .signal import LimitedSignal, ReadOnlySignal, Signal, Switch

__all__ = ["Oven", "PumpLaser", "SPDCSource", "SPDCSourceSettings"]

_ANY = Limits(float("-inf"), float("inf"))


@runtime_checkable
class PumpLaser(Instrument, Protocol):
    """What the source needs of its laser."""

    @property
    def current(self) -> Settable[float]:
        """Set point of the laser current, A."""
        ...

    @property
    def emission(self) -> Settable[bool]:
        """Whether the laser emits; switching it on keeps the laser's own safe order."""
        ...


@runtime_checkable
class Oven(Instrument, Protocol):
    """What the source needs of its oven."""

    @property
    def temperature(self) -> Settable[float]:
        """Set point, degC."""
        ...

    @property
    def measured_temperature(self) -> Readable[float]:
        """Temperature now, degC."""
        ...

    @property
    def heating(self) -> Settable[bool]:
        """Whether the oven is heated."""
        ...


class SPDCSourceSettings(DriverSettings):
    """None of its own: current and temperature stand in the settings of laser and oven."""


class SPDCSource(Driver):
    """A source of photon pairs: pump laser and crystal oven.

    The parts stay instruments of their own; the source opens and closes them too.

    Args:
        name: Name on the bench.
        parts: The instruments named in :attr:`PARTS`.
        settings: Empty.
        clock: The bench's clock.

    Raises:
        ConfigError: where a part is missing or cannot do what is needed.
    """

    MODEL = "SPDC source"
    Settings: ClassVar[type[SPDCSourceSettings]] = SPDCSourceSettings
    #: Parts it needs -> what they must provide.
    PARTS: ClassVar[dict[str, type[Any]]] = {"laser": PumpLaser, "oven": Oven}

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Instrument],
        settings: SPDCSourceSettings,
        clock: Clock,
    ) -> None:
        super().__init__(name, ", ".join(part.name for part in parts.values()), clock)
        self._settings = settings
        check_parts(name, "an SPDC source", self.PARTS, parts)
        laser, oven = parts["laser"], parts["oven"]
        assert isinstance(laser, PumpLaser)  # check_parts has said it better
        assert isinstance(oven, Oven)
        self._laser, self._oven = laser, oven
        self.pump_current = self._number("pump_current", laser.current, "Current of the pump laser")
        self.emission = self._switch("emission", laser.emission, "Whether the pump emits")
        self.crystal_temperature = self._number(
            "crystal_temperature", oven.temperature, "Set point of the crystal's temperature"
        )
        self.measured_crystal_temperature = ReadOnlySignal(
            "measured_crystal_temperature",
            oven.measured_temperature.unit,
            oven.measured_temperature.get,
            label="Temperature of the crystal",
        )
        self.heating = self._switch("heating", oven.heating, "Whether the crystal is heated")

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the source."""
        return (
            self.pump_current,
            self.emission,
            self.crystal_temperature,
            self.measured_crystal_temperature,
            self.heating,
        )

    def open(self) -> None:
        """Open the parts that are not open yet."""
        self._oven.open()
        self._laser.open()

    def close(self) -> None:
        """Close the parts, leaving them as they are."""
        attempt_all(self._endpoint, "closing", self._laser.close, self._oven.close)

    def identify(self) -> Identity:
        """What it is made of."""
        laser, oven = self._laser.identify(), self._oven.identify()
        return Identity(
            "Bellbench", f"SPDC source ({laser.model}, {oven.model})", laser.serial, laser.firmware
        )

    def configure(self) -> None:
        """Nothing: the parts are configured by their own settings."""

    def ready(self) -> bool:
        """Whether laser and oven have reached their set points."""
        return self._oven.ready() and self._laser.ready()

    def off(self) -> None:
        """Stop the pump; the oven stays warm."""
        self._laser.off()

    def safe(self) -> None:
        """Bring the laser, then the oven, to their safe states."""
        attempt_all(self._endpoint, "making it safe", self._laser.safe, self._oven.safe)

    def _number(self, name: str, of: Settable[float], label: str) -> LimitedSignal:
        return LimitedSignal(
            name,
            of.unit,
            of.get,
            of.set,
            label=label,
            limits=lambda: of.limits if isinstance(of, Limited) else _ANY,
            endpoint=self._endpoint,
        )

    def _switch(self, name: str, of: Settable[bool], label: str) -> Signal[bool]:
        return Switch(name, of.get, of.set, label=label, endpoint=self._endpoint)
