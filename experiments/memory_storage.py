"""Heralded single photons into a quantum memory and out again.

The memory transparent (the reference, in which delays and the memory's clock are found), then its
echo, then every storage time, then the source blocked: on the table and on twins alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..bench import BenchConfig
from ..instruments import (
    Deadline,
    Instrument,
    InstrumentTimeout,
    MemoryInfo,
    PairSource,
    ProtocolError,
    QuantumMemory,
    TagBatch,
    Unit,
    concatenate,
)
from ..live import Progress
from .contract import Duration, Experiment, ExperimentFile, Mistake, Result, Run, lacks

if TYPE_CHECKING:
    from ..lab import Lab
    from ..protocols.estimates import Estimate
    from ..protocols.heralding import (
        DecayFit,
        HeraldCounts,
        HeraldLayout,
    )

__all__ = ["EXPERIMENT", "MemoryStorageFile"]

_PARTY = "node"
_LABELS = ("herald", "c", "d", "trigger")
_STEP_S = 0.1
_BLOCK_S = 0.01
_LONGEST_PREPARATION_S = 60.0
_SIGMAS = 5.0  # what comes out of the memory has to stand out by


class MemoryStorageFile(ExperimentFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["memory_storage"]
    storage_times: Annotated[
        tuple[Annotated[float, Unit("s"), Field(gt=0)], ...], Field(min_length=2)
    ]
    """From in to out; a lifetime is fitted to them."""
    duration: Duration
    """Length of the recording at each setting, in bench time: the transparent reference, the
    echo, every storage time, and the source blocked."""
    calibration: Annotated[float, Unit("s"), Field(ge=0.01, le=1000)] = 1.0
    """Clicks through the transparent memory in which delays and the memory's clock are found."""
    gate: Annotated[float, Unit("s"), Field(ge=1e-12)]
    """Full width of the gates after a herald."""
    detection_efficiency: Annotated[float, Unit("1"), Field(gt=0, le=1)] | None = None
    """From the memory's output to a click of c or d; noise is told in photons where it is known."""


def _check(file: MemoryStorageFile, bench: BenchConfig) -> list[Mistake]:
    mistakes = lacks(file, bench, _PARTY, labels=_LABELS, roles=("source", "memory"))
    times = file.storage_times
    for i, time_s in enumerate(times):
        if time_s in times[:i]:
            mistakes.append((("storage_times", i), f"{_us(time_s)} stands there twice"))
    if mistakes:
        return mistakes
    name = bench.parties[_PARTY].memory
    assert name is not None
    # Of a memory whose settings do not tell, the instrument itself has the word.
    info = getattr(bench.instruments[name].settings, "info", None)
    if not isinstance(info, MemoryInfo):
        return mistakes
    low, high = info.min_storage_s, info.max_storage_s
    for i, time_s in enumerate(times):
        if not low - 1e-12 <= time_s <= high + 1e-12:
            mistakes.append(
                (
                    ("storage_times", i),
                    f"{name!r} of {bench.path} stores for {_us(low)} to {_us(high)}, not for"
                    f" {_us(time_s)}; its settings say: cycle {_us(info.cycle_s)}, echo"
                    f" {_us(info.echo_s)}",
                )
            )
    if file.gate > info.mode_duration_s:
        mistakes.append(
            (("gate",), f"is wider than a mode of {name!r}, {_us(info.mode_duration_s)}")
        )
    return mistakes


def _run(file: MemoryStorageFile, run: Run) -> Result:
    storage = _Storage(file, run.name, run.open(), run.show)
    storage.run()
    return Result(storage.metrics(), storage.draw)


@dataclass(frozen=True)
class _Stored:
    """What one storage time gave."""

    storage_s: float
    model: float
    counts: HeraldCounts
    efficiency: Estimate


class _Storage:
    """One run on an open bench: sets memory and pump, moves clicks and time."""

    def __init__(
        self, file: MemoryStorageFile, name: str, lab: Lab, show: Callable[[Progress], None]
    ) -> None:
        self._file = file
        self._name = name
        self._clock = lab.clock
        self._show = show
        party = lab.parties[_PARTY]
        assert party.source is not None  # checked with the file
        assert isinstance(party.memory, QuantumMemory)
        assert isinstance(party.memory, Instrument)
        self._source: PairSource = party.source
        self._memory: QuantumMemory = party.memory
        self._device: Instrument = party.memory
        self._info = party.memory.info
        # out of range is refused here, before anything is set
        self._models = [self._memory.efficiency(storage_s) for storage_s in file.storage_times]
        self._tagger = party.tagger
        self._channels = {label: channel for channel, label in party.channels.items()}
        self._tags = 0
        self._clicks = dict.fromkeys(_LABELS, 0)
        self._live_s = 0.0
        self._figures: dict[str, str] = {}
        # what is found; a run that is aborted ends somewhere in between
        self._layout: HeraldLayout | None = None
        self._reference: HeraldCounts | None = None
        self._singles: dict[str, float] | None = None
        self._echo: HeraldCounts | None = None
        self._stored: list[_Stored] = []
        self._blocked: HeraldCounts | None = None
        self._fit: DecayFit | None = None
        self._no_fit = ""
        self._reason = ""

    def run(self) -> None:
        """Measure; a bench on which nothing is seen ends it early, with a reason."""
        self._tagger.start()
        try:
            self._measure()
        except ProtocolError as error:
            self._reason = str(error)
        self._tagger.stop()  # after another error the bench does, by its safe state
        self._device.off()

    def _measure(self) -> None:
        from ..protocols import heralding

        info, file = self._info, self._file
        echo = {"echo": _ps(info.echo_s)} if info.echo_s else {}
        self._memory.bypass()
        self._settle("transparent")
        batches: list[TagBatch] = []
        self._record("recording clicks to find the delays", file.calibration, batches.append)
        inputs = {label: self._channels[label] for label in _LABELS}
        self._layout = heralding.find_layout(concatenate(batches), **inputs, info=info)
        self._reference = reference = self._count("transparent", {"prompt": 0})
        self._singles = self._singles_hz()
        self._figures["heralding efficiency"] = _percent(
            _told(heralding.heralding_efficiency(reference, "prompt"))
        )
        self._memory.prepare()
        if echo:
            self._settle("prepared")
            self._echo = self._count("echo", {"prompt": 0} | echo)
        self._memory.store()
        for storage_s, model in zip(file.storage_times, self._models, strict=True):
            self._memory.retrieve(storage_s)
            self._settle(f"storing for {_us(storage_s)}")
            # when photons come out, by the memory's own word
            kept = self._memory.herald(info.window_s[0])
            delays = {"prompt": 0, "recalled": _ps(kept.storage_s)} | echo
            counts = self._count(f"storing for {_us(storage_s)}", delays)
            efficiency = heralding.relative_efficiency(counts, "recalled", reference, "prompt")
            self._stored.append(_Stored(storage_s, model, counts, efficiency))
            self._figures["efficiency"] = f"{_percent(_told(efficiency))} at {_us(storage_s)}"
            if len(self._stored) == 1 and not efficiency.value > _SIGMAS * efficiency.sigma:
                raise ProtocolError(
                    f"nothing comes out after {_us(storage_s)}: an efficiency of"
                    f" {_percent(_told(efficiency))} from {counts.heralds} heralds; do transfer and"
                    " recall reach the crystal, was it longer than the coherence lasts?"
                )
        self._source.emission.set(False)
        self._settle("source blocked")
        self._blocked = self._count("source blocked", {"prompt": 0, "recalled": delays["recalled"]})
        try:
            self._fit = heralding.fit_decay(
                [each.storage_s for each in self._stored],
                [each.efficiency for each in self._stored],
                decay=info.decay,
                echo_s=info.echo_s,
            )
        except ProtocolError as error:
            self._no_fit = str(error)

    def _settle(self, stage: str) -> None:
        """Wait until the memory is ready, and drop the clicks made until then."""
        self._show(Progress(f"{stage}: waiting for the memory"))
        deadline = Deadline(self._clock, _LONGEST_PREPARATION_S)
        while not self._device.ready():
            if deadline.passed:
                raise InstrumentTimeout(
                    f"{stage}: the memory is not ready after {_LONGEST_PREPARATION_S:g} s",
                    device=self._device.name,
                )
            self._clock.sleep(_BLOCK_S)
            self._tagger.read()
        # Behind the last click that the tagger still owes; a twin acts on its next block.
        self._clock.sleep(self._tagger.info.latency_s + _BLOCK_S)
        self._tagger.read()

    def _record(self, stage: str, seconds: float, take: Callable[[TagBatch], object]) -> None:
        """Hand on the clicks of the next ``seconds``."""
        self._clicks, self._live_s = dict.fromkeys(_LABELS, 0), 0.0
        batch = self._tagger.read()
        take(batch.split(batch.end_ps)[1])  # empty: says from when on
        begin_ps, end_ps = batch.end_ps, batch.end_ps + _ps(seconds)
        while batch.end_ps < end_ps:
            self._clock.sleep(min(_STEP_S, (end_ps - batch.end_ps) * 1e-12 + 1e-6))
            batch = self._tagger.read().split(end_ps)[0]
            self._note(batch)
            take(batch)
            self._show(
                Progress(
                    stage,
                    elapsed_s=(batch.end_ps - begin_ps) * 1e-12,
                    duration_s=seconds,
                    singles_hz={_PARTY: self._singles_hz()},
                    figures=dict(self._figures),
                )
            )

    def _count(self, stage: str, delays: Mapping[str, int]) -> HeraldCounts:
        from ..protocols.heralding import HeraldCounter

        layout, mode = self._layout, _ps(self._info.mode_duration_s)
        assert layout is not None
        # Arrivals that may lie outside are left out, mode by mode: pulses come in their middles.
        margin = math.ceil(layout.sigma_ps / mode) * mode
        begin, end = (_ps(each) for each in self._info.window_s)
        counter = HeraldCounter(
            layout,
            window_ps=(begin + margin, end - margin),
            mode_ps=mode,
            delays_ps=delays,
            gate_ps=_ps(self._file.gate),
            beside_ps=(-2 * mode, -mode, mode, 2 * mode),
            histogram_ps=(-10 * mode, _ps(max(self._file.storage_times)) + 20 * mode, mode),
        )
        self._record(stage, self._file.duration, counter.add)
        return counter.finish()

    def _note(self, batch: TagBatch) -> None:
        self._tags += len(batch)
        self._live_s += batch.live_s
        for label, channel in self._channels.items():
            if label in self._clicks:
                self._clicks[label] += int((batch.channels == channel).sum())

    def _singles_hz(self) -> dict[str, float]:
        live = self._live_s
        return {label: count / live if live else 0.0 for label, count in self._clicks.items()}

    # -- what is left of it

    def metrics(self) -> dict[str, Any]:
        """Return the figures of the run, fit for JSON."""
        from ..protocols import heralding

        file, info, reference = self._file, self._info, self._reference
        noise = per_gate = heralded = g2 = cross = None
        if self._blocked is not None:
            noise = heralding.noise_per_mode(self._blocked, "recalled", "prompt")
            steady = heralding.noise_per_mode(self._blocked, "recalled")  # darks, too
            per_gate = steady * (file.gate / info.mode_duration_s)
        if reference is not None:
            heralded = heralding.heralding_efficiency(
                reference, "prompt", dark_heralds=self._dark_heralds()
            )
            g2, cross = reference.gates["prompt"].g2, reference.cross_g2("prompt")
        stored = []
        for each in self._stored:
            counts = each.counts
            snr = None
            if per_gate is not None:
                snr = heralding.signal_to_noise(counts, "recalled", per_gate)
            stored.append(
                {
                    "storage_s": each.storage_s,
                    "heralds": counts.heralds,
                    "retrieved": counts.gates["recalled"].clicked,
                    "efficiency": _told(each.efficiency),
                    "model_efficiency": each.model,
                    "heralded_g2": _told(counts.gates["recalled"].g2),
                    "cross_g2": _told(counts.cross_g2("recalled")),
                    "snr": _told(snr),
                    "live_s": counts.live_s,
                }
            )
        echo = None
        if self._echo is not None and reference is not None:
            echo = heralding.relative_efficiency(self._echo, "echo", reference, "prompt")
        fit, share = self._fit, file.detection_efficiency
        photons = mu1 = None
        if noise is not None and per_gate is not None and share:
            photons = noise * (1 / share)
            mu1 = per_gate * (1 / share) / self._stored[0].efficiency
        layout = self._layout
        return {
            "duration_s": file.duration,
            "tags": self._tags,
            "singles_hz": None if self._singles is None else {_PARTY: self._singles},
            "heralds": None if reference is None else reference.heralds,
            "modes": info.modes,
            "modes_used": None if reference is None else int((reference.by_mode[:, 0] > 0).sum()),
            "heralding_efficiency": _told(heralded),
            "heralded_g2": _told(g2),
            "cross_g2": _told(cross),
            "echo_s": info.echo_s,
            "echo_efficiency": _told(echo),
            "storage": stored,
            "decay": info.decay,
            "lifetime_s": _told(None if fit is None else fit.lifetime_s),
            "efficiency_at_echo": _told(None if fit is None else fit.efficiency),
            "chi2": None if fit is None else fit.chi2,
            "degrees": None if fit is None else fit.degrees,
            "no_lifetime": self._no_fit,
            "noise_clicks_per_mode": _told(noise),
            "noise_photons_per_mode": _told(photons),
            "noise_clicks_per_gate": _told(per_gate),
            "mu1": _told(mu1),
            "delays_ps": None
            if layout is None
            else {label: layout.delays_ps.get(self._channels[label], 0) for label in _LABELS},
            "aborted": bool(self._reason),
            "reason": self._reason,
        }

    def _dark_heralds(self) -> float:
        """Share of the heralds that are there without light."""
        blocked, reference = self._blocked, self._reference
        if blocked is None or reference is None or not (blocked.modes and reference.heralds):
            return 0.0
        return blocked.heralds / blocked.modes * reference.modes / reference.heralds

    def draw(self, folder: Path) -> None:
        """Draw what there is to draw into the run folder."""
        from .. import plots
        from ..protocols.heralding import relative_efficiency

        reference, info = self._reference, self._info
        if reference is None:
            return
        settings = [("transparent", 0.0, reference)]
        if self._echo is not None:
            settings.append(("echo", info.echo_s, self._echo))
        settings += [
            (f"stored {s.storage_s * 1e6:.6g} µs", s.storage_s, s.counts) for s in self._stored
        ]
        plots.plot_arrivals(
            folder / "arrivals.png",
            reference.histogram_ps,
            [(name, at_s, c.histogram / max(c.heralds, 1)) for name, at_s, c in settings],
            echo_s=info.echo_s,
            title=f"{self._name}: clicks behind the memory after a herald",
        )
        if not self._stored:
            return
        echo = None
        if self._echo is not None:
            found = relative_efficiency(self._echo, "echo", reference, "prompt")
            echo = (info.echo_s, found.value, found.sigma)
        plots.plot_storage(
            folder / "efficiency.png",
            [(s.storage_s, s.efficiency.value, s.efficiency.sigma) for s in self._stored],
            echo=echo,
            fit=self._fit,
            model=[(s.storage_s, s.model) for s in self._stored],
            title=f"{self._name}: efficiency against storage time",
        )


def _rows(m: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from rich.markup import escape

    if m["singles_hz"] is not None:
        rates = m["singles_hz"][_PARTY]
        shown = "  ".join(f"{label} {rate * 1e-3:.1f}" for label, rate in rates.items())
        yield "singles, kcps", shown
    if m["heralding_efficiency"] is not None:
        yield "heralding efficiency", _percent(m["heralding_efficiency"])
        yield (
            "heralded g2, cross g2",
            f"{_plain(m['heralded_g2'])}, {_plain(m['cross_g2'])} (transparent)",
        )
    if m["echo_efficiency"] is not None:
        yield f"echo, {_us(m['echo_s'])}", _percent(m["echo_efficiency"])
    for each in m["storage"]:
        snr = "" if each["snr"] is None else f"  SNR {_plain(each['snr'])}"
        yield (
            f"stored {_us(each['storage_s'])}",
            f"{_percent(each['efficiency'])}  g2 {_plain(each['heralded_g2'])}{snr}",
        )
    if m["lifetime_s"] is not None:
        t, sigma = (1e6 * m["lifetime_s"][key] for key in ("value", "sigma"))
        yield (
            "[bold green]lifetime[/]",
            f"[bold]{_plain({'value': t, 'sigma': sigma})} us[/] ({m['decay']}),"
            f" {_percent(m['efficiency_at_echo'])} at the echo,"
            f" chi2 {m['chi2']:.1f}/{m['degrees']}",
        )
    elif m["no_lifetime"]:
        yield "[bold yellow]no lifetime[/]", escape(m["no_lifetime"])
    if m["noise_clicks_per_mode"] is not None:
        photons = m["noise_photons_per_mode"]
        shown = "" if photons is None else f", {_plain(photons)} photons"
        yield "noise per mode", f"{_plain(m['noise_clicks_per_mode'])} clicks{shown}"
    if m["mu1"] is not None:
        yield "mu1", f"{_plain(m['mu1'])} photons per gate, of what passes bypassed; with darks"
    if m["aborted"]:
        yield "[bold red]aborted[/]", f"[bold]{escape(m['reason'])}[/]"


def _told(measured: Estimate | None) -> dict[str, float] | None:
    if measured is None or not (math.isfinite(measured.value) and math.isfinite(measured.sigma)):
        return None
    return {"value": measured.value, "sigma": measured.sigma}


def _plain(measured: Mapping[str, float] | None) -> str:
    from ..protocols.estimates import Estimate

    return "-" if measured is None else str(Estimate(measured["value"], measured["sigma"]))


def _percent(measured: Mapping[str, float] | None) -> str:
    if measured is None:
        return "-"
    return f"{_plain({name: 100 * number for name, number in measured.items()})} %"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.6g} us"


def _ps(seconds: float) -> int:
    return round(seconds * 1e12)


EXPERIMENT = Experiment(MemoryStorageFile, _check, _run, _rows)
