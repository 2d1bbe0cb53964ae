"""Twin of the ID Quantique ID900 Time Controller and of its DataLinkTargetService (DLT).

SCPI in ZeroMQ REQ/REP, DLT commands in REQ/REP with JSON answers, tags as int64 ps on PAIR sockets.
Sources: IDQ's example code, the Time Controller manual. Not known from a real unit, and chosen
here: a refused command is answered with ``error: `` and the error's text, which also goes to
``SYST:ERR?``; a good setting is answered with an empty message. Histograms, combiners other than
the preset's forwarding (``TSCO5`` ... ``TSCO8`` carry ``DELA1`` ... ``DELA4``), generators and
``start-save`` are not served. Records, counters and delays go by the tagger's own clock; what its
memory has lost counts in ``RAW#:ERRORS?``. Words have 64 bits: no counter rolls over.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import shlex
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import zmq
import zmq.asyncio
from pydantic import Field
from zmq.utils.monitor import recv_monitor_message

from ...instruments import TwinError, Unit
from ..elements import TaggerInputs
from .base import Setting
from .scpi import (
    Bounds,
    Command,
    Interpreter,
    Numbers,
    ScpiError,
    choice,
    flag,
    number,
    numeric,
    query,
)
from .wire import LIMIT, DeviceSettings, TcpPort, chaos_generator, reachable, report_failure

__all__ = ["ID900Emulator"]

Times = npt.NDArray[np.int64]

_CHANNELS = (1, 2, 3, 4)
_DELAYS = tuple(range(1, 9))
_NO_TIMES: Times = np.empty(0, np.int64)
_PS = 1_000_000_000_000
#: A stream that nobody connects to holds a stepped world this long (wall time), then it is dropped.
_FIRST_READER_S = 10.0
#: Blocks a paced stream keeps for a slow reader: 1 s.
_PACED_BACKLOG = 100
_LINGER_MS = 500
_INPUTS = ("INPUt1", "INPUt2", "INPUt3", "INPUt4")
_SIGNALS = (
    "NONE",
    "STARt",
    *_INPUTS,
    *(f"DELAy{n}" for n in _DELAYS),
    *(f"TSCO{n + 4}" for n in _CHANNELS),
)


@dataclass
class _Input:
    """Registers and counter of one input."""

    enabled: bool = False
    coupling: str = "DC"
    edge: str = "RISI"
    threshold_v: float = 0.1
    select: str = "UNSH"
    accumulate: bool = False
    integration_ps: float = float(_PS)
    count: int = 0
    cycle_count: int = 0
    cycle_begin_ps: int | None = None

    def add(self, times: Times, begin_ps: int, end_ps: int) -> None:
        """Count the clicks of a block."""
        if self.accumulate:
            self.count += times.size
            self.cycle_begin_ps = None
            return
        if self.cycle_begin_ps is None:
            self.cycle_begin_ps, self.cycle_count = begin_ps, 0
        cycle_ps = round(self.integration_ps)
        ended = (end_ps - self.cycle_begin_ps) // cycle_ps
        if not ended:
            self.cycle_count += times.size
            return
        self.cycle_begin_ps += ended * cycle_ps
        edges = (self.cycle_begin_ps - cycle_ps, self.cycle_begin_ps)
        first, last = np.searchsorted(times, edges).tolist()
        self.count = last - first if ended > 1 else self.cycle_count + last
        self.cycle_count = times.size - last

    def reset(self) -> None:
        """Start counting anew."""
        self.count = 0
        self.cycle_begin_ps = None


@dataclass
class _Delay:
    link: str
    value_ps: float = 0.0
    line: Times = field(default_factory=lambda: _NO_TIMES)
    """Clicks on their way through the delay, ps since the record's start."""

    def pass_on(self, times: Times, end_ps: int) -> Times:
        """Take the block's clicks; return those that leave before ``end_ps``."""
        if not self.value_ps and not self.line.size:
            return times
        # A delay that was just changed can let a later click overtake.
        line = np.sort(np.concatenate((self.line, times + round(self.value_ps))), kind="stable")
        out = int(np.searchsorted(line, end_ps))
        self.line = line[out:]
        return line[:out]


@dataclass
class _Raw:
    """A tag output: what it sends and what it lost."""

    stop: str
    ref: str = "NONE"
    send: bool = False
    lost: int = 0
    ref_time_ps: int = 0
    ref_count: int = 0


class _Stream:
    """One DLT stream: a bound PAIR socket and the messages on their way to its reader."""

    def __init__(self, context: zmq.asyncio.Context, high_water_mark: int) -> None:
        self.port = 0
        self.number = ""
        self.channel = 0
        self.with_index = False
        self.timestamps = 0
        self.acquisitions = 0
        self.last_ps = 0
        self.lost = 0
        self.words: list[Times] = []  # of the next message
        self._socket: zmq.asyncio.Socket = context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self._socket.setsockopt(zmq.RCVHWM, 1)  # readers have nothing to say
        self._socket.setsockopt(zmq.MAXMSGSIZE, LIMIT)
        self._endpoint = ""
        self._here = asyncio.Event()
        self._gone = asyncio.Event()
        self._outbox: deque[tuple[bytes, int]] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._monitor: Any = None

    async def open(self, host: str, port: int, patience_s: float = 0.0) -> int:
        """Bind; a port that is being freed is awaited ``patience_s``.

        Raises:
            zmq.ZMQError: where the port cannot be bound.
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            try:
                self.port = _bind(self._socket, host, port)
                break
            except zmq.ZMQError:
                if asyncio.get_running_loop().time() >= deadline:
                    self._socket.close(linger=0)
                    raise
                await asyncio.sleep(0.005)
        self._endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._monitor = self._socket.get_monitor_socket()
        works = (self._watch(self._monitor), self._pump(), self._ignore())
        self._tasks = [asyncio.create_task(work) for work in works]
        return self.port

    @property
    def backlog(self) -> int:
        """Messages not yet handed to the socket."""
        return len(self._outbox)

    def expect_reader(self) -> None:
        """Wait for a reader anew: the last one may have met this socket on its way out."""
        if not self._here.is_set():
            self._gone.clear()

    def put(self, message: bytes, tags: int) -> None:
        """Queue a message that carries ``tags`` time stamps; the empty message ends a record."""
        self._outbox.append((message, tags))
        self._idle.clear()
        self._work.set()

    async def idle(self) -> None:
        """Return when everything queued was taken or dropped."""
        await self._idle.wait()

    async def close(self) -> None:
        """End the stream, drop what is queued and free the port."""
        # Before its reader is closed: libzmq waits to say that the monitor stops.
        self._socket.disable_monitor()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._monitor.close(linger=0)
        self._outbox.clear()
        self._idle.set()
        self._socket.unbind(self._endpoint)
        self._socket.close(linger=_LINGER_MS)

    async def _watch(self, monitor: Any) -> None:
        guests: list[int] = []  # connections that have not shaken hands, the latest last
        readers: set[int] = set()
        while True:
            news = await recv_monitor_message(monitor)
            event, connection = news["event"], news["value"]
            if event == zmq.Event.ACCEPTED:
                guests.append(connection)
            elif event == zmq.Event.HANDSHAKE_SUCCEEDED and guests:
                # libzmq does not say whose handshake it was; a reader shakes hands at once.
                readers.add(guests.pop())
                self._gone.clear()
                self._here.set()
            elif event == zmq.Event.DISCONNECTED and connection in readers:
                readers.remove(connection)
                if not readers:
                    self._here.clear()
                    self._gone.set()
            elif event == zmq.Event.DISCONNECTED and connection in guests:
                guests.remove(connection)

    async def _ignore(self) -> None:
        # What a reader says must be read, or libzmq keeps its pipe when it is gone.
        while True:
            await self._socket.recv()

    async def _pump(self) -> None:
        while True:
            await self._work.wait()
            while self._outbox:
                message, tags = self._outbox[0]
                taken = await self._deliver(message)
                self._outbox.popleft()
                if taken:
                    self.timestamps += tags
                else:
                    self.lost += tags
            self._work.clear()
            self._idle.set()

    async def _deliver(self, message: bytes) -> bool:
        if not (self._here.is_set() or self.timestamps or self.lost):
            # Nothing was taken yet: who leaves now is the reader of the stream before, which
            # found this socket on its way out; the new one is still to come.
            await _first(self._here.wait(), timeout=_FIRST_READER_S)
            if not self._here.is_set():
                self._gone.set()
        if self._gone.is_set():
            return False
        sending = asyncio.ensure_future(self._socket.send(message))
        if not sending.done():
            await _first(sending, self._gone.wait())
        return not sending.cancelled() and sending.exception() is None


async def _first(*works: Any, timeout: float | None = None) -> None:
    """Wait for the first of ``works`` and cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _bind(socket: zmq.asyncio.Socket, host: str, port: int) -> int:
    place = f"[{host}]" if ":" in host else host
    if ":" in host:
        socket.setsockopt(zmq.IPV6, 1)
    socket.bind(f"tcp://{place}:{port or '*'}")
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


class _DltError(Exception):
    """The description that the DLT answers."""


class ID900Emulator:
    """An ID900 with its DLT, on the inputs of one tagger."""

    ELEMENT: ClassVar[type[TaggerInputs]] = TaggerInputs
    MODEL: ClassVar[str] = "ID900"

    class Settings(DeviceSettings):
        """Identity, ports and limits."""

        serial_number: str = "1900001"
        firmware: str = "1.20.0"
        dlt_port: TcpPort = 0
        stream_port: TcpPort = 0
        """Port of channel 1; channel n has ``stream_port + n - 1``. 0: four free ones in a row."""
        max_rate: Annotated[float, Unit("Hz"), Field(gt=0)] = 10e6
        """Tags per second, summed over the channels, beyond which the device loses tags."""
        resolution_ps: Annotated[int, Field(ge=1)] = 1
        """Bin width in the HIRES mode."""
        coarse_resolution_ps: Annotated[int, Field(ge=1)] = 100
        """Bin width in the LOWRES mode."""
        message_period: Annotated[float, Unit("s"), Field(gt=0, le=1)] = 0.01
        """Time of which a message carries the tags; the driver's latency must be longer."""

    def __init__(self, setting: Setting, element: TaggerInputs, settings: Settings) -> None:
        self._setting = setting
        self._element = element
        self._settings = settings
        self._chaos = chaos_generator(setting, settings.chaos)
        self._context: zmq.asyncio.Context | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[zmq.asyncio.Socket] = []
        self._spare: dict[int, _Stream] = {}
        self._reserved: list[int] = []
        self._streams: dict[str, _Stream] = {}
        self._last_number = 0
        self._now_ps = 0
        self._in_block = False
        self._counting = False
        self._start_pending = False
        self._zero_ps: int | None = None
        self._message_ps = 0  # end of the block that ends the next message
        self._restore()
        self._interpreter = Interpreter(
            self._commands(),
            f"IDQ,{self.MODEL},{settings.serial_number},{settings.firmware}",
            self._reset,
            joiner="\n",
            answer_errors=True,
        )

    async def open(self) -> str:
        """Bind the ports; return ``tcp://host:port?dlt=host:port&stream=port``.

        Raises:
            TwinError: where a port cannot be bound.
        """
        self._context = zmq.asyncio.Context()
        host = self._setting.host
        try:
            port = self._serve(self._context, self._settings.port, self._answer)
            dlt = self._serve(self._context, self._settings.dlt_port, self._answer_dlt)
            first = await self._reserve()
        except zmq.ZMQError as error:
            await self.close()
            raise TwinError(
                f"twin {self._setting.name!r} cannot bind its ports on {host} ({error.strerror}); "
                "leave the ports out to take free ones"
            ) from error
        place = reachable(host)
        return f"tcp://{place}:{port}?dlt={place}:{dlt}&stream={first}"

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Start a record where one was asked for; turn the tagger's knob."""
        self._in_block = True
        if self._start_pending:
            self._start_pending = False
            self._zero_ps = self._element.start_ps(begin_ps)
            self._message_ps = 0
            for delay in self._delays.values():
                delay.line = _NO_TIMES
            for raw in self._raws.values():
                raw.ref_time_ps = raw.ref_count = 0
        self._element.recording = self._zero_ps is not None or self._counting

    async def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Hand the block's tags to the streams; in stepped time wait until they are taken."""
        self._now_ps = end_ps
        by_input = self._clicks()
        began, ended = (self._element.clock_ps(edge) for edge in (begin_ps, end_ps))
        if self._counting:
            for n, register in self._inputs.items():
                register.add(by_input[n], began, ended)
        if self._zero_ps is not None:
            self._deliver(by_input, ended, end_ps - begin_ps)
            if self._setting.lossless:
                for stream in list(self._streams.values()):
                    await stream.idle()
            if not self._endless and ended - self._zero_ps >= self._duration_ps:
                self._playing = False
        self._in_block = False
        self._finish()

    async def close(self) -> None:
        """Close every connection and port."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in (*self._streams.values(), *self._spare.values()):
            await stream.close()
        for socket in self._sockets:
            socket.close(linger=0)
        self._tasks, self._sockets, self._streams, self._spare = [], [], {}, {}
        if self._context is not None:
            await asyncio.to_thread(self._context.term)
            self._context = None

    # -- ports ------------------------------------------------------------------------------------

    def _serve(
        self, context: zmq.asyncio.Context, port: int, answer: Callable[[bytes], Any]
    ) -> int:
        socket = context.socket(zmq.REP)
        self._sockets.append(socket)
        socket.setsockopt(zmq.MAXMSGSIZE, LIMIT)
        bound = _bind(socket, self._setting.host, port)
        task = asyncio.create_task(self._reply(socket, answer))
        report_failure(task, self._setting.name)
        self._tasks.append(task)
        return bound

    @staticmethod
    async def _reply(socket: zmq.asyncio.Socket, answer: Callable[[bytes], Any]) -> None:
        while True:
            parts = await socket.recv_multipart()
            await socket.send(await answer(b"".join(parts)))

    async def _reserve(self) -> int:
        """Bind the four stream ports, so that nobody takes them before a stream starts."""
        fixed = self._settings.stream_port
        for attempt in range(50):
            made: list[_Stream] = []
            try:
                first = 0
                for n in range(len(_CHANNELS)):
                    stream = self._new_stream()
                    wanted = fixed + n if fixed else (first + n if first else 0)
                    port = await stream.open(self._setting.host, wanted)
                    made.append(stream)
                    first = first or port
            except zmq.ZMQError:
                for stream in made:
                    await stream.close()
                if fixed or attempt == 49:
                    raise
                continue
            self._reserved = [stream.port for stream in made]
            self._spare = {stream.port: stream for stream in made}
            return first
        raise AssertionError("unreachable")

    def _new_stream(self) -> _Stream:
        assert self._context is not None
        return _Stream(self._context, 1 if self._setting.lossless else _PACED_BACKLOG)

    # -- SCPI -------------------------------------------------------------------------------------

    async def _answer(self, message: bytes) -> bytes:
        return (self._interpreter.execute(message.decode("latin-1")) or "").encode("ascii")

    def _restore(self) -> None:
        self._inputs = {n: _Input() for n in _CHANNELS}
        self._start_input = _Input()
        self._delays = {n: _Delay(f"INPU{(n - 1) % 4 + 1}") for n in _DELAYS}
        self._raws = {n: _Raw(f"DELA{n}") for n in _CHANNELS}
        self._high_resolution = True
        self._record_enabled = False
        self._endless = False
        self._duration_ps = float(_PS)
        self._pulse_ps = float(_PS)
        self._period_ps = float(_PS)
        self._playing = False

    def _reset(self) -> None:
        self._stop_record()
        self._restore()

    def _commands(self) -> list[Command]:
        commands = [
            *self._input_commands("STARt", lambda: self._start_input),
            *choice(
                "DEVIce:RESolution",
                ("HIRES", "LOWRES"),
                lambda: "HIRES" if self._high_resolution else "LOWRES",
                self._set_resolution,
            ),
            query("DEVIce:RESolution:BWIDth?", lambda: f"{self._bin_ps()}TB"),
            _action("DEVIce:SAMPling:RECAlibrate", lambda: None),
            # Both presets route the delayed inputs to the tag outputs; queries are not known.
            choice("DEVIce:CONFiguration:LOAD", ("COUNT", "HISTO"), str, self._load_preset)[0],
            *choice("RECord:TRIGger:ARM:MODE", ("MANUal",), lambda: "MANUAL", lambda _word: None),
            *flag(
                "RECord:ENABle",
                lambda: self._record_enabled,
                lambda on: setattr(self, "_record_enabled", on),
                ("OFF", "ON"),
            ),
            Command("RECord:NUMber", self._set_number, 1, 1),
            query("RECord:NUMber?", lambda: "INF" if self._endless else "1"),
            *self._duration("RECord:DURation", "_duration_ps"),
            *self._duration("RECord:PWIDth", "_pulse_ps"),
            *self._duration("RECord:PPERiod", "_period_ps"),
            _action("RECord:PLAY", self._play),
            _action("RECord:STOP", self._stop_record),
            query("RECord:STAGe?", lambda: "PLAYING" if self._playing else "STOPPED"),
        ]
        for n in _CHANNELS:
            commands += self._input_commands(f"INPUt{n}", functools.partial(self._input, n))
            commands += self._raw_commands(n)
        for n in _DELAYS:
            commands += self._delay_commands(n)
        return commands

    def _input_commands(self, root: str, get: Callable[[], _Input]) -> list[Command]:
        def attribute(name: str) -> Callable[[], str]:
            return lambda: str(getattr(get(), name))

        def put(name: str) -> Callable[[object], None]:
            return lambda value: setattr(get(), name, value)

        def count() -> str:
            self._counting = True
            return str(get().count)

        return [
            *flag(f"{root}:ENABle", lambda: get().enabled, put("enabled"), ("OFF", "ON")),
            *choice(f"{root}:COUPling", ("DC", "AC"), attribute("coupling"), put("coupling")),
            *choice(
                f"{root}:EDGE",
                ("RISIng", "FALLing"),
                lambda: {"RISI": "RISING", "FALL": "FALLING"}[get().edge],
                put("edge"),
            ),
            *numeric(
                f"{root}:THREshold",
                lambda: get().threshold_v,
                put("threshold_v"),
                lambda: (-2.0, 2.0, 0.1),
                ("V",),
                show=lambda volts: f"{volts:.3f}V",
            ),
            *choice(
                f"{root}:SELEct",
                ("UNSHaped", "SHAPed"),
                lambda: {"UNSH": "UNSHAPED", "SHAP": "SHAPED"}[get().select],
                put("select"),
            ),
            *choice(
                f"{root}:COUNter:MODE",
                ("CYCLe", "ACCUm"),
                lambda: "ACCUM" if get().accumulate else "CYCLE",
                lambda word: setattr(get(), "accumulate", word == "ACCU"),
            ),
            *numeric(
                f"{root}:COUNter:INTEgration",
                lambda: get().integration_ps,
                put("integration_ps"),
                _duration_bounds,
                ("TB",),
                show=_show_time,
            ),
            _action(f"{root}:COUNter:RESEt", lambda: get().reset()),
            query(f"{root}:COUNter?", count),
            query(f"{root}:HIRES:ERROR?", lambda: "0"),
            _action(f"{root}:HIRES:ERROR:CLEAR", lambda: None),
        ]

    def _delay_commands(self, n: int) -> list[Command]:
        return [
            *numeric(
                f"DELAy{n}:VALUe",
                lambda: self._delays[n].value_ps,
                lambda value: setattr(self._delays[n], "value_ps", float(round(value))),
                lambda: (0.0, float(_PS), 0.0),
                ("TB",),
                show=_show_time,
            ),
            *choice(
                f"DELAy{n}:LINK",
                ("NONE", "STARt", *_INPUTS),
                lambda: self._delays[n].link,
                lambda word: setattr(self._delays[n], "link", word),
            ),
        ]

    def _raw_commands(self, n: int) -> list[Command]:
        def put(name: str) -> Callable[[object], None]:
            return lambda value: setattr(self._raws[n], name, value)

        return [
            *choice(f"RAW{n}:REF:LINK", _SIGNALS, lambda: self._raws[n].ref, put("ref")),
            *choice(f"RAW{n}:STOP:LINK", _SIGNALS, lambda: self._raws[n].stop, put("stop")),
            *flag(f"RAW{n}:SEND", lambda: self._raws[n].send, put("send"), ("OFF", "ON")),
            query(f"RAW{n}:ERRORS?", lambda: str(self._errors(n))),
            _action(f"RAW{n}:ERRORS:CLEAR", lambda: self._clear_errors(n)),
        ]

    def _duration(self, pattern: str, name: str) -> list[Command]:
        return numeric(
            pattern,
            lambda: float(getattr(self, name)),
            lambda value: setattr(self, name, float(round(value))),
            _duration_bounds,
            ("TB",),
            show=_show_time,
        )

    def _input(self, n: int) -> _Input:
        return self._inputs[n]

    def _set_resolution(self, word: str) -> None:
        self._high_resolution = word == "HIRES"

    def _bin_ps(self) -> int:
        fine, coarse = self._settings.resolution_ps, self._settings.coarse_resolution_ps
        return fine if self._high_resolution else coarse

    def _load_preset(self, _word: str) -> None:
        self._raws = {n: _Raw(f"TSCO{n + 4}", lost=self._raws[n].lost) for n in _CHANNELS}
        for n in _CHANNELS:
            self._delays[n].link = f"INPU{n}"

    def _set_number(self, _numbers: Numbers, parameters: Sequence[str]) -> None:
        if parameters[0].upper() in ("INF", "INFINITY"):
            self._endless = True
            return
        value, _ = number(parameters[0])
        if value not in (0.0, 1.0):
            raise ScpiError(-222)
        self._endless = value == 0.0

    def _errors(self, n: int) -> int:
        return self._raws[n].lost + sum(s.lost for s in self._streams.values() if s.channel == n)

    def _clear_errors(self, n: int) -> None:
        self._raws[n].lost = 0
        for stream in self._streams.values():
            if stream.channel == n:
                stream.lost = 0

    # -- records ----------------------------------------------------------------------------------

    def _play(self) -> None:
        if not self._record_enabled or self._playing:
            raise ScpiError(-221)
        self._playing = True
        self._start_pending = True

    def _stop_record(self) -> None:
        self._playing = False
        self._start_pending = False
        self._finish()

    def _finish(self) -> None:
        """End the record at a block boundary: at once between blocks, else when the block ends."""
        if self._zero_ps is None or self._in_block or (self._playing and not self._start_pending):
            return
        self._zero_ps = None
        self._send()
        for stream in self._streams.values():
            stream.acquisitions += 1
            stream.put(b"", 0)

    def _clicks(self) -> dict[int, Times]:
        """Times of the block's clicks on each enabled input, in the tagger's clock."""
        times, inputs = self._element.times_ps, self._element.inputs
        recording = self._element.recording
        return {
            n: times[inputs == n] if recording and register.enabled else _NO_TIMES
            for n, register in self._inputs.items()
        }

    def _deliver(self, by_input: dict[int, Times], end_ps: int, block_ps: int) -> None:
        assert self._zero_ps is not None
        zero = self._zero_ps
        signals = {
            f"INPU{n}": times[int(np.searchsorted(times, zero)) :] - zero
            for n, times in by_input.items()
        }
        for n, delay in self._delays.items():
            signals[f"DELA{n}"] = delay.pass_on(signals.get(delay.link, _NO_TIMES), end_ps - zero)
        for n in _CHANNELS:
            signals[f"TSCO{n + 4}"] = signals[f"DELA{n}"]
        tags: dict[int, Times] = {}
        for stream in self._streams.values():
            raw = self._raws[stream.channel]
            if raw.send:
                found = signals.get(raw.stop, _NO_TIMES)
                if not self._endless:
                    found = found[: int(np.searchsorted(found, self._duration_ps))]
                tags[stream.channel] = found
        kept = self._within_rate(tags, block_ps)
        for stream in self._streams.values():
            if stream.channel not in tags:
                continue
            raw, times = self._raws[stream.channel], kept[stream.channel]
            raw.lost += tags[stream.channel].size - times.size + self._overflown(raw.stop)
            words = self._words(raw, times, signals.get(raw.ref, _NO_TIMES), stream.with_index)
            if times.size:
                stream.words.append(words)
                stream.last_ps = self._now_ps
        if self._now_ps >= self._message_ps:
            self._message_ps = self._now_ps + round(self._settings.message_period * _PS)
            self._send()

    def _overflown(self, signal: str) -> int:
        """Clicks behind a signal that the tagger's memory had no room for in the block."""
        if signal.startswith("TSCO"):
            signal = f"DELA{int(signal[4:]) - 4}"
        if signal.startswith("DELA"):
            signal = self._delays[int(signal[4:])].link
        if not signal.startswith("INPU"):
            return 0
        n = int(signal[4:])
        return int(self._element.lost[n - 1]) if self._inputs[n].enabled else 0

    def _within_rate(self, tags: dict[int, Times], block_ps: int) -> dict[int, Times]:
        """Cut the block where the device's buffers are full."""
        budget = int(self._settings.max_rate * block_ps / _PS)
        total = sum(times.size for times in tags.values())
        if total <= budget:
            return tags
        full = np.partition(np.concatenate(list(tags.values())), budget)[budget]
        return {n: times[: int(np.searchsorted(times, full))] for n, times in tags.items()}

    def _words(self, raw: _Raw, times: Times, refs: Times, with_index: bool) -> Times:
        """The stream's int64 words: ps since the last REF event or the record's start."""
        marks = self._on_grid(np.concatenate((np.array([raw.ref_time_ps], np.int64), refs)))
        index = np.searchsorted(refs, times, side="right") if refs.size else np.zeros(1, np.int64)
        words = self._on_grid(times) - marks[index]
        if with_index:
            counts = np.broadcast_to(raw.ref_count + index, words.shape)
            words = np.stack((words, counts), axis=1).ravel()
        raw.ref_time_ps = int(marks[-1])
        raw.ref_count += refs.size
        return words

    def _on_grid(self, times: Times) -> Times:
        bin_ps = self._bin_ps()
        return times if bin_ps == 1 else times // bin_ps * bin_ps

    def _send(self) -> None:
        """Make a message of the words that each stream has gathered."""
        for stream in self._streams.values():
            if not stream.words:
                continue
            words, stream.words = np.concatenate(stream.words), []
            width = 2 if stream.with_index else 1
            if not self._setting.lossless and stream.backlog >= _PACED_BACKLOG:
                self._raws[stream.channel].lost += words.size // width
                continue
            for piece in _pieces(words.astype("<i8"), width, self._chaos):
                stream.put(piece.tobytes(), piece.size // width)

    # -- DataLinkTargetService --------------------------------------------------------------------

    async def _answer_dlt(self, message: bytes) -> bytes:
        try:
            if len(message) > 4096:
                raise _DltError("command too long")
            words = shlex.split(message.decode("utf-8"))
            answer = await self._run_dlt(words[0] if words else "", _options(words[1:]))
        except (_DltError, ValueError) as error:
            answer = {"error": {"description": str(error)}}
        return json.dumps(answer).encode()

    async def _run_dlt(self, command: str, options: dict[str, str]) -> Any:
        if command == "list":
            _allow(options)
            return list(self._streams)
        if command == "start-stream":
            return {"id": await self._start_stream(options)}
        if command == "status":
            _allow(options, "id")
            return self._status(self._find(options))
        if command == "stop":
            _allow(options, "id")
            stream = self._find(options)
            status = self._status(stream)
            await self._stop_stream(stream)
            return {"status": status}
        if command == "start-save":
            raise _DltError("start-save is not served by this twin; use start-stream")
        raise _DltError(f"unknown command '{command[:40]}'")

    def _find(self, options: dict[str, str]) -> _Stream:
        number = options.get("id", "")
        if number not in self._streams:
            raise _DltError(f"no acquisition with id '{number[:40]}'")
        return self._streams[number]

    async def _start_stream(self, options: dict[str, str]) -> str:
        _allow(options, "address", "channel", "stream-port", "with-ref-index")
        host = self._setting.host
        near = (host, reachable(host), "localhost", "127.0.0.1")
        address = options.get("address", "")
        if not address or (host not in ("0.0.0.0", "::") and address not in near):  # noqa: S104
            raise _DltError(f"cannot reach a Time Controller at '{address[:40]}'")
        channel = _whole(options, "channel", 1, len(_CHANNELS))
        if any(stream.channel == channel for stream in self._streams.values()):
            raise _DltError(f"channel {channel} has an acquisition already")
        if "stream-port" in options:
            port = _whole(options, "stream-port", 1, 65_535)
        else:
            port = self._reserved[channel - 1]
        if port in self._spare:
            stream = self._spare.pop(port)
            stream.expect_reader()
        else:
            stream = self._new_stream()
            try:
                await stream.open(host, port)
            except zmq.ZMQError as error:
                raise _DltError(f"cannot bind port {port}: {error.strerror}") from error
        self._last_number += 1
        stream.number = str(self._last_number)
        stream.channel = channel
        stream.with_index = "with-ref-index" in options
        stream.last_ps = self._now_ps
        self._streams[stream.number] = stream
        return stream.number

    async def _stop_stream(self, stream: _Stream) -> None:
        del self._streams[stream.number]
        self._raws[stream.channel].lost += stream.lost
        await stream.close()
        if stream.port in self._reserved:
            # A fresh socket: a PAIR socket ignores a new reader until the old one is surely gone.
            spare = self._new_stream()
            try:
                await spare.open(self._setting.host, stream.port, patience_s=5.0)
            except zmq.ZMQError:
                return  # the next start-stream says so
            self._spare[spare.port] = spare

    def _status(self, stream: _Stream) -> dict[str, Any]:
        status: dict[str, Any] = {
            "timestamps_count": stream.timestamps,
            "acquisitions_count": stream.acquisitions,
            "inactivity": (self._now_ps - stream.last_ps) / _PS,
        }
        if stream.lost:
            status["errors"] = [{"description": f"{stream.lost} timestamps lost: no reader"}]
        return status


def _action(pattern: str, act: Callable[[], None]) -> Command:
    return Command(pattern, lambda _numbers, _parameters: act())


def _duration_bounds() -> Bounds:
    return 1.0, 9.2e18, float(_PS)


def _show_time(value: float) -> str:
    return f"{value:.0f}TB"


def _pieces(words: Times, width: int, chaos: random.Random | None) -> list[Times]:
    """One message, or under chaos a few, cut between events."""
    if chaos is None or words.size <= width:
        return [words]
    events = words.size // width
    cuts = sorted({chaos.randrange(1, events) * width for _ in range(chaos.randint(0, 3))})
    return np.split(words, cuts)


def _options(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise _DltError(f"unexpected argument '{word[:40]}'")
        name = word[2:]
        if name == "with-ref-index":
            found[name] = ""
            continue
        value = next(rest, None)
        if value is None:
            raise _DltError(f"option '--{name[:40]}' needs a value")
        found[name] = value
    return found


def _allow(options: dict[str, str], *names: str) -> None:
    for name in options:
        if name not in names:
            raise _DltError(f"unknown option '--{name[:40]}'")


def _whole(options: dict[str, str], name: str, low: int, high: int) -> int:
    text = options.get(name, "")
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else low - 1
    if not low <= value <= high:
        raise _DltError(f"option '--{name}' must be {low} to {high}")
    return value
