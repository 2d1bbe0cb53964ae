"""What happens to a world by itself at a set time: a bumped fibre, a mode hop, stray light.

An event acts at the first block that begins at or after its time. One that lasts is undone when
it is over. Losses of power are the server's: the instruments come back as when switched on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from ..instruments import Unit
from .elements import Diodes, Eavesdropper, Fibre, FibreModel, PumpLaser, SnspdArray
from .elements.base import Degrees, Fraction, Rate

__all__ = ["Calendar", "EventModel", "PowerCut", "check_events"]

Location = tuple[str | int, ...]

_EVER_PS = 1 << 62

#: Beyond any world's life in ps.
_LONGEST_S = 4e6


class _Event(BaseModel):
    """Something that happens at ``at``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Kinds of elements that it can happen to.
    CAN: ClassVar[tuple[str, ...]]
    at: Annotated[float, Unit("s"), Field(ge=0, le=_LONGEST_S)]
    """World time."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the elements that it happens to."""
        return (self.to,)

    to: str
    """The element."""


class Bump(_Event):
    """Somebody touches a fibre: its polarization turns, and its length may change."""

    event: Literal["bump"]
    CAN = ("fibre",)
    rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    """Rotation on the Poincare sphere: vector along (S1, S2, S3) whose length is the angle."""
    delay: Annotated[float, Unit("s"), Field(ge=-1e-3, le=1e-3)] = 0.0
    """Group delay that is added, or taken away."""

    def happen(self, element: Fibre) -> None:
        """Turn the fibre, once."""
        element.bump(self.rotation, self.delay)


class _Lasting(_Event):
    """Something that holds for a time."""

    lasting: Annotated[float, Unit("s"), Field(gt=0, le=_LONGEST_S)] | None = None
    """How long; for good unless given."""

    @staticmethod
    def hold(element: Any, now: Sequence[Any]) -> None:
        """Set what follows from those that hold for an element now, in the order they began."""
        raise NotImplementedError


class Bend(_Lasting):
    """A fibre is bent, or cut: it loses more."""

    event: Literal["bend"]
    CAN = ("fibre",)
    loss: Annotated[float, Unit("dB"), Field(ge=0)]

    @staticmethod
    def hold(element: Fibre, now: Sequence[Bend]) -> None:
        """Add up the losses."""
        element.bent_db = sum(event.loss for event in now)


class ModeHop(_Lasting):
    """A pump laser jumps to another mode: crystals phase-match at another temperature."""

    event: Literal["mode_hop"]
    CAN = ("pump_laser",)
    shift: Annotated[float, Unit("K"), Field(ge=-1000, le=1000)]
    """By how much higher."""

    @staticmethod
    def hold(element: PumpLaser, now: Sequence[ModeHop]) -> None:
        """Add up the shifts."""
        element.mode_shift_k = sum(event.shift for event in now)


class StrayLight(_Lasting):
    """Somebody switches the room light on: more counts on every detector of a box."""

    event: Literal["stray_light"]
    CAN = ("snspd", "spad")
    rate: Rate
    """Photons per second at each detector."""

    @staticmethod
    def hold(element: SnspdArray | Diodes, now: Sequence[StrayLight]) -> None:
        """Add up the lights."""
        element.stray_light_hz = sum(event.rate for event in now)


class Interception(_Lasting):
    """An eavesdropper measures more photons, or fewer, than the world file's element says."""

    event: Literal["interception"]
    CAN = ("eavesdropper",)
    intercept: Fraction | None = None
    """Share of photons measured and sent again."""
    tap: Fraction | None = None
    """Share of photons kept."""
    light: Rate | None = None
    """Photons per second sent to the detectors."""

    @staticmethod
    def hold(element: Eavesdropper, now: Sequence[Interception]) -> None:
        """Let her do what the one that began last says, and else what the element says."""
        for name in ("intercept", "tap", "light"):
            said = [getattr(event, name) for event in now if getattr(event, name) is not None]
            setattr(element, name, said[-1] if said else getattr(element.model, name))


class PowerCut(_Lasting):
    """Instruments lose power; they come back as when switched on, on the same addresses."""

    event: Literal["power_cut"]
    CAN = (
        "pump_laser",
        "oven",
        "paddles",
        "squeezers",
        "liquid_crystals",
        "attenuator",
        "switch",
        "snspd",
        "tagger",
        "delay_generator",
        "pulse_sequencer",
    )
    to: str | tuple[str, ...]  # type: ignore[assignment]
    """The elements whose instruments lose it."""
    lasting: Annotated[float, Unit("s"), Field(gt=0, le=_LONGEST_S)] = 1.0

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the elements that it happens to."""
        return (self.to,) if isinstance(self.to, str) else self.to

    @staticmethod
    def hold(element: Any, now: Sequence[PowerCut]) -> None:
        """Leave it without power."""
        if now:
            element.power_off()


EventModel = Annotated[
    Bump | Bend | ModeHop | StrayLight | Interception | PowerCut, Field(discriminator="event")
]


def check_events(
    events: Sequence[EventModel], elements: Mapping[str, Any]
) -> Iterator[tuple[Location, str]]:
    """Yield every event that cannot happen, as (location, message).

    Args:
        events: What the world file says.
        elements: Models of its elements, by name.
    """
    for i, event in enumerate(events):
        for name in event.targets:
            loc: Location = ("events", i, "to")
            if name not in elements:
                near = difflib.get_close_matches(name, elements, n=1, cutoff=0.4)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield loc, f"no element {name!r}{hint}"
            elif elements[name].kind not in event.CAN:
                kind, can = elements[name].kind, " or ".join(event.CAN)
                yield loc, f"{name!r} is a {kind}; what {event.event} happens to is: {can}"
    lengths: dict[str, float] = {}
    for i, event in sorted(enumerate(events), key=lambda numbered: numbered[1].at):
        model = elements.get(event.to) if isinstance(event, Bump) else None
        if isinstance(event, Bump) and isinstance(model, FibreModel):
            before = lengths.setdefault(event.to, Fibre(model).passage().delay_s)
            lengths[event.to] = before + event.delay
            if lengths[event.to] < 0:
                yield (
                    ("events", i, "delay"),
                    f"takes more away than the {before:.3g} s that {event.to!r} has",
                )


class Calendar:
    """Lets the events of a world happen when they are due.

    Args:
        events: What the world file says; has passed :func:`check_events`.
        elements: The world's elements.
        reached_ps: Beginning of the last block that has run; below 0 where none has.
    """

    def __init__(
        self,
        events: Sequence[EventModel],
        elements: Mapping[str, object],
        reached_ps: int = -1,
    ) -> None:
        self._elements = elements
        self._reached_ps = reached_ps
        self._bumps = sorted(
            ((round(e.at * 1e12), i, e) for i, e in enumerate(events) if isinstance(e, Bump)),
            key=lambda due: due[:2],
        )
        held: dict[tuple[type[_Lasting], str], list[tuple[int, int, int, _Lasting]]] = {}
        for i, event in enumerate(events):
            if isinstance(event, _Lasting):
                begin = round(event.at * 1e12)
                end = _EVER_PS if event.lasting is None else begin + round(event.lasting * 1e12)
                for name in event.targets:
                    held.setdefault((type(event), name), []).append((begin, i, end, event))
        self._held = {which: sorted(rows, key=lambda row: row[:2]) for which, rows in held.items()}
        self._now: dict[tuple[type[_Lasting], str], list[_Lasting]] = {
            which: [] for which in self._held
        }

    def turn(self, begin_ps: int) -> None:
        """Let happen what is due when the block from ``begin_ps`` begins."""
        for due_ps, _, bump in self._bumps:
            if self._reached_ps < due_ps <= begin_ps:
                bump.happen(cast(Fibre, self._elements[bump.to]))
        self._reached_ps = begin_ps
        for which, rows in self._held.items():
            now = [event for begin, _, end, event in rows if begin <= begin_ps < end]
            if now != self._now[which]:
                self._now[which] = now
                kind, name = which
                kind.hold(self._elements[name], now)

    def unpowered(self, begin_ps: int) -> frozenset[str]:
        """Elements whose instruments are without power in the block from ``begin_ps``."""
        return frozenset(
            name
            for (kind, name), rows in self._held.items()
            if kind is PowerCut and any(begin <= begin_ps < end for begin, _, end, _ in rows)
        )
