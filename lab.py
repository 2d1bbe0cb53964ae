"""An open bench: its instruments by name, its clock, and how it ends well."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from .instruments import (
    BellbenchError,
    Clock,
    Deadline,
    DelayGenerator,
    DetectorArray,
    Instrument,
    InstrumentError,
    InstrumentTimeout,
    PairSource,
    PolarizationController,
    QuantumMemory,
    TimeTagger,
    TwinError,
)

__all__ = ["Device", "Joined", "Lab", "Party"]

_POLL_S = 0.2


class Configurable(Instrument, Protocol):
    """An instrument that can write the settings it was made with."""

    def configure(self) -> None:
        """Write the settings of the bench file."""
        ...


class Joined(Protocol):
    """A world that is joined, for as long as the lab is open."""

    @property
    def ended(self) -> str:
        """How it ended, in words, where it is known to; no twin in it answers any more then."""
        ...

    def close(self) -> None:
        """Leave it, or end it where it was started for this lab."""
        ...


@dataclass(frozen=True)
class Device:
    """An instrument on the bench, with what the lab needs to know to end well.

    Attributes:
        name: Name on the bench.
        instrument: The driver.
        driver: Driver key.
        address: Address it is opened at; empty for a composite.
        on_exit: ``off``, ``leave`` or ``safe``; a composite's parts have their own.
        parts: Names of its parts by role; empty unless it is a composite.
        twin: Whether it lives in the lab's world, or is replayed: whether it is not real.
    """

    name: str
    instrument: Configurable
    driver: str
    address: str
    on_exit: str
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    twin: bool = False


@dataclass(frozen=True)
class Party:
    """What one party owns; None where it has none.

    Attributes:
        name: Name of the party.
        tagger: Its time tagger.
        channels: Label of each of its tagger's inputs, such as ``H`` or ``herald``.
        detectors: Electronics of its detectors.
        controller: Its polarization controller.
        source: Its pair source.
        memory: Its quantum memory.
        delay_generator: What times its pulses.
    """

    name: str
    tagger: TimeTagger
    channels: Mapping[int, str]
    detectors: DetectorArray | None = None
    controller: PolarizationController | None = None
    source: PairSource | None = None
    memory: QuantumMemory | None = None
    delay_generator: DelayGenerator | None = None

    def inputs(self, labels: Sequence[str]) -> dict[str, int]:
        """Return the tagger's input of each label, in the labels' order.

        Raises:
            KeyError: for a label that no input has.
        """
        by_label = {label: channel for channel, label in self.channels.items()}
        return {label: by_label[label] for label in labels}


class Lab:
    """The instruments of a bench, as attributes and in :attr:`instruments`.

    Made by :func:`bellbench.open_bench`. Leaving its ``with`` block normally does each
    instrument's ``on_exit`` in reverse order; leaving it by an error (Ctrl-C included) brings
    every instrument to its safe state, whatever fails on the way.

    Args:
        devices: The instruments, parts before what is made of them; closed in reverse.
        parties: The parties by name.
        clock: The bench's clock.
        world: What is left last.
        seed: Seed of the twins' world, None without one.
        seeded: Whether that seed was chosen by the caller.
        all_twins: Whether no instrument is real.
        settle_timeout: Longest wait for set points, s of bench time.
    """

    def __init__(
        self,
        devices: Iterable[Device],
        parties: Mapping[str, Party],
        clock: Clock,
        *,
        world: Joined | None = None,
        seed: int | None = None,
        seeded: bool = False,
        all_twins: bool = False,
        settle_timeout: float = 300.0,
    ) -> None:
        self._devices = {device.name: device for device in devices}
        self._parties = dict(parties)
        self._clock = clock
        self._world = world
        self._seed = seed
        self._seeded = seeded
        self._all_twins = all_twins
        self._settle_timeout = settle_timeout
        self._opened: list[Device] = []
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        devices = self.__dict__.get("_devices", {})
        if name in devices:
            return devices[name].instrument
        near = difflib.get_close_matches(name, devices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"no instrument {name!r} on this bench{hint}", name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._devices})

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._opened else "not open"
        return f"<Lab, {state}: {', '.join(self._devices)}>"

    @property
    def instruments(self) -> dict[str, Any]:
        """The instruments by name, in the order they were opened; each as its own driver class."""
        return {name: device.instrument for name, device in self._devices.items()}

    @property
    def parties(self) -> dict[str, Party]:
        """The parties by name."""
        return dict(self._parties)

    @property
    def clock(self) -> Clock:
        """The bench's clock: wall time, or the world's."""
        return self._clock

    @property
    def seed(self) -> int | None:
        """Seed of the twins' world; None without one."""
        return self._seed

    @property
    def seeded(self) -> bool:
        """Whether the seed was chosen by the caller, so that secrets must not be made here."""
        return self._seeded and self._world is not None

    @property
    def all_twins(self) -> bool:
        """Whether every instrument is a twin."""
        return self._all_twins

    def open(self) -> None:
        """Connect to every instrument; nothing is set.

        Raises:
            InstrumentError: naming every instrument that cannot be reached; those that could are
                closed again, as they were found.
        """
        failures: list[tuple[str, BaseException]] = []
        missed: set[str] = set()
        try:
            for device in self._devices.values():
                if missed.intersection(device.parts.values()):
                    missed.add(device.name)
                    continue
                try:
                    device.instrument.open()
                    self._opened.append(device)
                except Exception as error:  # noqa: BLE001 - all failures go into one error
                    failures.append((device.name, error))
                    missed.add(device.name)
        except BaseException as error:
            self._attach(error, self._disconnect())
            raise
        if failures:
            joined = _joined("cannot connect to", failures)
            self._attach(joined, self._disconnect())
            raise joined

    def bring_up(self) -> None:
        """Write every instrument's settings, then wait until all set points are reached.

        Raises:
            InstrumentTimeout: naming each that is not ready in time, with its readings.
        """
        for device in self._devices.values():
            device.instrument.configure()
        deadline = Deadline(self._clock, self._settle_timeout)
        waiting = list(self._devices.values())
        while True:
            waiting = [device for device in waiting if not device.instrument.ready()]
            if not waiting:
                # One that was ready first may have left its set point while others settled.
                waiting = [d for d in self._devices.values() if not d.instrument.ready()]
            if not waiting:
                return
            if deadline.passed:
                lines = [f"{d.name} ({d.driver}): {_readings(d.instrument)}" for d in waiting]
                raise InstrumentTimeout(
                    f"not ready after {self._settle_timeout:g} s:\n  " + "\n  ".join(lines),
                    hint="correct the settings, or raise settle_timeout in the bench file",
                )
            self._clock.sleep(_POLL_S)

    def snapshot(self) -> dict[str, Any]:
        """Read everything: each instrument's identity and the value and unit of each signal.

        What cannot be read stands there as the text of its error; after a timeout the rest of that
        instrument is not asked again. Signals whose reading takes bench time are skipped.
        """
        return {name: _snapshot(device) for name, device in self._devices.items()}

    def close(self, error: bool = False) -> None:
        """End the bench: each ``on_exit``, or the safe state after an error, then disconnect.

        Raises:
            BellbenchError: naming every step that failed, after all were tried.
        """
        failures = self._shut_down(error)
        for _, failure in failures:
            if not isinstance(failure, Exception):
                self._attach(failure, [f for f in failures if f[1] is not failure])
                raise failure
        if failures:
            raise _joined("the bench did not end cleanly:", failures)

    def abandon(self, error: BaseException) -> None:
        """Bring everything to its safe state because of ``error``; failures become its notes."""
        if self._world is not None and self._world.ended and self._world.ended not in str(error):
            error.add_note(self._world.ended)
        self._attach(error, self._shut_down(True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        ended = self._world.ended if self._world is not None else ""
        self.abandon(error)
        if ended and isinstance(error, BellbenchError) and ended not in str(error):
            # Whichever twin was asked next has only noticed first that its world is gone.
            told = TwinError(ended)
            for note in getattr(error, "__notes__", []):
                if note != ended:
                    told.add_note(note)
            raise told from error

    def _shut_down(self, error: bool) -> list[tuple[str, BaseException]]:
        if self._closed:
            return []
        failures: list[tuple[str, BaseException]] = []
        for device in reversed(self._opened):
            if error and device.name in self._gone():  # asked anew: a replay may end on the way
                continue
            if error:
                _attempt(failures, f"{device.name} safe", device.instrument.safe)
            elif device.parts or device.on_exit == "leave":
                continue  # a composite's parts have their own turn
            elif device.on_exit == "safe":
                _attempt(failures, f"{device.name} safe", device.instrument.safe)
            else:
                _attempt(failures, f"{device.name} off", device.instrument.off)
        return failures + self._disconnect()

    def _gone(self) -> set[str]:
        """Names of the twins that ended with their world; nobody is left to be made safe."""
        if self._world is None or not self._world.ended:
            return set()
        gone = {device.name for device in self._devices.values() if device.twin}
        for device in self._devices.values():  # parts come before what is made of them
            if device.parts and gone.issuperset(device.parts.values()):
                gone.add(device.name)
        return gone

    def _disconnect(self) -> list[tuple[str, BaseException]]:
        failures: list[tuple[str, BaseException]] = []
        gone = self._gone()
        for device in reversed(self._opened):
            # of a twin that is gone only our own end is left to close
            heard = [] if device.name in gone else failures
            _attempt(heard, f"{device.name} close", device.instrument.close)
        if self._world is not None:
            _attempt(failures, "world close", self._world.close)
        self._closed = True
        return failures

    def _attach(self, error: BaseException, failures: list[tuple[str, BaseException]]) -> None:
        for doing, failure in failures:
            error.add_note(f"and while ending the bench, {doing}: {_words(failure)}")


def _attempt(
    failures: list[tuple[str, BaseException]], doing: str, step: Callable[[], None]
) -> None:
    """Do a step of ending; nothing, not even a second Ctrl-C, may keep the others from theirs."""
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - collected here, raised when all had their turn
        failures.append((doing, error))


def _joined(doing: str, failures: list[tuple[str, BaseException]]) -> BellbenchError:
    """Return one error for all failures, each in a line of its own."""
    if len(failures) == 1 and isinstance(failures[0][1], BellbenchError):
        return failures[0][1]
    lines = [f"{name}: {_words(failure)}" for name, failure in failures]
    error = InstrumentError(f"{doing}\n  " + "\n  ".join(lines))
    error.__cause__ = failures[0][1]
    return error


def _words(error: BaseException) -> str:
    if isinstance(error, BellbenchError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _readings(instrument: Instrument) -> str:
    """Return the instrument's signals in one line, for an error."""
    content = _signals(instrument)
    shown = [
        f"{name}={entry['value']}{' ' if entry['unit'] else ''}{entry['unit']}"
        for name, entry in content.items()
        if "value" in entry
    ]
    return ", ".join(shown) or "nothing can be read"


def _snapshot(device: Device) -> dict[str, Any]:
    content: dict[str, Any] = {"driver": device.driver}
    if device.address:
        content["address"] = device.address
    if not device.parts:
        try:
            content["identity"] = dataclasses.asdict(device.instrument.identify())
        except Exception as error:  # noqa: BLE001 - recorded
            content["identity"] = {"error": _words(error)}
            if isinstance(error, InstrumentTimeout):
                return content | {"signals": {}}
    content["signals"] = _signals(device.instrument)
    return content


def _signals(instrument: Instrument) -> dict[str, Any]:
    content: dict[str, Any] = {}
    late = False
    for signal in instrument.signals:
        entry: dict[str, Any] = {"unit": signal.unit}
        content[signal.name] = entry
        if late:
            entry["error"] = "not read after a timeout"
            continue
        if getattr(signal, "slow", False):
            entry["skipped"] = "reading it takes bench time"
            continue
        try:
            entry["value"] = signal.get()
        except Exception as error:  # noqa: BLE001 - recorded
            entry["error"] = _words(error)
            late = isinstance(error, InstrumentTimeout)
    return content
