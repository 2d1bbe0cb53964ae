"""A small SCPI interpreter: headers in short and long form, numbers, error queue, status.

Sources: SCPI-99 volume 1; IEEE 488.2; the Thorlabs Series 4000 programmer's reference for the
depth of the error queue and its texts.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .wire import Link, Splitter

__all__ = [
    "Bounds",
    "Command",
    "Interpreter",
    "Numbers",
    "ScpiError",
    "StatusRegister",
    "choice",
    "flag",
    "integer",
    "number",
    "numeric",
    "query",
    "scientific",
    "serve",
]

_TEXTS = {
    -100: "Command error",
    -101: "Invalid character",
    -102: "Syntax error",
    -103: "Invalid separator",
    -104: "Data type error",
    -108: "Parameter not allowed",
    -109: "Missing parameter",
    -110: "Command header error",
    -113: "Undefined header",
    -131: "Invalid suffix",
    -141: "Invalid character data",
    -200: "Execution error",
    -221: "Settings conflict",
    -222: "Data out of range",
    -350: "Error queue overflow",
}
_DEPTH = 10

Numbers = tuple[int, ...]
Bounds = tuple[float, float, float]


class ScpiError(Exception):
    """A command was refused; ``code`` goes to the error queue."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f'{code},"{_TEXTS[code]}"')


@dataclass(frozen=True)
class Command:
    """One header and what it does.

    Attributes:
        pattern: Header as manuals print it: ``SOURce[1]:CURRent[:LEVel]?``; ``#`` stands for the
            number of an instance.
        run: Called with the instance numbers and the parameters; returns the reply, None for none.
        least: Fewest parameters.
        most: Most parameters.
    """

    pattern: str
    run: Callable[[Numbers, Sequence[str]], str | None]
    least: int = 0
    most: int = 0


def query(pattern: str, get: Callable[[], str]) -> Command:
    """A query without parameters."""
    return Command(pattern, lambda _numbers, _parameters: get())


def scientific(value: float) -> str:
    """A float as Thorlabs instruments write it."""
    return f"{value:.6E}"


_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)")
_MULTIPLIERS = {"G": 1e9, "M": 1e6, "k": 1e3, "K": 1e3, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}
_BASES = {"H": 16, "Q": 8, "B": 2}


def number(text: str, units: Sequence[str] = ()) -> tuple[float, str]:
    """Read a decimal, scientific, engineering or ``#H``/``#Q``/``#B`` number.

    Args:
        text: The parameter.
        units: Units it may carry, in upper case; multipliers are case-sensitive, units are not.

    Returns:
        The value, multiplier applied, and the unit given (``""`` for none).

    Raises:
        ScpiError: -104 for no number, -131 for a suffix that does not fit, -222 for no finite one.
    """
    if text[:1] == "#" and text[1:2].upper() in _BASES:
        try:
            return float(int(text[2:34], _BASES[text[1].upper()])), ""
        except ValueError:
            raise ScpiError(-104) from None
    match = _NUMBER.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        raise ScpiError(-104)
    value, suffix = float(match[1]), match[2]
    unit = suffix.upper()
    if suffix and unit not in units:
        if suffix[0] not in _MULTIPLIERS or (suffix[1:] and suffix[1:].upper() not in units):
            raise ScpiError(-131)
        value *= _MULTIPLIERS[suffix[0]]
        unit = suffix[1:].upper()
    if not math.isfinite(value):
        raise ScpiError(-222)
    return value, unit


def integer(text: str, low: int, high: int) -> int:
    """Read a whole number in ``[low, high]``; raises ScpiError -222 outside."""
    value, _ = number(text)
    if not low <= value <= high:
        raise ScpiError(-222)
    return round(value)


def _extreme(text: str, bounds: Bounds) -> float | None:
    word = text.upper()
    for name, value in zip(("MINIMUM", "MAXIMUM", "DEFAULT"), bounds, strict=True):
        if word in (name[:3], name):
            return value
    return None


def numeric(
    pattern: str,
    get: Callable[[], float],
    put: Callable[[float], None],
    bounds: Callable[[], Bounds],
    units: Sequence[str] = (),
    read: Callable[[str], float] | None = None,
    show: Callable[[float], str] = scientific,
) -> list[Command]:
    """A numeric setting and its query, both taking MIN, MAX and DEF.

    Args:
        pattern: Header of the setting.
        get: Present value.
        put: Stores a value that lies within the bounds.
        bounds: Lowest, highest and default value, as of now.
        units: Units a number may carry; all of them mean the setting's own unit.
        read: Reads a parameter instead of :func:`number`.
        show: Writes a value.
    """

    def run_set(_numbers: Numbers, parameters: Sequence[str]) -> None:
        low, high, _ = limits = bounds()
        value = _extreme(parameters[0], limits)
        if value is None:
            value = read(parameters[0]) if read else number(parameters[0], units)[0]
        if not low <= value <= high:
            raise ScpiError(-222)
        put(value)

    def run_query(_numbers: Numbers, parameters: Sequence[str]) -> str:
        if not parameters:
            return show(get())
        value = _extreme(parameters[0], bounds())
        if value is None:
            raise ScpiError(-104)
        return show(value)

    return [Command(pattern, run_set, 1, 1), Command(pattern + "?", run_query, 0, 1)]


def flag(
    pattern: str,
    get: Callable[[], bool],
    put: Callable[[bool], None],
    words: tuple[str, str] = ("0", "1"),
) -> list[Command]:
    """A switch: ``ON|OFF|1|0`` and a query that answers one of ``words`` (off, on)."""

    def run_set(_numbers: Numbers, parameters: Sequence[str]) -> None:
        word = parameters[0].upper()
        put(word == "ON" if word in ("ON", "OFF") else round(number(word)[0]) != 0)

    return [Command(pattern, run_set, 1, 1), query(pattern + "?", lambda: words[get()])]


def choice(
    pattern: str, words: Sequence[str], get: Callable[[], str], put: Callable[[str], None]
) -> list[Command]:
    """A setting among words, written like headers (``CURRent``); queries answer the short form."""
    shapes = {re.sub("[a-z]", "", word): _shape(word) for word in words}

    def run_set(_numbers: Numbers, parameters: Sequence[str]) -> None:
        for short, shape in shapes.items():
            if shape.fullmatch(parameters[0]):
                return put(short)
        raise ScpiError(-141)

    return [Command(pattern, run_set, 1, 1), query(pattern + "?", get)]


class StatusRegister:
    """A SCPI status register: condition, transition filters, latched event, enable."""

    def __init__(self) -> None:
        self.condition = 0
        self.positive = 0x7FFF
        self.negative = 0
        self.enable = 0
        self._event = 0

    def update(self, condition: int) -> None:
        """Take a new condition and latch its transitions."""
        self._event |= (condition & ~self.condition) & self.positive
        self._event |= (self.condition & ~condition) & self.negative
        self.condition = condition

    def clear(self) -> None:
        """Forget the latched events."""
        self._event = 0

    def read_event(self) -> int:
        """Return the latched events and clear them."""
        event, self._event = self._event, 0
        return event

    def commands(self, root: str, refresh: Callable[[], None]) -> list[Command]:
        """Commands of the register under ``root``; ``refresh`` brings the condition up to date."""

        def condition() -> str:
            refresh()
            return str(self.condition)

        def event() -> str:
            refresh()
            return str(self.read_event())

        found = [query(f"{root}:CONDition?", condition), query(f"{root}[:EVENt]?", event)]
        for header, name in (("PTR", "positive"), ("NTR", "negative"), ("ENABle", "enable")):
            found += _mask(f"{root}:{header}", self, name, 0x7FFF)
        return found


def _mask(pattern: str, owner: object, name: str, high: int) -> list[Command]:
    def run_set(_numbers: Numbers, parameters: Sequence[str]) -> None:
        setattr(owner, name, integer(parameters[0], 0, high))

    return [
        Command(pattern, run_set, 1, 1),
        query(pattern + "?", lambda: str(getattr(owner, name))),
    ]


def _shape(pattern: str) -> re.Pattern[str]:
    def part(match: re.Match[str]) -> str:
        text = match[0]
        if text == "[":
            return "(?:"
        if text == "]":
            return ")?"
        if text == "#":
            return r"(\d{1,3})"
        short = re.match("[A-Z]*", text)
        if text.isalpha() and short is not None and short.end() < len(text):
            return f"{short[0]}(?:{text[short.end() :]})?"
        return re.escape(text)

    return re.compile(re.sub(r"[A-Za-z]+|.", part, pattern), re.IGNORECASE | re.ASCII)


_HEADER = re.compile(r"(:?(?:\*[A-Z]+|[A-Z][A-Z0-9_]*(?::[A-Z][A-Z0-9_]*)*)\??)(?:\s+(.*))?", re.I)


class Interpreter:
    """Runs SCPI program messages on a set of commands.

    A command error (-1xx) ends the program message it stands in; an execution error (-2xx) only
    its own command (IEEE 488.2, 11.5.1). Unlike a device on USBTMC, an unanswered query raises no
    -410: a raw socket has no such phase.

    Args:
        commands: The device's own; the common commands and ``SYSTem:ERRor`` are added.
        identity: Reply to ``*IDN?``.
        reset: Brings the device to its ``*RST`` state.
        clear: What ``*CLS`` clears besides the error queue and the event status.
        joiner: Stands between the replies of one message.
        answer_errors: Reply ``error: `` and its text, for devices that answer every message.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        identity: str,
        reset: Callable[[], None],
        clear: Callable[[], None] = lambda: None,
        joiner: str = ";",
        answer_errors: bool = False,
    ) -> None:
        self._clear = clear
        self._answer_errors = answer_errors
        self._joiner = joiner
        self._errors: deque[int] = deque()
        self._event_status = 128  # power on
        self.event_enable = 0
        self.request_enable = 0

        def run_reset(_numbers: Numbers, _parameters: Sequence[str]) -> None:
            reset()

        def run_clear(_numbers: Numbers, _parameters: Sequence[str]) -> None:
            self._errors.clear()
            self._event_status = 0
            self._clear()

        def run_complete(_numbers: Numbers, _parameters: Sequence[str]) -> None:
            self._event_status |= 1

        common = [
            query("*IDN?", lambda: identity),
            Command("*RST", run_reset),
            Command("*CLS", run_clear),
            query("*TST?", lambda: "0"),
            Command("*OPC", run_complete),
            query("*OPC?", lambda: "1"),
            Command("*WAI", lambda _numbers, _parameters: None),
            query("*STB?", lambda: str(self._status_byte())),
            query("*ESR?", lambda: str(self._read_event_status())),
            *_mask("*ESE", self, "event_enable", 255),
            *_mask("*SRE", self, "request_enable", 255),
            query("SYSTem:ERRor[:NEXT]?", self.next_error),
        ]
        self._commands = [(_shape(command.pattern), command) for command in (*common, *commands)]

    def next_error(self) -> str:
        """Pop the oldest error, as ``SYSTem:ERRor?`` answers it."""
        if not self._errors:
            return '+0,"No error"'
        code = self._errors.popleft()
        return f'{code},"{_TEXTS[code]}"'

    def fail(self, code: int) -> None:
        """Put an error into the queue."""
        self._event_status |= {1: 32, 2: 16, 3: 8, 4: 4}[-code // 100]
        if len(self._errors) == _DEPTH:
            self._errors[-1] = -350
        else:
            self._errors.append(code)

    def execute(self, message: str) -> str | None:
        """Run one program message; return its reply, None where it has none."""
        replies: list[str] = []
        path = ""
        for unit in _split(message, ";"):
            text = unit.strip()
            if not text:
                continue
            try:
                path, command, numbers, parameters = self._locate(text, path)
                reply = command.run(numbers, parameters)
            except ScpiError as error:
                self.fail(error.code)
                if self._answer_errors:
                    replies.append(f"error: {error}")
                if error.code > -200:
                    break
            else:
                if reply is not None:
                    replies.append(reply)
        return self._joiner.join(replies) if replies else None

    def _locate(self, unit: str, path: str) -> tuple[str, Command, Numbers, list[str]]:
        if not unit.isascii() or not unit.replace("\t", " ").isprintable():
            raise ScpiError(-101)
        match = _HEADER.fullmatch(unit)
        if match is None:
            raise ScpiError(-102)
        header, rest = match[1], match[2]
        if header.startswith("*"):
            full = header
        else:
            full = header[1:] if header.startswith(":") else path + header
            path = full[: full.rfind(":") + 1]
        parameters = [part.strip() for part in _split(rest, ",")] if rest else []
        for shape, command in self._commands:
            found = shape.fullmatch(full)
            if found is None:
                continue
            if len(parameters) > command.most:
                raise ScpiError(-108)
            if len(parameters) < command.least or "" in parameters:
                raise ScpiError(-109)
            numbers = tuple(int(n) for n in found.groups() if n is not None)
            return path, command, numbers, parameters
        raise ScpiError(-113)

    def _read_event_status(self) -> int:
        status, self._event_status = self._event_status, 0
        return status

    def _status_byte(self) -> int:
        status = 4 if self._errors else 0
        status |= 32 if self._event_status & self.event_enable else 0
        return status | (64 if status & self.request_enable else 0)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside quotes."""
    if '"' not in text and "'" not in text:
        return text.split(separator)
    return re.findall(rf"((?:\"[^\"]*\"?|'[^']*'?|[^\"'{separator}])*)(?:{separator}|$)", text)[:-1]


async def serve(link: Link, interpreter: Interpreter) -> None:
    """Answer one client, line by line, until it is gone."""
    splitter = Splitter(b"\n")
    while data := await link.read():
        for line in splitter.feed(data):
            reply = interpreter.execute(line.decode("latin-1"))
            if reply is not None:
                await link.send(reply.encode("ascii") + b"\n")
