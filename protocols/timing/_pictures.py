"""What the results' ``plot`` methods draw. Loads matplotlib, so it is imported by them alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .coincidences import Coincidences
from .statistics import car, car_at_least

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .correlation import Correlation, LogCorrelation
    from .multichannel import FoldCounts
    from .peaks import PeakFit
    from .rates import CountsOverTime

__all__ = ["draw_correlation", "draw_counts", "draw_folds", "draw_log", "draw_pairs", "si_time"]

#: Okabe and Ito's colours, told apart by the colour-blind, the pale ones last.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999")
_LIVE_ENOUGH = 0.1  # share of a bin below which its rate says nothing
_MOST_CELLS = 12  # rows and columns up to which cells carry numbers
_MOST_NAMES = 16


def draw_counts(found: CountsOverTime, ax: Axes | None, *, log: bool | None) -> Axes:
    ax = _axes(ax)
    live = found.live_ps / found.bin_ps
    bins = len(live)
    if bins > 1 and live[-1] < 0.5:  # a stump at the end has a rate of noise
        bins -= 1
    rates = np.where(live[:, None] >= _LIVE_ENOUGH, found.rates_hz, np.nan)[:bins]
    length_ps = found.bin_ps * max(bins, 1)
    far = found.begin_ps > length_ps  # as of a tagger that counts from its own power-on
    begin_ps = 0 if far else found.begin_ps
    edges = (begin_ps + found.bin_ps * np.arange(bins + 1)) * 1e-12
    time, time_unit = _scale(float(edges[-1]), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
    live_s = float(found.live_ps.sum()) * 1e-12
    means = found.counts.sum(axis=0) / live_s if live_s else np.zeros(len(found.channels))
    top = float(np.nanmax(rates)) if np.isfinite(rates).any() else 0.0
    rate, rate_unit = _scale(top, ("Mcps", 1e6), ("kcps", 1e3), ("cps", 1.0))
    seen = means[means > 0]
    if log is None:
        log = bool(seen.size and seen.max() > 30 * seen.min())
    for k, channel in enumerate(found.channels):
        values = rates[:, k] / rate
        color = COLORS[k % len(COLORS)]
        style = ("-", "--", ":")[k // len(COLORS) % 3]
        label = f"{channel}: {_rate(float(means[k]))}"
        ax.stairs(
            values,
            edges / time,
            baseline=None,
            color=color,
            linestyle=style,
            linewidth=1.2,
            label=label if k < _MOST_NAMES else None,
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = values / np.sqrt(np.maximum(found.counts[:bins, k], 1))
        ax.fill_between(
            edges / time,
            _stretched(values - errors),
            _stretched(values + errors),
            step="post",
            color=color,
            alpha=0.15,
            linewidth=0,
        )
    missing = live[:bins] < 1 - 1e-6
    missing[len(live) - 1 :] = False  # the last is as long as it got, no loss
    first = True
    for begin, end in _runs(missing):
        ax.axvspan(
            edges[begin] / time,
            edges[end] / time,
            color="0.5",
            alpha=0.25,
            linewidth=0,
            label="losses" if first else None,
        )
        first = False
    if bins:
        ax.set_xlim(edges[0] / time, edges[-1] / time)
    if log and seen.size:
        ax.set_yscale("log")
        low = float(seen.min()) / rate
        ax.set_ylim(0.3 * low, 3 * max(top / rate, low))
    else:
        ax.set_ylim(0, 1.1 * top / rate or 1.0)
    after = f" after {found.begin_ps * 1e-12:,.10g} s" if far else ""
    ax.set_xlabel(f"time{after} ({time_unit})")
    ax.set_ylabel(f"rate ({rate_unit}), {si_time(found.bin_ps)} bins")
    ax.legend(
        frameon=False,
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        ncols=1 if len(found.channels) <= 9 else 2,
        handlelength=1.4,
        title="channel",
        title_fontsize=8,
        alignment="left",
    )
    return ax


def draw_correlation(
    found: Correlation, ax: Axes | None, *, fit: PeakFit | None, log: bool
) -> Axes:
    ax = _axes(ax)
    half = found.bin_ps / 2
    edges = np.append(found.delays_ps - half, found.delays_ps[-1] + half)
    scale, unit = _delay_scale(edges)
    ax.stairs(found.counts, edges / scale, fill=True, color="C0", alpha=0.25)
    ax.stairs(found.counts, edges / scale, color="C0", linewidth=1.0)
    level = float(found.expected[found.counts.size // 2])  # at zero delay
    tops = [float(found.counts.max()), float(found.expected.max())]
    if level:
        ax.plot(
            found.delays_ps / scale,
            found.expected,
            color="0.35",
            linestyle="--",
            linewidth=1,
            label=f"independent clicks: {_number(level)}",
        )
    if fit is not None:
        curve = fit(found)
        ax.plot(found.delays_ps / scale, curve, color="C1", linewidth=1.4, label=_told(fit, found))
        tops.append(float(curve.max()))
    ax.set_xlim(edges[0] / scale, edges[-1] / scale)
    top = max(*tops, 1.0)
    if log:
        ax.set_yscale("log")
        lows = found.counts[found.counts > 0]
        low = min(float(lows.min()) if lows.size else 1.0, level or 1.0)
        ax.set_ylim(0.5 * low, top * (top / low) ** 0.5)
    else:
        ax.set_ylim(0, 1.15 * top)
    ax.set_xlabel(f"delay ({unit})")
    ax.set_ylabel(f"pairs per {si_time(found.bin_ps)}")
    if not found.counts.any():
        ax.text(0.5, 0.5, "no pair", transform=ax.transAxes, ha="center", color="0.4")
    even = level and float(np.ptp(found.expected)) < 0.01 * level
    if even and level * found.counts.size > 1:  # of fewer g2 says nothing

        def to_g2(pairs: Any) -> Any:
            return np.asarray(pairs) / level

        def to_pairs(g2: Any) -> Any:
            return np.asarray(g2) * level

        right = ax.secondary_yaxis("right", functions=(to_g2, to_pairs))
        right.set_ylabel(r"$g^{(2)}(\tau)$")
    if level or fit is not None:
        ax.legend(
            frameon=False, fontsize=7.5, loc="upper left", handlelength=1.2, borderaxespad=0.2
        )
    return ax


def draw_log(found: LogCorrelation, ax: Axes | None) -> Axes:
    ax = _axes(ax)
    scale, unit = _delay_scale(found.edges_ps.astype(np.float64))
    known = np.isfinite(found.g2)
    x, y = found.delays_ps[known] / scale, found.g2[known]
    ax.errorbar(x, y, yerr=found.g2_sigma[known], fmt=".", markersize=3, linewidth=0.8, color="C0")
    ax.axhline(1.0, color="0.35", linestyle="--", linewidth=1, label="independent clicks")
    ax.set_xscale("log")
    ax.set_xlim(found.edges_ps[0] / scale, found.edges_ps[-1] / scale)
    ax.set_ylim(0, 1.15 * max(float(y.max()) if y.size else 1.0, 1.0))
    ax.set_xlabel(f"delay ({unit})")
    ax.set_ylabel(r"$g^{(2)}(\tau)$")
    ax.legend(frameon=False, fontsize=8)
    return ax


def draw_pairs(found: Coincidences, ax: Axes | None, *, log: bool) -> Axes:
    every = np.ones(found.shifted.shape, np.bool_)
    ax = _matrix(found, ax, np.ones(found.counts.shape, np.bool_), every, log=log)
    ax.set_xlabel("channel of B")
    ax.set_ylabel("channel of A")
    return ax


def draw_folds(found: FoldCounts, ax: Axes | None, *, log: bool) -> Axes:
    """Each pair once, above the diagonal, and the clicks on it."""
    both = Coincidences(
        found.channels,
        found.channels,
        found.window_ps,
        found.pairs,
        found.shifted_pairs,
        found.live_s,
    )
    moved = np.array([[s.get(c, 0) for c in found.channels] for s in found.shifts], np.int64)
    moved = moved.reshape(len(found.shifts), len(found.channels))
    apart = moved[:, :, None] != moved[:, None, :]
    ax = _matrix(both, ax, np.triu(np.ones(both.counts.shape, np.bool_), 1), apart, log=log)
    size = len(found.channels)
    if size <= _MOST_CELLS:
        for i, count in enumerate(found.singles.tolist()):
            text = f"{_short(count)}\nclicks" if size > 5 else f"{count:,}\nclicks"
            ax.text(i, i, text, ha="center", va="center", fontsize=_cell_font(size), color="0.45")
    ax.set_xlabel("channel")
    ax.set_ylabel("channel")
    return ax


def _matrix(
    found: Coincidences,
    ax: Axes | None,
    shown: npt.NDArray[np.bool_],
    apart: npt.NDArray[np.bool_],
    *,
    log: bool,
) -> Axes:
    """Draw the cells ``shown``; ``apart`` says which wrong delays are wrong for a cell."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    ax = _axes(ax)
    counts = np.ma.masked_array(found.counts, ~shown)
    top = float(counts.max()) if shown.any() else 1.0
    if apart.any():  # what is much less than chance looks pale
        chance = (found.shifted * apart).sum(axis=0) / np.maximum(apart.sum(axis=0), 1)
        top = max(top, float(chance[shown].max(initial=0.0)))
    top = max(top, 1.0)
    low = max(float(found.counts[shown & (found.counts > 0)].min(initial=top)), 1.0)
    norm = LogNorm(0.5 * low, max(top, low * 1.01)) if log else Normalize(0.0, top)
    image = ax.imshow(counts, cmap="Blues", norm=norm, aspect="equal")
    rows, columns = found.counts.shape
    size = max(rows, columns)
    if size <= _MOST_CELLS:
        for i, j in np.ndindex(rows, columns):
            if shown[i, j]:
                ax.text(
                    j,
                    i,
                    _cell(found, i, j, apart[:, i, j], short=size > 5),
                    ha="center",
                    va="center",
                    fontsize=_cell_font(size),
                    color="white" if norm(found.counts[i, j]) > 0.6 else "black",
                )
    ax.set_xticks(range(columns), [str(c) for c in found.channels_b])
    ax.set_yticks(range(rows), [str(c) for c in found.channels_a])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    if not log:
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
    bar.set_label(
        f"coincidences in {si_time(found.window_ps)}"
        + ("; below each its CAR" if 5 < size <= _MOST_CELLS and apart.any() else ""),
        fontsize=9,
    )
    return ax


def _cell_font(size: int) -> float:
    return {1: 10.0, 2: 9.5, 3: 9.0, 4: 8.5, 5: 7.5}.get(size, 6.0 if size <= 8 else 4.5)


def _cell(found: Coincidences, i: int, j: int, apart: npt.NDArray[np.bool_], *, short: bool) -> str:
    count = int(found.counts[i, j])
    text = _short(count) if short else f"{count:,}"
    if not apart.any():
        return text
    one = Coincidences(
        found.channels_a[i : i + 1],
        found.channels_b[j : j + 1],
        found.window_ps,
        found.counts[i : i + 1, j : j + 1],
        found.shifted[apart, i : i + 1, j : j + 1],
        found.live_s,
    )
    ratio, name = car(one), "" if short else "CAR "
    if math.isnan(ratio.value):
        least = car_at_least(one)
        return f"{text}\n{name}> {_digits(least)}" if least >= 1 else text
    if ratio.sigma > 0.5 * max(ratio.value, 1.0):  # hardly known
        chance = float(one.accidentals[0, 0])
        return f"{text}\nby chance {_number(chance)}" if chance >= 10 and not short else text
    return f"{text}\n{name}{_digits(ratio.value)}"


def si_time(ps: float) -> str:
    """A time as people write it: 100 ps, 2.5 ns."""
    for unit, scale in (("s", 1e12), ("ms", 1e9), ("µs", 1e6), ("ns", 1e3)):
        if abs(ps) >= scale * (1 - 1e-9):
            return f"{ps / scale:.6g} {unit}"
    return f"{ps:.6g} ps"


def _told(fit: PeakFit, found: Correlation) -> str:
    scale, unit = (1e3, "ns") if fit.fwhm_ps.value >= 1e4 else (1.0, "ps")
    lines = [
        f"{name} {each * (1 / scale)} {unit}"
        for name, each in (
            ("centre", fit.centre_ps),
            ("FWHM", fit.fwhm_ps),
            ("σ", fit.sigma_ps),
            ("τ", fit.tau_ps),
        )
        if name != "τ" or fit.shape == "emg"
    ]
    lines += [f"{fit.pairs} pairs", f"background {fit.background * float(found.bin_ps)}"]
    return "\n".join(lines).replace("-", "−")


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _scale(top: float, *units: tuple[str, float]) -> tuple[float, str]:
    for unit, scale in units:
        if top >= scale * (1 - 1e-9):
            return scale, unit
    return units[-1][1], units[-1][0]


def _delay_scale(edges: npt.NDArray[np.float64]) -> tuple[float, str]:
    reach = float(np.abs(edges).max()) / 2  # 1.5 ns read better as 1500 ps
    return _scale(reach, ("s", 1e12), ("ms", 1e9), ("µs", 1e6), ("ns", 1e3), ("ps", 1.0))


def _stretched(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.append(values, values[-1:])


def _runs(flags: npt.NDArray[np.bool_]) -> Sequence[tuple[int, int]]:
    """Begin and end (exclusive) of each run of True."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(steps[::2], steps[1::2], strict=True)]


def _rate(hz: float) -> str:
    scale, unit = _scale(hz, ("Mcps", 1e6), ("kcps", 1e3), ("cps", 1.0))
    return f"{hz / scale:.3g} {unit}" if hz < 1e9 else f"{hz:.3g} cps"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(count: int) -> str:
    if count < 10_000:
        return f"{count:,}"
    scale, unit = (1e6, "M") if count >= 999_500 else (1e3, "k")
    return f"{count / scale:#.3g}".removesuffix(".") + unit


def _digits(ratio: float) -> str:
    if ratio >= 10_000:
        return _short(round(ratio))
    text = f"{ratio:,.0f}" if abs(ratio) >= 10 else f"{ratio:.{1 if abs(ratio) >= 1 else 2}f}"
    return text.replace("-", "−")
