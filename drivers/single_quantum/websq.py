"""Single Quantum Eos/Atlas: SNSPD electronics, through its WebSQ server.

JSON over TCP: the client sends bare objects; the server broadcasts every change of a label, each
message ended by the byte 0x17, sometimes several objects in one. A second port pushes one line of
counts per measurement period. Source: Single Quantum, WebSQControl.py (MIT, 2020).
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from ...instruments import Clock, Identity, InstrumentError, Limits, Unit
from ..base import Driver, DriverSettings, attempt_all, closed_on_error
from ..signal import LimitedSignal, ReadOnlySignal, Switch
from ..transports.tcp import TcpFeed, parse_tcp_address, port_number

__all__ = ["SingleQuantumWebSQ", "WebSQSettings"]

_ETB = b"\x17"
_MAX_MESSAGE = 1 << 24
_BIAS = Limits(-90.9e-6, 90.9e-6)
_TRIGGER = Limits(-1.0, 1.0)  # ours: far beyond any amplified SNSPD pulse
_PERIOD = Limits(0.01, 10.0)
_LABELS = (
    "NumberOfDetectors",
    "BiasCurrent",
    "TriggerLevel",
    "DetectorEnable",
    "InptMeasurementPeriod",
)
_ASK_LABELS = b'{"request": "labelProps", "value": "None"}'
_LINES_KEPT = 64


class WebSQSettings(DriverSettings):
    """Settings of WebSQ electronics. None leaves the instrument as it is."""

    detectors: Annotated[int, Field(ge=1, le=64)] = 4
    """Number of detectors of the electronics; checked against the device when opened."""
    bias_currents: (
        tuple[Annotated[float, Field(ge=_BIAS.low, le=_BIAS.high), Unit("A")], ...] | None
    ) = None
    """Bias current of each detector, A."""
    trigger_levels: (
        tuple[Annotated[float, Field(ge=_TRIGGER.low, le=_TRIGGER.high), Unit("V")], ...] | None
    ) = None
    """Trigger level of each detector, V."""
    measurement_period: (
        Annotated[float, Field(ge=_PERIOD.low, le=_PERIOD.high), Unit("s")] | None
    ) = None
    """Integration time of the counts, s."""
    enabled: bool | None = None
    """Whether the detectors are biased and counting."""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        for name in ("bias_currents", "trigger_levels"):
            values = getattr(self, name)
            if values is not None and len(values) != self.detectors:
                raise ValueError(
                    f"{name} holds {len(values)} values for {self.detectors} detectors"
                )
        return self


class SingleQuantumWebSQ(Driver):
    """Superconducting-nanowire detectors on Eos or Atlas electronics.

    Values are cached from the server's broadcasts, so reading a bias current costs nothing. Rates
    come from the counts port, which is opened by the first reading of a rate. Reading a rate
    measures: it waits two measurement periods on the bench's clock and returns one that began
    after the call, so that a scan never sees counts from before its own setting.
    :meth:`measure_rates` reads all detectors at once.

    Args:
        name: Name on the bench.
        address: ``tcp://192.168.1.1:12000?counts=12345``; both ports may be left out.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Single Quantum WebSQ"
    Settings: ClassVar[type[WebSQSettings]] = WebSQSettings

    def __init__(self, name: str, address: str, settings: WebSQSettings, clock: Clock) -> None:
        super().__init__(name, address, clock)
        if address:
            self._where()  # a wrong address is said before anything is opened
        self._settings = settings
        self._lock = threading.RLock()  # one request at a time
        self._news = threading.Condition()  # guards what the reader threads write
        self._cache: dict[str, Any] = {}
        self._heard: dict[str, int] = {}  # broadcasts so far, per label
        self._errors: list[str] = []
        self._broken: InstrumentError | None = None
        self._buffer = b""
        self._control = TcpFeed(self._endpoint, self._control_bytes, self._control_ended)
        self._counts = _CountsPort(self)
        self.bias_currents: tuple[LimitedSignal, ...] = tuple(
            LimitedSignal(
                f"bias_current_{i + 1}",
                "A",
                partial(self._element, "BiasCurrent", i, 1e-6),
                partial(self._set_element, "BiasCurrent", i, 1e-6),
                label=f"Bias current of detector {i + 1}",
                limits=_BIAS,
                endpoint=self._endpoint,
            )
            for i in range(settings.detectors)
        )
        self.trigger_levels: tuple[LimitedSignal, ...] = tuple(
            LimitedSignal(
                f"trigger_level_{i + 1}",
                "V",
                partial(self._element, "TriggerLevel", i, 1e-3),
                partial(self._set_element, "TriggerLevel", i, 1e-3),
                label=f"Trigger level of detector {i + 1}",
                limits=_TRIGGER,
                endpoint=self._endpoint,
            )
            for i in range(settings.detectors)
        )
        self.count_rates: tuple[ReadOnlySignal[float], ...] = tuple(
            ReadOnlySignal(
                f"count_rate_{i + 1}",
                "Hz",
                partial(self._rate, i),
                label=f"Count rate of detector {i + 1} over the next whole measurement period",
                slow=True,
            )
            for i in range(settings.detectors)
        )
        self.measurement_period = LimitedSignal(
            "measurement_period",
            "s",
            lambda: float(self._value("InptMeasurementPeriod")) * 1e-3,
            self._set_period,
            label="Integration time of the counts",
            limits=_PERIOD,
            endpoint=self._endpoint,
        )
        self.enabled = Switch(
            "enabled",
            lambda: bool(self._value("DetectorEnable")),
            lambda on: self._command("DetectorEnable", "DetectorEnable", on),
            label="Whether the detectors are biased and counting",
            endpoint=self._endpoint,
        )

    @property
    def detectors(self) -> int:
        """Number of detectors; they are counted from 1."""
        return self._settings.detectors

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the electronics."""
        return (
            *self.bias_currents,
            *self.trigger_levels,
            *self.count_rates,
            self.measurement_period,
            self.enabled,
        )

    def open(self) -> None:
        """Connect and learn every label; set nothing."""
        with self._lock:
            if self._control.is_open and self._broken is None:
                return
            self.close()
            host, port, _ = self._where()
            with self._news:
                self._cache, self._heard, self._errors = {}, {}, []
                self._broken, self._buffer = None, b""
            self._control.open(host, port, self._settings.timeout)
            with closed_on_error(self._control):
                self._control.send(_ASK_LABELS)
                self._wait(
                    lambda: all(label in self._cache for label in _LABELS),
                    _ASK_LABELS,
                    "not every label was told",
                )
                found = self._value("NumberOfDetectors")
                if found != self._settings.detectors:
                    raise self._endpoint.error(
                        f"the electronics have {found} detectors, the settings say"
                        f" {self._settings.detectors}",
                        hint=f"write `detectors: {found}` in the settings",
                    )

    def close(self) -> None:
        """Disconnect, leaving the detectors as they are."""
        with self._lock:
            self._counts.close()
            self._control.close()

    def identify(self) -> Identity:
        """Who it is; the protocol tells no serial number."""
        self._value("NumberOfDetectors")
        return Identity("Single Quantum", "WebSQ")

    def measure_rates(self) -> tuple[float, ...]:
        """Count rate of every detector over one measurement period that begins after the call, Hz.

        Takes two periods of bench time.
        """
        return self._counts.rates()

    def _rate(self, detector: int) -> float:
        return self._counts.rates()[detector]

    def configure(self) -> None:
        """Write the settings: levels and period first, then the biases, then enable."""
        wanted = self._settings
        if wanted.enabled is False:
            self.enabled.set(False)
        if wanted.measurement_period is not None:
            self.measurement_period.set(wanted.measurement_period)
        if wanted.trigger_levels is not None:
            self._set_all("TriggerLevel", [volts / 1e-3 for volts in wanted.trigger_levels])
        if wanted.bias_currents is not None:
            self._set_all("BiasCurrent", [amps / 1e-6 for amps in wanted.bias_currents])
        if wanted.enabled:
            self.enabled.set(True)

    def ready(self) -> bool:
        """Always, once open: biases settle at once."""
        self._value("DetectorEnable")
        return True

    def off(self) -> None:
        """Nothing: detectors are left biased, as they are between runs."""

    def safe(self) -> None:
        """Take the biases to zero and disable the detectors."""
        self.open()
        zero = [0.0] * self._settings.detectors
        attempt_all(
            self._endpoint,
            "making it safe",
            lambda: self._set_all("BiasCurrent", zero),
            lambda: self.enabled.set(False),
        )

    def _where(self) -> tuple[str, int, int]:
        host, port, options = parse_tcp_address(self._endpoint, 12000, {"counts": "12345"})
        return host, port, port_number(self._endpoint, "counts", options["counts"])

    def _value(self, label: str) -> Any:
        with self._news:
            if not self._control.is_open:
                raise self._endpoint.not_open(label)
            if self._broken is not None:
                raise self._broken
            return self._cache[label]

    def _element(self, label: str, i: int, unit: float) -> float:
        return float(self._value(label)[i]) * unit

    def _set_element(self, label: str, i: int, unit: float, value: float) -> None:
        with self._lock:  # the server takes whole lists: read, change, write as one
            values = [float(x) for x in self._value(label)]
            values[i] = value / unit
            self._set_all(label, values)

    def _set_all(self, label: str, values: Sequence[float]) -> None:
        command = {"BiasCurrent": "SetAllBiasCurrents", "TriggerLevel": "SetAllTriggerLevels"}
        # binary fractions of a microampere are noise of ours
        self._command(command[label], label, [round(value, 6) for value in values])

    def _set_period(self, seconds: float) -> None:
        period_ms = round(seconds * 1e3, 6)
        value = int(period_ms) if period_ms.is_integer() else period_ms
        with self._lock:
            self._counts.close()  # its lines would mix two periods
            self._command("SetMeasurementPeriod", "InptMeasurementPeriod", value)

    def _command(self, command: str, label: str, value: object) -> None:
        """Send a command and wait for the broadcast of its label."""
        text = json.dumps(
            {"command": command, "label": label, "value": value}, separators=(",", ":")
        ).encode()
        with self._lock:
            self._value(label)
            with self._news:
                heard = self._heard[label]
                self._errors.clear()
            self._control.send(text)
            self._wait(
                lambda: self._heard[label] > heard,
                text,
                f"no broadcast of {label}",
                settled=lambda: _same(self._cache[label], value),
            )

    def _barrier(self) -> None:
        """Return when the server has handled everything sent so far."""
        with self._lock:
            with self._news:
                heard = self._heard["InptMeasurementPeriod"]
            self._control.send(_ASK_LABELS)
            self._wait(
                lambda: self._heard["InptMeasurementPeriod"] > heard, _ASK_LABELS, "no labels"
            )

    def _wait(
        self,
        condition: Callable[[], bool],
        command: bytes,
        failure: str,
        settled: Callable[[], bool] = lambda: False,
    ) -> None:
        timeout = self._settings.timeout
        with self._news:
            self._news.wait_for(
                lambda: condition() or self._errors or self._broken is not None, timeout
            )
            if self._broken is not None:
                raise self._broken
            if self._errors:
                reply = "; ".join(self._errors)
                self._errors.clear()
                raise self._endpoint.error("refused", command=command, reply=reply)
            # a server need not broadcast what did not change
            if not condition() and not settled():
                raise self._endpoint.timeout(
                    f"{failure} within {timeout:g} s",
                    command=command,
                    hint="is the WebSQ server running, and no other client in its way?",
                )

    def _control_bytes(self, data: bytes) -> None:
        *messages, self._buffer = (self._buffer + data).split(_ETB)
        if len(self._buffer) > _MAX_MESSAGE:
            raise self._endpoint.error(
                f"a message longer than {_MAX_MESSAGE} bytes", reply=self._buffer[:100]
            )
        for message in messages:
            for told in self._objects(message):
                self._hear(told)

    def _objects(self, message: bytes) -> list[dict[str, Any]]:
        """Objects of one message, which may be glued ``}{``."""
        decoder = json.JSONDecoder()
        found: list[dict[str, Any]] = []
        try:
            text = message.decode("utf-8").strip()
            while text:
                value, end = decoder.raw_decode(text)
                if not isinstance(value, dict):
                    raise ValueError("not an object")
                found.append(value)
                text = text[end:].lstrip()
        except (ValueError, RecursionError) as error:
            raise self._endpoint.error(f"reply is not JSON: {error}", reply=message) from error
        return found

    def _hear(self, told: dict[str, Any]) -> None:
        label, value = told.get("label"), told.get("value")
        if not isinstance(label, str):
            return
        if isinstance(value, dict) and "value" in value:
            value = value["value"]  # as labelProps tells it, with bounds and unit
        if label in _LABELS:
            value = self._checked(label, value)
        with self._news:
            if "Error" in label:
                self._errors.append(f"{label}: {value}")
                del self._errors[:-20]
            else:
                self._cache[label] = value
                self._heard[label] = self._heard.get(label, 0) + 1
            self._news.notify_all()

    def _checked(self, label: str, value: object) -> object:
        """Value of a label that the driver relies on."""

        def number(x: object) -> bool:
            return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)

        if label in ("BiasCurrent", "TriggerLevel"):
            good = (
                isinstance(value, list)
                and len(value) == self._settings.detectors
                and all(number(x) for x in value)
            )
        elif label == "DetectorEnable":
            good = isinstance(value, (bool, int))
        else:
            good = number(value) and float(str(value)) > 0
        # a wrong number of detectors is reported by open(), in better words
        if not good and self._cache.get("NumberOfDetectors", 0) == self._settings.detectors:
            raise self._endpoint.error(f"{label} makes no sense", reply=repr(value))
        return value

    def _control_ended(self, error: InstrumentError) -> None:
        with self._news:
            self._broken = error
            self._news.notify_all()


class _CountsPort:
    """The pushed lines of counts, and which of them a reading at a given time means.

    On a stepped clock a reading must not depend on how fast the threads run. So lines are counted:
    once a line was taken at some time, the k-th line after it is due k periods later.
    """

    def __init__(self, electronics: SingleQuantumWebSQ) -> None:
        self._on = electronics
        self._endpoint = electronics._endpoint
        self._clock = electronics._clock
        self._detectors = electronics._settings.detectors
        self._timeout_s = electronics._settings.timeout
        self._lock = threading.RLock()
        self._news = threading.Condition()
        self._feed = TcpFeed(self._endpoint, self._bytes, self._ended)
        self._buffer = b""
        self._lines: deque[tuple[int, ...]] = deque(maxlen=_LINES_KEPT)
        self._seen = 0  # lines received
        self._taken = 0  # number of the line given out last, from 1
        self._taken_at = 0.0
        self._broken: InstrumentError | None = None

    def close(self) -> None:
        with self._lock:
            self._feed.close()
            self._forget()

    def rates(self) -> tuple[float, ...]:
        """Counts per second of each detector in a measurement period that began after the call."""
        with self._lock:
            period_s = self._on.measurement_period.get()
            if not self._feed.is_open:
                self._open()
            self._clock.sleep(2 * period_s)
            return tuple(count / period_s for count in self._line_due(period_s))

    def _open(self) -> None:
        self._forget()
        host, _, port = self._on._where()
        self._feed.open(host, port, self._timeout_s)
        with closed_on_error(self._feed):
            self._on._barrier()  # the server has accepted us before time goes on
        self._taken_at = self._clock.now()

    def _line_due(self, period_s: float) -> tuple[int, ...]:
        due = math.floor((self._clock.now() - self._taken_at) / period_s + 1e-6)
        wanted = self._taken + due
        with self._news:
            self._news.wait_for(
                lambda: self._seen >= wanted or self._broken is not None,
                self._timeout_s + 2 * period_s,
            )
            if self._broken is not None:
                raise self._broken
            if self._seen < wanted:
                raise self._endpoint.timeout(
                    f"no counts within {self._timeout_s:g} s", hint="are the detectors enabled?"
                )
            # more than one line ahead: the device's clock is faster than ours
            self._taken = wanted if self._seen <= wanted + 1 else self._seen - 1
            line = self._lines[self._taken - self._seen - 1]
        # re-anchored where a device slower than our clock made us wait
        self._taken_at = max(self._taken_at + due * period_s, self._clock.now() - period_s)
        return line

    def _forget(self) -> None:
        self._buffer, self._broken = b"", None
        self._lines.clear()
        self._seen = self._taken = 0

    def _bytes(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                _, *counts = line.split(b",")
                found = tuple(int(count) for count in counts)
            except ValueError as error:
                raise self._endpoint.error("not a line of counts", reply=line) from error
            if len(found) != self._detectors:
                raise self._endpoint.error(
                    f"{len(found)} counts for {self._detectors} detectors", reply=line
                )
            with self._news:
                self._lines.append(found)
                self._seen += 1
                self._news.notify_all()

    def _ended(self, error: InstrumentError) -> None:
        with self._news:
            self._broken = error
            self._news.notify_all()


def _same(told: object, wanted: object) -> bool:
    if isinstance(told, list) and isinstance(wanted, list):
        return len(told) == len(wanted) and all(map(_same, told, wanted))
    if isinstance(told, (int, float)) and isinstance(wanted, (int, float)):
        return math.isclose(told, wanted, rel_tol=1e-6, abs_tol=1e-6)
    return told == wanted
