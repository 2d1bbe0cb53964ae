"""Twin of Single Quantum's Eos/Atlas electronics: the WebSQ server (JSON over TCP).

Source: Single Quantum, WebSQControl.py (MIT, 2020). Not known from a real unit, and chosen here:
the wording of errors, the bounds of labels other than the bias, that a wrong request is
answered with a label ``Error``, that a scan of the bias ends at zero before the bias comes back,
and that a wire gone normal shows its current times a series resistor as ``BiasVoltage``.
Measurement periods are rounded up to the world's 10 ms blocks. The sign of a trigger level is taken
as that of the pulses.
"""

from __future__ import annotations

import datetime
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..elements import SnspdArray
from .base import Setting
from .wire import (
    LIMIT,
    DeviceSettings,
    Link,
    OverlongError,
    Port,
    TcpPort,
    chaos_generator,
    reachable,
)

__all__ = ["WebSQEmulator"]

_ETB = b"\x17"
_MAX_BIAS_UA = 90.9
_MAX_TRIGGER_MV = 1000.0
_MIN_PERIOD_MS, _MAX_PERIOD_MS = 10.0, 10_000.0
_SERIES_OHM = 1e4  # of a wire that has gone normal, seen by the bias source
_HISTORY = 200
_TEMPERATURE_EVERY_PS = 1_000_000_000_000
_AUTO_STEP_UA, _AUTO_TOP_UA = 0.5, 30.0
_MAX_SCAN_STEPS = 10_000
_DECODER = json.JSONDecoder()


class _RefusedError(Exception):
    """Why a request is refused, in words for the label ``Error``."""


@dataclass
class _Sweep:
    """A scan of the bias of all detectors, one current per measurement period."""

    currents_ua: list[float]
    finish: Callable[[_Sweep], None]
    counts: list[list[int]] = field(default_factory=list)
    volts_mv: list[list[float]] = field(default_factory=list)

    @property
    def bias_ua(self) -> float:
        return self.currents_ua[len(self.counts)]


class WebSQEmulator:
    """Electronics of one detector array: control on one port, counts pushed on another."""

    ELEMENT: ClassVar[type[SnspdArray]] = SnspdArray
    MODEL: ClassVar[str] = "WebSQ"

    class Settings(DeviceSettings):
        """Where it listens, and what the cold head shows."""

        counts_port: TcpPort = 0
        stage_temperature_k: float = 2.5
        shield_temperature_k: float = 40.0

    def __init__(self, setting: Setting, element: SnspdArray, settings: Settings) -> None:
        self._setting = setting
        self._array = element
        self._settings = settings
        self._chaos = chaos_generator(setting, settings.chaos)
        self._noise = random.Random(setting.seed)
        self._unix_s = time.time()
        n = len(element.model.detectors)
        self._n = n
        self._labels: dict[str, Any] = {
            "NumberOfDetectors": n,
            "BiasCurrent": [0] * n,
            "BiasVoltage": [0.0] * n,
            "TriggerLevel": [100.0] * n,
            "InptMeasurementPeriod": 100.0,
            "DetectorEnable": False,
            "StartAutoIV": False,
            "DarkCountsAutoIV": [100.0] * n,
            "BiasCurrentAutoIV": [0.0] * n,
            "IVScanStart": 0.0,
            "IVScanEnd": 25.0,
            "IVScanIncrement": 1.0,
            "IVScanEnable": False,
        }
        self._sweep: _Sweep | None = None
        self._counts = np.zeros(n, np.int64)
        self._counted_ps = 0
        self._scan: list[tuple[float, list[int], list[float]]] = []
        #: Lowest bias of each wire since the last block began, uA: less than a block at zero resets
        #: a wire, too.
        self._lowest = [0.0] * n
        self._temperatures: deque[tuple[float, float, float]] = deque(maxlen=_HISTORY)
        self._next_temperature_ps = 0
        self._control = Port(setting, self._serve_control, chaos=self._chaos)
        self._feed = Port(setting, self._serve_counts, chaos=self._chaos)

    async def open(self) -> str:
        """Bind both ports; return the address of the control port with ``?counts=``."""
        control = await self._control.open(self._settings.port)
        counts = await self._feed.open(self._settings.counts_port)
        return f"tcp://{reachable(self._setting.host)}:{control}?counts={counts}"

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn bias, trigger and enable; count while somebody listens or a scan runs."""
        bias = [self._sweep.bias_ua] * self._n if self._sweep else self._labels["BiasCurrent"]
        self._array.bias_a = [current * 1e-6 for current in self._lowest]
        self._array.state()
        self._lowest = [float(current) for current in bias]
        self._array.bias_a = [current * 1e-6 for current in bias]
        self._array.trigger_v = [level * 1e-3 for level in self._labels["TriggerLevel"]]
        self._array.enabled = bool(self._labels["DetectorEnable"])
        counting = bool(self._feed.links) or self._sweep is not None
        if counting and not self._array.counting:
            self._restart_period()
        self._array.counting = counting

    def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Push a line of counts at the end of each measurement period; advance a scan."""
        volts = self._volts()
        if volts != self._labels["BiasVoltage"]:
            self._change("BiasVoltage", volts)
        if end_ps >= self._next_temperature_ps:
            self._next_temperature_ps = end_ps + _TEMPERATURE_EVERY_PS
            self._temperatures.append(
                (
                    self._unix_s + end_ps * 1e-12,
                    self._noise.gauss(self._settings.stage_temperature_k, 0.002),
                    self._noise.gauss(self._settings.shield_temperature_k, 0.05),
                )
            )
        if not self._array.counting:
            return
        self._counts += self._array.counts
        self._counted_ps += end_ps - begin_ps
        if self._counted_ps * 1e-9 < self._labels["InptMeasurementPeriod"]:
            return
        counts = [int(count) for count in self._counts]
        stamp = round(self._unix_s + end_ps * 1e-12, 3)
        line = ",".join(map(str, (stamp, *counts)))
        for link in self._feed.links:
            link.push("counts", line.encode() + b"\n")
        if self._sweep is not None:
            self._advance(self._sweep, counts)
        self._restart_period()

    async def close(self) -> None:
        """Close every connection and both ports."""
        await self._control.close()
        await self._feed.close()

    def _restart_period(self) -> None:
        self._counts = np.zeros(self._n, np.int64)
        self._counted_ps = 0

    # -- the wire

    async def _serve_counts(self, link: Link) -> None:
        while await link.read():
            pass  # a client has nothing to say here

    async def _serve_control(self, link: Link) -> None:
        buffer = ""
        while data := await link.read():
            # Clients send objects without an end mark; an odd byte cannot begin one.
            buffer = (buffer + data.decode("utf-8", errors="replace")).lstrip(" \r\n\t\0")
            if len(buffer) > LIMIT:
                raise OverlongError
            while buffer:
                try:
                    message, end = _DECODER.raw_decode(buffer)
                except (ValueError, RecursionError):
                    if buffer.startswith("{"):
                        break  # the rest is still on its way
                    await link.send(_message("Error", "not a JSON object"))
                    buffer = buffer[buffer.find("{") :] if "{" in buffer else ""
                    continue
                buffer = buffer[end:].lstrip(" \r\n\t\0")
                await self._take(link, message)

    async def _take(self, link: Link, message: object) -> None:
        try:
            if not isinstance(message, dict):
                raise _RefusedError("not a JSON object")
            if "request" in message:
                await link.send(self._answer(message["request"]))
            elif "command" in message:
                self._command(message["command"], message.get("value"))
            elif message.get("label") in ("IVScanStart", "IVScanEnd", "IVScanIncrement"):
                self._change(message["label"], self._number(message.get("value"), _MAX_BIAS_UA))
            else:
                raise _RefusedError("a request, a command or a scan's label is expected")
        except _RefusedError as error:
            await link.send(_message("Error", str(error)))

    def _answer(self, request: object) -> bytes:
        if request == "labelProps":
            return b"".join(self._glued(self._label_properties()))
        if request == "IVHistory":
            return b"".join(self._glued(self._scan_history()))
        if request == "TemperatureHistory":
            return _message("temperature_long_memory", self._temperature_history())
        if isinstance(request, str) and request in self._labels:
            return _message(request, self._labels[request])
        raise _RefusedError(f"unknown request {str(request)[:40]!r}")

    def _label_properties(self) -> Iterator[bytes]:
        extra: dict[str, dict[str, object]] = {
            "BiasCurrent": {"unit": "uA"},
            "BiasVoltage": {"unit": "mV"},
            "TriggerLevel": {"unit": "mV", "min": -_MAX_TRIGGER_MV, "max": _MAX_TRIGGER_MV},
            "InptMeasurementPeriod": {"unit": "ms", "min": _MIN_PERIOD_MS, "max": _MAX_PERIOD_MS},
            "BiasCurrentAutoIV": {"unit": "uA"},
            "DarkCountsAutoIV": {"unit": "cps"},
        }
        for label, value in self._labels.items():
            yield _message(label, {"value": value, **extra.get(label, {})})

    def _glued(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """Under chaos, some objects share a message, as the real server sends them."""
        for message in messages:
            glue = self._chaos is not None and self._chaos.random() < 0.3
            yield message.removesuffix(_ETB) if glue else message
        if self._chaos is not None:
            yield _message("NumberOfDetectors", self._n)  # ends what was glued last

    def _change(self, label: str, value: object) -> None:
        self._labels[label] = value
        for link in self._control.links:
            link.push(label, _message(label, value))

    # -- commands

    def _command(self, command: object, value: object) -> None:
        if command == "SetAllBiasCurrents":
            if self._sweep is not None:
                raise _RefusedError("a bias scan is running")
            bias = self._list(value, _MAX_BIAS_UA)
            self._lowest = [min(pair, key=abs) for pair in zip(self._lowest, bias, strict=True)]
            self._change("BiasCurrent", bias)
        elif command == "SetAllTriggerLevels":
            self._change("TriggerLevel", self._list(value, _MAX_TRIGGER_MV))
        elif command == "SetMeasurementPeriod":
            period = self._number(value, _MAX_PERIOD_MS)
            if period < _MIN_PERIOD_MS:
                raise _RefusedError(f"the measurement period is {_MIN_PERIOD_MS:g} ms or more")
            self._restart_period()
            self._change("InptMeasurementPeriod", period)
        elif command == "DetectorEnable":
            if not self._flag(value):
                self._lowest = [0.0] * self._n
            self._change("DetectorEnable", value)
        elif command == "DarkCountsAutoIV":
            self._change("DarkCountsAutoIV", self._list(value, 1e9))
        elif command == "AutoCaliBiasCurrents":
            if self._flag(value):
                self._begin_auto_bias()
        elif command == "IVScanEnable":
            if self._flag(value):
                self._begin_scan()
            else:
                self._stop_sweep()
        else:
            raise _RefusedError(f"unknown command {str(command)[:40]!r}")

    def _number(self, value: object, limit: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _RefusedError("a number is expected")
        if not math.isfinite(value) or abs(value) > limit:
            raise _RefusedError(f"{value} is out of range (-{limit:g} to {limit:g})")
        return value

    def _list(self, value: object, limit: float) -> list[float]:
        if not isinstance(value, list) or len(value) != self._n:
            raise _RefusedError(f"a list of {self._n} numbers is expected")
        return [self._number(item, limit) for item in value]

    def _flag(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise _RefusedError("true or false is expected")
        return value

    # -- bias scans

    def _begin_sweep(self, label: str, sweep: _Sweep) -> None:
        if not self._labels["DetectorEnable"]:
            raise _RefusedError("enable the detectors first")
        if self._sweep is not None:
            raise _RefusedError("a bias scan is running")
        self._sweep = sweep
        self._change(label, True)
        self._restart_period()

    def _stop_sweep(self) -> None:
        self._sweep = None
        self._lowest = [0.0] * self._n
        for label in ("StartAutoIV", "IVScanEnable"):
            if self._labels[label]:
                self._change(label, False)

    def _advance(self, sweep: _Sweep, counts: list[int]) -> None:
        sweep.counts.append(counts)
        sweep.volts_mv.append(self._volts())
        if len(sweep.counts) == len(sweep.currents_ua):
            sweep.finish(sweep)
            self._stop_sweep()

    def _begin_auto_bias(self) -> None:
        steps = round(_AUTO_TOP_UA / _AUTO_STEP_UA)
        currents = [k * _AUTO_STEP_UA for k in range(1, steps + 1)]

        def finish(sweep: _Sweep) -> None:
            seconds = self._labels["InptMeasurementPeriod"] * 1e-3
            best = [0.0] * self._n
            for i, wanted in enumerate(self._labels["DarkCountsAutoIV"]):
                for current, counts in zip(currents, sweep.counts, strict=True):
                    # the highest bias before the wanted rate is passed, or the wire latches
                    if counts[i] > wanted * seconds or (best[i] and not counts[i]):
                        break
                    if counts[i]:
                        best[i] = current
            self._change("BiasCurrentAutoIV", best)

        self._begin_sweep("StartAutoIV", _Sweep(currents, finish))

    def _begin_scan(self) -> None:
        start, end = self._labels["IVScanStart"], self._labels["IVScanEnd"]
        increment = self._labels["IVScanIncrement"]
        if increment <= 0 or end < start or (end - start) / increment > _MAX_SCAN_STEPS:
            raise _RefusedError("the scan needs IVScanStart <= IVScanEnd and a positive increment")
        currents = [start + k * increment for k in range(int((end - start) / increment) + 1)]

        def finish(sweep: _Sweep) -> None:
            self._scan = list(zip(currents, sweep.counts, sweep.volts_mv, strict=True))

        self._begin_sweep("IVScanEnable", _Sweep(currents, finish))

    def _volts(self) -> list[float]:
        """Voltage over each wire, mV: none while it superconducts."""
        return [
            bias * 1e3 * _SERIES_OHM if normal else 0.0
            for bias, normal in zip(self._array.bias_a, self._array.normal(), strict=True)
        ]

    def _scan_history(self) -> Iterator[bytes]:
        def rows(letter: str, column: int) -> list[dict[str, float]]:
            return [
                {"biasCurrent": row[0]}
                | {f"{letter}{i + 1}": row[column][i] for i in range(self._n)}  # type: ignore[index]
                for row in self._scan
            ]

        yield _message("ic_scan_history", rows("y", 1))
        yield _message("iv_scan_history", rows("v", 2))

    def _temperature_history(self) -> dict[str, object]:
        def text(unix_s: float) -> str:
            moment = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
            return moment.strftime("%d-%b-%y %H:%M:%S.%f")

        return {
            "x": [text(unix_s) for unix_s, _, _ in self._temperatures],
            "T": [stage for _, stage, _ in self._temperatures],
            "T2": [shield for _, _, shield in self._temperatures],
        }


def _message(label: str, value: object) -> bytes:
    text = json.dumps({"label": label, "value": value}, separators=(",", ":"), allow_nan=False)
    return text.encode() + _ETB
