"""How the elements of a world are joined: paths of light and wires, checked and resolved.

A path of light goes from a port of a source through optics to detectors, or into an input of a
Bell station; a station's detectors have a path of their own. Several ports, joined by ``+``, may
begin one path: their light goes the same way. Two paths may have their beginning in common, up to
an element with several outputs. A wire goes from a channel of a delay generator, or from a time
reference, to an input of a tagger.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..instruments import ConfigError
from . import elements as el
from .events import EventModel, check_events
from .physics import polarization as pol

__all__ = ["Detection", "Layout", "LightPath", "Location", "Wire", "WorldModel", "check_layout"]

Location = tuple[str | int, ...]

SIDES = ("left", "right")
#: Detectors of a Bell station, in order.
STATION_OUTPUTS = ("cH", "cV", "dH", "dV")


class WorldModel(BaseModel):
    """What a world file says: the elements and how light passes through them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bellbench: Literal["world/1"] = "world/1"
    elements: dict[str, el.ElementModel]
    paths: Annotated[list[list[str]], Field(min_length=1)]
    events: tuple[EventModel, ...] = ()


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
    """From a port of a source to detectors or to a side of a station.

    Attributes:
        source: The source.
        port: Its port.
        channel: Number of the port's wavelength channel, from 0.
        arm: 0 for signal, 1 for idler.
        optics: Name and port of each element on the way.
        end: Detectors, or a station and its side.
        first: Whether it is the first of those that go the same way.
        number: Which of the world's paths it is, from 0.
    """

    source: str
    port: str
    channel: int
    arm: int
    optics: tuple[tuple[str, str], ...]
    end: Detection | tuple[str, str]
    first: bool
    number: int


@dataclass(frozen=True)
class Wire:
    """From a channel of a delay generator, or of a reference, to an input of a tagger."""

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
        for n, path in enumerate(model.paths):
            start, port = _beginning(path)[0]
            kind = model.elements[start].kind
            if model.elements[start].stage == "wire":
                tagger, first = _split(path[1])
                wires.append(Wire(start, port, tagger, int(first or 1)))
            elif kind == "bell_station":
                stations[start] = _detection(model, path)
            else:
                optics = tuple(
                    _split(n) for n in path[1:] if _stage(model, n) in ("optic", "branch", "split")
                )
                name, side = _split(path[-1])
                at_station = _kind(model, name) == "bell_station"
                end = (name, side) if at_station else _detection(model, path)
                for i, (source, port) in enumerate(_beginning(path)):
                    channel, arm = _ports(model, source)[port]
                    light.append(LightPath(source, port, channel, arm, optics, end, i == 0, n))
        return cls(tuple(light), stations, tuple(wires), _networks(light))


def outputs(model: WorldModel, path: list[str]) -> tuple[str, int]:
    """What splits the light of a path last, in words, and into how many outputs."""
    for name in reversed(path):
        kind = _kind(model, name)
        if kind == "analyzer":
            return "the analyzer", len(pol.OUTCOMES)
        if kind in ("splitter", "polarizing_splitter"):
            return "the splitter", 2
        if kind == "bell_station":
            return "the station", len(STATION_OUTPUTS)
    return "the path", 1


def check_layout(model: WorldModel) -> list[tuple[Location, str]]:
    """Return every mistake in how the elements are joined, as (location, message)."""
    issues = [*_check_elements(model)]
    issues += check_events(model.events, model.elements)
    used: dict[str, int] = {}
    branches: dict[str, tuple[int, list[str]]] = {}
    for i, path in enumerate(model.paths):
        issues += _check_path(model, i, path)
        wrong = [*_check_branches(model, i, path, branches)]
        issues += wrong
        # Where paths part wrongly, what they have in common is no mistake of its own.
        parted = [loc[2] for loc, _ in wrong if isinstance(loc[2], int)]
        shared = max((_in_common(model, path, other) for other in model.paths[:i]), default=0)
        for j in range(max([shared, *parted]), len(path)):
            for thing in _taken(model, path, j):
                if used.get(thing) == i:
                    loop = "; name it once" if j == 0 else _LOOP
                    issues.append((("paths", i, j), f"{thing} is twice in this path{loop}"))
                elif thing in used:
                    issues.append(
                        (("paths", i, j), f"{thing} is already in path {used[thing] + 1}")
                    )
                used.setdefault(thing, i)
    if not issues:
        issues += _check_whole(model)
    return issues


#: Stages in the order in which a path passes them.
_ORDER = {"optic": 0, "branch": 0, "split": 1, "detect": 2, "tag": 3, "station": 4}
_LOOP = ": a loop; where there are two of a kind, give each a name"
_REFERENCES = (
    ("pump", "pump_laser"),
    ("oven", "oven"),
    ("at", "pump_laser"),
    ("sequencer", "delay_generator"),
    ("laser", "pump_laser"),
)


def _split(token: str) -> tuple[str, str]:
    name, _, port = token.partition(".")
    return name, port


def _kind(model: WorldModel, token: str) -> str:
    element = model.elements.get(_split(token)[0])
    return "" if element is None else element.kind


def _stage(model: WorldModel, token: str) -> str:
    element = model.elements.get(_split(token)[0])
    return "" if element is None else element.stage


def _beginning(path: list[str]) -> list[tuple[str, str]]:
    """The ports that a path begins with."""
    return [_split(token.strip()) for token in path[0].split("+")]


def _ports(model: WorldModel, source: str) -> dict[str, tuple[int, int]]:
    """Channel and arm of each port of a source."""
    element = model.elements[source]
    ports: dict[str, tuple[int, int]] = element.ports() if hasattr(element, "ports") else {}
    return ports


def _in_common(model: WorldModel, path: list[str], other: list[str]) -> int:
    """How many elements two paths begin with in common, 0 unless they part at a branch."""
    for j, (one, two) in enumerate(zip(path, other, strict=False)):
        if one != two:
            parts = _split(one)[0] == _split(two)[0] and _stage(model, one) == "branch"
            return j if parts else 0
    return 0


def _detection(model: WorldModel, path: list[str]) -> Detection:
    array, tagger = "", None
    detector = first_input = 1
    for token in path[1:]:
        name, port = _split(token)
        if _stage(model, name) == "detect":
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
        if element.stage != "apart" and (set(".+") & set(name) or name != name.strip()):
            yield loc, f"{name!r} cannot be named in a path; take a name without '.', '+' or space"
        if isinstance(element, el.CrystalModel) and sum(element.channels) > 1 + 1e-9:
            total = f"the shares sum to {sum(element.channels):g}"
            yield (*loc, "channels"), f"{total}; 1 is the most there can be"
        if isinstance(element, el.LightModel):
            length = math.hypot(*element.polarization)
            if length > 1 + 1e-6:
                most = "1 is the most there can be, for polarized light"
                yield (*loc, "polarization"), f"its length is {length:g}; {most}"
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
            if element.channels:
                only = "belong to a continuous pump; leave them out, or the trigger"
                yield (*loc, "channels"), only
        elif isinstance(element, el.CrystalModel) and element.pulse_width > 0:
            yield (*loc, "pulse_width"), "pulses need a trigger, such as 'pulser.A'"
        if isinstance(element, el.WeakCoherentModel):
            trigger = (*loc, "trigger")
            yield from _check_channel(model, trigger, element.trigger, "pulse_sequencer")
        if isinstance(element, el.DLCZModel):
            for key in ("prepare", "write", "read"):
                token = getattr(element, key)
                generators = ("delay_generator", "pulse_sequencer")
                yield from _check_channel(model, (*loc, key), token, *generators)
            if len({element.prepare, element.write, element.read}) < 3:
                yield loc, "prepare, write and read need a channel each"
        if isinstance(element, el.StorageModel):
            for output, times in Counter(element.used).items():
                if times > 1:
                    yield loc, f"output {output} cannot do two things in one memory"
            try:
                element.medium()
            except ConfigError as error:
                yield loc, str(error)


def _check_channel(
    model: WorldModel, loc: Location, token: str, *kinds: str
) -> list[tuple[Location, str]]:
    name, _ = _split(token)
    issues = _check_reference(model, loc, name, *(kinds or ("delay_generator",)))
    if not issues:
        issues += _check_output(model, loc, token)
    return issues


def _check_output(model: WorldModel, loc: Location, token: str) -> list[tuple[Location, str]]:
    name, channel = _split(token)
    known: tuple[str, ...] = getattr(model.elements[name], "outputs", ())
    if channel in known:
        return []
    example = "A" if "A" in known else known[0]
    listed = ", ".join(known)
    return [(loc, f"{token!r} names no channel; write for example '{name}.{example}' ({listed})")]


def _check_path(model: WorldModel, i: int, path: list[str]) -> list[tuple[Location, str]]:
    first: Location = ("paths", i, 0)
    if len(path) < 2:
        return [(("paths", i), "a path goes from a source's arm to detectors")]
    issues: list[tuple[Location, str]] = []
    for name, _ in _beginning(path):
        issues += _check_reference(model, first, name)
        if not issues and _stage(model, name) not in ("source", "station", "wire"):
            begins = "a source's arm, a bell_station, a channel of a delay generator or a pps"
            issues.append((first, f"a path begins with {begins}, not with {name!r}"))
    for j, token in enumerate(path[1:], start=1):
        issues += _check_reference(model, ("paths", i, j), _split(token)[0])
    if issues:
        return issues
    name, port = _beginning(path)[0]
    stage = _stage(model, name)
    if len(_beginning(path)) > 1 and any(
        _stage(model, other) != "source" for other, _ in _beginning(path)
    ):
        return [(first, "only ports of sources go the same way; write the others alone")]
    if stage == "wire":
        return _check_output(model, first, path[0]) + _check_wire(model, i, path)
    if stage == "station" and port:
        issues.append((first, f"the path of a station's detectors begins with {name!r} alone"))
    if stage == "source":
        for source, port in _beginning(path):
            ports = list(_ports(model, source))
            if port not in ports:
                listed = " or ".join(f"{source}.{known}" for known in ports[:2])
                more = f", up to {source}.{ports[-1]}" if len(ports) > 2 else ""
                token = f"{source}.{port}" if port else source
                issues.append((first, f"write {listed}{more}, not {token!r}"))
    return issues + _check_order(model, i, path) + _check_ports(model, i, path)


def _check_branches(
    model: WorldModel, i: int, path: list[str], seen: dict[str, tuple[int, list[str]]]
) -> Iterator[tuple[Location, str]]:
    """Light comes to what parts it once, and in all paths the same way; ``seen`` is noted."""
    here: set[str] = set()
    for j, token in enumerate(path):
        name = _split(token)[0]
        if _stage(model, token) != "branch":
            continue
        if name in here:
            if path.index(token) == j:  # with another output; the same one is found elsewhere
                yield ("paths", i, j), f"{name!r} is twice in this path{_LOOP}"
            continue
        here.add(name)
        known, way = seen.setdefault(name, (i, path[:j]))
        if way != path[:j]:
            yield (
                ("paths", i, j),
                f"light comes to {name!r} another way than in path {known + 1}; write both paths"
                " alike up to it, several ports joined by '+'",
            )


def _check_wire(model: WorldModel, i: int, path: list[str]) -> list[tuple[Location, str]]:
    if len(path) != 2 or _kind(model, path[1]) != "tagger":
        return [(("paths", i), "a wire goes from a channel to a tagger's input, and nowhere else")]
    return _check_ports(model, i, path)


def _check_order(model: WorldModel, i: int, path: list[str]) -> list[tuple[Location, str]]:
    loc: Location = ("paths", i)
    kinds = [_kind(model, token) for token in path[1:]]
    stages = [_ORDER.get(_stage(model, token), -1) for token in path[1:]]
    if -1 in stages:
        return [(loc, f"a {kinds[stages.index(-1)]} does not stand in a path")]
    if stages != sorted(stages) or any(stages.count(s) > 1 for s in (1, 2, 3, 4)):
        order = "optics such as fibres, one analyzer or splitter, one snspd or spad, one tagger"
        return [(loc, f"the order is: {order}")]
    if kinds[-1] == "bell_station":
        if _kind(model, path[0]) == "bell_station":
            return [(loc, "what leaves a station goes to detectors, not to a station")]
        if len(stages) > 1 and stages[-2] > 0:
            return [(loc, "a station's input takes light that nothing has split or detected")]
        return []
    if 2 not in stages:
        return [(loc, "a path needs an snspd or a spad at its end, or a station's input")]
    if _kind(model, path[0]) == "bell_station" and stages[0] < 2:
        return [(loc, "a station's detectors follow it at once")]
    if sum(kind in ("memory", "gas_memory") for kind in kinds) > 1:
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
        elif element.stage == "branch":
            count_of = int(getattr(element, "branches", 0))
            if not (port.isascii() and port.isdigit() and 1 <= int(port) <= count_of):
                issues.append(
                    (loc, f"name an output: {name}.1 to {name}.{count_of}, not {token!r}")
                )
        elif not isinstance(element, (el.SnspdModel, el.SpadModel, el.TaggerModel)):
            if port:
                issues.append((loc, f"a {element.kind} has no ports; write {name!r}"))
        elif port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 64):
            issues.append((loc, f"{token!r} names no input; they are counted from 1"))
        elif isinstance(element, el.TaggerModel):
            if port and int(port) - 1 + count > 64:
                issues.append((loc, f"{token!r} and {count - 1} more: a tagger has 64 inputs"))
        elif isinstance(element, (el.SnspdModel, el.SpadModel)):
            have = len(element.detectors)
            if not port and count != have:
                way = "" if count > have else f"; name the first to use: '{name}.1'"
                plural = "output" if count == 1 else "outputs"
                these = f"the {element.kind} {have}{way}"
                issues.append((loc, f"{splitter} has {count} {plural}, {these}"))
            elif port and int(port) - 1 + count > have:
                too_many = f"{token!r} and {count - 1} more"
                issues.append((loc, f"{too_many}: the {element.kind} has only {have}"))
    return issues


def _taken(model: WorldModel, path: list[str], j: int) -> list[str]:
    """What a path takes for itself at position ``j``, in words."""
    name, port = _split(path[j])
    stage = _stage(model, name)
    if j == 0:
        if _stage(model, name) == "wire":
            return []
        return [repr(".".join(filter(None, token))) for token in _beginning(path)]
    if stage in ("detect", "tag"):
        word = "detector" if stage == "detect" else "input"
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
        crystal = crystals.get(source)
        pulsed = crystal is not None and crystal.trigger is not None
        if crystal is not None and not crystal.channels and len({path.arm for path in paths}) < 2:
            place: Location = ("paths", paths[0].number, 0)
            yield place, f"{source} has one arm only; both arms need a path"
        ports: set[str] = set()
        weak_path = isinstance(model.elements[source], el.WeakCoherentModel)
        if weak_path and len(paths) > 1 and any(isinstance(p.end, tuple) for p in paths):
            place = ("paths", paths[1].number, 0)
            yield place, f"{source} comes to a station: all of its light has to go there"
        emitter = isinstance(model.elements[source], el.EmitterModel)
        for path in paths:
            if (pulsed or emitter) and path.port in ports:
                place = ("paths", path.number, 0)
                yield place, f"{source} is pulsed: each of its arms takes one path"
            if emitter and path.port == "readout" and isinstance(path.end, tuple):
                place = ("paths", path.number, 0)
                yield place, f"only {source}.out ends at a station; detectors read {source}.readout"
            ports.add(path.port)
            yield from _check_pulses(model, path, pulsed)
    fed: dict[tuple[str, str], int] = {}
    for path in layout.light:
        if isinstance(path.end, tuple):
            if path.end in fed:
                into, place = ".".join(path.end), ("paths", path.number, 0)
                yield place, f"light of two ports comes to {into}; one is what it takes"
            fed.setdefault(path.end, path.number)
    for station in dict.fromkeys([*(name for name, _ in fed), *layout.stations]):
        known = [n for (name, _), n in fed.items() if name == station]
        if station not in layout.stations:
            place = ("paths", known[0], len(model.paths[known[0]]) - 1)
            yield place, f"the detectors of {station!r} need a path: [{station}, ...]"
        for side in SIDES:
            if (station, side) not in fed:
                yield (
                    ("elements", station),
                    f"no light comes to {station}.{side}; end a path there",
                )
    for network in layout.networks:
        place = ("elements", network[-1])
        if len(network) > 2:
            yield place, f"{', '.join(network)} are joined by stations; two at most can be"
        meeting = [crystals[source] for source in network if source in crystals]
        members = [model.elements[source] for source in network]
        weak = [member for member in members if isinstance(member, el.WeakCoherentModel)]
        if weak and any(crystal.trigger is not None for crystal in meeting):
            yield place, f"{' and '.join(network)} interfere: they need to be of one kind"
        if len({member.pulse_width for member in weak}) > 1:
            yield place, f"{' and '.join(network)} interfere: they need the same pulse_width"
        emitters = [member for member in members if isinstance(member, el.EmitterModel)]
        if emitters and len(emitters) < len(members):
            yield place, f"{' and '.join(network)} interfere: they need to be of one kind"
        for key in ("encoding", "lifetime"):
            if len({getattr(member, key) for member in emitters}) > 1:
                yield place, f"{' and '.join(network)} interfere: they need the same {key}"
        for key in ("schmidt_number", "pulse_width"):
            if len({getattr(c, key) for c in meeting if c.trigger is not None}) > 1:
                yield place, f"{' and '.join(network)} interfere: they need the same {key}"
    yield from _check_detectors(model)
    yield from _check_unused(model)


def _check_pulses(
    model: WorldModel, path: LightPath, pulsed: bool
) -> Iterator[tuple[Location, str]]:
    """What only pulsed light can do, and what it cannot."""
    optics = [(name, model.elements[name]) for name, _ in path.optics]
    at_station = isinstance(path.end, tuple)
    element = model.elements[path.source]
    crystal = isinstance(element, el.CrystalModel)
    place: Location = ("paths", path.number, 0)
    remedy = (
        "it needs a trigger"
        if crystal
        else f"a {element.kind} makes none; a crystal with a trigger does"
    )
    if isinstance(element, (el.WeakCoherentModel, el.EmitterModel, el.DLCZModel)):
        remedy = f"those of a {element.kind} are not modelled there; a crystal's with a trigger are"
    single = isinstance(element, (el.WeakCoherentModel, el.EmitterModel))
    if at_station and not (pulsed or single):
        yield place, f"{path.source} meets another at a station, which takes pulses: {remedy}"
    for name, one in optics:
        key = ("pmd",) if isinstance(one, el.FibreModel) and one.pmd else ()
        emitted = isinstance(element, el.EmitterModel) and path.port == "out"
        if emitted and not at_station and key:
            yield (
                ("elements", name, *key),
                f"is not modelled for photons of {path.source}: leave it out",
            )
        if at_station and isinstance(one, el.SqueezersModel):
            yield (
                ("elements", name),
                f"may scramble, which is not modelled between {path.source} and a station: take"
                " paddles or liquid_crystals",
            )
        if pulsed and (key or isinstance(one, el.EavesdropperModel)):
            why = f"is not modelled for light of {path.source}, which is pulsed: leave it out"
            yield ("elements", name, *key), why
        if isinstance(one, el.FibreModel) and one.dispersion and at_station:
            yield (
                ("elements", name, "dispersion"),
                f"is not modelled between {path.source} and a station: leave it out",
            )
        if at_station and isinstance(one, el.SatellitePassModel):
            yield (
                ("elements", name),
                f"is not modelled between {path.source} and a station, where pulses have to meet:"
                " take a free_space",
            )
        if at_station and single and (key or isinstance(one, el.EavesdropperModel)):
            yield (
                ("elements", name, *key),
                f"is not modelled between {path.source} and a station: leave it out",
            )
        if isinstance(one, el.StorageModel) and not pulsed:
            yield place, f"{path.source} comes to a memory, which takes pulses: {remedy}"
        if isinstance(one, el.StorageModel) and at_station:
            yield place, f"the memory {name!r} has to stand before detectors"


def _check_unused(model: WorldModel) -> Iterator[tuple[Location, str]]:
    """Everything that light passes is in a path; detectors are looked at one by one."""
    tokens = [name for path in model.paths for name, _ in _beginning(path)]
    used = {*tokens, *(_split(token)[0] for path in model.paths for token in path[1:])}
    for name, element in model.elements.items():
        if name not in used and element.stage not in ("apart", "wire", "detect"):
            what = {"source": "no path begins at", "tag": "no path ends at"}
            words = what.get(element.stage, "no path passes")
            yield ("elements", name), f"{words} {name!r}; name it in one, or leave it out"


def _check_detectors(model: WorldModel) -> Iterator[tuple[Location, str]]:
    """Every detector is at the end of a path."""
    used: set[tuple[str, int]] = set()
    for path in model.paths:
        for token in path[1:]:
            if _stage(model, token) == "detect":
                end = _detection(model, path)
                count = outputs(model, path)[1]
                used |= {(end.array, end.detector + n) for n in range(count)}
    for name, element in model.elements.items():
        if isinstance(element, (el.SnspdModel, el.SpadModel)):
            if all((name, n) not in used for n in range(len(element.detectors))):
                yield (
                    ("elements", name),
                    f"no path ends at {name!r}; name it in one, or leave it out",
                )
                continue
            for n in range(len(element.detectors)):
                if (name, n) not in used:
                    yield (
                        ("elements", name, "detectors", n),
                        f"no path ends at detector {n + 1} of {name!r}; leave it out, or add a path"
                        f" to '{name}.{n + 1}'",
                    )
