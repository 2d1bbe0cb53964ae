"""What happens to a world by itself at a set time: a bumped fibre, a mode hop, stray light.

An event acts at the first block that begins at or after its time. One that lasts is undone when
it is over. Losses of power are the server's: the instruments come back as when switched on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..instruments import Unit
from .elements.base import Degrees, Fraction, Rate

__all__ = ["Calendar", "EventModel", "PowerCut", "check_events"]

Location = tuple[str | int, ...]


class _Event(BaseModel):
    """Something that happens at ``at``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Kinds of elements that it can happen to.
    CAN: ClassVar[tuple[str, ...]]
    at: Annotated[float, Unit("s"), Field(ge=0)]
    """World time."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the elements that it happens to."""
        return (self.to,)

    to: str
    """The element."""

    def begin(self, element: Any) -> None:
        """Let it happen."""
        raise NotImplementedError

    def end(self, element: Any) -> None:
        """Undo it, where it lasts."""


class _Lasting(_Event):
    lasting: Annotated[float, Unit("s"), Field(gt=0)] | None = None
    """How long; for good unless given."""


class Bump(_Event):
    """Somebody touches a fibre: its polarization turns, and its length may change."""

    event: Literal["bump"]
    CAN = ("fibre",)
    rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    """Rotation on the Poincare sphere: vector along (S1, S2, S3) whose length is the angle."""
    delay: Annotated[float, Unit("s")] = 0.0
    """Group delay that is added, or taken away."""

    def begin(self, element: Any) -> None:
        """Turn the fibre."""
        element.bump(self.rotation, self.delay)


class Bend(_Lasting):
    """A fibre is bent, or cut: it loses more."""

    event: Literal["bend"]
    CAN = ("fibre",)
    loss: Annotated[float, Unit("dB"), Field(ge=0)]

    def begin(self, element: Any) -> None:
        """Add the loss."""
        element.bend(self.loss)

    def end(self, element: Any) -> None:
        """Take it away."""
        element.bend(-self.loss)


class ModeHop(_Lasting):
    """A pump laser jumps to another mode: crystals phase-match at another temperature."""

    event: Literal["mode_hop"]
    CAN = ("pump_laser",)
    shift: Annotated[float, Unit("K")]
    """By how much higher."""

    def begin(self, element: Any) -> None:
        """Shift it."""
        element.mode_shift_k += self.shift

    def end(self, element: Any) -> None:
        """Shift it back."""
        element.mode_shift_k -= self.shift


class StrayLight(_Lasting):
    """Somebody switches the room light on: more counts on every detector of a box."""

    event: Literal["stray_light"]
    CAN = ("snspd", "spad")
    rate: Rate
    """Photons per second at each detector."""

    def begin(self, element: Any) -> None:
        """Switch it on."""
        element.stray_light_hz += self.rate

    def end(self, element: Any) -> None:
        """Switch it off."""
        element.stray_light_hz -= self.rate


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

    def begin(self, element: Any) -> None:
        """Let her begin."""
        model = element.model
        element.intercept = model.intercept if self.intercept is None else self.intercept
        element.tap = model.tap if self.tap is None else self.tap
        element.light_hz = model.light if self.light is None else self.light

    def end(self, element: Any) -> None:
        """Let her go back to what the element says."""
        model = element.model
        element.intercept, element.tap, element.light_hz = model.intercept, model.tap, model.light


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
    lasting: Annotated[float, Unit("s"), Field(gt=0)] = 1.0

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the elements that it happens to."""
        return (self.to,) if isinstance(self.to, str) else self.to

    def begin(self, element: Any) -> None:
        """Leave it without power."""
        element.power_off()


EventModel = Annotated[
    Bump | Bend | ModeHop | StrayLight | Interception | PowerCut, Field(discriminator="event")
]


def check_events(
    events: Sequence[EventModel], kinds: Mapping[str, str]
) -> Iterator[tuple[Location, str]]:
    """Yield every event that cannot happen, as (location, message).

    Args:
        events: What the world file says.
        kinds: Kind of each element, by name.
    """
    import difflib

    for i, event in enumerate(events):
        for name in event.targets:
            loc: Location = ("events", i, "to")
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.4)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield loc, f"no element {name!r}{hint}"
            elif kinds[name] not in event.CAN:
                can = " or ".join(event.CAN)
                yield loc, f"{name!r} is a {kinds[name]}; what {event.event} happens to is: {can}"


class Calendar:
    """Lets the events of a world happen when they are due.

    Args:
        events: What the world file says; has passed :func:`check_events`.
        elements: The world's elements.
        now_ps: World time; what begins or ends before it has done so already.
    """

    def __init__(
        self, events: Sequence[EventModel], elements: Mapping[str, object], now_ps: int = 0
    ) -> None:
        turns: list[tuple[int, int, bool, EventModel]] = []
        self._cuts: list[tuple[int, int, tuple[str, ...]]] = []
        for i, event in enumerate(events):
            begin = round(event.at * 1e12)
            turns.append((begin, i, True, event))
            lasting = getattr(event, "lasting", None)
            if lasting is not None:
                end = begin + round(lasting * 1e12)
                turns.append((end, i, False, event))
                if isinstance(event, PowerCut):
                    self._cuts.append((begin, end, event.targets))
        self._turns = sorted((t for t in turns if t[0] >= now_ps), key=lambda turn: turn[:2])
        self._elements = elements

    def turn(self, begin_ps: int) -> None:
        """Let happen what is due when the block from ``begin_ps`` begins."""
        while self._turns and self._turns[0][0] <= begin_ps:
            _, _, begins, event = self._turns.pop(0)
            for name in event.targets:
                (event.begin if begins else event.end)(self._elements[name])

    def unpowered(self, begin_ps: int) -> frozenset[str]:
        """Elements whose instruments are without power in the block from ``begin_ps``."""
        return frozenset(
            name for begin, end, names in self._cuts if begin <= begin_ps < end for name in names
        )
