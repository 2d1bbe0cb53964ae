"""Stanford Research Systems DG645: a digital delay generator with four outputs and T0.

The DG645 says nothing to a setting that it refuses: after every setting its error queue is read
(``LERR?``) until it is empty. Commands: InstrumentKit's driver, the EPICS device support. Limits
of levels, rate and burst, the bits of ``INSR?`` and that ``INHB`` only arms the rear input:
SRS' data sheet, from memory (unverified).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, TypeVar, get_args

from pydantic import Field

from ...instruments import (
    Clock,
    DelayGeneratorInfo,
    Identity,
    InstrumentTimeout,
    Limits,
    Unit,
)
from ..base import Driver, DriverSettings, attempt_all, closed_on_error
from ..signal import LimitedSignal, ReadOnlySignal, Signal, Switch
from ..transports import Endpoint
from ..transports.visa import VisaLink

__all__ = ["DG645Settings", "StanfordDG645"]

_log = logging.getLogger(__name__)

Channel = Literal["A", "B", "C", "D", "E", "F", "G", "H"]
Output = Literal["T0", "AB", "CD", "EF", "GH"]
Source = Literal[
    "internal",
    "external_rising",
    "external_falling",
    "single_external_rising",
    "single_external_falling",
    "single",
    "line",
]
Inhibited = Literal["nothing", "triggers", "AB", "AB_CD", "AB_CD_EF", "AB_CD_EF_GH"]

#: Numbers on the wire: the place in the list.
_CHANNELS: tuple[str, ...] = ("T0", "T1", *get_args(Channel))
_OUTPUTS: tuple[str, ...] = get_args(Output)
_SOURCES: tuple[str, ...] = get_args(Source)
_INHIBITED: tuple[str, ...] = get_args(Inhibited)
_SCALED = ("trigger", "AB", "CD", "EF", "GH")

_STEP_PS = 5
_LONGEST_S = 2000.0
_AMPLITUDE = Limits(0.5, 5.0)
_OFFSET = Limits(-2.0, 2.0)
_LEVEL = Limits(-3.5, 3.5)
_RATE = Limits(1e-4, 1e7)
_PERIOD = Limits(100e-9, 1999.99999999)
_DELAY = Limits(0.0, _LONGEST_S)
_MOST_CYCLES = 2**32 - 1
_MOST_PRESCALE = 2**30 - 1
_QUEUE_READS = 50

#: Codes of ``LERR?``: what went wrong, and what to do about it.
_ERRORS: dict[int, tuple[str, str]] = {
    10: ("illegal value", "a parameter is out of range"),
    11: ("illegal mode", "the trigger source or burst mode does not allow it now"),
    12: ("illegal delay", "delays from T0, links added up, go from 0 to 2000 s"),
    13: ("illegal link", "links must not form a circle; T0 and T1 follow nobody"),
    14: ("recall failed", "that memory holds nothing"),
    15: ("not allowed", "the instrument is busy or locked"),
    16: ("self-test failed", ""),
    17: ("auto-calibration failed", ""),
    30: ("lost data", "read replies before sending more"),
    32: ("no listener", ""),
    110: ("illegal command", ""),
    111: ("undefined command", "this firmware does not know it"),
    112: ("illegal query", "it cannot be queried"),
    113: ("illegal set", "it can only be queried"),
    114: ("null parameter", ""),
    115: ("extra parameter", ""),
    116: ("missing parameter", ""),
    117: ("parameter overflow", ""),
    118: ("bad floating point number", ""),
    120: ("bad integer", ""),
    121: ("integer overflow", ""),
    122: ("bad hexadecimal number", ""),
    126: ("syntax error", ""),
    170: ("communication error", "check the line and its settings"),
    171: ("over-run", "commands came faster than it reads"),
    254: ("too many errors", "others were lost before this one"),
}
#: Bits of ``INSR?``.
_EVENTS = (
    "triggered",
    "trigger ignored: a cycle was running",
    "cycle ended",
    "burst ended",
    "inhibited",
    "cycle aborted by a setting",
    "clock unlocked",
    "external clock unlocked",
)

T = TypeVar("T")
_Volts = Annotated[float, Unit("V")]
_Seconds = Annotated[float, Field(ge=0, le=_LONGEST_S), Unit("s")]


class DG645Settings(DriverSettings):
    """Settings of a DG645. None leaves the instrument as it is."""

    delays: dict[Channel, _Seconds] = Field(default_factory=dict)
    """Delays from T0, s; channels that are not named are left as they are."""
    amplitudes: dict[Output, Annotated[_Volts, Field(ge=_AMPLITUDE.low, le=_AMPLITUDE.high)]] = (
        Field(default_factory=dict)
    )
    """Height of each output's step, V."""
    offsets: dict[Output, Annotated[_Volts, Field(ge=_OFFSET.low, le=_OFFSET.high)]] = Field(
        default_factory=dict
    )
    """Level of each output at rest, V."""
    positive: dict[Output, bool] = Field(default_factory=dict)
    """Whether each output goes up, and not down, while it is active."""
    trigger_source: Source | None = None
    """What starts a cycle."""
    trigger_rate: Annotated[float, Field(ge=_RATE.low, le=_RATE.high), Unit("Hz")] | None = None
    """Rate of the internal trigger, Hz."""
    trigger_level: Annotated[_Volts, Field(ge=_LEVEL.low, le=_LEVEL.high)] | None = None
    """Threshold of the external trigger, V."""
    burst: bool | None = None
    """Whether a trigger starts a burst of cycles."""
    burst_count: Annotated[int, Field(ge=1, le=_MOST_CYCLES)] | None = None
    """Cycles in a burst."""
    burst_period: Annotated[float, Field(ge=_PERIOD.low, le=_PERIOD.high), Unit("s")] | None = None
    """Time from one cycle of a burst to the next, s."""
    burst_delay: _Seconds | None = None
    """Time from the trigger to the first cycle of a burst, s."""
    burst_t0_once: bool | None = None
    """Whether T0 comes out with the first cycle of a burst only."""
    inhibit: Inhibited | None = None
    """What a high level at the rear input holds back."""


class StanfordDG645(Driver):
    """A DG645: edges A to H at delays from T0, in pairs on the outputs AB, CD, EF and GH.

    A channel may be linked to another: it then keeps its distance and moves with it. Setting a
    delay through :attr:`delays` refers the channel to T0 again; what is linked to it follows.

    Args:
        name: Name on the bench.
        address: VISA resource, ``TCPIP::<host>::5025::SOCKET``, ``TCPIP::<host>::INSTR`` or
            ``GPIB0::15::INSTR``.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Stanford Research Systems DG645"
    Settings: ClassVar[type[DG645Settings]] = DG645Settings

    def __init__(self, name: str, address: str, settings: DG645Settings, clock: Clock) -> None:
        super().__init__(name, address, clock)
        self._settings = settings
        self._wire = wire = _Wire(self._endpoint, settings.timeout)
        self._info = DelayGeneratorInfo(
            channels=get_args(Channel),
            outputs=MappingProxyType(
                {"T0": ("T0", "T1")} | {pair: (pair[0], pair[1]) for pair in _OUTPUTS[1:]}
            ),
            trigger_sources=_SOURCES,
            resolution_s=_STEP_PS * 1e-12,
            max_delay_s=_LONGEST_S,
            dead_time_s=100e-9,
        )

        def number(
            name: str,
            unit: str,
            header: str,
            limits: Limits,
            label: str,
            show: str,
            index: str = "",
        ) -> LimitedSignal:
            prefix = f"{header} {index}," if index else f"{header} "
            return LimitedSignal(
                name,
                unit,
                lambda: wire.number(f"{header}?{index}"),
                lambda value: wire.set(f"{prefix}{value:{show}}"),
                label=label,
                limits=limits,
                endpoint=self._endpoint,
            )

        def switch(name: str, header: str, label: str, index: str = "") -> Switch:
            prefix = f"{header} {index}," if index else f"{header} "
            return Switch(
                name,
                lambda: wire.among(f"{header}?{index}", (False, True)),
                lambda on: wire.set(f"{prefix}{on:d}"),
                label=label,
                endpoint=self._endpoint,
            )

        def whole(
            name: str, header: str, label: str, low: int, high: int, index: str = ""
        ) -> Signal[int]:
            prefix = f"{header} {index}," if index else f"{header} "

            def write(value: int) -> None:
                if isinstance(value, bool) or value != int(value) or not low <= value <= high:
                    raise self._endpoint.error(
                        f"{name} cannot be set to {value!r}: it takes a whole number"
                        f" from {low} to {high}"
                    )
                wire.set(f"{prefix}{int(value)}")

            return Signal(name, "", lambda: wire.integer(f"{header}?{index}"), write, label=label)

        def word(name: str, header: str, words: Sequence[str], label: str) -> Signal[str]:
            def write(value: str) -> None:
                if value not in words:
                    raise self._endpoint.error(
                        f"{name} cannot be set to {value!r}: it takes {', '.join(words)}"
                    )
                wire.set(f"{header} {words.index(value)}")

            return Signal(name, "", lambda: wire.among(f"{header}?", words), write, label=label)

        def outputs(make: Callable[[str, str], T]) -> Mapping[str, T]:
            return MappingProxyType({each: make(each, str(i)) for i, each in enumerate(_OUTPUTS)})

        self._delays = MappingProxyType({each: self._delay_signal(each) for each in _CHANNELS[2:]})
        self._amplitudes = outputs(
            lambda o, i: number(
                f"amplitude_{o}", "V", "LAMP", _AMPLITUDE, f"Step of output {o}", ".2f", i
            )
        )
        self.offsets = outputs(
            lambda o, i: number(
                f"offset_{o}", "V", "LOFF", _OFFSET, f"Level of output {o} at rest", ".2f", i
            )
        )
        self._positive = outputs(
            lambda o, i: switch(f"positive_{o}", "LPOL", f"Whether output {o} goes up", i)
        )
        self.trigger_source = word("trigger_source", "TSRC", _SOURCES, "What starts a cycle")
        self.trigger_rate = number(
            "trigger_rate", "Hz", "TRAT", _RATE, "Rate of the internal trigger", ".6f"
        )
        self.trigger_level = number(
            "trigger_level", "V", "TLVL", _LEVEL, "Threshold of the external trigger", ".2f"
        )
        self.burst = switch("burst", "BURM", "Whether a trigger starts a burst")
        self.burst_count = whole("burst_count", "BURC", "Cycles in a burst", 1, _MOST_CYCLES)
        self.burst_period = number(
            "burst_period", "s", "BURP", _PERIOD, "Time between the cycles of a burst", ".8f"
        )
        self.burst_delay = number(
            "burst_delay", "s", "BURD", _DELAY, "Time from the trigger to a burst", ".12f"
        )
        self.burst_t0_once = switch(
            "burst_t0_once", "BURT", "Whether T0 comes with the first cycle of a burst only"
        )
        self.advanced = switch("advanced", "ADVT", "Whether holdoff and prescalers are in use")
        self.holdoff = number(
            "holdoff", "s", "HOLD", _DELAY, "Shortest time between triggers", ".12f"
        )
        self.prescales = MappingProxyType(
            {
                each: whole(
                    f"prescale_{each}", "PRES", f"Divider of {each}", 1, _MOST_PRESCALE, str(i)
                )
                for i, each in enumerate(_SCALED)
            }
        )
        self.phases = MappingProxyType(
            {
                each: whole(
                    f"phase_{each}", "PHAS", f"Phase of {each}'s divider", 0, _MOST_PRESCALE, str(i)
                )
                for i, each in enumerate(_SCALED)
                if i
            }
        )
        self.inhibit = word(
            "inhibit", "INHB", _INHIBITED, "What a high level at the rear input holds back"
        )

    @property
    def info(self) -> DelayGeneratorInfo:
        """Capabilities; known before opening."""
        return self._info

    @property
    def delays(self) -> Mapping[str, LimitedSignal]:
        """Delay of each channel from T0, s."""
        return self._delays

    @property
    def amplitudes(self) -> Mapping[str, LimitedSignal]:
        """Height of each output's step, V."""
        return self._amplitudes

    @property
    def positive(self) -> Mapping[str, Switch]:
        """Whether each output goes up, and not down, while it is active."""
        return self._positive

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the delay generator."""
        return (
            *self.delays.values(),
            *self.amplitudes.values(),
            *self.offsets.values(),
            *self.positive.values(),
            self.trigger_source,
            self.trigger_rate,
            self.trigger_level,
            self.burst,
            self.burst_count,
            self.burst_period,
            self.burst_delay,
            self.burst_t0_once,
            self.advanced,
            self.holdoff,
            *self.prescales.values(),
            *self.phases.values(),
            self.inhibit,
        )

    def open(self) -> None:
        """Connect; triggers, delays and levels stay as they are."""
        self._wire.open()

    def close(self) -> None:
        """Disconnect, leaving it as it is: a running train goes on."""
        self._wire.close()

    def identify(self) -> Identity:
        """Ask who it is."""
        reply = self._wire.query("*IDN?")
        fields = [field.strip() for field in reply.split(",")]
        if len(fields) != 4:
            raise self._endpoint.error(
                "four fields with commas expected", command="*IDN?", reply=reply
            )
        return Identity(*fields)

    def configure(self) -> None:
        """Write the settings; what starts the triggers comes last."""
        wanted = self._settings
        plain: list[tuple[Signal[float], float | None]] = [
            *((self.delays[channel], value) for channel, value in wanted.delays.items()),
            *((self.offsets[output], value) for output, value in wanted.offsets.items()),
            *((self.amplitudes[output], value) for output, value in wanted.amplitudes.items()),
            (self.trigger_level, wanted.trigger_level),
            (self.burst_period, wanted.burst_period),
            (self.burst_delay, wanted.burst_delay),
            (self.trigger_rate, wanted.trigger_rate),
        ]
        for output, up in wanted.positive.items():
            self.positive[output].set(up)
        for signal, value in plain:
            if value is not None:
                signal.set(value)
        if wanted.burst_count is not None:
            self.burst_count.set(wanted.burst_count)
        for switch, on in ((self.burst_t0_once, wanted.burst_t0_once), (self.burst, wanted.burst)):
            if on is not None:
                switch.set(on)
        for choice, word in (
            (self.inhibit, wanted.inhibit),
            (self.trigger_source, wanted.trigger_source),
        ):
            if word is not None:
                choice.set(word)

    def ready(self) -> bool:
        """Whether it answers; its set points hold at once."""
        self.trigger_source.get()
        return True

    def off(self) -> None:
        """Stop triggering: nothing starts a cycle but :meth:`trigger`. Levels and delays stay."""
        self._wire.set(f"TSRC {_SOURCES.index('single')}")

    def safe(self) -> None:
        """Stop triggering and leave burst mode, so that a running burst ends, too."""
        self.open()
        attempt_all(self._endpoint, "making it safe", self.off, lambda: self._wire.set("BURM 0"))

    def trigger(self) -> None:
        """Start one cycle, or one burst, now.

        Raises:
            InstrumentError: where the trigger source is not ``single``.
        """
        self._trigger("single")

    def arm(self) -> None:
        """Let the next external edge start one cycle or burst.

        Raises:
            InstrumentError: where the trigger source is not ``single_external_*``.
        """
        self._trigger("single_external_rising", "single_external_falling")

    def link(self, channel: str, reference: str, distance_s: float | None = None) -> None:
        """Let ``channel`` follow ``reference`` at a distance, s; at its present one unless given.

        Raises:
            InstrumentError: for unknown channels, circles, and edges before T0 or after 2000 s.
        """
        to = self._number_of(reference, "T0", *self.delays)
        own = self._number_of(channel, *self.delays)
        with self._wire.lock:
            if distance_s is None:
                distance_ps = self._delay_ps(own) - self._delay_ps(to)
            else:
                distance_ps = self._on_grid(distance_s)
            self._wire.set(f"DLAY {own},{to},{_seconds(distance_ps)}")

    def reference(self, channel: str) -> tuple[str, float]:
        """Return the channel that ``channel`` follows, and the distance to it, s."""
        to, distance_ps = self._read_delay(self._number_of(channel, *self.delays))
        return _CHANNELS[to], distance_ps / 1e12

    def events(self) -> tuple[str, ...]:
        """What has happened since the last call, in words; reading clears it."""
        bits = self._wire.integer("INSR?")
        return tuple(words for bit, words in enumerate(_EVENTS) if bits >> bit & 1)

    def _delay_signal(self, channel: str) -> LimitedSignal:
        number = _CHANNELS.index(channel)
        return LimitedSignal(
            f"delay_{channel}",
            "s",
            lambda: self._delay_ps(number) / 1e12,
            lambda seconds: self._wire.set(f"DLAY {number},0,{_seconds(self._on_grid(seconds))}"),
            label=f"Delay of channel {channel} from T0",
            limits=_DELAY,
            endpoint=self._endpoint,
        )

    def _number_of(self, channel: str, *known: str) -> int:
        if channel not in known:
            raise self._endpoint.error(f"no channel {channel!r} here (it has {', '.join(known)})")
        return _CHANNELS.index(channel)

    def _on_grid(self, seconds: float) -> int:
        if not abs(seconds) <= _LONGEST_S:  # nan, too
            raise self._endpoint.error(f"a delay of {seconds!r} s is not within 2000 s")
        return _STEP_PS * round(seconds * 1e12 / _STEP_PS)

    def _read_delay(self, number: int) -> tuple[int, int]:
        """The channel that channel ``number`` follows, and its distance, ps."""
        command = f"DLAY?{number}"
        reply = self._wire.query(command)
        reference, _, distance = reply.partition(",")
        try:
            found = int(reference), round(float(distance) * 1e12)
            _CHANNELS[found[0]]
        except (ValueError, IndexError, OverflowError) as error:
            raise self._endpoint.error(
                "a channel and a delay expected", command=command, reply=reply
            ) from error
        return found

    def _delay_ps(self, number: int) -> int:
        """Delay from T0: the links added up."""
        total_ps = 0
        with self._wire.lock:
            for _ in _CHANNELS:
                if number == 0:
                    return total_ps
                number, distance_ps = self._read_delay(number)
                total_ps += distance_ps
        raise self._endpoint.error("its links form a circle", command="DLAY?")

    def _trigger(self, *sources: str) -> None:
        with self._wire.lock:
            source = self.trigger_source.get()
            if source not in sources:
                raise self._endpoint.error(
                    f"the trigger source is {source!r}",
                    command="*TRG",
                    hint=f"set trigger_source to {' or '.join(map(repr, sources))} first",
                )
            self._wire.set("*TRG")


class _Wire:
    """Commands without replies, an error queue of numbers, queries."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._link = VisaLink(endpoint, timeout_s)
        self.lock = self._link.lock

    def open(self) -> None:
        """Connect and empty the error queue, whose entries are not ours."""
        with self.lock:
            if self._link.is_open:
                return
            self._link.open()
            with closed_on_error(self._link):
                for code in self._errors():
                    _log.warning(
                        "%s: error from before opening: %s", self._endpoint.device, _words(code)
                    )

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def set(self, command: str) -> None:
        """Send a setting; raise what it left in the error queue."""
        with self.lock:
            self._link.write(command)
            self._raise_errors(command)

    def query(self, command: str) -> str:
        """Send a query and return the reply; where none comes, say what the queue says."""
        with self.lock:
            try:
                return self._link.query(command)
            except InstrumentTimeout:
                self._raise_errors(command)
                raise

    def number(self, command: str) -> float:
        """Query a number."""
        reply = self.query(command)
        try:
            return float(reply)
        except ValueError as error:
            raise self._endpoint.error("a number expected", command=command, reply=reply) from error

    def integer(self, command: str) -> int:
        """Query a whole number."""
        reply = self.query(command)
        try:
            return int(reply)
        except ValueError as error:
            raise self._endpoint.error(
                "a whole number expected", command=command, reply=reply
            ) from error

    def among(self, command: str, words: Sequence[T]) -> T:
        """Query a number that stands for one of ``words``."""
        index = self.integer(command)
        if not 0 <= index < len(words):
            raise self._endpoint.error(
                f"a number from 0 to {len(words) - 1} expected", command=command, reply=str(index)
            )
        return words[index]

    def _raise_errors(self, command: str) -> None:
        codes = self._errors()
        if codes:
            hints = dict.fromkeys(_ERRORS.get(code, ("", ""))[1] for code in codes)
            raise self._endpoint.error(
                f"refused: {', '.join(map(_words, codes))}",
                command=command,
                hint="; ".join(hint for hint in hints if hint),
            )

    def _errors(self) -> list[int]:
        codes: list[int] = []
        while True:
            reply = self._link.query("LERR?")
            try:
                code = int(reply)
            except ValueError as error:
                raise self._endpoint.error(
                    "an error code expected", command="LERR?", reply=reply
                ) from error
            if code == 0:
                return codes
            codes.append(code)
            if len(codes) > _QUEUE_READS:
                raise self._endpoint.error("the error queue does not empty", command="LERR?")


def _words(code: int) -> str:
    known = _ERRORS.get(code)
    if known is not None:
        return f"{known[0]} ({code})"
    if 40 <= code <= 71:
        return f"self-test failed ({code})"
    return f"calibration failed ({code})" if 80 <= code <= 91 else f"error {code}"


def _seconds(ps: int) -> str:
    """Picoseconds as seconds, exactly."""
    whole, rest = divmod(abs(ps), 10**12)
    return f"{'-' if ps < 0 else ''}{whole}.{rest:012d}"
