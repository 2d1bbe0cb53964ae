"""SCPI over VISA: USBTMC, or a raw TCP socket."""

from __future__ import annotations

import re
import threading
import warnings
from typing import TYPE_CHECKING, Protocol

from ...instruments import InstrumentError
from .endpoint import Endpoint

if TYPE_CHECKING:
    from pyvisa.resources import MessageBasedResource

    from .recording import Player

__all__ = ["VisaLink"]

_SOCKET = re.compile(r"TCPIP\d*::(?P<host>[^:]+|\[[^]]+\])::(?P<port>\d+)::SOCKET", re.IGNORECASE)
_HINT = "a resource name is USB0::0x1313::0x804F::<serial>::INSTR or TCPIP::<host>::<port>::SOCKET"


class _Resource(Protocol):
    """What is used of a VISA resource."""

    def write(self, message: str, /) -> object: ...

    def read(self) -> str: ...

    def close(self) -> None: ...


class VisaLink:
    """Text commands and replies, one line each, through the pyvisa-py backend.

    A query that timed out, or was interrupted (Ctrl-C), may still be answered; the connection is
    then renewed before the next command, so that no reply is taken for another's.

    Args:
        endpoint: Whose link it is; its address is a VISA resource name.
        timeout_s: Longest wait for a reply, wall time.

    Raises:
        InstrumentError: for an address that is none.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        _check(endpoint)
        self.lock = threading.RLock()
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._resource: _Resource | None = None
        self._stale = False

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._resource is not None

    def open(self) -> None:
        """Connect, unless connected."""
        with self.lock:
            if self._resource is None:
                player = self._endpoint.player
                self._resource = self._connect() if player is None else _Replayed(player)
                self._stale = False

    def close(self) -> None:
        """Disconnect, if connected."""
        with self.lock:
            resource, self._resource = self._resource, None
            if resource is not None:
                import pyvisa

                try:
                    resource.close()
                except (pyvisa.Error, OSError) as error:
                    raise self._endpoint.error(f"cannot close: {error}") from error

    def write(self, command: str) -> None:
        """Send one command."""
        with self.lock:
            self._write(command)
            self._stale = False

    def query(self, command: str) -> str:
        """Send one command and return its reply, without line end and outer blanks."""
        import pyvisa

        with self.lock:
            resource = self._write(command)
            try:
                reply = resource.read()
            except pyvisa.VisaIOError as error:
                if error.error_code == pyvisa.constants.StatusCode.error_timeout:
                    raise self._endpoint.timeout(
                        f"no answer within {self._timeout_s:g} s",
                        command=command,
                        hint="does the instrument know this command? is it in remote mode?",
                    ) from error
                raise self._lost(command, error) from error
            except UnicodeDecodeError as error:
                self._endpoint.received(error.object)
                raise self._endpoint.error(
                    "reply is not text", command=command, reply=error.object
                ) from error
            except OSError as error:
                raise self._lost(command, error) from error
            self._stale = False
            self._endpoint.received(reply.encode())
            return reply.strip()

    def _write(self, command: str) -> _Resource:
        """Send ``command`` and leave the link stale: who sees the exchange end clears that."""
        import pyvisa

        if self._resource is None:
            raise self._endpoint.not_open(command)
        if self._stale:
            self.close()
            self.open()
        resource = self._resource
        self._endpoint.sent(command.encode())
        self._stale = True
        try:
            resource.write(command)
        except (pyvisa.Error, OSError) as error:
            raise self._lost(command, error) from error
        return resource

    def _lost(self, command: str, error: Exception) -> InstrumentError:
        return self._endpoint.error(
            f"the connection broke: {error}",
            command=command,
            hint="check cable and power; the next command connects again",
        )

    def _connect(self) -> MessageBasedResource:
        import pyvisa
        from pyvisa.resources import MessageBasedResource

        address = self._endpoint.address
        if match := _SOCKET.fullmatch(address):
            # pyvisa-py reports success for a refused connection; a plain one tells the truth
            self._endpoint.connect(match["host"], int(match["port"]), self._timeout_s).close()
        try:
            with warnings.catch_warnings():
                # it complains of optional packages for buses that are not asked for
                warnings.filterwarnings("ignore", module="pyvisa_py")
                manager = pyvisa.ResourceManager("@py")
                resource = manager.open_resource(address, timeout=int(self._timeout_s * 1000))
        except (pyvisa.Error, OSError, ValueError) as error:
            hint = f"{_HINT}; USB needs the package pyusb and the right to use the device"
            raise self._endpoint.error(f"VISA cannot open it: {error}", hint=hint) from error
        if not isinstance(resource, MessageBasedResource):
            resource.close()
            raise self._endpoint.error("this VISA resource does not take messages")
        resource.read_termination = resource.write_termination = "\n"
        return resource


def _check(endpoint: Endpoint) -> None:
    """Refuse what cannot be a resource name, before anything is opened."""
    from pyvisa import rname

    if not endpoint.address:  # a twin's is not known yet
        return
    try:
        name = rname.parse_resource_name(endpoint.address)
    except rname.InvalidResourceName as error:
        raise endpoint.error(f"VISA cannot open it: {error}", hint=_HINT) from error
    port = getattr(name, "port", "1")
    if not (port.isdigit() and 0 < int(port) < 65536):
        raise endpoint.error(f"{port!r} is not a port", hint=_HINT)


class _Replayed:
    """A recording in place of a VISA resource."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._command = ""

    def write(self, message: str, /) -> None:
        self._command = message
        self._player.send(message.encode())

    def read(self) -> str:
        reply = self._player.receive()
        if reply is None:
            raise self._player.silence(self._command)
        return reply.decode()

    def close(self) -> None:
        """Nothing is held."""
