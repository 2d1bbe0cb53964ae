"""ID Quantique ID900 Time Controller: SCPI in ZeroMQ messages, tags through its DataLink service.

The box itself answers on one REQ socket. Tags leave through the DataLinkTargetService (DLT), a
program of the maker's on some host: a second REQ socket with JSON replies, and one PAIR socket
per input that pushes int64 picoseconds. Sources: IDQ's example code, Time Controller manual.
"""

from __future__ import annotations

import json
import re
import threading
import time
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...instruments import (
    Clock,
    Identity,
    InstrumentError,
    Limits,
    Loss,
    TagBatch,
    TaggerInfo,
    TimesPs,
    Unit,
)
from ..base import Driver, DriverSettings, attempt_all, closed_on_error
from ..signal import LimitedSignal, ReadOnlySignal, Switch
from ..transports.tcp import parse_tcp_address, port_number
from ..transports.zeromq import Requester
from ..watermark import Watermark
from .streams import PairStreams

__all__ = ["ID900Settings", "IDQuantiqueID900"]

_INPUTS = (1, 2, 3, 4)
_THRESHOLD = Limits(-2.0, 2.0)  # (unverified) range of the comparators
_MAX_RATE_HZ = 10e6
_VOLTS = re.compile(r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?) *(mV|V)?")
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?) *(?:TB)?")

Threshold = Annotated[float, Field(ge=_THRESHOLD.low, le=_THRESHOLD.high), Unit("V")]


class ID900Settings(DriverSettings):
    """Settings of an ID900. None leaves the instrument as it is."""

    thresholds: tuple[Threshold, Threshold, Threshold, Threshold] | None = None
    """Threshold of each input, V."""
    edge: Literal["RISING", "FALLING"] | None = None
    """Edge that makes a tag, for all inputs."""
    enabled: tuple[bool, bool, bool, bool] | None = None
    """Which inputs are enabled."""
    latency: Annotated[float, Field(gt=0, le=10), Unit("s")] = 0.05
    """How far reading stays behind the tagger's clock, s."""
    clock_tolerance: Annotated[float, Field(ge=0, le=1e-3), Unit("1")] = 100e-6
    """Largest fraction by which the tagger's clock may run off the bench's."""
    takeover: bool = False
    """Whether starting stops whatever the DataLink service is streaming or saving already: what a
    program that crashed has left there. Not where other boxes or programs use the same service."""


class IDQuantiqueID900(Driver):
    """A four-input time tagger.

    Args:
        name: Name on the bench.
        address: ``tcp://169.254.99.101:5555?dlt=localhost:6060&stream=4242``; what is left out
            takes these values. ``stream`` is the port of input 1, input n is at stream + n - 1.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "ID Quantique ID900"
    Settings: ClassVar[type[ID900Settings]] = ID900Settings

    def __init__(self, name: str, address: str, settings: ID900Settings, clock: Clock) -> None:
        super().__init__(name, address, clock)
        if address:
            self._where()  # a wrong address is said before anything is opened
        self._settings = settings
        self._scpi = Requester(self._endpoint, settings.timeout)
        self._dlt = Requester(self._endpoint, settings.timeout)
        self._streams = PairStreams(self._endpoint, len(_INPUTS), settings.timeout)
        self._lock = threading.RLock()  # recording: start, read, stop
        self._ids: list[str] = []
        self._recording = False
        self._resolution_ps = 1
        self._watermark = self._new_watermark(0.0)
        self._start_unix_ns = 0
        self._end_ps = 0  # last watermark
        self._lost: list[int] = []
        self._losses: list[Loss] = []
        self._pending: list[TimesPs] = []
        self.thresholds: tuple[LimitedSignal, ...] = tuple(
            LimitedSignal(
                f"threshold_{n}",
                "V",
                partial(self._volts, f"INPU{n}:THRE?"),
                partial(self._set_threshold, n),
                label=f"Threshold of input {n}",
                limits=_THRESHOLD,
                endpoint=self._endpoint,
            )
            for n in _INPUTS
        )
        self.enabled: tuple[Switch, ...] = tuple(
            Switch(
                f"enabled_{n}",
                partial(self._flag, f"INPU{n}:ENAB?"),
                partial(self._set_enabled, n),
                label=f"Whether input {n} is enabled",
                endpoint=self._endpoint,
            )
            for n in _INPUTS
        )
        self.stage = ReadOnlySignal(
            "stage",
            "",
            lambda: self._ask("REC:STAG?"),
            label="What the record generator is doing; PLAYING while it records",
        )

    @property
    def info(self) -> TaggerInfo:
        """Capabilities; the resolution is asked when opened."""
        return TaggerInfo(
            _INPUTS,
            self._resolution_ps,
            _MAX_RATE_HZ,
            self._settings.latency,
            self._settings.clock_tolerance,
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the tagger."""
        return (*self.thresholds, *self.enabled, self.stage)

    def open(self) -> None:
        """Connect to the box and to its DataLink service; set nothing."""
        with self._lock:
            if self._scpi.is_open and self._dlt.is_open:
                return
            host, port, dlt_host, dlt_port, _ = self._where()
            with closed_on_error(self._scpi, self._dlt):
                self._scpi.open(host, port)
                self._resolution_ps = max(1, round(self._number("DEVI:RES:BWID?")))
                try:
                    self._dlt.open(dlt_host, dlt_port)
                except InstrumentError as error:
                    raise self._endpoint.error(
                        f"no DataLink service: {error}",
                        hint="start DataLinkTargetService (Windows), /etc/elvis/"
                        "DataLinkTargetService (Linux), or give its place as ?dlt=host:port",
                    ) from error
                self._ask_dlt("list")

    def close(self) -> None:
        """Stop recording and disconnect."""
        with self._lock:
            if not self._scpi.is_open:
                return
            try:
                self.stop()
            finally:
                self._scpi.close()
                self._dlt.close()

    def identify(self) -> Identity:
        """Ask who it is."""
        reply = self._ask("*IDN?")
        vendor, model, serial, firmware = ([f.strip() for f in reply.split(",")] + [""] * 4)[:4]
        return Identity(vendor, model, serial, firmware)

    def configure(self) -> None:
        """Write the settings."""
        wanted = self._settings
        for i, n in enumerate(_INPUTS):
            if wanted.thresholds is not None:
                self.thresholds[i].set(wanted.thresholds[i])
            if wanted.edge is not None:
                self._tell(f"INPU{n}:EDGE {wanted.edge}")
            if wanted.enabled is not None:
                self.enabled[i].set(wanted.enabled[i])

    def ready(self) -> bool:
        """Always, once open."""
        if not self._scpi.is_open:
            raise self._endpoint.not_open()
        return True

    def off(self) -> None:
        """Stop recording."""
        self.stop()

    def safe(self) -> None:
        """Stop recording."""
        self.stop()

    def start(self) -> None:
        """Start recording all four inputs; tag times count from here.

        Raises:
            InstrumentError: if it is recording already, or another client streams these ports.
        """
        with self._lock:
            if self._recording:
                raise self._endpoint.error("is recording already", hint="stop() first")
            host, _, dlt_host, _, stream = self._where()
            for command in (
                "REC:TRIG:ARM:MODE MANU",
                "REC:ENAB ON",
                "REC:STOP",
                "REC:NUM INF",
            ):
                self._tell(command)
            try:
                if self._settings.takeover:
                    for id_ in self._listed():
                        self._ask_dlt(f"stop --id {id_}")
                for n in _INPUTS:
                    self._tell(f"RAW{n}:REF:LINK NONE")
                    self._tell(f"RAW{n}:STOP:LINK INPU{n}")
                    port = stream + n - 1
                    told = self._ask_dlt(
                        f"start-stream --address {host} --channel {n} --stream-port {port}"
                    )
                    self._ids.append(str(told["id"]))
                    self._tell(f"RAW{n}:ERRORS:CLEAR")
                    self._tell(f"RAW{n}:SEND ON")
                self._streams.open(dlt_host, stream)
                self._recording = True
                self._tell("REC:PLAY")
            except InstrumentError as error:
                try:
                    self._undo()
                except InstrumentError as another:
                    error.add_note(f"and while undoing: {another}")
                raise
            self._watermark = self._new_watermark(self._clock.now())
            self._start_unix_ns = time.time_ns()
            self._end_ps = 0
            self._lost = [0] * len(_INPUTS)
            self._losses = []
            self._pending = [np.empty(0, np.int64) for _ in _INPUTS]

    def read(self) -> TagBatch:
        """Return the clicks from the last read up to a new watermark.

        See :meth:`bellbench.instruments.TimeTagger.read`.
        """
        with self._lock:
            if not self._recording:
                raise self._endpoint.error("is not recording", hint="start() first")
            now_s = self._clock.now()
            self._streams.wait([self._forwarded(id_) for id_ in self._ids])
            losses = [*self._losses, *self._overflows(now_s)]
            streams = self._streams.take()
            newest = [int(words.max()) for words in streams if words.size]
            # in stepped time all the words of the time so far, however fast the sockets are
            self._watermark.saw(max(newest, default=0), self._clock.now())
            begin = self._end_ps
            end = self._watermark.at(now_s)
            due: list[TimesPs] = []
            for i, arrived in enumerate(streams):
                times = _ordered(np.concatenate([self._pending[i], arrived]))
                first, last = np.searchsorted(times, [begin, end])
                if first:
                    # the interval reaches into this batch so that cutting it keeps the count
                    losses.append(Loss("late", int(times[0]), begin + 1, int(first)))
                due.append(times[first:last])
                self._pending[i] = times[last:].copy()
            times, channels = _merge(due, begin)
            self._end_ps = end
            self._losses = [loss for loss in losses if loss.end_ps > end and loss.kind != "late"]
            return TagBatch(
                times,
                channels,
                begin,
                end,
                start_unix_ns=self._start_unix_ns,
                clock_id=self.name,
                losses=tuple(losses),
            )

    def stop(self) -> None:
        """Stop recording and discard what was not read. Stopping twice does nothing."""
        with self._lock:
            if self._recording or self._ids:
                self._undo()

    def _new_watermark(self, start_s: float) -> Watermark:
        return Watermark(self._settings.latency, self._settings.clock_tolerance, start_s)

    def _undo(self) -> None:
        recording, self._recording = self._recording, False
        ids, self._ids = self._ids, []

        # each stops at its first failure: a dead box would cost a timeout per command
        def stop_box() -> None:
            if recording:
                self._tell("REC:STOP")
            for n in _INPUTS[: len(ids)]:
                self._tell(f"RAW{n}:SEND OFF")

        def stop_streams() -> None:
            for id_ in ids:
                self._ask_dlt(f"stop --id {id_}")

        # The readers leave before the service frees their ports: they would come back to the next
        # streams there, and be in the way of their readers.
        attempt_all(self._endpoint, "stopping", stop_box, self._streams.close, stop_streams)

    def _forwarded(self, id_: str) -> int:
        """Timestamps that the DLT has forwarded on a stream so far."""
        command = f"status --id {id_}"
        told = self._ask_dlt(command)
        if errors := told.get("errors") or told.get("error"):
            raise self._endpoint.error("the stream failed", command=command, reply=str(errors))
        count = told.get("timestamps_count")
        if not isinstance(count, int):
            raise self._endpoint.error(
                "timestamps_count expected", command=command, reply=json.dumps(told)
            )
        return count

    def _overflows(self, now_s: float) -> list[Loss]:
        found: list[Loss] = []
        for i, n in enumerate(_INPUTS):
            count = round(self._number(f"RAW{n}:ERRORS?"))
            new = count - self._lost[i] if count >= self._lost[i] else count
            self._lost[i] = count
            if new:
                end = max(self._end_ps + 1, self._watermark.latest(now_s))
                found.append(Loss("overflow", self._end_ps, end, new))
        return found

    def _where(self) -> tuple[str, int, str, int, int]:
        """Host and port of the box, host and port of the DLT, port of stream 1."""
        options = {"dlt": "localhost:6060", "stream": "4242"}
        host, port, given = parse_tcp_address(self._endpoint, 5555, options)
        dlt_host, _, text = given["dlt"].rpartition(":")
        dlt_port = port_number(self._endpoint, "dlt", text)
        stream = port_number(self._endpoint, "stream", given["stream"])
        return host, port, dlt_host, dlt_port, stream

    def _set_threshold(self, n: int, volts: float) -> None:
        self._tell(f"INPU{n}:THRE {volts:.6g}V")

    def _set_enabled(self, n: int, on: bool) -> None:
        self._tell(f"INPU{n}:ENAB {'ON' if on else 'OFF'}")

    def _volts(self, command: str) -> float:
        reply = self._ask(command)
        if not (match := _VOLTS.fullmatch(reply)):
            raise self._endpoint.error("a voltage expected", command=command, reply=reply)
        return float(match[1]) * (1e-3 if match[2] == "mV" else 1.0)

    def _flag(self, command: str) -> bool:
        reply = self._ask(command).upper()
        if reply not in ("ON", "OFF", "1", "0"):
            raise self._endpoint.error("ON or OFF expected", command=command, reply=reply)
        return reply in ("ON", "1")

    def _number(self, command: str) -> float:
        reply = self._ask(command)
        if not (match := _NUMBER.fullmatch(reply)):
            raise self._endpoint.error("a number expected", command=command, reply=reply)
        return float(match[1])

    def _ask(self, command: str) -> str:
        reply = self._tell(command)
        if not reply:
            raise self._endpoint.error("an empty answer", command=command, hint="unknown command?")
        return reply

    def _tell(self, command: str) -> str:
        reply = self._scpi.request(command).strip().strip('"')
        if "error" in reply.lower():
            raise self._endpoint.error("refused", command=command, reply=reply)
        return reply

    def _listed(self) -> list[str]:
        """Ids of what the DataLink service is doing."""
        told = self._told("list")
        if not isinstance(told, list):
            raise self._endpoint.error("ids expected", command="list", reply=json.dumps(told))
        return [str(id_) for id_ in told]

    def _told(self, command: str) -> Any:
        text = self._dlt.request(command)
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._endpoint.error(
                "the DataLink service does not answer in JSON", command=command, reply=text
            ) from error

    def _ask_dlt(self, command: str) -> dict[str, Any]:
        told = self._told(command)
        if command == "list":
            return {}
        if not isinstance(told, dict):
            raise self._endpoint.error(
                "a JSON object expected", command=command, reply=json.dumps(told)
            )
        refusal = told.get("error")
        if isinstance(refusal, dict):
            raise self._endpoint.error(
                "the DataLink service refused",
                command=command,
                reply=str(refusal.get("description", refusal)),
                hint="is another program streaming or saving this input? What one that crashed"
                " has left there is stopped with `takeover: true` in the settings",
            )
        if command.startswith("start-stream") and "id" not in told:
            raise self._endpoint.error(
                "a stream id expected", command=command, reply=json.dumps(told)
            )
        return told


def _ordered(times: TimesPs) -> TimesPs:
    """The times in order; a stream nearly always is already."""
    if times.size > 1 and bool(np.any(times[1:] < times[:-1])):
        return np.sort(times, kind="stable")
    return times


def _merge(parts: list[TimesPs], begin_ps: int) -> tuple[TimesPs, np.ndarray[Any, Any]]:
    """One sorted stream of (time, input) from one sorted array per input.

    Time and input are packed into one integer, counted from ``begin_ps`` so that it cannot
    overflow: numpy then sorts runs of plain int64.
    """
    packed = np.concatenate([(part - begin_ps) << 2 | i for i, part in enumerate(parts)])
    packed.sort(kind="stable")
    channels = (packed & 3).astype(np.int16) + np.int16(1)
    return (packed >> 2) + begin_ps, channels
