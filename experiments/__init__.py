"""Experiments: a YAML file that names a bench and a protocol, run into a run folder.

One module per protocol. It has a pydantic model of its experiment file and three functions, put
together as one :class:`~.contract.Experiment`, and stands in one line of ``_PROTOCOLS`` below:

- ``file``: subclass of :class:`~.contract.ExperimentFile` with ``protocol: Literal["name"]`` and
  its own keys. Quantities carry their unit (``Annotated[float, Unit("s")]``); a length of time
  that ``--duration`` may replace is ``duration: Duration``.
- ``check(file, bench)``: mistakes as ``(location in the file, message)``: what the keys say
  together, and what the bench must have (:func:`~.contract.lacks`).
- ``run(file, run)``: opens the bench (``lab = run.open()``; the run closes it), moves clicks and
  time, tells its progress (``run.show``), returns a :class:`~.contract.Result`: metrics, pictures,
  secrets. Several openings are possible, one after the other.
- ``rows(metrics)``: the figures for a person.

Around it :func:`run_experiment` makes one run folder per command, before the bench is opened, and
leaves in it: ``bench.yaml``, ``experiment.yaml``, ``versions.json``, a snapshot per opening,
``calibrations.json``, ``metrics.json``, the pictures and the secrets. What is written at the end is
written while the bench is still open, so that a bench that ends badly costs no result.

Modules load what is heavy (scipy, matplotlib, the protocol itself) in their functions: the table
imports them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import calibrations
from ..bench import BenchConfig, check_bench, check_world, load_bench
from ..configs import ConfigErrors, Report, find_config, nearest, read, read_config
from ..instruments import ConfigError
from ..live import Progress
from ..runs import RunFolder, versions
from . import (
    bb84,
    bbm92,
    bbm92_drift,
    e91,
    emitter_link,
    link_characterization,
    mdi,
    memory_link,
    memory_storage,
    swap_spdc,
)
from .contract import LONGEST_S, Experiment, ExperimentFile, Run

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "ExperimentConfig",
    "Outcome",
    "check_file",
    "load_experiment",
    "run_experiment",
    "summary",
]

#: By what ``protocol:`` says.
_PROTOCOLS: dict[str, Experiment[Any]] = {
    "bb84_decoy": bb84.EXPERIMENT,
    "bbm92": bbm92.EXPERIMENT,
    "bbm92_drift": bbm92_drift.EXPERIMENT,
    "e91": e91.EXPERIMENT,
    "six_state": e91.SIX_STATE,
    "emitter_link": emitter_link.EXPERIMENT,
    "link_characterization": link_characterization.EXPERIMENT,
    "mdi": mdi.EXPERIMENT,
    "swap_spdc": swap_spdc.EXPERIMENT,
    "memory_link": memory_link.EXPERIMENT,
    "memory_storage": memory_storage.EXPERIMENT,
}


@dataclass(frozen=True)
class ExperimentConfig:
    """An experiment, validated, with its bench."""

    name: str
    path: Path
    file: ExperimentFile
    bench: BenchConfig


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
    report = Report(read_config(path, "experiment"))
    file = _validate(report)
    report.check()
    assert file is not None
    if duration is not None:
        file = _lasting(file, duration)
    try:
        bench = load_bench(find_config(file.bench, "benches", beside=path), twin=twin)
    except ConfigErrors:
        raise
    except ConfigError as error:
        report.add(("bench",), str(error))
        report.check()
        raise
    for loc, message in _PROTOCOLS[file.protocol].check(file, bench):
        report.add(loc, message)
    report.check()
    return ExperimentConfig(path.stem, path, file, bench)


def _validate(report: Report) -> ExperimentFile | None:
    protocol = report.document.data.get("protocol")
    if protocol is None:
        report.add((), "key 'protocol' is missing", key=True)
        return None
    if not isinstance(protocol, str) or protocol not in _PROTOCOLS:
        near = nearest(str(protocol), _PROTOCOLS)
        report.add(("protocol",), f"unknown protocol {protocol!r}{near}")
        return None
    return report.validate(_PROTOCOLS[protocol].file)


def _lasting(file: ExperimentFile, duration: float) -> ExperimentFile:
    place = "--duration"
    if "duration" not in type(file).model_fields:
        raise ConfigError(f"{file.protocol} has no duration to replace", place=place)
    if not 0 < duration <= LONGEST_S:
        message = f"{duration:g} s is out of range: above 0, at most {LONGEST_S:g} s"
        raise ConfigError(message, place=place)
    return file.model_copy(update={"duration": duration})


def check_file(name: str | Path) -> list[ConfigError]:
    """Return every mistake of any file of ours and of what it names."""
    try:
        path = find_config(name, "benches", "experiments", "worlds", "parties")
        kind = str(read(path).data.get("bellbench", "")).partition("/")[0]
        if kind == "experiment":
            load_experiment(path)
            return []
        if kind == "party":
            from ..party import check_party

            return check_party(path)
        if kind == "gallery":
            from ..gallery import load_entry

            load_entry(path.parent)
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
        seed: Seed of the twins' world; a seed given makes a key reproducible, hence no secret.
        out: Where run folders are kept.
        registry: Folder of the calibrations that the experiment names.
        allow_expired: Whether expired ones may be used.
        show: Called with the progress.

    Raises:
        ConfigError: where a calibration is missing, expired, or of other instruments.
        BellbenchError: where the bench fails. An exchange that is aborted is no error.
    """
    began = time.monotonic()
    file = config.file
    stored = [
        one
        for kind in file.calibrations
        for one in calibrations.load(registry, kind, config.bench, allow_expired=allow_expired)
    ]
    # The folder before the bench: no laser is switched on for a run that cannot be kept, and what
    # fails while the bench opens and ends stands in the folder, too.
    with RunFolder(out, config.name) as folder, ExitStack() as benches:
        folder.write_yaml("bench.yaml", config.bench.resolved())
        resolved = file.model_dump(mode="json", exclude_none=True)
        folder.write_yaml("experiment.yaml", resolved | {"bench": "bench.yaml"})
        folder.write_json("versions.json", versions())
        run = Run(
            config.name,
            config.bench,
            folder=folder,
            benches=benches,
            stored=stored,
            seed=seed,
            show=show,
        )
        result = _PROTOCOLS[file.protocol].run(file, run)
        metrics = {
            "experiment": config.name,
            "protocol": file.protocol,
            "seed": None if run.lab is None else run.lab.seed,
            "all_twins": run.lab is not None and run.lab.all_twins,
            "wall_s": round(time.monotonic() - began, 3),
        } | result.metrics
        for name, content in result.secrets.items():
            folder.write_secret(name, content)
        folder.write_json("metrics.json", metrics)
        with folder.writing():
            result.draw(folder.path)
    return Outcome(metrics, folder.path)


def summary(outcome: Outcome) -> RenderableType:
    """Return the figures of a run as a table for a person."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in _PROTOCOLS[outcome.metrics["protocol"]].rows(outcome.metrics):
        table.add_row(name, value)
    return table
