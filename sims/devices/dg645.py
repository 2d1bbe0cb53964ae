"""Twin of the SRS DG645 digital delay generator (raw TCP socket, silent rejections).

Sources: the InstrumentKit driver and its tests, ophyd, the ISIS EPICS device emulator; for ranges
and for what a command does, SRS' user manual as remembered (unverified): TRAT from 100 uHz to
10 MHz in steps of 1 uHz, LAMP 0.5 to 5 V, LOFF +-2 V, TLVL +-3.5 V, BURP from 100 ns in steps of
10 ns, an error queue of 20, the bits of ``INSR?``, INHB as what the rear input holds back. Chosen
here, where no source says: ``*TRG`` with a trigger source that does not wait for it is an illegal
mode (11); a LINK keeps the absolute delay; T1 can neither be set nor followed (13); the power-on
values of delays and levels; self-test and calibration pass at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import ClassVar

from ..elements import CHANNELS, DelayGenerator
from .base import Setting
from .wire import DeviceSettings, Link, Port, Splitter, chaos_generator, reachable

__all__ = ["DG645Emulator"]

_DEPTH = 20
_LONGEST_PS = 2000 * 10**12
_MEMORIES = 9
_SOURCES = ("internal", "external", "external", "external", "external", "single", "line")
_SINGLE_SHOTS = (3, 4, 5)

# Codes of the error queue.
_VALUE, _MODE, _DELAY, _LINK, _RECALL = 10, 11, 12, 13, 14
_UNDEFINED, _NO_QUERY, _NO_SET = 111, 112, 113
_NULL, _EXTRA, _MISSING, _OVERFLOW, _FLOAT, _INTEGER, _BIG_INTEGER = (
    114,
    115,
    116,
    117,
    118,
    120,
    121,
)
_SYNTAX, _TOO_MANY = 126, 254

# Bits of the instrument status, ``INSR?``.
_TRIGGERED, _RATE, _END, _BURST_END, _INHIBITED = 1, 2, 4, 8, 16


class _RefusedError(Exception):
    """A command was refused; ``code`` goes to the error queue."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(str(code))


@dataclass
class _Registers:
    #: Per channel T0 to H: the channel it follows, and the distance, ps. T0 and T1 follow nobody.
    delays: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)] * 10)
    amplitudes: list[Decimal] = field(default_factory=lambda: [Decimal("2.5")] * 5)
    offsets: list[Decimal] = field(default_factory=lambda: [Decimal(0)] * 5)
    polarities: list[int] = field(default_factory=lambda: [1] * 5)
    source: int = 5
    rate: Decimal = Decimal(1000)
    level: Decimal = Decimal(1)
    holdoff: Decimal = Decimal(0)
    advanced: int = 0
    prescales: list[int] = field(default_factory=lambda: [1] * 5)
    phases: list[int] = field(default_factory=lambda: [0] * 5)
    inhibit: int = 0
    burst: int = 0
    burst_count: int = 5
    burst_delay: Decimal = Decimal(0)
    burst_period: Decimal = Decimal("0.00001")
    burst_t0: int = 0
    display: tuple[int, int] = (0, 0)


class DG645Emulator:
    """A DG645 that times one world's pulses."""

    ELEMENT: ClassVar[type[DelayGenerator]] = DelayGenerator
    MODEL: ClassVar[str] = "DG645"

    class Settings(DeviceSettings):
        """Identity of the unit."""

        serial_number: str = "001013"
        firmware: str = "1.00.00E"

    def __init__(self, setting: Setting, element: DelayGenerator, settings: Settings) -> None:
        self._setting = setting
        self._element = element
        self._settings = settings
        self._registers = _Registers()
        self._memories: dict[int, _Registers] = {}
        self._errors: deque[int] = deque()
        self._events = 128  # power on
        self._status = 0
        self._masks = {"*ESE": 0, "*SRE": 0, "INSE": 0, "*PSC": 1}
        self._shots = 0
        self._commands = self._table()
        self._port = Port(setting, self._serve, chaos=chaos_generator(setting, settings.chaos))

    async def open(self) -> str:
        """Bind the port; return the VISA resource."""
        port = await self._port.open(self._settings.port)
        return f"TCPIP::{reachable(self._setting.host)}::{port}::SOCKET"

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn the element's knobs and hand on the single triggers."""
        now, element = self._registers, self._element
        element.source = _SOURCES[now.source]
        element.rate_uhz = int(now.rate * 10**6)
        element.delays_ps = [_absolute(now.delays, c) for c in range(2, 2 + len(CHANNELS))]
        element.burst = bool(now.burst)
        element.burst_count = now.burst_count
        element.burst_delay_ps = _ps(now.burst_delay)
        element.burst_period_ps = _ps(now.burst_period)
        element.burst_t0_once = bool(now.burst_t0)
        element.holdoff_ps = _ps(now.holdoff) if now.advanced else 0
        element.prescales = now.prescales[1:] if now.advanced else [1] * 4
        element.phases = now.phases[1:] if now.advanced else [0] * 4
        element.inhibit = now.inhibit
        element.amplitudes_v = [float(v) for v in now.amplitudes]
        element.offsets_v = [float(v) for v in now.offsets]
        element.positive = [bool(p) for p in now.polarities]
        element.shots, self._shots = self._shots, 0

    def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Latch what the block brought into the instrument status."""
        block = self._element.edges(begin_ps, end_ps)
        self._status |= _TRIGGERED * bool(block.triggers_ps.size)
        self._status |= _RATE * bool(block.ignored)
        self._status |= _END * bool(block.cycles_ended)
        self._status |= _BURST_END * bool(block.bursts_ended)
        self._status |= _INHIBITED * bool(block.inhibited)

    async def close(self) -> None:
        """Close every connection and the port."""
        await self._port.close()

    async def _serve(self, link: Link) -> None:
        splitter = Splitter(b"\r\n")
        while data := await link.read():
            for line in splitter.feed(data):
                for command in line.split(b";"):
                    reply = self._execute(command.decode("latin-1").strip())
                    if reply is not None:
                        await link.send(reply.encode("ascii") + b"\r\n")

    def _execute(self, command: str) -> str | None:
        """Run one command; return its reply, None where it has none."""
        if not command:
            return None
        try:
            return self._run(command)
        except _RefusedError as error:
            self._events |= 32 if error.code >= 100 else 16
            if len(self._errors) < _DEPTH:
                self._errors.append(error.code)
            else:
                self._errors[-1] = _TOO_MANY
            return None

    def _run(self, command: str) -> str | None:
        match = _COMMAND.fullmatch(command) if command.isascii() else None
        if match is None:
            raise _RefusedError(_SYNTAX)
        header, is_query, rest = match[1].upper(), bool(match[2]), match[3].strip()
        if header not in self._commands:
            raise _RefusedError(_UNDEFINED)
        parameters = [part.strip() for part in rest.split(",")] if rest else []
        if "" in parameters:
            raise _RefusedError(_NULL)
        (query, query_takes), (put, put_takes) = self._commands[header]
        action, takes = (query, query_takes) if is_query else (put, put_takes)
        if action is None:
            raise _RefusedError(_NO_QUERY if is_query else _NO_SET)
        if len(parameters) != takes:
            raise _RefusedError(_EXTRA if len(parameters) > takes else _MISSING)
        reply = action(parameters)
        return reply if is_query else None

    def _table(self) -> dict[str, _Pair]:
        """Header -> (query, its parameters), (setting, its parameters)."""
        return {
            "*IDN": (
                (
                    lambda _: (
                        "Stanford Research Systems,DG645,"
                        f"s/n{self._settings.serial_number},ver{self._settings.firmware}"
                    ),
                    0,
                ),
                _NOTHING,
            ),
            "*RST": _order(self._reset),
            "*CLS": _order(self._clear),
            "*TRG": _order(self._trigger),
            "*OPC": ((lambda _: "1", 0), (self._complete, 0)),
            "*WAI": _order(lambda: None),
            "*CAL": ((lambda _: "0", 0), _NOTHING),
            "*TST": ((lambda _: "0", 0), _NOTHING),
            "*ESR": ((self._read_events, 0), _NOTHING),
            "*STB": ((self._status_byte, 0), _NOTHING),
            "INSR": ((self._read_status, 0), _NOTHING),
            **{header: self._mask(header) for header in self._masks},
            "*SAV": (_NOTHING, (self._save, 1)),
            "*RCL": (_NOTHING, (self._recall, 1)),
            "LERR": ((self._next_error, 0), _NOTHING),
            "DLAY": ((self._read_delay, 1), (self._set_delay, 3)),
            "LINK": ((self._read_link, 1), (self._set_link, 2)),
            "LAMP": self._level("amplitudes", Decimal("0.5"), Decimal(5)),
            "LOFF": self._level("offsets", Decimal(-2), Decimal(2)),
            "LPOL": self._list("polarities", 0, 4, 0, 1),
            "TSRC": self._whole("source", 0, 6),
            "TRAT": self._number("rate", "0.000001", Decimal("0.0001"), Decimal(10**7)),
            "TLVL": self._number("level", "0.01", Decimal("-3.5"), Decimal("3.5")),
            "HOLD": self._number("holdoff", _GRID, Decimal(0), Decimal(2000)),
            "ADVT": self._whole("advanced", 0, 1),
            "PRES": self._list("prescales", 0, 4, 1, 2**30 - 1),
            "PHAS": self._list("phases", 1, 4, 0, 2**30 - 1),
            "INHB": self._whole("inhibit", 0, 5),
            "BURM": self._whole("burst", 0, 1),
            "BURC": self._whole("burst_count", 1, 2**32 - 1),
            "BURD": self._number("burst_delay", _GRID, Decimal(0), Decimal(2000)),
            "BURP": self._number(
                "burst_period", "0.00000001", Decimal("1e-7"), Decimal("1999.99999999")
            ),
            "BURT": self._whole("burst_t0", 0, 1),
            "DISP": ((self._read_display, 0), (self._set_display, 2)),
        }

    def _whole(self, name: str, low: int, high: int) -> _Pair:
        def put(parameters: list[str]) -> None:
            setattr(self._registers, name, _integer(parameters[0], low, high))

        return (lambda _: str(getattr(self._registers, name)), 0), (put, 1)

    def _number(self, name: str, grid: str, low: Decimal, high: Decimal) -> _Pair:
        def put(parameters: list[str]) -> None:
            setattr(self._registers, name, _on(_float(parameters[0], low, high), grid))

        def query(_parameters: list[str]) -> str:
            value: Decimal = getattr(self._registers, name)
            return f"{value:+.{12 if grid == _GRID else len(grid) - 2}f}"

        return (query, 0), (put, 1)

    def _list(self, name: str, first: int, last: int, low: int, high: int) -> _Pair:
        def put(parameters: list[str]) -> None:
            index = _integer(parameters[0], first, last)
            getattr(self._registers, name)[index] = _integer(parameters[1], low, high)

        def query(parameters: list[str]) -> str:
            return str(getattr(self._registers, name)[_integer(parameters[0], first, last)])

        return (query, 1), (put, 2)

    def _level(self, name: str, low: Decimal, high: Decimal) -> _Pair:
        def put(parameters: list[str]) -> None:
            index = _integer(parameters[0], 0, 4)
            getattr(self._registers, name)[index] = _on(_float(parameters[1], low, high), "0.01")

        def query(parameters: list[str]) -> str:
            return f"{getattr(self._registers, name)[_integer(parameters[0], 0, 4)]:+.2f}"

        return (query, 1), (put, 2)

    def _mask(self, header: str) -> _Pair:
        def put(parameters: list[str]) -> None:
            high = 1 if header == "*PSC" else 255
            self._masks[header] = _integer(parameters[0], 0, high)

        return (lambda _: str(self._masks[header]), 0), (put, 1)

    def _set_delay(self, parameters: list[str]) -> None:
        channel, reference = _integer(parameters[0], 0, 9), _integer(parameters[1], 0, 9)
        seconds = _float(parameters[2], Decimal(-2000), Decimal(2000), _DELAY)
        self._put_delay(channel, reference, _ps(_on(seconds, _GRID)))

    def _set_link(self, parameters: list[str]) -> None:
        channel, reference = _integer(parameters[0], 0, 9), _integer(parameters[1], 0, 9)
        delays = self._registers.delays
        kept_ps = _absolute(delays, channel) - _absolute(delays, reference)
        self._put_delay(channel, reference, kept_ps)

    def _put_delay(self, channel: int, reference: int, distance_ps: int) -> None:
        if channel < 2 or reference == 1:
            raise _RefusedError(_LINK)
        delays = list(self._registers.delays)
        delays[channel] = reference, distance_ps
        at = reference
        while at != 0:
            if at == channel:
                raise _RefusedError(_LINK)
            at = delays[at][0]
        # What follows this channel moves with it and must stay possible, too.
        if not all(0 <= _absolute(delays, c) <= _LONGEST_PS for c in range(2, 10)):
            raise _RefusedError(_DELAY)
        self._registers.delays = delays

    def _read_delay(self, parameters: list[str]) -> str:
        reference, ps = self._registers.delays[_integer(parameters[0], 0, 9)]
        whole, rest = divmod(abs(ps), 10**12)
        return f"{reference},{'-' if ps < 0 else '+'}{whole}.{rest:012d}"

    def _read_link(self, parameters: list[str]) -> str:
        return str(self._registers.delays[_integer(parameters[0], 0, 9)][0])

    def _read_display(self, _parameters: list[str]) -> str:
        return "{},{}".format(*self._registers.display)

    def _set_display(self, parameters: list[str]) -> None:
        self._registers.display = _integer(parameters[0], 0, 17), _integer(parameters[1], 0, 9)

    def _trigger(self) -> None:
        if self._registers.source not in _SINGLE_SHOTS:
            raise _RefusedError(_MODE)
        self._shots += self._registers.source == 5

    def _reset(self) -> None:
        self._registers = _Registers()
        self._shots = 0

    def _clear(self) -> None:
        self._errors.clear()
        self._events = self._status = 0

    def _complete(self, _parameters: list[str]) -> None:
        self._events |= 1

    def _save(self, parameters: list[str]) -> None:
        self._memories[_integer(parameters[0], 0, _MEMORIES)] = deepcopy(self._registers)

    def _recall(self, parameters: list[str]) -> None:
        place = _integer(parameters[0], 0, _MEMORIES)
        if place not in self._memories:
            raise _RefusedError(_RECALL)
        self._registers = deepcopy(self._memories[place])

    def _next_error(self, _parameters: list[str]) -> str:
        return str(self._errors.popleft() if self._errors else 0)

    def _read_events(self, _parameters: list[str]) -> str:
        events, self._events = self._events, 0
        return str(events)

    def _read_status(self, _parameters: list[str]) -> str:
        status, self._status = self._status, 0
        return str(status)

    def _status_byte(self, _parameters: list[str]) -> str:
        status = 1 if self._status & self._masks["INSE"] else 0
        status |= 32 if self._events & self._masks["*ESE"] else 0
        return str(status | (64 if status & self._masks["*SRE"] else 0))


_Action = Callable[[list[str]], str | None] | None
_Pair = tuple[tuple[_Action, int], tuple[_Action, int]]

_NOTHING: tuple[_Action, int] = (None, 0)
_GRID = "0.000000000005"
_COMMAND = re.compile(r"(\*?[A-Za-z]+) *(\?)?(.*)")
_FLOAT_TEXT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?")
_INTEGER_TEXT = re.compile(r"[+-]?\d+")


def _order(run: Callable[[], None]) -> _Pair:
    return _NOTHING, (lambda _: run(), 0)


def _integer(text: str, low: int, high: int) -> int:
    if _INTEGER_TEXT.fullmatch(text) is None:
        raise _RefusedError(_INTEGER)
    if len(text) > 12:
        raise _RefusedError(_BIG_INTEGER)
    value = int(text)
    if not low <= value <= high:
        raise _RefusedError(_VALUE)
    return value


def _float(text: str, low: Decimal, high: Decimal, outside: int = _VALUE) -> Decimal:
    if _FLOAT_TEXT.fullmatch(text) is None:
        raise _RefusedError(_FLOAT)
    if len(text) > 64:
        raise _RefusedError(_OVERFLOW)
    value = Decimal(text)
    if not low <= value <= high:
        raise _RefusedError(outside)
    return value


def _on(value: Decimal, grid: str) -> Decimal:
    """The nearest value on the grid."""
    step = Decimal(grid)
    return (value / step).quantize(Decimal(1), ROUND_HALF_EVEN) * step


def _ps(seconds: Decimal) -> int:
    return int(seconds * 10**12)


def _absolute(delays: list[tuple[int, int]], channel: int) -> int:
    """Delay of a channel from T0: the links added up."""
    total_ps = 0
    while channel != 0:
        channel, distance_ps = delays[channel]
        total_ps += distance_ps
    return total_ps
