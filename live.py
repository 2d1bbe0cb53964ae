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
        elapsed_s: Bench time of the exchange so far.
        duration_s: Bench time it will take.
        singles_hz: Rate of each detector by party and label, e.g. ``{"alice": {"H": 2.5e5}}``.
        coincidences: Coincidences so far.
        sifted_bits: Sifted bits so far.
        qber: Error rate so far by basis; None where nothing is known yet.
        key_bits: Secret key that the bits so far would give by the finite-key bound.
    """

    stage: str
    elapsed_s: float = 0.0
    duration_s: float = 0.0
    singles_hz: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    coincidences: int = 0
    sifted_bits: int = 0
    qber: Mapping[str, float | None] = field(default_factory=dict)
    key_bits: int = 0


class View:
    """Shows progress on a console; a context manager.

    On a terminal one picture that is redrawn; elsewhere one line per new stage and per second of
    bench time.
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
        mark = (progress.stage, int(progress.elapsed_s))
        if mark != self._shown:
            self._shown = mark
            self._console.print(_line(progress), highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        p = self._last
        top = Table.grid(padding=(0, 2))
        stage = f"[bold]{p.stage}[/]"
        if p.duration_s:
            bar = ProgressBar(total=p.duration_s, completed=p.elapsed_s, width=32)
            top.add_row(stage, bar, f"{p.elapsed_s:.1f} / {p.duration_s:.1f} s")
        else:
            top.add_row(stage)
        parts: list[RenderableType] = [top]
        if p.singles_hz:
            labels = list(next(iter(p.singles_hz.values())))
            singles = Table(title="singles, kcps", title_justify="left", box=None, pad_edge=False)
            singles.add_column("")
            for label in labels:
                singles.add_column(label, justify="right", min_width=8)
            for party, rates in p.singles_hz.items():
                singles.add_row(party, *(f"{rates[label] * 1e-3:,.1f}" for label in labels))
            key = Table.grid(padding=(0, 2))
            for name, value in (
                ("coincidences", f"{p.coincidences:,}"),
                ("sifted bits", f"{p.sifted_bits:,}"),
                *((f"QBER {basis}", _percent(rate)) for basis, rate in p.qber.items()),
                ("secret key", f"{p.key_bits:,} bits"),
            ):
                key.add_row(name, f"[bold]{value}[/]")
            parts += ["", singles, "", key]
        return Panel(Group(*parts), title=self._title, title_align="left", width=72)


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def _line(p: Progress) -> str:
    if not p.singles_hz:
        return p.stage
    singles = " ".join(
        f"{party} {sum(rates.values()) * 1e-3:.0f} kcps" for party, rates in p.singles_hz.items()
    )
    qber = " ".join(f"{basis} {_percent(rate)}" for basis, rate in p.qber.items())
    return (
        f"{p.stage} {p.elapsed_s:.0f}/{p.duration_s:.0f} s  {singles}"
        f"  coincidences {p.coincidences}  sifted {p.sifted_bits}  QBER {qber}"
        f"  key {p.key_bits} bits"
    )
