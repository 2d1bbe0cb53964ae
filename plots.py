"""The pictures a run leaves behind; matplotlib without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .protocols.calibration import BiasResult, PhaseMatchingResult, PolarizationResult

__all__ = [
    "plot_bias",
    "plot_coincidence_matrix",
    "plot_delay_histogram",
    "plot_phase_matching",
    "plot_polarization",
    "plot_qber",
]

_DPI = 150


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot_delay_histogram(
    path: Path,
    delays_ps: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    *,
    window_ps: float,
    seconds: float,
    title: str,
) -> None:
    """Coincidences against the delay between the parties, with the window that is used.

    Args:
        path: PNG to write.
        delays_ps: Centre of each bin, ps, after the delays found were taken away.
        counts: Coincidences per bin.
        window_ps: Coincidence window, full width.
        seconds: Length of the data.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    width = float(delays_ps[1] - delays_ps[0])
    # the unit in which the axis reads best: a TDC1 spans ns, an ID900 ps
    scale, unit = (1e-3, "ns") if abs(float(delays_ps[0])) > 3000 else (1.0, "ps")
    axes.step(delays_ps * scale, counts, where="mid", color="C0", linewidth=1.2)
    axes.fill_between(delays_ps * scale, counts, step="mid", color="C0", alpha=0.25)
    half = window_ps / 2 * scale
    axes.axvspan(-half, half, color="C1", alpha=0.15, linewidth=0)
    axes.annotate(
        f"window\n{window_ps * scale:g} {unit}",
        (half, 0.96),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        color="C1",
        fontsize=9,
    )
    width_text = _fwhm(delays_ps, counts)
    if width_text is not None:
        axes.annotate(
            f"FWHM {width_text * scale:.3g} {unit}",
            (0.02, 0.96),
            xycoords="axes fraction",
            va="top",
            fontsize=9,
        )
    axes.set_xlim(delays_ps[0] * scale, delays_ps[-1] * scale)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"delay Bob − Alice ({unit})")
    axes.set_ylabel(f"coincidences per {width * scale:g} {unit} in {seconds:g} s")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def _fwhm(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float | None:
    """Full width at half maximum above the median, by linear interpolation; None without a peak."""
    level = float(np.median(y))
    top = int(np.argmax(y))
    half = (float(y[top]) + level) / 2
    if y[top] < level + 5 * np.sqrt(level + 1):
        return None
    left, right = top, top
    while left > 0 and y[left] > half:
        left -= 1
    while right < y.size - 1 and y[right] > half:
        right += 1
    if y[left] > half or y[right] > half:
        return None
    x_left = np.interp(half, [y[left], y[left + 1]], [x[left], x[left + 1]])
    x_right = np.interp(half, [y[right], y[right - 1]], [x[right], x[right - 1]])
    return float(x_right - x_left)


def plot_coincidence_matrix(
    path: Path,
    counts: npt.NDArray[Any],
    *,
    labels: Sequence[str],
    names: tuple[str, str],
    title: str,
) -> None:
    """Coincidences for each pair of detectors.

    Args:
        path: PNG to write.
        counts: Shape (n, n); row: first party's detector, column: second party's.
        labels: Name of each detector.
        names: The parties.
        title: What it is of.
    """
    figure, axes = _figure(4.8, 4.4)
    image = axes.imshow(counts, cmap="Blues", vmin=0)
    bright = counts > counts.max() * 0.6
    for (i, j), count in np.ndenumerate(counts):
        color = "white" if bright[i, j] else "black"
        axes.text(j, i, f"{count:,}", ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(f"{names[1]}'s detector")
    axes.set_ylabel(f"{names[0]}'s detector")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.85, label="coincidences")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_qber(
    path: Path,
    times_s: npt.NDArray[Any],
    errors: Mapping[str, npt.NDArray[Any]],
    bits: Mapping[str, npt.NDArray[Any]],
    *,
    tolerance: float,
    title: str,
) -> None:
    """Error rate over time, one line per basis, with the tolerance of the key.

    Args:
        path: PNG to write.
        times_s: Middle of each interval, s.
        errors: Errors among the revealed bits of each interval, by basis.
        bits: Revealed bits of each interval, by basis.
        tolerance: Error rate above which there is no key.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    top = tolerance
    for color, basis in zip(("C0", "C3"), errors, strict=False):
        n = bits[basis]
        seen = n > 0
        rate = errors[basis][seen] / n[seen]
        # Agresti-Coull: an interval without errors is not known without error
        padded = (errors[basis][seen] + 2) / (n[seen] + 4)
        sigma = np.sqrt(padded * (1 - padded) / (n[seen] + 4))
        axes.errorbar(
            times_s[seen],
            100 * rate,
            yerr=100 * sigma,
            fmt="o-",
            markersize=3.5,
            linewidth=1,
            capsize=2,
            color=color,
            label=f"{basis} basis",
        )
        if rate.size:
            top = max(top, float((rate + sigma).max()))
    axes.axhline(100 * tolerance, color="0.4", linestyle="--", linewidth=1)
    axes.annotate(
        f"tolerance {100 * tolerance:g} %",
        (1, 100 * tolerance),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="0.3",
    )
    axes.set_ylim(0, 100 * top * 1.2)
    axes.set_xlabel("time in the exchange (s)")
    axes.set_ylabel("QBER of revealed bits (%)")
    axes.legend(frameon=False, loc="upper left")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_phase_matching(path: Path, found: PhaseMatchingResult) -> None:
    """Clicks against the crystal's temperature, with the fit and its optimum.

    Args:
        path: PNG to write.
        found: An ok result.
    """
    from .protocols.calibration.phase_matching import sinc2

    figure, axes = _figure(6.4, 4.0)
    x, scale = found.set_points_c, 1e-3
    axes.errorbar(
        x, found.rates_hz * scale, yerr=found.sigmas_hz * scale, fmt="o", markersize=4, color="C0"
    )
    fine = np.linspace(x[0], x[-1], 400)
    axes.plot(fine, sinc2(fine, *found.model) * scale, color="C0", linewidth=1, label="sinc² fit")
    axes.axvline(
        found.optimum_c,
        color="C1",
        linewidth=1,
        label=f"{found.optimum_c:.3f} ± {found.sigma_c:.3f} °C\nFWHM {found.fwhm_k:.2f} K",
    )
    axes.set_ylim(0, 1.2 * float(found.rates_hz.max()) * scale)
    axes.set_xlabel("set point of the crystal's temperature (°C)")
    axes.set_ylabel("clicks of all parties (kcps)")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_title("phase matching", loc="left", fontsize=10)
    figure.savefig(path)


def plot_bias(path: Path, found: BiasResult, *, title: str) -> None:
    """Net and dark counts of each detector against its bias, with the operating points.

    Args:
        path: PNG to write.
        found: An ok result.
        title: What it is of.
    """
    from .protocols.calibration.bias import plateau

    figure, axes = _figure(6.4, 4.4)
    for i, scan in enumerate(found.scans):
        color, micro = f"C{i}", scan.currents_a * 1e6
        net = np.maximum(scan.light_hz - scan.dark_counts_hz, 0.1)
        axes.plot(micro, net, "o", markersize=3.5, color=color, label=f"detector {i + 1}")
        fine = np.linspace(scan.currents_a[0], scan.currents_a[-1], 300)
        axes.plot(fine * 1e6, np.maximum(plateau(fine, *scan.model), 0.1), color=color, linewidth=1)
        axes.plot(micro, np.maximum(scan.dark_counts_hz, 0.1), "x", markersize=4, color=color)
        axes.axvline(scan.bias_a * 1e6, color=color, linewidth=1, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.set_xlabel("bias current (µA); dashed: operating points")
    axes.set_ylabel("counts (Hz): ● light less dark, × dark")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def plot_polarization(path: Path, found: PolarizationResult, *, title: str) -> None:
    """QBER at the minimum along each paddle, in the order in which they took turns.

    Args:
        path: PNG to write.
        found: An ok result.
        title: What it is of.
    """
    figure, axes = _figure(6.4, 4.0)
    value, error = 100 * found.minima.T
    turns = np.arange(1, value.size + 1)
    axes.errorbar(
        turns,
        np.maximum(value, 0.01),  # a fit may dip below zero by its noise
        yerr=error,
        fmt="o-",
        markersize=3.5,
        linewidth=0.8,
        capsize=2,
        color="C0",
        label="minimum along one paddle (mean of Z and X)",
    )
    axes.axhline(
        100 * found.qber,
        color="C1",
        linestyle="--",
        linewidth=1,
        label=f"residual {100 * found.qber:.2f} ± {100 * found.qber_sigma:.2f} %"
        f" (Z {100 * found.qber_z:.2f} %, X {100 * found.qber_x:.2f} %)",
    )
    axes.set_yscale("log")
    axes.set_ylim(max(0.1, 40 * found.qber), 5 * max(float(value.max()), 100 * found.qber))
    axes.set_xlabel("turns of a paddle")
    axes.set_ylabel("QBER (%)")
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)
