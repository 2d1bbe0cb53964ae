"""Dated calibrations: make them on an open bench, keep them in a folder, load and apply them.

The registry is a folder with one YAML file per calibration, next to the picture it was read from.
Nothing in it is ever changed; the newest of a bench, kind and party counts (decision 5).
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import math
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from .bench import BenchConfig, missing_members, open_bench
from .configs import Report, nearest, read_config, write
from .instruments import (
    BellbenchError,
    ConfigError,
    Deadline,
    InstrumentTimeout,
    PairSource,
    Unit,
)

if TYPE_CHECKING:
    from .lab import Lab, Party

__all__ = [
    "REGISTRY",
    "Calibration",
    "Kind",
    "Outcome",
    "Value",
    "apply",
    "calibrate",
    "load",
    "made_on",
    "record",
    "store",
]

Kind = Literal["delays", "bias", "phase_matching", "polarization"]

#: Where calibrations are kept unless told otherwise: beside ``runs``.
REGISTRY = Path("calibrations")
_VALID_S: dict[Kind, float] = {
    "delays": 12 * 3600.0,
    "bias": 7 * 24 * 3600.0,
    "phase_matching": 24 * 3600.0,
    "polarization": 3600.0,
}
_POLL_S = 0.2
#: Labels of the inputs behind an analyzer.
_ANALYZER = ("H", "V", "D", "A")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Model):
    """A number with its standard error."""

    value: Annotated[float, Field(allow_inf_nan=False)]
    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    unit: str


class Calibration(_Model):
    """What a calibration file says."""

    bellbench: Literal["calibration/1"] = "calibration/1"
    kind: Kind
    bench: str
    """Name of the bench file, without its ending."""
    party: str | None = None
    """Whose it is, where it concerns one party alone."""
    made_on: Literal["twins", "hardware", "mixed"]
    seed: int | None = None
    """Seed of the twins' world."""
    who: str
    when: AwareDatetime
    valid_for: Annotated[float, Unit("s"), Field(gt=0)]
    values: dict[str, dict[str, Value]]
    """By instrument and signal: the set points found."""
    figures: dict[str, Value] = {}
    """What else was found, such as the residual QBER."""

    @property
    def expires(self) -> datetime.datetime:
        """Until when it may be used."""
        return self.when + datetime.timedelta(seconds=self.valid_for)


@dataclass(frozen=True)
class Outcome:
    """How a calibration ended.

    Attributes:
        ok: Whether there is one; else nothing was written.
        reason: Why not, in words.
        calibration: What was written; None where not ok.
        path: Its file; the picture is beside it, with the ending ``.png``.
    """

    ok: bool
    reason: str
    calibration: Calibration | None
    path: Path | None


def load(
    registry: Path,
    kind: str,
    config: BenchConfig,
    *,
    allow_expired: bool = False,
    now: datetime.datetime | None = None,
) -> list[Calibration]:
    """Return the newest calibration of a kind for a bench; one per party where it is a party's own.

    Raises:
        ConfigError: where there is none, one is damaged, has expired, or was made on twins for a
            bench of instruments or the other way round.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"no calibration {kind!r}; there are {', '.join(get_args(Kind))}")
    name, place = config.path.stem, made_on(config)
    renew = f"renew it: bellbench calibrate {kind} {config.path}"
    newest: dict[str | None, tuple[Calibration, Path]] = {}
    for path in sorted(registry.glob(f"{name}-{kind}*.yaml")):
        found = _read(path)
        if (found.bench, found.kind) != (name, kind):
            continue
        if found.party not in newest or found.when >= newest[found.party][0].when:
            newest[found.party] = (found, path)
    if not newest:
        raise ConfigError(f"no calibration {kind!r} of bench {name!r} in {registry}; {renew}")
    moment = now or datetime.datetime.now(datetime.UTC)
    for found, path in newest.values():
        if found.made_on != place:
            raise ConfigError(
                f"was made on {found.made_on} and this bench is of {place}; {renew}",
                place=str(path),
            )
        if moment > found.expires and not allow_expired:
            raise ConfigError(
                f"made {_shown(found.when)}, expired {_shown(found.expires)}; {renew},"
                " or allow it by --allow-expired",
                place=str(path),
            )
    return [found for found, _ in newest.values()]


def apply(lab: Lab, found: Sequence[Calibration], *, timeout_s: float = 300.0) -> None:
    """Set every set point of the calibrations and wait until all are reached.

    Delays set nothing: they are what clicks are corrected by, not an instrument's setting.

    Raises:
        ConfigError: where the bench has no such signal, before anything is set.
        InstrumentTimeout: naming what is not ready in time.
    """
    steps: list[tuple[Any, float]] = []
    touched: dict[str, Any] = {}
    for one in found:
        if one.kind == "delays":
            continue
        for name, signals in one.values.items():
            instrument = lab.instruments.get(name)
            known = {s.name: s for s in (() if instrument is None else instrument.signals)}
            for key, wanted in signals.items():
                signal = known.get(key)
                if signal is None or not hasattr(signal, "set") or signal.unit != wanted.unit:
                    raise ConfigError(
                        f"the {one.kind} calibration sets {name}.{key} in {wanted.unit or '1'},"
                        " which this bench does not have; calibrate again"
                    )
                steps.append((signal, wanted.value))
                touched[name] = instrument
    for signal, value in steps:
        signal.set(value)
    deadline = Deadline(lab.clock, timeout_s)
    while waiting := [name for name, instrument in touched.items() if not instrument.ready()]:
        if deadline.passed:
            raise InstrumentTimeout(
                f"{', '.join(waiting)} did not reach the calibration in {timeout_s:g} s",
                hint="renew the calibration, or raise settle_timeout in the bench file",
            )
        lab.clock.sleep(_POLL_S)


def made_on(config: BenchConfig) -> Literal["twins", "hardware", "mixed"]:
    """Return what the bench is made of; calibrations of one do not fit another."""
    single = [c for c in config.instruments.values() if not c.is_composite]
    if any(c.is_replay for c in single):
        return "mixed"  # a recording has no settings to find
    twins = [c.is_twin or c.is_remote_twin for c in single]
    if all(twins):
        return "twins"
    return "mixed" if any(twins) else "hardware"


def calibrate(
    kind: Kind,
    config: BenchConfig,
    *,
    party: str | None = None,
    use: Sequence[str] = (),
    seed: int | None = None,
    registry: Path = REGISTRY,
    show: Callable[[str], None] = lambda stage: None,
) -> list[Outcome]:
    """Open the bench, calibrate, and enter what was found into the registry.

    Args:
        kind: What to calibrate.
        config: The bench.
        party: Bias: whose detectors; polarization: whose paddles turn. All by default.
        use: Kinds of stored calibrations to apply first.
        seed: Seed of the twins' world.
        registry: Folder of the registry; made if it is not there.
        show: Called with what is going on.

    Returns:
        One outcome, or one per party for bias. A bench that shows nothing (no light) is an outcome
        that is not ok, and writes nothing.

    Raises:
        ConfigError: where the bench lacks what is needed.
        BellbenchError: where the bench fails, or the registry cannot be written.
    """
    _check(kind, config, party)
    stored = [one for name in use for one in load(registry, name, config)]
    # The folder before the bench: no laser is switched on for what cannot be kept.
    with _writing(registry):
        registry.mkdir(parents=True, exist_ok=True)
    show("opening the bench, waiting for its set points")
    with open_bench(config, seed=seed) as lab:
        if stored:
            show("applying " + ", ".join(use))
            apply(lab, stored, timeout_s=config.settle_timeout)
        making = _Making(kind, config, lab, registry, show)
        if kind == "bias":
            parties = [party] if party else [n for n, p in lab.parties.items() if p.detectors]
            return [making.bias(lab.parties[name]) for name in parties]
        if kind == "phase_matching":
            return [making.phase_matching()]
        if kind == "delays":
            return [making.delays()]
        return [making.polarization(party)]


def _check(kind: Kind, config: BenchConfig, party: str | None) -> None:
    """Say what the bench lacks before anything is opened."""
    place = str(config.path)
    if party is not None and kind not in ("bias", "polarization"):
        raise ConfigError(f"{kind} concerns the whole bench, not one party", place=place)
    if party is not None and party not in config.parties:
        raise ConfigError(f"no party {party!r}; there are {', '.join(config.parties)}", place=place)
    chosen = [p for p in config.parties.values() if party in (None, p.name)]
    if kind in ("delays", "polarization") and len(config.parties) != 2:
        raise ConfigError(f"{kind} needs two parties with taggers", place=place)
    if kind == "bias" and not any(p.detectors for p in chosen):
        raise ConfigError("no party has detectors of its own to bias", place=place)
    if kind == "polarization" and not any(p.controller for p in chosen):
        raise ConfigError("no polarization controller to turn", place=place)
    if kind in ("delays", "polarization"):
        for p in config.parties.values():
            there = list(p.channels.values())
            if missing := [label for label in _ANALYZER if label not in there]:
                near = nearest(missing[0], [label for label in there if label not in _ANALYZER])
                raise ConfigError(
                    f"{kind} needs channels H, V, D, A; {p.name} lacks {', '.join(missing)}{near}",
                    place=place,
                )


class _Making:
    """One calibration on an open bench, from the clicks to the registry."""

    def __init__(
        self,
        kind: Kind,
        config: BenchConfig,
        lab: Lab,
        registry: Path,
        show: Callable[[str], None],
    ) -> None:
        self._kind, self._config, self._lab = kind, config, lab
        self._registry, self._show = registry, show

    def phase_matching(self) -> Outcome:
        from . import plots
        from .protocols import calibration

        name, source = self._source()
        self._show("scanning the crystal's temperature")
        taggers = [p.tagger for p in self._lab.parties.values()]
        found = calibration.find_phase_matching(source, taggers, self._lab.clock)
        if not found.ok:
            return _failed(found.reason)
        values = {name: {"crystal_temperature": _value(found.optimum_c, found.sigma_c, "degC")}}
        return self._enter(values, {}, lambda path: plots.plot_phase_matching(path, found))

    def delays(self) -> Outcome:
        from . import plots
        from .protocols import calibration

        self._show("recording clicks to find the delays")
        a, b = self._lab.parties.values()
        inputs = (sorted(a.inputs(_ANALYZER).values()), sorted(b.inputs(_ANALYZER).values()))
        found = calibration.find_delays((a.tagger, b.tagger), inputs, self._lab.clock)
        if found.delays is None:
            return _failed(found.reason)
        delays = found.delays
        values = {
            self._config.parties[party.name].tagger: {
                f"delay_{c}": _value(float(ps[c]), sigma[c], "ps") for c in ps
            }
            for party, ps, sigma in (
                (a, delays.delays_a, delays.sigma_a),
                (b, delays.delays_b, delays.sigma_b),
            )
        }

        def draw(path: Path) -> None:
            plots.plot_delay_histogram(
                path,
                found.histogram_ps,
                found.counts,
                window_ps=found.window_ps,
                seconds=found.seconds,
                title=f"{self._config.path.stem}: coincidences, delays corrected",
            )

        return self._enter(values, {"fwhm": _value(delays.fwhm_ps, 0.0, "ps")}, draw)

    def bias(self, party: Party) -> Outcome:
        from . import plots
        from .protocols import calibration

        assert party.detectors is not None
        self._show(f"scanning the bias currents of {party.name}")
        period = getattr(party.detectors, "measurement_period", None)
        if period is None:
            raise ConfigError(
                f"{party.name}'s detectors do not tell over what time they count, so their counting"
                " errors are unknown"
            )
        found = calibration.find_bias(
            party.detectors, self._source()[1], self._lab.clock, integration_s=float(period.get())
        )
        if not found.ok:
            return _failed(f"{party.name}: {found.reason}")
        name = str(self._config.parties[party.name].detectors)
        values = {
            name: {
                f"bias_current_{i}": _value(scan.bias_a, scan.sigma_a, "A")
                for i, scan in enumerate(found.scans, 1)
            }
        }
        figures = {
            f"dark_counts_{i}": _value(scan.dark_hz, math.sqrt(max(scan.dark_hz, 1.0)), "Hz")
            for i, scan in enumerate(found.scans, 1)
        }
        title = f"{self._config.path.stem}: bias of {party.name}'s detectors"
        return self._enter(
            values, figures, lambda path: plots.plot_bias(path, found, title=title), party.name
        )

    def polarization(self, only: str | None) -> Outcome:
        from . import plots
        from .protocols import calibration

        self._show("turning the paddles")
        parties = list(self._lab.parties.values())
        stations = [
            calibration.Station(
                p.tagger,
                {channel: label for label, channel in p.inputs(_ANALYZER).items()},
                p.controller if only in (None, p.name) else None,
            )
            for p in parties
        ]
        found = calibration.find_polarization(stations[0], stations[1], self._lab.clock)
        if not found.ok:
            return _failed(found.reason)
        values: dict[str, dict[str, Value]] = {}
        for party, angles, sigmas in zip(parties, found.angles, found.sigmas, strict=True):
            if party.controller is None:
                continue
            # what was not turned belongs to the alignment all the same
            held = tuple(a.get() for a in party.controller.actuators)
            errors = sigmas or (0.0,) * len(held)
            values[str(self._config.parties[party.name].controller)] = {
                actuator.name: _value(angle, sigma, actuator.unit)
                for actuator, angle, sigma in zip(
                    party.controller.actuators, angles or held, errors, strict=True
                )
            }
        figures = {"qber": _value(found.qber, found.qber_sigma, "")}
        title = f"{self._config.path.stem}: QBER while the paddles turn"
        return self._enter(
            values, figures, lambda path: plots.plot_polarization(path, found, title=title)
        )

    def _source(self) -> tuple[str, Any]:
        sources = {
            name: instrument
            for name, instrument in self._lab.instruments.items()
            if not missing_members(instrument, PairSource)
        }
        if len(sources) != 1:
            raise ConfigError(
                f"needs one pair source on the bench, found {', '.join(sources) or 'none'}",
                place=str(self._config.path),
            )
        return next(iter(sources.items()))

    def _enter(
        self,
        values: dict[str, dict[str, Value]],
        figures: dict[str, Value],
        draw: Callable[[Path], None],
        party: str | None = None,
    ) -> Outcome:
        made = Calibration(
            kind=self._kind,
            bench=self._config.path.stem,
            party=party,
            made_on=made_on(self._config),
            seed=self._lab.seed,
            who=f"{_user()}@{platform.node()}",
            when=datetime.datetime.now(datetime.UTC),
            valid_for=_VALID_S[self._kind],
            values=values,
            figures=figures,
        )
        return Outcome(True, "", made, store(self._registry, made, draw))


def store(registry: Path, made: Calibration, draw: Callable[[Path], None]) -> Path:
    """Write a calibration and its picture; the file appears whole or not at all.

    Raises:
        BellbenchError: where the folder cannot be written.
    """
    stamp = made.when.strftime("%Y%m%dT%H%M%S%fZ")
    stem = "-".join(part for part in (made.bench, made.kind, made.party, stamp) if part)
    path = registry / f"{stem}.yaml"
    with _writing(registry):
        registry.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=registry) as folder:
            picture, text = Path(folder) / "plot.png", Path(folder) / "entry.yaml"
            draw(picture)
            write(text, made.model_dump(mode="json", exclude_none=True))
            os.replace(picture, path.with_suffix(".png"))
            os.replace(text, path)  # last: an entry has its picture
    return path


@contextlib.contextmanager
def _writing(registry: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BellbenchError(
            f"cannot write the calibrations in {registry}: {error.strerror or error}; choose"
            " another folder (--out)"
        ) from error


def _read(path: Path) -> Calibration:
    report = Report(read_config(path, "calibration"))
    found = report.validate(Calibration)
    report.check()
    assert found is not None
    return found


def _failed(reason: str) -> Outcome:
    return Outcome(False, reason, None, None)


def _value(value: float, sigma: float, unit: str) -> Value:
    return Value(value=float(value), sigma=float(sigma), unit=unit)


def _shown(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def record(found: Sequence[Calibration]) -> list[Mapping[str, Any]]:
    """Return calibrations as plain values, for a run folder."""
    return [one.model_dump(mode="json", exclude_none=True) for one in found]
