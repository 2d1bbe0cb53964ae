"""Swabian Instruments Pulse Streamer 8/2: eight digital and two analog outputs.

Settings go as JSON-RPC 2.0 over HTTP, sequences to a binary port, as the maker's own client sends
them since firmware 1.1; before that as base64 in JSON, where numbers are big-endian (the maker's
client up to 1.7.0; 2.1.2 would send them little-endian there, on a path that it never takes).
Source: the maker's Python package ``pulsestreamer`` 1.7.0 and 2.1.2. From the data sheet, as
remembered (unverified): analog outputs at 125 MSa/s, and runs in multiples of 8 ns, to which the
device would fill up a sequence by itself.
"""

from __future__ import annotations

import base64
import itertools
import json
import struct
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from ...instruments import (
    Clock,
    Identity,
    InstrumentError,
    Levels,
    Limits,
    PulseSequence,
    PulseSequencerInfo,
)
from ..base import Driver, DriverSettings, closed_on_error
from ..signal import ReadOnlySignal, Signal, Switch
from ..transports import Endpoint
from ..transports.exchange import TcpExchange
from ..transports.http import HttpLink, parse_http_address
from ..transports.tcp import port_number

__all__ = ["PulseStreamerSettings", "SwabianPulseStreamer82"]

Trigger = Literal["immediate", "software", "rising", "falling", "both"]
ClockSource = Literal["internal", "external_125MHz", "external_10MHz"]

_OUTPUTS, _ANALOG_OUTPUTS = 8, 2
_VOLT = 0x7FFF
_LONGEST_NS = 0xFFFFFFFF
_MAGIC, _STREAM = 0x53504953, 0
_BINARY_SINCE = (1, 1)
_INFO = PulseSequencerInfo(
    digital_outputs=_OUTPUTS,
    analog_outputs=_ANALOG_OUTPUTS,
    analog_limits_v=Limits(-1.0, 1.0),
    resolution_ps=1000,
    analog_resolution_ps=8000,
    run_resolution_ps=8000,
    max_steps=2_000_000,
    trigger_sources=get_args(Trigger),
    clock_sources=get_args(ClockSource),
)
T = TypeVar("T")
_PULSE = [("ns", "u4"), ("digital", "u1"), ("a0", "i2"), ("a1", "i2")]


class PulseStreamerSettings(DriverSettings):
    """Settings of a Pulse Streamer. None leaves the instrument as it is."""

    trigger_source: Trigger | None = None
    """What starts a sequence that was handed over."""
    rearm: bool | None = None
    """Whether a sequence that has ended waits for its trigger again."""
    clock_source: ClockSource | None = None
    """The time base."""


class SwabianPulseStreamer82(Driver):
    """A Pulse Streamer 8/2: digital outputs 0 to 7 on a grid of 1 ns, analog outputs 0 and 1.

    Args:
        name: Name on the bench.
        address: ``http://host``; the ports and the path, 8050, ``/json-rpc`` and ``?data=21328``,
            where they are others.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Swabian Instruments Pulse Streamer 8/2"
    Settings: ClassVar[type[PulseStreamerSettings]] = PulseStreamerSettings

    def __init__(
        self, name: str, address: str, settings: PulseStreamerSettings, clock: Clock
    ) -> None:
        super().__init__(name, address, clock)
        self._settings = settings
        if self._endpoint.address:  # a twin's is not known yet
            self._where()
        self._rpc = _JsonRpc(self._endpoint, settings.timeout)
        self._data = TcpExchange(self._endpoint, settings.timeout)
        self._uploads = itertools.count(1)
        self._binary = True
        self.trigger_source = Signal[str](
            "trigger_source",
            "",
            lambda: self._rpc.among("getTriggerStart", _INFO.trigger_sources),
            lambda word: self._set_trigger(start=word),
            label="What starts a sequence",
        )
        self.rearm = Switch(
            "rearm",
            lambda: self._rpc.among("getTriggerRearm", (True, False)),
            lambda on: self._set_trigger(rearm=on),
            label="Whether a sequence that has ended waits for its trigger again",
            endpoint=self._endpoint,
        )
        self.clock_source = Signal[str](
            "clock_source",
            "",
            lambda: self._rpc.among("getClock", _INFO.clock_sources),
            lambda word: self._done(
                "selectClock", self._index("clock_source", word, _INFO.clock_sources)
            ),
            label="The time base",
        )
        self.streaming = self._truth("streaming", "isStreaming", "Whether a sequence plays now")
        self.finished = self._truth(
            "finished", "hasFinished", "Whether the sequence has played to its end"
        )
        self.armed = self._truth(
            "armed", "hasSequence", "Whether there is a sequence that can be started"
        )
        self.temperature = ReadOnlySignal(
            "temperature",
            "degC",
            lambda: self._rpc.number("getTemperature"),
            label="Temperature of the board",
        )

    @property
    def info(self) -> PulseSequencerInfo:
        """Capabilities; known before opening."""
        return _INFO

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the sequencer."""
        return (
            self.trigger_source,
            self.rearm,
            self.clock_source,
            self.streaming,
            self.finished,
            self.armed,
            self.temperature,
        )

    def open(self) -> None:
        """Find out that it is there and how it takes sequences; what plays goes on."""
        with self._rpc.lock:
            if self._rpc.is_open:
                return
            host, port, path, _ = self._where()
            self._rpc.open(host, port, path)
            with closed_on_error(self._rpc):
                firmware = self._rpc.text("getFirmwareVersion")
                self._binary = self._version(firmware) >= _BINARY_SINCE

    def close(self) -> None:
        """Disconnect, leaving it as it is: a sequence goes on."""
        self._rpc.close()

    def identify(self) -> Identity:
        """Who it is."""
        # Firmware before 1.1 wants to know which of its serial numbers is meant.
        serial = self._rpc.text("getSerial", *(() if self._binary else (1,)))
        return Identity(
            "Swabian Instruments",
            "Pulse Streamer 8/2",
            serial,
            self._rpc.text("getFirmwareVersion"),
        )

    def configure(self) -> None:
        """Write the settings; a sequence that plays goes on."""
        wanted = self._settings
        if wanted.clock_source is not None:
            self.clock_source.set(wanted.clock_source)
        if wanted.trigger_source is not None:
            self.trigger_source.set(wanted.trigger_source)
        if wanted.rearm is not None:
            self.rearm.set(wanted.rearm)

    def ready(self) -> bool:
        """Whether it answers; its set points hold at once."""
        self.streaming.get()
        return True

    def off(self) -> None:
        """End the sequence: all outputs low and at 0 V."""
        self.hold(Levels())

    def safe(self) -> None:
        """As :meth:`off`."""
        self.open()
        self.off()

    def stream(
        self, sequence: PulseSequence, *, runs: int | None = None, final: Levels | None = None
    ) -> None:
        """Hand over a sequence, which starts as ``trigger_source`` says; one playing ends.

        See :meth:`bellbench.instruments.PulseSequencer.stream`.
        """
        pulses = self._pulses(sequence)
        state = self._levels(final or Levels())
        if runs is not None and (
            isinstance(runs, bool) or runs != int(runs) or not 0 < runs < 2**31
        ):
            raise self._endpoint.error(f"it plays 1 to 2^31 - 1 runs, or None for ever, not {runs}")
        count = -1 if runs is None else int(runs)
        if self._binary:
            self._upload(pulses, count, state)
            return
        big = pulses.astype(np.dtype(_PULSE).newbyteorder(">"))
        text = base64.b64encode(big.tobytes()).decode("ascii")
        self._done("stream", text, count, [0, *state])

    def start(self) -> None:
        """Start the sequence handed over.

        Raises:
            InstrumentError: where the trigger source is not ``software``, or none waits.
        """
        with self._rpc.lock:
            source = self.trigger_source.get()
            if source != "software":
                raise self._endpoint.error(
                    f"the trigger source is {source!r}",
                    command="startNow",
                    hint="set trigger_source to 'software' first",
                )
            if not self.armed.get():
                raise self._endpoint.error(
                    "there is no sequence to start", command="startNow", hint="stream() one first"
                )
            self._done("startNow")

    def hold(self, levels: Levels) -> None:
        """Show these levels from now on; a sequence that plays ends, and is forgotten."""
        self._done("constant", [0, *self._levels(levels)])

    def _where(self) -> tuple[str, int, str, int]:
        host, port, path, options = parse_http_address(
            self._endpoint, 8050, "/json-rpc", {"data": "21328"}
        )
        return host, port, path, port_number(self._endpoint, "data", options["data"])

    def _truth(self, name: str, method: str, label: str) -> ReadOnlySignal[bool]:
        return ReadOnlySignal(name, "", lambda: self._rpc.among(method, (False, True)), label=label)

    def _done(self, method: str, *parameters: object) -> None:
        self._rpc.call(method, *parameters)

    def _index(self, name: str, word: str, words: tuple[str, ...]) -> int:
        if word not in words:
            raise self._endpoint.error(
                f"{name} cannot be set to {word!r}: it takes {', '.join(words)}"
            )
        return words.index(word)

    def _set_trigger(self, start: str | None = None, rearm: bool | None = None) -> None:
        with self._rpc.lock:  # the device takes both at once
            starts = _INFO.trigger_sources
            wanted = start if start is not None else self._rpc.among("getTriggerStart", starts)
            index = self._index("trigger_source", wanted, starts)
            again = rearm if rearm is not None else self.rearm.get()
            self._done("setTrigger", index, 0 if again else 1)

    def _version(self, firmware: str) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in firmware.strip().split(".")[:2])
        except ValueError as error:
            raise self._endpoint.error(
                "a firmware version expected", command="getFirmwareVersion", reply=firmware
            ) from error

    def _levels(self, levels: Levels) -> tuple[int, int, int]:
        """Mask and raw analog levels."""
        if not 0 <= levels.digital < 1 << _OUTPUTS:
            raise self._endpoint.error(f"mask {levels.digital:#x}: it has digital outputs 0 to 7")
        volts = levels.analog_v
        if len(volts) != _ANALOG_OUTPUTS or any(v not in _INFO.analog_limits_v for v in volts):
            raise self._endpoint.error(
                f"analog levels {volts} V: it has two analog outputs of -1 V to 1 V"
            )
        a0, a1 = (round(v * _VOLT) for v in volts)
        return levels.digital, a0, a1

    def _pulses(self, sequence: PulseSequence) -> npt.NDArray[Any]:
        """The sequence as the device takes it: whole nanoseconds, raw analog levels."""
        at = np.cumsum(sequence.durations_ps)
        volts, digital = sequence.analog_v, sequence.digital
        if int(digital.max()) >= 1 << _OUTPUTS:
            raise self._endpoint.error("the sequence uses a digital output beyond 7")
        if volts.shape[1] != _ANALOG_OUTPUTS or not (np.abs(volts) <= 1.0).all():
            raise self._endpoint.error(
                "the sequence's analog levels do not fit: it has two outputs of -1 V to 1 V"
            )
        if (sequence.durations_ps % _INFO.resolution_ps).any():
            raise self._endpoint.error("a step is not a whole number of nanoseconds long")
        if int(at[-1]) % _INFO.run_resolution_ps:
            raise self._endpoint.error(
                f"a run of {int(at[-1]) // 1000} ns is no multiple of 8 ns",
                hint="lengthen the last step, or play the pattern several times in one run",
            )
        changes = np.flatnonzero((volts[1:] != volts[:-1]).any(axis=1))
        odd = changes[at[changes] % _INFO.analog_resolution_ps != 0]
        if odd.size:
            raise self._endpoint.error(
                f"an analog level changes at {int(at[odd[0]]) // 1000} ns, off its grid of 8 ns"
            )
        ns = sequence.durations_ps // 1000
        pieces = -(-ns // _LONGEST_NS)
        if int(pieces.sum()) > _INFO.max_steps:
            raise self._endpoint.error(
                f"{int(pieces.sum())} steps: it takes {_INFO.max_steps}",
                hint="play a shorter pattern more often",
            )
        step = np.repeat(np.arange(ns.size), pieces)
        found = np.zeros(step.size, np.dtype(_PULSE))
        found["ns"] = _LONGEST_NS
        last = np.cumsum(pieces) - 1
        found["ns"][last] = ns - (pieces - 1) * _LONGEST_NS
        raw = np.rint(volts * _VOLT)
        found["digital"], found["a0"], found["a1"] = digital[step], raw[step, 0], raw[step, 1]
        return found

    def _upload(self, pulses: npt.NDArray[Any], runs: int, final: tuple[int, int, int]) -> None:
        if not self._rpc.is_open:
            raise self._endpoint.not_open("stream")
        mask, a0, a1 = final
        data = pulses.astype(np.dtype(_PULSE).newbyteorder("<")).tobytes()
        head = struct.pack("<qQ2h4BQ", runs, len(pulses), a0, a1, mask, 0, 0, 0, 0)
        body = head + data
        body += bytes(-len(body) % 32 or 32)  # as the maker's client: never without padding
        with self._rpc.lock:
            number = next(self._uploads)
            command = struct.pack("<4I2Q", _MAGIC, number, _STREAM, 0, len(body), 0)
            host, _, _, port = self._where()
            reply = self._data.exchange(host, port, command + body, 32)
        magic, told, status, _, _, _ = struct.unpack("<4I2Q", reply)
        if magic != _MAGIC or told != number:
            raise self._endpoint.error(
                "the answer to an upload makes no sense", command=command, reply=reply
            )
        if status:
            raise self._endpoint.error(
                f"refused the sequence, status {status}", command=command, reply=reply
            )


class _JsonRpc:
    """JSON-RPC 2.0, one call after the other."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._link = HttpLink(endpoint, timeout_s)
        self._numbers = itertools.count(1)
        self.lock = self._link.lock
        self.open = self._link.open
        self.close = self._link.close

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._link.is_open

    def call(self, method: str, *parameters: object) -> object:
        """Call a method and return its result.

        Raises:
            InstrumentError: with the device's own words where it refuses.
        """
        with self.lock:
            number = next(self._numbers)
            message: dict[str, object] = {"jsonrpc": "2.0", "id": number, "method": method}
            if parameters:
                message["params"] = parameters
            body = json.dumps(message, separators=(",", ":")).encode()
            reply = self._link.post(body)
        try:
            told = json.loads(reply)
        except (ValueError, RecursionError) as error:
            raise self._endpoint.error(
                f"reply is not JSON: {error}", command=body[:200], reply=reply[:200]
            ) from error
        if not isinstance(told, dict) or not {"result", "error"} & told.keys():
            raise self._endpoint.error(
                "a JSON-RPC reply expected", command=body[:200], reply=reply[:200]
            )
        refusal = told.get("error")
        if refusal is not None:
            words, code = refusal, None
            if isinstance(refusal, dict):
                words, code = refusal.get("message"), refusal.get("code")
            hint = "this firmware does not know it; update it" if code == -32601 else ""
            raise self._endpoint.error(
                f"refused: {words} ({code})", command=body[:200], reply=reply[:200], hint=hint
            )
        if told.get("id") != number:
            raise self._endpoint.error(
                f"the reply is to call {told.get('id')!r}, not {number}",
                command=body[:200],
                reply=reply[:200],
            )
        return told.get("result")

    def text(self, method: str, *parameters: object) -> str:
        """Call a method that returns text."""
        found = self.call(method, *parameters)
        if not isinstance(found, str):
            raise self._unexpected("text", method, found)
        return found

    def number(self, method: str) -> float:
        """Call a method that returns a number."""
        found = self.call(method)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            raise self._unexpected("a number", method, found)
        return float(found)

    def among(self, method: str, words: Sequence[T]) -> T:
        """Call a method that returns a number which stands for one of ``words``."""
        found = self.call(method)
        if not isinstance(found, int) or not 0 <= found < len(words):
            raise self._unexpected(f"a number from 0 to {len(words) - 1}", method, found)
        return words[found]

    def _unexpected(self, what: str, method: str, found: object) -> InstrumentError:
        return self._endpoint.error(f"{what} expected", command=method, reply=repr(found))
