"""Twin of the Swabian Instruments Pulse Streamer 8/2 (JSON-RPC over HTTP, sequences in binary).

Source: the maker's Python package ``pulsestreamer`` 1.7.0 and 2.1.2. Both ways of handing over a
sequence are served: the binary port, and ``stream`` in JSON (base64, big-endian, as clients sent
it before there was a binary port). Not known from a unit, and chosen here: the wording of errors,
all but the numbers of JSON-RPC; the status 1 of a binary command that is refused; that a
software start without a waiting sequence is ignored, as a trigger would be; that
``hasSequence`` is false once a sequence has ended that does not rearm. The device fills a run up
to a multiple of 8 ns with its last step (unverified). Left out: the second slot (``upload``,
``start``), the 125 MHz square wave, the network's settings, and that analog levels change on
a grid of 8 ns.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import random
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..elements.sequencer import OUTPUTS, Program, PulseSequencer, hold
from .base import Setting
from .http_port import HttpRequest, serve_http
from .wire import DeviceSettings, Link, Port, TcpPort, chaos_generator, reachable

__all__ = ["PulseStreamerEmulator"]

_PATH = "/json-rpc"
_MOST_STEPS = 2_000_000
_STEP = 9
_LONGEST_BODY = 32 << 20
_MAGIC = 0x53504953
_GRAIN_NS = 8
_SOFTWARE = 1

_PARSE, _REQUEST, _METHOD, _PARAMETERS = -32700, -32600, -32601, -32602


class _RefusedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


class PulseStreamerEmulator:
    """A Pulse Streamer that plays one world's sequence."""

    ELEMENT: ClassVar[type[PulseSequencer]] = PulseSequencer
    MODEL: ClassVar[str] = "Pulse Streamer 8/2"

    class Settings(DeviceSettings):
        """Ports and identity of the unit."""

        data_port: TcpPort = 0
        serial_number: str = "00:26:32:f0:09:7b"
        firmware: str = "1.7.2"
        hardware: str = "1.3"

    def __init__(self, setting: Setting, element: PulseSequencer, settings: Settings) -> None:
        self._setting = setting
        self._element = element
        self._settings = settings
        self._noise = random.Random(setting.seed)
        chaos = chaos_generator(setting, settings.chaos)
        self._rpc = Port(setting, self._serve_rpc, chaos=chaos)
        self._data = Port(setting, self._serve_data, chaos=chaos)
        self._program: Program | None = None
        self._next: Program | None = None  # what the element plays from the next block on
        self._armed = self._streaming = self._finished = False
        self._start = self._rearm = self._clock = 0
        self._methods: dict[str, Callable[..., object]] = {
            "getSerial": self._get_serial,
            "getFirmwareVersion": lambda: self._settings.firmware,
            "getHardwareVersion": lambda: self._settings.hardware,
            "getTemperature": lambda: round(self._noise.gauss(45.0, 0.2), 2),
            "getUnderflow": lambda: 0,
            "constant": self._constant,
            "stream": self._stream,
            "startNow": self._start_now,
            "forceFinal": self._force_final,
            "isStreaming": lambda: self._streaming,
            "hasFinished": lambda: self._finished,
            "hasSequence": lambda: self._armed or self._streaming,
            "setTrigger": self._set_trigger,
            "getTriggerStart": lambda: self._start,
            "getTriggerRearm": lambda: self._rearm,
            "rearm": self._rearm_now,
            "selectClock": self._select_clock,
            "getClock": lambda: self._clock,
            "reset": self._reset,
        }

    async def open(self) -> str:
        """Bind both ports; return the address of the HTTP port with ``?data=``."""
        port = await self._rpc.open(self._settings.port)
        data = await self._data.open(self._settings.data_port)
        return f"http://{reachable(self._setting.host)}:{port}{_PATH}?data={data}"

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Let the sequencer begin what was asked for since the last block."""
        if self._next is not None:
            self._element.play(self._next, begin_ps)
            self._next = None

    def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Notice that a sequence has ended."""
        element = self._element
        done = element.end_ps is not None and element.end_ps <= end_ps
        if done and self._streaming and self._next is None:
            self._end()

    async def close(self) -> None:
        """Close every connection and both ports."""
        await self._rpc.close()
        await self._data.close()

    def _forget(self) -> None:
        self._program = self._next = None
        self._armed = self._streaming = self._finished = False

    # -- JSON-RPC

    async def _serve_rpc(self, link: Link) -> None:
        await serve_http(link, self._answer, limit=_LONGEST_BODY)

    def _answer(self, request: HttpRequest) -> tuple[HTTPStatus, bytes]:
        if request.path != _PATH:
            return HTTPStatus.NOT_FOUND, b""
        if request.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, b""
        number: object = None
        reply: dict[str, object] = {"jsonrpc": "2.0"}
        try:
            try:
                message = json.loads(request.body)
            except (ValueError, RecursionError) as error:
                raise _RefusedError(_PARSE, "Parse error") from error
            if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
                raise _RefusedError(_REQUEST, "Invalid Request")
            number = message.get("id")
            method, given = message.get("method"), message.get("params", [])
            if not isinstance(method, str) or not isinstance(given, list):
                raise _RefusedError(_REQUEST, "Invalid Request")
            if method not in self._methods:
                raise _RefusedError(_METHOD, "Method not found")
            call = self._methods[method]
            try:
                inspect.signature(call).bind(*given)
            except TypeError as error:
                raise _RefusedError(_PARAMETERS, "Invalid params") from error
            reply["result"] = call(*given)
        except _RefusedError as error:
            reply["error"] = {"code": error.code, "message": str(error)}
        return HTTPStatus.OK, json.dumps(reply | {"id": number}).encode()

    def _get_serial(self, which: object = 1) -> str:
        _whole(which, 0, 1)
        return self._settings.serial_number

    def _constant(self, state: object) -> int:
        mask, levels = _levels(state)
        self._forget()
        self._next = hold(mask, levels)
        return 0

    def _stream(self, text: object, runs: object, final: object) -> int:
        count, (mask, levels) = _whole(runs, -1, 2**63 - 1), _levels(final)
        if not isinstance(text, str):
            raise _RefusedError(_PARAMETERS, "the sequence is not text")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _RefusedError(_PARAMETERS, "the sequence is not base64") from error
        if len(data) % _STEP:
            raise _RefusedError(_PARAMETERS, "the sequence does not hold whole steps")
        self._take(_program(data, ">", count, mask, levels))
        return 0

    def _take(self, program: Program) -> None:
        self._forget()
        self._program, self._armed = program, True
        if self._start == 0:
            self._begin()

    def _begin(self) -> None:
        assert self._program is not None
        self._next, self._armed = self._program, False
        self._streaming, self._finished = True, False

    def _end(self) -> None:
        self._streaming, self._finished = False, True
        self._armed = self._rearm == 0

    def _start_now(self) -> int:
        if self._armed and self._start == _SOFTWARE:
            self._begin()
        return 0

    def _force_final(self) -> int:
        program = self._program
        if program is not None and self._streaming:
            a0, a1 = (float(v) for v in program.analog_v[-1])
            self._next = hold(int(program.digital[-1]), (a0, a1))
            self._end()
        return 0

    def _set_trigger(self, start: object, rearm: object = 0) -> int:
        self._start, self._rearm = _whole(start, 0, 4), _whole(rearm, 0, 1)
        return 0

    def _rearm_now(self) -> bool:
        if self._program is None or self._streaming:
            return False
        self._armed, self._finished = True, False
        return True

    def _select_clock(self, source: object) -> int:
        self._clock = _whole(source, 0, 2)
        return 0

    def _reset(self) -> int:
        self._forget()
        self._start = self._rearm = self._clock = 0
        self._next = hold()
        return 0

    # -- the binary port

    async def _serve_data(self, link: Link) -> None:
        buffer = bytearray()

        async def take(size: int) -> bytes | None:
            while len(buffer) < size:
                data = await link.read()
                if not data:
                    return None
                buffer.extend(data)
            found = bytes(buffer[:size])
            del buffer[:size]
            return found

        while (head := await take(32)) is not None:
            magic, number, command, _, length, _ = struct.unpack("<4I2Q", head)
            if magic != _MAGIC or not 32 <= length <= 64 + _STEP * _MOST_STEPS:
                link.abort()
                return
            payload = await take(length)
            if payload is None:
                return
            status = 0
            try:
                if command != 0:
                    raise _RefusedError(_METHOD, "unknown command")
                self._take(_unpacked(payload))
            except _RefusedError:
                status = 1
            await link.send(struct.pack("<4I2Q", _MAGIC, number, status, 0, 0, 0))


def _unpacked(payload: bytes) -> Program:
    runs, steps, a0, a1, mask, *_ = struct.unpack("<qQ2h4BQ", payload[:32])
    data = payload[32:]
    if not 0 <= len(data) - _STEP * steps <= 32:
        raise _RefusedError(_PARAMETERS, "the length does not fit the number of steps")
    return _program(data[: _STEP * steps], "<", runs, mask, (_volts(a0), _volts(a1)))


def _program(data: bytes, order: str, runs: int, mask: int, final: tuple[float, float]) -> Program:
    if not data or len(data) > _STEP * _MOST_STEPS:
        raise _RefusedError(_PARAMETERS, f"a sequence has 1 to {_MOST_STEPS} steps")
    if runs == 0 or runs < -1:
        raise _RefusedError(_PARAMETERS, "n_runs is -1, or 1 and more")
    step = np.dtype([("t", f"{order}u4"), ("d", "u1"), ("a", f"{order}i2", (2,))])
    steps = np.frombuffer(data, step)
    steps = steps[steps["t"] > 0]
    if not steps.size:
        raise _RefusedError(_PARAMETERS, "the sequence takes no time")
    durations: npt.NDArray[np.int64] = steps["t"].astype(np.int64)
    durations[-1] += -int(durations.sum()) % _GRAIN_NS
    return Program(
        durations,
        np.append(steps["d"], np.uint8(mask)),
        np.concatenate([steps["a"] / 0x7FFF, [final]]),
        None if runs < 0 else runs,
    )


def _whole(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _RefusedError(_PARAMETERS, f"a whole number from {low} to {high} is expected")
    return value


def _levels(state: Any) -> tuple[int, tuple[float, float]]:
    """Mask and analog levels of ``[0, mask, a0, a1]``."""
    if not isinstance(state, list) or len(state) != 4:
        raise _RefusedError(_PARAMETERS, "a state is [0, mask, a0, a1]")
    mask = _whole(state[1], 0, (1 << OUTPUTS) - 1)
    a0, a1 = (_volts(_whole(raw, -0x8000, 0x7FFF)) for raw in state[2:])
    return mask, (a0, a1)


def _volts(raw: int) -> float:
    return raw / 0x7FFF
