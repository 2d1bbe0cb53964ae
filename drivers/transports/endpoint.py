"""Where an instrument is, so that every error can say it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ...instruments import InstrumentError, InstrumentTimeout

__all__ = ["Endpoint"]

Text = str | bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An instrument's name on the bench, its model and its address."""

    name: str
    model: str
    address: str

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
            address=self.address,
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
            address=self.address,
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
