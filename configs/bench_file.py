"""The shape of a bench file, without what drivers and twins add to it."""

from __future__ import annotations

import keyword
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from ..instruments import Unit

__all__ = ["BenchFile", "InstrumentEntry", "PartyEntry"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BenchFile(_Entry):
    """Top level of a bench file; ``instruments`` and ``parties`` are checked entry by entry."""

    bellbench: Literal["bench/1"]
    world: Any = None
    """Bundled name or path of the world file, or a world written out in place."""
    twin: bool = False
    """Whether instruments are twins unless said otherwise."""
    settle_timeout: Annotated[float, Unit("s"), Field(gt=0)] = 300.0
    """Longest wait for every instrument to reach its set points, in bench time, s."""
    instruments: Annotated[dict[str, Any], Field(min_length=1)]
    parties: dict[str, Any] = {}


class InstrumentEntry(_Entry):
    """One instrument of the bench."""

    driver: str
    address: str | None = None
    """Where the instrument is; ``twin``, or ``twin://host:port/name`` for one served elsewhere."""
    settings: dict[str, Any] = {}
    """What the driver writes when the bench is brought up."""
    on_exit: Literal["off", "leave", "safe"] = "off"
    """After a run without error: its normal rest, nothing, or its safe state."""
    parts: dict[str, str] = {}
    """Of a composite: its parts, by role, as names of other instruments."""
    twin: dict[str, Any] = {}
    """Of the twin: ``element`` of the world (the instrument's own name), its other settings."""


def _label(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ValueError(f"{text!r} cannot be a label; write a name such as 'H' or 'herald'")
    return text


class PartyEntry(_Entry):
    """What one party owns, and what each input of its tagger means."""

    tagger: str
    detectors: str | None = None
    controller: str | None = None
    """Its polarization controller."""
    source: str | None = None
    memory: str | None = None
    delay_generator: str | None = None
    channels: Annotated[
        dict[Annotated[int, Strict()], Annotated[str, AfterValidator(_label)]], Field(min_length=1)
    ]
    """A label for each input in use; an experiment says which labels it needs."""
