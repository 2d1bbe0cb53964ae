"""Twin of the S-Fifteen TDC1 time tagger (serial ASCII that turns into a raw 32-bit stream).

Source: pyS15, the vendor's library. Not known from a real unit, and chosen here (unverified): a
refused command is answered with a line; commands that arrive while a count or a stream runs wait
for its end, and only ``abort`` acts on it; an aborted count answers nothing; a stream that no
``INPKT`` precedes sends nothing; the counter is 0 when a stream begins; words that get lost leave
the first half of a word behind; a pair is two clicks at most half a coincidence window apart; the
defaults after ``*RST``; the voltages of ``NIM`` and ``TTL``. Who hangs up ends what runs. Levels
and reference clock are registers only: every pulse of the world counts, and the world file says
which clock the tagger has. Counting times, bins and rollovers go by that clock. Where the world
file's memory is full, half a word is left too.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...instruments import Unit
from ..elements import TaggerInputs
from .base import Setting
from .wire import DeviceSettings, Link, OverlongError, SerialEmulator, Splitter

__all__ = ["TDC1Emulator"]

Times = npt.NDArray[np.int64]
Inputs = npt.NDArray[np.int16]

_PS = 1_000_000_000_000
_MS_PS = 1_000_000_000
_BIN_PS = 2000
#: Bins until the 27-bit counter starts again at 0: 2^28 ns.
_PERIOD = 1 << 27
_ROLLOVER = 1 << 4
_MODES = {"singles": 0, "pairs": 1, "timestamp": 3}
_LEVELS = {"nim": -0.5, "ttl": 1.2}
_MAX_LEVEL_V = 3.3
_PAIRS = ((1, 3), (1, 4), (2, 3), (2, 4))
#: Bytes that wait for a slow reader in paced time, before words are lost.
_FIFO = 1 << 20
#: Commands that may wait for the end of a run, and the longest one that means anything.
_QUEUE = 1024
_LONGEST = 64

_UNKNOWN = "unknown command"
_RANGE = "argument out of range"
_HELP = (
    "*IDN? *RST help abort",
    "singles pairs timestamp mode? counts? INPKT",
    "time <ms> time?",
    "NIM TTL NEG <V> POS <V> level?",
    "REFCLK <0|1|2> REFCLK? ECLOCK?",
)


class _RefusedError(Exception):
    """The line that answers a refused command."""


@dataclass
class _Registers:
    mode: str = "singles"
    time_ms: int = 1000
    level_v: float = _LEVELS["nim"]
    reference_clock: int = 0


def _no_times() -> Times:
    return np.empty(0, np.int64)


def _no_inputs() -> Inputs:
    return np.empty(0, np.int16)


@dataclass
class _Run:
    """A count or a stream under way, for the client that asked for it."""

    link: Link
    mode: str
    duration_ps: int | None
    sending: bool
    zero_ps: int | None = None
    aborted: bool = False
    counts: Times = field(default_factory=lambda: np.zeros(8, np.int64))
    recent: dict[int, Times] = field(default_factory=lambda: {n: _no_times() for n in range(1, 5)})
    """Clicks of each input that may still pair with clicks to come."""
    times: Times = field(default_factory=_no_times)
    """Clicks of a bin that the end of the last block cut, with their inputs."""
    inputs: Inputs = field(default_factory=_no_inputs)


class TDC1Emulator(SerialEmulator):
    """A TDC1 on the inputs of one tagger."""

    ELEMENT: ClassVar[type[TaggerInputs]] = TaggerInputs
    MODEL: ClassVar[str] = "TDC1"

    class Settings(DeviceSettings):
        """Identity and limits."""

        serial_number: str = "00141"
        firmware: str = "1.0"
        max_rate: Annotated[float, Unit("Hz"), Field(gt=0)] = 4e6
        """Words per second beyond which the device loses words."""
        coincidence_window: Annotated[float, Unit("s"), Field(ge=0, le=1e-6)] = 5e-9
        """Full width of the window in which ``pairs`` counts."""
        external_clock: bool = False
        """Whether a reference clock is plugged in."""

    def __init__(self, setting: Setting, element: TaggerInputs, settings: Settings) -> None:
        super().__init__(setting, settings)
        self._element = element
        self._settings = settings
        self._registers = _Registers()
        self._packet_ready = False
        self._run: _Run | None = None
        self._queue: deque[str] = deque()
        self._in_block = False

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Begin what was asked for; turn the tagger's knob."""
        self._in_block = True
        run = self._run
        if run is not None and run.zero_ps is None:
            run.zero_ps = self._element.start_ps(begin_ps)
        self._element.recording = run is not None

    async def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Count or send the block's clicks; in stepped time wait until they are taken."""
        run = self._run
        if run is not None and run.zero_ps is not None:
            before, now = (
                self._element.clock_ps(edge) - run.zero_ps for edge in (begin_ps, end_ps)
            )
            over = run.duration_ps is not None and now >= run.duration_ps
            if run.mode == "timestamp":
                await self._send(run, before, now, end_ps - begin_ps)
            else:
                self._count(run, now)
                if over and not run.aborted:
                    shown = run.counts[: 8 if run.mode == "pairs" else 4]
                    _reply(run.link, " ".join(map(str, shown.tolist())))
            # While the reader was awaited, the client may have gone and another have come.
            if self._run is run and (over or run.aborted):
                self._finish(run.link)
        self._in_block = False

    # -- commands ---------------------------------------------------------------------------------

    async def _serve(self, link: Link) -> None:
        splitter = Splitter(b";\r\n")
        try:
            while data := await link.read():
                for raw in splitter.feed(data):
                    self._take(link, raw.decode("latin-1").strip()[:_LONGEST].lower())
                    if self._run is None:
                        await link.drain()
        finally:
            self._run = None
            self._queue.clear()

    def _take(self, link: Link, command: str) -> None:
        run = self._run
        if command == "abort":
            if run is not None and self._in_block and run.zero_ps is not None:
                run.aborted = True  # the words of this block come first
            else:
                self._finish(link)
        elif run is None:
            self._execute(link, command)
        elif command:
            if len(self._queue) == _QUEUE:
                raise OverlongError
            self._queue.append(command)

    def _finish(self, link: Link) -> None:
        """End the run and do what waited for that."""
        self._run = None
        while self._queue and self._run is None:
            self._execute(link, self._queue.popleft())
        if link.backlog > 2 * _FIFO:
            link.abort()  # sends commands and never reads

    def _execute(self, link: Link, command: str) -> None:
        name, _, argument = command.partition(" ")
        if name == "counts?" and not argument:
            now = self._registers
            duration_ps = now.time_ms * _MS_PS if now.time_ms else None
            self._run = _Run(link, now.mode, duration_ps, sending=self._packet_ready)
            self._packet_ready = False
            return
        try:
            reply = self._set(name, argument.strip()) if argument else self._act(name)
        except _RefusedError as error:
            reply = str(error)
        if reply:
            _reply(link, reply)

    def _act(self, name: str) -> str:
        """Run a command without an argument; return its answer, empty for none."""
        now = self._registers
        if name in _MODES:
            now.mode = name
        elif name in _LEVELS:
            now.level_v = _LEVELS[name]
        elif name == "inpkt":
            self._packet_ready = True
        elif name == "*rst":
            self._registers = _Registers()
            self._packet_ready = False
        elif name:
            return self._query(name)
        return ""

    def _query(self, name: str) -> str:
        now, settings = self._registers, self._settings
        if name == "*idn?":
            return f"{self.MODEL} {settings.serial_number} {settings.firmware}"
        if name == "mode?":
            return str(_MODES[now.mode])
        if name == "time?":
            return str((now.time_ms ^ 0x8000) - 0x8000)  # a signed 16-bit number
        if name == "level?":
            return f"{now.level_v:.3f} V"
        if name == "refclk?":
            return str(now.reference_clock)
        if name == "eclock?":
            return str(int(settings.external_clock))
        if name == "help":
            return "\r\n".join(_HELP)
        raise _RefusedError(_UNKNOWN)

    def _set(self, name: str, argument: str) -> str:
        now = self._registers
        if name == "time":
            now.time_ms = int(_number(argument, 0, 65_535))
        elif name == "neg":
            now.level_v = -abs(_number(argument, -_MAX_LEVEL_V, _MAX_LEVEL_V))
        elif name == "pos":
            now.level_v = _number(argument, 0, _MAX_LEVEL_V)
        elif name == "refclk":
            now.reference_clock = int(_number(argument, 0, 2))
        else:
            raise _RefusedError(_UNKNOWN)
        return ""

    # -- clicks -----------------------------------------------------------------------------------

    def _clicks(self, run: _Run) -> tuple[Times, Inputs]:
        """The block's clicks within the run, in ps since its begin."""
        assert run.zero_ps is not None
        times, inputs = self._element.times_ps, self._element.inputs
        first, last = int(np.searchsorted(times, run.zero_ps)), times.size
        if run.duration_ps is not None:
            last = int(np.searchsorted(times, run.zero_ps + run.duration_ps))
        return times[first:last] - run.zero_ps, inputs[first:last]

    def _count(self, run: _Run, now_ps: int) -> None:
        times, inputs = self._clicks(run)
        new = {n: times[inputs == n] for n in run.recent}
        run.counts[:4] += [clicks.size for clicks in new.values()]
        if run.mode != "pairs":
            return
        reach_ps = round(self._settings.coincidence_window * _PS) // 2
        known = {n: np.concatenate((run.recent[n], new[n])) for n in new}
        for i, (a, b) in enumerate(_PAIRS, start=4):
            # Each pair counts once, with the later of its clicks.
            run.counts[i] += _within(known[b], new[a] - reach_ps, new[a], "right")
            run.counts[i] += _within(known[a], new[b] - reach_ps, new[b], "left")
        run.recent = {n: clicks[clicks >= now_ps - reach_ps] for n, clicks in known.items()}

    async def _send(self, run: _Run, before_ps: int, now_ps: int, block_ps: int) -> None:
        assert run.zero_ps is not None
        times, inputs = self._clicks(run)
        times = np.concatenate((run.times, times))
        inputs = np.concatenate((run.inputs, inputs))
        end_ps = now_ps if run.duration_ps is None else min(now_ps, run.duration_ps)
        begin, end = max(0, before_ps) // _BIN_PS, max(0, end_ps) // _BIN_PS
        whole = int(np.searchsorted(times, end * _BIN_PS))
        run.times, run.inputs = times[whole:], inputs[whole:]
        if not run.sending:
            return
        words, bins = _encode(times[:whole], inputs[:whole], begin, end)
        gaps = np.searchsorted(bins, (self._element.gaps_ps - run.zero_ps) // _BIN_PS, "right")
        data = _cut(_without_halves(words, gaps), 4 * int(self._settings.max_rate * block_ps / _PS))
        if self._setting.lossless:
            run.link.write(data)
            await run.link.drain()
        else:
            run.link.write(_cut(data, _FIFO - run.link.backlog))


def _reply(link: Link, text: str) -> None:
    link.write(text.encode("ascii") + b"\r\n")


def _number(text: str, low: float, high: float) -> float:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text, re.ASCII):
        raise _RefusedError(_UNKNOWN)
    if not low <= float(text) <= high:
        raise _RefusedError(_RANGE)
    return float(text)


def _within(clicks: Times, low: Times, high: Times, side: Literal["left", "right"]) -> int:
    """Clicks in each of the intervals from ``low`` to ``high``, summed."""
    return int((np.searchsorted(clicks, high, side) - np.searchsorted(clicks, low)).sum())


def _encode(
    times_ps: Times, inputs: Inputs, begin: int, end: int
) -> tuple[npt.NDArray[np.uint32], Times]:
    """Words of the clicks in the 2 ns bins ``[begin, end)``, with the rollovers among them.

    The bin of each word comes with it.

    Bits 31-5 are the bin modulo 2^27, bit 4 marks a rollover, bits 3-0 the inputs.
    """
    bins = times_ps // _BIN_PS
    first = np.flatnonzero(np.diff(bins, prepend=-1))
    bits = np.left_shift(1, inputs.astype(np.int64) - 1)
    patterns = np.bitwise_or.reduceat(bits, first) if first.size else bits
    bins = bins[first]
    words = (bins & (_PERIOD - 1)) << 5 | patterns
    rollovers = np.arange(max(1, -(-begin // _PERIOD)), -(-end // _PERIOD)) * _PERIOD
    places = np.searchsorted(bins, rollovers)
    marked = np.insert(words, places, _ROLLOVER).astype("<u4")
    return marked, np.insert(bins, places, rollovers)


def _without_halves(words: npt.NDArray[np.uint32], gaps: npt.NDArray[np.int64]) -> bytes:
    """The bytes of ``words``; of the word before each gap only the first half was stored."""
    if not gaps.size:
        return words.tobytes()
    return np.delete(words.view("<u2"), 2 * gaps[gaps > 0] - 1).tobytes()


def _cut(words: bytes, room: int) -> bytes:
    """What of ``words`` fits: the FIFO is 16 bits wide, and a full one cuts a word in two."""
    if len(words) <= room:
        return words
    return words[: room // 4 * 4 - 2] if room >= 8 else b""
