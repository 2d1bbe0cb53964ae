"""What passes over a bench's wires, written to a file, and replayed from it.

A recording is a text file of JSON lines: a header, then, in the order it happened, what was sent,
what was received and every sleep on the bench's clock, then an end mark. A replay is a mock: what
is sent must be what was sent, in order per instrument; what was received comes when everything
recorded before it has happened.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ...instruments import BellbenchError, Clock, ConfigError, InstrumentError

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = [
    "SCHEME",
    "Player",
    "Recorder",
    "Recording",
    "ReplayClock",
    "read_recording",
    "split_replay_address",
]

FORMAT = "recording/1"
SCHEME = "replay://"
LIMIT_BYTES = 64 << 20
_HEX_UP_TO = 96
_READABLE = frozenset(range(0x20, 0x7F)) | set(b"\t\r\n\x17")

Kind = Literal["sent", "received", "sleep", "read"]


def split_replay_address(address: str, instrument: str) -> tuple[str, str]:
    """Return file and instrument of ``replay://FILE#instrument``.

    Args:
        address: The address; the instrument may be left out.
        instrument: Name on the bench, for an address without one.
    """
    rest = address.removeprefix(SCHEME)
    path, mark, name = rest.rpartition("#")
    return (path, name) if mark and path else (rest.removesuffix("#"), instrument)


# -- recording


class Recorder:
    """Writes a recording. Every method may be called from any thread.

    The file appears when :meth:`close` is called; until then it is ``FILE.part``.

    Args:
        path: The file.
        clock: The bench's clock; use :attr:`clock` in its place.
        instruments: Driver key and address of each instrument.
        limit_bytes: Largest file; what comes later is left out, and :meth:`close` says so.

    Raises:
        ConfigError: where the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        instruments: Mapping[str, tuple[str, str]],
        *,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.path = path
        self.clock: Clock = _RecordingClock(clock, self)
        self._clock = clock
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._lines = self._bytes = 0
        self._t: object = None
        self._cut = ""
        self._part = path.with_name(path.name + ".part")
        try:
            self._file: IO[str] | None = self._part.open("w", encoding="ascii", newline="\n")
        except OSError as error:
            raise ConfigError(f"cannot write the recording: {error}", place=str(path)) from error
        told = {name: {"driver": d, "address": a} for name, (d, a) in instruments.items()}
        self._write({"bellbench": FORMAT, "version": version("bellbench"), "instruments": told})

    def note(self, instrument: str, kind: Kind, data: bytes, channel: str = "") -> None:
        """Write down what an instrument was sent, or sent itself."""
        line: dict[str, object] = {"t": self._now(), "on": instrument}
        if channel:
            line["channel"] = channel
        self._write(line | {kind: _encode(data)})

    def note_sleep(self, seconds: float) -> None:
        """Write down that the program sleeps on the bench's clock from now on."""
        self._write({"t": self._now(), "sleep": seconds})

    def close(self) -> None:
        """End the recording and give it its name. Closing twice does nothing.

        Raises:
            BellbenchError: where the recording is not whole.
        """
        with self._lock:
            file, self._file = self._file, None
            if file is None:
                return
            end = {"end": "cut" if self._cut else "complete", "lines": self._lines}
            try:
                with file:
                    file.write(json.dumps(end) + "\n")
                os.replace(self._part, self.path)
            except OSError as error:
                raise BellbenchError(f"{self.path}: cannot write the recording: {error}") from error
        if self._cut:
            raise BellbenchError(f"{self.path}: the recording is not whole: {self._cut}")

    def note_time(self) -> float:
        """Return the time and write it down, unless the line before tells it already."""
        t = self._now()
        if t != self._t:
            self._write({"t": t})
        return t

    def _now(self) -> float:
        return round(self._clock.now(), 9)  # what the program is told, to the last digit

    def _write(self, content: dict[str, object]) -> None:
        text = json.dumps(content) + "\n"
        with self._lock:
            if self._file is None or self._cut:
                return
            if self._bytes + len(text) > self._limit:
                self._cut = f"it reached its limit of {self._limit} bytes at line {self._lines}"
                return
            try:
                self._file.write(text)
            except OSError as error:  # the measurement goes on; close() tells
                self._cut = str(error)
                return
            self._lines += 1
            self._bytes += len(text)
            self._t = content.get("t")


class _RecordingClock:
    """The bench's clock, whose sleeps and times are written down."""

    def __init__(self, clock: Clock, recorder: Recorder) -> None:
        self._clock = clock
        self._recorder = recorder

    def now(self) -> float:
        """As the bench's clock."""
        return self._recorder.note_time()

    def sleep(self, seconds: float) -> None:
        """As the bench's clock."""
        self._recorder.note_sleep(seconds)
        self._clock.sleep(seconds)


# -- reading


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a recording: ``data`` on a channel, ``seconds`` slept, or the time read."""

    line: int
    t: float
    kind: Kind
    instrument: str = ""
    channel: str = ""
    data: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True)
class Recording:
    """A recording, read and checked.

    Attributes:
        path: The file.
        addresses: Address that each instrument was recorded at.
        entries: What happened, in order.
        cut: Whether it was cut at its size limit.
    """

    path: Path
    addresses: Mapping[str, str]
    entries: tuple[Entry, ...]
    cut: bool


def read_recording(path: Path) -> Recording:
    """Read a recording and check it whole.

    Raises:
        ConfigError: saying in which line it is damaged, truncated or of another version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recording: {error}", place=str(path)) from error

    def content(number: int) -> dict[str, Any]:
        try:
            found = json.loads(lines[number - 1])
        except (ValueError, RecursionError) as error:
            message = f"is not JSON: {error}"
            raise ConfigError(message, place=f"{path}:{number}") from error
        if not isinstance(found, dict):
            raise ConfigError("is not a line of a recording", place=f"{path}:{number}")
        return found

    if not lines:
        raise ConfigError("is empty, not a recording", place=str(path))
    header = content(1)
    if (version_ := header.get("bellbench")) != FORMAT:
        message = f"is no recording of this version: {version_!r} where {FORMAT!r} is needed"
        raise ConfigError(message, place=f"{path}:1")
    try:
        addresses = {str(n): str(told["address"]) for n, told in header["instruments"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError("the header names no instruments", place=f"{path}:1") from error
    end = content(len(lines))
    if end.get("end") not in ("complete", "cut") or end.get("lines") != len(lines) - 1:
        message = "the recording is truncated: its end is missing; record it again"
        raise ConfigError(message, place=f"{path}:{len(lines)}")
    entries = []
    for number in range(2, len(lines)):
        try:
            entry = _entry(number, content(number))
        except (KeyError, TypeError, ValueError) as error:
            place = f"{path}:{number}"
            raise ConfigError(f"is not a line of a recording: {error!r}", place=place) from error
        if entry.kind in ("sent", "received") and entry.instrument not in addresses:
            message = f"the header names no instrument {entry.instrument!r}"
            raise ConfigError(message, place=f"{path}:{number}")
        entries.append(entry)
    return Recording(path, addresses, tuple(entries), end["end"] == "cut")


def _entry(number: int, content: dict[str, Any]) -> Entry:
    t = float(content["t"])
    if "sleep" in content:
        seconds = float(content["sleep"])
        if not (math.isfinite(t) and math.isfinite(seconds)):
            raise ValueError("a time that is no number")
        return Entry(number, t, "sleep", seconds=seconds)
    if content.keys() == {"t"} and math.isfinite(t):
        return Entry(number, t, "read")
    kind: Kind = "sent" if "sent" in content else "received"
    channel = str(content.get("channel", ""))
    return Entry(number, t, kind, str(content["on"]), channel, _decode(content[kind]))


def _encode(data: bytes) -> str | dict[str, str]:
    if _READABLE.issuperset(data):
        return data.decode("ascii")
    if len(data) <= _HEX_UP_TO:
        return {"hex": data.hex(" ")}
    return {"base64": base64.b64encode(data).decode("ascii")}


def _decode(told: object) -> bytes:
    if isinstance(told, str):
        return told.encode("ascii")
    if isinstance(told, dict) and len(told) == 1:
        ((form, text),) = told.items()
        try:
            if form == "hex":
                return bytes.fromhex(text)
            if form == "base64":
                return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from error
    raise ValueError("data must be text, {hex: ...} or {base64: ...}")


# -- replaying


class ReplayClock:
    """Bench time as it was recorded: a sleep returns at once, and time jumps.

    Time is never behind what has been replayed. One clock serves every instrument of a bench, and
    is told of the bench's end by :meth:`close`.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._news = threading.Condition(threading.RLock())  # guards all of a replay
        self._replays: dict[Path, _Replay] = {}
        self._failure = ""

    @property
    def ended(self) -> str:
        """How the replay failed, in words; nothing more can be sent then. Empty before."""
        return self._failure

    def now(self) -> float:
        """Seconds of recorded bench time."""
        with self._news:
            for replay in self._replays.values():
                self._now = max(self._now, replay.read())
            return self._now

    def sleep(self, seconds: float) -> None:
        """Let the time pass that passed in the recording."""
        if seconds <= 0:
            return
        with self._news:
            woken = [replay.sleep(seconds, self._now) for replay in self._replays.values()]
            self._now = max([self._now + seconds, *woken])
            self._deliver()

    def player(self, address: str, endpoint: Endpoint) -> Player:
        """What stands for the instrument at a ``replay://`` address.

        Raises:
            ConfigError: where the recording cannot be read or does not hold the instrument.
        """
        name, instrument = split_replay_address(address, endpoint.name)
        path = Path(name).absolute()
        with self._news:
            if path not in self._replays:
                self._replays[path] = _Replay(self, read_recording(path))
            replay = self._replays[path]
            if instrument not in replay.recording.addresses:
                held = ", ".join(replay.recording.addresses)
                message = f"holds no instrument {instrument!r}, only: {held}"
                raise ConfigError(message, place=str(path))
            if instrument in replay.players:
                raise ConfigError(f"{instrument!r} is replayed already", place=str(path))
            player = Player(replay, instrument, endpoint)
            replay.players[instrument] = player
            return player

    def close(self) -> None:
        """End the replay.

        Raises:
            InstrumentError: where not everything was sent that the recording sends.
        """
        if not self._failure:
            for replay in self._replays.values():
                for player in replay.players.values():
                    player.finish()

    def fail(self, message: str) -> None:
        """Remember that the replay has failed."""
        self._failure = self._failure or message

    def advance(self, t: float) -> None:
        """Bring the time to that of something replayed."""
        self._now = max(self._now, t)
        self._deliver()

    def _deliver(self) -> None:
        for replay in self._replays.values():
            for player in replay.players.values():
                player.deliver()
        self._news.notify_all()


class _Replay:
    """One recording on its way; guarded by the clock's lock."""

    def __init__(self, clock: ReplayClock, recording: Recording) -> None:
        self.clock = clock
        self.recording = recording
        self.players: dict[str, Player] = {}
        kinds = [entry.kind for entry in recording.entries]
        self._sleeps = deque(i for i, kind in enumerate(kinds) if kind == "sleep")
        self._reads = deque(i for i, kind in enumerate(kinds) if kind == "read")

    @property
    def barrier(self) -> int:
        """Index of the first sleep that is still to come: nothing behind it has arrived yet."""
        return self._sleeps[0] if self._sleeps else len(self.recording.entries)

    def read(self) -> float:
        """Return the time that was read next, unless something came before that."""
        entries = self.recording.entries
        steps = [player.next_sent for player in self.players.values()]
        if self._reads and self._reads[0] < min([self.barrier, *steps]):
            return entries[self._reads.popleft()].t
        return 0.0

    def sleep(self, seconds: float, now: float) -> float:
        """Take the recorded sleep, if it is the next; return when it ended."""
        entries = self.recording.entries
        if self._sleeps and math.isclose(entries[self._sleeps[0]].seconds, seconds):
            i = self._sleeps.popleft()
            self._forget_reads(i)
            # it ended no later than the program's next step, and on a stepped clock just then
            later = (entries[k] for k in range(i + 1, len(entries)))
            after = (entry.t for entry in later if entry.kind != "received")
            return next(after, entries[i].t + seconds)
        # another sleep than was recorded, as where only some of the instruments are replayed
        while self._sleeps:
            entry = entries[self._sleeps[0]]
            if entry.t + entry.seconds > now + seconds + 1e-9:
                break
            self._forget_reads(self._sleeps.popleft())
        return now + seconds

    def reached(self, index: int) -> None:
        """Note that an entry was replayed: sleeps before it are over."""
        while self._sleeps and self._sleeps[0] < index:
            self._sleeps.popleft()
        self._forget_reads(index)
        self.clock.advance(self.recording.entries[index].t)

    def _forget_reads(self, index: int) -> None:
        while self._reads and self._reads[0] < index:
            self._reads.popleft()


class Player:
    """One recorded instrument: takes what is sent to it and gives what it sent."""

    def __init__(self, replay: _Replay, instrument: str, endpoint: Endpoint) -> None:
        self.address = f"{SCHEME}{replay.recording.path}#{instrument}"
        self.recorded_address = replay.recording.addresses[instrument]
        self._replay = replay
        self._endpoint = endpoint
        self._news = replay.clock._news
        self._indices = deque(
            i for i, e in enumerate(replay.recording.entries) if e.instrument == instrument
        )
        self._line = 1  # replayed last
        self._inbox: dict[str, deque[bytes]] = {}
        self._listeners: dict[str, Callable[[bytes], None]] = {}

    def send(self, data: bytes, channel: str = "") -> None:
        """Send what was sent.

        Raises:
            InstrumentError: where it was something else, or nothing more.
        """
        with self._news:
            if self._replay.clock.ended:
                raise self._error("the replay has failed before", data)
            entry = self._next_sent()
            if entry is None:
                end = "was cut at its size limit" if self._replay.recording.cut else "ends"
                raise self._fail(f"the recording {end} here", data)
            if (entry.data, entry.channel) != (data, channel):
                self._line = entry.line
                where = f" on {entry.channel}" if entry.channel != channel else ""
                raise self._fail(f"the recording sends {_shown(entry.data)}{where} here", data)
            self._line = entry.line
            self._replay.reached(self._indices.popleft())

    def receive(self, channel: str = "", wait_s: float = 0.0) -> bytes | None:
        """Return the next piece that was received, or None where there is none.

        Args:
            channel: Where.
            wait_s: Longest wait for a piece that came unasked, wall time; zero for an answer.
        """
        with self._news:
            box = self._inbox.setdefault(channel, deque())
            self.deliver()
            if wait_s > 0:
                self._news.wait_for(lambda: box, wait_s)
            while not box and wait_s <= 0 and self._indices:
                # an answer; that another thread slept meanwhile does not matter
                entry = self._replay.recording.entries[self._indices[0]]
                if entry.kind != "received":
                    break
                self._indices.popleft()
                self._arrive(entry)
            return box.popleft() if box else None

    def discard(self, channel: str = "") -> None:
        """Throw away what has arrived."""
        with self._news:
            self._inbox.pop(channel, deque()).clear()

    def listen(self, channel: str, receive: Callable[[bytes], None]) -> None:
        """Hand what arrives to ``receive``, in the thread that made it arrive."""
        with self._news:
            self._listeners[channel] = receive
            for data in self._inbox.pop(channel, ()):
                receive(data)
            self.deliver()

    def unlisten(self, channel: str) -> None:
        """Hand over nothing more."""
        with self._news:
            self._listeners.pop(channel, None)

    def silence(self, command: str | bytes) -> InstrumentError:
        """The timeout of an answer that was not recorded."""
        return self._endpoint.timeout(
            f"no answer is recorded after {self._replay.recording.path}:{self._line}",
            command=command,
            hint="it did not answer when it was recorded, either",
        )

    def deliver(self) -> None:
        """Let arrive whatever is due."""
        entries = self._replay.recording.entries
        while self._indices and self._indices[0] < self._replay.barrier:
            entry = entries[self._indices[0]]
            if entry.kind != "received":
                return
            self._indices.popleft()
            self._arrive(entry)

    def finish(self) -> None:
        """Check that everything was sent.

        Raises:
            InstrumentError: with what is missing.
        """
        entries = self._replay.recording.entries
        missing = [entries[i] for i in self._indices if entries[i].kind == "sent"]
        if missing and self._line > 1:  # else it was not opened
            path, first = self._replay.recording.path, missing[0]
            raise self._endpoint.error(
                f"the recording goes on, at {path}:{first.line} it sends {_shown(first.data)}"
                f" ({len(missing)} more in all)",
                hint="the program does less than when it was recorded; record it again",
            )

    @property
    def next_sent(self) -> int:
        """Index of what is to be sent next, past the end where nothing is."""
        entries = self._replay.recording.entries
        sent = (i for i in self._indices if entries[i].kind == "sent")
        return next(sent, len(entries))

    def _next_sent(self) -> Entry | None:
        """What is to be sent next; everything recorded before it has then arrived."""
        entries = self._replay.recording.entries
        while self._indices:
            entry = entries[self._indices[0]]
            if entry.kind == "sent":
                return entry
            self._indices.popleft()
            self._arrive(entry)
        return None

    def _arrive(self, entry: Entry) -> None:
        if listener := self._listeners.get(entry.channel):
            listener(entry.data)
        else:
            self._inbox.setdefault(entry.channel, deque()).append(entry.data)

    def _fail(self, message: str, data: bytes) -> InstrumentError:
        error = self._error(message, data)
        self._replay.clock.fail(str(error))
        return error

    def _error(self, message: str, data: bytes) -> InstrumentError:
        where = f"{self._replay.recording.path}:{self._line}"
        return self._endpoint.error(
            f"{where}: {message}",
            command=data,
            hint="the program, a setting or the driver has changed; record it again",
        )


def _shown(data: bytes) -> str:
    text = repr(data)
    return text if len(text) <= 120 else f"{text[:117]}..."
