"""The gallery: published experiments, run on their twins, beside what was published.

An entry is a folder below ``configs/gallery`` with ordinary bench, world and experiment files and
a ``published.yaml``, which says where the numbers come from, which of them went in and how, and
what is compared. Nothing here tunes: what misses is shown as a miss.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .configs import Report, gallery_entries, nearest, read_config
from .instruments import SPELLINGS, ConfigError, Unit, parse_quantity
from .live import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .protocols.qkd.link_model import CwLink

__all__ = [
    "Comparison",
    "Entry",
    "compare",
    "load_entry",
    "load_gallery",
    "run_entry",
    "tables",
    "told",
    "write_page",
]

#: Seed of the twins' worlds unless another is given: the table is the same for everyone.
SEED = 1

_CLOSED_FORM = "closed form"
_SIGMAS = 3.0
_COLORS = {"agrees": "green", "within errors": "yellow", "misses": "bold red"}
_UNITS = {s: f for table in SPELLINGS.values() for s, f in table.items()} | {"bit/s": 1.0}

Fraction = Annotated[float, Unit("1"), Field(ge=0, le=1)]
Decibel = Annotated[float, Unit("dB"), Field(ge=0)]
Rate = Annotated[float, Unit("Hz"), Field(ge=0)]
Seconds = Annotated[float, Unit("s"), Field(gt=0)]


class Model(BaseModel):
    """A mapping in ``published.yaml``: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Model):
    """Where the numbers come from."""

    citation: str
    url: Annotated[str, Field(pattern=r"^https://")]
    checked: str
    """What was compared with the source itself, and what could not be."""


class Inputs(Model):
    """Where the numbers of the world come from, in words."""

    paper: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    """Not in the paper, or not known to us; what is compared hardly hangs on it, or it says so."""
    fitted: tuple[str, ...] = ()
    """Set so that something published comes out: that is no prediction then."""


class CwLinkModel(Model):
    """Inputs of :class:`~bellbench.protocols.qkd.link_model.CwLink`."""

    kind: Literal["cw_link"]
    pair_rate: Rate
    loss: tuple[Decibel, Decibel]
    """Of Alice's and Bob's arm, crystal to click."""
    dark_rate: tuple[Rate, Rate]
    """Of all detectors of a party."""
    dead_time: Annotated[float, Unit("s"), Field(ge=0)] = 0.0
    detectors: Annotated[int, Field(ge=1)] = 4
    window: Seconds
    peak: Seconds
    """FWHM of the coincidence peak."""
    error: Fraction

    def link(self) -> CwLink:
        """Return the closed form."""
        from .protocols.qkd.link_model import Arm, CwLink

        arms = [
            Arm(10 ** (-loss / 10), dark, self.detectors, self.dead_time)
            for loss, dark in zip(self.loss, self.dark_rate, strict=True)
        ]
        return CwLink(self.pair_rate, arms[0], arms[1], self.window, self.peak, self.error)

    def told(self, metric: str) -> float | None:
        """Return what the closed form says for a metric of ``link_characterization``."""
        rates = self.link().rates()
        told = {
            "singles_hz.alice": rates.singles_a_hz,
            "singles_hz.bob": rates.singles_b_hz,
            "coincidences_hz": rates.coincidences_hz,
            "true_hz": rates.true_hz,
            "accidentals_hz": rates.accidental_hz,
            "car": rates.car,
            "qber": rates.qber,
            "visibility": rates.visibility,
            "key_rate_bps": rates.key_rate_bps(),
        }
        return float(told[metric]) if metric in told else None


class PulsedLinkModel(Model):
    """Inputs of :class:`~bellbench.protocols.qkd.link_model.PulsedLink`."""

    kind: Literal["pulsed_link"]
    pulse_rate: Rate
    mean_pairs: Annotated[float, Unit("1"), Field(gt=0)]
    efficiency: tuple[Fraction, Fraction]
    background: tuple[Fraction, Fraction] = (0.0, 0.0)
    """Clicks per pulse and party without light."""
    error: Fraction
    leak_efficiency: Annotated[float, Unit("1"), Field(ge=1)] = 1.1
    sifting: Fraction = 0.5

    def told(self, metric: str) -> float | None:
        """Return what the closed form says for a metric of ``link_characterization``."""
        from .protocols.qkd.link_model import PulsedArm, PulsedLink

        arms = [PulsedArm(*each) for each in zip(self.efficiency, self.background, strict=True)]
        rates = PulsedLink(self.mean_pairs, arms[0], arms[1], self.error).rates()
        key = rates.key_per_pulse(f_ec=self.leak_efficiency, sifting=self.sifting)
        told = {
            "coincidences_hz": rates.gain * self.pulse_rate,
            "qber": rates.qber,
            "visibility": 1 - 2 * rates.qber,
            "key_rate_bps": key * self.pulse_rate,
        }
        return float(told[metric]) if metric in told else None


class RunModel(Model):
    """One run of an entry."""

    experiment: str
    """An experiment file beside this one."""
    closed_form: Annotated[CwLinkModel | PulsedLinkModel | None, Field(discriminator="kind")] = None
    """Inputs of a closed form, where that is what was published."""
    picture: str | None = None
    """What the page shows of the run folder, such as ``delays.png``."""


class ResultModel(Model):
    """One published number and the figure of ours that stands for it."""

    run: str
    quantity: str
    """What it is, as a person says it."""
    metric: str
    """Where it stands in the run's metrics: ``qber``, ``singles_hz.alice``."""
    published: str | float
    """A quantity with its unit, or ``closed form``: what the run's closed form says."""
    unit: str = ""
    """To show a closed form's value in."""
    uncertainty: str | float = 0.0
    """Of the published value, one sigma."""
    tolerance: Fraction
    """Share of the published value that we may miss it by, besides three sigma of counting."""
    why: str
    """Why the tolerance is what it is."""
    origin: Literal["predicted", "fitted"]

    @field_validator("published", "uncertainty")
    @classmethod
    def _known_unit(cls, value: str | float) -> str | float:
        if value != _CLOSED_FORM:
            _number(value)
        return value

    @field_validator("unit")
    @classmethod
    def _known_spelling(cls, value: str) -> str:
        if value not in _UNITS:
            raise ValueError(f"unit {value!r} is not known{nearest(value, _UNITS)}")
        return value


class PublishedFile(Model):
    """What ``published.yaml`` says."""

    bellbench: Literal["gallery/1"]
    title: str
    source: Source
    inputs: Inputs
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the comparison."""
    runs: Annotated[dict[str, RunModel], Field(min_length=1)]
    results: Annotated[tuple[ResultModel, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Entry:
    """An entry of the gallery, read and checked.

    Attributes:
        name: Name of its folder.
        folder: Where its files are.
        file: What its ``published.yaml`` says.
    """

    name: str
    folder: Path
    file: PublishedFile


@dataclass(frozen=True)
class Comparison:
    """One published number beside ours; values in the unit that is shown.

    Attributes:
        entry, run, quantity: What is compared.
        metric: Where it stands in the run's metrics.
        published, uncertainty: The paper's, or its closed form's.
        ours, sigma: Ours, with its error; None where the run had no such result.
        unit: Of these.
        tolerance: Share of the published value.
        why: Why so.
        origin: ``predicted`` or ``fitted``.
    """

    entry: str
    run: str
    quantity: str
    metric: str
    published: float
    uncertainty: float
    ours: float | None
    sigma: float | None
    unit: str
    tolerance: float
    why: str
    origin: str

    @property
    def published_text(self) -> str:
        """The published value as a person reads it."""
        from .protocols.estimates import Estimate

        if self.uncertainty:
            return f"{Estimate(self.published, self.uncertainty)} {self.unit}".strip()
        return f"{_plain(self.published)} {self.unit}".strip()

    @property
    def ours_text(self) -> str:
        """Ours as a person reads it."""
        from .protocols.estimates import Estimate

        if self.ours is None or self.sigma is None:
            return "-"
        if not self.sigma:
            return f"{_plain(self.ours)} {self.unit}".strip()
        return f"{Estimate(self.ours, self.sigma)} {self.unit}".strip()

    @property
    def room(self) -> float:
        """How far ours may be off: the tolerance and three sigma of both."""
        return abs(self.published) * self.tolerance + _SIGMAS * math.hypot(
            self.sigma or 0.0, self.uncertainty
        )

    @property
    def verdict(self) -> str:
        """``agrees``, ``within errors`` or ``misses``; a run without this result misses.

        Within errors is what only the errors of counting, ours and theirs, bring together.
        """
        if self.ours is None or abs(self.ours - self.published) > self.room:
            return "misses"
        off = abs(self.ours - self.published)
        return "agrees" if off <= abs(self.published) * self.tolerance else "within errors"


def load_gallery(names: Sequence[str] = ()) -> list[Entry]:
    """Read and check the bundled entries named, all by default.

    Raises:
        ConfigError: with every mistake; for an unknown entry.
    """
    known = gallery_entries()
    for name in names:
        if name not in known:
            raise ConfigError(f"no gallery entry {name!r}{nearest(name, known)}", place="--entry")
    return [load_entry(known[name]) for name in known if not names or name in names]


def load_entry(folder: Path) -> Entry:
    """Read and check an entry and the experiments it names.

    Raises:
        ConfigError: with every mistake of ``published.yaml``, or of a file it names.
    """
    from .experiments import load_experiment

    report = Report(read_config(folder / "published.yaml", "gallery"))
    file = report.validate(PublishedFile)
    if file is not None:
        for i, result in enumerate(file.results):
            run = file.runs.get(result.run)
            if run is None:
                message = f"no run {result.run!r}{nearest(result.run, file.runs)}"
                report.add(("results", i, "run"), message)
            elif result.published == _CLOSED_FORM:
                if run.closed_form is None:
                    report.add(("results", i, "published"), "its run has no closed_form")
                elif run.closed_form.told(result.metric) is None:
                    message = f"the closed form says nothing of {result.metric!r}"
                    report.add(("results", i, "metric"), message)
    report.check()
    assert file is not None
    for run in file.runs.values():
        load_experiment(folder / run.experiment)
    return Entry(folder.name, folder, file)


def run_entry(
    entry: Entry,
    *,
    seed: int = SEED,
    duration: float | None = None,
    out: Path,
    show: Callable[[Progress], None] = lambda progress: None,
) -> tuple[list[Comparison], dict[str, Path]]:
    """Run an entry's experiments on twins and compare.

    Args:
        entry: The entry.
        seed: Of the twins' worlds.
        duration: Replaces the experiments' own, s.
        out: Where run folders are kept.
        show: Called with the progress.

    Returns:
        The comparisons in the file's order, and the folder of each run.
    """
    from .experiments import load_experiment, run_experiment

    metrics: dict[str, Mapping[str, Any]] = {}
    folders: dict[str, Path] = {}
    for name, run in entry.file.runs.items():
        config = load_experiment(entry.folder / run.experiment, twin=True, duration=duration)

        def named(progress: Progress, name: str = name) -> None:
            show(replace(progress, stage=f"{name}: {progress.stage}"))

        outcome = run_experiment(config, seed=seed, out=out / entry.name, show=named)
        metrics[name], folders[name] = outcome.metrics, outcome.folder
    return compare(entry, metrics), folders


def compare(entry: Entry, metrics: Mapping[str, Mapping[str, Any]]) -> list[Comparison]:
    """Compare the metrics of an entry's runs, by run, with what was published."""
    found = []
    for result in entry.file.results:
        ours, sigma = _measured(metrics[result.run], result.metric)
        uncertainty = 0.0
        if result.published == _CLOSED_FORM:
            form = entry.file.runs[result.run].closed_form
            assert form is not None  # checked with the file
            value = form.told(result.metric)
            assert value is not None
            unit, factor = result.unit, _UNITS[result.unit]
        else:
            value, unit = _number(result.published)
            factor = _UNITS[unit]
            uncertainty = _number(result.uncertainty)[0] / factor
        found.append(
            Comparison(
                entry.name,
                result.run,
                result.quantity,
                result.metric,
                value / factor,
                uncertainty,
                None if ours is None else ours / factor,
                None if sigma is None else sigma / factor,
                unit,
                result.tolerance,
                result.why,
                result.origin,
            )
        )
    return found


def _plain(value: float) -> str:
    """To four digits, without powers of ten for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.4g}"


def _number(text: str | float) -> tuple[float, str]:
    """Value in the base unit, and the unit as it is spelled."""
    spelling = str(text).strip().rpartition(" ")[2] if isinstance(text, str) else ""
    if spelling == "bit/s":
        return parse_quantity(str(text).replace("bit/s", "Hz"), "Hz"), spelling
    for unit, table in SPELLINGS.items():
        if spelling in table:
            return parse_quantity(text, unit), spelling
    return parse_quantity(text, "1"), ""


def _measured(metrics: Mapping[str, Any], path: str) -> tuple[float | None, float | None]:
    """A figure of a run and its error; a plain number has none."""
    found: Any = metrics
    for step in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            found = None
    if isinstance(found, Mapping) and "value" in found:
        return float(found["value"]), float(found["sigma"])
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return float(found), 0.0
    return None, None


def tables(entries: Sequence[Entry], found: Sequence[Comparison]) -> list[RenderableType]:
    """Return the comparisons for a person, a table per entry."""
    from rich.table import Table

    shown: list[RenderableType] = []
    for entry in entries:
        one = Table(
            title=f"{entry.name}: {entry.file.title}",
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="dim",
        )
        one.add_column("run", no_wrap=True)
        one.add_column("quantity", min_width=12)
        for name in ("published", "ours", "tolerance"):
            one.add_column(name, justify="right")
        one.add_column("", no_wrap=True)
        one.add_column("verdict", no_wrap=True)
        for each in found:
            if each.entry == entry.name:
                color = _COLORS[each.verdict]
                one.add_row(
                    each.run,
                    each.quantity,
                    each.published_text,
                    each.ours_text,
                    f"{100 * each.tolerance:g} %",
                    each.origin,
                    f"[{color}]{each.verdict}[/]",
                )
        shown.append(one)
    return shown


def told(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return the comparisons fit for JSON."""
    return [asdict(each) | {"verdict": each.verdict} for each in found]


def write_page(
    folder: Path,
    entries: Sequence[Entry],
    found: Sequence[Comparison],
    runs: Mapping[str, Mapping[str, Path]],
    *,
    command: str,
) -> Path:
    """Write the gallery's page and its pictures; those that only an older page shows are deleted.

    Args:
        folder: ``gallery.md`` goes here, pictures into ``img/gallery`` below.
        entries: What was run.
        found: What came out.
        runs: Folder of each run, by entry and run.
        command: What made the page, to be said on it.

    Returns:
        The page.
    """
    from . import plots

    pictures = folder / "img" / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    plots.plot_gallery(pictures / "ratios.png", found)
    lines = [
        "# Gallery: published experiments on their twins",
        "",
        f"Written by `{command}`; do not edit. Each entry is a bench, a world and an experiment"
        " file from the parameters of a paper, run through the same drivers and wires as on a"
        " table. A result *agrees* where it lies within the tolerance, is *within errors* where"
        " three standard errors of counting, ours and the paper's, have to be added, and misses"
        " beyond. *Predicted*: nothing was set to make it come out. *Fitted*: an input was, so"
        " that agreement shows consistency only. Misses are left as they are.",
        "",
        "![Ours over published, with the tolerances](img/gallery/ratios.png)",
        "",
    ]
    for entry in entries:
        lines += _section(entry, [each for each in found if each.entry == entry.name])
        forms = {
            name: run.closed_form.link()
            for name, run in entry.file.runs.items()
            if isinstance(run.closed_form, CwLinkModel)
        }
        keys = {
            each.run: each
            for each in found
            if each.entry == entry.name and each.metric == "key_rate_bps"
        }
        if keys and forms:
            name = f"{entry.name}-key.png"
            plots.plot_key_against_pairs(pictures / name, forms, keys, title=entry.file.title)
            lines += [f"![Key rate against pair rate](img/gallery/{name})", ""]
        for run, model in entry.file.runs.items():
            if model.picture is not None:
                name = f"{entry.name}-{run}-{model.picture}".replace("+", "_").replace(" ", "_")
                source = runs[entry.name][run] / model.picture
                if source.exists():  # a run that was aborted has none
                    shutil.copyfile(source, pictures / name)
                    lines += [f"![{run}](img/gallery/{name})", ""]
    page = folder / "gallery.md"
    text = "\n".join(lines).rstrip() + "\n"
    if page.exists():
        for name in _pictures(page.read_text(encoding="utf-8")) - _pictures(text):
            (pictures / name).unlink(missing_ok=True)
    page.write_text(text, encoding="utf-8")
    return page


def _pictures(page: str) -> set[str]:
    """Names of a page's pictures."""
    return set(re.findall(r"\]\(img/gallery/([\w.+-]+\.png)\)", page))


def _section(entry: Entry, found: Sequence[Comparison]) -> list[str]:
    file = entry.file
    lines = [
        f"## {file.title}",
        "",
        f"[{file.source.citation}]({file.source.url})",
        "",
        f"Files: [`configs/gallery/{entry.name}`](../configs/gallery/{entry.name})",
        "",
        "| run | quantity | published | ours | tolerance | | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.run} | {each.quantity} | {each.published_text} | {each.ours_text}"
        f" | {100 * each.tolerance:g} %: {each.why} | {each.origin}"
        f" | {'**misses**' if each.verdict == 'misses' else each.verdict} |"
        for each in found
    ]
    lines.append("")
    for word, inputs in (
        ("From the paper", file.inputs.paper),
        ("Chosen", file.inputs.chosen),
        ("Fitted", file.inputs.fitted),
        ("Note", file.notes),
    ):
        lines += [f"- {word}: {text}" for text in inputs]
    return [*lines, f"- Checked: {file.source.checked}", ""]
