"""S-Fifteen TDC1: four inputs, 2 ns, over a USB serial port.

ASCII commands, until a recording turns the port into a stream of 32-bit words. Source: pyS15.
"""

from __future__ import annotations

import threading
import time
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ...instruments import (
    Clock,
    Identity,
    InstrumentError,
    Limits,
    Loss,
    TagBatch,
    TaggerInfo,
    Unit,
)
from ...instruments.formats import Tdc1Decoder
from ..base import DriverSettings, SerialDriver
from ..signal import LimitedSignal, ReadOnlySignal, Signal
from ..transports.serial_port import SerialPort
from ..watermark import Watermark

__all__ = ["SFifteenTDC1", "TDC1Settings"]

_INPUTS = (1, 2, 3, 4)
_RESOLUTION_PS = 2000
_MAX_RATE_HZ = 4e6
_THRESHOLD = Limits(-2.0, 2.0)  # (unverified)
_MODES = {"singles": "0", "pairs": "1", "timestamp": "3"}
_CLOCKS = ("auto", "external", "internal")
_MAX_BYTES = 1 << 26
_QUIET_S = 0.05
_POLL_S = 0.1
_SOUNDING_PS = 10**10  # how uncertain the tagger's clock may become


class TDC1Settings(DriverSettings):
    """Settings of a TDC1. None leaves the instrument as it is."""

    pulses: Literal["NIM", "TTL"] | None = None
    """Kind of pulses; sets the threshold too."""
    threshold: Annotated[float, Field(ge=_THRESHOLD.low, le=_THRESHOLD.high), Unit("V")] | None = (
        None
    )
    """Threshold of all inputs, V; negative for falling pulses."""
    clock_source: Literal["auto", "external", "internal"] | None = None
    """Reference clock."""
    latency: Annotated[float, Field(ge=0.27, le=10), Unit("s")] = 0.3
    """How far reading stays behind the tagger's clock, s; covers one turn of the counter,
    0.268 s."""
    clock_tolerance: Annotated[float, Field(ge=0, le=1e-3), Unit("1")] = 100e-6
    """Largest fraction by which the tagger's clock may run off the bench's."""

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if self.pulses is not None and self.threshold is not None:
            raise ValueError("give either pulses or threshold: both set the same comparator")
        return self


class SFifteenTDC1(SerialDriver):
    """A four-input time tagger.

    While it records, the port carries words only: signals cannot be read or set.

    Args:
        name: Name on the bench.
        address: Serial port (``COM5``, ``/dev/ttyACM0``) or pyserial URL.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "S-Fifteen TDC1"
    Settings: ClassVar[type[TDC1Settings]] = TDC1Settings

    def __init__(self, name: str, address: str, settings: TDC1Settings, clock: Clock) -> None:
        super().__init__(name, address, settings, clock)
        self._settings = settings
        self._lock = threading.RLock()
        self._reader: _WordReader | None = None
        self._watermark = self._new_watermark(0.0)
        self._start_unix_ns = 0
        self._decoder = Tdc1Decoder()
        self._decoded: list[TagBatch] = []  # not given out yet
        self._decoded_ps = 0
        self._end_ps = 0  # last watermark
        self.threshold = LimitedSignal(
            "threshold",
            "V",
            self._threshold,
            lambda volts: self._tell(f"{'NEG' if volts < 0 else 'POS'} {volts:.6g}"),
            label="Threshold of all inputs",
            limits=_THRESHOLD,
            endpoint=self._endpoint,
        )
        self.clock_source: Signal[str] = Signal(
            "clock_source",
            "",
            self._clock_source,
            self._set_clock_source,
            label="Reference clock: auto, external or internal",
        )

    @property
    def info(self) -> TaggerInfo:
        """Capabilities."""
        return TaggerInfo(
            _INPUTS,
            _RESOLUTION_PS,
            _MAX_RATE_HZ,
            self._settings.latency,
            self._settings.clock_tolerance,
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the tagger."""
        return (self.threshold, self.clock_source)

    def open(self) -> None:
        """Open the port; a recording that another program left running is ended."""
        with self._lock:
            super().open()

    def close(self) -> None:
        """Stop recording and close the port."""
        with self._lock:
            try:
                self.stop()
            finally:
                self._port.close()

    def identify(self) -> Identity:
        """Ask who it is."""
        return Identity("S-Fifteen", "TDC1", firmware=self._ask("*IDN?"))

    def configure(self) -> None:
        """Write the settings."""
        wanted = self._settings
        if wanted.clock_source is not None:
            self.clock_source.set(wanted.clock_source)
        if wanted.pulses is not None:
            self._tell(wanted.pulses)
        if wanted.threshold is not None:
            self.threshold.set(wanted.threshold)

    def ready(self) -> bool:
        """Always, once open."""
        if not self._port.is_open:
            raise self._endpoint.not_open()
        return True

    def off(self) -> None:
        """Stop recording."""
        self.stop()

    def safe(self) -> None:
        """Stop recording."""
        self.stop()

    def start(self) -> None:
        """Start recording; tag times count from here.

        Raises:
            InstrumentError: if it is recording already.
        """
        with self._lock:
            self._idle()
            self._tell("timestamp", mode="timestamp")
            self._port.write(b"INPKT;time 0;counts?;\r\n")
            self._watermark = self._new_watermark(self._clock.now())
            self._start_unix_ns = time.time_ns()
            self._decoder = Tdc1Decoder()
            self._decoded = []
            self._decoded_ps = self._end_ps = 0
            self._reader = _WordReader(self._port, self.name)

    def read(self) -> TagBatch:
        """Return the clicks from the last read up to a new watermark.

        See :meth:`bellbench.instruments.TimeTagger.read`.
        """
        with self._lock:
            if self._reader is None:
                raise self._endpoint.error("is not recording", hint="start() first")
            now_s = self._clock.now()
            begin, end = self._end_ps, self._watermark.at(now_s)
            while self._decoded_ps < end:
                if not self._take(self._reader):
                    raise self._endpoint.timeout(
                        f"the stream stays at {self._decoded_ps * 1e-12:.3f} s, by the bench's"
                        f" clock it is beyond {end * 1e-12:.3f} s, and nothing has come for"
                        f" {self._settings.timeout:g} s",
                        hint="was the recording aborted elsewhere, or the cable pulled?"
                        " stop() and start() again; where its clock runs slow by more than"
                        f" clock_tolerance ({self._settings.clock_tolerance:g}), give more",
                    )
            if self._watermark.uncertainty_ps(now_s) > _SOUNDING_PS:
                self._sound(self._reader, now_s)
                end = self._watermark.at(now_s)
            return self._cut(begin, end)

    def stop(self) -> None:
        """Stop recording and discard what was not read. Stopping twice does nothing."""
        with self._lock:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
                if self._port.is_open:  # else the connection broke, and was said to
                    self._abort()

    def _greet(self) -> None:
        self._abort()
        reply = self._ask("*IDN?")
        if "TDC1" not in reply:
            raise self._endpoint.error(
                "is no TDC1", command="*IDN?", reply=reply, hint="check the port"
            )

    def _take(self, reader: _WordReader, silences: int | None = None) -> bool:
        """Decode what has come; whether anything had."""
        words = reader.take(self._settings.timeout, silences)
        if words:
            batch = self._decoder.feed(words)
            self._decoded.append(batch)
            self._decoded_ps = batch.end_ps
        return bool(words)

    def _sound(self, reader: _WordReader, now_s: float) -> None:
        """Find how far the stream has come, so that the watermark follows a fast clock.

        How many words happen to have come does not do: two runs on twins would differ. So it
        reads until the line is silent, as it is in stepped time once everything is here; on
        hardware what comes soon leads beyond the clock reading.
        """
        silences = reader.silences
        while self._decoded_ps < self._watermark.latest(now_s):
            if not self._take(reader, silences):
                break
        self._watermark.saw(self._decoded_ps, self._clock.now())

    def _new_watermark(self, start_s: float) -> Watermark:
        return Watermark(self._settings.latency, self._settings.clock_tolerance, start_s)

    def _cut(self, begin: int, end: int) -> TagBatch:
        """Give out what was decoded, up to ``end``."""
        times = np.concatenate([np.empty(0, np.int64), *(b.times_ps for b in self._decoded)])
        channels = np.concatenate([np.empty(0, np.int16), *(b.channels for b in self._decoded)])
        losses: list[Loss] = []
        for batch in self._decoded:
            losses += [loss for loss in batch.losses if loss not in losses]
        i = int(np.searchsorted(times, end))
        rest = tuple(loss for loss in losses if loss.end_ps > end)
        self._decoded = [
            TagBatch(times[i:].copy(), channels[i:].copy(), end, self._decoded_ps, losses=rest)
        ]
        self._end_ps = end
        return TagBatch(
            times[:i],
            channels[:i],
            begin,
            end,
            start_unix_ns=self._start_unix_ns,
            clock_id=self.name,
            losses=tuple(loss for loss in losses if loss.begin_ps < end),
        )

    def _threshold(self) -> float:
        reply = self._ask("level?")
        try:
            return float(reply.split()[0])
        except (IndexError, ValueError) as error:
            raise self._endpoint.error(
                "a voltage expected", command="level?", reply=reply
            ) from error

    def _clock_source(self) -> str:
        reply = self._ask("REFCLK?")
        if reply[:1] not in ("0", "1", "2"):
            raise self._endpoint.error("0, 1 or 2 expected", command="REFCLK?", reply=reply)
        return _CLOCKS[int(reply[0])]

    def _set_clock_source(self, source: str) -> None:
        if source not in _CLOCKS:
            raise self._endpoint.error(
                f"clock_source cannot be {source!r}: it is {', '.join(_CLOCKS)}"
            )
        self._tell(f"REFCLK {_CLOCKS.index(source)}")

    def _idle(self) -> None:
        if self._reader is not None:
            raise self._endpoint.error("is recording", hint="stop() first")

    def _ask(self, command: str) -> str:
        with self._lock:
            self._idle()
            with self._answer_to(command.encode("ascii") + b"\r\n"):
                return self._line(command)

    def _tell(self, command: str, *, mode: str | None = None) -> None:
        """Send a setting. It has no reply, so the mode is asked behind it."""
        chained = f"{command};mode?"
        reply = self._ask(chained)
        if reply not in _MODES.values():
            raise self._endpoint.error("refused", command=chained, reply=reply)
        if mode is not None and reply != _MODES[mode]:
            raise self._endpoint.error(f"mode {mode} not taken", command=chained, reply=reply)

    def _abort(self) -> None:
        """End a stream and throw away what is still on its way."""
        self._port.write(b"abort\r\n")
        deadline = time.monotonic() + self._settings.timeout
        while self._port.read_some(_QUIET_S):
            if time.monotonic() > deadline:
                raise self._endpoint.timeout(
                    "keeps streaming", command="abort", hint="unplug it and plug it in again"
                )


class _WordReader:
    """The thread that reads the stream, into bounded memory."""

    def __init__(self, port: SerialPort, name: str) -> None:
        self._port = port
        self._news = threading.Condition()
        self._chunks: list[bytes] = []
        self._held = 0
        self._silences = 0
        self._closing = False
        self._broken: InstrumentError | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name} stream", daemon=True)
        self._thread.start()

    @property
    def silences(self) -> int:
        """How often the line has been found silent: all that was sent before is here."""
        with self._news:
            return self._silences

    def take(self, timeout_s: float, silences: int | None = None) -> bytes:
        """Return what has arrived, waiting for it; empty after ``timeout_s`` of silence.

        With ``silences``, empty also where the line has been found silent more often than that.
        """

        def news() -> bool:
            silent = silences is not None and self._silences > silences
            return bool(self._chunks) or self._broken is not None or silent

        with self._news:
            self._news.wait_for(news, timeout_s)
            if self._broken is not None and not self._chunks:
                raise self._broken
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
            self._news.notify_all()
            return data

    def close(self) -> None:
        """End the thread; the port stays open."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                with self._news:
                    # unread words stay in the port, so that the sender is held back
                    self._news.wait_for(lambda: self._closing or self._held < _MAX_BYTES)
                    if self._closing:
                        return
                data = self._port.read_some(_POLL_S)
                with self._news:
                    if data:
                        self._chunks.append(data)
                        self._held += len(data)
                    else:
                        self._silences += 1
                    self._news.notify_all()
        except InstrumentError as error:
            with self._news:
                self._broken = error
                self._news.notify_all()
