"""Where an instrument is, so that every error can say it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ...instruments import InstrumentError, InstrumentTimeout
from .recording import Player, Recorder

__all__ = ["Endpoint"]

Text = str | bytes


@dataclass(slots=True)
class Endpoint:
    """An instrument's name on the bench, its model and its address; who listens to its wires.

    Every transport tells :meth:`sent` and :meth:`received` what it carries, and carries nothing
    where there is a player.

    Attributes:
        name: Name on the bench.
        model: Model, for errors.
        address: Address as the driver reads it; of a replay the one it was recorded at.
        recorder: Writes down what is carried, where there is one.
        player: Stands for the instrument, where a recording is replayed.
    """

    name: str
    model: str
    address: str
    recorder: Recorder | None = None
    player: Player | None = None

    @property
    def place(self) -> str:
        """Address as people wrote it."""
        return self.address if self.player is None else self.player.address

    def sent(self, data: bytes, channel: str = "") -> None:
        """Tell what is about to be sent; ``channel`` tells an instrument's ports apart."""
        if self.recorder is not None:
            self.recorder.note(self.name, "sent", data, channel)

    def received(self, data: bytes, channel: str = "") -> None:
        """Tell what was received."""
        if self.recorder is not None:
            self.recorder.note(self.name, "received", data, channel)

    @property
    def device(self) -> str:
        """Name and model, as errors show them."""
        return f"{self.name} ({self.model})"

    def error(
        self, message: str, *, command: Text = "", reply: Text = "", hint: str = ""
    ) -> InstrumentError:
        """An error that names this instrument."""
        return InstrumentError(
            message,
            device=self.device,
            address=self.place,
            command=command,
            reply=reply,
            hint=hint,
        )

    def timeout(
        self, message: str, *, command: Text = "", reply: Text = "", hint: str = ""
    ) -> InstrumentTimeout:
        """A timeout that names this instrument."""
        return InstrumentTimeout(
            message,
            device=self.device,
            address=self.place,
            command=command,
            reply=reply,
            hint=hint,
        )

    def not_open(self, command: Text = "") -> InstrumentError:
        """The error of a call before open, or after the connection was lost."""
        return self.error(
            "not open", command=command, hint="call open(), or use it in a `with` block"
        )

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A TCP connection, without Nagle's delay.

        Raises:
            InstrumentError: saying what to check, where nobody answers.
        """
        where = f"{host}:{port}"
        try:
            connection = socket.create_connection((host, port), timeout=timeout_s)
        except ConnectionRefusedError as error:
            raise self.error(
                f"{where} refuses the connection: nobody listens there",
                hint="is it switched on, its server started, the port right?",
            ) from error
        except socket.gaierror as error:
            raise self.error(f"host {host!r} is not known", hint="check the address") from error
        except TimeoutError as error:
            raise self.timeout(
                f"{where} did not answer within {timeout_s:g} s",
                hint="check power, network cable, address and firewall",
            ) from error
        except OSError as error:
            raise self.error(f"cannot reach {where}: {error}", hint="check the network") from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
