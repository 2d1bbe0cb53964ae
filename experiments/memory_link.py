"""A memory link: heralds of a station half way entangle the memories of two nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..bench import BenchConfig
from ..instruments import Instrument, MemoryInfo, ProtocolError, QuantumMemory, Unit
from .contract import Duration, Experiment, Mistake, Result, Run, lacks
from .midpoint import (
    Midpoint,
    MidpointFile,
    SettingName,
    check_midpoint,
    counts_told,
    empty_told,
    figure,
    hom_told,
    parts_rows,
    prediction_told,
    sources_told,
    told,
    visibility_rows,
    worth,
)

if TYPE_CHECKING:
    from ..protocols import swapping

__all__ = ["EXPERIMENT", "MemoryLinkFile"]

_SETTINGS: tuple[SettingName, ...] = ("ZX", "Y")
_ENDS = ("alice", "bob")


class MemoryLinkFile(MidpointFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["memory_link"]
    duration: Duration
    """Of each analyzer setting."""
    storage_time: Annotated[float, Unit("s"), Field(gt=0, le=1)]
    """From in to out, at both ends."""
    pump_current: Annotated[float, Unit("A"), Field(gt=0)]


def _check(file: MemoryLinkFile, bench: BenchConfig) -> list[Mistake]:
    mistakes = check_midpoint(file, bench)
    for end in _ENDS:
        mistakes += [m for m in lacks(file, bench, end, roles=("memory",)) if m not in mistakes]
        party = bench.parties.get(end)
        name = party.instruments.get("memory") if party is not None else None
        info = getattr(bench.instruments[name].settings, "info", None) if name else None
        if isinstance(info, MemoryInfo) and not _can_store(info, file.storage_time):
            low, high = info.min_storage_s * 1e6, info.max_storage_s * 1e6
            mistakes.append(
                (
                    ("storage_time",),
                    f"{name} stores for {info.echo_s * 1e6:g} µs (its echo) or {low:g} to"
                    f" {high:g} µs, not for {file.storage_time * 1e6:g} µs",
                )
            )
    return mistakes


def _can_store(info: MemoryInfo, seconds: float) -> bool:
    near = 1e-12
    if abs(seconds - info.echo_s) <= near:
        return True
    return info.min_storage_s - near <= seconds <= info.max_storage_s + near


def _run(file: MemoryLinkFile, run: Run) -> Result:
    link = _Link(file, run)
    ended = link.bench.attempt(link.run)
    metrics = link.metrics() | ended
    return Result(metrics, lambda folder: _draw(folder, run.name, link, metrics))


class _Link:
    """The steps, and what each has found."""

    def __init__(self, file: MemoryLinkFile, run: Run) -> None:
        self.file = file
        self.bench = Midpoint(file, run)
        self.memories = [self._memory(end) for end in _ENDS]
        self.storage_s: float | None = None
        self.stored: tuple[swapping.Klyshko, swapping.Klyshko] | None = None
        self.counts: dict[SettingName, swapping.SwapCounts] = {}

    def _memory(self, end: str) -> QuantumMemory:
        memory = self.bench.parties[end].memory
        assert memory is not None
        return memory

    def run(self) -> None:
        """Do all steps.

        Raises:
            ProtocolError: where a step finds nothing to go on with.
            InstrumentError: for a storage time that a memory cannot do.
        """
        bench, file = self.bench, self.file
        for memory in self.memories:
            memory.efficiency(file.storage_time)  # refuses a time out of range, before anything
            memory.bypass()
        bench.set_pump(file.pump_current)
        bench.turn("ZX")
        self._ready()
        bench.align()
        self._store()
        self.stored = bench.measure_sources([memory.info for memory in self.memories])
        for name in _SETTINGS:
            bench.turn(name)
            counts = bench.count(file.duration, f"heralding, {name}")
            self.counts[name] = counts
            if not counts.fourfolds.sum():
                raise ProtocolError(
                    f"no pair of photons came back for {int(counts.heralds.sum())} heralds: is a"
                    " source dark, or the time too short?"
                )

    def _store(self) -> None:
        """Let both memories store and recall, and take note of how long they keep photons."""
        for memory in self.memories:
            memory.prepare()
        self._ready()
        for i, memory in enumerate(self.memories):
            if abs(self.file.storage_time - memory.info.echo_s) > 1e-12:  # else the echo will do
                memory.store()
                memory.retrieve(self.file.storage_time)
            # What the memory says of a photon in the middle of its window.
            kept = memory.herald(sum(memory.info.window_s) / 2)
            self.bench.storage_ps[i] = round(kept.storage_s * 1e12)
        self.storage_s = self.bench.storage_ps[0] * 1e-12
        self._ready()

    def _ready(self) -> None:
        for end, memory in zip(_ENDS, self.memories, strict=True):
            if isinstance(memory, Instrument):
                self.bench.until(memory.ready, f"{end}'s memory")

    def metrics(self) -> dict[str, Any]:
        """The figures there are."""
        from ..protocols import swapping

        bench = self.bench
        result: dict[str, Any] = {
            "storage_s": self.storage_s,
            "singles_hz": bench.singles_hz,
            "sources": sources_told(bench.sources),
            "hom": hom_told(bench.dip),
            "memories": self._memories(),
            "settings": {
                name: counts_told(counts, bench.paddles_deg[name])
                for name, counts in self.counts.items()
            },
            **worth(self.counts),
            "empty_share": None,
            "held_fidelity": None,
            "link": None,
            "prediction": None,
        }
        if bench.sources is None or self.stored is None or not self.counts:
            return result
        assert bench.dip is not None
        total = sum(self.counts.values(), start=_nothing())
        west, east = bench.sources
        ends = [one.end for one in self.stored]
        empty = swapping.empty_shares(total, ends[0], ends[1])
        result["empty_share"] = empty_told(empty)
        full = swapping.Estimate(1 - empty.any.value, empty.any.sigma, empty.any.n)
        seen = result["fidelity"]["all"]
        if seen is not None:
            result["held_fidelity"] = told(swapping.Estimate(**seen) * full)
        pulses_hz = bench.pulses_hz * bench.open_share
        heralds, pairs = int(total.heralds.sum()), int(total.fourfolds.sum())
        result["link"] = {
            "pulses_hz": pulses_hz,
            "herald_rate_hz": {
                "value": heralds / total.live_s,
                "sigma": math.sqrt(heralds) / total.live_s,
                "n": heralds,
            },
            "pair_rate_hz": {
                "value": pairs / total.live_s,
                "sigma": math.sqrt(max(pairs, 1)) / total.live_s,
                "n": pairs,
            },
        }
        said = swapping.predict(west.visibility, east.visibility, bench.dip.visibility)
        each = [one.pairs_per_pulse.value * one.station.value for one in bench.sources]
        true_hz = pulses_hz * each[0] * each[1] / 2
        result["prediction"] = prediction_told(said) | {
            # two pairs of one source and none of the other: shared/physics.md 7
            "herald_rate_hz": true_hz + pulses_hz * (each[0] ** 2 + each[1] ** 2) / 4,
            "pair_rate_hz": true_hz * ends[0].value * ends[1].value,
        }
        return result

    def _memories(self) -> dict[str, Any] | None:
        sources = self.bench.sources
        if self.stored is None or sources is None or self.storage_s is None:
            return None
        found: dict[str, Any] = {}
        for i, end in enumerate(_ENDS):
            here = self.stored[i].end
            kept = here / sources[i].end
            found[end] = {
                "end_efficiency": told(here),
                "efficiency": {"value": kept.value, "sigma": kept.sigma, "n": here.n},
                "stated": self.memories[i].efficiency(self.file.storage_time),
            }
        return found


def _nothing() -> swapping.SwapCounts:
    from ..protocols import swapping

    return swapping.SwapCounts(np.zeros((3, 6, 6), np.int64), 0, 0, 0, 0, 0.0)


def _draw(folder: Path, name: str, link: _Link, metrics: Mapping[str, Any]) -> None:
    from .. import plots

    if link.bench.dip is not None:
        plots.plot_hom_dip(
            folder / "hom.png",
            link.bench.dip,
            seconds=link.file.hom.time,
            title=f"{name}: HOM coincidences with a click at both ends, memories bypassed",
        )
    if link.counts:
        plots.plot_swap_correlations(
            folder / "correlations.png",
            {name: counts.fourfolds for name, counts in link.counts.items()},
            title=f"{name}: photons recalled from the memories, by heralded Bell state",
        )


def _rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    rows = parts_rows(m)
    if m["memories"] is not None:
        for end, one in m["memories"].items():
            text = (
                f"{figure(one['efficiency'], scale=100, unit=' %')} of what passes it bypassed come"
                f" back after {m['storage_s'] * 1e6:g} µs; stated {100 * one['stated']:.1f} %"
            )
            rows.append((f"memory {end}", text))
    rows += visibility_rows(m)
    said = m["prediction"]
    if said is not None:
        z, x = (figure(said[f"visibility_{a}"], scale=100, unit=" %") for a in "zx")
        rows.append(("  predicted", f"Z {z}, X and Y {x}"))
        link = m["link"]
        rows += [
            ("heralds in the window", f"{figure(link['herald_rate_hz'])} /s"),
            ("  predicted", f"{said['herald_rate_hz']:.1f} /s"),
            ("false heralds", figure(m["empty_share"]["any"], scale=100, unit=" %")),
            ("[bold green]pairs recalled[/]", f"[bold]{figure(link['pair_rate_hz'])} /s[/]"),
            ("  predicted", f"{said['pair_rate_hz']:.1f} /s"),
        ]
    if m["fidelity"]["all"] is not None:
        text = f"[bold]{figure(m['fidelity']['all'], digits=3)}[/]"
        rows.append(("[bold green]fidelity[/]", text))
        rows.append(("  predicted", figure(said and said["fidelity"], digits=3)))
        rows.append(("  with empty heralds", figure(m["held_fidelity"], digits=3)))
    if m["aborted"]:
        rows.append(("[bold red]no result[/]", f"[bold]{escape(m['reason'])}[/]"))
    return rows


EXPERIMENT = Experiment(MemoryLinkFile, _check, _run, _rows)
