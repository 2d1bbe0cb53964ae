"""How the elements of a world are joined: paths of light and wires, checked and resolved.

A path of light goes from an arm of a source through fibres, paddles and a memory to detectors,
or into an input of a Bell station; a station's detectors have a path of their own. A wire goes
from a channel of a delay generator to an input of a tagger.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..instruments import ConfigError
from . import elements as el
from .physics import polarization as pol

__all__ = ["Detection", "Layout", "LightPath", "Location", "Wire", "WorldModel", "check_layout"]

Location = tuple[str | int, ...]

ARMS = ("signal", "idler")
SIDES = ("left", "right")
#: Detectors of a Bell station, in order.
STATION_OUTPUTS = ("cH", "cV", "dH", "dV")


class WorldModel(BaseModel):
    """What a world file says: the elements and how light passes through them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bellbench: Literal["world/1"] = "world/1"
    elements: dict[str, el.ElementModel]
    paths: Annotated[list[list[str]], Field(min_length=1)]


@dataclass(frozen=True)
class Detection:
    """Where a path ends in clicks: outputs 0, 1, ... go to detectors and inputs in a row.

    Attributes:
        array: The SNSPD box.
        detector: Index of its first detector used, from 0.
        tagger: The tagger, None where only counts are taken.
        first_input: Its first input used, from 1.
    """

    array: str
    detector: int
    tagger: str | None
    first_input: int


@dataclass(frozen=True)
class LightPath:
    """From an arm of a source (0 signal, 1 idler) to detectors or to a side of a station."""

    source: str
    arm: int
    optics: tuple[str, ...]
    end: Detection | tuple[str, str]


@dataclass(frozen=True)
class Wire:
    """From a channel of a delay generator to an input of a tagger."""

    generator: str
    channel: str
    tagger: str
    input: int


@dataclass(frozen=True)
class Layout:
    """The paths of a world that has passed :func:`check_layout`.

    Attributes:
        light: Every path of light.
        stations: Where each Bell station's outputs are detected.
        wires: Every wire.
        networks: Sources, and with them everything that hangs on them, that have to be looked at
            together because their light meets at a station.
    """

    light: tuple[LightPath, ...]
    stations: dict[str, Detection]
    wires: tuple[Wire, ...]
    networks: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, model: WorldModel) -> Layout:
        """Resolve the paths of a world."""
        light: list[LightPath] = []
        stations: dict[str, Detection] = {}
        wires: list[Wire] = []
        for path in model.paths:
            start, port = _split(path[0])
            kind = model.elements[start].kind
            if kind == "delay_generator":
                tagger, first = _split(path[1])
                wires.append(Wire(start, port, tagger, int(first or 1)))
            elif kind == "bell_station":
                stations[start] = _detection(model, path)
            else:
                optics = tuple(n for n in path[1:] if _kind(model, n) in _OPTICS)
                name, side = _split(path[-1])
                at_station = _kind(model, name) == "bell_station"
                end = (name, side) if at_station else _detection(model, path)
                light.append(LightPath(start, ARMS.index(port), optics, end))
        return cls(tuple(light), stations, tuple(wires), _networks(light))


def outputs(model: WorldModel, path: list[str]) -> tuple[str, int]:
    """What splits the light of a path last, in words, and into how many outputs."""
    for name in reversed(path):
        kind = _kind(model, name)
        if kind == "analyzer":
            return "the analyzer", len(pol.OUTCOMES)
        if kind == "splitter":
            return "the splitter", 2
        if kind == "bell_station":
            return "the station", len(STATION_OUTPUTS)
    return "the path", 1


def check_layout(model: WorldModel) -> list[tuple[Location, str]]:
    """Return every mistake in how the elements are joined, as (location, message)."""
    issues = [*_check_elements(model)]
    used: dict[str, int] = {}
    for i, path in enumerate(model.paths):
        issues += _check_path(model, i, path)
        for j in range(len(path)):
            for thing in _taken(model, path, j):
                if thing in used:
                    issues.append(
                        (("paths", i, j), f"{thing} is already in path {used[thing] + 1}")
                    )
                used.setdefault(thing, i)
    if not issues:
        issues += _check_whole(model)
    return issues


_OPTICS = ("fibre", "paddles", "memory", "analyzer", "splitter")
_STAGES = {
    "fibre": 0,
    "paddles": 0,
    "memory": 0,
    "analyzer": 1,
    "splitter": 1,
    "snspd": 2,
    "tagger": 3,
    "bell_station": 4,
}
_REFERENCES = (
    ("pump", "pump_laser"),
    ("oven", "oven"),
    ("at", "pump_laser"),
    ("sequencer", "delay_generator"),
)


def _split(token: str) -> tuple[str, str]:
    name, _, port = token.partition(".")
    return name, port


def _kind(model: WorldModel, token: str) -> str:
    element = model.elements.get(_split(token)[0])
    return "" if element is None else element.kind


def _detection(model: WorldModel, path: list[str]) -> Detection:
    array, tagger = "", None
    detector = first_input = 1
    for token in path[1:]:
        name, port = _split(token)
        if _kind(model, name) == "snspd":
            array, detector = name, int(port or 1)
        elif _kind(model, name) == "tagger":
            tagger, first_input = name, int(port or 1)
    return Detection(array, detector - 1, tagger, first_input)


def _networks(light: list[LightPath]) -> tuple[tuple[str, ...], ...]:
    groups = {path.source: {path.source} for path in light}
    for station in {path.end[0] for path in light if isinstance(path.end, tuple)}:
        meeting = [p.source for p in light if isinstance(p.end, tuple) and p.end[0] == station]
        joined = set().union(*(groups[source] for source in meeting))
        for source in joined:
            groups[source] = joined
    return tuple(sorted({tuple(sorted(group)) for group in groups.values()}))


def _check_reference(
    model: WorldModel, loc: Location, name: str, *kinds: str
) -> list[tuple[Location, str]]:
    element = model.elements.get(name)
    if element is None:
        fitting = [n for n, e in model.elements.items() if not kinds or e.kind in kinds]
        near = difflib.get_close_matches(name, fitting, n=1, cutoff=0.4)
        return [(loc, f"no element {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))]
    if kinds and element.kind not in kinds:
        return [(loc, f"{name!r} is a {element.kind}, a {' or '.join(kinds)} is needed here")]
    return []


def _check_elements(model: WorldModel) -> Iterator[tuple[Location, str]]:
    for name, element in model.elements.items():
        loc: Location = ("elements", name)
        for key, kind in _REFERENCES:
            target = getattr(element, key, None)
            if target is not None:
                yield from _check_reference(model, (*loc, key), target, kind)
        if isinstance(element, el.CrystalModel) and element.trigger is not None:
            yield from _check_channel(model, (*loc, "trigger"), element.trigger)
            if element.pulse_width <= 0:
                yield (*loc, "trigger"), "a pulsed crystal needs a pulse_width, such as 300 ps"
            if element.fluorescence > 0:
                yield (*loc, "fluorescence"), "is modelled for a continuous pump only; leave it out"
        elif isinstance(element, el.CrystalModel) and element.pulse_width > 0:
            yield (*loc, "pulse_width"), "pulses need a trigger, such as 'pulser.A'"
        if isinstance(element, el.MemoryModel):
            taken = Counter((element.prepare, element.pit, element.transfer, element.recall))
            for output, times in taken.items():
                if times > 1:
                    yield loc, f"output {output} cannot do two things in one memory"
            try:
                element.comb()
            except ConfigError as error:
                yield loc, str(error)


def _check_channel(model: WorldModel, loc: Location, token: str) -> list[tuple[Location, str]]:
    name, channel = _split(token)
    issues = _check_reference(model, loc, name, "delay_generator")
    if not issues and channel not in ("T0", "T1", *el.CHANNELS):
        channels = ", ".join(("T0", "T1", *el.CHANNELS))
        return [(loc, f"{token!r} names no channel; write for example '{name}.A' ({channels})")]
    return issues


def _check_path(model: WorldModel, i: int, path: list[str]) -> list[tuple[Location, str]]:
    first: Location = ("paths", i, 0)
    if len(path) < 2:
        return [(("paths", i), "a path goes from a source's arm to detectors")]
    issues = _check_reference(model, first, _split(path[0])[0])
    if not issues and _kind(model, path[0]) not in ("spdc", "bell_station", "delay_generator"):
        begins = "a source's arm, a bell_station or a channel of a delay generator"
        issues.append((first, f"a path begins with {begins}, not with {path[0]!r}"))
    for j, token in enumerate(path[1:], start=1):
        issues += _check_reference(model, ("paths", i, j), _split(token)[0])
    if issues:
        return issues
    name, port = _split(path[0])
    kind = model.elements[name].kind
    if kind == "delay_generator":
        return _check_channel(model, first, path[0]) + _check_wire(model, i, path)
    if kind == "spdc" and port not in ARMS:
        issues.append((first, f"write {name}.signal or {name}.idler, not {path[0]!r}"))
    if kind == "bell_station" and port:
        issues.append((first, f"the path of a station's detectors begins with {name!r} alone"))
    return issues + _check_order(model, i, path) + _check_ports(model, i, path)


def _check_wire(model: WorldModel, i: int, path: list[str]) -> list[tuple[Location, str]]:
    if len(path) != 2 or _kind(model, path[1]) != "tagger":
        return [(("paths", i), "a wire goes from a channel to a tagger's input, and nowhere else")]
    return _check_ports(model, i, path)


def _check_order(model: WorldModel, i: int, path: list[str]) -> list[tuple[Location, str]]:
    loc: Location = ("paths", i)
    kinds = [_kind(model, token) for token in path[1:]]
    stages = [_STAGES.get(kind, -1) for kind in kinds]
    if -1 in stages:
        return [(loc, f"a {kinds[stages.index(-1)]} does not stand in a path")]
    if stages != sorted(stages) or any(stages.count(s) > 1 for s in (1, 2, 3, 4)):
        order = "fibres, paddles and memories, one analyzer or splitter, one snspd, one tagger"
        return [(loc, f"the order is: {order}")]
    if kinds[-1] == "bell_station":
        if len(stages) > 1 and stages[-2] > 0:
            return [(loc, "a station's input takes light that nothing has split or detected")]
        return []
    if 2 not in stages:
        return [(loc, "a path needs an snspd at its end, or a station's input")]
    if _kind(model, path[0]) == "bell_station" and stages[0] < 2:
        return [(loc, "a station's detectors follow it at once")]
    if kinds.count("memory") > 1:
        return [(loc, "a path takes one memory")]
    return []


def _check_ports(model: WorldModel, i: int, path: list[str]) -> list[tuple[Location, str]]:
    issues: list[tuple[Location, str]] = []
    splitter, count = outputs(model, path)
    for j, token in enumerate(path[1:], start=1):
        loc: Location = ("paths", i, j)
        name, port = _split(token)
        element = model.elements[name]
        if isinstance(element, el.BellStationModel):
            if port not in SIDES:
                issues.append((loc, f"write {name}.left or {name}.right, not {token!r}"))
        elif not isinstance(element, (el.SnspdModel, el.TaggerModel)):
            if port:
                issues.append((loc, f"a {element.kind} has no ports; write {name!r}"))
        elif port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 64):
            issues.append((loc, f"{token!r} names no input; they are counted from 1"))
        elif isinstance(element, el.SnspdModel):
            have = len(element.detectors)
            if not port and count != have:
                way = "" if count > have else f"; name the first to use: '{name}.1'"
                plural = "output" if count == 1 else "outputs"
                issues.append((loc, f"{splitter} has {count} {plural}, the snspd {have}{way}"))
            elif port and int(port) - 1 + count > have:
                issues.append((loc, f"{token!r} and {count - 1} more: the snspd has only {have}"))
    return issues


def _taken(model: WorldModel, path: list[str], j: int) -> list[str]:
    """What a path takes for itself at position ``j``, in words."""
    name, port = _split(path[j])
    kind = _kind(model, name)
    if j == 0:
        return [] if kind == "delay_generator" else [repr(path[j])]
    if kind in ("snspd", "tagger"):
        word = "detector" if kind == "snspd" else "input"
        first = int(port) if port.isascii() and port.isdigit() else 1
        _, count = outputs(model, path)
        return [f"{word} {n} of {name!r}" for n in range(first, first + count)]
    return [repr(path[j])]


def _check_whole(model: WorldModel) -> Iterator[tuple[Location, str]]:
    """What can be said once every single path is right."""
    layout = Layout.of(model)
    crystals = {n: e for n, e in model.elements.items() if isinstance(e, el.CrystalModel)}
    for source in dict.fromkeys(path.source for path in layout.light):
        paths = [path for path in layout.light if path.source == source]
        if len(paths) < 2:
            yield ("paths",), f"{source} has one arm only; both arms need a path"
        pulsed = crystals[source].trigger is not None
        for path in paths:
            fibres = [model.elements[name] for name in path.optics]
            if isinstance(path.end, tuple) and any(
                isinstance(fibre, el.FibreModel) and fibre.dispersion_broadening > 0
                for fibre in fibres
            ):
                yield (
                    ("paths",),
                    (
                        f"dispersion between {source} and a station is not modelled: leave its"
                        " dispersion_broadening out"
                    ),
                )
            if isinstance(path.end, tuple) and not pulsed:
                yield ("paths",), f"{source} meets another at a station: it needs a trigger"
            for name in path.optics:
                if model.elements[name].kind != "memory":
                    continue
                if not pulsed:
                    yield ("paths",), f"a memory takes pulses: {source} needs a trigger"
                if isinstance(path.end, tuple):
                    yield ("paths",), f"the memory {name!r} has to stand before detectors"
    fed = [path.end for path in layout.light if isinstance(path.end, tuple)]
    for station in {name for name, _ in fed} | layout.stations.keys():
        if station not in layout.stations:
            yield ("paths",), f"the detectors of {station!r} need a path: [{station}, ...]"
        for side in SIDES:
            if (station, side) not in fed:
                yield ("paths",), f"no light comes to {station}.{side}"
    for network in layout.networks:
        if len(network) > 2:
            yield ("paths",), f"{', '.join(network)} are joined by stations; two at most can be"
        for key in ("schmidt_number", "pulse_width"):
            if len({getattr(crystals[source], key) for source in network}) > 1:
                yield ("paths",), f"{' and '.join(network)} interfere: they need the same {key}"
