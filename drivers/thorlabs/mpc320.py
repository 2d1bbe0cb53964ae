"""Thorlabs MPC320: three motorised fibre paddles, over the binary APT protocol."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ...instruments import Clock, Identity, InstrumentError, Limits, Unit
from ..base import DriverSettings, SerialDriver, attempt_all
from ..signal import LimitedSignal, ReadOnlySignal, Switch
from . import apt
from .apt import Id, Message, Status

__all__ = ["MPC320Settings", "ThorlabsMPC320"]

_TRAVEL = Limits(0.0, 170.0)
_COUNTS_PER_DEG = 1370 / 170
_CHANNELS = (1, 2, 4)  # bits, not numbers
_ALL = 0b111
_ON, _OFF = 1, 2
_PROFILED = 2
_ARRIVED_COUNTS = 4
_STATUS = struct.Struct("<HihhI")  # channel, position, velocity, motor current, status bits
_INFO = struct.Struct("<I8sH4s60sHHH")
_POL = struct.Struct("<6H")  # reserved, velocity %, home, three jog steps
_FAULTS = {
    Status.MOTION_ERROR: "motion error: is the paddle blocked?",
    Status.INSTRUCTION_ERROR: "instruction error",
    Status.INTERLOCK: "interlock open",
    Status.OVER_TEMPERATURE: "over-temperature",
    Status.SUPPLY: "supply voltage: check the power adapter",
    Status.OVERLOAD: "overload: is the paddle blocked?",
    Status.ENCODER_FAULT: "encoder fault",
    Status.OVER_CURRENT: "over-current: is the paddle blocked?",
    Status.CURRENT_FAULT: "motor current fault",
    Status.ERROR: "error",
}
_STRAY_MESSAGES = 1000

Angle = Annotated[float, Field(ge=_TRAVEL.low, le=_TRAVEL.high), Unit("deg")]


class MPC320Settings(DriverSettings):
    """Settings of an MPC320. None leaves the instrument as it is."""

    paddles: tuple[Angle, Angle, Angle] | None = None
    """Angle of each paddle, deg."""
    velocity: Annotated[float, Field(ge=0.1, le=1), Unit("1")] | None = None
    """Speed as a fraction of the largest, 400 deg/s."""


class ThorlabsMPC320(SerialDriver):
    """A fibre polarization controller with three paddles.

    Setting a paddle starts its move; :meth:`ready` tells when all have arrived.

    Args:
        name: Name on the bench.
        address: Serial port (``COM5``, ``/dev/ttyUSB0``) or pyserial URL.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Thorlabs MPC320"
    Settings: ClassVar[type[MPC320Settings]] = MPC320Settings

    def __init__(self, name: str, address: str, settings: MPC320Settings, clock: Clock) -> None:
        super().__init__(name, address, settings, clock, rtscts=True)
        self._settings = settings
        self._targets: dict[int, int] = {}  # channel -> counts it is on the way to
        self.actuators: tuple[LimitedSignal, ...] = tuple(
            LimitedSignal(
                f"paddle_{i + 1}",
                "deg",
                partial(self._angle, channel),
                partial(self._move, channel),
                label=f"Angle of paddle {i + 1}",
                limits=_TRAVEL,
                endpoint=self._endpoint,
            )
            for i, channel in enumerate(_CHANNELS)
        )
        self.velocity = LimitedSignal(
            "velocity",
            "",
            lambda: self._polarization_params()[1] / 100,
            self._set_velocity,
            label="Speed of the paddles as a fraction of the largest, 400 deg/s",
            limits=Limits(0.1, 1.0),
            endpoint=self._endpoint,
        )
        self.enabled = Switch(
            "enabled",
            lambda: all(self._status(channel)[1] & Status.ENABLED for channel in _CHANNELS),
            self._enable,
            label="Whether the paddles' motors are powered",
            endpoint=self._endpoint,
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the paddles."""
        return (*self.actuators, self.velocity, self.enabled)

    def identify(self) -> Identity:
        """Ask who it is."""
        reply = self._request(apt.short(Id.HW_REQ_INFO), Id.HW_GET_INFO)
        serial, model, _, firmware, *_ = self._unpack(_INFO, reply)
        minor, interim, major, _ = firmware
        return Identity(
            "Thorlabs",
            model.split(b"\0")[0].decode("ascii", errors="replace").strip(),
            str(serial),
            f"{major}.{interim}.{minor}",
        )

    def configure(self) -> None:
        """Write the settings; moves start and go on by themselves."""
        if self._settings.velocity is not None:
            self.velocity.set(self._settings.velocity)
        if self._settings.paddles is not None:
            for actuator, angle in zip(self.actuators, self._settings.paddles, strict=True):
                actuator.set(angle)

    def ready(self) -> bool:
        """Whether no paddle is moving or still has to.

        Raises:
            InstrumentError: where a channel reports a fault.
        """
        done = True
        with self._port.lock:
            for channel in _CHANNELS:
                position, status = self._status(channel)
                faults = [text for bit, text in _FAULTS.items() if status & bit]
                if faults:
                    raise self._endpoint.error(
                        f"paddle {_CHANNELS.index(channel) + 1} reports a fault",
                        reply=f"status bits 0x{status:08x}",
                        hint="; ".join(faults),
                    )
                # a move acts a little after it is sent, so "not moving" alone is no arrival
                target = self._targets.get(channel)
                arrived = target is None or abs(position - target) <= _ARRIVED_COUNTS
                if status & (Status.MOVING | Status.HOMING) or not arrived:
                    done = False
                else:
                    self._targets.pop(channel, None)
        return done

    def home(self) -> None:
        """Start homing all paddles; :meth:`ready` tells when they have arrived."""
        with self._port.lock:
            self._enable_for_move()
            home = self._polarization_params()[2]
            for channel in _CHANNELS:
                self._tell(apt.short(Id.MOT_MOVE_HOME, channel), channel)
                self._targets[channel] = home

    def off(self) -> None:
        """Nothing: the paddles hold the polarization without power."""

    def safe(self) -> None:
        """Stop every paddle where it is."""
        self.open()
        stops: list[Callable[[], None]] = [partial(self._stop, channel) for channel in _CHANNELS]
        attempt_all(self._endpoint, "stopping", *stops)

    def _greet(self) -> None:
        self._port.purge()
        self._targets.clear()
        self._send(apt.short(Id.HW_NO_FLASH_PROGRAMMING))
        self._send(apt.short(Id.HW_STOP_UPDATEMSGS))
        for channel in _CHANNELS:
            self._status(channel)

    def _angle(self, channel: int) -> float:
        return self._status(channel)[0] / _COUNTS_PER_DEG

    def _move(self, channel: int, angle: float) -> None:
        counts = round(angle * _COUNTS_PER_DEG)
        with self._port.lock:
            self._enable_for_move()
            data = struct.pack("<Hi", channel, counts)
            self._tell(apt.long(Id.MOT_MOVE_ABSOLUTE, data), channel)
            self._targets[channel] = counts

    def _stop(self, channel: int) -> None:
        self._targets.pop(channel, None)
        self._tell(apt.short(Id.MOT_MOVE_STOP, channel, _PROFILED), channel)

    def _enable(self, on: bool) -> None:
        # the mask is the whole truth: a channel left out would be disabled
        mask = _ALL if on else 0
        self._tell(apt.short(Id.MOD_SET_CHANENABLESTATE, mask, _ON if on else _OFF), _CHANNELS[0])

    def _enable_for_move(self) -> None:
        if not self.enabled.get():
            self._enable(True)

    def _polarization_params(self) -> tuple[int, ...]:
        reply = self._request(apt.short(Id.POL_REQ_PARAMS), Id.POL_GET_PARAMS)
        return self._unpack(_POL, reply)

    def _set_velocity(self, fraction: float) -> None:
        with self._port.lock:
            reserved, _, *rest = self._polarization_params()
            data = _POL.pack(reserved, round(100 * fraction), *rest)
            self._tell(apt.long(Id.POL_SET_PARAMS, data), _CHANNELS[0])

    def _status(self, channel: int) -> tuple[int, int]:
        """Position in counts and status bits."""
        request = apt.short(Id.MOT_REQ_DCSTATUSUPDATE, channel)
        reply = self._request(request, Id.MOT_GET_DCSTATUSUPDATE, channel)
        _, position, _, _, status = self._unpack(_STATUS, reply)
        return position, status

    def _tell(self, message: bytes, channel: int) -> None:
        """Send what has no reply; a status request behind it brings a refusal to light."""
        request = apt.short(Id.MOT_REQ_DCSTATUSUPDATE, channel)
        with self._port.lock:
            self._send(message)
            self._request(request, Id.MOT_GET_DCSTATUSUPDATE, channel, about=message)

    def _request(
        self, message: bytes, wanted: Id, channel: int | None = None, about: bytes = b""
    ) -> Message:
        """Send and return the reply of id ``wanted``; others in between are unasked for."""
        with self._answer_to(message):
            for _ in range(_STRAY_MESSAGES):
                reply = self._receive(message)
                if reply.id in (Id.HW_RESPONSE, Id.HW_RICHRESPONSE):
                    raise self._refusal(reply, about or message)
                if reply.id != wanted:
                    continue  # 0464 MOVE_COMPLETED and the like: the status bits say the same
                if channel is None or reply.data[:2] == channel.to_bytes(2, "little"):
                    return reply
            raise self._endpoint.error(
                f"{_STRAY_MESSAGES} messages and no answer among them", command=message.hex(" ")
            )

    def _send(self, message: bytes) -> None:
        """Send what has no reply."""
        if self._stale:
            self._port.discard()
            self._stale = False
        self._port.write(message)

    def _receive(self, sent: bytes) -> Message:
        command = sent.hex(" ")
        header = self._port.read_exactly(apt.HEADER, command=command)
        try:
            size = apt.data_length(header)
        except ValueError as error:
            raise self._endpoint.error(
                f"not an APT message: {error}",
                command=command,
                reply=header.hex(" "),
                hint="is this port an MPC320? close and open it",
            ) from error
        data = self._port.read_exactly(size, command=command) if size else b""
        return apt.decode(header, data)

    def _refusal(self, reply: Message, sent: bytes) -> InstrumentError:
        text = reply.data.hex(" ")
        if reply.id == Id.HW_RICHRESPONSE and len(reply.data) == 68:
            about, code, notes = struct.unpack("<HH64s", reply.data)
            words = notes.split(b"\0")[0].decode("ascii", errors="replace")
            text = f"message 0x{about:04x}, code {code}: {words}"
        return self._endpoint.error("refused", command=sent.hex(" "), reply=text)

    def _unpack(self, layout: struct.Struct, reply: Message) -> tuple[Any, ...]:
        if len(reply.data) != layout.size:
            raise self._endpoint.error(
                f"message 0x{reply.id:04x} holds {len(reply.data)} data bytes, not {layout.size}",
                reply=reply.data.hex(" "),
            )
        return layout.unpack(reply.data)
