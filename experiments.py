"""Experiments: a YAML file that names a bench and a protocol, run into a run folder."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from . import calibrations
from .bench import BenchConfig, check_bench, check_world, load_bench, open_bench
from .calibrations import Kind
from .configs import ConfigErrors, Report, find_config, read, read_config
from .instruments import BellbenchError, ConfigError, TagBatch, Unit
from .live import Progress
from .runs import RunFolder, versions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .lab import Lab, Party
    from .protocols import qkd, timing
    from .protocols.qkd.estimation import Errors

__all__ = [
    "ExperimentConfig",
    "Outcome",
    "check_file",
    "load_experiment",
    "run_experiment",
    "summary",
]

_STEP_S = 0.1
_OUTCOME = {"H": ("Z", 0), "V": ("Z", 1), "D": ("X", 0), "A": ("X", 1)}
_LABELS = tuple(_OUTCOME)
#: Longest exchange, s: its times are int64 picoseconds, which end after 9e6 s.
_LONGEST_S = 1e6


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyTerms(_Model):
    """Terms of the key, fixed before the data; see :class:`bellbench.protocols.qkd.Parameters`."""

    qber_tolerance: Annotated[float, Unit("1"), Field(gt=0, lt=0.5)] = 0.03
    epsilon: Annotated[float, Unit("1"), Field(ge=1e-60, lt=1)] = 1e-10
    leak_efficiency: Annotated[float, Unit("1"), Field(gt=1)] = 1.1
    monitor_fraction: Annotated[float, Unit("1"), Field(ge=0, lt=1)] = 0.02
    expected_sifted_rate: Annotated[float, Unit("Hz"), Field(gt=0, le=1e9)]
    time_grid: Annotated[float, Unit("s"), Field(ge=1e-12)] = 10e-12
    dead_time: Annotated[float, Unit("s"), Field(ge=0, le=1e-3)] = 50e-9


class ExperimentFile(_Model):
    """What an experiment file says."""

    bellbench: Literal["experiment/1"]
    protocol: Literal["bbm92"]
    bench: str
    """Bundled name, or a path relative to this file."""
    duration: Annotated[float, Unit("s"), Field(gt=0, le=_LONGEST_S)]
    """Length of the key exchange, in bench time, after the calibration."""
    calibration: Annotated[float, Unit("s"), Field(ge=0.01, le=1000)] = 1.0
    """Clicks sacrificed to find the delays of the channels."""
    coincidence_window: Annotated[float, Unit("s"), Field(ge=1e-12, le=1e-6)] = 300e-12
    """Full width."""
    calibrations: tuple[Kind, ...] = ()
    """Stored calibrations whose set points are applied before the run."""
    key: KeyTerms


@dataclass(frozen=True)
class ExperimentConfig:
    """An experiment, validated, with its bench."""

    name: str
    path: Path
    file: ExperimentFile
    bench: BenchConfig

    @property
    def parameters(self) -> qkd.Parameters:
        """The terms of the exchange, in the protocol's own words."""
        from .protocols import qkd

        file, key = self.file, self.file.key
        return qkd.Parameters.plan(
            window_ps=round(file.coincidence_window * 1e12),
            calibration_ps=round(file.calibration * 1e12),
            tolerance=key.qber_tolerance,
            epsilon=key.epsilon,
            leak_efficiency=key.leak_efficiency,
            monitor_fraction=key.monitor_fraction,
            resolution_ps=round(key.time_grid * 1e12),
            dead_time_ps=round(key.dead_time * 1e12),
            expected_bits=max(1, round(key.expected_sifted_rate * file.duration)),
        )


@dataclass(frozen=True)
class Outcome:
    """What a run ended with: its public figures and its folder."""

    metrics: dict[str, Any]
    folder: Path


def load_experiment(
    experiment: str | Path, *, twin: bool | None = None, duration: float | None = None
) -> ExperimentConfig:
    """Read and check an experiment file and its bench.

    Args:
        experiment: Bundled name or path.
        twin: Overrides the bench file's own ``twin``.
        duration: Overrides the file's own, s.

    Raises:
        ConfigError: with every mistake of the file.
    """
    path = find_config(experiment, "experiments")
    document = read_config(path, "experiment")
    report = Report(document)
    file = report.validate(ExperimentFile)
    if file is not None and file.key.time_grid > file.coincidence_window:
        report.add(("key", "time_grid"), "is wider than the coincidence_window")
    report.check()
    assert file is not None
    if duration is not None:
        if not 0 < duration <= _LONGEST_S:
            raise ConfigError(
                f"{duration:g} s is out of range: above 0, at most {_LONGEST_S:g} s",
                place="--duration",
            )
        file = file.model_copy(update={"duration": duration})
    try:
        bench = load_bench(find_config(file.bench, "benches", beside=path), twin=twin)
    except ConfigErrors:
        raise
    except ConfigError as error:
        report.add(("bench",), str(error))
        report.check()
        raise
    config = ExperimentConfig(path.stem, path, file, bench)
    for party in ("alice", "bob"):
        missing = (
            set(_LABELS) - set(bench.parties[party].channels.values())
            if (party in bench.parties)
            else set(_LABELS)
        )
        if missing:
            report.add(
                ("bench",),
                f"bbm92 needs a party {party!r} with detectors H, V, D and A;"
                f" {bench.path} lacks {', '.join(sorted(missing))}",
            )
    try:
        config.parameters  # noqa: B018 - its own checks
    except ValueError as error:
        report.add(("key",), str(error))
    report.check()
    return config


def check_file(name: str | Path) -> list[ConfigError]:
    """Return every mistake of a bench, experiment or world file and the files it names."""
    try:
        path = find_config(name, "benches", "experiments", "worlds")
        kind = str(read(path).data.get("bellbench", "")).partition("/")[0]
        if kind == "experiment":
            load_experiment(path)
            return []
    except ConfigErrors as errors:
        return errors.errors
    except ConfigError as error:
        return [error]
    return check_world(path) if kind == "world" else check_bench(path)


def run_experiment(
    config: ExperimentConfig,
    *,
    seed: int | None = None,
    out: Path = Path("runs"),
    registry: Path = calibrations.REGISTRY,
    allow_expired: bool = False,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Open the bench, run the experiment, and leave a run folder.

    Args:
        config: What to run.
        seed: Seed of the twins' world; a seed given makes the key reproducible, hence no secret.
        out: Where run folders are kept.
        registry: Folder of the calibrations that the experiment names.
        allow_expired: Whether expired ones may be used.
        show: Called with the progress.

    Raises:
        ConfigError: where a calibration is missing, expired, or of other instruments.
        BellbenchError: where the bench fails. An exchange that is aborted is no error.
    """
    began = time.monotonic()
    stored = [
        one
        for kind in config.file.calibrations
        for one in calibrations.load(registry, kind, config.bench, allow_expired=allow_expired)
    ]
    # The folder before the bench: no laser is switched on for a run that cannot be kept, and what
    # fails while the bench opens and ends stands in the folder, too.
    with RunFolder(out, config.name) as folder:
        folder.write_yaml("bench.yaml", config.bench.resolved())
        folder.write_yaml(
            "experiment.yaml",
            config.file.model_dump(mode="json") | {"bench": "bench.yaml"},
        )
        folder.write_json("versions.json", versions())
        show(Progress("opening the bench, waiting for its set points"))
        with open_bench(config.bench, seed=seed) as lab:
            if stored:
                folder.write_json("calibrations.json", calibrations.record(stored))
                show(Progress("applying the calibrations"))
                calibrations.apply(lab, stored, timeout_s=config.bench.settle_timeout)
            folder.write_json("snapshot.json", lab.snapshot())
            exchange = _Exchange(config, lab, show)
            exchange.run()
            metrics = exchange.metrics(wall_s=time.monotonic() - began)
            for party in (exchange.alice, exchange.bob):
                assert party.result is not None
                if not metrics["aborted"]:  # one party may hold a key that the other gave up
                    folder.write_secret(
                        f"{party.name}.key", np.packbits(party.result.key).tobytes()
                    )
            folder.write_json("metrics.json", metrics)
            with folder.writing():
                exchange.draw(folder.path)
    return Outcome(metrics, folder.path)


@dataclass(frozen=True)
class _Calibration:
    """The sacrificed segment of both parties, public, with the delays found in it."""

    segments: tuple[TagBatch, TagBatch]
    delays: tuple[Mapping[int, int], Mapping[int, int]]

    def car(self, window_ps: int) -> float | None:
        """Coincidence-to-accidental ratio; None where there are no accidentals."""
        from .protocols import timing

        counter = timing.CoincidenceCounter(
            tuple(self.delays[0]),
            tuple(self.delays[1]),
            window_ps,
            delays_a=self.delays[0],
            delays_b=self.delays[1],
            shifts_ps=[k * 20 * window_ps for k in range(-10, 11) if k],
        )
        counter.add(*self.segments)
        car = counter.finish().car
        return car if math.isfinite(car) else None

    def correlation(self, window_ps: int, bin_ps: int) -> timing.Correlation:
        """Histogram of the delays left between any detector of Alice and any of Bob."""
        from .protocols import timing

        histogram = timing.CorrelationHistogram(0, 0, window_ps, bin_ps)
        histogram.add(*map(_aligned, self.segments, self.delays))
        return histogram.finish()


def _aligned(batch: TagBatch, delays: Mapping[int, int]) -> TagBatch:
    """All clicks on channel 0, less their channel's delay."""
    shift = np.zeros(max(delays) + 1, np.int64)
    shift[list(delays)] = list(delays.values())
    known = batch.select(list(delays))
    times = np.sort(known.times_ps - shift[known.channels])
    earliest, latest = min(delays.values()), max(delays.values())
    return TagBatch(
        times,
        np.zeros(times.size, np.int16),
        batch.begin_ps - latest,
        batch.end_ps - earliest,
    )


class _Exchange:
    """One BBM92 exchange on an open bench: moves clicks, messages and time."""

    def __init__(
        self, config: ExperimentConfig, lab: Lab, show: Callable[[Progress], None]
    ) -> None:
        from .protocols import qkd

        self._config = config
        self._lab = lab
        self._show = show
        self._parties: tuple[Party, Party] = (lab.parties["alice"], lab.parties["bob"])
        self._calibration: _Calibration | None = None
        self._tags = 0
        self._singles = [dict.fromkeys(_LABELS, 0) for _ in self._parties]
        self._live_s = [0.0, 0.0]
        self._seeded = lab.seeded and lab.all_twins
        parameters = config.parameters
        detectors = [
            qkd.Detectors.of({c: _OUTCOME[label] for c, label in party.channels.items()})
            for party in self._parties
        ]
        self.alice = qkd.Alice(
            detectors[0],
            parameters,
            find_delays=self._find_delays,
            randomness=self._randomness("alice"),
        )
        self.bob = qkd.Bob(detectors[1], parameters, randomness=self._randomness("bob"))
        self._channel = qkd.Channel(self.alice, self.bob)

    def _randomness(self, party: str) -> qkd.Randomness:
        from .protocols import qkd

        if self._seeded:
            assert self._lab.seed is not None
            return qkd.SeededRandomness(self._lab.seed, party)
        return qkd.SystemRandomness()

    def run(self) -> None:
        """Record, exchange and distil; ends early where a party gives up."""
        file = self._config.file
        end_ps = round((file.calibration + file.duration) * 1e12)
        taggers = [party.tagger for party in self._parties]
        for tagger in taggers:
            tagger.start()
        reached = [0, 0]
        while min(reached) < end_ps and self.alice.result is None:
            self._lab.clock.sleep(_STEP_S)
            for i, (tagger, protocol) in enumerate(
                zip(taggers, (self.alice, self.bob), strict=True)
            ):
                batch = tagger.read().split(end_ps)[0]
                if reached[i] < end_ps:
                    self._count(i, batch)
                    protocol.feed(batch)
                reached[i] = max(reached[i], batch.end_ps)
            self._channel.run()
            self._report(min(reached) * 1e-12)
        for tagger in taggers:
            tagger.stop()  # after an error the bench does, by their safe state
        self._show(dataclasses.replace(self._progress(file.duration), stage="distilling the key"))
        self.alice.finish()
        self.bob.finish()
        self._channel.run()
        if self.alice.result is None or self.bob.result is None:
            raise BellbenchError("the parties stopped talking before the exchange was over")

    def _count(self, which: int, batch: TagBatch) -> None:
        self._tags += len(batch)
        self._live_s[which] += batch.live_s
        counts = np.bincount(np.maximum(batch.channels, 0), minlength=1)
        for channel, label in self._parties[which].channels.items():
            if channel < counts.size:
                self._singles[which][label] += int(counts[channel])

    def _singles_hz(self) -> dict[str, dict[str, float]]:
        return {
            party.name: {
                label: count / live if live else 0.0 for label, count in self._singles[i].items()
            }
            for i, (party, live) in enumerate(zip(self._parties, self._live_s, strict=True))
        }

    def _progress(self, elapsed_s: float) -> Progress:
        seen = self.alice.progress
        return Progress(
            stage="exchanging",
            elapsed_s=elapsed_s,
            duration_s=self._config.file.duration,
            singles_hz=self._singles_hz(),
            coincidences=seen.coincidences,
            sifted_bits=seen.sifted_bits,
            qber={"Z": seen.qber_z, "X": seen.qber_x},
            key_bits=seen.key_bits,
        )

    def _report(self, recorded_s: float) -> None:
        elapsed = recorded_s - self._config.file.calibration
        if elapsed <= 0:
            self._show(Progress("recording clicks to find the delays"))
        else:
            self._show(self._progress(elapsed))

    def _find_delays(
        self, alice: TagBatch, bob: TagBatch
    ) -> tuple[Mapping[int, int], Mapping[int, int]]:
        from .protocols import timing

        self._show(Progress("finding the delays"))
        first, second = (sorted(party.channels) for party in self._parties)
        found = timing.find_channel_delays(alice, bob, channels_a=first, channels_b=second)
        delays = (found.delays_a, found.delays_b)
        self._calibration = _Calibration((alice, bob), delays)
        return delays

    # -- what is left of it

    def metrics(self, *, wall_s: float) -> dict[str, Any]:
        """Return the figures of the run, fit for JSON."""
        from .protocols import qkd

        assert self.alice.result is not None
        assert self.bob.result is not None
        told = qkd.joint_result(self.alice.result, self.bob.result).metrics
        key_bits = told["secret_key_bits"]
        matrix = self.alice.calibration_matrix
        visibility = None if matrix is None else _visibility(matrix)
        duration = self._config.file.duration
        window = round(self._config.file.coincidence_window * 1e12)
        return {
            "experiment": self._config.name,
            "seed": self._lab.seed,
            "randomness": told["randomness"],
            "all_twins": self._lab.all_twins,
            "duration_s": duration,
            "wall_s": round(wall_s, 3),
            "tags": self._tags,
            "singles_hz": self._singles_hz(),
            "coincidences": told["coincidences"],
            "car": None if self._calibration is None else self._calibration.car(window),
            "visibility": None if visibility is None else visibility["mean"],
            "visibility_z": None if visibility is None else visibility["Z"],
            "visibility_x": None if visibility is None else visibility["X"],
            **{
                name: told[name]
                for name in (
                    "sifted_bits",
                    "monitor_bits",
                    "block_bits",
                    "sample_bits",
                    "qber",
                    "qber_z",
                    "qber_x",
                    "qber_sample",
                    "qber_reconciled",
                    "tolerance",
                    "leak_bits",
                    "leak_budget_bits",
                    "f_ec",
                    "verify_bits",
                    "disclosed_bits",
                )
            },
            "secret_key_bits": key_bits,
            "secret_key_rate_bps": key_bits / duration,
            "epsilon": told["epsilon"],
            "epsilons": told["epsilons"],
            "authentication": told["authentication"],
            "double_clicks": {
                party.name: party.result.metrics["double_clicks"]
                for party in (self.alice, self.bob)
                if party.result is not None
            },
            "blind_events": {
                party.name: party.result.metrics["blind_events"]
                for party in (self.alice, self.bob)
                if party.result is not None
            },
            "losses": {
                party.name: party.result.metrics["losses"]
                for party in (self.alice, self.bob)
                if party.result is not None
            },
            "delays_ps": None
            if self._calibration is None
            else {
                party.name: {label: delays[channel] for channel, label in party.channels.items()}
                for party, delays in zip(self._parties, self._calibration.delays, strict=True)
            },
            "aborted": told["aborted"],
            "reason": told["reason"],
        }

    def draw(self, folder: Path) -> None:
        """Draw what there is to draw into the run folder."""
        from . import plots

        name, file = self._config.name, self._config.file
        if self._calibration is not None:
            window = round(file.coincidence_window * 1e12)
            found = self._calibration.correlation(8 * window, max(1, window // 15))
            plots.plot_delay_histogram(
                folder / "delays.png",
                found.delays_ps,
                found.counts,
                window_ps=window,
                seconds=file.calibration,
                title=f"{name}: coincidences of the calibration, delays corrected",
            )
        if self.alice.calibration_matrix is not None:
            plots.plot_coincidence_matrix(
                folder / "coincidences.png",
                self.alice.calibration_matrix,
                labels=_LABELS,
                names=("Alice", "Bob"),
                title=f"{name}: calibration, {file.calibration:g} s",
            )
        history = self.alice.error_history
        if history:
            times, errors, bits = _binned(history, file.calibration, file.duration)
            plots.plot_qber(
                folder / "qber.png",
                times,
                errors,
                bits,
                tolerance=file.key.qber_tolerance,
                title=f"{name}: bits revealed to watch and to estimate the error rate",
            )


def _visibility(matrix: npt.NDArray[Any]) -> dict[str, float | None]:
    """Visibility per basis, (same - different)/(same + different), and their mean."""
    found: dict[str, float | None] = {}
    for i, basis in ((0, "Z"), (2, "X")):
        block = matrix[i : i + 2, i : i + 2]
        total = int(block.sum())
        same = int(np.trace(block))
        found[basis] = (2 * same - total) / total if total else None
    known = [v for v in found.values() if v is not None]
    found["mean"] = sum(known) / len(known) if known else None
    return found


def _binned(
    history: list[tuple[float, Errors]], start_s: float, duration_s: float
) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Sum the revealed bits into some ten intervals of the exchange."""
    bins = 10
    errors = {basis: np.zeros(bins, np.int64) for basis in ("Z", "X")}
    bits = {basis: np.zeros(bins, np.int64) for basis in ("Z", "X")}
    for middle_s, counted in history:
        k = min(max(int((middle_s - start_s) / duration_s * bins), 0), bins - 1)
        for i, basis in enumerate(("Z", "X")):
            errors[basis][k] += counted.wrong[i]
            bits[basis][k] += counted.compared[i]
    times = (np.arange(bins) + 0.5) * duration_s / bins
    return times, errors, bits


def summary(outcome: Outcome) -> RenderableType:
    """Return the figures of a run as a table for a person."""
    from rich.markup import escape
    from rich.table import Table

    m = outcome.metrics
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    for party, rates in m["singles_hz"].items():
        shown = "  ".join(f"{label} {rate * 1e-3:.1f}" for label, rate in rates.items())
        table.add_row(f"singles {party}, kcps", shown)
    car = "-" if m["car"] is None else f"{m['car']:.0f}"
    table.add_row("coincidences, CAR", f"{m['coincidences']:,}, {car}")
    table.add_row("visibility Z, X", f"{percent(m['visibility_z'])}, {percent(m['visibility_x'])}")
    table.add_row("sifted bits", f"{m['sifted_bits']:,}")
    table.add_row("QBER Z, X", f"{percent(m['qber_z'])}, {percent(m['qber_x'])}")
    f_ec = "-" if m["f_ec"] is None else f"{m['f_ec']:.3f}"
    table.add_row("leak, f", f"{m['leak_bits']:,} of {m['leak_budget_bits']:,} bits, {f_ec}")
    if m["aborted"]:
        table.add_row("[bold red]aborted[/]", f"[bold]{escape(m['reason'])}[/]")
    else:
        table.add_row(
            "[bold green]secret key[/]",
            f"[bold]{m['secret_key_bits']:,} bits[/]"
            f" ({m['secret_key_rate_bps']:,.0f} bit/s), epsilon {m['epsilon']:.1e}",
        )
    if m["randomness"] == "seeded":
        table.add_row("note", "seeded run on twins: the key is reproducible, hence no secret")
    elif m["all_twins"]:
        table.add_row("note", "clicks of twins follow from the world's seed: the key is no secret")
    return table
