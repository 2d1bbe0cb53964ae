"""What a person watches while a run goes on: a live view on a terminal, log lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Progress", "View"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: What is going on, in words.
        elapsed_s: Bench time of the stage so far.
        duration_s: Bench time it will take; 0 where that is not known.
        singles_hz: Rate of each detector by party and label, e.g. ``{"alice": {"H": 2.5e5}}``.
        figures: What is known so far, as a person reads it, e.g. ``{"QBER Z": "1.02 %"}``.
    """

    stage: str
    elapsed_s: float = 0.0
    duration_s: float = 0.0
    singles_hz: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)


class View:
    """Shows progress on a console; a context manager.

    On a terminal one picture that is redrawn; elsewhere one line per new stage and per second of
    bench time, or per percent of a long stage; per minute of one without end.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._last = Progress("opening the bench")
        self._shown: tuple[str, int] | None = None
        self._live = None
        if console.is_terminal:
            from rich.live import Live

            self._live = Live(self._picture(), console=console, refresh_per_second=8)

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show where the run stands."""
        self._last = progress
        if self._live is not None:
            self._live.update(self._picture())
            return
        endless = not progress.duration_s and progress.elapsed_s >= 60.0
        step_s = 60.0 if endless else max(1.0, progress.duration_s / 100)
        mark = (progress.stage, int(progress.elapsed_s / step_s))
        if mark != self._shown:
            self._shown = mark
            line = _line(progress)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        p = self._last
        top = Table.grid(padding=(0, 2))
        stage = Text(p.stage, "bold")
        if p.duration_s:
            bar = ProgressBar(total=p.duration_s, completed=p.elapsed_s, width=32)
            top.add_row(stage, bar, f"{p.elapsed_s:.1f} / {p.duration_s:.1f} s")
        else:
            top.add_row(stage)
        parts: list[RenderableType] = [top]
        if p.singles_hz:
            parts += ["", _singles(p.singles_hz)]
        if p.figures:
            figures = Table.grid(padding=(0, 2))
            for name, value in p.figures.items():
                figures.add_row(Text(name), Text(value, "bold"))
            parts += ["", figures]
        return Panel(Group(*parts), title=self._title, title_align="left", width=72)


def _singles(singles_hz: Mapping[str, Mapping[str, float]]) -> RenderableType:
    from rich.table import Table

    labels = list(dict.fromkeys(label for rates in singles_hz.values() for label in rates))
    scale, unit = _scale(singles_hz)
    table = Table(title=f"singles, {unit}", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for label in labels:
        # eight columns, of ends and a station, still fit the panel
        table.add_column(label, justify="right", min_width=8 if len(labels) < 7 else 5)
    for party, rates in singles_hz.items():
        shown = (f"{rates[label] * scale:,.1f}" if label in rates else "" for label in labels)
        table.add_row(party, *shown)
    return table


def _scale(singles_hz: Mapping[str, Mapping[str, float]]) -> tuple[float, str]:
    brightest = max((r for rates in singles_hz.values() for r in rates.values()), default=0.0)
    return (1e-3, "kcps") if brightest >= 1e3 else (1.0, "cps")


def _line(p: Progress) -> str:
    parts = [p.stage]
    if p.duration_s:
        parts[0] += f" {p.elapsed_s:.0f}/{p.duration_s:.0f} s"
    if p.singles_hz:
        scale, unit = _scale(p.singles_hz)
        rates = ((party, sum(rates.values()) * scale) for party, rates in p.singles_hz.items())
        parts.append(" ".join(f"{party} {rate:,.0f} {unit}" for party, rate in rates))
    parts += [f"{name} {value}" for name, value in p.figures.items()]
    return "  ".join(parts)
