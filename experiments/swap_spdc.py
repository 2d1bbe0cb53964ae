"""Entanglement swapping with two pulsed SPDC sources and a Bell-state station."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..bench import BenchConfig
from ..instruments import ProtocolError, Unit
from .contract import Duration, Experiment, Mistake, Result, Run
from .midpoint import (
    Midpoint,
    MidpointFile,
    Seconds,
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

__all__ = ["EXPERIMENT", "SwapFile"]

_SETTINGS: tuple[SettingName, ...] = ("ZX", "CHSH", "Y")


class SwapFile(MidpointFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["swap_spdc"]
    duration: Duration
    """Of each analyzer setting, at the first pump current."""
    pump_currents: Annotated[
        tuple[Annotated[float, Unit("A"), Field(gt=0)], ...], Field(min_length=1)
    ]
    """The first is that of all steps; at the others Z and X are measured, and false heralds."""
    pump_time: Seconds = 3.0
    """At each further pump current."""


def _check(file: SwapFile, bench: BenchConfig) -> list[Mistake]:
    return check_midpoint(file, bench)


def _run(file: SwapFile, run: Run) -> Result:
    swap = _Swap(file, run)
    ended = swap.bench.attempt(swap.run)
    metrics = swap.metrics() | ended
    return Result(metrics, lambda folder: _draw(folder, run.name, swap, metrics))


class _Swap:
    """The steps, and what each has found."""

    def __init__(self, file: SwapFile, run: Run) -> None:
        self.file = file
        self.bench = Midpoint(file, run)
        self.counts: dict[SettingName, swapping.SwapCounts] = {}
        self.pumps: list[dict[str, Any]] = []

    def run(self) -> None:
        """Do all steps.

        Raises:
            ProtocolError: where a step finds nothing to go on with.
        """
        bench, file = self.bench, self.file
        bench.set_pump(file.pump_currents[0])
        bench.turn("ZX")
        bench.align()
        for i, current in enumerate(file.pump_currents):
            bench.set_pump(current)
            seconds = file.pump_time if i else file.duration
            counts = bench.count(seconds, f"swapping at {current * 1e3:g} mA, ZX")
            self._check(counts)
            if not i:
                self.counts["ZX"] = counts
            self.pumps.append(self._at_pump(current, counts))
        bench.set_pump(file.pump_currents[0])
        for name in _SETTINGS[1:]:
            bench.turn(name)
            self.counts[name] = bench.count(file.duration, f"swapping, {name}")
            self._check(self.counts[name])

    def _check(self, counts: swapping.SwapCounts) -> None:
        if not counts.fourfolds.sum():
            raise ProtocolError(
                f"no four-fold among {int(counts.heralds.sum())} heralds: is a source dark, or the"
                " time too short?"
            )

    def _at_pump(self, current_a: float, counts: swapping.SwapCounts) -> dict[str, Any]:
        from ..protocols import swapping

        bench = self.bench
        assert bench.sources is not None
        west, east = bench.sources
        pairs = [
            sum(bench.singles_hz[end].values()) / bench.pulses_hz / source.end.value
            for end, source in zip(("alice", "bob"), bench.sources, strict=True)
        ]
        found = swapping.visibilities([(swapping.SETTINGS["ZX"], counts.fourfolds)])
        empty = swapping.empty_shares(counts, west.end, east.end)
        return {
            "current_a": current_a,
            "pairs_per_pulse": {"west": pairs[0], "east": pairs[1]},
            "fourfold_rate_hz": int(counts.fourfolds.sum()) / counts.live_s,
            "herald_rate_hz": int(counts.heralds.sum()) / counts.live_s,
            "visibility": {axis: told(found[axis]["all"]) for axis in "ZX"},
            "empty_share": empty_told(empty),
        }

    def metrics(self) -> dict[str, Any]:
        """The figures there are."""
        from ..protocols import swapping

        bench = self.bench
        result: dict[str, Any] = {
            "late_ps": bench.late_ps,
            "singles_hz": bench.singles_hz,
            "sources": sources_told(bench.sources),
            "hom": hom_told(bench.dip),
            "settings": {
                name: counts_told(counts, bench.paddles_deg[name])
                for name, counts in self.counts.items()
            },
            "pumps": self.pumps,
            "no_pump": _no_pump(self.pumps),
        }
        result |= worth(self.counts)
        chsh = self.counts.get("CHSH")
        result["chsh"] = (
            None
            if chsh is None
            else {
                label: told(s)
                for label, s in swapping.chsh(swapping.SETTINGS["CHSH"], chsh.fourfolds).items()
            }
        )
        if bench.sources is not None and bench.dip is not None and bench.dip.ok:
            west, east = bench.sources
            said = swapping.predict(west.visibility, east.visibility, bench.dip.visibility)
            result["prediction"] = prediction_told(said) | {"chsh": told(said.chsh)}
        else:
            result["prediction"] = None
        return result


def _no_pump(pumps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Visibilities on a line through those of all pumps, where there are no pairs left."""
    found: dict[str, Any] = {}
    for axis in "ZX":
        points = [
            (sum(p["pairs_per_pulse"].values()) / 2, p["visibility"][axis])
            for p in pumps
            if p["visibility"][axis] is not None
        ]
        if len({x for x, _ in points}) < 2:
            return None
        x = np.array([x for x, _ in points])
        y, sigma = (np.array([v[key] for _, v in points]) for key in ("value", "sigma"))
        rows = np.column_stack([np.ones_like(x), x]) / sigma[:, None]
        covariance = np.linalg.inv(rows.T @ rows)
        best = covariance @ rows.T @ (y / sigma)
        found[axis] = {
            "value": float(best[0]),
            "sigma": math.sqrt(covariance[0, 0]),
            "slope": float(best[1]),
            "slope_sigma": math.sqrt(covariance[1, 1]),
        }
    return found


def _draw(folder: Path, name: str, swap: _Swap, metrics: Mapping[str, Any]) -> None:
    from .. import plots

    if swap.bench.dip is not None:
        plots.plot_hom_dip(
            folder / "hom.png",
            swap.bench.dip,
            seconds=swap.file.hom.time,
            title=f"{name}: HOM coincidences with a click at both ends",
        )
    if swap.counts:
        plots.plot_swap_correlations(
            folder / "correlations.png",
            {name: counts.fourfolds for name, counts in swap.counts.items()},
            title=f"{name}: correlations of the ends, by heralded Bell state",
        )
    if len(swap.pumps) > 1:
        plots.plot_pump(
            folder / "pump.png",
            swap.pumps,
            metrics["no_pump"],
            title=f"{name}: more pairs per pulse, less visibility",
        )


def _rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    rows: list[tuple[str, str]] = []
    rows += parts_rows(m)
    said = m["prediction"] or {}
    rows += visibility_rows(m)
    if said:
        z, x = (figure(said[f"visibility_{a}"], scale=100, unit=" %") for a in "zx")
        rows.append(("  predicted", f"Z {z}, X and Y {x}"))
    if m["no_pump"] is not None:
        z, x = (figure(m["no_pump"][a], scale=100, unit=" %") for a in "ZX")
        rows.append(("  at no pump", f"Z {z}, X {x}"))
    if m["chsh"] is not None:
        s = m["chsh"]["all"]
        above = "" if s is None else f", {(s['value'] - 2) / s['sigma']:.1f} sigma above 2"
        rows.append(("[bold green]CHSH S[/]", f"[bold]{figure(s, digits=3)}[/]{above}"))
        rows.append(("  predicted", figure(said.get("chsh"), digits=3)))
    if m["fidelity"]["all"] is not None:
        rows.append(
            ("[bold green]fidelity[/]", f"[bold]{figure(m['fidelity']['all'], digits=3)}[/]")
        )
        rows.append(("  predicted", figure(said.get("fidelity"), digits=3)))
    for pump in m["pumps"]:
        empty = figure(pump["empty_share"]["any"], scale=100, unit=" %")
        z, x = (figure(pump["visibility"][a], scale=100, unit=" %") for a in "ZX")
        text = (
            f"V Z {z}, X {x}; four-folds {pump['fourfold_rate_hz']:.0f} /s; false heralds {empty}"
        )
        rows.append((f"pump {pump['current_a'] * 1e3:g} mA", text))
    if m["aborted"]:
        rows.append(("[bold red]no result[/]", f"[bold]{escape(m['reason'])}[/]"))
    return rows


EXPERIMENT = Experiment(SwapFile, _check, _run, _rows)
