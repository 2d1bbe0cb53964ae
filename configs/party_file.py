"""The shape of a party file: what one end of a key exchange over a network needs to know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..instruments import Unit

__all__ = ["PartyFile", "TrustEntry"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrustEntry(_Entry):
    """Files of identity keys, for a first trust without a pre-shared pool."""

    identity: str
    """Own identity, secret."""
    peer: str
    """The other party's public identity."""


class PartyFile(_Entry):
    """A party file; paths are relative to it."""

    bellbench: Literal["party/1"]
    role: Literal["alice", "bob"]
    bench: str
    """Bundled name or path of this party's own bench, which has a party of the role's name."""
    experiment: str
    """Bundled name or path of the terms: protocol bbm92, the same content at both ends. Its bench
    is not used, and its duration only where it says no ``block``: a block is then as long."""
    listen: str | None = None
    """``host:port`` to wait at for the other party, or:"""
    connect: str | None = None
    """``host:port`` of the other party, which listens."""
    store: str
    """Key store of this party (``bellbench keys create``)."""
    trust: TrustEntry | None = None
    """Identities; not needed where a pool was carried to both ends (``bellbench keys import``)."""
    reports: str = "reports"
    """Folder of the reports, made if it is not there."""
    outage: Annotated[float, Unit("s"), Field(ge=1, le=600)] = 30.0
    """How long a session waits for a broken connection to come back, in wall time."""
