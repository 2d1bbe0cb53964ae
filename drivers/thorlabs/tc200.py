"""Thorlabs TC200: a heater controller, used here for a crystal oven.

Serial, 115200 8N1. The box echoes each command, answers, and ends with a prompt.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ...instruments import Clock, Identity, InstrumentError, Limits, Unit
from ..base import DriverSettings, SerialDriver
from ..signal import LimitedSignal, ReadOnlySignal, Switch

__all__ = ["TC200Settings", "ThorlabsTC200"]

_TEMPERATURES = Limits(20.0, 200.0)
_POWERS = Limits(0.1, 18.0)
_PROMPT = b"\r> "
_STATUS_PROMPT = b" > "  # of `stat?` alone

_ENABLED, _CYCLE, _UNIT, _CELSIUS, _ALARM = 0x01, 0x02, 0x30, 0x10, 0x40

# firmwares answer `30 C`, `30 Celsius` or `30.0 Celsius`
_TEMPERATURE = re.compile(r"([+-]?\d+(?:\.\d+)?) *(?:C|Celsius)")


class TC200Settings(DriverSettings):
    """Settings of a TC200. None leaves the instrument as it is."""

    temperature: (
        Annotated[float, Field(ge=_TEMPERATURES.low, le=_TEMPERATURES.high), Unit("degC")] | None
    ) = None
    """Set point, degC."""
    max_temperature: (
        Annotated[float, Field(ge=_TEMPERATURES.low, le=_TEMPERATURES.high), Unit("degC")] | None
    ) = None
    """Temperature above which the box switches off, degC."""
    max_power: Annotated[float, Field(ge=_POWERS.low, le=_POWERS.high), Unit("W")] | None = None
    """Largest heater power, W."""
    p_gain: Annotated[int, Field(ge=1, le=250)] | None = None
    """Proportional gain of the control loop."""
    i_gain: Annotated[int, Field(ge=0, le=250)] | None = None
    """Integral gain."""
    d_gain: Annotated[int, Field(ge=0, le=250)] | None = None
    """Derivative gain."""
    heating: bool | None = None
    """Whether the heater output is enabled."""
    tolerance: Annotated[float, Field(gt=0), Unit("K")] = 0.1
    """How near the set point counts as ready, K."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (
            self.temperature is not None
            and self.max_temperature is not None
            and self.temperature > self.max_temperature
        ):
            raise ValueError(
                f"temperature {self.temperature} degC is above the maximum {self.max_temperature}"
            )
        return self


class ThorlabsTC200(SerialDriver):
    """A crystal oven on a TC200.

    Args:
        name: Name on the bench.
        address: Serial port (``COM5``, ``/dev/ttyUSB0``) or pyserial URL.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Thorlabs TC200"
    Settings: ClassVar[type[TC200Settings]] = TC200Settings

    def __init__(self, name: str, address: str, settings: TC200Settings, clock: Clock) -> None:
        super().__init__(name, address, settings, clock)
        self._settings = settings
        self.temperature = LimitedSignal(
            "temperature",
            "degC",
            lambda: self._ask_temperature("tset?"),
            lambda celsius: self._set(f"tset={celsius:.6g}"),
            label="Set point of the oven",
            limits=_TEMPERATURES,
            endpoint=self._endpoint,
        )
        self.measured_temperature = ReadOnlySignal(
            "measured_temperature",
            "degC",
            lambda: self._ask_temperature("tact?"),
            label="Temperature of the oven",
        )
        self.heating = Switch(
            "heating",
            lambda: bool(self._status() & _ENABLED),
            self._set_heating,
            label="Whether the heater output is enabled",
            endpoint=self._endpoint,
        )
        self.max_temperature = LimitedSignal(
            "max_temperature",
            "degC",
            lambda: self._ask_temperature("tmax?"),
            lambda celsius: self._set(f"tmax={celsius:.6g}"),
            label="Temperature above which the box switches off",
            limits=_TEMPERATURES,
            endpoint=self._endpoint,
        )
        self.sensor_alarm = ReadOnlySignal(
            "sensor_alarm",
            "",
            lambda: bool(self._status() & _ALARM),
            label="Whether the temperature sensor is missing or broken",
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the oven."""
        return (
            self.temperature,
            self.measured_temperature,
            self.heating,
            self.max_temperature,
            self.sensor_alarm,
        )

    def identify(self) -> Identity:
        """Ask who it is."""
        return Identity("Thorlabs", "TC200", firmware=self._ask("id?"))

    def configure(self) -> None:
        """Write the settings; the heater last."""
        wanted = self._settings
        if wanted.temperature is not None and self._status() & _CYCLE:
            self._leave_cycle_mode()
        if wanted.max_temperature is not None:
            self.max_temperature.set(wanted.max_temperature)
        if wanted.max_power is not None:
            self._set(f"pmax={wanted.max_power:.4g}")
        for command, gain in (
            ("pgain", wanted.p_gain),
            ("igain", wanted.i_gain),
            ("dgain", wanted.d_gain),
        ):
            if gain is not None:
                self._set(f"{command}={gain}")
        if wanted.temperature is not None:
            self.temperature.set(wanted.temperature)
        if wanted.heating is not None:
            self.heating.set(wanted.heating)

    def ready(self) -> bool:
        """Whether the oven is at its set point, where it is heated.

        Raises:
            InstrumentError: where the sensor alarm is on.
        """
        status = self._status()
        if status & _ALARM:
            raise self._endpoint.error(
                "sensor alarm",
                command="stat?",
                reply=f"{status:02x}",
                hint="check the sensor's plug and the `sns` setting",
            )
        if not status & _ENABLED:
            return True
        apart = self.measured_temperature.get() - self.temperature.get()
        return abs(apart) <= self._settings.tolerance + 1e-9

    def off(self) -> None:
        """Nothing: an oven is left warm."""

    def safe(self) -> None:
        """Switch the heater off."""
        self.open()
        self.heating.set(False)

    def _greet(self) -> None:
        if self._status() & _UNIT != _CELSIUS:
            self._set("unit=c")  # the unit of its replies, no physical state

    def _set_heating(self, on: bool) -> None:
        with self._port.lock:
            if bool(self._status() & _ENABLED) == on:
                return
            self._set("ens")  # a toggle
            if bool(self._status() & _ENABLED) != on:
                raise self._endpoint.error(
                    f"the heater stays {'off' if on else 'on'}",
                    command="ens",
                    hint="check the sensor's plug" if on else "switch it off at the front",
                )

    def _leave_cycle_mode(self) -> None:
        with self._port.lock:
            try:
                self._set("mode=normal")
            except InstrumentError as error:
                # a known quirk: this error comes although the mode has changed
                if "CMD_ARG_RANGE_ERR" not in str(error.reply) or self._status() & _CYCLE:
                    raise

    def _ask_temperature(self, command: str) -> float:
        reply = self._ask(command)
        if not (match := _TEMPERATURE.fullmatch(reply)):
            raise self._endpoint.error("a temperature expected", command=command, reply=reply)
        return float(match[1])

    def _status(self) -> int:
        reply = self._exchange("stat?", _STATUS_PROMPT)
        try:
            return int(reply, 16)
        except ValueError as error:
            raise self._endpoint.error(
                "one byte in hexadecimal expected", command="stat?", reply=reply
            ) from error

    def _set(self, command: str) -> None:
        reply = self._exchange(command, _PROMPT)
        if reply:
            raise self._endpoint.error(
                "no answer to a setting expected", command=command, reply=reply
            )

    def _ask(self, command: str) -> str:
        reply = self._exchange(command, _PROMPT)
        if not reply:
            raise self._endpoint.error("an empty answer", command=command)
        return reply

    def _exchange(self, command: str, prompt: bytes) -> str:
        sent = command.encode("ascii") + b"\r"
        with self._answer_to(sent):
            raw = self._port.read_until(prompt, command=command)
            if not raw.startswith(sent):
                raise self._endpoint.error(
                    "the echo differs from the command",
                    command=command,
                    reply=raw,
                    hint="is another program on this port? is the baud rate 115200?",
                )
        body = raw[len(sent) : -len(prompt)]
        reply = body.decode("ascii", errors="replace").replace("\r", "\n").strip()
        if "Command error" in reply:
            raise self._endpoint.error("refused", command=command, reply=reply)
        return reply
