"""SCPI as Thorlabs speaks it: numbers as text, an error queue read after every setting."""

from __future__ import annotations

import logging

from ...instruments import Identity, InstrumentTimeout
from ..base import closed_on_error
from ..transports import Endpoint
from ..transports.visa import VisaLink

__all__ = ["ThorlabsScpi"]

_log = logging.getLogger(__name__)

_QUEUE_DEPTH = 10


class ThorlabsScpi:
    """Commands and queries whose errors the instrument explains itself.

    Args:
        endpoint: Whose link it is.
        timeout_s: Longest wait for a reply, wall time.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._link = VisaLink(endpoint, timeout_s)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._link.is_open

    def open(self) -> None:
        """Connect and empty the error queue, whose entries are not ours."""
        with self._link.lock:
            if self._link.is_open:
                return
            self._link.open()
            with closed_on_error(self._link):
                for entry in self._errors():
                    _log.warning("%s: error from before opening: %s", self._endpoint.device, entry)

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def identify(self) -> Identity:
        """``*IDN?``."""
        reply = self.query("*IDN?")
        fields = [field.strip() for field in reply.split(",")]
        if len(fields) != 4:
            raise self._endpoint.error(
                "four fields with commas expected", command="*IDN?", reply=reply
            )
        return Identity(*fields)

    def set(self, command: str) -> None:
        """Send a setting and read the error queue until it is empty.

        Raises:
            InstrumentError: with every entry the setting left in the queue.
        """
        with self._link.lock:
            self._link.write(command)
            if entries := self._errors():
                raise self._endpoint.error("refused", command=command, reply="; ".join(entries))

    def query(self, command: str) -> str:
        """Send a query and return the reply; where none comes, say what the queue says."""
        with self._link.lock:
            try:
                return self._link.query(command)
            except InstrumentTimeout:
                if entries := self._errors():
                    raise self._endpoint.error(
                        "refused", command=command, reply="; ".join(entries)
                    ) from None
                raise

    def number(self, command: str) -> float:
        """Query a number."""
        reply = self.query(command)
        try:
            return float(reply)
        except ValueError as error:
            raise self._endpoint.error("a number expected", command=command, reply=reply) from error

    def flag(self, command: str) -> bool:
        """Query a ``0`` or ``1``."""
        reply = self.query(command)
        if reply not in ("0", "1"):
            raise self._endpoint.error("0 or 1 expected", command=command, reply=reply)
        return reply == "1"

    def _errors(self) -> list[str]:
        entries: list[str] = []
        while True:
            reply = self._link.query("SYST:ERR?")
            code = reply.partition(",")[0]
            try:
                none = int(code) == 0
            except ValueError as error:
                raise self._endpoint.error(
                    "an error code and a text expected", command="SYST:ERR?", reply=reply
                ) from error
            if none:
                return entries
            entries.append(reply)
            if len(entries) > 2 * _QUEUE_DEPTH:
                raise self._endpoint.error(
                    "the error queue does not empty", command="SYST:ERR?", reply="; ".join(entries)
                )
