"""Read a bench file, check it whole, and open it: the one place where drivers and twins meet."""

from __future__ import annotations

import inspect
import keyword
import tempfile
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from .configs import (
    ConfigErrors,
    Document,
    Loc,
    Report,
    find_config,
    nearest,
    read_config,
    write,
)
from .configs.bench_file import BenchFile, InstrumentEntry, PartyEntry
from .instruments import (
    BellbenchError,
    Clock,
    ConfigError,
    DelayGenerator,
    DetectorArray,
    InstrumentError,
    PairSource,
    PolarizationController,
    QuantumMemory,
    SystemClock,
    TimeTagger,
)
from .lab import Device, Joined, Lab, Party

if TYPE_CHECKING:
    from .drivers.transports.recording import Recorder, Recording
    from .sims.server import TwinSpec
    from .sims.world import WorldModel
    from .twins import World

__all__ = [
    "BenchConfig",
    "InstrumentConfig",
    "Lab",
    "Party",
    "PartyConfig",
    "check_bench",
    "check_world",
    "load_bench",
    "open_bench",
]

_ROLES: dict[str, type] = {
    "tagger": TimeTagger,
    "detectors": DetectorArray,
    "controller": PolarizationController,
    "source": PairSource,
    "memory": QuantumMemory,
    "delay_generator": DelayGenerator,
}
_REPLAY = "replay://"


@dataclass(frozen=True)
class InstrumentConfig:
    """One instrument, validated.

    Attributes:
        name: Name on the bench.
        driver: Driver key.
        address: Address in the file, None where it has none.
        settings: The driver's own settings.
        on_exit: ``off``, ``leave`` or ``safe``.
        parts: Names of its parts by role; empty unless it is a composite.
        is_twin: Whether it runs as a twin of a world started with the bench.
        element: Element of the world that its twin acts on.
        twin_settings: The twin's own settings; None where the driver has no twin.
    """

    name: str
    driver: str
    address: str | None
    settings: BaseModel
    on_exit: str
    parts: Mapping[str, str]
    is_twin: bool
    element: str
    twin_settings: BaseModel | None

    @property
    def is_composite(self) -> bool:
        """Whether it is made of other instruments."""
        return bool(self.parts)

    @property
    def is_remote_twin(self) -> bool:
        """Whether it is a twin of a world served elsewhere."""
        return (self.address or "").startswith("twin://")

    @property
    def is_replay(self) -> bool:
        """Whether it is replayed from a recording."""
        return (self.address or "").startswith(_REPLAY)


@dataclass(frozen=True)
class PartyConfig:
    """What one party owns: names of instruments, and the label of each tagger input."""

    name: str
    tagger: str
    channels: Mapping[int, str]
    detectors: str | None = None
    controller: str | None = None
    source: str | None = None
    memory: str | None = None
    delay_generator: str | None = None

    @property
    def instruments(self) -> dict[str, str]:
        """What it owns, by role."""
        named = {role: getattr(self, role) for role in _ROLES}
        return {role: name for role, name in named.items() if name is not None}


@dataclass(frozen=True)
class BenchConfig:
    """A bench file, validated and resolved.

    Attributes:
        path: The file.
        twin: Whether instruments are twins unless their address says otherwise.
        settle_timeout: Longest wait for set points, s of bench time.
        instruments: By name, parts before what is made of them.
        parties: By name.
        world: The world of its twins, None where the file names none.
        world_path: The world's file; None where there is none or it is written in place.
    """

    path: Path
    twin: bool
    settle_timeout: float
    instruments: Mapping[str, InstrumentConfig]
    parties: Mapping[str, PartyConfig]
    world: WorldModel | None = None
    world_path: Path | None = None

    @property
    def uses_twins(self) -> bool:
        """Whether any of its instruments is a twin."""
        return any(c.is_twin or c.is_remote_twin for c in self.instruments.values())

    def twin_specs(self, only: Sequence[str] = ()) -> list[TwinSpec]:
        """Return what to serve: the named instruments' twins, or all that this bench asks for."""
        from .sims.server import TwinSpec

        chosen = only or [c.name for c in self.instruments.values() if c.is_twin]
        specs = []
        for name in chosen:
            config = self.instruments.get(name)
            if config is None or config.twin_settings is None:
                twins = [c.name for c in self.instruments.values() if c.twin_settings is not None]
                raise ConfigError(f"no twin {name!r}{nearest(name, twins)}", place=str(self.path))
            specs.append(
                TwinSpec(config.name, config.driver, config.element, _dump(config.twin_settings))
            )
        return specs

    def resolved(self) -> dict[str, Any]:
        """Return the whole configuration, defaults and world included, as a bench file's content.

        Written as YAML it reads back as this same bench.
        """
        content: dict[str, Any] = {"bellbench": "bench/1"}
        if self.world is not None:
            content["world"] = _dump(self.world)
        content |= {"twin": self.twin, "settle_timeout": f"{self.settle_timeout!r} s"}
        content["instruments"] = {c.name: _resolved(c) for c in self.instruments.values()}
        content["parties"] = {
            p.name: {**p.instruments, "channels": dict(p.channels)} for p in self.parties.values()
        }
        return content


def load_bench(bench: str | Path, *, twin: bool | None = None) -> BenchConfig:
    """Read and check a bench file.

    Args:
        bench: Bundled name or path.
        twin: Overrides the file's own ``twin``.

    Raises:
        ConfigError: with every mistake of the file and of its world's file.
    """
    path = find_config(bench, "benches")
    return _Loader(read_config(path, "bench"), twin).load()


def check_bench(bench: str | Path) -> list[ConfigError]:
    """Return every mistake in a bench file and its world's file; empty where there is none."""
    try:
        load_bench(bench)
    except ConfigErrors as errors:
        return errors.errors
    except ConfigError as error:
        return [error]
    return []


def check_world(world: str | Path) -> list[ConfigError]:
    """Return every mistake in a world file; empty where there is none."""
    try:
        report = Report(read_config(find_config(world, "worlds"), "world"))
    except ConfigError as error:
        return [error]
    _validate_world(report)
    return report.errors


def open_bench(
    bench: str | Path | BenchConfig,
    *,
    twin: bool | None = None,
    seed: int | None = None,
    bring_up: bool = True,
    addresses: Mapping[str, str] | None = None,
    record: str | Path | None = None,
    replay: str | Path | None = None,
    state: str | Path | None = None,
) -> Lab:
    """Open a bench: start or join its world, connect, and bring it to the file's settings.

    Use it in a ``with`` block: a normal end does each instrument's ``on_exit``, an error brings
    every instrument to its safe state.

    Args:
        bench: Bundled name, path, or a bench that is loaded already.
        twin: Overrides the file's own ``twin``.
        seed: Seed of the twins' world; drawn from the operating system where None.
        bring_up: Write the file's settings and wait until they are reached.
        addresses: Addresses that replace the file's, by name of the instrument.
        record: File that everything on the instruments' wires is written to; it is complete
            when the bench is closed.
        replay: Recording that stands for every instrument; bench time is as recorded.
        state: File in which the twins' world lasts from one opening to the next: its time,
            temperatures and drifts. The seed is the first opening's.

    Raises:
        ConfigError: with every mistake of the file, or of the recording.
        InstrumentError: naming every instrument that cannot be reached, or that is not ready.
        TwinError: where the world does not start.
    """
    config = bench if isinstance(bench, BenchConfig) else load_bench(bench, twin=twin)
    given = dict(addresses or {})
    for name in given:
        if name not in config.instruments:
            raise ConfigError(f"no instrument {name!r}{nearest(name, config.instruments)}")
    single = [c for c in config.instruments.values() if not c.is_composite]
    if replay is not None:
        given = {c.name: f"{_REPLAY}{Path(replay).absolute()}" for c in single} | given
    joined = _enter_world(config, given, seed, None if state is None else Path(state).absolute())
    world: Joined | None = joined
    twins = {c.name for c in single if c.is_twin or c.is_remote_twin} - given.keys()
    try:
        where = _addresses(config, given, joined)
        replayed = {name for name, address in where.items() if address.startswith(_REPLAY)}
        clock: Clock
        used: int | None = None
        if joined is not None:
            clock, used = joined.clock, joined.seed
        elif len(replayed) == len(single):
            from .drivers.transports.recording import ReplayClock

            world = clock = ReplayClock()
            used = seed
        else:
            clock = SystemClock()
        recorder = None
        if record is not None:
            recorder = _recorder(Path(record), clock, single, where)
            world, clock = _Recorded(world, recorder), recorder.clock
        instruments = _build(config.instruments.values(), where, clock)
        if recorder is not None:
            _record(recorder, single, instruments)
        devices = [
            Device(
                c.name,
                instruments[c.name],
                c.driver,
                where[c.name],
                c.on_exit,
                c.parts,
                twin=c.name in twins or c.name in replayed,
            )
            for c in config.instruments.values()
        ]
        parties = {p.name: _party(p, instruments) for p in config.parties.values()}
    except BaseException:
        if world is not None:
            world.close()
        raise
    lab = Lab(
        devices,
        parties,
        clock,
        world=world,
        seed=used,
        seeded=seed is not None,
        all_twins=all(d.twin or d.parts for d in devices),
        settle_timeout=config.settle_timeout,
    )
    lab.open()
    if bring_up:
        try:
            lab.bring_up()
        except BaseException as error:
            lab.abandon(error)
            raise
    return lab


class _Loader:
    """Checks one bench file as a whole; every step notes its mistakes and goes on."""

    def __init__(self, document: Document, twin: bool | None) -> None:
        self.document = document
        self.report = Report(document)
        self.world_report: Report | None = None
        self.world_path: Path | None = None
        self.override = twin
        self.types: dict[str, type[Any]] = {}
        self.recordings: dict[Path, Recording] = {}

    def load(self) -> BenchConfig:
        header = self.report.validate(BenchFile)
        twin = header.twin if header is not None else self.document.data.get("twin", False)
        self.twin = self.override if self.override is not None else bool(twin)
        self.world = self._world()
        configs: dict[str, InstrumentConfig] = {}
        for name in self._names("instruments"):
            config = self._instrument(name)
            if config is not None:
                configs[name] = config
        ordered = self._in_order(configs)
        self._check_addresses(configs)
        self._check_elements(configs)
        built = self._try_build(ordered)
        parties = self._parties(configs, built)
        worlds = [] if self.world_report is None else self.world_report.errors
        errors = self.report.errors + [e for e in worlds if e not in self.report.errors]
        if errors:
            raise ConfigErrors(errors)
        assert header is not None
        return BenchConfig(
            path=self.document.path,
            twin=self.twin,
            settle_timeout=header.settle_timeout,
            instruments={c.name: c for c in ordered},
            parties=parties,
            world=self.world,
            world_path=self.world_path,
        )

    def _names(self, section: str) -> list[str]:
        entries = self.document.data.get(section)
        if not isinstance(entries, dict):
            return []
        names = [name for name in entries if isinstance(name, str)]
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                self.report.add((section, name), "must be a name such as 'alice_tagger'", key=True)
            elif section == "instruments" and hasattr(Lab, name):
                self.report.add((section, name), "is the lab's own word; use another", key=True)
        return names

    # -- the world

    def _world(self) -> WorldModel | None:
        content = self.document.data.get("world")
        base: Loc = ()
        if content is None:
            return None
        if isinstance(content, dict):
            report, base = self.report, ("world",)
        elif isinstance(content, str):
            try:
                self.world_path = find_config(content, "worlds", beside=self.document.path)
                report = Report(read_config(self.world_path, "world"))
            except ConfigError as error:
                self.report.add(("world",), str(error))
                return None
            self.world_report = report
        else:
            self.report.add(("world",), f"expected a name or a path, got {content!r}")
            return None
        return _validate_world(report, base)

    # -- instruments

    def _instrument(self, name: str) -> InstrumentConfig | None:
        loc: Loc = ("instruments", name)
        raw = self.document.data["instruments"][name]
        entry = self.report.validate(InstrumentEntry, loc)
        driver = raw.get("driver") if isinstance(raw, dict) else None
        driver_type = self._driver(driver, (*loc, "driver")) if isinstance(driver, str) else None
        if driver_type is None or not isinstance(driver, str) or not isinstance(raw, dict):
            return None
        self.types[name] = driver_type
        settings = self._settings(driver_type.Settings, raw.get("settings"), (*loc, "settings"))
        composite = hasattr(driver_type, "PARTS")
        if composite:
            self._check_parts(driver_type, raw, loc)
        elif raw.get("parts"):
            self.report.add((*loc, "parts"), f"{driver} has no parts", key=True)
        address = raw.get("address")
        remote = isinstance(address, str) and address.startswith(("twin://", _REPLAY))
        is_twin = not composite and not remote and (self.twin or address == "twin")
        replay = self._replay(address, name) if isinstance(address, str) else None
        if remote and replay is None and not _is_twin_url(str(address)):
            self.report.add((*loc, "address"), "write twin://host:port/name")
        if not (composite or is_twin or address):
            hint = "give one, or 'twin: true' for its twin"
            self.report.add(loc, f"key 'address' is missing; {hint}", key=True)
        twin_settings = None
        if not composite:
            twin_settings = self._twin(name, driver, raw.get("twin"), needed=is_twin)
        if entry is None or settings is None:
            return None
        return InstrumentConfig(
            name=name,
            driver=driver,
            address=replay or entry.address,
            settings=settings,
            on_exit=entry.on_exit,
            parts=entry.parts,
            is_twin=is_twin,
            element=str(entry.twin.get("element", name)),
            twin_settings=twin_settings,
        )

    def _replay(self, address: str, name: str) -> str | None:
        """Return a replay's address with its whole path, once its recording was checked."""
        if not address.startswith(_REPLAY):
            return None
        from .drivers.transports.recording import read_recording, split_replay_address

        file, instrument = split_replay_address(address, name)
        path = (self.document.path.parent / file).absolute()
        try:
            if path not in self.recordings:
                self.recordings[path] = read_recording(path)
        except ConfigError as error:
            self.report.add(("instruments", name, "address"), str(error))
        else:
            held = self.recordings[path].addresses
            if instrument not in held:
                message = f"{path} holds no {instrument!r}{nearest(instrument, held)}"
                self.report.add(("instruments", name, "address"), message)
        return f"{_REPLAY}{path}#{instrument}"

    def _driver(self, key: str, loc: Loc) -> type[Any] | None:
        from .drivers import DRIVERS, driver_keys, load_driver

        # Looking for other packages' drivers reads the metadata of all that is installed.
        if key not in DRIVERS and key not in (keys := driver_keys()):
            self.report.add(loc, f"unknown driver {key!r}{nearest(key, keys)}")
            return None
        try:
            return load_driver(key)
        except ConfigError as error:
            self.report.add(loc, str(error))
            return None

    def _settings(self, model: type[BaseModel], raw: object, loc: Loc) -> BaseModel | None:
        if raw is not None and not isinstance(raw, dict):
            return None  # the entry's own error says so
        return self.report.validate(model, loc)

    def _check_parts(self, driver_type: type[Any], raw: dict[str, Any], loc: Loc) -> None:
        for key in ("address", "twin", "on_exit"):
            if key in raw:
                message = "belongs to its parts; a composite has none of its own"
                self.report.add((*loc, key), message, key=True)
        parts = raw.get("parts", {})
        if not isinstance(parts, dict):
            return
        for role in driver_type.PARTS:
            if role not in parts:
                self.report.add((*loc, "parts"), f"part {role!r} is missing", key=True)
        others = [n for n in self._all_names() if n != loc[-1]]
        for role, name in parts.items():
            if role not in driver_type.PARTS:
                where = (*loc, "parts", role)
                message = f"unknown part{nearest(str(role), driver_type.PARTS)}"
                self.report.add(where, message, key=True)
            elif isinstance(name, str) and name not in self._all_names():
                where = (*loc, "parts", role)
                self.report.add(where, f"no instrument {name!r}{nearest(name, others)}")

    def _twin(self, name: str, driver: str, raw: object, *, needed: bool) -> BaseModel | None:
        from .sims.devices import EMULATORS, load_emulator

        loc: Loc = ("instruments", name, "twin")
        if driver not in EMULATORS:
            if needed or raw:
                self.report.add(loc[:-1], f"there is no twin of {driver}", key=True)
            return None
        if needed and self.document.data.get("world") is None:
            place: Loc = ("twin",) if self.override is None and self.twin else ()
            self.report.add(place, "twins need a world: add 'world: metro' or a file of your own")
        if raw is not None and not isinstance(raw, dict):
            return None
        emulator = load_emulator(driver)
        return self.report.validate(emulator.Settings, loc, without=("element",))

    def _all_names(self) -> list[str]:
        entries = self.document.data.get("instruments")
        return [n for n in entries if isinstance(n, str)] if isinstance(entries, dict) else []

    # -- checks across the file

    def _in_order(self, configs: dict[str, InstrumentConfig]) -> list[InstrumentConfig]:
        """Return the instruments in the file's order, parts before what is made of them."""
        ordered: dict[str, InstrumentConfig] = {}

        def visit(name: str, above: tuple[str, ...]) -> None:
            if name in above:
                loop = " -> ".join((*above[above.index(name) :], name))
                self.report.add(("instruments", name, "parts"), f"parts form a loop: {loop}")
                return
            config = configs.get(name)
            if config is None or name in ordered:
                return
            for part in config.parts.values():
                visit(part, (*above, name))
            ordered[name] = config

        for name in configs:
            visit(name, ())
        return list(ordered.values())

    def _check_addresses(self, configs: dict[str, InstrumentConfig]) -> None:
        seen: dict[str, str] = {}
        for config in configs.values():
            address = (config.address or "twin").strip().casefold()
            if address == "twin":
                continue
            if address in seen:
                where = ("instruments", config.name, "address")
                self.report.add(where, f"is the address of {seen[address]!r} already")
            seen.setdefault(address, config.name)

    def _check_elements(self, configs: dict[str, InstrumentConfig]) -> None:
        if self.world is None:
            return
        from .sims.devices import load_emulator

        taken: dict[str, str] = {}
        for config in configs.values():
            if config.twin_settings is None:
                continue
            raw = self.document.data["instruments"][config.name].get("twin") or {}
            named = isinstance(raw, dict) and "element" in raw
            if not (named or config.is_twin):
                continue
            loc: Loc = ("instruments", config.name, *(("twin", "element") if named else ()))
            wanted = _model_of(load_emulator(config.driver).ELEMENT)
            fitting = [n for n, e in self.world.elements.items() if isinstance(e, wanted)]
            kind = typing.get_args(wanted.model_fields["kind"].annotation)[0]
            element = self.world.elements.get(config.element)
            if element is None:
                hint = "" if named else "; name one by 'twin: {element: ...}'"
                message = f"no element {config.element!r} in the world"
                message += nearest(config.element, fitting) + hint
                self.report.add(loc, message, key=not named)
            elif not isinstance(element, wanted):
                message = f"{config.element!r} is a {element.kind}; {config.driver} acts on: {kind}"
                self.report.add(loc, message + nearest(config.element, fitting), key=not named)
            elif config.element in taken:
                message = f"{config.element!r} has a twin already: {taken[config.element]!r}"
                self.report.add(loc, message, key=not named)
            taken.setdefault(config.element, config.name)

    def _try_build(self, ordered: list[InstrumentConfig]) -> dict[str, Any]:
        """Construct every instrument; that does no I/O but shows wrong addresses and parts."""
        clock = SystemClock()
        built: dict[str, Any] = {}
        for config in ordered:
            if not self._parts_fit(config, built):
                continue
            elsewhere = config.is_twin or config.is_remote_twin or config.is_replay
            address = "" if elsewhere else config.address or ""
            try:
                built |= _build([config], {config.name: address}, clock, built)
            except (BellbenchError, TypeError, ValueError) as error:
                if config.is_composite:
                    self.report.add(("instruments", config.name, "parts"), str(error))
                elif address:
                    self.report.add(("instruments", config.name, "address"), str(error))
        return built

    def _parts_fit(self, config: InstrumentConfig, built: dict[str, Any]) -> bool:
        roles = getattr(self.types[config.name], "PARTS", {})
        fit = set(config.parts) == set(roles)
        for role, name in config.parts.items():
            known = role in roles and name in built
            lacks = missing_members(built[name], roles[role]) if known else []
            if lacks:
                fitting = [n for n, i in built.items() if not missing_members(i, roles[role])]
                driver = self.document.data["instruments"][name]["driver"]
                message = f"{name} ({driver}) cannot be the {role}: it has no {', '.join(lacks)}"
                where = ("instruments", config.name, "parts", role)
                self.report.add(where, message + nearest(name, fitting))
            fit = fit and name in built and not lacks
        return fit

    # -- parties

    def _parties(
        self, configs: dict[str, InstrumentConfig], built: dict[str, Any]
    ) -> dict[str, PartyConfig]:
        parties: dict[str, PartyConfig] = {}
        users: dict[tuple[str, int], str] = {}
        for name in self._names("parties"):
            loc: Loc = ("parties", name)
            entry = self.report.validate(PartyEntry, loc)
            raw = self.document.data["parties"][name]
            for role in _ROLES if isinstance(raw, dict) else ():
                if isinstance(raw.get(role), str):
                    self._check_role(raw[role], role, (*loc, role), built)
            if entry is None:
                continue
            tagger = configs.get(entry.tagger)
            if tagger is not None and tagger.is_twin and self._in_no_path(tagger.element):
                message = f"{tagger.element!r} is in no path of the world: it would never click"
                self.report.add((*loc, "tagger"), message)
            labels: dict[str, int] = {}
            for channel, label in entry.channels.items():
                where = (*loc, "channels", channel)
                inputs = _inputs(built.get(entry.tagger))
                if inputs is not None and channel not in inputs:
                    has = ", ".join(str(i) for i in inputs)
                    self.report.add(where, f"{entry.tagger} has the inputs {has} only", key=True)
                if label in labels:
                    self.report.add(where, f"{label} is channel {labels[label]} already")
                labels.setdefault(label, channel)
                user = users.setdefault((entry.tagger, channel), name)
                if user != name:
                    message = f"input {channel} of {entry.tagger} is {user}'s already"
                    self.report.add(where, message, key=True)
            parties[name] = PartyConfig(name=name, **dict(entry))
        return parties

    def _in_no_path(self, element: str) -> bool:
        if self.world is None or element not in self.world.elements:
            return False  # has an error of its own
        steps = {step.partition(".")[0] for path in self.world.paths for step in path}
        return element not in steps

    def _check_role(self, name: str, role: str, loc: Loc, built: dict[str, Any]) -> None:
        fitting = [n for n, i in built.items() if not missing_members(i, _ROLES[role])]
        if name not in self._all_names():
            self.report.add(loc, f"no instrument {name!r}{nearest(name, fitting)}")
        elif name in built and name not in fitting:
            wanted = _ROLES[role].__name__
            driver = self.document.data["instruments"][name]["driver"]
            message = f"{name} ({driver}) is no {wanted}{nearest(name, fitting)}"
            self.report.add(loc, message)


def _validate_world(report: Report, base: Loc = ()) -> WorldModel | None:
    """Return the world at ``base``, or None and its mistakes in the report."""
    from .sims.world import WorldModel, check_layout

    before = len(report.errors)
    model = report.validate(WorldModel, base)
    for loc, message in [] if model is None else check_layout(model):
        report.add((*base, *loc), message)
    return model if len(report.errors) == before else None


def missing_members(instrument: object, role: type) -> list[str]:
    """Return what ``instrument`` lacks of a role, found without running any of its properties."""
    from typing_extensions import get_protocol_members, is_protocol

    if not is_protocol(role):
        return []  # whoever takes it must check
    nothing = object()
    return sorted(
        member
        for member in get_protocol_members(role)
        if inspect.getattr_static(instrument, member, nothing) is nothing
    )


def _build(
    configs: Iterable[InstrumentConfig],
    addresses: Mapping[str, str],
    clock: Clock,
    parts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Construct the drivers; ``parts`` are those that exist already."""
    from .drivers import load_driver

    instruments: dict[str, Any] = dict(parts or {})
    for config in configs:
        driver_type = load_driver(config.driver)
        if config.is_composite:
            own = {role: instruments[name] for role, name in config.parts.items()}
            made = driver_type(config.name, own, config.settings, clock)
        else:
            made = driver_type(config.name, addresses[config.name], config.settings, clock)
        instruments[config.name] = made
    return instruments


def _enter_world(
    config: BenchConfig, given: Mapping[str, str], seed: int | None, state: Path | None
) -> World | None:
    """Start, or join, the one world that the bench's twins live in."""
    import secrets

    from . import twins

    free = [c for c in config.instruments.values() if c.name not in given and not c.is_composite]
    local = [c.name for c in free if c.is_twin]
    hosts = {_host_and_port(str(c.address)) for c in free if c.is_remote_twin}
    hardware = [c.name for c in free if not (c.is_twin or c.is_remote_twin or c.is_replay)]
    hardware += given
    if len(hosts) + bool(local) > 1:
        raise ConfigError(
            "the twins of one bench live in one world; serve them all in the same"
            " 'bellbench twin serve'",
            place=str(config.path),
        )
    if local:
        # Beside a real instrument the world keeps wall time, else both would wait in vain.
        # The child gets what was resolved here: the bench may have been changed since its file.
        with tempfile.TemporaryDirectory(prefix="bellbench-") as folder:
            path = Path(folder) / config.path.name
            write(path, config.resolved())
            if seed is None and state is None:  # a state has a seed of its own
                seed = secrets.randbits(32)
            return twins.start_world(path, seed=seed, only=local, paced=bool(hardware), state=state)
    if hosts:
        return twins.join_world(*hosts.pop())
    return None


def _addresses(
    config: BenchConfig, given: Mapping[str, str], world: World | None
) -> dict[str, str]:
    """Return the address at which each driver opens its instrument."""
    found: dict[str, str] = {}
    for c in config.instruments.values():
        served = c.name if c.is_twin else (c.address or "").rpartition("/")[2]
        if c.name in given:
            found[c.name] = given[c.name]
        elif c.is_twin or c.is_remote_twin:
            assert world is not None
            if served not in world.addresses:
                message = f"the world serves no twin {served!r}{nearest(served, world.addresses)}"
                raise ConfigError(message, place=f"{config.path}: instruments.{c.name}")
            found[c.name] = world.addresses[served]
        else:
            found[c.name] = c.address or ""
    return found


def _recorder(
    path: Path, clock: Clock, configs: Iterable[InstrumentConfig], where: Mapping[str, str]
) -> Recorder:
    from .drivers.transports.recording import Recorder

    return Recorder(path, clock, {c.name: (c.driver, where[c.name]) for c in configs})


def _record(
    recorder: Recorder, configs: Iterable[InstrumentConfig], instruments: Mapping[str, Any]
) -> None:
    for config in configs:
        if not hasattr(instruments[config.name], "record"):
            raise ConfigError(
                f"the driver {config.driver} of {config.name!r} cannot be recorded: it is no"
                " bellbench.drivers.base.Driver"
            )
        instruments[config.name].record(recorder)


@dataclass(frozen=True)
class _Recorded:
    """A world, if there is one, and the recording that ends with it."""

    world: Joined | None
    recorder: Recorder

    @property
    def ended(self) -> str:
        return "" if self.world is None else self.world.ended

    def close(self) -> None:
        try:
            if self.world is not None:
                self.world.close()
        finally:
            self.recorder.close()


def _party(config: PartyConfig, instruments: Mapping[str, Any]) -> Party:
    owned = {role: instruments[name] for role, name in config.instruments.items()}
    return Party(name=config.name, channels=config.channels, **owned)


def _inputs(tagger: Any) -> tuple[int, ...] | None:
    """Return a tagger's inputs where it tells them before it is opened."""
    if tagger is None or missing_members(tagger, TimeTagger):
        return None
    try:
        return tuple(tagger.info.channels)
    except InstrumentError:
        return None


def _model_of(element: type) -> type[BaseModel]:
    """Return the world-file model that an element is made from."""
    found: type[BaseModel] = typing.get_type_hints(element.__init__)["model"]  # type: ignore[misc]
    return found


def _is_twin_url(address: str) -> bool:
    host, _, port = address.removeprefix("twin://").partition("/")[0].rpartition(":")
    name = address.removeprefix("twin://").partition("/")[2]
    return bool(host) and port.isdigit() and 0 < int(port) < 65536 and bool(name)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("twin://").partition("/")[0].rpartition(":")
    return host, int(port)


def _dump(model: BaseModel) -> dict[str, Any]:
    """Return a model as plain values with units; what is None is left to its default."""
    return model.model_dump(mode="json", exclude_none=True)


def _resolved(config: InstrumentConfig) -> dict[str, Any]:
    content: dict[str, Any] = {"driver": config.driver}
    if config.address is not None:
        content["address"] = config.address
    content["settings"] = _dump(config.settings)
    if config.is_composite:
        return content | {"parts": dict(config.parts)}
    content["on_exit"] = config.on_exit
    if config.twin_settings is not None:
        content["twin"] = _dump(config.twin_settings)
        # A real instrument's own name need not be an element of the world.
        if config.is_twin or config.element != config.name:
            content["twin"] = {"element": config.element, **content["twin"]}
    return content
